"""How jax compiles, and keeps memory, for the command line and the benchmarks to set."""

import contextlib
import ctypes
import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path

_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_DIRECTORY = "JAX_COMPILATION_CACHE_DIR"
_MOST_BYTES = 2 * 2**30
_GPU_FLAG = "--xla_gpu_all_reduce_combine_threshold_bytes"
_GPU_PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of malloc.h


def prefer_fast_convolutions() -> None:
    """Turns off XLA's slower kernel library for convolutions on CPU.

    It changes XLA_FLAGS, so importing jaxcl never does it; a flag that is set already stays. Only
    the versions of jax that know the flag get it, for XLA aborts at one it does not know.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    version = tuple(int(part) for part in importlib.metadata.version("jaxlib").split(".")[:2])
    if _FLAG not in flags and (0, 10) <= version < (0, 13):
        os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}=".strip()


def overlap_exchanges() -> None:
    """Has the compiler for GPUs exchange gradients in parts of 8 MB, while others are computed.

    By itself it makes larger ones, fewer of which find compute beside them: of the bytes of
    ResNet-18's gradients on eight H100s 39 % instead of 59 % (compiled, not run). It changes
    XLA_FLAGS, where jax's CUDA plugin is installed. TPU's compiler has no flag, of those tried,
    that would change its schedule.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _GPU_FLAG in flags or not any(map(_is_installed, _GPU_PLUGINS)):
        return
    os.environ["XLA_FLAGS"] = f"{flags} {_GPU_FLAG}={8 * 2**20}".strip()


def keep_pages() -> None:
    """Has the process keep the memory that programs free, for those to come.

    On a CPU with glibc a step's temporaries would go back to the system, and be paged in anew at
    the next: a seventh of its time (MoCo, ResNet-18 of width 16, batch 256). The process grows to
    what it needed at most, 1.5 to 1.9 GB there instead of 1.2. Does nothing where the environment
    says how to allocate (MALLOC_...), or elsewhere.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    with contextlib.suppress(OSError, AttributeError):  # no glibc
        allocator = ctypes.CDLL(None).mallopt
        allocator(_MMAP_MAX, 0)
        allocator(_TRIM_THRESHOLD, -1)


def keep_programs() -> None:
    """Has jax keep what it compiles in the user's cache folder, for later runs of the same.

    Does nothing where JAX_COMPILATION_CACHE_DIR is set (empty: keep nothing), or the folder cannot
    be written. Each kind of CPU has a folder of its own, since hosts that share a home may differ;
    beyond 2 GiB the oldest programs go.
    """
    if _DIRECTORY in os.environ:
        if not os.environ[_DIRECTORY]:
            del os.environ[_DIRECTORY]
        return
    folder = cache_folder() / "programs" / _cpu()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        _sweep(folder)
        os.environ[_DIRECTORY] = str(folder)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def cache_folder() -> Path:
    """Where the user's caches of jaxcl are: ~/.cache/jaxcl, or below XDG_CACHE_HOME."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(root) / "jaxcl"


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _cpu() -> str:
    """A digest of what programs for this CPU may use."""
    text = platform.machine() + platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        text += "".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _sweep(folder: Path) -> None:
    with contextlib.suppress(OSError):  # of files that another process has just removed
        files = [(path, path.stat()) for path in folder.iterdir() if path.is_file()]
        files.sort(key=lambda each: each[1].st_mtime)
        excess = sum(stat.st_size for _, stat in files) - _MOST_BYTES
        for path, stat in files:
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= stat.st_size
