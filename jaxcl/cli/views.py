"""`jaxcl views`."""

import argparse
from pathlib import Path
from typing import Any

from jaxcl.cli.configs import load_config
from jaxcl.cli.exits import of_the_users


def add(verbs: Any) -> None:
    """Adds the verb to those of the program."""
    parser = verbs.add_parser(
        "views",
        help="draw what the views of a config look like",
        usage="jaxcl views CONFIG --out FILE.png [--examples N] [--seed N] "
        "[--dotted.option VALUE ...]",
        description="Prints a config's views, and draws what they make of examples from all over "
        "its data. The dotted options are those of `jaxcl train CONFIG --help`.",
    )
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("--out", required=True, metavar="FILE.png")
    parser.add_argument("--examples", type=int, default=8, help="rows (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="decides the draws (default: 0)")
    parser.set_defaults(run=views, dotted_options=True)


def views(known: argparse.Namespace, options: list[str]) -> int:
    """Draws what views look like, and prints them."""
    from jaxcl.evaluation.contact_sheet import contact_sheet, save_contact_sheet
    from jaxcl.overrides import override
    from jaxcl.training.durable_files import write_durably
    from jaxcl.training.errors import UserError

    out = Path(known.out)
    with of_the_users():  # data, views, seed
        if out.suffix != ".png" or out.is_dir():
            raise UserError(f"--out is {out}, expected a file that ends in .png")
        experiment = load_config(Path(known.config))
        experiment = override(experiment, options, program=f"jaxcl views {known.config}")
        sheet = contact_sheet(
            experiment.data.open(), experiment.views, examples=known.examples, seed=known.seed
        )
        write_durably(out, lambda file: save_contact_sheet(sheet, file))
    print(f"{experiment.views}\n\n{known.examples} examples: {out}")
    return 0
