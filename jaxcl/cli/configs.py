"""Config files: Python that makes an experiment."""

import dataclasses
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxcl.training import Experiment

# What --config is for.
OWN_CLASSES = "its config file, where that has classes of your own"
OTHER_PARTS = f"{OWN_CLASSES}, or names other data under evaluate"


def load_config(path: Path) -> "Experiment":
    """The experiment that a config file's `config()` returns.

    Raises:
      FileNotFoundError: if there is no such file.
      UserError: if it defines no `config()`, that returns no Experiment, or its code fails, naming
        the line.
    """
    import cloudpickle

    from jaxcl.training import Experiment
    from jaxcl.training.errors import UserError

    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is neither a config file nor a run directory: give a .py file that defines "
            "config(), such as configs/quickstart.py, before any option"
        )
    name = f"jaxcl_config_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.absolute())
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file: a config ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that classes defined in it can be looked up
    folder = str(path.parent.absolute())
    if folder not in sys.path:
        sys.path.append(folder)  # a config may import a file beside it
    cloudpickle.register_pickle_by_value(module)  # by which its classes go to worker processes
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


def experiment_of(directory: Path, config: str | None) -> "Experiment | None":
    """That of a run: all as it was trained; its config file gives classes of its own, and what to
    measure.

    Returns:
      The experiment; None without a config, for the run's own.

    Raises:
      FileNotFoundError: if there is no such run, or no such file.
      UserError: as `load_config`, or where the run has other classes.
    """
    if config is None:
        return None
    from jaxcl.training import RunDirectory

    given = load_config(Path(config))
    trained = RunDirectory(directory).read_experiment(given)
    return dataclasses.replace(trained, evaluate=given.evaluate, tasks=given.tasks)


def _line_of(error: Exception, path: Path) -> str:
    """Where in the file at `path` an error came up, as ", line 12"."""
    whole = path.absolute()  # as tracebacks name it
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == whole]
    if isinstance(error, SyntaxError) and error.filename == str(whole):
        lines.append(error.lineno)
    line = lines[-1] if lines else None
    return "" if line is None else f", line {line}"
