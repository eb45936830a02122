"""The CSV table of TensorFlow's tutorials: a row for each object, with the numbers of VOC's XML files."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path

from d2lmini.data.entries import Annotation, Found, LoadOptions, Object, as_size
from d2lmini.data.files import DataError, read_bytes, read_text, skipping
from d2lmini.data.lookup import find_images
from d2lmini.data.splits import split_of
from d2lmini.data.voc import from_0

COLUMNS = ("filename", "class", "xmin", "ymin", "xmax", "ymax")
MAX_TABLE = 256 * 2**20  # bytes


def is_table(columns: Iterable[str]) -> bool:
    """Whether a table with these columns is read."""
    return {*COLUMNS} <= {*columns}


def read_header(path: Path) -> list[str]:
    """The names of a table's columns, in small letters, by its first bytes."""
    start = read_bytes(path, MAX_TABLE, first=4096).decode("utf-8-sig", "replace")
    return [name.strip(' "').lower() for name in start.partition("\n")[0].strip().split(",")]


def read_tables(root: Path, tables: Iterable[Path], options: LoadOptions) -> Found:
    """Tables with the columns of `COLUMNS`, divided by their names. Raises DataError naming the row."""
    found: dict[str, Annotation] = {}
    faulty = set()
    for path in tables:
        split = split_of(*path.relative_to(root).parts[:-1], file=path.stem)
        for row in _rows(path):
            key, where = f"{path}, {row.get('filename')}", f"{path}, line {row['line']}"
            new = Annotation(path, key, (row.get("filename", ""),), (), _size(row), split)
            with skipping(options.faults):
                one = found.setdefault(key, new)
                found[key] = one._replace(objects=(*one.objects, _object(row, where)))
                continue
            faulty.add(key)  # whole: what is not read would be taught as background
    sound = {key: one for key, one in found.items() if key not in faulty}
    mentioned = (name for one in found.values() for name in one.names)
    return find_images([*from_0(sound).values()], mentioned, root, options)


def _rows(path: Path) -> list[dict]:
    """The rows of a table by column, each with the number of its line."""
    text = read_text(path, MAX_TABLE)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip().lower() for name in next(reader)]
        lines = [(reader.line_num, line) for line in reader if line]
    except (csv.Error, StopIteration) as error:
        raise DataError(f"{path} cannot be read as a table ({error}): correct it") from error
    return [{"line": n} | dict(zip(header, map(str.strip, line), strict=False)) for n, line in lines]


def _object(row: dict, where: str) -> Object:
    try:
        edges = tuple(float(row[side]) for side in COLUMNS[2:])
    except (KeyError, ValueError):
        edges = (math.nan,)
    if not all(map(math.isfinite, edges)) or not row.get("filename") or not row.get("class"):
        raise DataError(f"{where}: give {', '.join(COLUMNS)}, in pixels")
    return Object(row["class"], edges)


def _size(row: dict) -> tuple[int, int] | None:
    return as_size(row.get("width"), row.get("height"))
