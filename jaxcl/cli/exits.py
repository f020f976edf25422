"""How commands end."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

USAGE_ERROR = 2
SIGNALLED = 128
"""Added to the number of the signal."""
LOST = 75
"""EX_TEMPFAIL: to start again is enough."""


def mendable() -> tuple[type[Exception], ...]:
    """The errors that a user can mend, which need no traceback."""
    from jaxcl.extras import MissingExtra
    from jaxcl.training.errors import UserError

    return UserError, OSError, MissingExtra


@contextmanager
def of_the_users() -> Iterator[None]:
    """Within it a wrong value is the user's, not jaxcl's own: the error is a `UserError`."""
    try:
        yield
    except (ValueError, OverflowError) as error:
        from jaxcl.training.errors import UserError

        raise UserError(str(error)) from error


def complain(error: Exception, *, where: str = "") -> int:
    """Prints what is wrong, in a line, and returns `USAGE_ERROR`."""
    text = str(error)
    print(f"jaxcl: error: {'' if text.startswith(where) else where}{text}", file=sys.stderr)
    return USAGE_ERROR
