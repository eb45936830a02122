"""The banana archive: read from a folder, fetched from a server on this machine, or refused."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import stat
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from urllib.request import build_opener

import numpy as np
import pytest
from PIL import Image

from d2lmini.data import download as module
from d2lmini.data.bananas import download
from d2lmini.data.download import unpack
from d2lmini.data.files import DataError
from d2lmini.data.folders import open_folder

HEADER = "img_name,label,xmin,ymin,xmax,ymax\n"


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (256, 256, 3), np.uint8)
    pixels[:, :, 1:] = pixels[:1, :1, 1:]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def members(count: int = 2) -> dict[str, bytes]:
    """The files of a small archive."""
    files = {}
    for split in ("train", "val"):
        folder = f"banana-detection/bananas_{split}"
        rows = [f"{i}.png,0,{64 * i},128,{64 * i + 32},256\n" for i in range(count)]
        files[f"{folder}/label.csv"] = (HEADER + "".join(rows)).encode()
        files |= {f"{folder}/images/{i}.png": png(i) for i in range(count)}
    return files


def zipped(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def written(root, files: dict[str, bytes] | None = None):
    for name, data in (files or members()).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def served(handler, status: int, headers: dict[str, str], body: bytes) -> None:
    """A whole answer."""
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def cut(content: bytes, *lengths: int, ranges: bool = True):
    """A server that breaks off after so many bytes of each answer, in turn; then it gives all the rest."""
    left = list(lengths)

    def answer(handler) -> None:
        asked = handler.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and ranges else 0
        if start > len(content):
            return served(handler, 416, {}, b"")
        rest = content[start:]
        more = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        body = rest[: left.pop(0)] if left else rest
        return served(handler, 206 if start else 200, {"Content-Length": str(len(rest)), **more}, body)

    return answer


@pytest.fixture
def server(monkeypatch):
    """A server on this machine: put into `answers` what it says; `asked` is what it was asked."""
    answers, asked = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Range")))
            answer = answers.get(self.path, (404, {}, b""))
            with contextlib.suppress(OSError):  # the reader left
                answer(self) if callable(answer) else served(self, *answer)

        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setattr(module, "_OPENER", build_opener(module._StayOnHttps))  # reads no_proxy
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        running.answers, running.asked = answers, asked
        running.url = f"http://127.0.0.1:{running.server_address[1]}"
        yield running
        running.shutdown()
        thread.join()


def left(root) -> list[str]:
    """What a download left behind, but for the lock, an empty file."""
    assert all(path.stat().st_size == 0 for path in root.glob(module.LOCK))
    return sorted(path.name for path in root.iterdir() if path.name != module.LOCK)


def sha1(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


# ------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize("below", ["", "banana-detection"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_the_archive_is_read_from_its_folder_or_the_one_above(tmp_path, split, below):
    data = open_folder(written(tmp_path) / below, split, size=64)
    assert data.classes == ("banana",)
    assert len(data) == 2
    assert data[1].image.shape == (3, 64, 64)
    assert data[1].boxes.tolist() == [[0.25, 0.5, 0.375, 1.0]]
    assert data[1].labels.tolist() == [0]


def test_all_are_both_parts_and_there_is_no_test_part(tmp_path):
    root = written(tmp_path)
    assert len(open_folder(root, "all")) == 4
    with pytest.raises(DataError, match="no images for test, but for train, val"):
        open_folder(root, "test")


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ("", "cannot be read as a table"),
        ("name,x\n", "has the columns"),
        (HEADER + "0.png,0,1,2,3\n", "line 2"),
        (HEADER + "0.png,0,1,2,3,4\n0.png,0,1,2,3,many\n", "line 3"),
        (HEADER + "0.png,1,1,2,3,4\n", "line 2: the label is '1'"),
        (HEADER + "../0.png,0,1,2,3,4\n", "line 2: '../0.png' is not the name"),
        (HEADER + "..\\0.png,0,1,2,3,4\n", "is not the name"),
    ],
)
def test_bad_tables_are_refused_by_line(tmp_path, table, fault):
    files = members() | {"banana-detection/bananas_train/label.csv": table.encode()}
    with pytest.raises(DataError, match=fault):
        open_folder(written(tmp_path, files))


def test_two_rows_of_one_image_are_two_objects(tmp_path):
    table = HEADER + "0.png,0,0,0,64,64\n0.png,0,64,64,128,128\n"
    files = members() | {"banana-detection/bananas_train/label.csv": table.encode()}
    data = open_folder(written(tmp_path, files), size=64)
    assert len(data) == 1
    assert data[0].boxes.tolist() == [[0, 0, 0.25, 0.25], [0.25, 0.25, 0.5, 0.5]]


# ----------------------------------------------------------------------------------------- fetching


def test_it_is_fetched_once_checked_and_put_in_place(tmp_path, server):
    content, root = zipped(members()), tmp_path / "new"
    server.answers["/a.zip"] = (200, {}, content)
    folder = download(root, f"{server.url}/a.zip", sha1(content))
    assert folder == root / "banana-detection"
    assert left(root) == ["banana-detection"]
    assert len(open_folder(root)) == 2
    assert download(root, f"{server.url}/a.zip", sha1(content)) == folder
    assert server.asked == [("/a.zip", None)]


def redirect(to: str):
    return 302, {"Location": to}, b""


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ((404, {}, b""), "404.*--data bananas"),
        ((200, {}, b"<html>log in</html>"), "is not the archive.*SHA-1.*Nothing was unpacked"),
        (redirect("/a.zip"), "loop"),
        (redirect("file:///etc/passwd"), "not allowed"),
        (lambda handler: None, "cut off .*without response"),
    ],
)
def test_anything_else_is_refused_and_leaves_nothing(tmp_path, server, answer, fault):
    server.answers["/a.zip"] = answer
    with pytest.raises(DataError, match=f"(?s){fault}"):
        download(tmp_path, f"{server.url}/a.zip", sha1(b"the archive"), timeout=5)
    assert left(tmp_path) == []


def test_a_redirect_away_from_https_is_refused(tmp_path, server):
    """Only a server at 127.0.0.1 may be without it, so another name for it stands for any other."""
    content = zipped(members())
    server.answers["/a.zip"] = redirect(server.url.replace("127.0.0.1", "localhost") + "/b.zip")
    server.answers["/b.zip"] = (200, {}, content)
    with pytest.raises(DataError, match=r"localhost.* is not an https address"):
        download(tmp_path, f"{server.url}/a.zip", sha1(content), timeout=5)
    assert left(tmp_path) == []


def test_a_redirect_back_to_https_does_not_excuse_the_detour(tmp_path, server):
    server.answers["/a.zip"] = redirect("http://example.org/b.zip")
    with pytest.raises(DataError, match=r"http://example.org/b.zip is not an https address"):
        download(tmp_path, f"{server.url}/a.zip", sha1(b""), timeout=5)


def test_size_is_bounded(tmp_path, server, monkeypatch):
    content = zipped(members())
    server.answers["/a.zip"] = (200, {}, content)
    monkeypatch.setattr(module, "MAX_ARCHIVE", 1000)
    for _ in range(2):
        with pytest.raises(DataError, match=r"more than 1000 bytes"):
            download(tmp_path, f"{server.url}/a.zip", sha1(content))
    assert server.asked[1] == ("/a.zip", None)


@pytest.mark.parametrize("limit", ["timeout", "deadline"])
def test_a_slow_server_does_not_hold_us(tmp_path, server, monkeypatch, limit):
    """It sends a byte now and then, or one and then none."""
    over = threading.Event()

    def drip(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        while not over.is_set():
            handler.wfile.write(b"x")
            over.wait(60 if limit == "timeout" else 0.02)

    server.answers["/a.zip"] = drip
    monkeypatch.setattr(module, "DEADLINE", 30 if limit == "timeout" else 0.2)
    with pytest.raises(DataError, match=r"cut off .*timed out" if limit == "timeout" else "too slow"):
        download(tmp_path, f"{server.url}/a.zip", sha1(b"x"), timeout=0.3)
    over.set()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_transfer_is_resumed(tmp_path, server, ranges):
    content = zipped(members())
    server.answers["/a.zip"] = cut(content, 1000, 2000, ranges=ranges)
    download(tmp_path, f"{server.url}/a.zip", sha1(content))
    assert len(open_folder(tmp_path)) == 2
    assert left(tmp_path) == ["banana-detection"]
    assert [asked for _, asked in server.asked] == [None, "bytes=1000-", f"bytes={3000 if ranges else 2000}-"]


def test_what_came_before_the_server_went_away_is_kept_for_the_next_call(tmp_path, server):
    content = zipped(members())
    server.answers["/a.zip"] = cut(content, 1000, 0)
    with pytest.raises(DataError, match=r"1000 bytes are kept, the next call goes on"):
        download(tmp_path, f"{server.url}/a.zip", sha1(content))
    assert len(left(tmp_path)) == 1
    download(tmp_path, f"{server.url}/a.zip", sha1(content))
    assert [asked for _, asked in server.asked] == [None, "bytes=1000-", "bytes=1000-"]
    assert left(tmp_path) == ["banana-detection"]


def test_a_transfer_cut_at_once_names_the_way_out(tmp_path, server):
    server.answers["/a.zip"] = cut(b"content", 0, 0, 0)
    with pytest.raises(DataError, match=r"cut off .*--data bananas"):
        download(tmp_path, f"{server.url}/a.zip", sha1(b"content"))
    assert len(server.asked) == 1


@pytest.mark.parametrize("kept", [b"x" * 1000, b"x" * 10**6])
def test_a_beginning_that_is_not_the_archives_does_no_harm_for_long(tmp_path, server, kept):
    """A wrong one makes a wrong hash, once; one that is too long is seen from the server's answer."""
    content = zipped(members())
    server.answers["/a.zip"] = cut(content)
    (tmp_path / f".{sha1(content)[:12]}.part").write_bytes(kept)
    if len(kept) < len(content):
        with pytest.raises(DataError, match="SHA-1"):
            download(tmp_path, f"{server.url}/a.zip", sha1(content))
        assert left(tmp_path) == []
    download(tmp_path, f"{server.url}/a.zip", sha1(content))
    assert len(open_folder(tmp_path)) == 2


