"""Several modalities in one space: a tower for each, contrasted pair by pair. CLIP is two."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl import memory
from jaxcl.choices import check_choices
from jaxcl.encoders import LearnableTemperature, SigmoidScaleAndBias
from jaxcl.losses import clip as clip_loss
from jaxcl.losses import info_nce
from jaxcl.losses import siglip as siglip_loss
from jaxcl.methods.draws import Draws
from jaxcl.methods.health import in_batch_health
from jaxcl.methods.means import mean_where
from jaxcl.methods.method import (
    Batch,
    Method,
    Metrics,
    Params,
    check_momentum,
    check_positive,
    check_queue,
)
from jaxcl.methods.networks import forward, init_networks
from jaxcl.methods.schedules import Cosine, value_at
from jaxcl.methods.target import move_target, start_target
from jaxcl.methods.texts import blank, is_text, text_number
from jaxcl.methods.towers import Contrast, Pair, Tower, check_towers, named_tower
from jaxcl.similarity import axis_size, gather_rows, l2_normalize, row_numbers


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SlowTowers:
    """Slowly moving towers, and the embeddings that they made of past batches."""

    params: dict[str, Any]
    batch_stats: dict[str, Any]
    queues: dict[str, memory.Queue]
    """By modality."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MultiModalState:
    """State of a multi-modal method."""

    batch_stats: dict[str, Any]
    frozen: dict[str, Any]
    """Parameters of the networks that are frozen, by name."""
    memory: SlowTowers | None = None
    """With queues only."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiModal(Method):
    """Any number of modalities, of which pairs are contrasted over the batch of all devices.

    View i of a batch is of tower i. CLIP (Radford et al., 2021), SigLIP (Zhai et al., 2023) and LiT
    (Zhai et al., 2022) are the case of two (`methods.image_text`); with an `anchor` all others
    meet that one alone (ImageBind: Girdhar et al., 2023). Each pair learns its own scale, and
    "siglip" its bias. Where an example lacks a modality (`Batch.there`, or a text without tokens),
    it has no part in the pairs of it, and passes its tower as zeros, which batch statistics count:
    give such a tower another norm. Texts of a batch that are the same, token by token, are no
    negatives of one another, nor past ones; of a pair of texts, those of its second.

    With a `queue_size`, queries meet keys of slowly moving towers, of this and past batches (MoCo
    over modalities, as ALBEF: Li et al., 2021, section 3.2), so that small batches see many
    negatives; every example then has to have every modality.
    """

    towers: tuple[Tower, ...] = dataclasses.field(kw_only=False)
    """One for each view, in their order."""
    pairs: tuple[Pair, ...] = ()
    """What is contrasted; none: every two modalities, or `anchor` with every other."""
    anchor: str | None = None
    """The modality that all others are contrasted with; None: no such one."""
    contrast: Contrast = "clip"
    """The loss of pairs that are not given one by one."""
    temperature: float = 0.07
    """That "clip" begins with; it is learned. > 0."""
    max_scale: float = 100.0
    """What similarities are multiplied by at most; > 0."""
    queue_size: int = 0
    """Past embeddings of each modality that are negatives too; 0: those of the batch alone."""
    momentum: float | Cosine = 0.995
    """Share of itself that the slow towers keep at each step, 0 to 1."""

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(self, temperature=self.temperature, max_scale=self.max_scale)
        check_momentum(self, self.momentum)
        check_towers(self.towers)
        names = [tower.name for tower in self.towers]
        mentioned = [name for pair in self.pairs for name in (pair.first, pair.second)]
        for name in [*mentioned, *([] if self.anchor is None else [self.anchor])]:
            if name not in names:
                raise ValueError(
                    f"MultiModal: there is no tower {name!r}, the towers are {', '.join(names)}"
                )
        pair_names = [pair.name for pair in self.all_pairs]
        if len({*pair_names}) < len(pair_names):
            raise ValueError(f"MultiModal: two pairs have one name: {', '.join(pair_names)}")
        for pair in self.all_pairs:
            check_choices(pair)
            if pair.first == pair.second or not pair.weight > 0:
                raise ValueError(
                    f"MultiModal: the pair {pair.name} needs two modalities and a positive weight"
                )
        if self.queue_size < 0:
            raise ValueError(f"MultiModal: queue_size must be 0 or more, got {self.queue_size}")
        if self.queue_size and any(pair.contrast == "siglip" for pair in self.all_pairs):
            raise ValueError("MultiModal: queues go with contrast 'clip' only; set queue_size to 0")

    @property
    def all_pairs(self) -> tuple[Pair, ...]:
        """What is contrasted: the pairs given, or those that follow from the towers."""
        if self.pairs:
            return self.pairs
        names = [tower.name for tower in self.towers]
        if self.anchor is not None:
            others = [name for name in names if name != self.anchor]
            return tuple(Pair(self.anchor, name, self.contrast) for name in others)
        two = itertools.combinations(names, 2)
        return tuple(Pair(first, second, self.contrast) for first, second in two)

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {
            f"{tower.name}_{part}": network
            for tower in self.towers
            for part in ("encoder", "projector")
            if (network := getattr(tower, part)) is not None
        }

    def with_networks(self, changed: dict[str, nn.Module]) -> "MultiModal":
        towers = tuple(
            dataclasses.replace(
                tower,
                encoder=changed.get(f"{tower.name}_encoder", tower.encoder),
                projector=changed.get(f"{tower.name}_projector", tower.projector),
            )
            for tower in self.towers
        )
        return dataclasses.replace(self, towers=towers)

    @property
    def undecayed(self) -> tuple[str, ...]:
        return (*super().undecayed, "scales")

    @property
    def averages(self) -> tuple[str, ...]:
        return ("memory/params",)

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, MultiModalState]:
        _check_views(self, batch)
        scale_key, queue_key, *tower_keys = jax.random.split(key, 2 + len(self.towers))
        params: dict[str, Any] = {}
        batch_stats: dict[str, Any] = {}
        widths = {}
        for tower, tower_key, view in zip(self.towers, tower_keys, batch.views, strict=True):
            networks = self.of_tower(tower)
            own, own_stats, outputs = init_networks(networks, tower_key, view)
            # Of what towers share, the first one's start stays.
            params, batch_stats = own | params, own_stats | batch_stats
            widths[tower.name] = outputs.shape[-1]
        if len({*widths.values()}) > 1:
            raise ValueError(
                f"MultiModal: embeddings of {widths} differ in width: give the towers projectors "
                "of one width"
            )
        frozen = {name: params.pop(name) for name in self._frozen}
        scales = {pair.name: self._scale(pair).init(scale_key)["params"] for pair in self.all_pairs}
        slow = None
        if self.queue_size:
            queue_keys = jax.random.split(queue_key, len(self.towers))
            slow = SlowTowers(
                params=start_target(params),
                batch_stats=start_target(batch_stats),
                queues={
                    tower.name: memory.init_queue(
                        key, self.queue_size, widths[tower.name], ids=is_text(view)
                    )
                    for tower, key, view in zip(self.towers, queue_keys, batch.views, strict=True)
                },
            )
        return params | {"scales": scales}, MultiModalState(batch_stats, frozen, slow)

    def represent(
        self,
        params: Params,
        state: MultiModalState,
        batch: Batch,
        *,
        key: jax.Array,
        axis_name: str | None = None,
    ) -> tuple[tuple[jax.Array, ...], MultiModalState]:
        """The embeddings of each modality, [N, D]; then the slow towers' of each, [N, D]."""
        _check_views(self, batch)
        if self.queue_size and batch.there is not None:
            raise ValueError(
                "MultiModal: with queues every example has to have every modality, and the data "
                "say that some have not: set queue_size to 0"
            )
        draws = batch.draws(key, axis_name)
        views = [blank(*view) for view in zip(batch.views, batch.present(), strict=True)]
        embeddings, batch_stats = self._embed_all(
            params | state.frozen, state.batch_stats, views, axis_name, draws
        )
        state = dataclasses.replace(state, batch_stats=batch_stats)
        if state.memory is None:
            return tuple(embeddings), state
        slow = state.memory
        keys, slow_stats = self._embed_all(
            slow.params | state.frozen, slow.batch_stats, views, axis_name, None
        )
        keys = [jax.lax.stop_gradient(l2_normalize(rows)) for rows in keys]
        slow = dataclasses.replace(slow, batch_stats=slow_stats)
        return (*embeddings, *keys), dataclasses.replace(state, memory=slow)

    def objective(
        self,
        params: Params,
        state: MultiModalState,
        embeddings: tuple[jax.Array, ...],
        batch: Batch,
        *,
        progress: jax.Array | float,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, MultiModalState, Metrics]:
        names = [tower.name for tower in self.towers]
        online = dict(zip(names, embeddings, strict=False))
        slow = dict(zip(names, embeddings[len(names) :], strict=False))
        there = dict(zip(names, batch.present(), strict=True))
        views = dict(zip(names, batch.views, strict=True))
        losses, chances = {}, []
        for pair in self.all_pairs:
            scale = self._scale(pair).apply({"params": params["scales"][pair.name]})
            where = _both(there[pair.first], there[pair.second])
            text = next((n for n in (pair.second, pair.first) if is_text(views[n])), None)
            ids = None if text is None else text_number(views[text])
            two = online[pair.first], online[pair.second]
            if state.memory is not None:
                slow_two = slow[pair.first], slow[pair.second]
                queues = state.memory.queues
                past_ids = None if text is None else queues[text].ids
                each = _against_memory(
                    two,
                    slow_two,
                    (queues[pair.first].embeddings, queues[pair.second].embeddings),
                    logit_scale=scale,
                    ids=ids,
                    past_ids=past_ids,
                    axis_name=axis_name,
                )
                candidates = len(two[0]) * axis_size(axis_name) + self.queue_size
                losses[pair.name] = each.mean()
                chances.append(jnp.log(jnp.float32(candidates)))
                continue
            options: dict[str, Any] = {"axis_name": axis_name, "where": where, "ids": ids}
            if pair.contrast == "siglip":
                each = siglip_loss(
                    *two, logit_scale=scale.logit_scale, logit_bias=scale.logit_bias, **options
                )
            else:
                each = clip_loss(*two, logit_scale=scale, **options)
                where = None if where is None else jnp.tile(where, 2)
                chances.append(_chance(where, len(each), axis_name))
            losses[pair.name] = mean_where(each, where, axis_name)
        weights = {pair.name: pair.weight for pair in self.all_pairs}
        loss = jnp.stack([weights[name] * own for name, own in losses.items()]).sum()
        metrics = self._signals(online, losses, axis_name)
        if len(chances) == len(losses):  # a sigmoid's hangs on its bias
            weighted = zip(weights.values(), chances, strict=True)
            metrics["chance_loss"] = jnp.stack([weight * own for weight, own in weighted]).sum()
        if state.memory is not None:
            queues_after = {
                name: memory.enqueue(
                    queue,
                    slow[name],
                    ids=text_number(views[name]) if is_text(views[name]) else None,
                    axis_name=axis_name,
                )
                for name, queue in state.memory.queues.items()
            }
            after = dataclasses.replace(state.memory, queues=queues_after)
            state = dataclasses.replace(state, memory=after)
        return loss, state, metrics

    def end_step(
        self, params: Params, state: MultiModalState, *, progress: jax.Array | float
    ) -> MultiModalState:
        if state.memory is None:
            return state
        online = {name: params[name] for name in state.memory.params}
        momentum = value_at(self.momentum, progress)
        moved = move_target(state.memory.params, online, momentum)
        return dataclasses.replace(state, memory=dataclasses.replace(state.memory, params=moved))

    def embed(
        self,
        params: Params,
        state: MultiModalState,
        inputs: jax.Array,
        *,
        tower: str | None = None,
        project: bool = False,
    ) -> jax.Array:
        """Features of `inputs`, of one modality.

        Args:
          params: parameters.
          state: the method's state.
          inputs: [N, ...], not augmented.
          tower: name of the modality; None: the first.
          project: embeddings in the common space, unit rows, instead of the encoder's features.

        Returns:
          [N, F].
        """
        chosen = self.towers[0] if tower is None else named_tower(self.towers, tower)
        networks = self.of_tower(chosen)
        if not project:
            networks = dict(itertools.islice(networks.items(), 1))
        rows, _ = forward(networks, params | state.frozen, state.batch_stats, inputs)
        return l2_normalize(rows) if project else rows

    def check(self, *, batch_size: int, examples: int) -> list[str]:
        if not self.queue_size:
            return []
        check_queue(self.queue_size, batch_size)
        if self.queue_size > examples:
            return [
                f"queue_size {self.queue_size} is larger than the data set ({examples} examples): "
                "an example's own old embeddings are among its negatives, where its text is another"
            ]
        return []

    def of_tower(self, tower: Tower) -> dict[str, nn.Module]:
        """The networks of a tower in a row, by the names of their parameters."""
        encoder = named_tower(self.towers, tower.encoder_of or tower.name)
        projector = named_tower(self.towers, tower.projector_of or tower.name)
        found = {f"{encoder.name}_encoder": encoder.encoder}
        if projector.projector is not None:
            found[f"{projector.name}_projector"] = projector.projector
        return {name: network for name, network in found.items() if network is not None}

    @property
    def _frozen(self) -> list[str]:
        """Names of the networks that keep their weights."""
        return [
            f"{tower.name}_{part}"
            for tower in self.towers
            for part in {"none": (), "encoder": ("encoder",), "all": ("encoder", "projector")}[
                tower.frozen
            ]
            if getattr(tower, part) is not None
        ]

    def _embed_all(
        self,
        params: Params,
        batch_stats: dict[str, Any],
        views: Sequence[jax.Array],
        axis_name: str | None,
        draws: Draws | None,
    ) -> tuple[list[jax.Array], dict[str, Any]]:
        """Every tower's embeddings of its view, in training, and the statistics."""
        embeddings = []
        frozen = self._frozen
        for number, (tower, rows) in enumerate(zip(self.towers, views, strict=True)):
            own = None if draws is None else draws.part(number)
            for name, network in self.of_tower(tower).items():
                learns = name not in frozen
                rows, batch_stats = forward(
                    {name: network},
                    params,
                    batch_stats,
                    rows,
                    train=learns,
                    axis_name=axis_name,
                    draws=own if learns else None,
                )
            embeddings.append(rows)
        return embeddings, batch_stats

    def _scale(self, pair: Pair) -> Any:
        if pair.contrast == "siglip":
            return SigmoidScaleAndBias()
        return LearnableTemperature(self.temperature, self.max_scale)

    def _signals(
        self, online: dict[str, jax.Array], losses: dict[str, jax.Array], axis_name: str | None
    ) -> Metrics:
        """Those of the first pair; of several pairs, each one's loss and accuracy too."""
        metrics: Metrics = {}
        for pair in reversed(self.all_pairs):
            health = in_batch_health(online[pair.first], online[pair.second], axis_name)
            del health["chance_loss"]
            metrics |= health
            if len(losses) > 1:
                metrics[f"{pair.name}_loss"] = losses[pair.name]
                metrics[f"{pair.name}_accuracy"] = health["accuracy"]
        return metrics


