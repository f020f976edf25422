"""Traces of a few steps."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jaxcl.training import loop, train
from jaxcl.training.errors import UserError
from jaxcl.training.profiling import Profile


@pytest.mark.parametrize("text", ["", "5", "5:", "0:3", "7:3", "a:b", "-1:2", "1:2:3"])
def test_what_names_no_steps(text):
    with pytest.raises(UserError, match="expected FIRST:LAST, two steps such as 10:15"):
        Profile.parse(text)


@pytest.mark.slow
def test_the_steps_named_are_traced(tmp_path):
    """In a process of its own: the profiler of jax 0.10 can crash one that has done much before."""
    config = Path(__file__).parents[2] / "configs" / "quickstart.py"
    options = ["--out", tmp_path, "--train.epochs", "0.4", "--profile", "2:3"]
    found = subprocess.run(
        [sys.executable, "-m", "jaxcl.cli", "train", config, *options],
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"profile in {tmp_path / 'profile'}" in found.stderr
    (trace,) = (tmp_path / "profile").rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert sum("PjitFunction" in event.get("name", "") for event in events) >= 2


@pytest.mark.slow
def test_steps_that_a_run_does_not_have_are_refused_before_it_begins(tmp_path, experiment, quiet):
    with pytest.raises(UserError, match="this run has the steps 1 to "):
        train(experiment, tmp_path, console=quiet, profile=Profile(10, 10_000))
    assert not (tmp_path / "metrics.jsonl").exists() or not (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_a_run_that_fails_within_the_trace_still_ends_it(tmp_path, experiment, quiet, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))

    def fail(*arguments, **options):
        raise OSError("no space")

    monkeypatch.setattr(loop._Watch, "agree", fail)
    with pytest.raises(OSError, match="no space"):
        train(experiment, tmp_path, console=quiet, profile=Profile(1, 4))
    assert calls == ["start", "stop"]
