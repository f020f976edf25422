"""Records to batches of numpy arrays: sources of images, texts and sound, and their batches in a
seeded order.

    source = Digits(split="train").open()
    for batch in Batches(source, batch_size=256, seed=0, start=step): ...

Importing this loads neither Grain, scikit-learn nor tensorflow-datasets; using them does.
"""

from jaxcl.data.arrays import Arrays, ArraySource
from jaxcl.data.batches import (
    Batch,
    Batches,
    batch_at,
    read_batch,
    records_apart_at,
    records_at,
    sequential_batches,
    steps_per_epoch,
)
from jaxcl.data.digits import Digits
from jaxcl.data.episodes import ArrayEpisodes, Episodes, EpisodeSource
from jaxcl.data.folder import Folder, FolderSource
from jaxcl.data.parts import Paired, PairedSource, Split, Subset
from jaxcl.data.prefetching import Prefetched, prefetch
from jaxcl.data.sound import Sounds, SoundSource
from jaxcl.data.source import Record, Source, SourceConfig
from jaxcl.data.text import Texts, TextSource
from jaxcl.data.tfds import TFDS, TFDSSource
from jaxcl.data.tokenizer import Tokenizer, clip_tokenizer, pad_tokens, train_tokenizer

__all__ = [
    "TFDS",
    "ArrayEpisodes",
    "ArraySource",
    "Arrays",
    "Batch",
    "Batches",
    "Digits",
    "EpisodeSource",
    "Episodes",
    "Folder",
    "FolderSource",
    "Paired",
    "PairedSource",
    "Prefetched",
    "Record",
    "SoundSource",
    "Sounds",
    "Source",
    "SourceConfig",
    "Split",
    "Subset",
    "TFDSSource",
    "TextSource",
    "Texts",
    "Tokenizer",
    "batch_at",
    "clip_tokenizer",
    "pad_tokens",
    "prefetch",
    "read_batch",
    "records_apart_at",
    "records_at",
    "sequential_batches",
    "steps_per_epoch",
    "train_tokenizer",
]
