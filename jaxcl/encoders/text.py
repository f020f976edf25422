"""Transformers over tokens: BERT's family, CLIP's causal text tower, and a modern one."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl.choices import Dtype, check_choices
from jaxcl.encoders.remat import Remat, remat_block

Pool = Literal["mean", "class", "max", "last", "none"]
"""mean, max: over the tokens that are there. class: the first token. last: the last one that is
there. none: no pooling, [N, T, width]."""

_START = nn.initializers.normal(0.02)


class TextTransformer(nn.Module):
    """A transformer over tokens (Vaswani et al., 2017) without a language-model head.

    Tokens are int32 [N, T]; below 0 stands nothing (padding), which no token attends to and no
    pooling counts. So features do not depend on T. `bert`, `clip_text` and `modern_text` make the
    usual ones.

    Weights start normal with deviation 0.02, biases at 0; with norms in front of layers, those that
    write into the shortcut 1 / sqrt(2 depth) smaller (Radford et al., 2019).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> encoder = bert(1000, width=64, depth=2, heads=4)
      >>> tokens = jnp.array([[5, 17, 9, 3], [5, 8, 3, -1]])
      >>> variables = jax.eval_shape(encoder.init, jax.random.key(0), tokens)
      >>> jax.eval_shape(encoder.apply, variables, tokens).shape
      (2, 64)
    """

    vocabulary: int
    """Number of tokens; ids are 0 to this, excluded."""
    width: int = 384
    """Width of the tokens' vectors."""
    depth: int = 6
    """Number of layers."""
    heads: int = 12
    """Attention heads; they divide the width."""
    hidden: int | None = None
    """Width inside the MLP of a layer; None: four times the width."""
    max_length: int = 512
    """Most tokens of a text."""
    positions: Literal["learned", "rotary"] = "learned"
    """A learned vector added to each place, or queries and keys turned by their place (RoPE: Su et
    al., 2021)."""
    position_offset: int = 0
    """Rows of the table of learned positions before that of the first token; RoBERTa has 2."""
    types: int = 0
    """Token types (segments), a learned vector each; BERT has 2."""
    norm: Literal["layer", "rms"] = "layer"
    """LayerNorm, or RMSNorm (Zhang & Sennrich, 2019)."""
    norm_place: Literal["post", "pre"] = "post"
    """After each shortcut and the embeddings (BERT), or in front of each layer and at the end."""
    epsilon: float = 1e-12
    """Of the norms."""
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"] = "gelu"
    """Of the MLP. "gelu" is exact; "quick_gelu", x sigmoid(1.702 x), is what OpenAI's CLIP has."""
    gated: bool = False
    """Multiply the activation by a second linear map of its input (Shazeer, 2020)."""
    bias: bool = True
    """Whether linear maps, and LayerNorms, have biases."""
    causal: bool = False
    """Tokens see those before them only."""
    pool: Pool = "mean"
    """What becomes the features."""
    pooler: bool = False
    """Linear map and tanh of what was pooled, as BERT's of its class token."""
    dropout: float = 0.0
    """Rate, of embeddings and of what a layer adds to its shortcut. In a call of your own it takes
    `train=True` and `rngs={"dropout": key}`."""
    attention_dropout: float = 0.0
    """Rate, of attention weights. What is drawn hangs on how far the batch is padded, too."""
    remat: Remat = "none"
    """What is kept for the gradient and what computed again (see `Remat`)."""
    dtype: Dtype = "float32"
    """Type of the computation; parameters, and softmax and norms inside, are float32."""

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        *,
        types: jax.Array | None = None,
        train: bool = False,
        axis_name: str | None = None,
    ) -> jax.Array:
        """Maps tokens to features.

        Args:
          tokens: [N, T] integers, below 0 where no token stands; a text starts at the left.
          types: [N, T] integers, the tokens' types; None: 0.
          train: dropout; changes nothing else.
          axis_name: changes nothing; no statistics cross devices.

        Returns:
          [N, width] features in float32, 0 for a text without tokens; [N, T, width] without pool.

        Raises:
          ValueError: for another rank, longer texts than `max_length`, or dimensions that do not
            fit.
          TypeError: for tokens that are no integers.
        """
        check_choices(self)
        self._check(tokens, types)
        there = tokens >= 0  # [N, T]
        x = self._embed(tokens, types)
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        layer = remat_block(TextLayer, self.remat, static=(3,))
        for index in range(self.depth):
            x = layer(**self._of_layers, name=f"layer_{index}")(x, there, train)
        if self.norm_place == "pre":
            x = self._norm("final_norm")(x)
        if self.pool == "none":
            return x.astype(jnp.float32)
        pooled = pool_tokens(x.astype(jnp.float32), there, self.pool)
        if self.pooler:
            dense = nn.Dense(self.width, kernel_init=_START, dtype=self.dtype, name="pooler")
            pooled = jnp.tanh(dense(pooled)).astype(jnp.float32)
            pooled = jnp.where(there.any(1, keepdims=True), pooled, 0)
        return pooled

    @property
    def undecayed(self) -> tuple[str, ...]:
        """Paths of parameters that weight decay leaves alone: the tables of embeddings."""
        return (
            "tokens",
            *(("positions",) if self.positions == "learned" else ()),
            *(("types",) if self.types else ()),
        )

    @property
    def _of_layers(self) -> dict[str, Any]:
        pre = self.norm_place == "pre"
        return {
            "width": self.width,
            "heads": self.heads,
            "hidden": 4 * self.width if self.hidden is None else self.hidden,
            "rotary": self.positions == "rotary",
            "norm": self.norm,
            "norm_place": self.norm_place,
            "epsilon": self.epsilon,
            "activation": self.activation,
            "gated": self.gated,
            "bias": self.bias,
            "causal": self.causal,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "out_deviation": 0.02 / (2 * self.depth) ** 0.5 if pre else 0.02,
            "dtype": self.dtype,
        }

    def _embed(self, tokens: jax.Array, types: jax.Array | None) -> jax.Array:
        """Vectors [N, T, width] of the tokens, with what is added of places and types."""
        table = self.param("tokens", _START, (self.vocabulary, self.width), jnp.float32)
        x = jnp.take(table, jnp.maximum(tokens, 0), axis=0)
        if self.positions == "learned":
            rows = self.position_offset + self.max_length
            places = self.param("positions", _START, (rows, self.width), jnp.float32)
            x += places[self.position_offset : self.position_offset + tokens.shape[1]]
        if self.types:
            of_types = self.param("types", _START, (self.types, self.width), jnp.float32)
            x += of_types[0] if types is None else jnp.take(of_types, types, axis=0)
        if self.norm_place == "post":
            x = self._norm("embed_norm")(x)
        return x.astype(self.dtype)

    def _norm(self, name: str) -> nn.Module:
        return make_norm(self.norm, self.epsilon, self.bias, self.dtype, name)

    def _check(self, tokens: jax.Array, types: jax.Array | None) -> None:
        if min(self.vocabulary, self.width, self.depth, self.heads) < 1 or self.width % self.heads:
            raise ValueError(
                f"TextTransformer of vocabulary {self.vocabulary}, width {self.width}, depth "
                f"{self.depth} and {self.heads} heads: give positive numbers, and heads that "
                "divide the width"
            )
        if self.pooler and self.pool == "none":
            raise ValueError("TextTransformer: a pooler takes what was pooled, and pool is 'none'")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"TextTransformer: {name} must be 0 to below 1, got {getattr(self, name)}"
                )
        if self.positions == "rotary" and self.width // self.heads % 2:
            raise ValueError(
                f"TextTransformer: rotary positions turn pairs, and a head is "
                f"{self.width // self.heads} wide: give an even width a head"
            )
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise TypeError(f"TextTransformer takes integer tokens, got {tokens.dtype}")
        if tokens.ndim != 2:
            raise ValueError(f"TextTransformer takes tokens [N, T]; got shape {tokens.shape}")
        if tokens.shape[1] > self.max_length:
            raise ValueError(
                f"texts of {tokens.shape[1]} tokens are longer than TextTransformer.max_length "
                f"{self.max_length}: cut them (max_length of the data), or set max_length higher"
            )
        if types is not None and (not self.types or types.shape != tokens.shape):
            raise ValueError(
                f"token types have shape {types.shape}, expected {tokens.shape}"
                if self.types
                else "TextTransformer has no token types (types is 0), but some were given"
            )


