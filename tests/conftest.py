"""Eight CPU devices for every test, and programs that compile soon: set before jax first looks."""

import gc
import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
import jax
import pytest
from hub_server import serving

# Programs that run slower and compile in less than half the time: even tests that train are sooner
# done. XLA aborts at a flag that it does not know, that of libtpu too.
JAXLIB = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None
FLAGS = {
    "--xla_force_host_platform_device_count=8": True,
    "--xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE": (0, 10) <= JAXLIB < (0, 13),
    "--xla_cpu_parallel_codegen_split_count=1": (0, 10) <= JAXLIB < (0, 13),
    "--xla_cpu_use_fusion_emitters=false": (0, 10) <= JAXLIB < (0, 12) and not HAS_LIBTPU,
}
os.environ["XLA_FLAGS"] = " ".join(flag for flag, is_known in FLAGS.items() if is_known)

# jax 0.10 can deadlock in a CPU collective when steps are dispatched without waiting.
jax.config.update("jax_cpu_enable_async_dispatch", False)

# Tracing makes and drops so many objects that collecting the youngest at every 700 is a tenth of
# the time.
gc.set_threshold(20_000, 50, 100)

# Many tests compile the same programs: the workers of one session share them, and sessions too, in
# a folder of one's own.
IS_GIVEN = "JAXCL_TEST_CACHE" in os.environ  # by the user, or to a worker
if not IS_GIVEN:
    os.environ["JAXCL_TEST_CACHE"] = tempfile.mkdtemp(prefix="jaxcl-tests-")
CACHE = os.environ["JAXCL_TEST_CACHE"]
os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE  # of processes that tests start, too
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# LLVM's optimizations are two fifths of the time that programs take which run once or twice.
jax.config.update("jax_disable_most_optimizations", True)

MAPS = Path("/proc/self/maps")
MOST_MAPS = 30_000


def pytest_runtest_teardown():
    """Forgets a process's programs before they fill its address space.

    Each compiled program holds some dozen memory maps; Linux allows a process 65,530, and XLA
    crashes where it gets no more.
    """
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


def pytest_unconfigure(config):
    """Removes the compiled programs when the session ends, not when a worker does; keeps those in a
    folder of one's own."""
    if not IS_GIVEN:
        shutil.rmtree(CACHE, ignore_errors=True)


@pytest.fixture(autouse=True)
def _compilation(request):
    """Tests that train for long are sooner done with LLVM's optimizations."""
    quick = request.node.get_closest_marker("long_training") is None
    jax.config.update("jax_disable_most_optimizations", quick)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A server, and a client of its own with an empty cache and no token."""
    from huggingface_hub import constants

    with serving() as server:
        where = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", where)
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's trials
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server
