"""Plans of a small experiment: on devices of this CPU in a chip's place, and for real slices."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcl import augment, encoders, methods, planning, training
from jaxcl.cli import main
from jaxcl.planning import CHIPS, Described, Slice
from jaxcl.planning import plans as plans_module
from jaxcl.planning.plans import _needed
from jaxcl.training import UserError


class Here(Slice):
    """As many devices of this CPU as the slice has chips."""

    def devices(self):
        return tuple(jax.devices()[: self.chips])


@pytest.fixture
def experiment():
    return training.Experiment(
        data=Described(5000, (16, 16, 3)),
        views=augment.crops(16),
        method=methods.MoCo(
            encoders.SmallCNN((8, 16), batch_norm_groups=1),
            encoders.moco_v2_projector(16),
            queue_size=512,
        ),
        train=training.Train(batch_size=64, epochs=1),
        evaluate=training.Evaluate(test=Described(10, (16, 16, 3))),
    )


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    versions = {"jax": "1", "libtpu": "2"}
    monkeypatch.setattr(plans_module, "version", versions.__getitem__)


def here(shape="2x2x1", **changes):
    return Here(dataclasses.replace(CHIPS["v5p"], **changes), shape)


def test_a_plan_says_what_the_step_takes(experiment):
    found = planning.plan(experiment, here())
    setup = training.set_up(
        dataclasses.replace(experiment, evaluate=None, run=training.Run(mapping="shard_map")),
        jax.devices()[:4],
    )
    state = setup.state_shapes
    assert found.state == sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert found.memory > found.state
    assert found.example_bytes == 16 * 16 * 3 + 4
    # The encoder on queries and keys, 16 of each on a device, and the gradients of the queries'.
    # Most of the step's products; the rest are of views, projector and loss.
    images = jax.ShapeDtypeStruct((16, 16, 16, 3), np.float32)
    variables = jax.eval_shape(
        lambda: experiment.method.encoder.init(
            jax.random.key(0), np.zeros(images.shape, np.float32), train=False
        )
    )
    forward = planning.count_flops(
        jax.make_jaxpr(lambda v, x: experiment.method.encoder.apply(v, x, train=False))(
            variables, images
        )
    )
    assert 3 * forward < found.flops < 8 * forward
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    gradients = [each for each in found.collectives if each.kind == "all-reduce"]
    assert max(each.bytes for each in gradients) >= 4 * parameters
    assert found.fits


@pytest.mark.slow
def test_what_is_spread_counts_once_over_all_chips(experiment):
    whole = planning.plan(experiment, here())
    spread = dataclasses.replace(experiment.run, spread_state=True)
    found = planning.plan(dataclasses.replace(experiment, run=spread), here())
    params = training.set_up(experiment, jax.devices()[:1]).state_shapes.params
    each = sum(4 * x.size for x in jax.tree.leaves(params))
    # Of parameters, velocity and target network a chip has a quarter, each array rounded up.
    assert whole.state - found.state == pytest.approx(3 * each * 3 / 4, rel=0.02)
    assert "reduce-scatter" in planning.report([found])


def test_any_step_can_be_planned():
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])

    def step(state, batch):
        return state + jax.lax.psum((batch @ state).sum(), "d"), 0.0

    mapped = jax.shard_map(
        step, mesh=mesh, in_specs=(P(), P("d")), out_specs=(P(), P()), check_vma=False
    )
    state = jax.ShapeDtypeStruct((64, 8), np.float32, sharding=NamedSharding(mesh, P()))
    batch = jax.ShapeDtypeStruct((16, 64), np.float32, sharding=NamedSharding(mesh, P("d")))
    found = planning.plan_step(jax.jit(mapped), state, batch, here(), batch_size=16)
    assert (found.flops, found.state) == (2 * 4 * 64 * 8, 4 * 64 * 8)
    assert [each.kind for each in found.collectives] == ["all-reduce"]


@pytest.mark.slow
def test_a_program_that_cannot_be_read_back_is_planned_without_its_exchanges(
    experiment, monkeypatch
):
    """As jax 0.10 fails on instructions of newer libtpus, after minutes of compiling."""

    def fail(self):
        raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure")

    monkeypatch.setattr(jax.stages.Compiled, "as_text", fail)
    found = planning.plan(experiment, here())
    assert found.memory > found.state
    assert found.collectives is None
    assert found.step_seconds == (
        max(found.compute_seconds, found.memory_seconds),
        found.compute_seconds + found.memory_seconds,
    )
    (row,) = planning.to_json([found])
    assert (row["collectives"], row["sending_seconds"]) == (None, None)
    assert "what is sent is not known" in planning.report([found])


@pytest.mark.slow
def test_times_are_quotients_of_the_figures(experiment):
    found = planning.plan(experiment, here(flops=1e6, memory_bandwidth=2e6, sending=1e3))
    assert found.compute_seconds == pytest.approx(found.flops / 1e6)
    assert found.memory_seconds == pytest.approx(found.bytes_accessed / 2e6)
    sent = sum(each.sent(4) for each in found.collectives)
    assert found.sending_seconds == pytest.approx(sent / 1e3)
    fastest, slowest = found.step_seconds
    assert slowest == found.compute_seconds + found.memory_seconds + found.sending_seconds
    assert found.examples_per_second == (64 / slowest, 64 / fastest)
    examples, size = found.host_input
    assert (examples, size) == (64 / fastest, 64 / fastest * 772)


@pytest.mark.slow
def test_what_was_compiled_is_kept(experiment, monkeypatch, tmp_path):
    said = []
    first = planning.plan(experiment, here(), say=said.append)
    assert said == ["compiling for v5p:2x2x1, batch 64"]
    assert planning.plan(experiment, here(), say=said.append) == first
    assert len(said) == 1
    hotter = dataclasses.replace(
        experiment, method=dataclasses.replace(experiment.method, temperature=0.3)
    )
    planning.plan(hotter, here(), say=said.append)
    planning.plan(experiment, here(), batch_size=128, say=said.append)
    assert len(said) == 3
    (tmp_path / "cache" / "jaxcl" / "plans").rename(tmp_path / "elsewhere")
    for kept in (tmp_path / "elsewhere").iterdir():
        kept.write_text("{")
    (tmp_path / "elsewhere").rename(tmp_path / "cache" / "jaxcl" / "plans")
    assert planning.plan(experiment, here()).memory == first.memory  # a damaged one is made anew


@pytest.fixture
def modelled(monkeypatch):
    """Has `largest_batch` meet plans of known memory, and an error above some size."""

    def start(memory, refused=lambda size: False):
        tried = []

        def model(experiment, where, *, batch_size, say):
            if refused(batch_size):
                raise UserError("the queue is smaller")
            tried.append(batch_size)
            return planning.Plan(
                slice=where,
                batch_size=batch_size,
                memory=memory(batch_size),
                state=1e6,
                flops=1.0,
                compiler_flops=1.0,
                bytes_accessed=1.0,
                collectives=(),
                example_bytes=1.0,
                compile_seconds=0.0,
            )

        monkeypatch.setattr(plans_module, "plan", model)
        return tried

    return start


@pytest.mark.parametrize("most", [160, 1600, 5000])
def test_a_compiler_that_makes_room_is_followed_to_its_end(experiment, modelled, most):
    """As TPU's: it computes again what does not fit, up to a batch that takes twice as much."""
    limit = 1e6 + 300 * most / 2

    def memory(size):
        return 0.99 * limit if most / 2 < size <= most else 1e6 + 300 * size

    modelled(memory)
    found = planning.largest_batch(experiment, here(memory=limit), compiles=20)
    fitting = max(each.batch_size for each in found if each.fits)
    failing = min(each.batch_size for each in found if not each.fits)
    assert fitting <= most < failing
    assert failing - fitting <= max(4, fitting // 32)
    assert len(found) <= 12


@pytest.mark.parametrize("bent", [False, True], ids=["a line", "bent"])
@pytest.mark.parametrize("most", [4, 160, 5000, 100_000])
def test_the_largest_batch_lies_between_one_that_fits_and_one_that_does_not(
    experiment, modelled, most, bent
):
    def memory(size):
        return 1e6 + 300 * size + (size**1.3 if bent else 0)

    tried = modelled(memory)
    found = planning.largest_batch(experiment, here(memory=memory(most) + 1))
    fitting = max(each.batch_size for each in found if each.fits)
    failing = min(each.batch_size for each in found if not each.fits)
    assert fitting <= most < failing
    assert failing - fitting <= max(4, fitting // 32)
    assert len(found) == len(tried) <= 6


def test_a_method_that_takes_no_larger_batch_ends_the_search(experiment, modelled):
    modelled(lambda size: 1e6 + size, refused=lambda size: size > 512)
    said = []
    found = planning.largest_batch(experiment, here(), say=said.append)
    assert 496 <= found[-1].batch_size <= 512
    assert said == ["no larger one: the queue is smaller"]


def test_sizes_that_a_method_refuses_end_no_search_and_begin_none_anew(experiment, modelled):
    """Too large to begin with, and then refused below."""
    tried = modelled(lambda size: 1e6 + 300 * size, refused=lambda size: 512 < size < 4096)
    first = dataclasses.replace(experiment, train=training.Train(batch_size=4096))
    found = planning.largest_batch(first, here(memory=1e6 + 300 * 2000))
    assert len(tried) == len({*tried}) <= 6
    assert found[-1].batch_size == 4096
    assert not found[-1].fits
    assert 480 <= max(each.batch_size for each in found if each.fits) <= 512


def test_only_sizes_that_groups_divide_are_tried(experiment, modelled):
    grouped = dataclasses.replace(
        experiment,
        method=dataclasses.replace(
            experiment.method, encoder=encoders.SmallCNN((8,), batch_norm_groups=6)
        ),
    )
    tried = modelled(lambda size: 1e6 + 300 * size)
    planning.largest_batch(grouped, here(memory=1e6 + 300 * 999))
    assert all(size % 24 == 0 for size in tried)


@pytest.mark.slow
def test_a_state_that_alone_is_too_large_ends_the_search(experiment):
    found = planning.largest_batch(experiment, here(memory=1000.0))
    assert [each.batch_size for each in found] == [4, 64]
    assert not any(each.fits for each in found)


def test_what_does_not_fit_together_on_so_many_chips(experiment):
    with pytest.raises(UserError, match="batch_size 66 does not divide over 4 devices"):
        planning.plan(experiment, here(), batch_size=66)
    with pytest.raises(UserError, match="queue_size 512 is smaller than batch_size 1024"):
        planning.plan(experiment, here(), batch_size=1024)


def test_the_words_of_a_compiler_that_refuses():
    old = "Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded hbm ..."
    new = "the total memory required for HLO temporaries (128.00G) exceeds available HBM (15.75G)."
    assert _needed(old) == 20.5 * 2**30
    assert _needed(new) == 128 * 2**30
    assert _needed("something else") is None


@pytest.mark.slow
def test_the_report_names_what_does_not_fit_and_what_helps(experiment, tmp_path):
    fits = planning.plan(experiment, here())
    large = dataclasses.replace(
        fits, memory=2e11, bytes_accessed=float("nan"), collectives=(), batch_size=512
    )
    text = planning.report([fits, large])
    assert "batch 512 does not fit: 200 GB of 103 GB a chip, 97.2 GB too many" in text
    assert "--run.micro-batch" in text
    assert "all-reduce" in text
    assert "…" not in text  # no cell is cut short
    rows = json.loads(json.dumps(planning.to_json([fits, large]), allow_nan=False))
    assert [row["fits"] for row in rows] == [True, False]
    assert rows[1]["bytes_accessed"] is None
    with (tmp_path / "plan.png").open("wb") as file:
        planning.draw([fits, large], file)
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--topology", "v5e:3x3"], "no slice v5e:3x3; the nearest is v5e:"),
        (
            ["--topology", "v5e:2x2", "--batch", "many"],
            "--batch is many, expected whole numbers from 1",
        ),
        (
            ["--topology", "v5e:2x2", "--plot", "x.gif"],
            "expected a .png file in a folder that exists",
        ),
        (["--topology", "v5e:2x2", "--batch", "0"], "--batch is 0, expected whole numbers from 1"),
        (
            ["--topology", "v5e:2x2", "--examples", "9", "--image", "8x8x1", "--classes", "0"],
            "--classes is 0, expected a number from 1",
        ),
        (["--topology", "v5e:\u00b2x2"], "there is no slice v5e:\u00b2x2"),
        (["--topology", "v5e:2x2", "--plot", "nowhere/x.png"], "in a folder that exists"),
        (["--topology", "v5e:2x2", "--image", "256"], "expected both, a number and a shape"),
        (["--topology", "v5e:2x2", "--method.temprature", "1"], "temprature"),
    ],
)
def test_bad_input_is_said_in_a_line(capsys, options, message):
    assert main(["plan", "configs/quickstart.py", *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_missing_data_can_be_described(capsys):
    pytest.importorskip("libtpu")
    assert main(["plan", "configs/moco_v2_imagenet.py", "--topology", "v5e:2x2"]) == 2
    assert "--examples 1281167 --image 256x256x3" in capsys.readouterr().err


@pytest.mark.slow
def test_of_a_real_slice(capsys, tmp_path):
    pytest.importorskip("libtpu")
    command = ["plan", "configs/quickstart.py", "--topology", "v5e:2x2", "--json"]
    assert main([*command, "--plot", str(tmp_path / "plan.png")]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["chips"], row["batch_size"], row["fits"]) == (4, 128, True)
    assert {"all-gather", "all-reduce"} <= {*row["collectives"]}
    assert (tmp_path / "plan.png").stat().st_size > 10_000
