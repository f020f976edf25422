"""Columns of text files: a text a line, CSV, TSV, JSON lines, and string arrays of .npz."""

import csv
import gzip
import json
import os
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from jaxcl.data.arrays import read_npz

Column: TypeAlias = list[str] | list[list[str]]
"""A text of each record, or several of each, as many of every one; "" where one is missing."""

ENDINGS = (".txt", ".csv", ".tsv", ".jsonl", ".npz")


def read_columns(path: str, columns: Sequence[str]) -> dict[str, Column]:
    """Reads columns of texts from a file, by the ending of its name; .gz after it is unpacked.

    A .txt has one column, whatever its name, of its lines. CSV and TSV begin with the columns'
    names. A line of .jsonl is an object, whose values are texts or lists of texts. An .npz holds
    string arrays [N], or [N, C] of several texts each.

    Args:
      path: the file.
      columns: names of those wanted.

    Returns:
      The columns by name, all as long.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: naming the line, where the file is no UTF-8, is damaged, or lacks a column.
    """
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path} is not a file: give a file of texts ({_endings()})")
    ending = os.path.splitext(path.removesuffix(".gz"))[1].lower()
    if ending == ".npz":
        return _of_npz(path, columns)
    if ending == ".txt":
        if len(columns) != 1:
            raise ValueError(
                f"{path} has one text a line, and {len(columns)} columns were asked for "
                f"({', '.join(columns)}): give a .csv, .tsv or .jsonl"
            )
        return {columns[0]: [line for _, line in _lines(path)]}
    if ending in (".csv", ".tsv"):
        return _of_table(path, columns, "," if ending == ".csv" else "\t")
    if ending == ".jsonl":
        return _of_json_lines(path, columns)
    raise ValueError(f"{path} ends in {ending!r}: expected a file of texts ({_endings()})")


def _endings() -> str:
    return f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}, also with .gz"


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """The lines, counted from 1, without their ends.

    Raises:
      ValueError: naming the line that is no UTF-8.
    """
    read = gzip.open if path.endswith(".gz") else open
    try:
        with read(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise ValueError(
                        f"{path}, line {number}: byte {error.start + 1} is no UTF-8 "
                        f"({line[error.start]:#04x}): save the file as UTF-8"
                    ) from error
                yield number, text.rstrip("\r\n")
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} is damaged or cut short: {error}") from error


def _of_table(path: str, columns: Sequence[str], delimiter: str) -> dict[str, Column]:
    # Quoted fields may hold line ends, so that the reader gets them.
    reader = csv.reader(
        (f"{line}\n" for _, line in _lines(path)),
        delimiter=delimiter,
        strict=True,
        quoting=csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE,
    )
    try:
        names = next(reader, [])
        _check_columns(path, columns, names)
        places = [names.index(name) for name in columns]
        found: dict[str, Column] = {name: [] for name in columns}
        for row in reader:
            if not row:
                continue
            if len(row) != len(names):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(row)} fields, expected the "
                    f"{len(names)} of the first line ({', '.join(names)})"
                )
            for name, place in zip(columns, places, strict=True):
                found[name].append(row[place])  # type: ignore[arg-type]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    return found


def _of_json_lines(path: str, columns: Sequence[str]) -> dict[str, Column]:
    found: dict[str, list] = {name: [] for name in columns}
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is no JSON: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path}, line {number} is no JSON object")
        _check_columns(f"{path}, line {number}", columns, list(values))
        for name in columns:
            value = values[name]
            if isinstance(value, int | float) and not isinstance(value, bool):
                value = str(value)  # a score or a label
            several = isinstance(value, list) and all(isinstance(one, str) for one in value)
            if not isinstance(value, str) and not several:
                raise ValueError(
                    f"{path}, line {number}: {name} is {json.dumps(value)[:40]}, expected a text "
                    "or a list of texts"
                )
            found[name].append(value)
    return {name: as_column(f"{path}, {name}", values) for name, values in found.items()}


def as_column(what: str, values: list) -> Column:
    """Texts alone, or lists of texts filled up to the longest."""
    kinds = {type(value) for value in values}
    if len(kinds) > 1:
        raise ValueError(f"{what}: some are texts and some are lists of texts: make all one kind")
    if kinds != {list}:
        return values
    most = max(map(len, values))
    return [[*value, *[""] * (most - len(value))] for value in values]


def _of_npz(path: str, columns: Sequence[str]) -> dict[str, Column]:
    if path.endswith(".gz"):
        raise ValueError(f"{path}: an .npz is compressed itself; unpack the .gz")
    arrays = read_npz(path, columns)
    found: dict[str, Column] = {}
    for name, array in arrays.items():
        if array.dtype.kind in "iuf" and array.ndim == 1:
            array = array.astype(str)  # scores or labels
        if array.dtype.kind not in "US" or array.ndim not in (1, 2):
            raise ValueError(
                f"array {name!r} of {path} is {array.dtype}{list(array.shape)}, expected texts "
                "[N], or [N, C] of several each"
            )
        found[name] = (
            np.char.decode(array, "utf-8").tolist() if array.dtype.kind == "S" else array.tolist()
        )
    return found


def _check_columns(where: str, columns: Sequence[str], names: Sequence[str]) -> None:
    missing = [name for name in columns if name not in names]
    if missing:
        raise ValueError(
            f"{where} has no column {missing[0]!r}: it has {', '.join(names) or 'none'}"
        )
