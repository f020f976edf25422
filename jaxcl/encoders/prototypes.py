"""The layer of prototypes, in SwAV's form and in DINO's."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl.choices import Dtype, check_choices
from jaxcl.similarity import l2_normalize


class Prototypes(nn.Module):
    """Cosines between rows and learned unit vectors.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> y, variables = Prototypes(10).init_with_output(jax.random.key(0), jnp.ones((2, 4)))
      >>> y.shape, variables["params"]["kernel"].shape
      ((2, 10), (4, 10))
    """

    count: int
    """How many."""
    weight_norm: bool = False
    """Normalize vectors in the forward pass, their lengths not learned (DINO), or leave that to who
    updates them (SwAV)."""
    dtype: Dtype = "float32"
    """Type of the product; parameters are float32."""

    @nn.compact
    def __call__(
        self, inputs: jax.Array, *, train: bool = False, axis_name: str | None = None
    ) -> jax.Array:
        """Maps rows to scores.

        Args:
          inputs: [N, D], normalized here.
          train: changes nothing.
          axis_name: changes nothing.

        Returns:
          [N, count] in float32, -1 to 1.
        """
        check_choices(self)
        kernel = self.param("kernel", _unit_columns, (inputs.shape[-1], self.count))
        if self.weight_norm:
            kernel = l2_normalize(kernel.T).T
        rows = l2_normalize(inputs).astype(self.dtype)
        return jnp.matmul(rows, kernel.astype(self.dtype)).astype(jnp.float32)


def _unit_columns(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    return l2_normalize(jax.random.normal(key, shape[::-1])).T
