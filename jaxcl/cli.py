"""The command line: each verb calls one function of the library."""

import argparse
import dataclasses
import functools
import importlib.util
import inspect
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxcl import __version__
from jaxcl.compilation import (
    keep_pages,
    keep_programs,
    overlap_exchanges,
    prefer_fast_convolutions,
)

if TYPE_CHECKING:
    from rich.console import Console

    from jaxcl.training import Experiment

_USAGE_ERROR = 2
_SIGNALLED = 128
_LOST = 75  # EX_TEMPFAIL: to start again is enough


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code: 0, 2 for wrong input, 128 + n for signal n."""
    parser, train_parser = _parsers()
    known, rest = parser.parse_known_args(arguments)
    if rest and known.verb not in ("train", "views", "plan"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    prefer_fast_convolutions()  # before jax is imported
    overlap_exchanges()
    keep_programs()
    # jax 0.10 aborts in a CPU collective when steps are dispatched without waiting.
    os.environ.setdefault("JAX_CPU_ENABLE_ASYNC_DISPATCH", "0")
    _silence_failing_saves()
    if known.verb == "train" and known.target is None:
        asked = bool({"-h", "--help"} & {*rest})
        train_parser.print_help(sys.stdout if asked else sys.stderr)
        return 0 if asked else _USAGE_ERROR
    try:
        if known.verb == "train":
            return _train(known, rest)
        if known.verb == "evaluate":
            return _evaluate(Path(known.run_dir), known.config, known.corruptions)
        if known.verb == "finetune":
            return _finetune(known)
        if known.verb == "views":
            return _views(known, rest)
        if known.verb == "plan":
            return _plan(known, rest)
        if known.verb == "doctor":
            return _doctor(known)
        return _embed(known)
    except KeyboardInterrupt:
        print("jaxcl: interrupted", file=sys.stderr)
        return _SIGNALLED + signal.SIGINT


def _parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    parser = argparse.ArgumentParser(prog="jaxcl", description="Contrastive learning in JAX.")
    parser.add_argument("--version", action="version", version=f"jaxcl {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    train = verbs.add_parser(
        "train",
        help="train from a config file, or go on with a run",
        usage="jaxcl train CONFIG|RUN_DIR [--out RUN_DIR] [--population FIELD=[VALUE,...]] "
        "[--profile FIRST:LAST] "
        "[--coordinator HOST:PORT --processes N --process I] [--dotted.option VALUE ...]",
        description="Trains an experiment, or resumes the run in a directory. "
        "`jaxcl train CONFIG --help` lists every option of that experiment with its default.",
        add_help=False,
    )
    train.add_argument("target", nargs="?", metavar="CONFIG|RUN_DIR")
    train.add_argument("--out", metavar="RUN_DIR", help="default: runs/ and the config's name")
    train.add_argument(
        "--population",
        metavar="FIELD=[VALUE,...]",
        help="train one member a value, all in one program, as in 'method.temperature=[0.1,0.2]'",
    )

    train.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="where several processes train: address of the first (srun, mpirun on one host and "
        "TPU pods say this and the next two by themselves)",
    )
    train.add_argument("--processes", type=int, metavar="N", help="how many there are")
    train.add_argument(
        "--profile", metavar="FIRST:LAST", help="trace these steps for jax's profiler, as in 10:15"
    )
    train.add_argument("--process", type=int, metavar="I", help="which this one is, from 0")

    evaluate = verbs.add_parser("evaluate", help="measure what a run has learned")
    evaluate.add_argument("run_dir", metavar="RUN_DIR")
    own_classes = "its config file, where that has classes of your own"
    other_parts = f"{own_classes}, or names other data under evaluate"
    evaluate.add_argument("--config", metavar="CONFIG", help=other_parts)
    evaluate.add_argument(
        "--corruptions",
        nargs="*",
        type=int,
        metavar="SEVERITY",
        help="corrupt the test images too, at severities 1 to 5 (default: all)",
    )

    tune = verbs.add_parser("finetune", help="train a run's encoder on shares of the labels")
    tune.add_argument("run_dir", metavar="RUN_DIR")
    tune.add_argument("--config", metavar="CONFIG", help=other_parts)
    tune.add_argument(
        "--labels",
        nargs="+",
        type=float,
        metavar="SHARE",
        help="shares of the labels (default: 0.01 0.1 1)",
    )
    tune.add_argument("--draws", type=int, default=3, help="subsets of a share (default: 3)")
    tune.add_argument("--epochs", type=float, help="passes over the labels (default: 30)")
    tune.add_argument("--batch-size", type=int, help="examples a step (default: 128)")
    tune.add_argument("--learning-rate", type=float, help="AdamW's, at its peak (default: 0.002)")
    tune.add_argument("--weight-decay", type=float, help="AdamW's (default: 0.05)")
    tune.add_argument(
        "--layer-decay", type=float, help="learning rate of a layer to the next (default: 0.75)"
    )
    tune.add_argument("--seed", type=int, default=0, help="decides the draws (default: 0)")

    embed = verbs.add_parser("embed", help="write the features of images to a file")
    embed.add_argument("run_dir", metavar="RUN_DIR")
    embed.add_argument("input", metavar="INPUT", help="a folder of images, an image, or an .npz")
    embed.add_argument("--config", metavar="CONFIG", help=own_classes)
    embed.add_argument("--out", required=True, metavar="FILE.npz")
    embed.add_argument("--batch-size", type=int, default=256, help="images at once (default: 256)")
    embed.add_argument(
        "--array", default="image", help="name of the images in an .npz (default: image)"
    )

    views = verbs.add_parser(
        "views",
        help="draw what the views of a config look like",
        usage="jaxcl views CONFIG --out FILE.png [--examples N] [--seed N] "
        "[--dotted.option VALUE ...]",
        description="Prints a config's views, and draws what they make of examples from all over "
        "its data. The dotted options are those of `jaxcl train CONFIG --help`.",
    )
    views.add_argument("config", metavar="CONFIG")
    views.add_argument("--out", required=True, metavar="FILE.png")
    views.add_argument("--examples", type=int, default=8, help="rows (default: 8)")
    views.add_argument("--seed", type=int, default=0, help="decides the draws (default: 0)")

    doctor = verbs.add_parser(
        "doctor",
        help="devices, versions, flags and speed of this machine, and what to change",
    )
    doctor.add_argument("--json", action="store_true", help="one JSON document, no text")

    plan = verbs.add_parser(
        "plan",
        help="what a config needs on TPU slices, without any",
        usage="jaxcl plan CONFIG --topology CHIP:SHAPE [...] [--batch N ...] [--largest] "
        "[--examples N --image HxWxC [--classes N]] [--json] [--plot FILE.png] "
        "[--dotted.option VALUE ...]",
        description="Compiles a config's train step for TPU slices that need not be there: memory, "
        "flops, collectives, and what the time of a step cannot be below. Takes seconds to minutes "
        "a slice and batch; what was compiled is kept. The dotted options are those of `jaxcl "
        "train CONFIG --help`.",
    )
    plan.add_argument("config", metavar="CONFIG")
    plan.add_argument(
        "--topology",
        nargs="+",
        required=True,
        metavar="CHIP:SHAPE",
        help="slices, such as v5e:4x4 or v5p:4x4x8",
    )
    plan.add_argument(
        "--batch", nargs="+", metavar="N", help="of all chips (default: the config's)"
    )
    plan.add_argument("--largest", action="store_true", help="look for the largest batch that fits")
    plan.add_argument("--examples", type=int, metavar="N", help="plan without the data: how many")
    plan.add_argument("--image", metavar="HxWxC", help="and of which shape, such as 256x256x3")
    plan.add_argument("--classes", type=int, metavar="N", help="and of how many labels")
    plan.add_argument("--json", action="store_true", help="one JSON document, no table")
    plan.add_argument("--plot", metavar="FILE.png", help="draw memory and time there")
    return parser, train


def _train(known: argparse.Namespace, options: list[str]) -> int:
    from jaxcl.training.errors import UserError
    from jaxcl.training.processes import all_or_none, find_launch, join, part

    launch = lifeline = None
    ending = _EndWithOthers()
    try:
        launch = find_launch(
            os.environ,
            coordinator=known.coordinator,
            processes=known.processes,
            process=known.process,
        )
        if launch is not None:
            lifeline = join(launch, ending.on_loss)
        if lifeline is None:
            return _train_here(known, options)
        with all_or_none():
            if known.population is not None:
                raise UserError("--population trains in one process: start one")
        return _train_here(known, options, finish=functools.partial(part, lifeline))
    except (UserError, OSError) as error:
        ending.ended = True
        if lifeline is not None:
            lifeline.leave(str(error))
        index = None if launch is None else launch.index
        return _complain(error, where="" if index is None else f"process {index}: ")
    except BaseException as error:
        if lifeline is None:
            raise
        # Of a collective, where a process that it waits for has ended.
        if isinstance(error, RuntimeError) and ending.told.wait(10):
            os._exit(_LOST)  # jax would wait for the lost one, and abort
        lifeline.leave(f"{type(error).__name__}: {error}")
        raise


class _EndWithOthers:
    """Ends this process where another of the run has ended, and says which."""

    def __init__(self) -> None:
        self.told = threading.Event()
        self.ended = False
        """Whether this process ends by itself, and has said why."""

    def on_loss(self, index: int, words: str | None) -> None:
        from jaxcl.training.processes import is_first

        if words is not None:
            time.sleep(5)  # what ended that one most likely ends this one too, in its own words
            if self.ended:
                return
        said = f"process {index} of the run has ended: {words}"
        if words is None:
            said = f"lost process {index} of the run: look at what ended it, then start all again"
        _complain(ValueError(said))
        self.told.set()
        if is_first():
            time.sleep(10)  # for what is being written
        os._exit(_LOST)  # jax would wait for the lost one, and abort


def _train_here(
    known: argparse.Namespace, options: list[str], *, finish: Callable[[], None] = lambda: None
) -> int:
    """Trains, alone or as one of several processes, and evaluates in the first, once all others
    may `finish`."""
    import jax
    from rich.console import Console

    from jaxcl.overrides import override
    from jaxcl.training import RunDirectory, free_directory, train
    from jaxcl.training.errors import UserError
    from jaxcl.training.processes import all_or_none, is_first, of_first
    from jaxcl.training.profiling import Profile

    if jax.default_backend() == "cpu":
        keep_pages()
    target, out, population = known.target, known.out, known.population
    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    with all_or_none():
        profile = None if known.profile is None else Profile.parse(known.profile)
        if profile is not None and population is not None:
            raise UserError("--profile goes with one run, not with --population")
        if Path(target).is_dir():
            if out is not None:
                raise UserError("--out goes with a config file; a run directory resumes in place")
            if population is not None:
                raise UserError("--population goes with a config file, and --out of its own")
            directory = Path(target)
            experiment = RunDirectory(directory).read_experiment()
        else:
            experiment = load_config(Path(target))
            directory = Path(out) if out else free_directory(Path("runs") / Path(target).stem)
            if population is not None:
                directory = Path(out) if out else free_directory(directory.with_name("population"))
        experiment = override(experiment, options, program=f"jaxcl train {target}")
    if population is not None:
        return _train_population(experiment, population, directory, console)
    if out is None and not Path(target).is_dir():
        directory = Path(of_first(str(directory)))  # which another may find taken already
    outcome = train(experiment, directory, console=console, profile=profile)
    speaks = is_first()
    finish()
    if outcome.stopped_by is not None:
        if speaks:
            console.print(
                f"stopped after step {outcome.step} of {outcome.total_steps}. "
                f"Go on with: jaxcl train {directory}"
            )
        return _SIGNALLED + outcome.stopped_by
    if not speaks:
        return 0
    console.print(f"trained {outcome.step} steps; the run is in {directory}")
    return _evaluate(directory, experiment) if experiment.evaluate is not None else 0


def _train_population(
    experiment: "Experiment", text: str, directory: Path, console: "Console"
) -> int:
    from jaxcl.evaluation.populations import report_population
    from jaxcl.training import Population, train_population

    population = Population.parse(experiment, text)
    outcome = train_population(population, directory, console=console)
    if outcome.stopped_by is not None:
        console.print(
            f"stopped after step {outcome.step} of {outcome.total_steps}. "
            f"Go on by the same line with --out {directory}"
        )
        return _SIGNALLED + outcome.stopped_by
    console.print(f"trained {outcome.step} steps of each; the members are in {directory}")
    print(report_population(population, directory))
    return 0


def _evaluate(
    directory: Path, config: "str | Experiment | None", corruptions: list[int] | None = None
) -> int:
    from jaxcl.evaluation.corruptions import SEVERITIES
    from jaxcl.evaluation.runs import evaluate_run
    from jaxcl.training.errors import UserError

    try:
        experiment = load_config(Path(config)) if isinstance(config, str) else config
        severities = () if corruptions is None else corruptions or SEVERITIES
        print(evaluate_run(directory, experiment, severities=severities))
    except (UserError, OSError) as error:
        return _complain(error)
    return 0


def _finetune(known: argparse.Namespace) -> int:
    from jaxcl.evaluation.fine_tuning import FineTuning
    from jaxcl.evaluation.semi_supervised import SHARES, finetune_run
    from jaxcl.training.errors import UserError

    def given(*names: str) -> dict[str, Any]:
        return {name: getattr(known, name) for name in names if getattr(known, name) is not None}

    try:
        defaults = FineTuning()
        optimizer = dataclasses.replace(
            defaults.optimizer, **given("learning_rate", "weight_decay")
        )
        settings = dataclasses.replace(
            defaults, optimizer=optimizer, **given("epochs", "batch_size", "layer_decay")
        )
    except ValueError as error:
        return _complain(error)
    try:
        print(
            finetune_run(
                Path(known.run_dir),
                load_config(Path(known.config)) if known.config else None,
                shares=known.labels or SHARES,
                draws=known.draws,
                settings=settings,
                seed=known.seed,
            )
        )
    except (UserError, OSError) as error:
        return _complain(error)
    return 0


def _embed(known: argparse.Namespace) -> int:
    from jaxcl.evaluation.runs import embed_run
    from jaxcl.training.errors import UserError

    try:
        written = embed_run(
            Path(known.run_dir),
            Path(known.input),
            Path(known.out),
            batch_size=known.batch_size,
            array=known.array,
            experiment=load_config(Path(known.config)) if known.config else None,
        )
    except (UserError, OSError) as error:
        return _complain(error)
    print(written)
    return 0


def _views(known: argparse.Namespace, options: list[str]) -> int:
    from jaxcl.evaluation.contact_sheet import contact_sheet, save_contact_sheet
    from jaxcl.overrides import override
    from jaxcl.training.durable_files import write_durably
    from jaxcl.training.errors import UserError

    out = Path(known.out)
    try:
        if out.suffix != ".png" or out.is_dir():
            raise UserError(f"--out is {out}, expected a file that ends in .png")
        experiment = load_config(Path(known.config))
        experiment = override(experiment, options, program=f"jaxcl views {known.config}")
        sheet = contact_sheet(
            experiment.data.open(), experiment.views, examples=known.examples, seed=known.seed
        )
        write_durably(out, lambda file: save_contact_sheet(sheet, file))
    except (UserError, OSError, ValueError, OverflowError) as error:  # of data, views, seed
        return _complain(error)
    print(f"{experiment.views}\n\n{known.examples} examples: {out}")
    return 0


def _plan(known: argparse.Namespace, options: list[str]) -> int:
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
    try:
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
    except (UserError, OSError) as error:
        return _complain(error)
    return 0


def _doctor(known: argparse.Namespace) -> int:
    from jaxcl.doctor import examine, report

    try:
        found = examine()
    except RuntimeError as error:  # where jax cannot start what JAX_PLATFORMS asks for
        return _complain(ValueError(str(error).splitlines()[0]))
    print(json.dumps(found, indent=1) if known.json else report(found))
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


def load_config(path: Path) -> "Experiment":
    """The experiment that a config file's `config()` returns.

    Raises:
      FileNotFoundError: if there is no such file.
      UserError: if it defines no `config()`, that returns no Experiment, or its code fails, naming
        the line.
    """
    from jaxcl.training import Experiment
    from jaxcl.training.errors import UserError

    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is neither a config file nor a run directory: give a .py file that defines "
            "config(), such as configs/quickstart.py"
        )
    name = f"jaxcl_config_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file: a config ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that classes defined in it can be looked up
    try:
        spec.loader.exec_module(module)
        make = getattr(module, "config", None)
        if not inspect.isfunction(make):
            raise UserError(f"{path} defines no function config() -> jaxcl.training.Experiment")
        experiment = make()
    except UserError:
        raise
    except Exception as error:  # whatever the user's own code may raise
        raise UserError(
            f"{path}{_line_of(error, path)}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(experiment, Experiment):
        raise UserError(f"{path}: config() returned {experiment!r}, not a training.Experiment")
    return experiment


def _line_of(error: Exception, path: Path) -> str:
    """Where in the file at `path` an error came up, as ", line 12"."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    return "" if line is None else f", line {line}"


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


def _complain(error: Exception, *, where: str = "") -> int:
    text = str(error)
    print(f"jaxcl: error: {'' if text.startswith(where) else where}{text}", file=sys.stderr)
    return _USAGE_ERROR


if __name__ == "__main__":
    sys.exit(main())
