"""Makes clip_tokens.json: what open_clip makes of some texts, with the marks around them.

pip install open_clip_torch
python tests/reference/make_clip_tokens.py
"""

import json
from pathlib import Path

import open_clip

TEXTS = [
    "A photo of a dog.",
    "it's   a DOG's   life, isn't it?",
    "naïve café — 3 * 14 = 42!",
    "ein schöner Tag; Straße & Übermut",
    "東京タワー 青蛙",
    "🦜 parrot's wings",
    "http://x.y/z?q=1#top",
    "don't  they'll I'm we've you're he'd",
    "Żaba, ¿una rana? Лягушка…",
    "\tone\n two\u00a0three ",
    "an e\u0301tude",
]


def main() -> None:
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    end = tokenizer.eot_token_id
    rows = [tokenizer([text])[0].tolist() for text in TEXTS]
    found = [[text, row[: row.index(end) + 1]] for text, row in zip(TEXTS, rows, strict=True)]
    path = Path(__file__).with_name("clip_tokens.json")
    path.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