class TextLayer(nn.Module):
    """Self-attention and an MLP, each beside a shortcut and with a norm."""

    width: int
    heads: int
    hidden: int
    rotary: bool
    norm: str
    norm_place: str
    epsilon: float
    activation: str
    gated: bool
    bias: bool
    causal: bool
    dropout: float
    attention_dropout: float
    out_deviation: float
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, there: jax.Array, train: bool) -> jax.Array:
        """Maps [N, T, width] to the same; `there` [N, T] bool says where tokens stand."""
        x = self._beside("attention", x, lambda y: self._attend(y, there, train), train)
        return self._beside("mlp", x, self._mlp, train)

    def _beside(self, name: str, x: jax.Array, layer: Any, train: bool) -> jax.Array:
        """A layer beside its shortcut, with dropout, and the norm where it stands."""
        norm = make_norm(self.norm, self.epsilon, self.bias, self.dtype, f"{name}_norm")
        drop = nn.Dropout(self.dropout, name=f"{name}_dropout")
        if self.norm_place == "pre":
            return x + drop(layer(norm(x)), deterministic=not train)
        y: jax.Array = norm(x + drop(layer(x), deterministic=not train))
        return y

    def _attend(self, x: jax.Array, there: jax.Array, train: bool) -> jax.Array:
        rows, length, width = x.shape
        query, key, value = (
            self._dense(width, name)(x).reshape(rows, length, self.heads, -1)
            for name in ("query", "key", "value")
        )
        if self.rotary:
            query, key = rotate(query), rotate(key)
        if train and self.attention_dropout:
            y = self._attend_with_dropout(query, key, value, there)
        else:
            y = jax.nn.dot_product_attention(
                query, key, value, mask=there[:, None, None, :], is_causal=self.causal
            )
        return self._dense(width, "out", self.out_deviation)(y.reshape(x.shape))

    def _attend_with_dropout(
        self, query: jax.Array, key: jax.Array, value: jax.Array, there: jax.Array
    ) -> jax.Array:
        """As `jax.nn.dot_product_attention`, which has no dropout of its weights."""
        logits = (
            jnp.einsum("nqhd,nkhd->nhqk", query, key, preferred_element_type=jnp.float32)
            * query.shape[-1] ** -0.5
        )
        seen = there[:, None, None, :]
        if self.causal:
            length = query.shape[1]
            seen = seen & jnp.tril(jnp.ones((length, length), bool))
        lowest = 0.7 * jnp.finfo(jnp.float32).min  # as there: finite, for a row that sees nothing
        weights = jax.nn.softmax(jnp.where(seen, logits, lowest)).astype(value.dtype)
        weights = nn.Dropout(self.attention_dropout, name="weights_dropout")(
            weights, deterministic=False
        )
        return jnp.einsum("nhqk,nkhd->nqhd", weights, value)

    def _mlp(self, x: jax.Array) -> jax.Array:
        activate, up = _ACTIVATIONS[self.activation], self._dense(self.hidden, "up")(x)
        y = activate(self._dense(self.hidden, "gate")(x)) * up if self.gated else activate(up)
        return self._dense(self.width, "down", self.out_deviation)(y)

    def _dense(self, width: int, name: str, deviation: float = 0.02) -> nn.Dense:
        return nn.Dense(
            width,
            use_bias=self.bias,
            kernel_init=nn.initializers.normal(deviation),
            dtype=self.dtype,
            name=name,
        )


