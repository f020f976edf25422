"""Several processes as one run, started here as a cluster would start them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxcl.training import loop, processes, restore_run
from jaxcl.training.errors import UserError
from jaxcl.training.processes import Launch, find_launch, join

CONFIG = """
from jaxcl import augment, data, encoders, methods, training

def config():
    return training.Experiment(
        data=data.Digits(),
        views=augment.crops(8),
        method=methods.MoCo(
            encoder=encoders.SmallCNN((4, 8), batch_norm_groups=1),
            projector=encoders.moco_v2_projector(16),
            queue_size=200,
        ),
        optimizer=training.SGD(learning_rate=0.1),
        train=training.Train(batch_size=64, epochs=20 / 23),
        run=training.Run(log_every=2, checkpoint_every=10),
    )
"""


@pytest.mark.parametrize(
    ("environment", "launch"),
    [
        ({}, None),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "first:1234",
                "JAX_NUM_PROCESSES": "3",
                "JAX_PROCESS_ID": "2",
            },
            Launch("first:1234", 3, 2),
        ),
        (
            {
                "SLURM_JOB_ID": "4099",
                "SLURM_STEP_NODELIST": "node[007-010,12],other",
                "SLURM_STEP_NUM_TASKS": "5",
                "SLURM_NTASKS": "9",
                "SLURM_PROCID": "4",
            },
            Launch("node007:61443", 5, 4),
        ),
        (
            {"SLURM_STEP_NODELIST": "a,b", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"},
            Launch("a:61440", 2, 0),
        ),
        ({"SLURM_STEP_NODELIST": "a", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        (
            {
                "OMPI_COMM_WORLD_SIZE": "4",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
                "OMPI_COMM_WORLD_RANK": "1",
            },
            Launch("127.0.0.1:8476", 4, 1),
        ),
        (
            {
                "OMPI_COMM_WORLD_SIZE": "4",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
                "OMPI_COMM_WORLD_RANK": "1",
                "JAX_COORDINATOR_ADDRESS": "first:99",
            },
            Launch("first:99", 4, 1),
        ),
        (
            {"TPU_WORKER_HOSTNAMES": "t-0,t-1", "TPU_WORKER_ID": "1"},
            Launch("t-0:8476", 2, 1),
        ),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
    ],
)
def test_a_cluster_says_who_this_is(environment, launch):
    assert find_launch(environment) == launch


def test_flags_go_before_variables():
    found = find_launch(
        {"TPU_WORKER_HOSTNAMES": "t-0,t-1"}, coordinator="here:1", processes=2, process=1
    )
    assert found == Launch("here:1", 2, 1)
    assert find_launch({}, coordinator="here:1", processes=1, process=0) is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"coordinator": "a:1"}, "--coordinator came without --processes and --process"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, "process 2 of 2: .* from 0 to 1"),
        ({"coordinator": "a", "processes": 2, "process": 0}, "'a': expected HOST:PORT"),
        ({"coordinator": "a:b", "processes": 2, "process": 0}, "'a:b': expected HOST:PORT"),
    ],
)
def test_flags_that_do_not_fit(flags, message):
    with pytest.raises(UserError, match=message):
        find_launch({}, **flags)


def test_open_mpi_over_several_hosts_wants_the_first():
    environment = {
        "OMPI_COMM_WORLD_SIZE": "4",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": "0",
    }
    with pytest.raises(UserError, match="came without JAX_COORDINATOR_ADDRESS"):
        find_launch(environment)


@pytest.mark.slow
def test_a_coordinator_that_does_not_answer_is_named():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UserError, match=f"127.0.0.1:{port} does not answer within 1 s"):
        join(Launch(f"127.0.0.1:{port}", 2, 1), print, seconds=1)


@pytest.fixture
def others(monkeypatch):
    """Makes this the first of two processes, the other of which says what the test wants."""

    def say(text):
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(processes, "_exchange", lambda own: [own, text])

    return say


def test_what_differs_is_named(others):
    processes.agree("jaxcl", "a")  # alone
    others("b")
    with pytest.raises(UserError, match=r"process 1 has another jaxcl than process 0: .* a, .* b"):
        processes.agree("jaxcl", "a")
    processes.agree("jaxcl", "b")


def test_a_failure_of_one_is_that_of_all(others):
    others("no such file")
    with pytest.raises(UserError, match="process 1: no such file"), processes.all_or_none():
        pass
    with pytest.raises(OSError, match="mine"), processes.all_or_none():  # and each says its own
        raise OSError("mine")
    others("")
    with processes.all_or_none():
        pass


def test_numbers_are_summed_over_processes(others):
    assert processes.totals(1, 20) == (1, 20)
    others("0 3")
    assert processes.totals(1, 20) == (1, 23)


class Fleet:
    """Processes of one run, each with its own virtual CPU devices."""

    def __init__(self, config, out, *, processes, devices, port, options=None):
        self.running = []
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # of LLVM: most of the time is compilation
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        }
        for index in range(processes):
            place = ["--coordinator", f"127.0.0.1:{port}"]
            place += ["--processes", str(processes), "--process", str(index)]
            command = [sys.executable, "-m", "jaxcl.cli", "train", config, "--out", out]
            own = (options or {}).get(index, [])
            self.running.append(
                subprocess.Popen(
                    [*map(str, command), *(place if processes > 1 else []), *own],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )

    def wait(self):
        """Exit codes and what each said."""
        said = [process.communicate(timeout=200)[0] for process in self.running]
        return [process.returncode for process in self.running], said


@pytest.fixture
def fleet(tmp_path):
    """Starts processes on the config above, and ends what is left of them."""
    started = []

    def start(name, *, processes, devices, options=None, config=CONFIG):
        path = tmp_path / "small.py"
        path.write_text(config)
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        new = Fleet(
            path,
            tmp_path / name,
            processes=processes,
            devices=devices,
            port=port,
            options=options,
        )
        started.append(new)
        return new

    yield start
    for each in started:
        for process in each.running:
            process.kill()


def rows(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_processes_train_as_one(fleet, tmp_path):
    """Two of two devices, four of one and one of four; another length is another run."""
    for name, count, devices, mapping in (
        ("two", 2, 2, "shard_map"),
        ("spread", 2, 2, "shard_map"),
        ("four", 4, 1, "pmap"),
        ("one", 1, 4, "pmap"),
    ):
        options = {index: ["--run.mapping", mapping] for index in range(count)}
        if (
            name == "spread"
        ):  # parameters, optimizer and target network, half of them on another process
            options = {index: [*own, "--run.spread-state"] for index, own in options.items()}
        codes, said = fleet(name, processes=count, devices=devices, options=options).wait()
        assert codes == [0] * count, said
        assert "trained 20 steps" in said[0]
        assert all("trained" not in text for text in said[1:])  # the first speaks
    one = rows(tmp_path / "one")
    for name in ("two", "spread", "four"):
        last = tmp_path / name / "checkpoints" / "00000020"
        assert (last / "arrays-1").is_dir()  # all write
        wanted, found = (restore_run(tmp_path / each).state.params for each in ("one", name))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted
        )
        for found, wanted in zip(rows(tmp_path / name), one, strict=True):
            assert found["step"] == wanted["step"]
            for metric in ("loss", "accuracy", "gradient_norm", "effective_rank"):
                assert found[metric] == pytest.approx(wanted[metric], rel=1e-5, abs=1e-5)
    longer = {0: ["--train.epochs", str(30 / 23)]}
    codes, said = fleet("four", processes=1, devices=2, options=longer).wait()
    assert codes == [2], said
    assert "train.epochs" in said[0]


@pytest.mark.slow
def test_a_stop_of_one_stops_all_and_another_number_goes_on(fleet, tmp_path):
    longer = {index: ["--train.epochs", "20"] for index in range(2)}
    first = fleet("run", processes=2, devices=1, options=longer)
    wait_for(tmp_path / "run" / "checkpoints" / "00000010")
    first.running[1].send_signal(signal.SIGTERM)
    codes, said = first.wait()
    assert codes == [128 + signal.SIGTERM] * 2, said
    stopped = restore_run(tmp_path / "run")
    assert f"stopped after step {stopped.step} of 460" in said[0]
    again = fleet("run", processes=1, devices=4, options=longer)
    wait_for(tmp_path / "run" / "checkpoints" / f"{(stopped.step // 10 + 2) * 10:08d}")
    again.running[0].send_signal(signal.SIGTERM)
    codes, said = again.wait()
    assert f"resuming after step {stopped.step}" in said[0]
    steps = [row["step"] for row in rows(tmp_path / "run")]
    assert steps == sorted(set(steps))


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_others_which_name_it(fleet, tmp_path, killed):
    options = ["--train.epochs", "20", "--train.batch-size", "60"]
    run = fleet("run", processes=3, devices=1, options=dict.fromkeys(range(3), options))
    wait_for(tmp_path / "run" / "checkpoints" / "00000010")
    run.running[killed].kill()
    began = time.monotonic()
    codes, said = run.wait()
    assert time.monotonic() - began < 30
    living = [index for index in range(3) if index != killed]
    assert codes[killed] == -signal.SIGKILL
    assert [codes[index] for index in living] == [75, 75], said
    for index in living:
        assert f"lost process {killed} of the run" in said[index]
    assert restore_run(tmp_path / "run").step >= 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {1: ["--method.temperature", "0.3"]},
            "another experiment than process 0: method.temperature: 0.3 there, 0.2 here",
        ),
        ({1: ["--train.batch-size", "62"]}, "another experiment than process 0: train.batch_size"),
        ({1: ["--method.temprature", "0.3"]}, "process 1: .*temprature"),
        ({index: ["--train.batch-size", "63"] for index in range(2)}, "does not divide over 2"),
        ({index: ["--run.devices", "1"] for index in range(2)}, "have 2 devices, all of which"),
    ],
)
def test_what_does_not_agree_is_said_by_all(fleet, options, message):
    codes, said = fleet("run", processes=2, devices=1, options=options).wait()
    assert codes == [2, 2], said
    for text in said:
        lines = [line for line in text.splitlines() if line.startswith("jaxcl: error")]
        assert len(lines) == 1, text
        assert re.search(message, lines[0]), text


FAILING = CONFIG.replace("data.Digits()", "Failing()").replace(
    "def config",
    """import dataclasses, jax

