"""`jaxcl search`."""

import argparse
from pathlib import Path
from typing import Any

from jaxcl.cli.configs import OWN_CLASSES, experiment_of


def add(verbs: Any) -> None:
    """Adds the verb to those of the program."""
    parser = verbs.add_parser(
        "search", help="find what is most like a text or a picture among what was embedded"
    )
    parser.add_argument("run_dir", metavar="RUN_DIR")
    parser.add_argument("--index", required=True, metavar="FILE", help="from jaxcl embed")
    parser.add_argument("--query", metavar="TEXT", help="a text to look for")
    parser.add_argument("--image", metavar="FILE", help="a picture to look for")
    parser.add_argument("--count", type=int, default=12, help="how many to find (default: 12)")
    parser.add_argument("--out", metavar="FILE.png", help="draw the found pictures")
    parser.add_argument("--config", metavar="CONFIG", help=OWN_CLASSES)
    parser.set_defaults(run=search)


def search(known: argparse.Namespace) -> int:
    """Searches, and prints what was found."""
    from jaxcl.evaluation.searching import search_run

    found = search_run(
        Path(known.run_dir),
        Path(known.index),
        query=known.query,
        image=None if known.image is None else Path(known.image),
        count=known.count,
        out=None if known.out is None else Path(known.out),
        experiment=experiment_of(Path(known.run_dir), known.config),
    )
    print(found)
    return 0
