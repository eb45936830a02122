"""Folders written in another form: the same images, boxes, classes and splits, there and back."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from d2lmini.cli import main
from d2lmini.data.convert import FORMS, convert
from d2lmini.data.entries import LoadOptions
from d2lmini.data.files import DataError
from d2lmini.data.folders import open_folder, read_folder
from tests.test_folders import voc, xml

CLASSES = ("cat", "a dog & <b>", "猫", "yes", "0")
EDGE = st.floats(0, 1, width=32)
BOXES = st.tuples(EDGE, EDGE, EDGE, EDGE).map(
    lambda e: (min(e[0], e[2]), min(e[1], e[3]), max(e[0], e[2]), max(e[1], e[3]))
)


def pixels(root: Path, part: str) -> dict[str, list]:
    """What a folder says of each image, as pixels: class and edges, sorted."""
    found = {}
    for entry in read_folder(root, LoadOptions()).entries(part, LoadOptions()):
        with Image.open(entry.image) as image:
            sides = image.size * 2 if entry.fractions else (1, 1, 1, 1)
        boxes = [(o.name, *(e * s for e, s in zip(o.edges, sides, strict=True))) for o in entry.objects]
        found[entry.image.name] = sorted(boxes)
    return found


@pytest.mark.parametrize("first", FORMS)
@settings(max_examples=12, deadline=None)
@given(
    width=st.integers(3, 300),
    height=st.integers(3, 300),
    objects=st.lists(st.tuples(st.sampled_from(CLASSES), BOXES), min_size=1, max_size=4),
)
def test_boxes_survive_every_way_to_a_thousandth_of_a_pixel(first, width, height, objects):
    with tempfile.TemporaryDirectory() as folder:
        root, size = Path(folder) / "start", (width, height) * 2
        rows = [(name, *(e * s for e, s in zip(box, size, strict=True))) for name, box in objects]
        rows = [r for r in rows if r[3] - r[1] > 0.01 and r[4] - r[2] > 0.01] or [("cat", 0, 0, 2, 2)]
        texts = [(n.replace("&", "&amp;").replace("<", "&lt;"), x + 1, y + 1, *e) for n, x, y, *e in rows]
        voc(root, {"p": xml(*texts), "empty": xml()})
        for name in ("p", "empty"):
            Image.new("RGB", (width, height)).save(root / "JPEGImages" / f"{name}.jpg")
        for step, form in enumerate([first, *FORMS, first]):
            convert(root, form, Path(folder) / f"{step}")
            root = Path(folder) / f"{step}"
            found = pixels(root, "all")
            assert found.keys() == {"p.jpg", "empty.jpg"}
            assert found["empty.jpg"] == []
            for one, other in zip(found["p.jpg"], sorted(rows), strict=True):
                assert one[0] == other[0]
                assert one[1:] == pytest.approx(other[1:], abs=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_splits_and_equal_names_stay_apart(tmp_path, form):
    for split, count in (("train", 3), ("valid", 2), ("test", 1)):
        voc(tmp_path / "set" / split, {f"p{i}": xml((split, 1, 1, 9, 9)) for i in range(count)})
    assert main(["data", str(tmp_path / "set"), "--convert", form, str(tmp_path / "new")]) == 0
    for split, name, count in (("train", "train", 3), ("val", "valid", 2), ("test", "test", 1)):
        data = open_folder(tmp_path / "new", split)
        assert [one.name for entry in data.entries for one in entry.objects] == [name] * count
        assert not data.notes
        images = {entry.image.read_bytes() for entry in data.entries}
        assert images == {p.read_bytes() for p in (tmp_path / "set" / name / "JPEGImages").iterdir()}


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_without_val_is_not_divided_by_writing_it(tmp_path, form):
    for split, count in (("train", 5), ("test", 2)):
        voc(tmp_path / "set" / split, {f"{split}{i}": xml((split, 1, 1, 9, 9)) for i in range(count)})
    assert convert(tmp_path / "set", form, tmp_path / "new") == {"train": 5, "test": 2}
    assert [len(open_folder(tmp_path / "new", split)) for split in ("train", "val", "test")] == [4, 1, 2]


def test_nothing_is_written_where_something_is_wrong(tmp_path, capsys):
    root = voc(tmp_path / "set", {"a": xml(("cat", 1, 1, 9, 9)), "b": xml(("cat", 9, 9, 1, 1))})
    command = ["data", str(root), "--convert", "coco", str(tmp_path / "new")]
    assert main(command) == 2
    assert "b.xml, object 1 (cat)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert main([*command, "--skip-bad"]) == 0
    said = capsys.readouterr()
    assert "all 1 images" in said.out
    assert "skipped: " in said.err
    assert main([*command, "--skip-bad"]) == 2
    assert "is there already" in capsys.readouterr().err
    with pytest.raises(ValueError, match="form is 'tfrecord': choose from voc, coco, yolo"):
        convert(root, "tfrecord", tmp_path / "other")
    with pytest.raises(DataError, match="no folder at"):
        convert(tmp_path / "none", "voc", tmp_path / "other")