@dataclasses.dataclass(frozen=True)
class Failing(data.Digits):
    def open(self):
        source = super().open()
        if jax.process_index() == 1:
            source.__class__ = type("Source", (source.__class__,), {"__getitem__": read})
            source.left = [300]
        return source

def read(self, record):
    self.left[0] -= 1
    if self.left[0] < 0:
        raise OSError("the disk went away")
    return super(type(self), self).__getitem__(record)

def config""",
)


@pytest.mark.slow
def test_what_one_cannot_read_ends_all(fleet, tmp_path):
    run = fleet("run", processes=2, devices=1, config=FAILING)
    codes, said = run.wait()
    assert 0 not in codes, said
    assert all("the disk went away" in text for text in said), said


def test_a_signal_while_the_others_are_asked_waits_for_the_next_time(others, monkeypatch):
    """Else this process alone would stop."""
    stop, replaced = SimpleNamespace(signal=signal.SIGTERM), SimpleNamespace(count=2)
    others("0 3")
    watch = loop._Watch(None, None, None, stop, replaced, None)
    assert watch.agree(due=True) == (signal.SIGTERM, 5)
    assert watch.agree(due=False) == (None, 2)
    monkeypatch.setattr(loop, "totals", lambda asked, count: (0, count + 3))  # asked before it came
    assert watch.agree(due=True) == (None, 5)


def wait_for(path, seconds=150):
    end = time.monotonic() + seconds
    while not (path / "manifest.json").exists():
        assert time.monotonic() < end, f"{path} was not written"
        time.sleep(0.2)