def test_an_archive_that_is_there_is_not_fetched_again(tmp_path, server):
    """The last run was stopped between the download and the end of unpacking."""
    content = zipped(members())
    (tmp_path / f".{sha1(content)[:12]}.part").write_bytes(content)
    download(tmp_path, f"{server.url}/a.zip", sha1(content))
    assert server.asked == []
    assert left(tmp_path) == ["banana-detection"]


def test_another_part_than_asked_for_is_refused(tmp_path, server):
    wanted = sha1(b"0123456789")
    (tmp_path / f".{wanted[:12]}.part").write_bytes(b"012")
    server.answers["/a.zip"] = (206, {"Content-Range": "bytes 0-9/10"}, b"0123456789")
    with pytest.raises(DataError, match="another part"):
        download(tmp_path, f"{server.url}/a.zip", wanted)
    assert left(tmp_path) == []


def test_of_several_at_once_one_downloads(tmp_path, server):
    content = zipped(members())

    def slow(handler):
        time.sleep(0.2)
        served(handler, 200, {}, content)

    server.answers["/a.zip"] = slow
    with ThreadPoolExecutor(3) as pool:  # a lock is of an open file, so threads stand for processes
        arguments = tmp_path, f"{server.url}/a.zip", sha1(content)
        folders = {pool.submit(download, *arguments) for _ in range(3)}
        assert {folder.result() for folder in folders} == {tmp_path / "banana-detection"}
    assert len(server.asked) == 1


