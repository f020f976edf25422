"""Networks over frames of speech: wav2vec 2.0's transformer and quantizer, GE2E's recurrence."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl.choices import Dtype, check_choices
from jaxcl.encoders.series import PoolTimes, pool_times
from jaxcl.encoders.text import TextLayer

_START = nn.initializers.normal(0.02)


class FrameTransformer(nn.Module):
    """A transformer over frames, places told by a convolution (wav2vec 2.0: Baevski et al., 2020,
    section 2).

    The defaults are the paper's base model. Frames are normalized and mapped to the width; those
    that are masked give way to a learned vector.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> encoder = FrameTransformer(width=32, depth=1, heads=4)
      >>> y, _ = encoder.init_with_output(jax.random.key(0), jnp.zeros((2, 49, 16)))
      >>> y.shape
      (2, 49, 32)
    """

    width: int = 768
    """Of the outputs."""
    depth: int = 12
    """Number of layers."""
    heads: int = 12
    """Attention heads; they divide the width."""
    place_kernel: int = 128
    """Frames that the convolution of places sees."""
    place_groups: int = 16
    """Groups of its channels; they divide the width."""
    dropout: float = 0.1
    """Rate, of the first layer's inputs and of what a layer adds to its shortcut."""
    attention_dropout: float = 0.1
    """Rate, of attention weights."""
    norm_place: Literal["pre", "post"] = "post"
    """Where layers have their norms: behind them as BERT's (the base model), or before them, with
    one after the last (the large one)."""
    pool: PoolTimes = "none"
    """What becomes the features."""
    dtype: Dtype = "float32"
    """Type of the layers' computation; parameters are float32."""

    @nn.compact
    def __call__(
        self,
        frames: jax.Array,
        *,
        masked: jax.Array | None = None,
        train: bool = False,
        axis_name: str | None = None,
    ) -> jax.Array:
        """Maps frames [N, F, C] to [N, F, width], or [N, width] with a pool.

        Args:
          frames: the frames.
          masked: [N, F] bool, frames that are hidden; None: none.
          train: dropout.
          axis_name: changes nothing.

        Raises:
          ValueError: for another rank, or heads or groups that do not divide the width.
        """
        del axis_name
        check_choices(self)
        if frames.ndim != 3 or self.width % self.heads or self.width % self.place_groups:
            raise ValueError(
                f"FrameTransformer of width {self.width}, {self.heads} heads and "
                f"{self.place_groups} groups takes frames [N, F, C], and heads and groups that "
                f"divide the width; got shape {frames.shape}"
            )
        x = nn.LayerNorm(epsilon=1e-5, name="input_norm")(frames)
        x = nn.Dense(self.width, kernel_init=_START, name="project")(x)
        vector = self.param("mask", nn.initializers.uniform(1.0), (self.width,), jnp.float32)
        if masked is not None:
            x = jnp.where(masked[..., None], vector, x)
        half = self.place_kernel // 2
        deviation = (4 / (self.place_kernel * self.width)) ** 0.5
        places = nn.Conv(
            self.width,
            (self.place_kernel,),
            padding=[(half, self.place_kernel - 1 - half)],
            feature_group_count=self.place_groups,
            kernel_init=nn.initializers.normal(deviation),
            name="places",
        )(x)
        x = x + nn.gelu(places, approximate=False)
        norm = nn.LayerNorm(epsilon=1e-5, name="norm")
        if self.norm_place == "post":
            x = norm(x)
        x = nn.Dropout(self.dropout)(x, deterministic=not train).astype(self.dtype)
        there = jnp.ones(x.shape[:2], bool)
        for index in range(self.depth):
            x = TextLayer(
                width=self.width,
                heads=self.heads,
                hidden=4 * self.width,
                rotary=False,
                norm="layer",
                norm_place=self.norm_place,
                epsilon=1e-5,
                activation="gelu",
                gated=False,
                bias=True,
                causal=False,
                dropout=self.dropout,
                attention_dropout=self.attention_dropout,
                out_deviation=0.02,
                dtype=self.dtype,
                name=f"layer_{index}",
            )(x, there, train)
        x = x.astype(jnp.float32)
        if self.norm_place == "pre":
            x = norm(x)
        return pool_times(x, self.pool)

    @property
    def undecayed(self) -> tuple[str, ...]:
        """Paths of parameters that weight decay leaves alone."""
        return ("mask",)


