"""Writes the table that configs/sound/ reads: which spoken caption is of which picture.

    python benchmarks/speech_data.py data/stamps

The folder holds speech/LANGUAGE/ROW.ogg, of a caption of picture ROW of stamps.npz; not every
picture has one in every language. Writes speech.csv beside: row, then a path for each language.
"""

import argparse
import csv
from pathlib import Path

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes speech.csv beside stamps.npz.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    with np.load(folder / "stamps.npz") as file:
        rows = len(file["image"])
    languages = sorted(path.name for path in (folder / "speech").iterdir() if path.is_dir())
    with (folder / "speech.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", *languages])
        for row in range(rows):
            paths = [f"speech/{language}/{row:04}.ogg" for language in languages]
            writer.writerow([row, *(path if (folder / path).exists() else "" for path in paths)])
    print(f"{rows} rows, spoken in {', '.join(languages)}: {folder / 'speech.csv'}")


if __name__ == "__main__":
    main()
