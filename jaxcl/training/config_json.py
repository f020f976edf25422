"""Experiments as JSON data and back, by name among jaxcl's own classes: nothing is executed."""

import dataclasses
import functools
import importlib
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any

_CLASS = "class"
_HIDDEN = ("parent", "name")  # what flax adds to the fields of every module


def to_data(value: Any) -> Any:
    """A tree of dataclasses as dictionaries, lists and plain values.

    Raises:
      TypeError: for a value that JSON cannot hold, naming its type.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        fields = {name: to_data(getattr(value, name)) for name in config_fields(value)}
        return {_CLASS: f"{kind.__module__}.{kind.__qualname__}", **fields}
    if isinstance(value, tuple | list):
        return [to_data(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"an experiment holds numbers, strings and dataclasses, not {value!r}")


def from_data(data: Any, known: Mapping[str, type] = types.MappingProxyType({})) -> Any:
    """What `to_data` came from.

    Args:
      data: plain values.
      known: classes beside jaxcl's own, as `classes_of` names them; where files have other names
        by now, the class's own name will do.

    Raises:
      ValueError: for a class that is neither, fields that it does not have, or a value that is not
        of its field's type.
    """
    if isinstance(data, list):
        return tuple(from_data(item, known) for item in data)
    if not isinstance(data, dict):
        return data
    kind = _known_class(str(data.get(_CLASS)), known) or _own_class(data.get(_CLASS))
    fields = {name: from_data(value, known) for name, value in data.items() if name != _CLASS}
    unknown = sorted(fields.keys() - {field.name for field in dataclasses.fields(kind)})
    if unknown:
        raise ValueError(
            f"config.json: {kind.__name__} has no field {unknown[0]!r}; it was written by another "
            "version. Resume by giving the config file again"
        )
    for name, value in fields.items():
        wanted = _field_types(kind).get(name, Any)
        if not _fits(value, wanted):
            expected = inspect.formatannotation(wanted)
            raise ValueError(f"{kind.__name__}.{name} is {data[name]!r}, expected {expected}")
    return kind(**fields)


def classes_of(value: Any) -> dict[str, type]:
    """Those classes in a tree of dataclasses that are not jaxcl's, by their names in `to_data`."""
    if isinstance(value, tuple | list):
        return {name: kind for item in value for name, kind in classes_of(item).items()}
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return {}
    found = classes_of([getattr(value, name) for name in config_fields(value)])
    kind = type(value)
    if kind.__module__.split(".")[0] != "jaxcl":
        found[f"{kind.__module__}.{kind.__qualname__}"] = kind
    return found


def config_fields(value: Any) -> list[str]:
    """Names of the fields of a dataclass that a config sets."""
    fields = [field.name for field in dataclasses.fields(value) if field.init]
    is_module = hasattr(value, "scope") and hasattr(value, "parent")
    return [name for name in fields if not (is_module and name in _HIDDEN)]


def differences(
    old: dict[str, Any], new: dict[str, Any], *, ignore: tuple[str, ...] = ()
) -> list[str]:
    """What differs between two experiments, a line each: `method.temperature: 0.2 there, 0.1 here`.

    Args:
      old: an experiment as data, of any classes.
      new: another.
      ignore: parts of the experiment that may differ.
    """
    lines: list[str] = []
    for name in new:
        if name not in ignore:
            _compare(name, old.get(name), new[name], lines)
    return lines


def _compare(path: str, old: Any, new: Any, lines: list[str]) -> None:
    if isinstance(old, dict) and isinstance(new, dict) and old.get(_CLASS) == new.get(_CLASS):
        for name in old:
            _compare(f"{path}.{name}", old[name], new.get(name), lines)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for position, (one, other) in enumerate(zip(old, new, strict=True)):
            _compare(f"{path}.{position}", one, other, lines)
    elif old != new:
        lines.append(f"{path}: {_short(old)} there, {_short(new)} here")


def _short(data: Any) -> str:
    return data[_CLASS].rsplit(".", 1)[-1] if isinstance(data, dict) else repr(data)


@functools.cache
def _field_types(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a value is of a type; yes for types that say more than is checked here."""
    parts = typing.get_args(wanted)
    origin = typing.get_origin(wanted) or wanted
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is typing.Literal:
        return value in parts
    if origin is tuple and isinstance(value, tuple):
        if len(parts) == 2 and parts[1] is Ellipsis:
            return all(_fits(item, parts[0]) for item in value)
        return len(value) == len(parts) and all(map(_fits, value, parts))
    if origin is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if origin is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin) if inspect.isclass(origin) else True


def _known_class(name: str, known: Mapping[str, type]) -> type | None:
    bare = [kind for each, kind in known.items() if each.split(".")[-1] == name.split(".")[-1]]
    is_jaxcls = name.split(".")[0] == "jaxcl"
    return known.get(name) or (bare[0] if len(bare) == 1 and not is_jaxcls else None)


def _own_class(name: Any) -> type:
    """The class of that name, looked up in jaxcl's own modules only."""
    module_name, _, class_name = str(name).rpartition(".")
    if module_name.split(".")[0] == "jaxcl":
        try:
            found = getattr(importlib.import_module(module_name), class_name, None)
        except ModuleNotFoundError:
            found = None
        if inspect.isclass(found) and dataclasses.is_dataclass(found):
            return found
    raise ValueError(
        f"config.json names {name}, which is not a class of jaxcl: give its config file, as "
        "in: jaxcl train RUN_DIR --config CONFIG, or: jaxcl evaluate RUN_DIR --config CONFIG"
    )
