"""Runs the benchmarks one after another and writes docs/performance.md, with what each printed.

    python benchmarks/run_all.py                      # on whatever device jax finds
    python benchmarks/run_all.py --only input startup # the others stay as they are in the file
    python benchmarks/run_all.py --data.path emoji.npz --peer lightly

Takes half an hour on two cores. One that fails is said in its place, and the exit code is 1; slices
want `pip install "jaxcl[plan]"`.
"""

import argparse
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from jaxcl.data.batches import available_cores

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
HEAD = """# Performance

Written by `python benchmarks/run_all.py`, which runs the commands below and puts down what they
print; each can be run by itself. Rates are medians of several rounds, with the lowest and the
highest; what is compared takes turns in one run. Sections whose titles begin with "Notes" are
written by hand, and stay.
"""
QUICK = "configs/quickstart.py"
SLICES = ("v5e:2x4", "v5e:8x8", "v5e:16x16", "v5p:8x8x8")
IMAGES = ("--examples", "1281167", "--image", "32x32x1")
PARTS = {
    "throughput": ("A training step and its parts", ["throughput.py", QUICK]),
    "mappings": (
        "pmap beside shard_map, four devices",
        ["throughput.py", QUICK, "--devices", "4", "--mapping", "both"],
    ),
    "startup": ("From the command to the first step", ["startup.py", QUICK]),
    "input": ("Reading and decoding JPEGs", ["input.py", "--batches", "8", "--repeats", "4"]),
    "augment": ("Views", ["augment.py", "--size", "32"]),
    "scaling": (
        "More devices and processes",
        ["scaling.py", QUICK, "--steps", "10", "--rounds", "3"],
    ),
    "slices": (
        "A chip's share on 8 to 512 chips, by the compiler",
        ["scaling.py", QUICK, "--topologies", *SLICES, *IMAGES, "--method.queue-size", "65536"],
    ),
    "losses": ("Losses", ["losses.py", "--sizes", "1024", "4096", "8192"]),
    "gradient cache": ("Gradient caching", ["gradient_cache.py"]),
    "population": ("Populations", ["population.py"]),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--peer", choices=["lightly"], help="the MoCo step beside that one's, too")
    parser.add_argument("--data.path", dest="emoji", help="emoji.npz, which --peer trains on")
    parser.add_argument("--out", type=Path, default=PAGE)
    arguments = parser.parse_args()
    if arguments.peer and not arguments.emoji:
        parser.error("--peer wants --data.path")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    parts = {name: PARTS[name] for name in arguments.only}
    if arguments.peer:
        config = ["configs/moco_v2_emoji.py", "--data.path", arguments.emoji, "--peer", "lightly"]
        narrow = ["--method.encoder.width", "16", "--batch-size", "256"]
        wide = ["--method.encoder.width", "64", "--batch-size", "128"]
        parts["lightly, width 16"] = ("Beside lightly", ["throughput.py", *config, *narrow])
        parts["lightly, width 64"] = ("Beside lightly, wide", ["throughput.py", *config, *wide])
    sections = read_sections(arguments.out)
    failed = False
    for number, (name, (title, command)) in enumerate(parts.items(), 1):
        print(f"{number} of {len(parts)}: {name} ...", file=sys.stderr, flush=True)
        text, passed = run(command)
        failed |= not passed
        sections[title] = text
        write(arguments.out, sections)
    print(f"written: {arguments.out}", file=sys.stderr)
    return int(failed)


def run(command: list[str]) -> tuple[str, bool]:
    """A section of the page, and whether the command ended well."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, HERE / command[0], *command[1:]],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
    )
    took = time.perf_counter() - began
    words = ["python", f"benchmarks/{command[0]}", *command[1:]]
    said = done.stdout if done.returncode == 0 else done.stderr[-2000:]
    said = said.strip("\n").rstrip().replace("\n#", "\n #")  # no heading
    ended = "" if done.returncode == 0 else f", which failed with exit code {done.returncode}"
    line = f"`{' '.join(words)}`, {took:.0f} s on {describe_machine()}{ended}:"
    return f"{line}\n\n```text\n{said}\n```\n", done.returncode == 0


def describe_machine() -> str:
    import jax

    device = jax.devices()[0]
    cores = available_cores()
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "optax"))
    kind = processor() if device.platform == "cpu" else f"{jax.device_count()} {device.device_kind}"
    return f"{kind}, {cores} cores, Python {platform.python_version()}, {packages}"


def processor() -> str:
    """The model of the CPU, as far as the system says it."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", path.read_text()) if path.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def read_sections(path: Path) -> dict[str, str]:
    """Sections of a page by their titles."""
    if not path.exists():
        return {}
    _, *parts = re.split(r"^## ", path.read_text(), flags=re.MULTILINE)
    return {part.split("\n", 1)[0]: part.split("\n", 1)[1].strip() + "\n" for part in parts}


def write(path: Path, sections: dict[str, str]) -> None:
    text = HEAD + "".join(f"\n## {title}\n\n{text}" for title, text in sections.items())
    path.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
