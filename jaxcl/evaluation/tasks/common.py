"""What tasks share: which records count, and whether encoders take them."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np

from jaxcl.data import Source
from jaxcl.data.source import THERE, inputs_of
from jaxcl.methods import MultiModal
from jaxcl.training.experiment import Experiment, networks_of_fields


@dataclasses.dataclass(frozen=True)
class Rows:
    """Which of a field's features count: those of what is there, by the data, whatever they are."""

    there: np.ndarray
    """[N] bool, or [N, C] of several texts a record."""
    records: np.ndarray
    """[M], the record of each that is there."""
    ids: np.ndarray
    """[M], equal for records that share a text."""

    @property
    def single(self) -> bool:
        """One a record."""
        return self.there.ndim == 1

    def taken(self, features: np.ndarray) -> np.ndarray:
        """[M, F] of [N, F] or [N, C, F]."""
        return features[self.there]

    @classmethod
    def of(
        cls, source: Source, field: str, *, distinct: bool = False, labelled: bool = False
    ) -> "Rows":
        """Reads what is there, each text but once where `distinct`; where `labelled`, without what
        stands in for others, whose label it has not."""
        count, first = len(source), source[0]
        there = own_records(source) if labelled else np.ones(count, bool)
        if f"{field}{THERE}" in first:
            there &= np.array([source[row][f"{field}{THERE}"] for row in range(count)], bool)
        if first[field].dtype == np.int32 and first[field].ndim in (1, 2):
            tokens = np.stack([source[row][field] for row in range(count)])  # [N, T] or [N, C, T]
            stands = (tokens >= 0).any(-1)
            there = stands & (there if stands.ndim == 1 else there[:, None])
            if distinct:
                _, numbers = np.unique(tokens[there], axis=0, return_index=True)
                chosen = np.zeros(there.sum(), bool)
                chosen[numbers] = True
                there[there] = chosen
        records = np.nonzero(there)[0]
        groups = getattr(source, "groups", None)
        return cls(there, records, records if groups is None else np.asarray(groups)[records])


def own_records(source: Source) -> np.ndarray:
    """[N] bool: which records are what they are called, no other standing in for them."""
    return np.array([not source[record]["replaced"] for record in range(len(source))], bool)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def check_field(source: Source, field: str) -> None:
    """Raises where records lack a field."""
    fields = inputs_of(source[0])
    if field not in fields:
        raise ValueError(f"records have no field {field!r}: they have {', '.join(fields)}")


def check_takes(experiment: Experiment, source: Source, field: str) -> None:
    """Raises where the experiment's encoders do not take a field of a source."""
    networks = {of: network for of, _, network in networks_of_fields(experiment)}
    shape = inputs_of(source[0])[field].shape
    if isinstance(experiment.method, MultiModal) and field not in networks:
        raise ValueError(
            f"there is no tower for the field {field!r}: views are of {', '.join(networks)}"
        )
    network = networks.get(field, next(iter(networks.values()), None))
    example = inputs_of(source[0])[field]
    if example.dtype == np.int16 and example.ndim == 1 and network is not None:
        _check_takes_samples(network, example, field)
    longest = getattr(network, "max_length", None)
    tokens = (getattr(source, "vocabulary", None) or {}).get(field)
    if tokens is None:
        return
    if longest is not None and shape[-1] > longest:
        raise ValueError(
            f"texts of {field!r} have up to {shape[-1]} tokens, and the encoder takes {longest}: "
            f"set their max_length to {longest}"
        )
    known = getattr(network, "vocabulary", None)
    if known is not None and tokens > known:
        raise ValueError(
            f"the tokenizer of {field!r} has {tokens} tokens and the encoder knows {known}: give "
            "the tokenizer of the training data"
        )


def _check_takes_samples(network: nn.Module, samples: np.ndarray, field: str) -> None:
    """Raises where an encoder that views make spectrograms for does not take samples, too."""
    one = jax.ShapeDtypeStruct((1, *samples.shape), samples.dtype)
    try:
        jax.eval_shape(network.init, jax.eval_shape(jax.random.key, 0), one)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{type(network).__name__} takes no samples of {field!r}, of which features are "
            f"measured ({error}): put it into encoders.OnSpectrogram, with the front of the views"
        ) from error
