"""`jaxcl export` and `jaxcl convert`."""

import argparse
from pathlib import Path
from typing import Any

from jaxcl.cli.configs import OWN_CLASSES, experiment_of


def add(verbs: Any) -> None:
    """Adds the verbs to those of the program."""
    parser = verbs.add_parser("export", help="write a run's encoder for other libraries")
    parser.add_argument("run_dir", metavar="RUN_DIR")
    parser.add_argument(
        "--to",
        required=True,
        metavar="FORMAT",
        help="safetensors, torchvision, timm, huggingface, onnx or stablehlo",
    )
    parser.add_argument("--out", required=True, metavar="FOLDER")
    parser.add_argument("--tower", metavar="NAME", help="of several; default: the first")
    parser.add_argument("--heads", action="store_true", help="with the projector")
    parser.add_argument(
        "--push", metavar="OWNER/NAME", help="to this repository of the Hugging Face hub, too"
    )
    parser.add_argument("--private", action="store_true", help="if it is made, for you alone")
    parser.add_argument("--config", metavar="CONFIG", help=OWN_CLASSES)
    parser.set_defaults(run=export)

    parser = verbs.add_parser("convert", help="rewrite an image encoder of another library")
    parser.add_argument("weights", metavar="WEIGHTS", help="file, folder or OWNER/NAME of the hub")
    parser.add_argument("--revision", help="branch, tag or commit, where they are of the hub")
    parser.add_argument("--out", required=True, metavar="FOLDER")
    parser.add_argument(
        "--to",
        default="safetensors",
        metavar="FORMAT",
        help="safetensors (jaxcl's own, default), torchvision, timm or huggingface",
    )
    parser.add_argument(
        "--part", metavar="NAME", help="what stands before the encoder's names, of several"
    )
    parser.set_defaults(run=convert)


def export(known: argparse.Namespace) -> int:
    """Writes a run's encoder, and prints where."""
    from jaxcl.export import export_run

    run = Path(known.run_dir)
    print(
        export_run(
            run,
            Path(known.out),
            to=known.to,
            tower=known.tower,
            heads=known.heads,
            push=known.push,
            private=known.private,
            experiment=experiment_of(run, known.config),
        )
    )
    return 0


def convert(known: argparse.Namespace) -> int:
    """Writes another's encoder anew, and prints what it is."""
    from jaxcl.cli.exits import of_the_users
    from jaxcl.export.weights import convert_weights

    with of_the_users():
        print(
            convert_weights(
                known.weights,
                Path(known.out),
                to=known.to,
                part=known.part,
                revision=known.revision,
            )
        )
    return 0
