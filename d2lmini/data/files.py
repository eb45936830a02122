"""Reading what people keep in folders: only plain files, only inside the folder, and never a hang."""

from __future__ import annotations

import codecs
import filecmp
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
IMAGE_SUFFIXES += (".ppm", ".pgm", ".pbm", ".pnm", ".tga")
MAX_JSON = 2 * 2**30  # bytes; COCO's own are 0.5 GB
DEPTH = 6  # folders within folders that are looked into
OURS = ".d2lmini"  # a file of this name marks a folder of results, which is never data
RESULTS = ("history.json", "learning-curve.json")  # of a run whose folder is that of the data


class DataError(ValueError):
    """Data that cannot be used; the message names the file, the object and what to do."""


class DataWarning(UserWarning):
    """Data that was left out because `skip_bad` asked for it; the message counts it and says which."""


@contextmanager
def skipping(faults: list[str] | None) -> Iterator[None]:
    """Note a DataError in `faults` and go on behind the block; without a list it is raised as ever."""
    try:
        yield
    except DataError as error:
        if faults is None:
            raise
        faults.append(str(error))


def read_bytes(path: Path, most: int, first: int | None = None) -> bytes:
    """The content of a plain file of at most `most` bytes; DataError for others (a pipe could hang).

    With `first` only so many bytes, of a file of any size.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise DataError(f"{path} is a folder: name the files in it")
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path} is a pipe or a device: give a plain file")
        if first is not None:
            with path.open("rb") as file:
                return file.read(first)
        if (size := status.st_size) > most:
            raise DataError(f"{path} has {size} bytes, at most {most} are read: is it the right file?")
        return path.read_bytes()
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}: check the path") from error
    except PermissionError as error:
        raise DataError(f"{path} may not be read ({error.strerror}): check its permissions") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check the disk and the path") from error
    except ValueError as error:  # a name that no file system takes
        raise DataError(f"{str(path)!r} is no file name ({error}): correct it") from error


def read_text(path: Path, most: int) -> str:
    """The same as text: in UTF-8, in UTF-16 if a mark at its beginning says so, or else in GB 18030 (GBK)."""
    return decode(read_bytes(path, most), path)


def decode(data: bytes, path: Path, declared: str = "utf-8-sig") -> str:
    """Bytes of a file as text: as a mark at the beginning says, as `declared`, in UTF-8 or GBK."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        declared = "utf-16"
    for encoding in (declared, "utf-8-sig", "gb18030"):
        with suppress(UnicodeError):
            return data.decode(encoding)
    raise DataError(f"{path} cannot be read as text: write it as UTF-8")


def parse_json(path: Path) -> Any:
    """The content of a JSON file; DataError for what is none."""
    text = read_text(path, MAX_JSON)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}): correct or remove it") from error


def content(folder: Path) -> list[Path]:
    """What is in a folder, sorted, without hidden files, which are some system's own."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} may not be read ({error.strerror}): check its permissions") from error


def files(folder: Path, suffixes: Sequence[str] | None) -> list[Path]:
    """The files of a folder with one of the endings, in small or capital letters; None for all."""
    if suffixes is None:
        return [path for path in content(folder) if not path.is_dir()]
    return [path for path in content(folder) if path.suffix.lower() in suffixes]


def folders(root: Path) -> list[Path]:
    """The folder and those in it, `DEPTH` levels down, each once even where links lead in circles.

    Folders of our own results are left out.
    """
    found: dict[str, Path] = {}  # by where they really are
    level = [root]
    for _ in range(DEPTH + 1):
        new = {real: path for path in level if (real := os.path.realpath(path)) not in found}
        found |= new
        inside = [path for folder in new.values() for path in content(folder) if path.is_dir()]
        level = [path for path in inside if not (path / OURS).exists()]
    return list(found.values())


def files_below(root: Path, suffixes: Sequence[str] | None) -> list[Path]:
    """The files with one of the endings in the folder and all folders in it."""
    return [path for folder in folders(root) for path in files(folder, suffixes)]


def same_bytes(path: Path, other: Path) -> bool:
    """Whether two files have the same content; False where one may not be read."""
    with suppress(OSError):
        return filecmp.cmp(path, other, shallow=False)
    return False


def is_file(path: Path) -> bool:
    """Whether there is a plain file; False, too, for a name that no file system takes."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, a folder that may not be entered
        return False
