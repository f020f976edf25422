"""Packages that not everyone needs: imported when used, named with the line that installs them."""

import importlib
from typing import Any


class MissingExtra(ImportError):
    """A package that is not installed; the message has the line that installs it."""


def import_extra(module: str, extra: str) -> Any:
    """A module of a package that one of jaxcl's extras brings.

    Args:
      module: its name.
      extra: the extra, as `pip install "jaxcl[extra]"` takes it.

    Raises:
      MissingExtra: if it is not installed, with the line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise MissingExtra(
            f'{package} is not installed, which this needs: pip install "jaxcl[{extra}]"'
        ) from error
