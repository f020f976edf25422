"""`jaxcl embed`."""

import argparse
from pathlib import Path
from typing import Any

from jaxcl.cli.configs import OWN_CLASSES, experiment_of
from jaxcl.cli.exits import complain


def add(verbs: Any) -> None:
    """Adds the verb to those of the program."""
    parser = verbs.add_parser("embed", help="write the features of images or texts to a file")
    parser.add_argument("run_dir", metavar="RUN_DIR")
    parser.add_argument(
        "input", nargs="?", metavar="INPUT", help="a folder of images, an image, or an .npz"
    )
    parser.add_argument(
        "--text", metavar="FILE", help="texts instead: .txt, .csv, .tsv, .jsonl or .npz"
    )
    parser.add_argument(
        "--column", default="text", help="name of the texts' column (default: text)"
    )
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
    from jaxcl.evaluation.searching import embed_texts
    from jaxcl.training.errors import UserError

    try:
        if (known.input is None) == (known.text is None):
            raise UserError("give one of INPUT (images) and --text FILE")
        if known.text is not None:
            print(
                embed_texts(
                    Path(known.run_dir),
                    Path(known.text),
                    Path(known.out),
                    column=known.column,
                    batch_size=known.batch_size,
                    experiment=experiment_of(Path(known.run_dir), known.config),
                )
            )
            return 0
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
