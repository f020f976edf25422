"""The head of COLA and CURL: a layer, its norm, and tanh."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class TanhProjector(nn.Module):
    """A dense layer, layer normalization and tanh: entries from -1 to 1 for a learned product.

    COLA (Saeed et al., 2020) has 512 of them, CURL (Laskin et al., 2020) 50.
    """

    dim: int = 512
    """Width of the embeddings."""

    @nn.compact
    def __call__(
        self, inputs: jax.Array, *, train: bool = False, axis_name: str | None = None
    ) -> jax.Array:
        """Maps features [N, F] to embeddings [N, dim]."""
        del train, axis_name
        x = nn.Dense(self.dim, name="dense")(inputs.astype(jnp.float32))
        return jnp.tanh(nn.LayerNorm(epsilon=1e-5, name="norm")(x))
