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

    Args:
      run: the run.
      state: of its parameters.
      batch_size: rows at once.

    Returns:
      features(source, field) -> [N, F], or [N, C, F] of several texts a record, 0 where there is
      none.
    """
    method = run.experiment.method
    of_views = run.experiment.views.of_each
    prepares: dict[str, Prepare] = {
        name: evaluation_view(run.experiment.views, one, name)
        for name, one in run.inputs.items()
        if len(one.shape) == 3 and name in of_views
    }
    arrays = jax.device_put((state.params, state.method))

    @functools.partial(jax.jit, static_argnames=("tower", "prepare"))
    def encode(
        arrays: Any, rows: jax.Array, tower: str | None, prepare: Prepare | None
    ) -> jax.Array:
        if prepare is not None:
            rows = jax.vmap(prepare)(rows)
        params, of_method = arrays
        if tower is not None and isinstance(method, MultiModal):
            return method.embed(params, of_method, rows, tower=tower, project=True)
        return method.embed(params, of_method, rows)

    def features(source: Source, field: str) -> np.ndarray:
        known = inputs_of(source[0])
        if field not in known:
            raise ValueError(f"records have no field {field!r}: they have {', '.join(known)}")
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
        if known[field].ndim == 3 and known[field].dtype != np.int32:
            prepare = prepares.get(field, next(iter(prepares.values()), to_float))
        run_one = functools.partial(encode, arrays, tower=tower, prepare=prepare)
        batches = read_batches(source, min(batch_size, len(source)), "embedding")
        if known[field].dtype == np.int32 and known[field].ndim in (1, 2):
            tokens = [record for batch in batches for record in batch[field]]
            return _text_features(run_one, tokens, batch_size)
        return np.concatenate([_padded(run_one, batch[field], batch_size) for batch in batches])

    return features


def mean_spectra(front: LogMel) -> FieldFeatures:
    """Mean and deviation over time of each mel band: of sound, without any training.

    Args:
      front: makes the spectrograms.

    Returns:
      features(source, field) -> [N, 2 mels].
    """

    @jax.jit
    def measure(sound: jax.Array) -> jax.Array:
        levels = front.of(sound)
        return jnp.concatenate([levels.mean(1), levels.std(1)], axis=1)

    def features(source: Source, field: str) -> np.ndarray:
        if source[0][field].dtype != np.int16:
            raise NotCounted(f"field {field!r} holds no sound")
        batches = read_batches(source, min(128, len(source)), "measuring")
        return np.concatenate([_padded(measure, batch[field], 128) for batch in batches])

    return features


_MOST_COUNTS = 5 * 10**8  # numbers held at once, 2 GB


class NotCounted(ValueError):
    """A field that holds no tokens, or of another tokenizer, or no sound."""


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

    def features(source: Source, field: str) -> np.ndarray:
        if source[0][field].dtype != np.int32:
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


def _padded(
    encode: Callable[[np.ndarray], jax.Array], rows: np.ndarray, batch_size: int
) -> np.ndarray:
    """Of any number of rows, encoded as a full batch."""
    padding = [(0, batch_size - len(rows)), *[(0, 0)] * (rows.ndim - 1)]
    return np.asarray(encode(np.pad(rows, padding, mode="edge")))[: len(rows)]
