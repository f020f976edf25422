"""`jaxcl report`."""

import argparse
from pathlib import Path
from typing import Any

from jaxcl.cli.configs import OWN_CLASSES, experiment_of


def add(verbs: Any) -> None:
    """Adds the verb to those of the program."""
    parser = verbs.add_parser("report", help="show what runs learned, as one HTML file")
    parser.add_argument("run_dirs", nargs="+", metavar="RUN_DIR")
    parser.add_argument(
        "--out", metavar="FILE.html", help="default: report.html in the run, or here for several"
    )
    parser.add_argument(
        "--map",
        default="tsne",
        metavar="KIND",
        help="pca, tsne (default) or umap: how features are put into the plane",
    )
    parser.add_argument("--config", metavar="CONFIG", help=OWN_CLASSES)
    parser.set_defaults(run=report)


def report(known: argparse.Namespace) -> int:
    """Writes the report, and prints where."""
    from jaxcl.reports import write_report

    runs = [Path(directory) for directory in known.run_dirs]
    alone = runs[0] / "report.html" if len(runs) == 1 else Path("report.html")
    print(
        write_report(
            runs,
            alone if known.out is None else Path(known.out),
            kind=known.map,
            experiments=[experiment_of(run, known.config) for run in runs],
        )
    )
    return 0
