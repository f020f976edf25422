"""What networks draw at random while they train, such as the branches that drop path leaves out."""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from jaxcl.encoders.drop_path import number_rows


@dataclasses.dataclass(frozen=True)
class Draws:
    """A key, and the examples that draws hang on.

    Drop path draws by the key and the number of each example and view, so that the same are drawn
    on any number of devices and in micro-batches. Flax's `Dropout`, whose rows have no numbers,
    draws by the key and the first of the examples: other draws on each device and in each
    micro-batch.
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
        dropout = jax.random.fold_in(self.key, self.index[0])
        with number_rows(numbers.reshape(-1)):
            yield {"drop_path": self.key, "dropout": dropout}
