"""Results and words that leave the program: whole files, faults that name their target, any terminal."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from d2lmini.cli import main
from d2lmini.cli.console import any_terminal, say, tell
from d2lmini.data import output
from d2lmini.data.output import check_file, results_folder, visible, write_bytes


def places(root: Path) -> dict[str, tuple[Path, str]]:
    """Targets that cannot be written, each with the words that must tell why."""
    (root / "file").write_text("")
    (root / "folder").mkdir()
    return {
        "no folder": (root / "none" / "x.json", "make the folder"),
        "in a file": (root / "file" / "x.json", "a file is where a folder should be"),
        "a folder": (root / "folder", "give the name of a file|choose a place"),
    }


@pytest.mark.parametrize("name", ["no folder", "in a file", "a folder"])
@pytest.mark.parametrize("write", [check_file, lambda path: write_bytes(path, b"x")], ids=["check", "write"])
def test_what_cannot_be_written_is_named_with_the_remedy(tmp_path, name, write):
    path, words = places(tmp_path)[name]
    with pytest.raises(ValueError, match=words) as caught:
        write(path)
    assert str(path) in str(caught.value)
    assert f".{path.name[:9]}" not in str(caught.value)  # the temporary file


def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "r.json"
    write_bytes(path, b"old")
    monkeypatch.setattr(output.os, "fsync", full)
    with pytest.raises(ValueError, match=r"r\.json \(No space left on device\): free some space"):
        write_bytes(path, b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("r.json", b"old")]


def test_a_folder_of_results_is_marked_once(tmp_path):
    results_folder(tmp_path / "a" / "b")
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == [".d2lmini"]
    results_folder(tmp_path)  # somebody's own folder does not become one of ours
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with pytest.raises(ValueError, match="a file is where a folder should be"):
        results_folder(tmp_path / "a" / "b" / ".d2lmini")


def test_targets_are_looked_at_before_the_work(tmp_path, capsys, monkeypatch):
    """The data of these commands does not even exist."""
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    for line in (
        "evaluate --model everyday --data none --json none/e.json",
        "export --model everyday --data none --page none/p.html",
        "export --model everyday --out file",
        "train --data none --out file",
        "data none --out none/sheet.png",
        "detect none.png --out file",
    ):
        assert main(line.split()) == 2
        said = capsys.readouterr().err
        assert "cannot write to" in said
        assert said.count("\n") == 1


# ------------------------------------------------------------------------------------------ the terminal


def test_control_characters_are_shown():
    text = "a\x1b[31m\x07\u202eb\nü猫😀\ud800\x85"
    assert visible(text) == "a\\x1b[31m\\x07\\u202eb\nü猫😀\\ud800\\x85"


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("ascii", "-> >= x sigma \\u732b"), ("cp1252", "-> >= × sigma \\u732b"), ("utf-8", "→ ≥ × σ 猫")],
)
def test_any_text_can_be_said_in_any_encoding(monkeypatch, encoding, expected):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, "strict") for _ in range(2)]
    for name, stream in zip(("stdout", "stderr"), streams, strict=True):
        monkeypatch.setattr(sys, name, stream)
    with any_terminal():
        tell("→ ≥ × σ 猫")
        say("→ ≥ ×\nσ 猫")
    for stream in streams:
        assert stream.buffer.getvalue().decode(encoding).strip() == expected


def program(*arguments: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "d2lmini", *arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **streams | options)


def test_who_reads_no_further_stops_nothing(tmp_path):
    for name in "ab":
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.png")
    with program("detect", ".", "--out", "found", cwd=tmp_path) as process:
        process.stdout.close()
        assert process.wait(timeout=120) == 0
        assert process.stderr.read() == ""
    assert {p.name for p in (tmp_path / "found").glob("*.json")} == {"a.json", "b.json"}


def test_help_is_for_every_terminal():
    with program("train", "--help", env=os.environ | {"PYTHONIOENCODING": "ascii"}) as process:
        said, faults = process.communicate(timeout=120)
    assert (process.returncode, faults) == (0, "")
    assert "sigma of smooth L1" in said


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into /proc")
def test_ctrl_c_while_torch_is_imported_leaves_no_traceback():
    with program("evaluate") as process:
        while f"{os.sep}torch{os.sep}" not in Path(f"/proc/{process.pid}/maps").read_text():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=120) == ("", "")
        assert process.returncode == 130


# -------------------------------------------------------------------------------------- what was asked for


@pytest.mark.parametrize("option", ["--seed", "--data-seed", "--workers", "--epochs"])
def test_a_number_below_zero_is_refused_by_the_options_name(option, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--out", "x", option, "-1"])
    assert f"argument {option}: -1 is not a whole number from 0" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["train --data set --out run", "data set --anchors --out s.png"])
def test_images_without_any_object_are_said_with_the_remedy(tmp_path, monkeypatch, capsys, line):
    """One image for validation has an object, so the folder has a class."""
    monkeypatch.chdir(tmp_path)
    box = "".join(f"<{tag}>{v}</{tag}>" for tag, v in (("xmin", 2), ("ymin", 2), ("xmax", 9), ("ymax", 9)))
    for split, objects in (
        ("train", ""),
        ("val", f"<object><name>cat</name><bndbox>{box}</bndbox></object>"),
    ):
        (tmp_path / "set" / split).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (40, 30), (i, i, len(split))).save(tmp_path / "set" / split / f"{i}.png")
            (tmp_path / "set" / split / f"{i}.xml").write_text(f"<annotation>{objects}</annotation>")
    assert main(line.split()) == 2
    assert "set has no object in the 2 images asked for: annotate some" in capsys.readouterr().err
