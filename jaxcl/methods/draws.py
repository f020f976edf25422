"""What networks draw at random while they train, such as the branches that drop path leaves out."""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from jaxcl.encoders.numbered_rows import number_rows


@dataclasses.dataclass(frozen=True)
class Draws:
    """A key, and the examples that draws hang on.

    Drop path and flax's `Dropout` draw by the key and the number of each example and view, so that
    the same are drawn on any number of devices and in micro-batches.
    """

    key: jax.Array
    """The step's; what a network draws hangs on its name too."""
    index: jax.Array
    """[n] integers, the number of each example."""

    def part(self, number: int) -> "Draws":
        """Other draws for the same examples: those of another view, size or network."""
        return dataclasses.replace(self, key=jax.random.fold_in(self.key, number))

    @contextlib.contextmanager
    def streams(self, rows: int) -> Iterator[dict[str, jax.Array]]:
        """The streams of random numbers for one call of a network, which is made within.

        Args:
          rows: rows of the call's inputs: of one view of each example, or of several views one
            after another.
        """
        views = rows // len(self.index)
        numbers = self.index * views + jnp.arange(views, dtype=jnp.int32)[:, None]  # [V, n]
        with number_rows(numbers.reshape(-1)):
            yield {"drop_path": self.key, "dropout": self.key}
