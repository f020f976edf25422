"""What the doctor finds, and says of machines that are not well."""

import json

import jax
import pytest

from jaxcl import doctor
from jaxcl.cli import main


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(doctor, "_matmul_flops", lambda dtype, size: 2e12)
    monkeypatch.setattr(doctor, "_copy_bytes", lambda count: 1e10)
    monkeypatch.setattr(doctor, "_versions", lambda: {"jax": "1.0", "jaxlib": "1.0"})


def test_speeds_are_measured():
    flops = doctor._matmul_flops("float32", 256)
    assert 1e8 < flops < 1e13
    assert 1e8 < doctor._copy_bytes(2**20) < 1e12


def test_a_machine_that_is_well(quick, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    found = doctor.examine({})
    assert found["advice"] == []
    text = doctor.report(found)
    assert "devices   1 cpu" in text
    assert "float32 2.00 TFLOP/s" in text
    assert "copying   10.0 GB/s" in text
    assert text.endswith("change    nothing")


@pytest.mark.parametrize(
    ("environment", "advice"),
    [
        ({"JAX_DISABLE_JIT": "1"}, "JAX_DISABLE_JIT runs every operation by itself"),
        ({"JAX_DEBUG_NANS": "True"}, "JAX_DEBUG_NANS"),
        ({"XLA_PYTHON_CLIENT_ALLOCATOR": "platform"}, "asks the driver for every array"),
    ],
)
def test_flags_that_hurt_are_named(quick, monkeypatch, environment, advice):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    (said,) = doctor.examine(environment)["advice"]
    assert advice in said
    for off in ("0", "false", ""):
        assert doctor.examine(dict.fromkeys(environment, off))["advice"] == []


def test_more_devices_than_cores_are_said(quick, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 10_000)
    (said,) = doctor.examine({})["advice"]
    assert "10000 CPU devices share" in said


def test_an_accelerator_that_is_not_used_is_said(quick, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    versions = {"jax": "1.0", "jaxlib": "1.1", "jax-cuda13-plugin": "1.0"}
    monkeypatch.setattr(doctor, "_versions", lambda: versions)
    unused, other = doctor.examine({})["advice"]
    assert "jax-cuda13-plugin is installed, but the CPU is used: jax found no device" in unused
    assert "jax is 1.0, jaxlib 1.1" in other
    unused, _ = doctor.examine({"JAX_PLATFORMS": "cpu"})["advice"]
    assert "JAX_PLATFORMS says so" in unused


def test_of_a_chip_the_share_of_its_peak_is_said(quick):
    found = doctor.examine({}) | {"peak_flops": 8e12, "peak_bytes": 4e10}
    assert "bfloat16 2.00 TFLOP/s (25% of the peak)" in doctor.report(found)
    assert "written (25% of the peak)" in doctor.report(found)
    assert any("less than half" in each for each in doctor._advice(found, {}))


def test_the_verb(quick, capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["platform"] == "cpu"
    assert main(["doctor"]) == 0
    assert "product   of matrices" in capsys.readouterr().out
