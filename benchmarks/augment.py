"""Views a second of MoCo v2's augmentation: jaxcl on this device, torchvision's PIL on one core.

    python benchmarks/augment.py --size 32 --batch 256
    python benchmarks/augment.py --size 224 --batch 32 --json augment.json

Pictures and crops are `size` x `size`, uint8 in, two views out, normalized float32. jaxcl is one
jitted program over the batch, timed after warm-up until its results are ready; torchvision's
transforms of the same recipe run on PIL images that are in memory already, in one thread. The two
take turns, so that what else the machine does falls on both.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

from jaxcl.compilation import prefer_fast_convolutions

prefer_fast_convolutions()  # before jax is imported

import jax
import jax.numpy as jnp
import numpy as np

from jaxcl import augment

TORCHVISION_MISSING = (
    "torchvision is not installed, so nothing is compared: "
    "pip install torch==2.14.1 torchvision==0.29.1"
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=32, help="side of pictures and crops, pixels")
    parser.add_argument("--batch", type=int, help="pictures a batch (256 up to 64 pixels, else 32)")
    parser.add_argument("--repeats", type=int, default=9, help="timed repetitions")
    parser.add_argument(
        "--json", metavar="FILE", help="write the results there; - for the terminal"
    )
    options = parser.parse_args()
    batch = options.batch or (256 if options.size <= 64 else 32)
    if options.size < 4 or batch < 1 or options.repeats < 1:
        parser.error("--size must be at least 4, --batch and --repeats at least 1")

    report = measure(options.size, batch, options.repeats)
    print(table(report))
    if options.json == "-":
        print(json.dumps(report))
    elif options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2)


def measure(size: int, batch: int, repeats: int) -> dict[str, Any]:
    """Views a second of both pipelines, taking turns."""
    pictures = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    recipe = augment.moco_v2(size)
    ours, compile_seconds = jaxcl_pipeline(recipe, pictures)
    theirs = torchvision_pipeline(recipe, pictures)

    rates, peer_rates = [], []
    for _ in range(repeats):
        rates.append(2 * batch / ours())
        if theirs is not None:
            peer_rates.append(2 * batch / theirs())
    report = {
        "benchmark": "augment",
        "recipe": "moco_v2",
        "size": size,
        "batch": batch,
        "repeats": repeats,
        "device": f"{jax.devices()[0].device_kind} ({jax.default_backend()}), "
        f"{os.cpu_count()} CPU cores",
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "xla_flags": os.environ["XLA_FLAGS"],
        "compile_seconds": round(compile_seconds, 2),
        "jaxcl_views_per_second": spread(rates),
        "torchvision_views_per_second": None,
        "ratio": None,
    }
    if theirs is not None:
        report["versions"]["torchvision"] = metadata.version("torchvision")
        report["torchvision_views_per_second"] = spread(peer_rates)
        report["ratio"] = spread([a / b for a, b in zip(rates, peer_rates, strict=True)])
    return report


def jaxcl_pipeline(
    recipe: augment.Views, pictures: np.ndarray
) -> tuple[Callable[[], float], float]:
    """A function that runs one batch and returns its seconds; the seconds of compiling."""
    images, indices = jnp.asarray(pictures), jnp.arange(len(pictures))
    seeds = itertools.count()

    @jax.jit
    def draw(seed: jax.Array, images: jax.Array) -> tuple[jax.Array, ...]:
        return augment.batch_views(recipe, jax.random.key(seed), images, indices)

    start = time.perf_counter()
    compiled = draw.lower(0, images).compile()
    compile_seconds = time.perf_counter() - start

    def run() -> float:
        start = time.perf_counter()
        jax.block_until_ready(compiled(next(seeds), images))
        return time.perf_counter() - start

    run()  # warm-up
    run()
    return run, compile_seconds


def torchvision_pipeline(recipe: augment.Views, pictures: np.ndarray) -> Callable[[], float] | None:
    """The same for torchvision's transforms on PIL images, in one thread; None if it is absent."""
    try:
        import torch
        from PIL import Image
        from torchvision import transforms
    except ImportError:
        return None
    torch.set_num_threads(1)
    crop, jitter, grey, blur, flip, normalize = recipe.views[0].transforms
    color, gaussian = jitter.transform, blur.transform
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(crop.size, crop.scale, crop.ratio),
            transforms.RandomApply(
                [
                    transforms.ColorJitter(
                        color.brightness, color.contrast, color.saturation, color.hue
                    )
                ],
                jitter.p,
            ),
            transforms.RandomGrayscale(grey.p),
            transforms.RandomApply(
                [transforms.GaussianBlur(gaussian.kernel_size, gaussian.sigma)], blur.p
            ),
            transforms.RandomHorizontalFlip(flip.p),
            transforms.ToTensor(),
            transforms.Normalize(normalize.mean, normalize.std),
        ]
    )
    images = [Image.fromarray(picture) for picture in pictures]

    def run() -> float:
        start = time.perf_counter()
        for image in images:
            transform(image)
            transform(image)
        return time.perf_counter() - start

    run()
    return run


def spread(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def table(report: dict[str, Any]) -> str:
    """What `measure` found, to read."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        f"two views, moco_v2, {report['size']}x{report['size']}, batch {report['batch']}, "
        f"{report['repeats']} repeats; {report['device']}; {versions}",
        f"{'':24}{'median':>10}{'min':>10}{'max':>10}",
    ]
    rows = (
        ("jaxcl, views/s", "jaxcl_views_per_second", ".0f"),
        ("torchvision PIL, views/s", "torchvision_views_per_second", ".0f"),
        ("ratio", "ratio", ".1f"),
    )
    for title, field, form in rows:
        if report[field] is not None:
            numbers = (f"{report[field][name]:>10{form}}" for name in ("median", "min", "max"))
            lines.append(f"{title:24}" + "".join(numbers))
    if report["ratio"] is None:
        lines.append(TORCHVISION_MISSING)
    lines.append(f"compiled in {report['compile_seconds']} s")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
