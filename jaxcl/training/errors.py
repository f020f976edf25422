"""Errors that a user can mend: the command line prints them without a traceback."""

TAKES_LESS_MEMORY = (
    "less is taken by a smaller batch, more devices, --method.encoder.dtype bfloat16, "
    "--method.encoder.remat products (or blocks), --run.micro-batch, and of the state by "
    "--run.spread-state --run.mapping shard_map"
)


class UserError(ValueError):
    """Something in the experiment, its data or its files is not as it must be.

    The message names the thing, what came, what was expected and what to do.
    """


class DivergedError(UserError):
    """The loss is no longer a number."""


class DataError(UserError):
    """Examples could not be read while training; the state before is saved."""
