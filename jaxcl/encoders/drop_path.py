"""Drop path: residual branches that some examples skip while training."""

import flax.linen as nn
import jax


class DropPath(nn.Module):
    """Sets the branch of a random share of examples to 0 and scales up the others (stochastic
    depth, Huang et al., 2016).

    Draws from the stream `drop_path`: `module.apply(..., train=True, rngs={"drop_path": key})`.
    Without that stream, or without `train`, the branch passes unchanged. A row's draw hangs on its
    place in the batch, or on its number within `numbered_rows.number_rows`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> branch, key = jnp.ones((6, 1)), jax.random.key(0)
      >>> dropped = DropPath(0.5).apply({}, branch, train=True, rngs={"drop_path": key})
      >>> sorted(set(dropped[:, 0].tolist()))
      [0.0, 2.0]
    """

    rate: float
    """Share of examples that skip the branch, 0 to 1 (1 excluded)."""

    @nn.compact
    def __call__(
        self, branch: jax.Array, *, train: bool, rows: jax.Array | None = None
    ) -> jax.Array:
        """Drops some rows of `branch` [N, ...].

        Args:
          branch: [N, ...].
          train: whether to drop any.
          rows: [N] integers that the rows' draws hang on; None: their places.

        Raises:
          ValueError: for a rate outside [0, 1), or numbers of other rows than there are.
        """
        if not 0 <= self.rate < 1:
            raise ValueError(f"drop_path is {self.rate}: choose at least 0 and less than 1")
        if not train or self.rate == 0 or not self.has_rng("drop_path"):
            return branch
        keep, key = 1 - self.rate, self.make_rng("drop_path")
        if rows is None:
            kept = jax.random.bernoulli(key, keep, branch.shape[:1])
        elif len(rows) != len(branch):
            raise ValueError(
                f"drop path got {len(branch)} rows, expected the {len(rows)} that are numbered: "
                "let the network keep one row for each of its inputs"
            )
        else:
            kept = jax.vmap(lambda row: jax.random.bernoulli(jax.random.fold_in(key, row), keep))(
                rows
            )
        kept = kept.reshape(-1, *(1,) * (branch.ndim - 1))
        return branch * (kept / keep).astype(branch.dtype)


def drop_path_rates(last: float, blocks: int) -> tuple[float, ...]:
    """Rates that grow linearly over the blocks, from 0 to `last`."""
    return tuple(last * block / max(blocks - 1, 1) for block in range(blocks))
