"""Text to tokens, by the `tokenizers` library: any tokenizer.json, or one of one's own text."""

import dataclasses
import gzip
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxcl.extras import import_extra

if TYPE_CHECKING:
    import tokenizers

NOTHING = -1
"""Stands in a row of tokens where no token does."""

_AT_ONCE = 10_000
_CLIP_MERGES = 49_152 - 256 - 2

TooLong = Literal["cut", "refuse"]
"""What becomes of a text of more tokens than the model takes: cut off, and counted; or refused."""


def tokenizer_file(path: str | os.PathLike[str]) -> str:
    """The tokenizer.json that a path names, itself or by its folder.

    Raises:
      FileNotFoundError: if there is none.
    """
    file = os.path.expanduser(os.fspath(path))
    if os.path.isdir(file):
        file = os.path.join(file, "tokenizer.json")
    if not os.path.isfile(file):
        raise FileNotFoundError(
            f"{file} is not a file: give a tokenizer.json, or a folder with one (jaxcl tokenizer "
            "makes one of your own text)"
        )
    return file


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Texts as tokens."""

    texts: list[np.ndarray]
    """int32 [t] of each text."""
    cut: int
    """How many texts were longer and lost their end."""


class Tokenizer:
    """A `tokenizers.Tokenizer` that knows how long texts may be.

    Args:
      tokenizer: the library's; what it says of padding and length is set anew.
      max_length: most tokens of a text, its marks of beginning and end included; None: any number.
      too_long: what becomes of longer texts.

    Raises:
      ValueError: for a length below 1.
    """

    def __init__(
        self,
        tokenizer: "tokenizers.Tokenizer",
        *,
        max_length: int | None = None,
        too_long: TooLong = "cut",
    ):
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length is {max_length}, expected at least 1, or None")
        if too_long not in ("cut", "refuse"):
            raise ValueError(f"too_long is {too_long!r}, expected 'cut' or 'refuse'")
        # A copy: the length is this one's own.
        self.tokenizer = type(tokenizer).from_str(tokenizer.to_str())
        self.max_length = max_length
        self.too_long = too_long
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        if max_length is not None:
            marks = self.tokenizer.num_special_tokens_to_add(is_pair=False)
            if max_length <= marks:
                raise ValueError(
                    f"max_length {max_length} leaves no room beside the {marks} marks that the "
                    "tokenizer puts around a text: set it higher"
                )
            self.tokenizer.enable_truncation(max_length)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        max_length: int | None = None,
        too_long: TooLong = "cut",
    ) -> "Tokenizer":
        """Reads a tokenizer.json.

        Args:
          path: the file, or a folder that holds it.
          max_length: as in `Tokenizer`.
          too_long: as in `Tokenizer`.

        Raises:
          FileNotFoundError: if there is none.
          ValueError: if it is no tokenizer.
          ImportError: where `tokenizers` is not installed; it names the line that installs it.
        """
        library = import_extra("tokenizers", "text")
        path = tokenizer_file(path)
        try:
            read = library.Tokenizer.from_file(path)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(
                f"{path} is no tokenizer of the tokenizers library: {error}"
            ) from error
        return cls(read, max_length=max_length, too_long=too_long)

    @property
    def vocabulary(self) -> int:
        """One more than the largest id, added marks included."""
        ids = self.tokenizer.get_vocab(with_added_tokens=True).values()
        return max(ids, default=-1) + 1

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """The tokens of each text.

        Raises:
          ValueError: where a text has no tokens, or is too long and `too_long` is "refuse".
        """
        found: list[np.ndarray] = []
        long: list[int] = []
        # Some at a time: the library keeps a hundred times what is wanted of each.
        for start in range(0, len(texts), _AT_ONCE):
            for row, one in enumerate(
                self.tokenizer.encode_batch(list(texts[start : start + _AT_ONCE]))
            ):
                found.append(np.array(one.ids, np.int32))
                if one.overflowing:
                    long.append(start + row)
        if long and self.too_long == "refuse":
            raise ValueError(
                f"{len(long)} of {len(found)} texts have more than {self.max_length} tokens, the "
                f"first is number {long[0]}, {shown(texts[long[0]])}: shorten them, or have them "
                "cut (too_long='cut')"
            )
        for row, tokens in enumerate(found):
            if not len(tokens):
                raise ValueError(f"text number {row}, {shown(texts[row])}, has no tokens")
        return Tokens(found, len(long))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.tokenizer.to_str(), self.max_length, self.too_long)


def _restored(written: str, max_length: int | None, too_long: TooLong) -> Tokenizer:
    library = import_extra("tokenizers", "text")
    return Tokenizer(library.Tokenizer.from_str(written), max_length=max_length, too_long=too_long)


def train_tokenizer(
    texts: Iterable[str],
    *,
    vocabulary: int,
    kind: Literal["bpe", "wordpiece"] = "bpe",
    lowercase: bool = False,
) -> Tokenizer:
    """A tokenizer of one's own text: byte pairs (Radford et al., 2019; no text is unknown to it),
    or WordPiece (BERT's). Texts are put between [CLS] and [SEP], as BERT's are.

    Args:
      texts: what to count.
      vocabulary: most tokens, the marks [PAD], [UNK], [CLS], [SEP], [MASK] (0 to 4) included.
      kind: which.
      lowercase: take capitals for small letters, and of "wordpiece" accents off too.

    Raises:
      ValueError: for a vocabulary too small for the marks, and of byte pairs for the 256 bytes.
      ImportError: where `tokenizers` is not installed; it names the line that installs it.

    Example:
      >>> tokenizer = train_tokenizer(["a red bird", "a red kite"], vocabulary=300)
      >>> tokenizer(["a red bird"]).texts[0].tolist()[::4]  # [CLS] and [SEP]
      [2, 3]
    """
    library = import_extra("tokenizers", "text")
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    least = len(marks) + (256 if kind == "bpe" else 1)
    if vocabulary < least:
        raise ValueError(f"vocabulary {vocabulary} is too small: a {kind} needs at least {least}")
    if kind == "bpe":
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.normalizer = library.normalizers.Sequence(
            [library.normalizers.NFC()] + ([library.normalizers.Lowercase()] if lowercase else [])
        )
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=marks,
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    elif kind == "wordpiece":
        tokenizer = library.Tokenizer(library.models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = library.normalizers.BertNormalizer(lowercase=lowercase)
        tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = library.decoders.WordPiece()
        trainer = library.trainers.WordPieceTrainer(
            vocab_size=vocabulary, special_tokens=marks, show_progress=False
        )
    else:
        raise ValueError(f"kind is {kind!r}, expected 'bpe' or 'wordpiece'")
    tokenizer.train_from_iterator(texts, trainer)
    cls, sep = marks.index("[CLS]"), marks.index("[SEP]")
    tokenizer.post_processor = library.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
    )
    return Tokenizer(tokenizer)


def clip_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """CLIP's tokenizer (Radford et al., 2021), of the list of merges that its authors published.

    Texts are put between <|startoftext|> (49,406) and <|endoftext|> (49,407). CLIP's authors repair
    broken characters first (by ftfy), and this does not.

    Args:
      path: bpe_simple_vocab_16e6.txt.gz, as in OpenAI's CLIP and in open_clip.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is another.
      ImportError: where `tokenizers` is not installed.
    """
    library = import_extra("tokenizers", "text")
    path = os.path.expanduser(os.fspath(path))
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path} is not a file: give bpe_simple_vocab_16e6.txt.gz")
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")[1 : 1 + _CLIP_MERGES]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged, or no .gz: {error}") from error
    merges = [tuple(line.split()) for line in lines]
    if len(merges) < _CLIP_MERGES or any(len(merge) != 2 for merge in merges):
        raise ValueError(f"{path} holds no {_CLIP_MERGES} merges: give CLIP's own list")
    # Bytes that can be printed come first, each as itself; the others stand for later characters.
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printed] + [chr(256 + n) for n in range(256 - len(printed))]
    marks = ["<|startoftext|>", "<|endoftext|>"]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), *marks]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = library.Tokenizer(
        library.models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=marks[1])
    )
    normalizers, splits = library.normalizers, library.pre_tokenizers
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(library.Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    words = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = splits.Sequence(
        [
            splits.Split(library.Regex(words), behavior="removed", invert=True),
            splits.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = library.decoders.ByteLevel()
    tokenizer.add_special_tokens(marks)
    tokenizer.post_processor = library.processors.TemplateProcessing(
        single=f"{marks[0]} $A {marks[1]}",
        special_tokens=[(mark, vocabulary[mark]) for mark in marks],
    )
    return Tokenizer(tokenizer)


def pad_tokens(texts: Sequence[np.ndarray], length: int | None = None) -> np.ndarray:
    """Texts of several lengths as one array, filled with -1 on the right.

    Args:
      texts: int [t] each.
      length: of the rows, at least the longest's; None: the longest's.

    Returns:
      [N, length] int32.

    Raises:
      ValueError: if a text is longer.

    Example:
      >>> pad_tokens([np.array([5, 7]), np.array([9])], 3).tolist()
      [[5, 7, -1], [9, -1, -1]]
    """
    longest = max(map(len, texts), default=0)
    length = longest if length is None else length
    if longest > length:
        raise ValueError(f"a text of {longest} tokens does not fit into {length}")
    rows = np.full((len(texts), length), NOTHING, np.int32)
    for row, tokens in zip(rows, texts, strict=True):
        row[: len(tokens)] = tokens
    return rows


def shown(text: str, most: int = 40) -> str:
    """The beginning of a text, quoted, for an error."""
    return repr(text if len(text) <= most else f"{text[:most]}...")
