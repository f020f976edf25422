"""Networks over samples of sound: strided convolutions to frames, and a recurrence over frames.

Both also run in a stream, part by part: called with `carry=()` at its beginning, they return a
carry beside their outputs, for the call with the next part. All outputs together are those of one
call with all parts together.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl.augment import to_samples
from jaxcl.choices import check_choices


class SampleConvolutions(nn.Module):
    """Strided convolutions over time, each with its activation: samples to frames.

    The defaults are CPC's (van den Oord et al., 2018, section 3.1): a frame every 160 samples, of
    465 samples, none of them later than its own. `wav2vec_front` has those of wav2vec 2.0.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> front = SampleConvolutions(width=8)
      >>> frames, _ = front.init_with_output(jax.random.key(0), jnp.zeros((2, 16000)))
      >>> frames.shape
      (2, 98, 8)
    """

    width: int = 512
    """Channels."""
    kernels: tuple[int, ...] = (10, 8, 4, 4, 4)
    """Samples, or frames of the layer before, that each layer sees."""
    strides: tuple[int, ...] = (5, 4, 2, 2, 2)
    """And from one of its frames to the next."""
    activation: Literal["relu", "gelu"] = "relu"
    """After each layer."""
    norm: Literal["none", "first", "each"] = "none"
    """With "first" each channel of the first layer is normalized over time; with "each" the
    channels of each frame, in every layer."""
    bias: bool = True
    """Give layers a bias."""

    @nn.compact
    def __call__(
        self,
        sound: jax.Array,
        *,
        train: bool = False,
        axis_name: str | None = None,
        carry: Any = None,
    ) -> Any:
        """Maps samples [N, T], int16 or floats from -1 to 1, to frames [N, F, width].

        Args:
          sound: the samples; in a stream the next ones, however many.
          train: changes nothing.
          axis_name: changes nothing.
          carry: in a stream what the call before returned, () at first; None: the whole sound.

        Returns:
          The frames; in a stream those that are complete now, and the carry.

        Raises:
          ValueError: for another rank, clips shorter than a frame, or a stream through a norm over
            all times.
        """
        del train, axis_name
        check_choices(self)
        if len(self.kernels) != len(self.strides):
            raise ValueError(
                f"SampleConvolutions: kernels {self.kernels} and strides {self.strides} are of "
                "different numbers of layers"
            )
        streams = carry is not None
        if streams and self.norm == "first":
            raise ValueError(
                "SampleConvolutions with norm 'first' cannot stream: it normalizes over all times"
            )
        if streams and any(s > k for k, s in zip(self.kernels, self.strides, strict=True)):
            raise ValueError(
                f"SampleConvolutions cannot stream with strides {self.strides} above kernels "
                f"{self.kernels}"
            )
        if sound.ndim != 2 or (sound.shape[1] < self.field and not streams):
            raise ValueError(
                f"SampleConvolutions takes samples [N, T], T at least {self.field}; got shape "
                f"{sound.shape}"
            )
        x = to_samples(sound)[..., None]
        rests = []
        for layer, (kernel, stride) in enumerate(zip(self.kernels, self.strides, strict=True)):
            if streams:
                x = jnp.concatenate([carry[layer], x], axis=1) if carry else x
                count = max((x.shape[1] - kernel) // stride + 1, 0)
                rests.append(x[:, count * stride :])
                if not count:
                    x = jnp.zeros((len(x), 0, self.width))
                    continue
            x = nn.Conv(
                self.width,
                (kernel,),
                strides=stride,
                padding="VALID",
                use_bias=self.bias,
                kernel_init=nn.initializers.he_normal(),
                name=f"conv{layer}",
            )(x)
            if layer == 0 and self.norm == "first":
                x = nn.GroupNorm(num_groups=None, group_size=1, epsilon=1e-5, name="norm")(x)
            elif self.norm == "each":
                x = nn.LayerNorm(epsilon=1e-5, name=f"norm{layer}")(x)
            x = nn.relu(x) if self.activation == "relu" else nn.gelu(x, approximate=False)
        return (x, tuple(rests)) if streams else x

    @property
    def field(self) -> int:
        """Samples that one frame is of."""
        seen = 1
        for kernel, stride in zip(self.kernels[::-1], self.strides[::-1], strict=True):
            seen = (seen - 1) * stride + kernel
        return seen


def wav2vec_front(width: int = 512) -> SampleConvolutions:
    """The convolutions of wav2vec 2.0's base (Baevski et al., 2020): a frame every 320 samples."""
    return SampleConvolutions(
        width,
        kernels=(10, 3, 3, 3, 3, 2, 2),
        strides=(5, 2, 2, 2, 2, 2, 2),
        activation="gelu",
        norm="first",
        bias=False,
    )


class Recurrence(nn.Module):
    """A gated recurrence (GRU) over frames: each output knows the frames up to its own."""

    width: int = 256
    """Of the outputs."""

    @nn.compact
    def __call__(
        self,
        frames: jax.Array,
        *,
        train: bool = False,
        axis_name: str | None = None,
        carry: Any = None,
    ) -> Any:
        """Maps frames [N, F, C] to [N, F, width].

        Args:
          frames: in a stream the next ones.
          train: changes nothing.
          axis_name: changes nothing.
          carry: in a stream what the call before returned, () at first; None: all frames.

        Returns:
          The outputs; in a stream with the carry.
        """
        del train, axis_name
        cells = nn.RNN(nn.GRUCell(self.width), name="gru")
        if carry is None:
            return jnp.asarray(cells(frames))
        if not frames.shape[1]:
            return jnp.zeros((len(frames), 0, self.width)), carry
        after, outputs = cells(frames, initial_carry=carry[0] if carry else None, return_carry=True)
        return outputs, (after,)