_ACTIVATIONS = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": nn.gelu,
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "relu": nn.relu,
    "silu": nn.silu,
}


def make_norm(kind: str, epsilon: float, bias: bool, dtype: str, name: str) -> nn.Module:
    """A LayerNorm or an RMSNorm, its statistics in float32."""
    if kind == "rms":
        return nn.RMSNorm(epsilon, dtype=dtype, name=name)
    return nn.LayerNorm(epsilon, dtype=dtype, use_bias=bias, name=name)


def pool_tokens(x: jax.Array, there: jax.Array, pool: Pool) -> jax.Array:
    """One vector of each text, of the tokens that are there; 0 where there are none.

    Args:
      x: [N, T, D].
      there: [N, T] bool.
      pool: as in `TextTransformer`.

    Returns:
      [N, D].

    Example:
      >>> x, there = jnp.array([[[1.0], [3.0], [9.0]]]), jnp.array([[True, True, False]])
      >>> [float(pool_tokens(x, there, pool)[0, 0]) for pool in ("mean", "class", "max", "last")]
      [2.0, 1.0, 3.0, 3.0]
    """
    count = there.sum(1, keepdims=True)  # [N, 1]
    if pool == "mean":
        return jnp.sum(x, 1, where=there[..., None]) / jnp.maximum(count, 1)
    if pool == "max":
        pooled = jnp.max(x, 1, where=there[..., None], initial=jnp.finfo(x.dtype).min)
    else:
        place = jnp.maximum(count - 1, 0) if pool == "last" else jnp.zeros_like(count)
        pooled = jnp.take_along_axis(x, place[..., None], axis=1)[:, 0]
    return jnp.where(count > 0, pooled, 0)


