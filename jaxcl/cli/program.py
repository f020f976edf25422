"""The program `jaxcl`: what is set before jax starts, and the verbs."""

import argparse
import functools
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from jaxcl import __version__
from jaxcl.cli import (
    doctor,
    embed,
    evaluate,
    export,
    finetune,
    plan,
    report,
    search,
    tokenizer,
    train,
    views,
)
from jaxcl.cli.exits import SIGNALLED, complain, mendable
from jaxcl.compilation import keep_programs, overlap_exchanges, prefer_fast_convolutions

VERBS = (
    *(train, evaluate, report, finetune, embed, search, export, views, tokenizer, doctor, plan),
)
"""Modules; each has `add`, which adds its parser, and the function that it calls, whose errors
`main` prints where a user can mend them."""


class _Parser(argparse.ArgumentParser):
    """Takes options by their whole names: what is cut short may be a dotted option's beginning."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "allow_abbrev": False})


def make_parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    parser = _Parser(prog="jaxcl", description="Contrastive learning in JAX.")
    parser.add_argument("--version", action="version", version=f"jaxcl {__version__}")
    parser.set_defaults(dotted_options=False)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in VERBS:
        verb.add(verbs)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code: 0, 2 for wrong input, 128 + n for signal n."""
    parser = make_parser()
    known, options = parser.parse_known_args(arguments)
    if options and not known.dotted_options:
        parser.error(f"unrecognized arguments: {' '.join(options)}")
    prefer_fast_convolutions()  # before jax is imported
    overlap_exchanges()
    keep_programs()
    # jax 0.10 aborts in a CPU collective when steps are dispatched without waiting.
    os.environ.setdefault("JAX_CPU_ENABLE_ASYNC_DISPATCH", "0")
    _silence_failing_saves()
    try:
        code: int = known.run(known, options) if known.dotted_options else known.run(known)
        return code
    except KeyboardInterrupt:
        print("jaxcl: interrupted", file=sys.stderr)
        return SIGNALLED + signal.SIGINT
    except mendable() as error:
        return complain(error)


@functools.cache
def _silence_failing_saves() -> None:
    """Drops the tracebacks that orbax and tensorstore print of a save that fails, hundreds of lines
    in several threads: the run ends with a `CheckpointError`, which says it in one."""
    from absl import logging

    logging.get_absl_logger().addFilter(lambda record: "orbax" not in record.pathname)
    report = sys.unraisablehook

    def report_others(unraisable: "sys.UnraisableHookArgs") -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    sys.unraisablehook = report_others