def _against_memory(
    online: tuple[jax.Array, jax.Array],
    slow: tuple[jax.Array, jax.Array],
    past: tuple[jax.Array, jax.Array],
    *,
    logit_scale: jax.Array,
    ids: jax.Array | None,
    past_ids: jax.Array | None,
    axis_name: str | None,
) -> jax.Array:
    """Losses [2N] of each of two modalities against the other's slow embeddings, of which
    everyone's and past ones are negatives; row i of both queues is of one example."""
    own = row_numbers(len(online[0]), axis_name) if ids is None else ids
    past_ids = jnp.full(len(past[0]), -1) if past_ids is None else past_ids
    negative_ids = jnp.concatenate([gather_rows(own, axis_name), past_ids])

    def one_way(queries: jax.Array, keys: jax.Array, before: jax.Array) -> jax.Array:
        return info_nce(
            queries,
            keys,
            jnp.concatenate([gather_rows(keys, axis_name), before]),
            temperature=jnp.exp(-logit_scale),
            ids=own,
            negative_ids=negative_ids,
        )

    return jnp.concatenate(
        [one_way(online[0], slow[1], past[1]), one_way(online[1], slow[0], past[0])]
    )


def _chance(where: jax.Array | None, rows: int, axis_name: str | None) -> jax.Array:
    """CLIP's loss of towers that know nothing: the log of how many candidates each of its anchors
    has, of both modalities."""
    count = jnp.float32(rows) if where is None else where.sum(dtype=jnp.float32)
    if axis_name is not None:
        count = jax.lax.psum(count, axis_name)
    return jnp.log(jnp.maximum(count / 2, 1))


def _both(first: jax.Array | None, second: jax.Array | None) -> jax.Array | None:
    """Where both are; None: everywhere."""
    if first is None or second is None:
        return second if first is None else first
    return first & second


def _check_views(method: MultiModal, batch: Batch) -> None:
    if len(batch.views) != len(method.towers):
        names = ", ".join(tower.name for tower in method.towers)
        raise ValueError(
            f"MultiModal has the towers {names}, one for each view in their order; the batch has "
            f"{len(batch.views)} views"
        )