class ProductQuantizer(nn.Module):
    """Frames to codes: of each of several codebooks an entry, side by side and mapped to a width
    (wav2vec 2.0: Baevski et al., 2020, eq. 1).

    Called, it takes the most likely entries. To train, weigh the entries by `jax.nn.softmax` of
    what `scores` gives, with Gumbel noise, and look them up by `codes`.
    """

    groups: int = 2
    """Codebooks."""
    entries: int = 320
    """Of each."""
    width: int = 256
    """Of the entries of all books together; the groups divide it."""
    out: int = 256
    """Of the codes."""

    def setup(self) -> None:
        """Parameters."""
        if self.width % self.groups:
            raise ValueError(
                f"ProductQuantizer: {self.groups} groups do not divide the width {self.width}"
            )
        shape = (self.groups, self.entries, self.width // self.groups)
        self.norm = nn.LayerNorm(epsilon=1e-5)
        self.book = self.param("book", nn.initializers.uniform(1.0), shape, jnp.float32)
        self.score = nn.Dense(self.groups * self.entries, kernel_init=nn.initializers.normal(1.0))
        self.project = nn.Dense(self.out, kernel_init=_START)

    def __call__(
        self, frames: jax.Array, *, train: bool = False, axis_name: str | None = None
    ) -> jax.Array:
        """Maps frames [N, F, C] to codes [N, F, out]."""
        del train, axis_name
        best = jnp.argmax(self.scores(frames), axis=-1)
        return self.codes(jax.nn.one_hot(best, self.entries))

    def scores(self, frames: jax.Array) -> jax.Array:
        """Log-odds [N, F, groups, entries] of the entries."""
        rows = self.score(self.norm(frames))
        return jnp.asarray(rows.reshape(*frames.shape[:2], self.groups, self.entries))

    def codes(self, weights: jax.Array) -> jax.Array:
        """Codes [N, F, out] of weights [N, F, groups, entries], which are of the entries."""
        found = jnp.einsum("nfge,ged->nfgd", weights, self.book)
        return jnp.asarray(self.project(found.reshape(*found.shape[:2], self.width)))

    @property
    def undecayed(self) -> tuple[str, ...]:
        """Paths of parameters that weight decay leaves alone."""
        return ("book",)


class LSTMSpeaker(nn.Module):
    """Stacked LSTMs over frames, of which the last one's last state is projected: who speaks (GE2E:
    Wan et al., 2018, section 3).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> encoder = LSTMSpeaker(width=16, depth=2)
      >>> y, _ = encoder.init_with_output(jax.random.key(0), jnp.zeros((2, 160, 40)))
      >>> y.shape
      (2, 16)
    """

    width: int = 256
    """Of the states, and of the features."""
    depth: int = 3
    """Number of LSTMs."""
    output_relu: bool = True
    """Whether features below 0 become 0, as in published weights."""

    @nn.compact
    def __call__(
        self, frames: jax.Array, *, train: bool = False, axis_name: str | None = None
    ) -> jax.Array:
        """Maps frames [N, F, C], such as mel spectra, to features [N, width].

        Args:
          frames: F of about 160, 10 ms each, in published weights.
          train: changes nothing.
          axis_name: changes nothing.

        Raises:
          ValueError: for another rank, or no frames.
        """
        del train, axis_name
        if frames.ndim != 3 or not frames.shape[1]:
            raise ValueError(f"LSTMSpeaker takes frames [N, F, C]; got shape {frames.shape}")
        x = frames.astype(jnp.float32)
        for layer in range(self.depth):
            x = jnp.asarray(nn.RNN(nn.OptimizedLSTMCell(self.width, name=f"lstm_{layer}"))(x))
        x = nn.Dense(self.width, name="project")(x[:, -1])
        return nn.relu(x) if self.output_relu else x
