"""Fetching an archive once: over https, within bounds, resumed after a cut, checked before it is unpacked."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
import time
import zipfile
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPException, IncompleteRead
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from filelock import FileLock, Timeout

from d2lmini.data.files import DataError

TIMEOUT = 30.0  # seconds without a byte
DEADLINE = 900.0  # seconds in all
MAX_ARCHIVE = 200 * 2**20  # bytes
MAX_UNPACKED = 800 * 2**20
MAX_MEMBERS = 10_000
LOCK = ".download.lock"
Find = Callable[[Path], "Path | None"]  # gives the folder of the data in another, if it is there
OFFLINE = "without a network use the generated bananas, which need no file: --data bananas"


def fetch_archive(url: str, sha1: str, target: Path, find: Find, timeout: float = TIMEOUT) -> Path:
    """Fetch a zip file, check it, and put the folder that `find` sees in it at `target`; returns `target`.

    A cut transfer is resumed, at once or at the next call. The SHA-1 is compared before anything is unpacked.
    Of several processes one downloads and the others wait. `timeout` is in seconds without a byte. Raises
    DataError that says what to do without a network.
    """
    root = target.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / LOCK, timeout=DEADLINE):  # free when its process ends, however it does
            return target if find(target) == target else _install(url, sha1, target, find, timeout)
    except Timeout as error:
        raise DataError(f"another process is downloading into {root}: try later") from error
    except (OSError, HTTPException) as error:  # also of urllib: no route, refused, 404, timeout
        reason = " ".join(str(error).split())
        raise DataError(f"cannot fetch {url} into {root} ({reason}): {OFFLINE}") from error


def _install(url: str, sha1: str, target: Path, find: Find, timeout: float) -> Path:
    if target.exists():
        raise DataError(f"{target} is there but not complete: remove it, then download again")
    archive = target.with_name(f".{sha1[:12]}.part")
    if not (archive.exists() and _sha1(archive) == sha1):  # all there: stopped while it was unpacked
        _fetch(url, archive, timeout)
    try:
        check_hash(archive, url, sha1)
        # Beside the target, so that the last step is a rename within one file system.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpacking-") as scratch:
            unpack(archive, Path(scratch) / "unpacked")
            folder = find(Path(scratch) / "unpacked")
            if folder is None:
                raise DataError(f"{url} is an archive of something else: nothing was put in place")
            try:
                os.replace(folder, target)
            except OSError:
                if find(target) != target:  # otherwise another process was quicker, with the same files
                    raise
    finally:
        archive.unlink(missing_ok=True)  # right or wrong, it is not needed any more
    return target


def _fetch(url: str, file: Path, timeout: float) -> None:
    """Add to a file what an address still has for it, again after a cut if that attempt brought something."""
    _check_scheme(url)
    end = time.monotonic() + DEADLINE
    while True:
        before = _size(file)
        try:
            return _transfer(url, file, before, timeout, end)
        except (IncompleteRead, ConnectionError, TimeoutError) as error:
            have = _size(file)
            if have <= before:
                more = f"{have} bytes are kept, the next call goes on from there" if have else OFFLINE
                raise DataError(f"{url} was cut off ({error}): {more}") from error


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _transfer(url: str, file: Path, start: int, timeout: float, end: float) -> None:
    """One attempt, from byte `start` on if the server can; raises ConnectionError when bytes are missing."""
    headers = {"Range": f"bytes={start}-"} if start else {}
    try:
        response = _OPENER.open(Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        error.close()
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        file.unlink()  # longer than what there is: it is not this archive's beginning
        return _transfer(url, file, 0, timeout, end)
    with response:
        partial = response.status == HTTPStatus.PARTIAL_CONTENT
        if partial and not re.match(rf"bytes {start}-", response.headers.get("Content-Range", "")):
            file.unlink()
            raise DataError(f"{url} gave another part than was asked for: try later, or {OFFLINE}")
        received = start if partial else 0
        length = response.headers.get("Content-Length", "")
        whole = received + int(length) if length.isdigit() else 0
        with file.open("ab" if partial else "wb") as output:
            while block := response.read1(2**16):  # what is there: `read` would wait for the whole block
                received += len(block)
                if received > MAX_ARCHIVE:
                    output.truncate(0)  # nothing to go on from
                    raise DataError(f"{url} gives more than {MAX_ARCHIVE} bytes, which is not the archive")
                if time.monotonic() > end:
                    raise DataError(f"{url} is too slow ({received} bytes): try later, or {OFFLINE}")
                output.write(block)
    if received < whole:
        raise ConnectionError(f"{received} of {whole} bytes")


def _check_scheme(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname == "127.0.0.1"):
        raise DataError(f"{url} is not an https address: data is only fetched over https")


class _StayOnHttps(HTTPRedirectHandler):
    def redirect_request(self, request: Request, *answer: Any) -> Request | None:
        _check_scheme(answer[-1])
        return super().redirect_request(request, *answer)


_OPENER = build_opener(_StayOnHttps)


def check_hash(archive: Path, url: str, sha1: str) -> None:
    """Raise DataError unless the file has this SHA-1."""
    if (found := _sha1(archive)) != sha1:
        fault = "something between changed it, or it was replaced. Nothing was unpacked; try later"
        other = f"{url} is not the archive that was expected (SHA-1 {found}, not {sha1})"
        raise DataError(f"{other}: {fault}, or {OFFLINE}")


def _sha1(archive: Path) -> str:
    return hashlib.sha1(archive.read_bytes(), usedforsecurity=False).hexdigest()


def unpack(archive: Path, target: Path) -> None:
    """Unpack a zip into `target`; DataError before anything is written if a member is not safe there."""
    try:
        with zipfile.ZipFile(archive) as file:
            members = file.infolist()
            total = sum(member.file_size for member in members)
            if len(members) > MAX_MEMBERS or total > MAX_UNPACKED:
                raise DataError(f"{archive} unpacks to {len(members)} files of {total} bytes: refused")
            for member in members:
                path = PurePosixPath(member.filename.replace("\\", "/"))
                plain = stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
                if not plain or path.is_absolute() or ".." in path.parts or ":" in member.filename:
                    raise DataError(f"{archive} holds {member.filename!r}, which is not below it: refused")
            file.extractall(target)
    except DataError:
        raise
    except Exception as error:  # damaged bytes make zipfile and the decoders below raise what they like
        raise DataError(f"{archive} is not a sound zip ({error}): fetch it again") from error
