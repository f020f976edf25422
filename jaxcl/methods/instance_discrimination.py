"""Instance discrimination: every example is a class, its row of a bank the weight."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from jaxcl import memory
from jaxcl.choices import check_choices
from jaxcl.losses import info_nce
from jaxcl.methods.health import contrast_health, contrast_health_over_parts, spread_health
from jaxcl.methods.method import (
    Batch,
    EncoderMethod,
    EncoderState,
    Metrics,
    Params,
    check_momentum,
    check_positive,
    example_numbers,
)
from jaxcl.methods.networks import forward, init_networks
from jaxcl.similarity import (
    Pairs,
    gather_rows,
    l2_normalize,
    matched_similarity,
    prepare,
    row_numbers,
    similarity_rows,
)
from jaxcl.similarity.checks import check_known_rows


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InstanceDiscriminationState(EncoderState):
    """State of instance discrimination."""

    bank: memory.Bank | memory.ShardedBank
    key: jax.Array
    """Raw key of the next draw of negatives."""
    normalizer: jax.Array
    """Scalar: NCE's Z, estimated from the first batch and kept; 0 before it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstanceDiscrimination(EncoderMethod):
    """Instance discrimination with a memory bank (Wu et al., 2018), of one view of each example.

    An example's embedding, of unit length, is to be like its own row of the bank and unlike the
    others: by a softmax over the bank, or by noise-contrastive estimation. Then it is
    mixed into its row.
    """

    bank_size: int = 1_281_167
    """Rows of the bank, one for each example of the data."""
    temperature: float = 0.07
    """Divides similarities; > 0."""
    contrast: Literal["softmax", "nce"] = "softmax"
    """A softmax over own row and negatives, or noise-contrastive estimation."""
    negatives: int | None = None
    """Rows drawn anew as negatives at each step, for all queries; None: all but the example's own.
    The paper's NCE has 4096, its later softmax 65,536."""
    momentum: float = 0.5
    """Share of its old row that an example's new one keeps, 0 to 1."""

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(self, bank_size=self.bank_size, temperature=self.temperature)
        check_momentum(self, self.momentum)
        if self.negatives is not None and not 1 <= self.negatives <= self.bank_size:
            raise ValueError(
                f"InstanceDiscrimination: negatives is {self.negatives}, expected 1 to bank_size "
                f"{self.bank_size}, or None for all"
            )

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, InstanceDiscriminationState]:
        if batch.index is not None:
            check_known_rows("batch.index", batch.index, self.bank_size)
        network_key, bank_key, draw_key = jax.random.split(key, 3)
        params, batch_stats, outputs = init_networks(self.networks, network_key, batch.views[0])
        return params, InstanceDiscriminationState(
            batch_stats=batch_stats,
            bank=memory.init_bank(bank_key, self.bank_size, outputs.shape[-1]),
            key=jax.random.key_data(draw_key),
            normalizer=jnp.zeros(()),
        )

    def represent(
        self,
        params: Params,
        state: InstanceDiscriminationState,
        batch: Batch,
        *,
        key: jax.Array,
        axis_name: str | None = None,
    ) -> tuple[tuple[jax.Array], InstanceDiscriminationState]:
        """The embeddings of the first view, [N, D] unit rows."""
        embeddings, batch_stats = forward(
            self.networks,
            params,
            state.batch_stats,
            batch.views[0],
            train=True,
            axis_name=axis_name,
            draws=batch.draws(key, axis_name),
        )
        return (l2_normalize(embeddings),), dataclasses.replace(state, batch_stats=batch_stats)

    def objective(
        self,
        params: Params,
        state: InstanceDiscriminationState,
        embeddings: tuple[jax.Array],
        batch: Batch,
        *,
        progress: jax.Array | float,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, InstanceDiscriminationState, Metrics]:
        (queries,) = embeddings
        index = example_numbers(batch, self)
        own = memory.lookup(state.bank, index, axis_name=axis_name)
        draw_key, next_key = jax.random.split(jax.random.wrap_key_data(state.key))
        rows, numbers = self._candidates(draw_key, state.bank, axis_name)
        normalizer = state.normalizer
        if self.contrast == "nce":
            losses, normalizer = self._noise_contrast(queries, own, rows, normalizer, axis_name)
        elif self._in_parts(state.bank):
            losses = self._softmax_over_parts(queries, own, index, rows, numbers, axis_name)
        else:
            losses = info_nce(
                queries, own, rows, temperature=self.temperature, ids=index, negative_ids=numbers
            )
        if axis_name is not None and self._in_parts(state.bank):
            counts = numbers < self.bank_size
            metrics = contrast_health_over_parts(
                queries, own, index, rows, numbers, counts, axis_name
            )
        else:
            metrics = contrast_health(queries, own, rows, index[:, None] != numbers)
        if self.contrast == "nce":
            del metrics["chance_loss"]
        bank = memory.refresh(
            state.bank, index, queries, momentum=self.momentum, axis_name=axis_name
        )
        state = dataclasses.replace(
            state, bank=bank, key=jax.random.key_data(next_key), normalizer=normalizer
        )
        return losses.mean(), state, metrics | spread_health(queries, axis_name)

    def _in_parts(self, bank: memory.Bank | memory.ShardedBank) -> bool:
        """Whether each device has other candidates: its part of all rows."""
        return isinstance(bank, memory.ShardedBank) and self.negatives is None

    def _candidates(
        self, key: jax.Array, bank: memory.Bank | memory.ShardedBank, axis_name: str | None
    ) -> tuple[jax.Array, jax.Array]:
        """Rows of the bank [M, D] and whose they are, [M]; from `bank_size` on nobody's."""
        if self.negatives is not None:
            return memory.draw(key, bank, self.negatives, axis_name=axis_name)
        over = axis_name if self._in_parts(bank) else None
        return bank.embeddings, row_numbers(len(bank.embeddings), over)

    def _softmax_over_parts(
        self,
        queries: jax.Array,
        own: jax.Array,
        index: jax.Array,
        rows: jax.Array,
        numbers: jax.Array,
        axis_name: str | None,
    ) -> jax.Array:
        """`info_nce` [N] against all devices' rows: each reduces its own for the queries of all."""
        positive = matched_similarity(queries, own, "cosine", None) / self.temperature
        in_part = similarity_rows(
            "logsumexp",
            prepare(gather_rows(queries, axis_name), "cosine", None),
            prepare(rows, "cosine", None),
            temperature=self.temperature,
            shift=gather_rows(positive, axis_name),
            pairs=Pairs(gather_rows(index, axis_name), numbers, key_where=numbers < self.bank_size),
        )  # [devices * N]
        # log(1 + sum of exp), with the largest taken out; the positive's own entry is the 1.
        largest = jax.lax.pmax(jnp.maximum(jax.lax.stop_gradient(in_part), 0), axis_name)
        total = jax.lax.psum_scatter(jnp.exp(in_part - largest), axis_name, tiled=True)
        here = jax.lax.dynamic_slice_in_dim(
            largest, jax.lax.axis_index(axis_name) * len(queries), len(queries)
        )
        return here + jnp.log(jnp.exp(-here) + total)

    def _noise_contrast(
        self,
        queries: jax.Array,
        own: jax.Array,
        noise: jax.Array,
        normalizer: jax.Array,
        axis_name: str | None,
    ) -> tuple[jax.Array, jax.Array]:
        """-log h of the own row, -log(1 - h) of each of the m noise rows.

        h = P / (P + m / n), P = exp(similarity / temperature) / Z, of n examples; and Z.
        """
        positive = jnp.sum(queries * own, axis=1) / self.temperature
        negative = queries @ noise.T / self.temperature
        estimate = self.bank_size * jnp.mean(jnp.exp(jax.lax.stop_gradient(negative)))
        if axis_name is not None:
            estimate = jax.lax.pmean(estimate, axis_name)
        normalizer = jnp.where(normalizer > 0, normalizer, estimate)
        offset = jnp.log(normalizer) + jnp.log(len(noise) / self.bank_size)
        losses = jax.nn.softplus(offset - positive) + jax.nn.softplus(negative - offset).sum(1)
        return losses, normalizer

    def check(self, *, batch_size: int, examples: int) -> list[str]:
        if self.bank_size < examples:
            raise ValueError(
                f"bank_size {self.bank_size} is smaller than the data set ({examples} examples), "
                f"each of which has its row. Set method.bank_size to {examples}"
            )
        if self.bank_size > examples:
            return [
                f"bank_size {self.bank_size} is larger than the data set ({examples} examples): "
                "rows of no example stay random among the negatives"
            ]
        return []

    @property
    def banks(self) -> tuple[str, ...]:
        # Noise of the whole bank would have to meet every query of every device.
        return () if self.contrast == "nce" and self.negatives is None else ("bank",)
