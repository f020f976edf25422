"""`jaxcl train`: alone, or as one of several processes."""

import argparse
import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxcl.cli.configs import OWN_CLASSES, load_config
from jaxcl.cli.evaluate import evaluate
from jaxcl.cli.exits import LOST, SIGNALLED, USAGE_ERROR, complain, mendable
from jaxcl.cli.kept_report import KeptReport
from jaxcl.compilation import keep_pages

if TYPE_CHECKING:
    from rich.console import Console

    from jaxcl.training import Experiment
    from jaxcl.training.profiling import Profile


def add(verbs: Any) -> None:
    """Adds the verb to those of the program."""
    parser = verbs.add_parser(
        "train",
        help="train from a config file, or go on with a run",
        usage="jaxcl train CONFIG|RUN_DIR [--out RUN_DIR] [--config CONFIG] "
        "[--population FIELD=[VALUE,...]] [--profile FIRST:LAST] [--report-every STEPS] "
        "[--coordinator HOST:PORT --processes N --process I] [--dotted.option VALUE ...]",
        description="Trains an experiment, or resumes the run in a directory. "
        "`jaxcl train CONFIG --help` lists every option of that experiment with its default.",
        add_help=False,
    )
    parser.add_argument("target", nargs="?", metavar="CONFIG|RUN_DIR")
    parser.add_argument("--out", metavar="RUN_DIR", help="default: runs/ and the config's name")
    parser.add_argument("--config", metavar="CONFIG", help=f"of a run directory: {OWN_CLASSES}")
    parser.add_argument(
        "--population",
        metavar="FIELD=[VALUE,...]",
        help="train one member a value, all in one program, as in 'method.temperature=[0.1,0.2]'",
    )
    parser.add_argument(
        "--profile", metavar="FIRST:LAST", help="trace these steps for jax's profiler, as in 10:15"
    )
    parser.add_argument(
        "--report-every",
        type=int,
        metavar="STEPS",
        help="write report.html in the run so often, and at the end (see jaxcl report)",
    )
    parser.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="where several processes train: address of the first (srun, mpirun on one host and "
        "TPU pods say this and the next two by themselves)",
    )
    parser.add_argument("--processes", type=int, metavar="N", help="how many there are")
    parser.add_argument("--process", type=int, metavar="I", help="which this one is, from 0")
    parser.set_defaults(run=functools.partial(train, parser), dotted_options=True)


def train(parser: argparse.ArgumentParser, known: argparse.Namespace, options: list[str]) -> int:
    """Trains, and says what goes wrong."""
    asked = bool({"-h", "--help"} & {*options})
    if known.target is None:
        parser.print_help(sys.stdout if asked else sys.stderr)
        return 0 if asked else USAGE_ERROR
    if asked:  # the experiment's options follow
        parser.print_help()
        print()

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
    except mendable() as error:
        ending.ended = True
        if lifeline is not None:
            lifeline.leave(str(error))
        index = None if launch is None else launch.index
        return complain(error, where="" if index is None else f"process {index}: ")
    except BaseException as error:
        if lifeline is None:
            raise
        # Of a collective, where a process that it waits for has ended.
        if isinstance(error, RuntimeError) and ending.told.wait(10):
            os._exit(LOST)  # jax would wait for the lost one, and abort
        lifeline.leave(f"{type(error).__name__}: {error}")
        raise


def _train_here(
    known: argparse.Namespace, options: list[str], *, finish: Callable[[], None] = lambda: None
) -> int:
    """Trains, alone or as one of several processes, and evaluates in the first, once all others
    may `finish`."""
    import jax
    from rich.console import Console

    from jaxcl.training import train
    from jaxcl.training.config_json import classes_of
    from jaxcl.training.processes import all_or_none, is_first, of_first

    if jax.default_backend() == "cpu":
        keep_pages()
    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    with all_or_none():
        experiment, directory, profile = _asked(known, options)
    if known.population is not None:
        return _train_population(experiment, known.population, directory, console)
    if known.out is None and not Path(known.target).is_dir():
        directory = Path(of_first(str(directory)))  # which another may find taken already
    speaks = is_first()
    config = known.config or (None if Path(known.target).is_dir() else known.target)
    kept = KeptReport(directory, known.report_every, config if classes_of(experiment) else None)
    try:
        listeners = [kept] if known.report_every is not None else []
        outcome = train(
            experiment, directory, console=console, profile=profile, listeners=listeners
        )
    finally:
        kept.end()
    finish()
    if outcome.stopped_by is not None:
        if speaks:
            config = known.config or known.target
            own = f" --config {config}" if classes_of(experiment) else ""
            console.print(
                f"stopped after step {outcome.step} of {outcome.total_steps}. "
                f"Go on with: jaxcl train {directory}{own}"
            )
        return SIGNALLED + outcome.stopped_by
    if not speaks:
        return 0
    console.print(f"trained {outcome.step} steps; the run is in {directory}")
    if experiment.evaluate is not None or experiment.tasks:
        console.print(
            "evaluating: the encoder before and after training, beside simple features ..."
        )
        evaluate(directory, experiment)
    if known.report_every is not None:
        from jaxcl.reports import write_report

        console.print(write_report([directory], kept.path, experiments=[experiment]))
    return 0


def _asked(
    known: argparse.Namespace, options: list[str]
) -> "tuple[Experiment, Path, Profile | None]":
    """The experiment that a command line asks for, where it is kept, and the steps to trace."""
    from jaxcl.overrides import override
    from jaxcl.training import RunDirectory, free_directory
    from jaxcl.training.errors import UserError
    from jaxcl.training.profiling import Profile

    target, population = Path(known.target), known.population
    profile = None if known.profile is None else Profile.parse(known.profile)
    if profile is not None and population is not None:
        raise UserError("--profile goes with one run, not with --population")
    if known.report_every is not None:
        if population is not None:
            raise UserError("--report-every goes with one run, not with --population")
        if known.report_every < 1:
            raise UserError(f"--report-every is {known.report_every}: give at least 1 step")
    if target.is_dir():
        if known.out is not None:
            raise UserError("--out goes with a config file; a run directory resumes in place")
        if population is not None:
            raise UserError("--population goes with a config file, and --out of its own")
        directory = target
        like = None if known.config is None else load_config(Path(known.config))
        experiment = RunDirectory(directory).read_experiment(like)
    else:
        if known.config is not None:
            raise UserError("--config goes with a run directory, whose classes it has")
        experiment = load_config(target)
        name = target.stem if population is None else "population"
        directory = Path(known.out) if known.out else free_directory(Path("runs") / name)
    experiment = override(experiment, options, program=f"jaxcl train {known.target}")
    return experiment, directory, profile


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
        return SIGNALLED + outcome.stopped_by
    console.print(f"trained {outcome.step} steps of each; the members are in {directory}")
    print(report_population(population, directory))
    return 0


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
        complain(ValueError(said))
        self.told.set()
        if is_first():
            time.sleep(10)  # for what is being written
        os._exit(LOST)  # jax would wait for the lost one, and abort
