"""Slices: those that there are, and what is said of others."""

import importlib.metadata
import importlib.util

import pytest

from jaxcl.planning import CHIPS, chips, find_slice
from jaxcl.training.errors import UserError


def test_slices_have_chips_and_hosts():
    found = find_slice("v5e:4x8")
    assert (found.chips, found.hosts, found.name) == (32, 8, "v5e:4x8")
    assert find_slice(" V5P:8x8x8 ").chips == 512
    assert find_slice("v6e:1x1").hosts == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e:3x5", "no slice v5e:3x5; the nearest is v5e:4x4"),
        ("v5e:16x32", "the nearest is v5e:16x16"),
        ("v5p:4x4", "the nearest is v5p:2x4x4|the nearest is v5p:2x2x4"),
        ("v5:4x4", "the nearest is v5[ep]"),
        ("v5e", "v5e comes as 1x1"),
        ("v5e:axb", "v5e comes as 1x1"),
        ("h100:3x8", "the nearest is h100:[24]x8"),
        ("tpu:8", "expected CHIP:SHAPE of v4, v5e, v5p, v6e, h100"),
    ],
)
def test_what_does_not_exist_is_refused_with_the_nearest(name, message):
    with pytest.raises(UserError, match=message):
        find_slice(name)


def test_the_compiler_is_named_where_it_lacks(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'libtpu.* pip install "jaxcl\[plan\]"'):
        find_slice("v5e:2x2").devices()


def test_so_is_that_for_gpus(monkeypatch):
    def version(name):
        if name != "jax":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(chips, "version", version)
    with pytest.raises(UserError, match=r'pip install "jax-cuda13-plugin==1.2.3" "jax-cuda13-pjrt'):
        find_slice("h100:8").devices()


def test_between_hosts_gpus_send_less():
    assert find_slice("h100:8").sending == 450e9
    assert find_slice("h100:2x8").sending == 50e9
    assert find_slice("v5e:16x16").sending == find_slice("v5e:1x1").sending


@pytest.mark.parametrize("chip", CHIPS)
def test_the_compiler_knows_the_slices(chip):
    """One device a chip, and as many chips a host, as the tables here say."""
    if CHIPS[chip].is_gpu:
        pytest.importorskip("jax_plugins.xla_cuda13")
    else:
        pytest.importorskip("libtpu")
    for shape in CHIPS[chip].shapes:
        found = find_slice(f"{chip}:{shape}")
        devices = found.devices()
        assert len(devices) == found.chips
        assert len({device.process_index for device in devices}) == found.hosts
