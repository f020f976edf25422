"""Options that are words: a wrong one is refused, not taken for another."""

import functools
import typing
from typing import Any, Literal, TypeAlias

Dtype: TypeAlias = Literal["float32", "bfloat16", "float16"]
"""Types that networks compute in; their parameters are float32."""


def check_choices(owner: Any) -> None:
    """Raises where a field with a `Literal` type holds a word that is none of its own, or one that
    is True or False holds a word.

    Args:
      owner: a dataclass or a linen module.

    Raises:
      ValueError: naming the field, what it holds and what was expected.
    """
    for name, words in _choices(owner.__class__).items():
        value = getattr(owner, name)
        if isinstance(value, str) and value not in words:
            expected = " or ".join(map(repr, words)) or "True or False"
            raise ValueError(f"{type(owner).__name__}: {name} is {value!r}, expected {expected}")


@functools.cache
def _choices(kind: Any) -> dict[str, tuple[Any, ...]]:
    hints = typing.get_type_hints(kind)
    return {
        name: typing.get_args(hint)
        for name, hint in hints.items()
        if hint is bool or typing.get_origin(hint) is typing.Literal
    }
