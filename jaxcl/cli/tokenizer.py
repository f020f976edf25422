"""`jaxcl tokenizer`."""

import argparse
from pathlib import Path
from typing import Any

from jaxcl.cli.exits import of_the_users


def add(verbs: Any) -> None:
    """Adds the verb to those of the program."""
    parser = verbs.add_parser(
        "tokenizer",
        help="make a tokenizer of your own text",
        description="Counts the words of text files and writes a tokenizer.json, for data.Texts. "
        "Files are .txt (a text a line), .csv, .tsv, .jsonl or .npz; all but .npz also with .gz.",
    )
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--out", required=True, metavar="FILE.json")
    parser.add_argument(
        "--column",
        action="append",
        metavar="NAME",
        help="a column of texts; give it again for several (default: text)",
    )
    parser.add_argument("--vocabulary", type=int, default=8000, help="most tokens (default: 8000)")
    parser.add_argument(
        "--kind",
        choices=("bpe", "wordpiece"),
        default="bpe",
        help="byte pairs, to which no text is unknown, or BERT's (default: bpe)",
    )
    parser.add_argument(
        "--clip",
        metavar="FILE.txt.gz",
        help="write CLIP's tokenizer instead, of its list of merges (bpe_simple_vocab_16e6.txt.gz)",
    )
    parser.add_argument("--lowercase", action="store_true", help="take capitals for small letters")
    parser.set_defaults(run=tokenizer)


def tokenizer(known: argparse.Namespace) -> int:
    """Trains a tokenizer, writes it, and says what it makes of a text."""
    from jaxcl.data.tables import read_columns
    from jaxcl.data.tokenizer import clip_tokenizer, shown, train_tokenizer
    from jaxcl.training.durable_files import check_writable, write_durably
    from jaxcl.training.errors import UserError

    out = Path(known.out)
    with of_the_users():
        if out.suffix != ".json" or out.is_dir():
            raise UserError(f"--out is {out}, expected a file that ends in .json")
        out.parent.mkdir(parents=True, exist_ok=True)
        check_writable(out.parent)
        if (known.clip is None) == (not known.files):
            raise UserError("give files of texts, or --clip FILE")
        if known.clip is not None:
            of_clip = clip_tokenizer(known.clip)
            write_durably(out, of_clip.tokenizer.to_str(pretty=True))
            print(f"{of_clip.vocabulary} tokens, CLIP's: {out}")
            return 0
        texts = [
            text
            for path in known.files
            for column in read_columns(path, known.column or ["text"]).values()
            for value in column
            for text in ([value] if isinstance(value, str) else value)
            if text.strip()
        ]
        if not texts:
            raise UserError(f"{', '.join(known.files)}: there are no texts")
        trained = train_tokenizer(
            texts, vocabulary=known.vocabulary, kind=known.kind, lowercase=known.lowercase
        )
        write_durably(out, trained.tokenizer.to_str(pretty=True))
    tokens = trained(texts).texts
    lengths = sorted(map(len, tokens))
    middle, high, most = (lengths[int(q * (len(lengths) - 1))] for q in (0.5, 0.99, 1.0))
    print(
        f"{trained.vocabulary} tokens, of {len(texts)} texts: {out}\n"
        f"Tokens a text, [CLS] and [SEP] among them: {middle} in the middle, at most {high} of "
        f"99 %, at most {most}.\n"
        f"{shown(texts[0])}: {' '.join(trained.tokenizer.encode(texts[0]).tokens[:16])}"
    )
    return 0
