"""Features of one field of all records: by a run's encoder, by counting tokens, by mean spectra."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcl.augment import LogMel, to_float
from jaxcl.data import Source, pad_tokens
from jaxcl.data.batches import bucket_length
from jaxcl.data.source import inputs_of
from jaxcl.evaluation.embedding import Prepare, evaluation_view, read_batches
from jaxcl.methods import MultiModal
from jaxcl.training import FieldFeatures, RestoredRun, TrainState


def encoded_fields(run: RestoredRun, state: TrainState, *, batch_size: int = 128) -> FieldFeatures:
    """The features of a run's encoder at a state: of several towers, embeddings in their space.

    Of a method that knows frames (`embed_frames`), moments of episodes are told in the course of
    their episode.

    Args:
      run: the run.
      state: of its parameters.
      batch_size: rows at once.

    Returns:
      What `FieldFeatures` says.
    """
    method = run.experiment.method
    of_views = run.experiment.views.of_each
    prepares: dict[str, Prepare] = {
        name: evaluation_view(run.experiment.views, one, name)
        for name, one in run.inputs.items()
        if len(one.shape) in (3, 4) and name in of_views
    }
    arrays = jax.device_put((state.params, state.method))
    embed_frames = getattr(method, "embed_frames", None)

    @functools.partial(jax.jit, static_argnames=("tower", "prepare", "frames"))
    def encode(
        arrays: Any, rows: jax.Array, tower: str | None, prepare: Prepare | None, frames: bool
    ) -> jax.Array:
        if prepare is not None:
            outer = rows.shape[:-3]
            images = jax.vmap(prepare)(rows.reshape(-1, *rows.shape[-3:]))
            rows = images.reshape(*outer, *images.shape[1:])
        params, of_method = arrays
        if tower is not None and isinstance(method, MultiModal):
            return method.embed(params, of_method, rows, tower=tower, project=True)
        if frames and embed_frames is not None:
            return jnp.asarray(embed_frames(params, of_method, rows))
        return method.embed(params, of_method, rows)

    def features(source: Source, field: str, *, frames: bool = False) -> np.ndarray:
        known = inputs_of(source[0])
        if field not in known:
            raise ValueError(f"records have no field {field!r}: they have {', '.join(known)}")
        if frames and embed_frames is None:
            raise ValueError(
                f"{type(method).__name__} makes one vector of a record, and this needs one of each "
                "frame"
            )
        tower = None
        if isinstance(method, MultiModal):
            names = dict(zip(of_views, [tower.name for tower in method.towers], strict=True))
            if field not in names:
                raise ValueError(
                    f"the run has no tower for the field {field!r}, its views are of "
                    f"{', '.join(of_views)}"
                )
            tower = names[field]
        prepare = None
        if known[field].ndim in (3, 4) and known[field].dtype != np.int32:
            prepare = prepares.get(field, next(iter(prepares.values()), to_float))
        trained_on = run.inputs.get(field, next(iter(run.inputs.values())))
        is_moment = known[field].ndim + 1 == len(trained_on.shape)
        groups = getattr(source, "groups", None)
        if is_moment and embed_frames is not None and groups is not None:
            run_one = functools.partial(encode, arrays, tower=tower, prepare=prepare, frames=True)
            return _by_episode(run_one, source, field, np.asarray(groups))
        run_one = functools.partial(encode, arrays, tower=tower, prepare=prepare, frames=frames)
        batches = read_batches(source, min(batch_size, len(source)), "embedding")
        if known[field].dtype == np.int32 and known[field].ndim in (1, 2):
            tokens = [record for batch in batches for record in batch[field]]
            return _text_features(run_one, tokens, batch_size)
        return np.concatenate([_padded(run_one, batch[field], batch_size) for batch in batches])

    return features


def raw_fields(source: Source, field: str, *, frames: bool = False) -> np.ndarray:
    """What records hold themselves, as rows: pixels, numbers of a moment, or of all times of a
    series. As `FieldFeatures`."""
    first = source[0][field]
    is_picture = first.ndim == 3 and first.dtype == np.uint8
    is_numbers = first.ndim in (1, 2, 3) and first.dtype.kind == "f"
    if frames or not (is_picture or is_numbers):
        raise NotCounted(f"field {field!r} holds no picture, no series and no numbers of a moment")
    batches = read_batches(source, min(128, len(source)), "reading")
    rows = [batch[field].reshape(len(batch[field]), -1).astype(np.float32) for batch in batches]
    return np.concatenate(rows)


def mean_spectra(front: LogMel) -> FieldFeatures:
    """Mean and deviation over time of each mel band: of sound, without any training.

    Args:
      front: makes the spectrograms.

    Returns:
      features(source, field) -> [N, 2 mels]; of frames their levels [N, F, mels].
    """

    @functools.partial(jax.jit, static_argnames="frames")
    def measure(sound: jax.Array, frames: bool) -> jax.Array:
        levels = front.of(sound)
        if frames:
            return levels
        return jnp.concatenate([levels.mean(1), levels.std(1)], axis=1)

    def features(source: Source, field: str, *, frames: bool = False) -> np.ndarray:
        if source[0][field].dtype != np.int16:
            raise NotCounted(f"field {field!r} holds no sound")
        batches = read_batches(source, min(128, len(source)), "measuring")
        of_batch = functools.partial(measure, frames=frames)
        return np.concatenate([_padded(of_batch, batch[field], 128) for batch in batches])

    return features


_MOST_COUNTS = 5 * 10**8  # numbers held at once, 2 GB


class NotCounted(ValueError):
    """A field of which a representation without training says nothing: one that holds no tokens, or
    those of another tokenizer, no sound, no numbers."""


def counted_fields(source: Source, fields: tuple[str, ...]) -> FieldFeatures:
    """Counts of tokens, each weighed by how rare it is in a source (TF-IDF): without any training.

    Args:
      source: training examples, of which some are counted.
      fields: its fields of texts.

    Returns:
      features(source, field) -> [N, vocabulary], or [N, C, vocabulary] of several texts a record.
    """
    from scipy.sparse import vstack
    from sklearn.feature_extraction.text import TfidfTransformer

    vocabulary = max((getattr(source, "vocabulary", None) or {}).values(), default=0)
    some = np.linspace(0, len(source) - 1, min(len(source), 5000)).astype(int).tolist()
    records = [source[record] for record in some]
    seen = [
        _counts(np.concatenate([np.atleast_2d(record[field]) for record in records]), vocabulary)
        for field in fields
    ]
    weigh = TfidfTransformer(sublinear_tf=True).fit(vstack(seen))

    def features(source: Source, field: str, *, frames: bool = False) -> np.ndarray:
        if source[0][field].dtype != np.int32 or frames:
            raise NotCounted(f"field {field!r} holds no tokens")
        rows = np.stack([source[record][field] for record in range(len(source))])
        flat = rows.reshape(-1, rows.shape[-1])
        if flat.max(initial=0) >= vocabulary:
            raise NotCounted(f"field {field!r} holds no tokens of the training data's tokenizer")
        if len(flat) * vocabulary > _MOST_COUNTS:
            raise NotCounted(f"{len(flat)} texts are too many to count {vocabulary} tokens in each")
        weighed = weigh.transform(_counts(flat, vocabulary)).toarray().astype(np.float32)
        return weighed.reshape(*rows.shape[:-1], vocabulary)

    return features


def _counts(tokens: np.ndarray, vocabulary: int) -> Any:
    """[N, vocabulary], sparse: how often each token stands in each text."""
    from scipy.sparse import coo_array

    row, place = np.nonzero(tokens >= 0)
    shape = (len(tokens), vocabulary)
    counts = coo_array((np.ones(len(row), np.float32), (row, tokens[row, place])), shape=shape)
    return counts.tocsr()


def _text_features(
    encode: Callable[[np.ndarray], jax.Array], tokens: Sequence[np.ndarray], batch_size: int
) -> np.ndarray:
    """Features [N, F] of texts [T], or [N, C, F] of several a record [C, T]; 0 where there is none.

    The same text is encoded once, and texts of like lengths together: at few lengths.
    """
    several = tokens[0].shape[:-1]
    texts = pad_tokens([row[row >= 0] for one in tokens for row in np.atleast_2d(one)])
    different, place = np.unique(texts, axis=0, return_inverse=True)
    lengths = (different >= 0).sum(1)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    features: np.ndarray | None = None
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        length = bucket_length(int(lengths[rows[-1]]), different.shape[1])
        found = _padded(encode, different[rows, :length], batch_size)
        if features is None:
            features = np.zeros((len(different), found.shape[1]), np.float32)
        features[rows] = found
    if features is None:
        raise ValueError("there are no texts, so there is nothing to encode")
    return features[place.ravel()].reshape(len(tokens), *several, -1)


def _by_episode(
    encode: Callable[[np.ndarray], jax.Array], source: Source, field: str, groups: np.ndarray
) -> np.ndarray:
    """Features [N, F] of moments, each in the course of its episode, which is encoded whole."""
    batches = read_batches(source, min(128, len(source)), "reading")
    moments = np.concatenate([batch[field] for batch in batches])
    times = getattr(source, "times", None)
    order = np.lexsort((np.arange(len(groups)) if times is None else np.asarray(times), groups))
    episodes = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    found: np.ndarray | None = None
    for length in sorted({len(episode) for episode in episodes}):
        alike = [episode for episode in episodes if len(episode) == length]
        for start in range(0, len(alike), _EPISODES):
            some = np.stack(alike[start : start + _EPISODES])
            rows = _padded(encode, moments[some], _EPISODES)
            if rows.shape[1] != length:
                raise ValueError(
                    f"of {length} moments the method makes {rows.shape[1]} frames, so that it is "
                    "not known which is of which"
                )
            if found is None:
                found = np.zeros((len(groups), rows.shape[-1]), np.float32)
            found[some] = rows
    if found is None:
        raise ValueError("there are no moments, so there is nothing to encode")
    return found


_EPISODES = 8  # encoded at once


def _padded(
    encode: Callable[[np.ndarray], jax.Array], rows: np.ndarray, batch_size: int
) -> np.ndarray:
    """Of any number of rows, encoded as a full batch."""
    padding = [(0, batch_size - len(rows)), *[(0, 0)] * (rows.ndim - 1)]
    return np.asarray(encode(np.pad(rows, padding, mode="edge")))[: len(rows)]
