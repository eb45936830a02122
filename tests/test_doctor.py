"""`doctor`: what is planted in a folder is found, what is sound is not, and the exit code tells which."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2lmini.cli import main

WIDTH, HEIGHT = 200, 100
BOX = (20, 20, 100, 80)


def picture(path: Path, seed: int) -> None:
    """Patches of random colors, so that no two images are alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    patches = np.random.default_rng(seed).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    Image.fromarray(patches).resize((WIDTH, HEIGHT)).save(path)


def annotate(path: Path, *boxes: tuple[float, ...], name: str = "cat") -> None:
    edges = ("xmin", "ymin", "xmax", "ymax")
    rows = [
        "".join(f"<{tag}>{value + (tag[1:] == 'min')}</{tag}>" for tag, value in zip(edges, box, strict=True))
        for box in boxes
    ]
    objects = "".join(f"<object><name>{name}</name><bndbox>{row}</bndbox></object>" for row in rows)
    path.with_suffix(".xml").write_text(f"<annotation>{objects}</annotation>")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Sound images: 30 for train, 3 for val, 2 for test."""
    for start, (split, count) in enumerate({"train": 30, "val": 3, "test": 2}.items()):
        for i in range(count):
            path = tmp_path / "set" / split / f"{split}{i:02}.png"
            picture(path, 100 * start + i)
            annotate(path, BOX)
    return tmp_path / "set"


def doctor(folder: Path, *more: str) -> tuple[int, dict]:
    places = ["--out", str(folder.parent / "sheet.png"), "--json", str(folder.parent / "d.json"), "--quiet"]
    code = main(["doctor", str(folder), *places, *more])
    return code, json.loads((folder.parent / "d.json").read_text())


def test_a_sound_folder_is_described_and_passes(folder, capsys):
    code, found = doctor(folder)
    assert code == 0
    assert (found["faults"], found["suspects"]) == ([], [])
    assert found["images"] == {"train": 30, "val": 3, "test": 2}
    assert found["objects"] == {"cat": {"train": 30, "val": 3, "test": 2}}
    assert found["sizes"] == [[WIDTH, HEIGHT, 35]]
    assert [group["objects"] for group in found["fitted"]["side"]] == [30]
    said = capsys.readouterr().out
    for words in ("taken for PASCAL VOC", "nothing has to be mended", "learn from 30 images", "fitted"):
        assert words in said
    assert "rare" not in said
    assert not (folder.parent / "sheet.png").exists()  # there is nothing to look at


def test_boxes_that_look_wrong_are_shown_but_need_not_be_mended(folder, capsys):
    boxes = [BOX, (10, 10, 11, 11), (0, 0, WIDTH, HEIGHT), (120, 20, 180, 80), (120, 20, 180, 81)]
    annotate(folder / "train" / "train07.png", *boxes)
    code, found = doctor(folder)
    assert code == 0
    reasons = {(row["image"], row["number"]): row["reason"] for row in found["suspects"]}
    assert reasons == {
        ("train/train07.png", 1): "smaller than 4 pixels at 300 × 300",
        ("train/train07.png", 2): "the whole image",
        ("train/train07.png", 4): "the same box twice",
    }
    with Image.open(folder.parent / "sheet.png") as sheet:
        assert sheet.width > 100


def test_images_in_two_splits_are_found_however_they_were_saved(folder):
    shutil.copy(folder / "train" / "train03.png", folder / "val" / "copy.png")
    annotate(folder / "val" / "copy.png", BOX)
    with Image.open(folder / "train" / "train05.png") as image:
        image.resize((WIDTH // 2, HEIGHT // 2)).save(folder / "test" / "small.jpg", quality=60)
    annotate(folder / "test" / "small.jpg", (10, 10, 50, 40))
    code, found = doctor(folder)
    assert code == 1
    one, two = found["faults"]
    assert "train03.png" in one
    assert "copy.png are the same file, in train and val" in one
    assert "train05.png" in two
    assert "small.jpg are the same image, or nearly, in train and test" in two


def test_every_fault_is_told_with_its_remedy(folder, capsys):
    (folder / "train" / "train01.png").write_bytes(b"")
    annotate(folder / "val" / "val01.png", (20, 20, 500, 80))
    code, found = doctor(folder)
    assert code == 1
    assert len(found["faults"]) == 2
    said = capsys.readouterr().out
    assert "train01.png is empty" in said
    assert "reaches out of the image" in said
    assert found["images"] == {"train": 29, "val": 2, "test": 2}


def test_a_class_with_few_objects_is_marked(folder, capsys):
    annotate(folder / "train" / "train00.png", BOX, name="newt")
    code, _ = doctor(folder)
    assert code == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "rare" in line)
    assert line.split()[:4] == ["newt", "1", "0", "0"]


def test_what_cannot_be_opened_at_all_is_said(tmp_path, folder, capsys):
    assert main(["doctor", str(tmp_path / "none")]) == 2
    (tmp_path / "empty").mkdir()
    assert main(["doctor", str(tmp_path / "empty"), "--out", str(tmp_path / "s.png")]) == 1
    said = capsys.readouterr()
    assert "no folder at" in said.err
    assert said.out.count("has no annotations") == 1
    for path in (folder / "train").glob("*.xml"):
        path.write_text("<annotation></annotation>")
    code, found = doctor(folder)
    assert code == 1
    assert any("no object in the images for train" in fault for fault in found["faults"])
