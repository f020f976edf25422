"""`jaxcl embed`."""

import argparse
from pathlib import Path
from typing import Any

from jaxcl.cli.configs import OWN_CLASSES, experiment_of


def add(verbs: Any) -> None:
    """Adds the verb to those of the program."""
    parser = verbs.add_parser("embed", help="write the features of images or texts to an index")
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
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="ends in .npz, .parquet, .faiss or .usearch"
    )
    parser.add_argument("--batch-size", type=int, default=256, help="images at once (default: 256)")
    parser.add_argument(
        "--array", default="image", help="name of the images in an .npz (default: image)"
    )
    parser.set_defaults(run=embed)


def embed(known: argparse.Namespace) -> int:
    """Writes features, and prints how many."""
    from jaxcl.evaluation.indexing import embed_run, embed_texts
    from jaxcl.training.errors import UserError

    if (known.input is None) == (known.text is None):
        raise UserError("give one of INPUT (images) and --text FILE")
    run, out = Path(known.run_dir), Path(known.out)
    experiment = experiment_of(run, known.config)
    size = known.batch_size
    if known.text is None:
        given, array = Path(known.input), known.array
        print(embed_run(run, given, out, batch_size=size, array=array, experiment=experiment))
    else:
        given, column = Path(known.text), known.column
        print(embed_texts(run, given, out, column=column, batch_size=size, experiment=experiment))
    return 0
