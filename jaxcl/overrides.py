"""Options of the command line that override any leaf of an experiment by its dotted path."""

import ast
import contextlib
import dataclasses
import functools
import inspect
import io
import itertools
import re
import textwrap
import types
import typing
from collections.abc import Sequence
from typing import Annotated, Any

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from jaxcl.training.config_json import config_fields
from jaxcl.training.errors import UserError
from jaxcl.training.experiment import Experiment

_TITLES = (
    "Parsing error",
    "Value error",
    "Invalid choice",
    "Missing argument",
    "Unrecognized options",
)


def override(experiment: Experiment, arguments: Sequence[str], *, program: str) -> Experiment:
    """The experiment with options such as `--method.temperature 0.1` applied.

    Args:
      experiment: gives the defaults, and by its classes the options that there are.
      arguments: what stands on the command line.
      program: how the command begins, for `--help`.

    Returns:
      Another experiment of the same classes.

    Raises:
      UserError: for an unknown option (naming the nearest), or a value out of type or range.
      SystemExit: after printing help.
    """
    if "--help" in arguments or "-h" in arguments:
        return _parse(experiment, ["--help"], program)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(complaint):
            return _parse(experiment, arguments, program)
    except SystemExit as error:
        raise UserError(_in_one_line(complaint.getvalue())) from error


def _parse(experiment: Experiment, arguments: Sequence[str], program: str) -> Experiment:
    registry = ConstructorRegistry()
    registry.struct_rule(_by_value)
    return tyro.cli(
        Experiment,
        prog=program,
        args=list(arguments),
        default=experiment,
        registry=registry,
        use_underscores=True,
        description="Options of this experiment. Beside them: --out RUN_DIR, where the run goes.",
    )


def _by_value(info: StructTypeInfo) -> StructConstructorSpec | None:
    """A dataclass as options for its fields, typed by the values that they have.

    The elements of a tuple of dataclasses are options too: named by their class where classes
    differ (the steps of a view), else by their position (the views).
    """
    instance = info.default
    if not dataclasses.is_dataclass(instance) or isinstance(instance, type):
        return None
    kind = type(instance)
    hints, documentation = typing.get_type_hints(kind), _field_docs(kind)
    options, collected = [], {}
    for name in config_fields(instance):
        value = getattr(instance, name)
        if _is_dataclass_tuple(value):
            collected[name] = _element_names(value)
            options += [
                StructFieldSpec(option, type(element), element)
                for option, element in zip(collected[name], value, strict=True)
            ]
        else:
            options.append(
                StructFieldSpec(
                    name, _option_type(hints[name], value), value, documentation.get(name)
                )
            )

    def instantiate(**values: Any) -> Any:
        for name, elements in collected.items():
            values[name] = tuple(values.pop(element) for element in elements)
        return kind(**values)

    return StructConstructorSpec(instantiate=instantiate, fields=tuple(options))


def _option_type(annotation: Any, value: Any) -> Any:
    """What an option takes: the class of a part, else the annotation without classes of parts."""
    if dataclasses.is_dataclass(value):
        return type(value)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        plain = [part for part in typing.get_args(annotation) if not _is_part(part)]
        if plain in ([], [type(None)]):
            return Annotated[Any, tyro.conf.Fixed]  # a part that is absent stays absent
        return functools.reduce(lambda one, other: one | other, plain)
    return annotation


def _is_part(annotation: Any) -> bool:
    return inspect.isclass(annotation) and dataclasses.is_dataclass(annotation)


def _is_dataclass_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(map(dataclasses.is_dataclass, value))


def _element_names(elements: tuple[Any, ...]) -> list[str]:
    if len({type(element) for element in elements}) == 1:
        return [str(position) for position in range(len(elements))]
    names: list[str] = []
    for element in elements:
        inner = getattr(element, "transform", element)  # RandomApply goes by what it applies
        base = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(inner).__name__).lower()
        number = sum(name.split("-")[0] == base for name in names) + 1
        names.append(base if number == 1 else f"{base}-{number}")
    return names


@functools.cache
def _field_docs(kind: type) -> dict[str, str]:
    """The strings that stand below the fields of a class and of those it derives from."""
    documentation: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(owner) or owner.__module__.startswith("flax."):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body  # type: ignore[attr-defined]
        for field, below in itertools.pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                documentation[field.target.id] = " ".join(str(below.value.value).split())
    return documentation


def _in_one_line(complaint: str) -> str:
    """tyro's message without its frame, its titles and its hints at other commands."""
    said: list[str] = []
    for line in complaint.splitlines():
        line = line.strip(" │╭╮╰╯─")
        if line.startswith(("For full helptext", "Debugging", "Argument helptext")):
            break
        if line.strip("-") and line not in _TITLES:
            said.append(line)
    wrong, _, hint = " ".join(said).partition(" Perhaps you meant:")
    nearest = list(dict.fromkeys(re.findall(r"--[\w.-]+", hint)))[:3]
    return f"{wrong}. Perhaps you meant {' or '.join(nearest)}" if nearest else wrong
