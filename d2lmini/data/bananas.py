"""D2L's real banana images, one banana each: 1000 to train with, 100 to validate; fetched by `download`."""

from __future__ import annotations

import csv
import io
import os
from functools import partial
from pathlib import Path, PurePosixPath

from d2lmini.data.download import TIMEOUT, fetch_archive
from d2lmini.data.entries import Entry, Found, LoadOptions, Object
from d2lmini.data.files import DataError, is_file, read_bytes

URL = "https://d2l-data.s3-accelerate.amazonaws.com/banana-detection.zip"
SHA1 = "5de26c8fce5ccdea9f91267273464dc968d20d72"
FOLDER = "banana-detection"
PARTS = ("train", "val")
COLUMNS = ["img_name", "label", "xmin", "ymin", "xmax", "ymax"]
MAX_TABLE = 16 * 2**20  # bytes


def default_root() -> Path:
    """Where archives are kept: $D2LMINI_DATA, or d2lmini in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("D2LMINI_DATA") or Path(cache, "d2lmini"))


def find_archive(root: Path) -> Path | None:
    """The folder with both parts' tables: `root` itself or the archive's folder in it."""
    for folder in (root, root / FOLDER):
        if all(is_file(folder / f"bananas_{part}" / "label.csv") for part in PARTS):
            return folder
    return None


def download(
    root: str | Path | None = None, url: str = URL, sha1: str = SHA1, timeout: float = TIMEOUT
) -> Path:
    """Fetch the archive (once) into `root`; returns the folder for `open_folder`. Errors: `fetch_archive`."""
    root = default_root() if root is None else Path(root)
    return find_archive(root) or fetch_archive(url, sha1, root / FOLDER, find_archive, timeout)


def read_bananas(folder: Path) -> Found:
    """The unpacked archive; DataError names the row of a table that is not right."""
    return Found({part: partial(_entries, folder / f"bananas_{part}") for part in PARTS}, {"banana"})


def _entries(folder: Path, options: LoadOptions) -> list[Entry]:
    """The entries of one part, in the table's order."""
    path = folder / "label.csv"
    data = read_bytes(path, MAX_TABLE)
    try:
        header, *rows = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table ({error}): unpack it again") from error
    if header != COLUMNS:
        raise DataError(f"{path} has the columns {header}, not {COLUMNS}: unpack it again")
    objects: dict[str, list[Object]] = {}
    for number, row in enumerate(rows, start=2):
        if row:
            objects.setdefault(row[0], []).append(_read_row(row, f"{path}, line {number}"))
    images = folder / "images"
    return [Entry(images / name, tuple(found), f"{path}, {name}") for name, found in objects.items()]


def _read_row(row: list[str], where: str) -> Object:
    try:
        name, label, *edges = row
        left, top, right, bottom = (float(edge) for edge in edges)
    except ValueError as error:
        raise DataError(f"{where} is {row}: give a name, a label and 4 numbers") from error
    if not name or PurePosixPath(name.replace("\\", "/")).name != name:
        raise DataError(f"{where}: {name!r} is not the name of a file in the folder images")
    if label.strip() != "0":
        raise DataError(f"{where}: the label is {label!r}, but 0 (banana) is the only class")
    return Object("banana", (left, top, right, bottom))
