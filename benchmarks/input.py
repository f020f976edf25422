"""Images a second that are read, decoded, batched and placed on the device, by workers.

    python benchmarks/input.py --batch-size 64 --workers 0 1 2
    python benchmarks/input.py --images ~/imagenet/val --batch-size 256 --workers 0 8 16

Without --images it makes JPEGs: random crops of scikit-learn's two photographs. Beside the pipeline
stand two plain loops of Pillow, one thread and a pool of as many as there are cores; the rate
of the first by the number of cores is the machine's limit. All are measured in turns.
"""

import argparse
import contextlib
import itertools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from jaxcl.data.batches import available_cores


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="a folder of images; default: made")
    parser.add_argument("--made", type=int, default=512, help="how many are made (default: 512)")
    parser.add_argument(
        "--made-size", type=int, nargs=2, default=(500, 375), metavar=("WIDTH", "HEIGHT")
    )
    parser.add_argument("--quality", type=int, default=90, help="of JPEGs made (default: 90)")
    parser.add_argument("--size", type=int, default=224, help="side of images (default: 224)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=8, help="timed in a round (default: 8)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[0, 1, 2], help="0: threads (default: 0 1 2)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document, no table")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.images
        if folder is None:
            folder = Path(made)
            make_photographs(folder, arguments.made, arguments.made_size, arguments.quality)
        document = {"machine": describe_machine(), **measure(folder, arguments)}
    if arguments.json:
        print(json.dumps(document, indent=1))
    else:
        print_table(document)


def make_photographs(folder: Path, count: int, size: tuple[int, int], quality: int) -> None:
    """Writes `count` JPEGs of `size` (width, height), crops of scikit-learn's photographs."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(0)
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    width, height = size
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        if width > photograph.width or height > photograph.height:
            sys.exit(f"--made-size: photographs are {photograph.width}x{photograph.height}")
        left = int(random.integers(photograph.width - width + 1))
        top = int(random.integers(photograph.height - height + 1))
        crop = photograph.crop((left, top, left + width, top + height))
        crop.save(folder / f"{number:06}.jpg", quality=quality)


def measure(folder: Path, arguments: argparse.Namespace) -> dict:
    """Rates of the plain loops and of jaxcl's pipeline with each number of workers, in turns."""
    from jaxcl.data import Folder

    source = Folder(str(folder), size=arguments.size).open()
    paths = [folder / name for name in source.names]
    cores = available_cores()
    batch_size = arguments.batch_size
    sides: dict[str, Callable[[], contextlib.AbstractContextManager[Iterator]]] = {
        "plain loop, 1 thread": lambda: plain_batches(paths, arguments.size, batch_size, 1),
        f"plain loop, {cores} threads": lambda: plain_batches(
            paths, arguments.size, batch_size, cores
        ),
    }
    for workers in arguments.workers:
        name = f"jaxcl, {workers} worker{'s' * (workers > 1)}" if workers else "jaxcl, threads"
        sides[name] = lambda workers=workers: pipeline(source, batch_size, workers)
    rounds = [
        {name: rate(start, arguments) for name, start in sides.items()}
        for _ in range(arguments.repeats)
    ]
    rates = {name: spread([found[name] for found in rounds]) for name in sides}
    limit = cores * rates["plain loop, 1 thread"]["median"]
    return {
        "images": len(source),
        "mean_bytes": statistics.mean(path.stat().st_size for path in paths),
        "size": arguments.size,
        "batch_size": batch_size,
        "images_per_second": rates,
        "limit": limit,
        "share_of_limit": {name: found["median"] / limit for name, found in rates.items()},
    }


def rate(
    start: Callable[[], contextlib.AbstractContextManager[Iterator]], arguments: argparse.Namespace
) -> float:
    """Images a second of batches taken as fast as they come, once what was made ahead is gone."""
    ahead = 2 + 3 * max(1, *arguments.workers)
    with start() as batches:
        for _ in itertools.islice(batches, ahead):
            pass
        started = time.perf_counter()
        for _ in itertools.islice(batches, arguments.batches):
            pass
        seconds = time.perf_counter() - started
    return arguments.batches * arguments.batch_size / seconds


@contextlib.contextmanager
def pipeline(source, batch_size: int, workers: int) -> Iterator[Iterator]:
    """jaxcl's batches, on the device."""
    import jax

    from jaxcl.data import Batches, prefetch

    with prefetch(Batches(source, batch_size, workers=workers), jax.device_put) as batches:
        yield (jax.block_until_ready(batch) for batch in batches)


@contextlib.contextmanager
def plain_batches(
    paths: list[Path], size: int, batch_size: int, threads: int
) -> Iterator[Iterator[np.ndarray]]:
    """Batches by Pillow and a pool of threads, without order, checks or a device."""
    from PIL import Image, ImageOps

    def read(path: Path) -> np.ndarray:
        with Image.open(path) as image:
            image.draft("RGB", (2 * size, 2 * size))  # as jaxcl does: large JPEGs decode smaller
            picture = ImageOps.fit(image, (size, size), method=Image.Resampling.BILINEAR)
        return np.asarray(picture.convert("RGB"))

    def batches() -> Iterator[np.ndarray]:
        endless = itertools.cycle(paths)
        while True:
            chosen = list(itertools.islice(endless, batch_size))
            yield np.stack(list(pool.map(read, chosen) if threads > 1 else map(read, chosen)))

    with ThreadPoolExecutor(threads) as pool:
        yield batches()


def spread(rates: list[float]) -> dict[str, float]:
    return {"median": statistics.median(rates), "lowest": min(rates), "highest": max(rates)}


def describe_machine() -> dict:
    import grain
    import jax
    import PIL
    from PIL import features

    return {
        "device": jax.devices()[0].device_kind,
        "cores": available_cores(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "grain": grain.__version__,
        "pillow": PIL.__version__,
        "libjpeg_turbo": features.version("libjpeg_turbo"),
        "numpy": np.__version__,
    }


def print_table(document: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    machine = document["machine"]
    table = Table(
        title=f"{document['images']} images of {document['mean_bytes'] / 1000:.0f} kB to "
        f"{document['size']}x{document['size']}, batch {document['batch_size']}"
    )
    table.add_column("")
    for column in ("median, images/s", "lowest", "highest", "share of limit"):
        table.add_column(column, justify="right")
    for name, found in document["images_per_second"].items():
        cells = [f"{found[key]:,.0f}" for key in ("median", "lowest", "highest")]
        table.add_row(name, *cells, f"{document['share_of_limit'][name]:.0%}")
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table)
    console.print(
        f"limit: {machine['cores']} cores x the plain loop, {document['limit']:,.0f} images/s; "
        + ", ".join(f"{name} {value}" for name, value in machine.items() if name != "cores"),
        highlight=False,
    )


if __name__ == "__main__":
    main()
