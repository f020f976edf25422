"""Random transforms of one text's tokens: [T] int32, below 0 where no token stands, texts at the
left."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxcl.augment.transforms import Compose, Transform, Views, check_probability


@dataclasses.dataclass(frozen=True)
class Unchanged(Transform):
    """The input as it is; views then differ by the encoder's dropout alone (SimCSE: Gao et al.,
    2021)."""

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        return image

    def __str__(self) -> str:
        return "unchanged"


@dataclasses.dataclass(frozen=True)
class MaskTokens(Transform):
    """Each token becomes the mask with probability `p`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> mask = MaskTokens(0.99, mask=4, keep=(2, 3))
      >>> mask(jax.random.key(0), jnp.array([2, 17, 9, 3, -1])).tolist()
      [2, 4, 4, 3, -1]
    """

    p: float = 0.15
    """Probability of each token."""
    mask: int = 4
    """The token that stands for what is not told, such as [MASK]."""
    keep: tuple[int, ...] = (2, 3)
    """Tokens that stay, such as [CLS] and [SEP]."""

    def __post_init__(self) -> None:
        check_probability(self, self.p)

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        return jnp.where(_chosen(key, image, self.p, self.keep), self.mask, image)


@dataclasses.dataclass(frozen=True)
class DeleteTokens(Transform):
    """Each token goes with probability `p`, and those after it move up.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> delete = DeleteTokens(0.99, keep=(2, 3))
      >>> delete(jax.random.key(0), jnp.array([2, 17, 9, 3, -1])).tolist()
      [2, 3, -1, -1, -1]
    """

    p: float = 0.1
    """Probability of each token."""
    keep: tuple[int, ...] = (2, 3)
    """Tokens that stay, such as [CLS] and [SEP]."""

    def __post_init__(self) -> None:
        check_probability(self, self.p)

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        gone = _chosen(key, image, self.p, self.keep) | (image < 0)
        order = jnp.argsort(gone, stable=True)
        return jnp.where(gone, -1, image)[order]


@dataclasses.dataclass(frozen=True)
class OneOf(Transform):
    """One of several texts [C, T], those without tokens left out: such as the captions of a picture
    in several languages. Without any, a text without tokens."""

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        there = (image >= 0).any(1)
        chosen = jax.random.categorical(key, jnp.where(there, 0.0, -jnp.inf))
        return image[jnp.where(there.any(), chosen, 0)]

    def __str__(self) -> str:
        return "one of the texts"


def texts(
    views: int = 2,
    *,
    field: str = "text",
    delete: float = 0.0,
    mask: float = 0.0,
    mask_token: int = 4,
    keep: tuple[int, ...] = (2, 3),
) -> Views:
    """Views of one text: tokens deleted, then masked; both left out at 0.

    Args:
      views: how many.
      field: of the record that they are of.
      delete: probability of each token.
      mask: probability of each token.
      mask_token: what stands for it; as `jaxcl tokenizer` makes it. BERT's own is 103.
      keep: tokens that stay, likewise; BERT's own are (101, 102), CLIP's (49406, 49407).
    """
    steps: list[Transform] = []
    if delete:
        steps.append(DeleteTokens(delete, keep=keep))
    if mask:
        steps.append(MaskTokens(mask, mask=mask_token, keep=keep))
    view = Compose(tuple(steps)) if steps else Unchanged()
    return Views((view,) * views, fields=field)


def _chosen(key: jax.Array, tokens: jax.Array, p: float, keep: tuple[int, ...]) -> jax.Array:
    """[T] bool: tokens that stand there and may change, each with probability `p`."""
    kept = jnp.isin(tokens, jnp.array(keep, tokens.dtype)) if keep else jnp.zeros(len(tokens), bool)
    drawn = jax.random.bernoulli(key, p, tokens.shape)
    return drawn & (tokens >= 0) & ~kept
