"""Errors that a user can mend: the command line prints them without a traceback."""


class UserError(ValueError):
    """Something in the experiment, its data or its files is not as it must be.

    The message names the thing, what came, what was expected and what to do.
    """


class DivergedError(UserError):
    """The loss is no longer a number."""


class DataError(UserError):
    """Examples could not be read while training; the state before is saved."""
