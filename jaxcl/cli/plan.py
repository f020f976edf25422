"""`jaxcl plan`."""

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from jaxcl.cli.configs import load_config


def add(verbs: Any) -> None:
    """Adds the verb to those of the program."""
    parser = verbs.add_parser(
        "plan",
        help="what a config needs on TPU slices or H100 hosts, without any",
        usage="jaxcl plan CONFIG --topology CHIP:SHAPE [...] [--batch N ...] [--largest] "
        "[--examples N --image HxWxC [--classes N]] [--json] [--plot FILE.png] "
        "[--dotted.option VALUE ...]",
        description="Compiles a config's train step for chips that need not be there: memory, "
        "flops, collectives, and what the time of a step cannot be below. Takes seconds to minutes "
        "a slice and batch; what was compiled is kept. The dotted options are those of `jaxcl "
        "train CONFIG --help`.",
    )
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument(
        "--topology",
        nargs="+",
        required=True,
        metavar="CHIP:SHAPE",
        help="such as v5e:4x4, v5p:4x4x8, h100:8 or h100:4x8",
    )
    parser.add_argument(
        "--batch", nargs="+", metavar="N", help="of all chips (default: the config's)"
    )
    parser.add_argument(
        "--largest", action="store_true", help="look for the largest batch that fits"
    )
    parser.add_argument("--examples", type=int, metavar="N", help="plan without the data: how many")
    parser.add_argument("--image", metavar="HxWxC", help="and of which shape, such as 256x256x3")
    parser.add_argument("--classes", type=int, metavar="N", help="and of how many labels")
    parser.add_argument("--json", action="store_true", help="one JSON document, no table")
    parser.add_argument("--plot", metavar="FILE.png", help="draw memory and time there")
    parser.set_defaults(run=plan, dotted_options=True)


def plan(known: argparse.Namespace, options: list[str]) -> int:
    """Compiles for chips that are not here, and prints what the step takes."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the chips to plan for are not here

    from jaxcl import planning
    from jaxcl.overrides import override
    from jaxcl.training.durable_files import write_durably
    from jaxcl.training.errors import UserError

    def say(text: str) -> None:
        print(f"{text} ...", file=sys.stderr, flush=True)

    plans: list[planning.Plan] = []
    experiment, failure = None, ""
    try:
        slices = [planning.find_slice(name) for name in known.topology]
        sizes = _batch_sizes(known.batch)
        plot = None if known.plot is None else Path(known.plot)
        if plot is not None and (plot.suffix != ".png" or not plot.absolute().parent.is_dir()):
            raise UserError(f"--plot is {plot}, expected a .png file in a folder that exists")
        experiment = load_config(Path(known.config))
        experiment = override(experiment, options, program=f"jaxcl plan {known.config}")
        if known.examples is not None or known.image is not None:
            described = _described(known.examples, known.image, known.classes)
            experiment = dataclasses.replace(experiment, data=described)
        for where in slices:
            if known.largest:
                plans += planning.largest_batch(experiment, where, say=say)
            for size in [] if known.largest and known.batch is None else sizes:
                plans.append(planning.plan(experiment, where, batch_size=size, say=say))
    except FileNotFoundError as error:
        failure = str(error)
        if experiment is not None:
            failure += (
                "; plan without the data by their number and shape, as in --examples 1281167 "
                "--image 256x256x3 --classes 1000"
            )
    except (UserError, OSError) as error:
        failure = str(error)
    except RuntimeError as error:  # of the compiler
        failure = f"the compiler refuses the step: {str(error).splitlines()[0][:300]}"
    if not plans:
        raise UserError(failure)
    if known.json:
        print(json.dumps(planning.to_json(plans), indent=1))
    else:
        print(planning.report(plans))
    if known.plot is not None:
        write_durably(Path(known.plot), lambda file: planning.draw(plans, file))
    if failure:  # after what was planned before it
        raise UserError(failure)
    return 0


def _batch_sizes(given: list[str] | None) -> list[int | None]:
    """Of --batch 1024 2048, or 1024,2048; None: the config's."""
    from jaxcl.training.errors import UserError

    if given is None:
        return [None]
    try:
        sizes = [int(size) for text in given for size in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise UserError(f"--batch is {' '.join(given)}, expected whole numbers from 1")
    return [*sizes]


def _described(examples: int | None, image: str | None, classes: int | None) -> Any:
    from jaxcl.planning import Described
    from jaxcl.training.errors import UserError

    sides = [int(side) for side in (image or "").split("x") if side.isdecimal()]
    if classes is not None and classes < 1:
        raise UserError(f"--classes is {classes}, expected a number from 1")
    if examples is None or examples < 1 or len(sides) != 3 or min(sides) < 1:
        raise UserError(
            f"--examples {examples} --image {image}: expected both, a number and a shape, such as "
            "--examples 1281167 --image 256x256x3"
        )
    return Described(examples, (sides[0], sides[1], sides[2]), classes)
