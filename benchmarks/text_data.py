"""Writes the files that configs/text/ reads: verses, pairs of texts with scores, and tokenizers.

    python benchmarks/text_data.py TEXT.json.gz STAMPS.npz EMOJI.npz data/text

TEXT.json.gz holds `verse`, 31,082 x [King James, World English, Spanish], with `book`; `gloss`, of
WordNet's nouns; `simlex` and `wordsim`, [word, word, human score]; `lee_document`, and
`lee_similarity` of every two. STAMPS.npz holds `caption`, [N, 10] in ten languages, EMOJI.npz
`name`, [N]. Six books are held out: no verse of them is trained on.
"""

import argparse
import gzip
import itertools
import json
from pathlib import Path

from jaxcl.data import train_tokenizer
from jaxcl.data.tables import read_columns

HELD_OUT = {"Mark", "Ruth", "Jonah", "James", "I John", "Philippians"}
COLUMNS = ("king_james", "world_english", "spanish")


def one_line(text: str) -> str:
    """Without paragraph marks, tabs and line ends."""
    return " ".join(text.replace("¶", "").split())


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the files that configs/text/ reads.")
    parser.add_argument("texts", type=Path)
    parser.add_argument("stamps", type=Path)
    parser.add_argument("emoji", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with gzip.open(given.texts, "rt", encoding="utf-8") as file:
        read = json.load(file)

    verses = [[*map(one_line, row)] for row in read["verse"]]
    parts: dict[str, list[list[str]]] = {"train": [], "held_out": []}
    for row, book in zip(verses, read["book"], strict=True):
        parts["held_out" if book in HELD_OUT else "train"].append(row)
    for part, rows in parts.items():
        lines = ["\t".join(COLUMNS), *map("\t".join, rows)]
        (given.out / f"verses_{part}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    english = [text for row in parts["train"] for text in row[:2] if text]
    sentences = [*english, *map(one_line, read["gloss"])]
    (given.out / "sentences.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")

    documents = [*enumerate(map(one_line, read["lee_document"]))]
    scored = {name: read[name] for name in ("simlex", "wordsim")} | {
        "lee": [
            [first, second, read["lee_similarity"][i][j]]
            for (i, first), (j, second) in itertools.combinations(documents, 2)
        ]
    }
    for name, pairs in scored.items():
        lines = ["first\tsecond\tscore", *("\t".join(map(str, pair)) for pair in pairs)]
        (given.out / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    captions = [
        text for row in read_columns(str(given.stamps), ("caption",))["caption"] for text in row
    ]
    names = read_columns(str(given.emoji), ("name",))["name"]
    tokenizers: dict[str, tuple[list[str], int]] = {
        "english": (sentences, 8000),
        "english_spanish": ([text for row in parts["train"] for text in row[1:] if text], 8000),
        "captions": ([text for text in captions if text], 4000),
        "emoji": ([str(name) for name in names], 2000),
    }
    for name, (texts, vocabulary) in tokenizers.items():
        trained = train_tokenizer(texts, vocabulary=vocabulary, lowercase=True)
        trained.tokenizer.save(str(given.out / f"{name}.json"))
    for path in sorted(given.out.iterdir()):
        print(f"{path.stat().st_size / 1e6:8.2f} MB  {path}")


if __name__ == "__main__":
    main()
