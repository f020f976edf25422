"""The order of records, and batches of any step, process and number of workers."""

import collections
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import grain
import numpy as np
import pytest
from PIL import Image

from jaxcl.data import (
    ArraySource,
    Batches,
    Digits,
    Folder,
    batch_at,
    records_apart_at,
    records_at,
    sequential_batches,
    steps_per_epoch,
)


@pytest.fixture(scope="module")
def source():
    images = np.random.default_rng(0).integers(0, 256, (23, 3, 4, 1), np.uint8)
    return ArraySource(images, np.arange(23) % 5)


def assert_equal_batches(batch, expected):
    assert batch.keys() == expected.keys()
    for name in expected:
        assert batch[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(batch[name], expected[name])


def epoch_of(records, epoch, batch_size, seed):
    steps = steps_per_epoch(records, batch_size)
    return np.concatenate(
        [
            records_at(records, epoch * steps + step, batch_size=batch_size, seed=seed)
            for step in range(steps)
        ]
    )


@pytest.mark.parametrize(("records", "batch_size"), [(1, 1), (2, 1), (24, 4), (23, 4), (1797, 256)])
def test_an_epoch_sees_no_record_twice(records, batch_size):
    for epoch in range(3):
        seen = epoch_of(records, epoch, batch_size, seed=0)
        assert len(seen) == records // batch_size * batch_size
        assert len(np.unique(seen)) == len(seen)
        assert seen.dtype == np.int32
        assert seen.min() >= 0
        assert seen.max() < records


def test_order_and_remainder_differ_by_epoch_and_seed():
    orders = [epoch_of(103, epoch, 10, seed) for seed in range(3) for epoch in range(4)]
    assert len({tuple(order) for order in orders}) == 12
    dropped = {tuple(set(range(103)) - set(order)) for order in orders}
    assert len(dropped) > 6
    again = epoch_of(103, 1, 10, seed=2)
    np.testing.assert_array_equal(again, orders[2 * 4 + 1])


def test_order_is_the_same_on_every_machine():
    # Recorded: a checkpoint made yesterday must find the same order tomorrow.
    assert records_at(1000, 12345, batch_size=8, seed=7).tolist() == [
        399,
        877,
        783,
        834,
        804,
        458,
        277,
        667,
    ]


@pytest.mark.slow
@pytest.mark.parametrize("records", [2, 23, 1000, 70_000])
def test_order_is_that_of_grains_shuffle(records):
    hashed = int(np.random.SeedSequence(3).generate_state(1)[0])
    shuffled = grain.MapDataset.range(records).shuffle(seed=hashed)
    for epoch in range(3):
        order = records_at(records, epoch, batch_size=records, seed=3)
        for row in range(0, records, 1 + records // 100):
            assert order[row] == shuffled[epoch * records + row]


def test_every_record_is_as_likely_at_every_place():
    # Fifths of 1000 records against fifths of an epoch, 20 epochs: 25 counts of 800 +- 23.
    counts = np.zeros((5, 5), int)
    for epoch in range(20):
        np.add.at(counts, (epoch_of(1000, epoch, 100, seed=0) // 200, np.arange(1000) // 200), 1)
    assert np.abs(counts - 800).max() < 4 * 23


def test_batch_holds_the_records_of_its_index(source):
    batch = batch_at(source, 17, batch_size=6, seed=1)
    np.testing.assert_array_equal(batch["index"], records_at(23, 17, batch_size=6, seed=1))
    np.testing.assert_array_equal(batch["image"], source.images[batch["index"]])
    np.testing.assert_array_equal(batch["label"], batch["index"] % 5)
    assert batch["label"].dtype == np.int32
    assert batch["replaced"].dtype == bool
    assert not batch["replaced"].any()


def test_no_label_without_labels(source):
    assert set(batch_at(ArraySource(source.images), 0, batch_size=4, seed=0)) == {
        "image",
        "index",
        "replaced",
    }


@pytest.mark.parametrize("start", [0, 1, 5, 6, 11, 1_000_000_007])
def test_resuming_goes_on_where_it_stopped(source, start):
    with contextlib.closing(iter(Batches(source, 4, seed=5, start=start))) as batches:
        for step in range(start, start + 7):
            assert_equal_batches(next(batches), batch_at(source, step, batch_size=4, seed=5))


def test_number_of_steps(source):
    assert Batches(source, 4).steps_per_epoch == 5
    assert len(list(Batches(source, 4, start=3, steps=9))) == 9
    assert list(Batches(source, 4, start=3, steps=0)) == []


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_together_are_one(source, processes):
    parts = [
        list(Batches(source, 8, seed=2, process_index=i, process_count=processes, steps=6))
        for i in range(processes)
    ]
    for step in range(6):
        whole = batch_at(source, step, batch_size=8, seed=2)
        for name in whole:
            joined = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(joined, whole[name])


@pytest.fixture
def folder(tmp_path):
    for number in range(9):
        Image.new("L", (4, 4), number).save(tmp_path / f"{number}.png")
    (tmp_path / "4.png").write_bytes(b"")
    return Folder(str(tmp_path)).open()


@pytest.mark.slow
def test_workers_change_nothing_and_end_when_closed(folder):
    replaced = 0
    with contextlib.closing(iter(Batches(folder, 3, seed=5, start=3, workers=2))) as batches:
        for step in range(3, 12):  # three epochs
            batch = next(batches)
            assert_equal_batches(batch, batch_at(folder, step, batch_size=3, seed=5))
            replaced += batch["replaced"].sum()
            if step == 5:  # Ctrl-C reaches every process; the main one decides when to stop
                for child in multiprocessing.active_children():
                    os.kill(child.pid, signal.SIGINT)
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()
    assert replaced == 3


@pytest.mark.parametrize("threads", [2, 3, 7, 50])
def test_threads_change_nothing(folder, threads):
    for step in range(3):
        alone = batch_at(folder, step, batch_size=7, seed=5)
        together = batch_at(folder, step, batch_size=7, seed=5, threads=threads)
        assert_equal_batches(together, alone)


def test_the_records_of_a_batch_are_read_at_the_same_time():
    meeting = threading.Barrier(2)

    class Meeting(ArraySource):
        def __getitem__(self, record):
            meeting.wait(10)  # breaks unless another record is being read
            return super().__getitem__(record)

    source = Meeting(np.zeros((4, 2, 2), np.uint8))
    assert len(batch_at(source, 0, batch_size=4, seed=0, threads=2)["index"]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_errors_reach_the_consumer(folder, tmp_path, workers):
    Image.new("L", (5, 4)).save(tmp_path / "6.png")
    with (
        contextlib.closing(iter(Batches(folder, 3, workers=workers))) as batches,
        pytest.raises(ValueError, match=r"6\.png is 5x4 pixels"),
    ):
        collections.deque(batches, maxlen=0)


def test_sequential_batches_hold_every_record_once(source):
    batches = list(sequential_batches(source, 5))
    assert [len(batch["index"]) for batch in batches] == [5, 5, 5, 5, 3]
    np.testing.assert_array_equal(
        np.concatenate([batch["index"] for batch in batches]), np.arange(23)
    )
    np.testing.assert_array_equal(
        np.concatenate([batch["image"] for batch in batches]), source.images
    )
    (whole,) = sequential_batches(source, 100)
    assert len(whole["index"]) == 23


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 24}, "batch_size 24 is larger than the data set of 23 records"),
        ({"batch_size": 0}, "batch_size 0 is not positive"),
        ({"batch_size": 10, "process_count": 4}, "does not divide over 4 processes: use 8 or 12"),
        ({"batch_size": 3, "process_count": 4}, "does not divide over 4 processes: use 4$"),
        ({"batch_size": 4, "process_index": 2, "process_count": 2}, "process_index 2 is not"),
        ({"batch_size": 4, "seed": -1}, "seed -1 is negative"),
        ({"batch_size": 4, "start": -1}, "start -1 is negative"),
        ({"batch_size": 4, "steps": -1}, "steps -1 is negative"),
        ({"batch_size": 4, "workers": -1}, "workers -1 is negative"),
    ],
)
def test_refuses(source, options, message):
    with pytest.raises(ValueError, match=message):
        Batches(source, **options)


def test_refuses_in_functions(source):
    with pytest.raises(ValueError, match="step -1"):
        batch_at(source, -1, batch_size=4, seed=0)
    with pytest.raises(ValueError, match="seed -1"):
        batch_at(source, 0, batch_size=4, seed=-1)
    with pytest.raises(ValueError, match="batch_size 0"):
        sequential_batches(source, 0)


def test_closing_early_ends_the_threads(source):
    before = set(threading.enumerate())
    batches = iter(Batches(source, 4))
    next(batches)
    batches.close()
    deadline = time.monotonic() + 10
    while left := set(threading.enumerate()) - before:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


ORPHANS = """
import multiprocessing, os, signal
import numpy as np
from jaxcl.data import ArraySource, Batches

if __name__ == "__main__":
    batches = iter(Batches(ArraySource(np.zeros((8, 4, 4), np.uint8)), 4, workers=1))
    next(batches)
    print(len(multiprocessing.active_children()), "worker", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_workers_end_with_a_killed_main_process(tmp_path):
    (tmp_path / "script.py").write_text(ORPHANS)
    run = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        stdout=subprocess.PIPE,  # which workers hold too: running on, they would time this out
        stderr=subprocess.DEVNULL,
        timeout=60,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert run.returncode == -signal.SIGKILL
    assert run.stdout.strip() == b"1 worker"


def test_importing_loads_no_optional_library():
    code = (
        "import sys, jaxcl.data; "
        "heavy = {'tensorflow', 'tensorflow_datasets', 'grain', 'sklearn', 'jax', 'flax'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_digits_through_the_pipeline():
    digits = Digits().open()
    batch = next(iter(Batches(digits, 128, seed=0)))
    assert batch["image"].shape == (128, 8, 8, 1)
    np.testing.assert_array_equal(batch["label"], digits.labels[batch["index"]])


def epoch_apart(groups, epoch, batch_size=8, **options):
    steps = len(groups) // batch_size
    return [
        records_apart_at(groups, step, batch_size=batch_size, seed=3, **options)
        for step in range(epoch * steps, (epoch + 1) * steps)
    ]


@pytest.mark.parametrize("most", [2, 12, 90])
def test_no_batch_has_two_records_of_a_group(most):
    """Groups of very different sizes: 90 of the 200 records in one, or none larger than a pair."""
    groups = np.minimum(np.arange(200) // 2, 99)
    groups[: max(most, 2)] = 0
    orders = []
    for epoch in range(3):
        batches = epoch_apart(groups, epoch)
        assert len(batches) == 25
        for batch in batches:
            assert len(batch) == 8
            assert len({*groups[batch].tolist()}) == 8
        order = np.concatenate(batches)
        orders.append(order.tolist())
        # Each once, but for some that wait when the epoch ends.
        assert len({*order.tolist()}) >= (100 if most == 90 else 195)
    assert orders[0] != orders[1] != orders[2]


def test_records_of_groups_of_one_come_in_the_usual_order():
    for step in (0, 5, 30):
        plain = records_at(100, step, batch_size=8, seed=3)
        apart = records_apart_at(np.arange(100), step, batch_size=8, seed=3)
        np.testing.assert_array_equal(apart, plain)


def test_processes_share_a_batch_that_is_apart():
    groups = np.arange(120) // 3
    whole = epoch_apart(groups, 1)
    parts = [epoch_apart(groups, 1, process_index=part, process_count=2) for part in range(2)]
    for step, batch in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([part[step] for part in parts]), batch)


@pytest.mark.parametrize("seed", range(20))
def test_few_groups_fill_every_batch(seed):
    """Some orders leave the last records, of groups of their own, out of the epoch."""
    groups = np.array([0, 0, 0, 0, 1, 2, 3, 4, 5, 6])
    for step in range(4):
        batch = records_apart_at(groups, step, batch_size=7, seed=seed)
        assert sorted(groups[batch]) == list(range(7))


def test_a_batch_of_more_records_than_groups_is_refused():
    with pytest.raises(ValueError, match=r"the data have 4 .* Use at most 4"):
        records_apart_at(np.arange(40) % 4, 0, batch_size=8, seed=0)
