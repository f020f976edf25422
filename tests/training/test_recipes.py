"""The recipes for ImageNet, which cannot run here: but for the data, all of each fits together."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxcl import methods
from jaxcl.cli import load_config
from jaxcl.training import state_shapes
from jaxcl.training.layout import WholeState
from jaxcl.training.step import make_step

CONFIGS = Path(__file__).parents[2] / "configs"
IMAGENET = [*(CONFIGS / "imagenet").glob("*.py"), CONFIGS / "moco_v2_imagenet.py"]
EXAMPLES, BATCH = 1_281_167, 16


def test_every_method_has_a_recipe_for_imagenet_and_one_for_small_pictures():
    every = {
        kind
        for kind in map(methods.__dict__.get, methods.__all__)
        if isinstance(kind, type) and issubclass(kind, methods.Method)
    }
    small = [*(CONFIGS / "digits").glob("*.py"), CONFIGS / "quickstart.py"]
    for recipes in (IMAGENET, small):
        there = {type(load_config(path).method) for path in recipes}
        # The method of introductions is one of small pictures: configs/fashion_memory.py.
        of_others = {methods.SimCSE, methods.MultiModal, methods.COLA, methods.CPC}
        of_others |= {methods.Wav2Vec2, methods.GE2E, methods.TS2Vec, methods.TimeContrastive}
        of_others.add(methods.CURL)
        known = {methods.PlainMemory, methods.Method, methods.EncoderMethod}
        assert every - there - of_others <= known


@pytest.mark.slow
@pytest.mark.parametrize("path", IMAGENET, ids=lambda path: path.stem)
def test_a_step_fits_together(path):
    """Its shapes at the published sizes; the batch is smaller, and nothing is compiled."""
    experiment = load_config(path)
    size, steps = experiment.train.batch_size, 100
    experiment.method.check(batch_size=size, examples=EXAMPLES)
    epoch = EXAMPLES // size
    rate = experiment.schedule.build(
        experiment.optimizer.peak(size),
        total_steps=round(experiment.train.epochs * epoch),
        steps_per_epoch=epoch,
    )
    optimizer = experiment.optimizer.build(
        rate, total_steps=steps, undecayed=experiment.method.undecayed
    )
    step = make_step(
        experiment.method, experiment.views, optimizer, total_steps=steps, layout=WholeState(None)
    )
    picture = jax.ShapeDtypeStruct((256, 256, 3), jnp.uint8)
    state = state_shapes(experiment, {"image": picture})
    batch = {
        "image": jax.ShapeDtypeStruct((BATCH, *picture.shape), picture.dtype),
        "index": jax.ShapeDtypeStruct((BATCH,), jnp.int32),
        "label": jax.ShapeDtypeStruct((BATCH,), jnp.int32),
    }
    after, metrics = jax.eval_shape(step, state, batch)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert metrics["loss"].shape == ()
