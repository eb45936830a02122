"""Folders in YOLO's form, as tools and people leave them."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from d2lmini.cli import main
from d2lmini.data import load, open_data
from d2lmini.data.files import DataError

ROW = "1 0.5 0.25 0.5 0.1"
BOX = (0.25, 0.2, 0.75, 0.3)
YAML = "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n"


def put(path: Path, rows: str | None = ROW, labels: Path | None = None) -> None:
    """An image of 80 × 40 pixels, and its labels if there are some."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (80, 40), tuple(zlib.crc32(str(path).encode()).to_bytes(4, "big")[:3])).save(path)
    if rows is not None:
        file = labels or path.parent.parent / "labels" / f"{path.stem}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(rows)


@pytest.fixture
def roboflow(tmp_path) -> Path:
    """As Roboflow exports: a folder for each split, images and labels in it, paths that lead elsewhere."""
    for i in range(4):
        put(tmp_path / "train" / "images" / f"a{i}.jpg", "" if i == 3 else ROW)
    put(tmp_path / "valid" / "images" / "b.jpg", "0 0.1 0.1 0.2 0.1 0.3 0.6")
    (tmp_path / "data.yaml").write_text(YAML)
    return tmp_path


def test_a_folder_for_each_split(roboflow):
    data = {split: open_data(str(roboflow), split, size=32) for split in ("train", "val", "all")}
    assert [len(one) for one in data.values()] == [4, 1, 5]
    assert data["train"].classes == ("cat", "dog")
    batch = load(data["train"], workers=0)
    torch.testing.assert_close(batch.boxes[0, 0], torch.tensor(BOX))
    assert (batch.labels[3] == -1).all(), "an empty file is an image without objects"
    polygon = data["val"][0]
    torch.testing.assert_close(polygon.boxes[0], torch.tensor([0.1, 0.1, 0.3, 0.6]))
    assert polygon.labels.tolist() == [0]


def test_images_and_labels_beside_each_other_by_split(tmp_path):
    """As Ultralytics has it: images/train and labels/train; names by number."""
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for i in range(count):
            put(
                tmp_path / "images" / split / f"{i}.png",
                labels=tmp_path / "labels" / split / f"{i}.txt",
            )
    (tmp_path / "set.yaml").write_text("path: /home/me/set\ntrain: images/train\nnames: {0: cat, 1: dog}\n")
    counts = [len(open_data(str(tmp_path), split, size=32)) for split in ("train", "val", "test")]
    assert counts == [3, 2, 1]
    assert open_data(str(tmp_path), "val", size=32).classes == ("dog",)


def test_darknets_flat_folder_is_divided_at_random(tmp_path):
    for i in range(10):
        put(tmp_path / f"{i}.jpg", labels=tmp_path / f"{i}.txt")
    put(tmp_path / "alone.jpg", None)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    data = open_data(str(tmp_path), "train", size=32)
    assert [len(data), len(open_data(str(tmp_path), "val", size=32))] == [8, 2]
    assert any("1 images have no annotation" in note for note in data.notes)


def test_train_and_test_without_val(tmp_path):
    for i in range(5):
        put(tmp_path / "train" / "images" / f"{i}.jpg")
    put(tmp_path / "test" / "images" / "t.jpg")
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\n")
    assert [len(open_data(str(tmp_path), s, size=32)) for s in ("train", "val", "test")] == [4, 1, 1]


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ("2 0.5 0.5 0.1 0.1", "there is no class 2, only 0 to 1"),
        ("0.5 0.5 0.5 0.1 0.1", "there is no class 0.5"),
        ("cat 0.5 0.5 0.1 0.1", "no row of numbers"),
        ("0 0.5 0.5 0.1", "has 4 numbers"),
        ("0 40 20 10 10", "is no fraction: divide by"),
        ("0 nan 0.5 0.1 0.1", "not finite"),
        ("0 0.5 0.5 0 0.1", "reversed or empty"),
        ("0 1.5 0.5 0.2 0.1", "reaches out of the image"),
    ],
)
def test_a_fault_names_file_and_line(roboflow, rows, fault):
    label = roboflow / "train" / "labels" / "a1.txt"
    label.write_text(f"{ROW}\n{rows}\n")
    with pytest.raises(DataError, match=fault) as caught:
        load(open_data(str(roboflow), "train", size=32), workers=0)
    assert "a1.txt" in str(caught.value)
    with pytest.warns(UserWarning, match="1 faults were skipped"):
        assert len(open_data(str(roboflow), "train", size=32, skip_bad=True)) == 3


def test_a_yaml_file_that_is_none(roboflow):
    (roboflow / "data.yaml").write_text("names: [cat\n")
    with pytest.raises(DataError, match="cannot be read as YAML"):
        open_data(str(roboflow), "train")
    (roboflow / "data.yaml").write_text("names: {1: cat}\n")
    with pytest.raises(DataError, match="number them from 0"):
        open_data(str(roboflow), "train")


def test_the_commands_take_it(roboflow, tmp_path):
    line = ["train", "--data", str(roboflow), "--size", "64", "--start", "none", "--epochs", "1", "--quiet"]
    assert main([*line, "--out", str(tmp_path / "run")]) == 0
    model = ["--model", str(tmp_path / "run" / "last.safetensors")]
    assert main(["detect", str(roboflow), *model, "--out", str(roboflow / "found"), "--score", "0"]) == 0
    assert len(list((roboflow / "found").glob("*.png"))) == 5
    # Neither the run nor what was drawn has become data, though both lie in the folder.
    assert main(["evaluate", "--data", str(roboflow), *model, "--quiet"]) == 0
    assert len(open_data(str(roboflow), "all", size=32)) == 5
    assert main(["detect", str(roboflow), *model, "--out", str(roboflow / "found"), "--score", "0"]) == 0
    assert len(list((roboflow / "found").glob("*.png"))) == 5