def rotate(x: jax.Array, base: float = 10_000.0) -> jax.Array:
    """Rotary positions (Su et al., 2021, eq. 34): pair i of the token at place t turned by
    t * base^(-2i / D); the pairs are entries i and i + D / 2, as in Llama and ModernBERT.

    Args:
      x: [N, T, heads, D] queries or keys, D even.
      base: of the wavelengths.

    Returns:
      [N, T, heads, D]; products of two depend on the distance of their places alone.
    """
    half = x.shape[-1] // 2
    frequencies = base ** (-jnp.arange(half) / half)
    angles = jnp.arange(x.shape[1])[:, None, None] * frequencies  # [T, 1, D / 2]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate(
        [
            first * jnp.cos(angles) - second * jnp.sin(angles),
            second * jnp.cos(angles) + first * jnp.sin(angles),
        ],
        axis=-1,
    )
    return turned.astype(x.dtype)


def bert(
    vocabulary: int,
    *,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    max_length: int = 512,
    pool: Pool = "mean",
    dropout: float = 0.1,
    **others: Any,
) -> TextTransformer:
    """BERT (Devlin et al., 2019) and its kin: MiniLM-L6 is width 384, depth 6, heads 12; RoBERTa
    has `types=1, position_offset=2, epsilon=1e-5`.

    Args:
      vocabulary: number of tokens.
      width: of the tokens' vectors.
      depth: number of layers.
      heads: of the attention.
      max_length: most tokens of a text.
      pool: what becomes the features; sentence-transformers' models have "mean".
      dropout: rate, also of attention weights.
      **others: other fields of `TextTransformer`.
    """
    own = {"types": 2, "attention_dropout": dropout, **others}
    return TextTransformer(
        vocabulary, width, depth, heads, max_length=max_length, pool=pool, dropout=dropout, **own
    )


def clip_text(
    vocabulary: int = 49_408,
    *,
    width: int = 512,
    depth: int = 12,
    heads: int = 8,
    max_length: int = 77,
    **others: Any,
) -> TextTransformer:
    """CLIP's text tower (Radford et al., 2021, section 2.4): causal, norms in front, the features
    those of the last token, which has to be the end of the text.

    Args:
      vocabulary: number of tokens; CLIP's byte pairs are 49,408.
      width: of the tokens' vectors.
      depth: number of layers.
      heads: of the attention.
      max_length: most tokens of a text.
      **others: other fields of `TextTransformer`; OpenAI's weights are of "quick_gelu".
    """
    own = {"norm_place": "pre", "epsilon": 1e-5, "causal": True, "pool": "last", **others}
    return TextTransformer(vocabulary, width, depth, heads, max_length=max_length, **own)


def modern_text(
    vocabulary: int,
    *,
    width: int = 384,
    depth: int = 6,
    heads: int = 6,
    max_length: int = 512,
    **others: Any,
) -> TextTransformer:
    """As encoders are built today: rotary positions, RMSNorm in front, gated MLPs (SwiGLU), no
    biases (Touvron et al., 2023, section 2.2; both directions, as ModernBERT: Warner et al., 2024).

    Args:
      vocabulary: number of tokens.
      width: of the tokens' vectors.
      depth: number of layers.
      heads: of the attention.
      max_length: most tokens of a text.
      **others: other fields of `TextTransformer`; its `hidden` is here two thirds of the usual, so
        that a gated layer has as many parameters.
    """
    own = {
        "hidden": 8 * width // 3,
        "positions": "rotary",
        "norm": "rms",
        "norm_place": "pre",
        "epsilon": 1e-6,
        "activation": "silu",
        "gated": True,
        "bias": False,
        **others,
    }
    return TextTransformer(vocabulary, width, depth, heads, max_length=max_length, **own)
