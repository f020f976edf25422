"""What methods say of their own parts, before a run and while it is traced."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jaxcl.encoders import MLP
from jaxcl.methods import BYOL, Batch, Cosine, MoCo, MoCoV2Plus, MoCoV3, SimCLR
from jaxcl.methods.target import move_target

KEY = jax.random.key(0)
ENCODER = MLP((4,))


@pytest.mark.parametrize("method", [BYOL, MoCoV3])
def test_a_predictor_that_the_paper_has_is_missed(method):
    [notice] = method(ENCODER, ENCODER).check(batch_size=8, examples=64)
    assert notice == (
        f"{method.__name__} has no predictor, and its paper does: set method.predictor"
    )
    assert not method(ENCODER, ENCODER, ENCODER).check(batch_size=8, examples=64)


def test_moco_v2_plus_has_none_and_misses_none():
    assert not MoCoV2Plus(ENCODER, queue_size=32).check(batch_size=8, examples=64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saying(SimCLR):
    says: str = "own"

    def objective(self, *arguments, **options):
        loss, state, metrics = super().objective(*arguments, **options)
        return loss, state, metrics | {self.says: jnp.ones(())}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["loss", "gradient_norm", "learning_rate", "step"])
def test_a_metric_does_not_hide_what_the_log_has(name):
    batch = Batch(tuple(jax.random.normal(KEY, (2, 8, 3))))
    params, state = Saying(ENCODER).init(KEY, batch)
    Saying(ENCODER).loss(params, state, batch, key=KEY)
    with pytest.raises(ValueError, match=f"a metric '{name}', which the log has by itself"):
        Saying(ENCODER, says=name).loss(params, state, batch, key=KEY)


@pytest.mark.parametrize("momentum", [1.5, -0.1, Cosine(0.99, 1.5), Cosine(-0.1, 1.0)])
def test_momentum_is_a_share_all_along(momentum):
    with pytest.raises(ValueError, match="MoCo: momentum must be 0 to 1"):
        MoCo(ENCODER, momentum=momentum)


def test_a_target_keeps_its_types():
    target = {"kernel": jnp.ones(3, jnp.bfloat16)}
    moved = move_target(target, {"kernel": jnp.zeros(3, jnp.bfloat16)}, jnp.float32(0.5))
    assert moved["kernel"].dtype == jnp.bfloat16
    assert moved["kernel"].tolist() == [0.5] * 3
