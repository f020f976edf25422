"""Columns of text files, and what is said of bad ones."""

import gzip
import json

import numpy as np
import pytest

from jaxcl.data.tables import read_columns

PAIRS = {"question": ["Who, then?", 'He said "no".'], "answer": ["Наверно, я.", "她\u2028说"]}


def write(path, text, *, packed=False):
    content = text.encode()
    path.write_bytes(gzip.compress(content) if packed else content)
    return str(path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_columns_come_by_name_from_every_format(tmp_path, ending, packed):
    rows = list(zip(*PAIRS.values(), strict=True))
    lines = {
        "csv": ["answer,number,question"]
        + [f'"{a}",{i},"{q.replace(chr(34), chr(34) * 2)}"' for i, (q, a) in enumerate(rows)],
        "tsv": ["answer\tnumber\tquestion"] + [f"{a}\t{i}\t{q}" for i, (q, a) in enumerate(rows)],
        "jsonl": [json.dumps({"answer": a, "question": q, "x": 1}) for q, a in rows],
    }[ending]
    name = f"pairs.{ending}{'.gz' if packed else ''}"
    path = write(tmp_path / name, "\r\n".join(lines) + "\r\n", packed=packed)
    assert read_columns(path, ("question", "answer")) == PAIRS


def test_lines_of_a_text_file(tmp_path):
    path = write(tmp_path / "lines.txt", "\ufeffone\n\n two \r\nthree")
    assert read_columns(path, ("sentence",)) == {"sentence": ["one", "", " two ", "three"]}


def test_a_quoted_field_may_hold_line_ends(tmp_path):
    path = write(tmp_path / "a.csv", 'text\n"one\ntwo"\nthree\n')
    assert read_columns(path, ("text",)) == {"text": ["one\ntwo", "three"]}


def test_several_texts_a_record(tmp_path):
    lines = [json.dumps({"caption": texts}) for texts in (["a", "b"], ["c"], [])]
    path = write(tmp_path / "a.jsonl", "\n".join(lines))
    assert read_columns(path, ("caption",)) == {"caption": [["a", "b"], ["c", ""], ["", ""]]}
    np.savez(
        tmp_path / "a.npz", caption=np.array([["a", "ü"], ["", "c"]]), name=np.array(["x", "y"])
    )
    found = read_columns(str(tmp_path / "a.npz"), ("name", "caption"))
    assert found == {"name": ["x", "y"], "caption": [["a", "ü"], ["", "c"]]}


def test_scores_and_labels_may_be_numbers(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "a", "score": 4.5}\n{"text": "b", "score": 3}\n')
    assert read_columns(path, ("score",)) == {"score": ["4.5", "3"]}
    np.savez(tmp_path / "a.npz", label=np.arange(3))
    assert read_columns(str(tmp_path / "a.npz"), ("label",)) == {"label": ["0", "1", "2"]}


BAD = {
    "no UTF-8": ("a.txt", b"one\ntw\xe9\n", r"a.txt, line 2: byte 3 is no UTF-8 \(0xe9\)"),
    "no such column": (
        "a.csv",
        b"question,answer\na,b\n",
        r"no column 'text': it has question, answer",
    ),
    "an empty table": ("a.tsv", b"", r"no column 'text': it has none"),
    "a short row": ("a.csv", b"text,label\na,b\nc\n", r"line 3: 1 fields, expected the 2"),
    "an open quote": ("a.csv", b'text\n"a\nb\n', r"line \d: unexpected end of data"),
    "no JSON": ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"line 2 is no JSON"),
    "no object": ("a.jsonl", b'["a"]\n', r"line 1 is no JSON object"),
    "a line without it": (
        "a.jsonl",
        b'{"text": "a"}\n{"txt": "b"}\n',
        r"line 2 has no column 'text'",
    ),
    "no text": ("a.jsonl", b'{"text": null}\n', r"line 1: text is null, expected a text"),
    "both kinds": ("a.jsonl", b'{"text": "a"}\n{"text": ["b"]}\n', r"make all one kind"),
    "another ending": ("a.xml", b"<a/>", r"ends in '.xml': expected"),
    "no gzip": ("a.txt.gz", b"hello", r"damaged or cut short"),
    "cut gzip": ("a.txt.gz", gzip.compress(b"hello world" * 99)[:-12], r"damaged or cut short"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_with_the_line(tmp_path, case):
    name, content, words = BAD[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_columns(str(tmp_path / name), ("text",))


def test_other_refusals(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a file: give a file of texts"):
        read_columns(str(tmp_path / "none.txt"), ("text",))
    with pytest.raises(ValueError, match="one text a line, and 2 columns were asked for"):
        read_columns(write(tmp_path / "a.txt", "x"), ("question", "answer"))
    np.savez(tmp_path / "a.npz", text=np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"'text' of .* is float64\[3, 2\], expected texts"):
        read_columns(str(tmp_path / "a.npz"), ("text",))
