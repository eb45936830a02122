"""D2L's real banana pictures: the archive fetched once, checked, and read from where it lies.

Nothing is downloaded unless `download` is called. The generated bananas (`Synthetic("bananas")`)
need no network and are the default everywhere.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import stat
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse, IncompleteRead
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from d2lmini.data.annotated import AnnotatedPictures, Entry, Object
from d2lmini.data.files import DataError, is_file, read_bytes

try:
    import fcntl
except ImportError:  # Windows: two downloads at once both work, and the quicker one stays
    fcntl = None  # type: ignore[assignment]

URL = "https://d2l-data.s3-accelerate.amazonaws.com/banana-detection.zip"
SHA1 = "5de26c8fce5ccdea9f91267273464dc968d20d72"
FOLDER = "banana-detection"
LOCK = ".banana.lock"
SPLITS = ("train", "val")
COLUMNS = ["img_name", "label", "xmin", "ymin", "xmax", "ymax"]

TIMEOUT = 30.0  # seconds without a byte
DEADLINE = 900.0  # seconds in all
MAX_ARCHIVE = 200 * 2**20  # bytes
MAX_UNPACKED = 800 * 2**20
MAX_MEMBERS = 10_000
MAX_TABLE = 16 * 2**20
OFFLINE = "without a network use the generated bananas, which need no file: --data bananas"


class Bananas(AnnotatedPictures):
    """The real banana set, one banana per picture: 1000 to train with, 100 to validate, or all.

    `root` is the unpacked archive or the folder it lies in; None is where `download` puts it. The
    boxes are edges in pixels from 0. Raises ValueError for an unknown split, and DataError (a
    ValueError) where there is no archive or a row of its table is not right.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        split: str = "train",
        size: int = 256,
        fit: str = "stretch",
    ) -> None:
        if split not in (*SPLITS, "all"):
            raise ValueError(f"split is {split!r}, but {root or FOLDER} has {', '.join(SPLITS)} and all")
        root = default_root() if root is None else Path(root)
        folder = find_archive(root)
        if folder is None:
            raise DataError(
                f"no banana pictures in {root}: call d2lmini.data.bananas.download(), or {OFFLINE}"
            )
        parts = SPLITS if split == "all" else (split,)
        entries = [entry for part in parts for entry in read_table(folder / f"bananas_{part}")]
        super().__init__(entries, ("banana",), size, fit)


def default_root() -> Path:
    """Where archives are kept: $D2LMINI_DATA, or d2lmini in the user's cache folder."""
    chosen = os.environ.get("D2LMINI_DATA")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(cache) / "d2lmini"


def find_archive(root: Path) -> Path | None:
    """The folder with both splits' tables: `root` itself or the archive's folder in it."""
    for folder in (root, root / FOLDER):
        if all(is_file(folder / f"bananas_{split}" / "label.csv") for split in SPLITS):
            return folder
    return None