HOLD = """
import sys, time, filelock
with filelock.FileLock(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_waited_for_and_free_when_its_process_was_killed(tmp_path, server, monkeypatch):
    content = zipped(members())
    server.answers["/a.zip"] = (200, {}, content)
    command = [sys.executable, "-c", HOLD, str(tmp_path / module.LOCK)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        with monkeypatch.context() as patch:
            patch.setattr(module, "DEADLINE", 0.1)
            with pytest.raises(DataError, match="another process is downloading into"):
                download(tmp_path, f"{server.url}/a.zip", sha1(content))
        assert server.asked == []
        process.kill()
    assert len(open_folder(download(tmp_path, f"{server.url}/a.zip", sha1(content)))) == 2


@pytest.mark.parametrize("url", ["http://example.org/a.zip", "file:///etc/passwd", "ftp://x/a.zip"])
def test_only_https_is_used(tmp_path, url):
    with pytest.raises(DataError, match="not an https address"):
        download(tmp_path, url, sha1(b""))


def test_no_network_is_one_clear_line(tmp_path, server):
    server.shutdown()
    server.server_close()
    with pytest.raises(DataError, match=r"cannot fetch .* --data bananas") as caught:
        download(tmp_path, f"{server.url}/a.zip", sha1(b""), timeout=2)
    assert "\n" not in str(caught.value)


def test_half_a_folder_is_not_overwritten(tmp_path):
    (tmp_path / "banana-detection").mkdir()
    with pytest.raises(DataError, match="not complete: remove it"):
        download(tmp_path, "http://127.0.0.1:1/", sha1(b""))


def test_another_archive_is_refused(tmp_path, server):
    content = zipped({"readme.txt": b"hello"})
    server.answers["/a.zip"] = (200, {}, content)
    with pytest.raises(DataError, match="archive of something else"):
        download(tmp_path, f"{server.url}/a.zip", sha1(content))
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("files", "fault"), [({"../evil": b"1"}, "evil.*refused"), ({"zeros": bytes(10**6)}, "refused")]
)
def test_the_right_hash_does_not_excuse_an_evil_archive(tmp_path, server, monkeypatch, files, fault):
    content = zipped(files)
    server.answers["/a.zip"] = (200, {}, content)
    monkeypatch.setattr(module, "MAX_UNPACKED", 10**5)
    with pytest.raises(DataError, match=fault):
        download(tmp_path / "root", f"{server.url}/a.zip", sha1(content))
    assert left(tmp_path / "root") == []
    assert not (tmp_path / "evil").exists()


def test_the_other_process_was_quicker(tmp_path, server, monkeypatch):
    """The folder appears between the first look and the last step."""
    content = zipped(members())
    server.answers["/a.zip"] = (200, {}, content)
    check = module.check_hash
    monkeypatch.setattr(module, "check_hash", lambda *a: (check(*a), written(tmp_path)))
    assert download(tmp_path, f"{server.url}/a.zip", sha1(content)) == tmp_path / "banana-detection"
    assert len(open_folder(tmp_path)) == 2


# --------------------------------------------------------------------------------------- unpacking


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil", "C:\\evil"])
def test_no_member_may_leave_the_target(tmp_path, name):
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped({"fine.txt": b"1", name: b"2"}))
    with pytest.raises(DataError, match=r"evil.*refused"):
        unpack(archive, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_links_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc")
    with pytest.raises(DataError, match=r"link.*refused"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_bombs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_UNPACKED", 10_000)
    (tmp_path / "a.zip").write_bytes(zipped({"zeros": bytes(10_001)}))
    with pytest.raises(DataError, match="refused"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    monkeypatch.setattr(module, "MAX_MEMBERS", 3)
    (tmp_path / "b.zip").write_bytes(zipped({f"{i}": b"" for i in range(4)}))
    with pytest.raises(DataError, match="4 files"):
        unpack(tmp_path / "b.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_lie_about_a_members_size_does_not_get_past_the_bound(tmp_path, monkeypatch):
    """The directory says 10 bytes, the data are 100,000: no more than was said may be written."""
    monkeypatch.setattr(module, "MAX_UNPACKED", 1000)
    content = zipped({"zeros": bytes(100_000)})
    (tmp_path / "a.zip").write_bytes(content.replace((100_000).to_bytes(4, "little"), b"\n\0\0\0"))
    with pytest.raises(DataError, match="not a sound zip"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"<html>"])
def test_other_files_are_not_zips(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match="not a sound zip"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
