"""Features with names in a file: written a part at a time, and searched, in one of four formats."""

import abc
import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxcl.evaluation.blocks import normalized_rows
from jaxcl.evaluation.knn import nearest_neighbours
from jaxcl.evaluation.validation import as_features
from jaxcl.extras import import_extra
from jaxcl.training.durable_files import write_durably

SUFFIXES = (".npz", ".parquet", ".faiss", ".usearch")
"""Of files that hold features: numpy's; Parquet's (`jaxcl[parquet]`); exact search by FAISS
(`jaxcl[faiss]`); approximate search by usearch (`jaxcl[usearch]`). Beside the last two stands
FILE.npz with the names."""
_CHUNK = 65_536  # rows that are read or written at once

Parts = Callable[[], Iterator[np.ndarray]]
"""Features [n, F], float32, part after part, as often as they are asked for."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """What an index is to hold."""

    parts: Parts
    """Features of all rows, in order."""
    count: int
    """Number of rows, N."""
    width: int
    """Features of a row, F."""
    columns: dict[str, np.ndarray]
    """Other things of each row, [N]: `names`, and `replaced` where there is such a thing."""
    about: dict[str, str]
    """What is said once: where pictures lie, and so on."""


def check_format(path: Path) -> None:
    """Raises where a file could not be written: before anything is computed.

    Raises:
      ValueError: for another ending than `SUFFIXES`.
      ImportError: if what writes it is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} ends in none of {', '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        import_extra("pyarrow.parquet", "parquet")
    if path.suffix == ".faiss":
        import_extra("faiss", "faiss")
    if path.suffix == ".usearch":
        import_extra("usearch.index", "usearch")


def write_index(path: Path, rows: Rows) -> None:
    """Writes features to a file, in the format of its ending; memory holds one part at a time, of
    FAISS and usearch the index.

    Raises:
      ValueError: for another ending, or features that are not finite.
      ImportError: if what writes it is not installed.
      OSError: if it cannot be written; what was there is kept, but for an index of FAISS or usearch
        whose new names could not be written: it is then refused.
    """
    check_format(path)
    write = {
        ".npz": _write_npz,
        ".parquet": _write_parquet,
        ".faiss": _write_faiss,
        ".usearch": _write_usearch,
    }[path.suffix]
    write(path, dataclasses.replace(rows, parts=lambda: map(_finite, rows.parts())))


class Index(abc.ABC):
    """Features that can be searched."""

    width: int
    """Features of a row."""
    about: dict[str, str]
    """As in `Rows`."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abc.abstractmethod
    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows [k] most like a query [F] by their cosine, best first, and these cosines."""

    @abc.abstractmethod
    def names(self, rows: np.ndarray) -> list[str]:
        """The names of some rows."""


def open_index(path: Path) -> Index:
    """Opens what `write_index` wrote.

    Raises:
      ValueError: for another ending, a damaged file, or one that is no index.
      FileNotFoundError: if there is none, or the names beside it are missing.
      ImportError: if what reads it is not installed.
    """
    check_format(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: jaxcl embed writes an index")
    kinds: dict[str, Callable[[Path], Index]] = {
        ".npz": _Arrays,
        ".parquet": _Parquet,
        ".faiss": _Faiss,
        ".usearch": _Usearch,
    }
    return kinds[path.suffix](path)


def names_beside(path: Path) -> Path:
    """Where the names of a FAISS or usearch index stand."""
    return path.with_name(path.name + ".npz")


def _finite(part: np.ndarray) -> np.ndarray:
    if not np.isfinite(part).all():
        row = int(np.flatnonzero(~np.isfinite(part).all(axis=1))[0])
        raise ValueError(f"features are not finite (row {row} of a part): did training diverge?")
    return np.ascontiguousarray(part, np.float32)


def _write_npz(path: Path, rows: Rows, *, features: bool = True) -> None:
    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as whole:
            if features:
                dtype, shape = np.dtype(np.float32), (rows.count, rows.width)
                _write_array(whole, "features", dtype, shape, rows.parts())
            for name, column in rows.columns.items():
                chunks = (column[i : i + _CHUNK] for i in range(0, len(column), _CHUNK))
                _write_array(whole, name, column.dtype, column.shape, chunks)
            for name, said in rows.about.items():
                one = np.array(said)
                _write_array(whole, name, one.dtype, (), iter([one]))

    write_durably(path, write)


def _write_array(
    whole: zipfile.ZipFile,
    name: str,
    dtype: np.dtype,
    shape: tuple[int, ...],
    chunks: Iterator[np.ndarray],
) -> None:
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    with whole.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_2_0(file, header)
        for chunk in chunks:
            file.write(chunk.tobytes())


def _write_parquet(path: Path, rows: Rows) -> None:
    arrow = import_extra("pyarrow", "parquet")
    parquet = import_extra("pyarrow.parquet", "parquet")
    kinds = {"names": arrow.string(), "replaced": arrow.bool_()}
    schema = arrow.schema(
        [(name, kinds[name]) for name in rows.columns]
        + [("features", arrow.list_(arrow.float32(), rows.width))],
        metadata={"jaxcl": json.dumps(rows.about)},
    )

    def write(file: BinaryIO) -> None:
        with parquet.ParquetWriter(file, schema) as writer:
            start = 0
            for part in rows.parts():
                stop = start + len(part)
                columns = [
                    arrow.array(_readable(column[start:stop].tolist()), kinds[name])
                    for name, column in rows.columns.items()
                ]
                flat = arrow.array(part.reshape(-1))
                columns.append(arrow.FixedSizeListArray.from_arrays(flat, rows.width))
                writer.write_table(arrow.Table.from_arrays(columns, schema=schema))
                start = stop

    write_durably(path, write)


def _readable(values: list[Any]) -> list[Any]:
    """Names as text: bytes of a file's name that are none become question marks."""
    return [
        one.encode("utf-8", "replace").decode() if isinstance(one, str) else one for one in values
    ]


def _write_faiss(path: Path, rows: Rows) -> None:
    faiss = import_extra("faiss", "faiss")
    index = faiss.IndexFlatIP(rows.width)
    for part in rows.parts():
        index.add(normalized_rows(part))
    _write_beside(path, rows, faiss.serialize_index(index).tobytes())


def _write_usearch(path: Path, rows: Rows) -> None:
    library = import_extra("usearch.index", "usearch")
    index = library.Index(ndim=rows.width, metric="cos", dtype="f32")
    start = 0
    for part in rows.parts():
        index.add(np.arange(start, start + len(part)), normalized_rows(part))
        start += len(part)
    _write_beside(path, rows, bytes(index.save()))


def _write_beside(path: Path, rows: Rows, content: bytes) -> None:
    """The index, and the names with its digest: with those of another it is refused."""
    own = {**rows.about, "index": hashlib.sha256(content).hexdigest()}
    write_durably(path, lambda file: file.write(content))
    _write_npz(names_beside(path), dataclasses.replace(rows, about=own), features=False)


class _Named(Index):
    """Whose names are an array."""

    def __init__(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as file:
                content = {name: file[name] for name in file.files}
        except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
            raise ValueError(f"{path} is no index, or damaged: {error}") from error
        if "names" not in content:
            raise ValueError(
                f"{path} has no array 'names', only {', '.join(sorted(content))}: an index is "
                "written by jaxcl embed"
            )
        self._names = content.pop("names")
        self._features = content.pop("features", None)
        self.about = {name: str(one) for name, one in content.items() if one.ndim == 0}

    def __len__(self) -> int:
        return len(self._names)

    def names(self, rows: np.ndarray) -> list[str]:
        return [str(self._names[row]) for row in rows]

    def _check_count(self, path: Path, count: int) -> None:
        if count != len(self):
            raise ValueError(
                f"{path} holds {count} features and {len(self)} names: write it with jaxcl embed"
            )


class _Arrays(_Named):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if self._features is None:
            raise ValueError(f"{path} has no array 'features': an index is written by jaxcl embed")
        self._features = as_features("features", self._features)
        self.width = self._features.shape[1]
        self._check_count(path, len(self._features))

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        rows, similarities = nearest_neighbours(self._features, query[None], k)
        return rows[0], similarities[0]


class _Parquet(Index):
    def __init__(self, path: Path) -> None:
        arrow = import_extra("pyarrow", "parquet")
        parquet = import_extra("pyarrow.parquet", "parquet")
        try:
            self._file = parquet.ParquetFile(path)
            schema = self._file.schema_arrow
            self.width = schema.field("features").type.list_size
            schema.field("names")
            self.about = json.loads((schema.metadata or {}).get(b"jaxcl", b"{}"))
        except (arrow.ArrowInvalid, OSError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{path} is no index, or damaged: {error}. jaxcl embed writes one"
            ) from error

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        rows, similarities = np.zeros(0, np.int64), np.zeros(0, np.float32)
        start = 0
        for batch in self._file.iter_batches(_CHUNK, columns=["features"]):
            part = batch.column(0).flatten().to_numpy().reshape(-1, self.width)
            found, cosines = nearest_neighbours(part, query[None], min(k, len(part)))
            rows = np.concatenate([rows, found[0] + start])
            similarities = np.concatenate([similarities, cosines[0]])
            best = np.argsort(-similarities, kind="stable")[:k]
            rows, similarities = rows[best], similarities[best]
            start += len(part)
        return rows, similarities

    def names(self, rows: np.ndarray) -> list[str]:
        found, start = {}, 0
        for batch in self._file.iter_batches(_CHUNK, columns=["names"]):
            column = batch.column(0)
            for row in rows:
                if start <= row < start + len(column):
                    found[row] = str(column[row - start])
            start += len(column)
        return [found[row] for row in rows]


class _Beside(_Named):
    """Whose names stand in a file beside it."""

    def __init__(self, path: Path) -> None:
        beside = names_beside(path)
        if not beside.is_file():
            raise FileNotFoundError(
                f"{beside} is missing, which holds the names of {path}: jaxcl embed writes both"
            )
        super().__init__(beside)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if self.about.pop("index", digest) != digest:
            raise ValueError(
                f"{path} is no index that {beside} has the names of, or damaged: write both anew "
                "with jaxcl embed"
            )


class _Faiss(_Beside):
    def __init__(self, path: Path) -> None:
        faiss = import_extra("faiss", "faiss")
        super().__init__(path)
        try:
            self._index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise ValueError(f"{path} is no index of FAISS, or damaged") from error
        self.width = self._index.d
        self._check_count(path, self._index.ntotal)

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        similarities, rows = self._index.search(normalized_rows(query[None]), k)
        return rows[0], similarities[0]


class _Usearch(_Beside):
    def __init__(self, path: Path) -> None:
        library = import_extra("usearch.index", "usearch")
        super().__init__(path)
        try:
            self._index: Any = library.Index.restore(str(path), view=True)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path} is no index of usearch, or damaged: {error}") from error
        if self._index is None:
            raise ValueError(f"{path} is no index of usearch, or damaged")
        self.width = self._index.ndim
        self._check_count(path, len(self._index))

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        found = self._index.search(normalized_rows(query[None])[0], k)
        return np.asarray(found.keys), 1 - np.asarray(found.distances)
