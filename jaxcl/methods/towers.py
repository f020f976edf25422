"""What a multi-modal method consists of: a tower for each modality, and the pairs contrasted."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import flax.linen as nn

from jaxcl.choices import check_choices

Contrast = Literal["clip", "siglip"]


@dataclasses.dataclass(frozen=True)
class Tower:
    """What maps one modality into the common space."""

    name: str
    """Of the modality, such as image; its networks are `image_encoder` and `image_projector`."""
    encoder: nn.Module | None = None
    """Maps a view to features; None where the tower has another's."""
    projector: nn.Module | None = None
    """Maps features to embeddings; None: they are the embeddings, or another tower's maps them."""
    encoder_of: str | None = None
    """The tower whose encoder it shares."""
    projector_of: str | None = None
    """The tower whose projector it shares."""
    frozen: Literal["none", "encoder", "all"] = "none"
    """What keeps its weights, and is called as in evaluation ("encoder" of images: LiT)."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two modalities that are contrasted."""

    first: str
    """Name of a tower."""
    second: str
    """Name of another."""
    contrast: Contrast = "clip"
    """The loss: a softmax over the batch, or a sigmoid of each pair."""
    weight: float = 1.0
    """Of its loss in the sum; > 0."""

    @property
    def name(self) -> str:
        """As parameters and metrics have it."""
        return f"{self.first}_{self.second}"


def named_tower(towers: Sequence[Tower], name: str) -> Tower:
    """The tower of a name; a clear error where there is none."""
    for tower in towers:
        if tower.name == name:
            return tower
    names = ", ".join(tower.name for tower in towers)
    raise ValueError(f"MultiModal: there is no tower {name!r}, the towers are {names}")


def check_towers(towers: Sequence[Tower]) -> None:
    """Raises where towers do not go together."""
    names = [tower.name for tower in towers]
    if len(towers) < 2 or len({*names}) < len(names):
        raise ValueError(
            f"MultiModal takes two towers or more, each with a name of its own, got "
            f"{', '.join(names) or 'none'}"
        )
    for tower in towers:
        check_choices(tower)
        if (tower.encoder is None) == (tower.encoder_of is None):
            raise ValueError(f"MultiModal: tower {tower.name} needs either encoder or encoder_of")
        if tower.projector is not None and tower.projector_of is not None:
            raise ValueError(f"MultiModal: tower {tower.name} has both projector and projector_of")
        if tower.frozen != "none" and tower.encoder is None:
            raise ValueError(
                f"MultiModal: tower {tower.name} shares its encoder, which is frozen where it is "
                f"given: set frozen of {tower.encoder_of}"
            )
        for part in ("encoder", "projector"):
            owner = getattr(tower, f"{part}_of")
            if owner is not None and getattr(named_tower(towers, owner), part) is None:
                raise ValueError(
                    f"MultiModal: tower {tower.name} shares the {part} of {owner}, which has none "
                    "of its own"
                )
