"""The multi-layer perceptron: an encoder of flat inputs, and every projector and predictor."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl.choices import Dtype, check_choices
from jaxcl.encoders.norm import BatchNorm


class MLP(nn.Module):
    """Dense layers with ReLU or GELU between them, and batch normalization where asked.

    Weights start as PyTorch's Linear: uniform within 1/sqrt(fan-in).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> y, _ = MLP((128, 64)).init_with_output(jax.random.key(0), jnp.ones((2, 28, 28, 1)))
      >>> y.shape
      (2, 64)
    """

    widths: tuple[int, ...]
    """Width of each layer; 0 stands for the width of the input."""
    batch_norm: bool = False
    """Normalize after every layer but the last (which then need no bias)."""
    output_norm: Literal["none", "affine", "plain"] = "none"
    """Normalize the output too, with a learned scale and bias or plainly."""
    output_bias: bool = True
    """Give the last layer a bias (where no norm follows it)."""
    output_relu: bool = False
    """End with the activation, as a hidden layer does."""
    activation: Literal["relu", "gelu"] = "relu"
    """What follows hidden layers."""
    batch_norm_groups: int | None = None
    """Who shares batch statistics; see `BatchNorm.groups`."""
    dtype: Dtype = "float32"
    """Type of the computation; parameters are float32."""

    @nn.compact
    def __call__(
        self, inputs: jax.Array, *, train: bool = False, axis_name: str | None = None
    ) -> jax.Array:
        """Maps inputs to outputs.

        Args:
          inputs: [N, ...], flattened to [N, F].
          train: use and update batch statistics.
          axis_name: mapped axis that batch statistics cross.

        Returns:
          [N, widths[-1]] in float32.
        """
        check_choices(self)
        if not self.widths or min(self.widths) < 0:
            raise ValueError(
                f"MLP widths are {self.widths}: give the width of each layer, as in (128, 64)"
            )
        x = inputs.reshape(inputs.shape[0], -1).astype(self.dtype)
        input_width = x.shape[-1]
        for layer, width in enumerate(self.widths):
            last = layer == len(self.widths) - 1
            norm = self.output_norm if last else ("affine" if self.batch_norm else "none")
            x = nn.Dense(
                width or input_width,
                use_bias=norm == "none" and (self.output_bias or not last),
                kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
                dtype=self.dtype,
                name=f"dense{layer}",
            )(x)
            if norm != "none":
                x = BatchNorm(
                    groups=self.batch_norm_groups,
                    affine=norm == "affine",
                    dtype=self.dtype,
                    name=f"norm{layer}",
                )(x, train=train, axis_name=axis_name)
            if not last or self.output_relu:
                x = nn.relu(x) if self.activation == "relu" else nn.gelu(x, approximate=False)
        return x.astype(jnp.float32)

    def first_layers(self, count: int) -> "MLP":
        """The MLP of this one's first layers; it takes this one's parameters.

        SimCLR v2 fine-tunes from inside its projector.

        Args:
          count: how many layers, 1 to len(widths).

        Raises:
          ValueError: for another count.
        """
        if not 1 <= count <= len(self.widths):
            raise ValueError(f"an MLP of {len(self.widths)} layers has no first {count}")
        if count == len(self.widths):
            return self
        return self.clone(
            widths=self.widths[:count],
            output_norm="affine" if self.batch_norm else "none",
            output_bias=True,
            output_relu=True,
        )
