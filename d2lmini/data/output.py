"""Writing results: files that are whole or absent, faults that name the target, text that can be shown."""

from __future__ import annotations

import errno
import os
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from d2lmini.data.files import OURS

REMEDIES = {
    errno.ENOSPC: "free some space, or choose another place",
    errno.EDQUOT: "free some space, or choose another place",
    errno.EEXIST: "a file is where a folder should be: remove it, or choose another path",
    errno.ENOTDIR: "a file is where a folder should be: remove it, or choose another path",
    errno.ENOENT: "make the folder first, or choose another path",
    errno.EISDIR: "give the name of a file",
}
BIDI = {*map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A)))}  # they turn what follows around


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Raise the faults of writing `path` as ValueError that names it and the remedy."""
    try:
        yield
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "choose a place where you may write")
        raise ValueError(f"cannot write to {path} ({error.strerror or error}): {remedy}") from error


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file so that there is always a whole one: a temporary beside it, then one rename.

    Raises ValueError naming the file where that is not possible.
    """
    path = Path(path)
    with writing(path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:64]}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def check_file(path: str | Path) -> None:
    """Raise ValueError unless a file can be written there: before the work whose result it is to hold."""
    with writing(path):
        if Path(path).is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        tempfile.TemporaryFile(dir=Path(path).parent).close()


def results_folder(folder: str | Path) -> Path:
    """A folder for results, made, and marked to be no data; ValueError where one cannot write to it."""
    folder = Path(folder)
    with writing(folder):
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        if new:
            (folder / OURS).touch()
        tempfile.TemporaryFile(dir=folder).close()
    return folder


def visible(text: str) -> str:
    r"""Text with its control characters escaped, but for new lines.

    >>> print(visible("a\x1b[31mb"))
    a\x1b[31mb
    """
    hidden = {c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")} | BIDI & {*text}
    return text.translate({ord(c): c.encode("unicode_escape").decode() for c in hidden - {"\n"}})
