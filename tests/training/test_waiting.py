"""What a run says of the time that it waited for input."""

import dataclasses
import threading
import types

import jax
import numpy as np
import pytest
from small_runs import make_experiment

from jaxcl import training
from jaxcl.data import ArraySource, SourceConfig, records_at
from jaxcl.training import loop

RELEASED = threading.Event()
FIRST = set(records_at(24, 0, batch_size=8, seed=0).tolist())


class Gated(ArraySource):
    """All records but those of the first batch are read when released."""

    def __getitem__(self, record):
        assert record in FIRST or RELEASED.wait(30)
        return super().__getitem__(record)


@dataclasses.dataclass(frozen=True)
class GatedConfig(SourceConfig):
    def open(self):
        return Gated(np.zeros((24, 8, 8), np.uint8))


@pytest.mark.slow
def test_waiting_starts_when_the_step_is_done(tmp_path, quiet, monkeypatch):
    block = jax.block_until_ready

    def block_and_release(arrays):
        block(arrays)
        RELEASED.set()  # by nothing else: a run that just waits for its input fails
        return arrays

    monkeypatch.setattr(jax, "block_until_ready", block_and_release)
    experiment = make_experiment(
        data=GatedConfig(), train=training.Train(batch_size=8, epochs=1, seed=0)
    )
    assert training.train(experiment, tmp_path, console=quiet).step == 3


def test_share_is_of_the_time_since_the_row_before(monkeypatch):
    times = iter([100.0, 104.0, 106.0, 116.0])
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(times))
    experiment = types.SimpleNamespace(train=types.SimpleNamespace(batch_size=8))
    setup = types.SimpleNamespace(
        experiment=experiment, steps_per_epoch=4, learning_rate=lambda step: 0.1
    )
    clock = loop.Clock(setup, start=0)
    shares = [
        clock.row(step, {}, 0, waited, done=step)["waiting_share"]
        for step, waited in ((5, 1.0), (10, 1.5), (15, 1.5))
    ]
    assert shares == pytest.approx([1 / 4, 0.5 / 2, 0.0])