def read_table(folder: Path) -> list[Entry]:
    """The entries of one split, in the table's order; DataError names the row that is not right."""
    path = folder / "label.csv"
    try:
        text = read_bytes(path, MAX_TABLE).decode("utf-8-sig")
        header, *rows = csv.reader(io.StringIO(text, newline=""))
    except (ValueError, csv.Error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as a table ({error}): unpack it again") from error
    if header != COLUMNS:
        raise DataError(f"{path} has the columns {header}, not {COLUMNS}: unpack it again")
    objects: dict[str, list[Object]] = {}
    for number, row in enumerate(rows, start=2):
        if row:
            objects.setdefault(row[0], []).append(_read_row(row, f"{path}, line {number}"))
    return [
        Entry(folder / "images" / name, tuple(found), f"{path}, {name}") for name, found in objects.items()
    ]


def _read_row(row: list[str], where: str) -> Object:
    """One object; its picture must lie in the folder of pictures."""
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


# ----------------------------------------------------------------------------------------- fetching


def download(
    root: str | Path | None = None, url: str = URL, sha1: str = SHA1, timeout: float = TIMEOUT
) -> Path:
    """Fetch the archive (once), check it, unpack it in `root`; returns the folder to read from.

    A transfer that is cut is gone on with where it stopped, at once or, if the server stays away, at the
    next call. Size and SHA-1 are compared before anything is unpacked, and the unpacked folder is put in
    place whole. Of several processes that ask at once one downloads and the others wait. `timeout` is in
    seconds without a byte. Raises DataError if the server cannot be reached or gives something else, and
    says what to do without a network.
    """
    root = default_root() if root is None else Path(root)
    present = find_archive(root)
    if present is not None:
        return present
    if (root / FOLDER).exists():
        raise DataError(f"{root / FOLDER} is there but not complete: remove it, then download again")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root / LOCK):
            return find_archive(root) or _install(root, url, sha1, timeout)
    except (OSError, HTTPException) as error:  # also of urllib: no route, refused, 404, timeout
        said = " ".join(str(error).split())
        raise DataError(f"cannot fetch {url} into {root} ({said}): {OFFLINE}") from error


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process downloads here. The system frees the lock of one that was killed."""
    end = time.monotonic() + DEADLINE
    with path.open("wb") as file:
        while fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > end:
                    raise DataError(
                        f"another process is downloading into {path.parent}: try later"
                    ) from error
                time.sleep(0.05)
        yield
    # The file stays: removing it could take the lock from under a process that just opened it.


def _install(root: Path, url: str, sha1: str, timeout: float) -> Path:
    """Download, check, unpack and put in place."""
    archive = root / f".banana-{sha1[:12]}.part"
    if not (archive.exists() and _sha1(archive) == sha1):  # all there: stopped while it was unpacked
        _fetch(url, archive, timeout)
    try:
        _check_hash(archive, url, sha1)
        # Beside the target, so that the last step is a rename within one file system.
        with tempfile.TemporaryDirectory(dir=root, prefix=".banana-") as scratch:
            unpack(archive, Path(scratch) / "unpacked")
            return _put_in_place(Path(scratch) / "unpacked", root, url)
    finally:
        archive.unlink(missing_ok=True)  # right or wrong, it has served


class _Cut(Exception):
    """A transfer ended before all was there."""


def _fetch(url: str, target: Path, timeout: float) -> None:
    """Write what the address gives to `target`, within the bounds on time and size.

    What is in `target` already is not asked for again. A cut transfer is taken up as long as every
    attempt brings something.
    """
    _check_scheme(url)
    end = time.monotonic() + DEADLINE
    while True:
        before = target.stat().st_size if target.exists() else 0
        try:
            return _transfer(url, target, before, timeout, end)
        except (_Cut, IncompleteRead, ConnectionError, TimeoutError) as error:
            have = target.stat().st_size if target.exists() else 0
            if have <= before:
                more = f"{have} bytes are kept, the next call goes on from there" if have else OFFLINE
                raise DataError(f"{url} was cut off ({error}): {more}") from error


def _transfer(url: str, target: Path, start: int, timeout: float, end: float) -> None:
    """One attempt, from byte `start` on if the server can; raises _Cut when bytes are missing."""
    headers = {"Range": f"bytes={start}-"} if start else {}
    try:
        response = _OPENER.open(Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        error.close()
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        target.unlink()  # longer than what there is: it is not this file's beginning
        return _transfer(url, target, 0, timeout, end)
    with response:
        went_on = response.status == HTTPStatus.PARTIAL_CONTENT
        if went_on and _range_start(response) != start:
            target.unlink()
            raise DataError(f"{url} gave another part than was asked for: try later, or {OFFLINE}")
        received = start if went_on else 0
        told = response.headers.get("Content-Length", "")
        whole = received + int(told) if told.isdigit() else None
        with target.open("ab" if went_on else "wb") as file:
            received = _copy(response, file, received, url, end)
    if whole is not None and received < whole:
        raise _Cut(f"{received} of {whole} bytes")
    return None


def _copy(response: HTTPResponse, file: BinaryIO, received: int, url: str, end: float) -> int:
    """Everything that comes, to the file; returns how many bytes there are now."""
    while block := response.read1(2**16):  # what is there: a slow server cannot hold us
        received += len(block)
        if received > MAX_ARCHIVE:
            file.truncate(0)  # nothing to go on from
            raise DataError(f"{url} gives more than {MAX_ARCHIVE} bytes, which is not the archive")
        if time.monotonic() > end:
            raise DataError(f"{url} is too slow ({received} bytes): try later, or {OFFLINE}")
        file.write(block)
    return received


def _range_start(response: HTTPResponse) -> int | None:
    """The first byte that a partial answer says it gives."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _check_scheme(url: str) -> None:
    """Only https, but for a server on this machine."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname == "127.0.0.1"):
        raise DataError(f"{url} is not an https address: data is only fetched over https")


class _StayOnHttps(HTTPRedirectHandler):
    """Follows a redirect only to where a download may begin."""

    def redirect_request(self, request: Request, *answer: Any) -> Request | None:
        _check_scheme(answer[-1])
        return super().redirect_request(request, *answer)


_OPENER = build_opener(_StayOnHttps)


def _check_hash(archive: Path, url: str, sha1: str) -> None:
    found = _sha1(archive)
    if found != sha1:
        raise DataError(
            f"{url} is not the archive that was expected (SHA-1 {found}, not {sha1}): something "
            f"between changed it, or it was replaced. Nothing was unpacked; try later, or {OFFLINE}"
        )


def _sha1(archive: Path) -> str:
    return hashlib.sha1(archive.read_bytes(), usedforsecurity=False).hexdigest()


def unpack(archive: Path, target: Path) -> None:
    """Unpack a zip into `target`, once every member is known to stay in it and within bounds.

    Raises DataError naming the member that would not.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = file.infolist()
            total = sum(member.file_size for member in members)
            if len(members) > MAX_MEMBERS or total > MAX_UNPACKED:
                raise DataError(f"{archive} unpacks to {len(members)} files of {total} bytes: refused")
            for member in members:
                _check_member(member, archive)
            file.extractall(target)
    except DataError:
        raise
    except Exception as error:  # damaged bytes make zipfile and the decoders below raise what they like
        raise DataError(f"{archive} is not a sound zip ({error}): fetch it again") from error


def _check_member(member: zipfile.ZipInfo, archive: Path) -> None:
    """Only plain files and folders, below the target."""
    path = PurePosixPath(member.filename.replace("\\", "/"))
    mode = member.external_attr >> 16
    plain = stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR)
    if path.is_absolute() or ".." in path.parts or ":" in member.filename or not plain:
        raise DataError(f"{archive} holds {member.filename!r}, which is not below it: refused")


def _put_in_place(unpacked: Path, root: Path, url: str) -> Path:
    """Rename the unpacked folder to its place in `root`."""
    folder, target = find_archive(unpacked), root / FOLDER
    if folder is None:
        raise DataError(f"{url} does not hold bananas_train and bananas_val with their label.csv")
    try:
        os.replace(folder, target)
    except OSError:
        if find_archive(root) is None:  # otherwise another process was quicker, with the same files
            raise
    return target
