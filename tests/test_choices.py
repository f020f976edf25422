"""Words that no option knows are refused wherever they come from."""

import jax
import jax.numpy as jnp
import pytest

from jaxcl import encoders, methods, training

IMAGE = jnp.ones((2, 8, 8, 3))
MLP = encoders.MLP((4,))


def encode(encoder):
    return jax.eval_shape(encoder.init, jax.random.key(0), IMAGE)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (
            lambda: methods.SimCLR(MLP, contrast="ntxent"),
            "SimCLR: contrast is 'ntxent', expected 'nt_xent' or 'dcl' or",
        ),
        (
            lambda: methods.NNCLR(MLP, contrast="dcl"),
            "NNCLR: contrast is 'dcl', expected 'info_nce' or 'nt_xent'",
        ),
        (lambda: methods.PlainMemory(MLP, choose="hard"), "expected 'random' or 'hardest'"),
        (
            lambda: methods.InstanceDiscrimination(MLP, bank_size=9, contrast="NCE"),
            "expected 'softmax' or 'nce'",
        ),
        (lambda: methods.MoCo(MLP, shuffle="none"), "MoCo: shuffle is 'none', expected True or"),
        (lambda: training.Run(mapping="pmpa"), "Run: mapping is 'pmpa'"),
        (lambda: training.Evaluate(weights="unifrom"), "Evaluate: weights is 'unifrom'"),
        (lambda: training.Schedule(decay="cosin"), "Schedule: decay is 'cosin'"),
        (lambda: training.LARS(scaling="log"), "LARS: scaling is 'log'"),
        (lambda: encode(encoders.MLP((4,), activation="rellu")), "MLP: activation is 'rellu'"),
        (lambda: encode(encoders.ResNet(18, stem="cifr")), "ResNet: stem is 'cifr'"),
        (lambda: encode(encoders.ViT("tiny", patch=4, pool="men")), "ViT: pool is 'men'"),
        (lambda: encode(encoders.ConvNeXt("tine")), "ConvNeXt: size is 'tine'"),
        (lambda: encode(encoders.WideResNet(10, 1, remat="block")), "WideResNet: remat is 'block'"),
        (lambda: encode(encoders.SmallCNN((4,), dtype="int32")), "SmallCNN: dtype is 'int32'"),
        (lambda: encode(encoders.Prototypes(4, dtype="float3")), "Prototypes: dtype is 'float3'"),
    ],
)
def test_a_wrong_word_is_named(use, message):
    with pytest.raises(ValueError, match=message):
        use()


def test_types_may_be_given_as_such():
    assert encode(encoders.MLP((4,), dtype=jnp.bfloat16))
