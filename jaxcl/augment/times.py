"""What is drawn of the times of one recording: windows, positives and negatives, masks. Pure
functions of a key."""

import jax
import jax.numpy as jnp


def window_start(key: jax.Array, length: int, window: int) -> jax.Array:
    """Where a window begins: every place as likely.

    Args:
      key: of the draw.
      length: times that there are.
      window: times of the window.

    Returns:
      Scalar int32, 0 to length - window.

    Raises:
      ValueError: if the window is longer, or empty.
    """
    if not 1 <= window <= length:
        raise ValueError(f"a window of {window} times does not fit into {length}")
    return jax.random.randint(key, (), 0, length - window + 1)


def near_and_far(
    key: jax.Array, length: int, *, near: int, far: int, count: int = 1
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A time, one near it, and some far from it (time-contrastive, single view: Sermanet et al.,
    2018).

    The time is even over all that have both; the near one over the others at most `near` away; each
    far one, independently, over those more than `far` away.

    Args:
      key: of the draw.
      length: times that there are.
      near: at least 1.
      far: at least `near`.
      count: far ones.

    Returns:
      Time and near time, scalars int32, and [count] far ones.

    Raises:
      ValueError: where no time has both.

    Example:
      >>> import jax
      >>> [int(x.squeeze()) for x in near_and_far(jax.random.key(1), 3, near=1, far=1)]
      [2, 1, 0]
    """
    if not 1 <= near <= far or count < 1:
        raise ValueError(f"near {near}, far {far} and count {count}: expected 1 <= near <= far")
    apart = jnp.abs(jnp.arange(length)[:, None] - jnp.arange(length))
    is_near, is_far = (apart > 0) & (apart <= near), apart > far
    if length < far + 2:
        raise ValueError(
            f"of {length} times none has one more than {far} away: take longer windows, or far "
            "smaller"
        )
    time_key, near_key, far_key = jax.random.split(key, 3)
    time = _one_of(time_key, is_near.any(1) & is_far.any(1))
    negatives = jax.vmap(lambda key: _one_of(key, is_far[time]))(jax.random.split(far_key, count))
    return time, _one_of(near_key, is_near[time]), negatives


def far_times(
    key: jax.Array, length: int, *, far: int, count: int = 1
) -> tuple[jax.Array, jax.Array]:
    """A time, and some far from it: for several views of each time (multi-view: Sermanet et al.,
    2018).

    Args:
      key: of the draw.
      length: times that there are.
      far: the others are more than this away; 0 or more.
      count: of the others.

    Returns:
      The time, a scalar int32, even over those that have far ones, and [count] of these.

    Raises:
      ValueError: where no time has one.
    """
    if far < 0 or length < far + 2:
        raise ValueError(
            f"of {length} times none has one more than {far} away: take longer windows, or far "
            "smaller"
        )
    is_far = jnp.abs(jnp.arange(length)[:, None] - jnp.arange(length)) > far
    time_key, far_key = jax.random.split(key)
    time = _one_of(time_key, is_far.any(1))
    return time, jax.vmap(lambda key: _one_of(key, is_far[time]))(jax.random.split(far_key, count))


def in_order(key: jax.Array, length: int, count: int) -> jax.Array:
    """Different times, earlier first: every choice as likely.

    Args:
      key: of the draw.
      length: times that there are.
      count: how many, at most `length`.

    Returns:
      [count] int32, rising.

    Raises:
      ValueError: if there are not so many.
    """
    if not 1 <= count <= length:
        raise ValueError(f"{count} different times cannot be taken of {length}")
    return jnp.sort(jax.random.permutation(key, length)[:count]).astype(jnp.int32)


def span_mask(key: jax.Array, length: int, *, share: float, span: int) -> jax.Array:
    """Spans of times that are hidden (wav2vec 2.0: Baevski et al., 2020, section 3.1).

    A share of all times, at least one, are drawn without replacement, and each begins a span; spans
    may overlap, and end where the recording does.

    Args:
      key: of the draw.
      length: times that there are.
      share: of them that begin a span, 0 to 1.
      span: times of one.

    Returns:
      [length] bool, True where it is hidden.

    Raises:
      ValueError: if share or span are out of range.
    """
    if not 0 < share <= 1 or span < 1:
        raise ValueError(f"share {share} and span {span}: expected 0 < share <= 1, span at least 1")
    count = max(1, round(share * length))
    starts = jax.random.permutation(key, length)[:count, None]
    times = jnp.arange(length)
    return ((times >= starts) & (times < starts + span)).any(0)


def masked_others(key: jax.Array, masked: jax.Array, count: int) -> jax.Array:
    """For each time some other times that are hidden, each even over all of them, with replacement.

    Args:
      key: of the draw.
      masked: [T] bool, which are hidden.
      count: how many for each.

    Returns:
      [T, count] int32 times; of one that is not hidden, or alone is, any.
    """
    length = masked.shape[0]
    first = jnp.argsort(~masked, stable=True)  # the hidden ones, in order, then the others
    rank = jnp.cumsum(masked) - 1  # of a hidden one among them
    others = jnp.maximum(masked.sum() - 1, 1)
    drawn = jax.random.randint(key, (length, count), 0, others)
    drawn += drawn >= rank[:, None]
    return first[jnp.minimum(drawn, length - 1)].astype(jnp.int32)


def _one_of(key: jax.Array, allowed: jax.Array) -> jax.Array:
    """The number of a True entry of [T] bool, each as likely."""
    drawn = jax.random.randint(key, (), 0, jnp.maximum(allowed.sum(), 1))
    return jnp.argmax(jnp.cumsum(allowed) > drawn).astype(jnp.int32)
