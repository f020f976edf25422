"""How commands end."""

import sys

USAGE_ERROR = 2
SIGNALLED = 128
"""Added to the number of the signal."""
LOST = 75
"""EX_TEMPFAIL: to start again is enough."""


def complain(error: Exception, *, where: str = "") -> int:
    """Prints what is wrong, in a line, and returns `USAGE_ERROR`."""
    text = str(error)
    print(f"jaxcl: error: {'' if text.startswith(where) else where}{text}", file=sys.stderr)
    return USAGE_ERROR
