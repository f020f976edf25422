"""`jaxcl embed`."""

import argparse
from pathlib import Path
from typing import Any

from jaxcl.cli.configs import OWN_CLASSES, experiment_of
from jaxcl.cli.exits import complain


def add(verbs: Any) -> None:
    """Adds the verb to those of the program."""
    parser = verbs.add_parser("embed", help="write the features of images to a file")
    parser.add_argument("run_dir", metavar="RUN_DIR")
    parser.add_argument("input", metavar="INPUT", help="a folder of images, an image, or an .npz")
    parser.add_argument("--config", metavar="CONFIG", help=OWN_CLASSES)
    parser.add_argument("--out", required=True, metavar="FILE.npz")
    parser.add_argument("--batch-size", type=int, default=256, help="images at once (default: 256)")
    parser.add_argument(
        "--array", default="image", help="name of the images in an .npz (default: image)"
    )
    parser.set_defaults(run=embed)


def embed(known: argparse.Namespace) -> int:
    """Writes features, and prints how many."""
    from jaxcl.evaluation.runs import embed_run
    from jaxcl.training.errors import UserError

    try:
        written = embed_run(
            Path(known.run_dir),
            Path(known.input),
            Path(known.out),
            batch_size=known.batch_size,
            array=known.array,
            experiment=experiment_of(Path(known.run_dir), known.config),
        )
    except (UserError, OSError) as error:
        return complain(error)
    print(written)
    return 0
