"""Compiled programs are kept between runs, where that can be done."""

import os
import platform
import subprocess
import sys

import pytest

from jaxcl import compilation

PROGRAM = """
from jaxcl.compilation import keep_programs
keep_programs()
import logging, time
import jax, jax.numpy as jnp
logging.getLogger("jax._src.compiler").setLevel(logging.DEBUG)
logging.getLogger("jax._src.compiler").addHandler(logging.StreamHandler())
print(jax.jit(lambda x: jax.lax.sort(jnp.linalg.svd(x)[0] @ jnp.cos(x)))(jnp.eye(40)).sum())
"""


def run(tmp_path, **variables):
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {
        "XDG_CACHE_HOME": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout, found.stderr.count("Persistent compilation cache hit")


def kept(tmp_path):
    return [path for path in (tmp_path / "jaxcl").rglob("*") if path.is_file()]


@pytest.mark.slow
def test_the_second_run_does_not_compile(tmp_path):
    first, hits = run(tmp_path)
    assert hits == 0
    assert kept(tmp_path)
    again, hits = run(tmp_path)
    assert again == first
    assert hits > 0


@pytest.mark.slow
def test_a_program_that_was_cut_off_is_compiled_again(tmp_path):
    first, _ = run(tmp_path)
    for path in kept(tmp_path):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again, hits = run(tmp_path)
    assert again == first
    assert hits == 0


@pytest.mark.slow
def test_one_can_do_without(tmp_path):
    run(tmp_path, JAX_COMPILATION_CACHE_DIR="")
    assert not kept(tmp_path)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_left_alone(tmp_path):
    tmp_path.chmod(0o500)
    run(tmp_path)
    tmp_path.chmod(0o700)
    assert not kept(tmp_path)


@pytest.mark.slow
def test_a_file_in_place_of_the_folder_is_left_alone(tmp_path):
    (tmp_path / "jaxcl").write_text("")
    run(tmp_path)


def test_the_oldest_go(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, "")  # so that what is set here goes again
        monkeypatch.delenv(name)
    monkeypatch.setattr(compilation, "_MOST_BYTES", 250)
    compilation.keep_programs()
    folder = compilation.cache_folder() / "programs"
    (folder,) = folder.iterdir()
    for age, name in enumerate(("new", "middle", "old")):
        (folder / name).write_bytes(b"x" * 100)
        os.utime(folder / name, (10**9 - age, 10**9 - age))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    compilation.keep_programs()
    assert sorted(path.name for path in folder.iterdir()) == ["middle", "new"]


def test_gradients_go_in_parts_where_there_is_a_plugin_for_gpus(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=here")
    monkeypatch.setattr(compilation, "_is_installed", lambda package: False)
    compilation.overlap_exchanges()
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=here"
    monkeypatch.setattr(compilation, "_is_installed", lambda package: "cuda13" in package)
    for _ in range(2):  # what is set stays
        compilation.overlap_exchanges()
        flag = "--xla_gpu_all_reduce_combine_threshold_bytes=8388608"
        assert os.environ["XLA_FLAGS"] == f"--xla_dump_to=here {flag}"


PAGES = """
import resource, sys
import numpy as np
from jaxcl.compilation import keep_pages
if sys.argv[1] == "keep":
    keep_pages()
def touch():
    np.ones(2**24, np.float32)[-1]  # 64 MB
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tunes glibc's allocator")
def test_freed_memory_is_not_paged_in_anew():
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}

    def faults(word, **variables):
        command = [sys.executable, "-c", PAGES, word]
        return int(subprocess.check_output(command, env=environment | variables))

    assert faults("leave") > 50  # of 2 MB, or of 4 kB
    assert faults("keep") < 10
    assert faults("keep", MALLOC_ARENA_MAX="4") > 50  # who tunes it themselves is left alone
