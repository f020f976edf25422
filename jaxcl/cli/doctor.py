"""`jaxcl doctor`."""

import argparse
import json
from typing import Any


def add(verbs: Any) -> None:
    """Adds the verb to those of the program."""
    parser = verbs.add_parser(
        "doctor",
        help="devices, versions, flags and speed of this machine, and what to change",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document, no text")
    parser.set_defaults(run=doctor)


def doctor(known: argparse.Namespace) -> int:
    """Prints what it finds of this machine."""
    from jaxcl.doctor import examine, report

    try:
        found = examine()
    except RuntimeError as error:  # where jax cannot start what JAX_PLATFORMS asks for
        from jaxcl.training.errors import UserError

        raise UserError(str(error).splitlines()[0]) from error
    print(json.dumps(found, indent=1) if known.json else report(found))
    return 0
