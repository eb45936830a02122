"""Folders in VOC's and COCO's form: what is read, how it is divided, and what is refused by name."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from d2lmini.data import voc as voc_form
from d2lmini.data.files import DataError, DataWarning
from d2lmini.data.folders import open_folder
from tests.nobody import as_nobody

WIDTH, HEIGHT = 40, 20


def image(path: Path) -> None:
    """An image that has its own color, by its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    color = zlib.crc32(str(path).encode()).to_bytes(4, "big")[:3]
    Image.new("RGB", (WIDTH, HEIGHT), tuple(color)).save(path)


def xml(*objects: tuple, filename: str = "", size: str = "", extra: str = "") -> str:
    """An annotation; an object is (name, xmin, ymin, xmax, ymax) and perhaps more XML."""
    found = "".join(
        f"<object><name>{o[0]}</name><bndbox><xmin>{o[1]}</xmin><ymin>{o[2]}</ymin>"
        f"<xmax>{o[3]}</xmax><ymax>{o[4]}</ymax></bndbox>{''.join(o[5:])}</object>"
        for o in objects
    )
    named = f"<filename>{filename}</filename>" if filename else ""
    return f"<annotation>{named}{size}{found}{extra}</annotation>"


def voc(root: Path, files: dict[str, str], images: str = "JPEGImages") -> Path:
    """A folder in VOC's form: an XML file and an image for every name."""
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / "Annotations" / f"{name}.xml").write_text(text, encoding="utf-8")
        image(root / images / f"{name}.jpg")
    return root


def simple(count: int) -> dict[str, str]:
    return {f"p{i:02}": xml(("cat", 1, 1, 10, 10)) for i in range(count)}


def content(count: int = 3, **changes) -> dict:
    """A file of instances: ids far apart, one object in all images but the first."""
    images = [{"id": 100 + 7 * i, "file_name": f"p{i}.jpg"} for i in range(count)]
    return {
        "images": images,
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"id": i, "image_id": image["id"], "category_id": 18, "bbox": [10, 5, 20, 10]}
            for i, image in enumerate(images[1:])
        ],
    } | changes


def coco(root: Path, found: object, name: str = "annotations/instances.json") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found), encoding="utf-8")
    for i in range(3):
        image(root / "images" / f"p{i}.jpg")
    return root


def names(data) -> list[str]:
    return [entry.image.stem for entry in data.entries]


# --------------------------------------------------------------------------------------- PASCAL VOC


def test_voc_boxes_count_pixels_from_1_and_include_the_last(tmp_path):
    """First pixel 11, last pixel 20: ten pixels, edges 10 and 20."""
    root = voc(tmp_path, {"a": xml(("cat", 11, 6, 20, 15), ("ant", 1, 1, WIDTH, HEIGHT))})
    data = open_folder(root, "all", size=32)
    assert data.classes == ("ant", "cat")
    assert len(data) == 1
    assert data[0].image.shape == (3, 32, 32)
    assert data[0].boxes.tolist() == [[0.25, 0.25, 0.5, 0.75], [0, 0, 1, 1]]
    assert data[0].labels.tolist() == [1, 0]


def test_a_coordinate_of_0_anywhere_means_that_counting_starts_there(tmp_path):
    files = {"a": xml(("cat", 10, 5, 20, 15)), "b": xml(("cat", 0, 5, 20, 15))}
    data = open_folder(voc(tmp_path, files), "all")
    assert data[0].boxes.tolist() == [[0.25, 0.25, 0.5, 0.75]]
    assert data[1].boxes.tolist() == [[0, 0.25, 0.5, 0.75]]


def test_objects_are_those_at_the_top_and_not_difficult(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    root = voc(
        tmp_path,
        {
            "a": xml(
                ("cat", 1, 1, 9, 9, part),
                ("dog", "1.5", " 2 ", "8.25", "9e0", "<difficult>1</difficult>"),
            ),
            "b": xml(),
        },
    )
    data = open_folder(root, "all")
    assert [len(data[i].labels) for i in range(2)] == [1, 0]
    assert data.classes == ("cat",)
    data = open_folder(root, "all", difficult=True)
    assert data.classes == ("cat", "dog")
    assert data[0].labels.tolist() == [0, 1]
    assert data[0].boxes[1, 0] == 0.5 / WIDTH


def test_given_classes_keep_their_order(tmp_path):
    root = voc(tmp_path, {"a": xml(("cat", 1, 1, 9, 9))})
    data = open_folder(root, "all", classes=["dog", "cat"])
    assert data.classes == ("dog", "cat")
    assert data[0].labels.tolist() == [1]
    with pytest.raises(DataError, match="no object of dog, but of cat: there is nothing to learn"):
        open_folder(root, "all", classes=["dog"])


@pytest.mark.parametrize("folder", ["images", "photos of cats", "."])
def test_images_are_found_whatever_their_folder_is_called(tmp_path, folder):
    voc(tmp_path, simple(2), images=folder)
    (tmp_path / "Annotations").rename(tmp_path / "étiquettes")
    assert len(open_folder(tmp_path, "all")[1].labels) == 1


def test_an_image_is_found_by_the_annotations_name_or_by_filename(tmp_path):
    root = voc(tmp_path, {"a": xml(filename="wrong.png"), "b": xml(("cat", 1, 1, 5, 5))})
    (root / "JPEGImages" / "b.jpg").rename(root / "JPEGImages" / "other.JPG")
    (root / "Annotations" / "b.xml").write_text(xml(("cat", 1, 1, 5, 5), filename="other.jpeg"))
    assert names(open_folder(root, "all")) == ["a", "other"]
    image(root / "JPEGImages" / "a.png")
    with pytest.raises(DataError, match=r"a\.xml may be for .*keep one"):
        open_folder(root, "all")
    (root / "Annotations" / "a.xml").write_text(xml(filename="a.png"))
    assert open_folder(root, "all").entries[0].image.suffix == ".png"
    (root / "JPEGImages" / "other.JPG").unlink()
    with pytest.raises(DataError, match=r"b\.xml: there is no image b or other.jpeg"):
        open_folder(root, "all")


def test_a_size_is_compared_where_it_is_one(tmp_path):
    sizes = {
        "a": f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>",
        "b": "<size><width>0</width><height>0</height></size>",
        "c": "<size><width>?</width></size>",
        "d": "<size><width>inf</width><height>2</height></size>",
        "e": "<size><width>80</width><height>40</height></size>",
    }
    files = {name: xml(("cat", 1, 1, 5, 5), size=size) for name, size in sizes.items()}
    data = open_folder(voc(tmp_path, files), "all")
    for i in range(4):
        assert len(data[i].boxes) == 1
    with pytest.raises(DataError, match=r"e\.xml is for 80 × 40"):
        data[4]


def test_the_devkits_own_depth(tmp_path):
    """VOCdevkit/VOC2012 with its masks, which have the images' names, opened from above."""
    root = voc(tmp_path / "VOCdevkit" / "VOC2012", {"a": xml(("cat", 1, 1, 5, 5)), "b": xml()})
    image(root / "SegmentationClass" / "a.png")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "val.txt").write_text("a\n")
    data = open_folder(tmp_path, "val")
    assert [entry.image for entry in data.entries] == [root / "JPEGImages" / "a.jpg"]
    assert "1 annotations are in no list and not used, b for one" in data.notes[0]
    (root / "ImageSets" / "Main" / "test.txt").write_text("no annotation of tests\nb\n")
    assert not open_folder(tmp_path, "val").notes  # another split's list may name what is not there
    voc(tmp_path / "VOCdevkit" / "VOC2007", {"c": xml()})
    with pytest.raises(DataError, match=r"VOC2007.*VOC2012.*open the folder of one set"):
        open_folder(tmp_path, "val")


def test_annotations_may_have_folders_of_their_own(tmp_path):
    """As in the Oxford pets: annotations/xmls beside annotations/trimaps."""
    (tmp_path / "annotations" / "xmls").mkdir(parents=True)
    (tmp_path / "annotations" / "xmls" / "a.xml").write_text(xml(("cat", 1, 1, 5, 5), filename="a.jpg"))
    image(tmp_path / "annotations" / "trimaps" / "a.png")
    image(tmp_path / "images" / "a.jpg")
    assert open_folder(tmp_path, "all").entries[0].image == tmp_path / "images" / "a.jpg"


def test_annotations_beside_their_images(tmp_path):
    for name in ("a", "b"):
        image(tmp_path / "pets" / f"{name}.jpg")
        (tmp_path / "pets" / f"{name}.xml").write_text(xml(("cat", 1, 1, 5, 5)))
    image(tmp_path / "old" / "a.jpg")
    assert [entry.image.parent.name for entry in open_folder(tmp_path, "all").entries] == ["pets", "pets"]


def test_folders_of_annotations_divide_and_tell_equal_names_apart(tmp_path):
    for split in ("train", "val"):
        image(tmp_path / "images" / split / "1.jpg")
        (tmp_path / "annotations" / split).mkdir(parents=True)
        (tmp_path / "annotations" / split / "1.xml").write_text(xml((f"cat {split}", 1, 1, 5, 5)))
    for split in ("train", "val"):
        data = open_folder(tmp_path, split)
        assert [entry.image.parent.name for entry in data.entries] == [split]
        assert data.entries[0].objects[0].name == f"cat {split}"
        assert data.classes == ("cat train", "cat val")
    assert len(open_folder(tmp_path, "all")) == 2
    with pytest.raises(DataError, match="no images for test, but for train, val"):
        open_folder(tmp_path, "test")


def test_what_is_not_used_is_said(tmp_path):
    root = voc(tmp_path, simple(2) | {"x": xml(("cat", 1, 1, 5, 5, "<difficult>1</difficult>"))})
    image(root / "JPEGImages" / "forgotten.jpg")
    image(root / "elsewhere" / "logo.jpg")
    notes = open_folder(root, "all").notes
    assert len(notes) == 2
    assert "1 images have no annotation and are not used, forgotten.jpg" in notes[0]
    assert "1 objects marked as difficult" in notes[1]
    assert len(open_folder(root, "all", difficult=True).notes) == 1
    found = content()
    found["annotations"][0]["iscrowd"] = 1
    coco(tmp_path / "coco", found)
    image(tmp_path / "coco" / "images" / "forgotten.jpg")
    notes = open_folder(tmp_path / "coco", "all").notes
    assert ["1 objects" in notes[0], "1 images" in notes[1]] == [True, True]


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_links_may_lead_in_circles_and_to_images(tmp_path):
    root = voc(tmp_path / "set", simple(2))
    (root / "JPEGImages").rename(tmp_path / "stored")
    (root / "images").symlink_to(tmp_path / "stored")
    (root / "Annotations" / "again").symlink_to(root)
    data = open_folder(root, "all", size=16)
    assert len(data) == 2
    assert data[1].boxes.shape == (1, 4)


# ------------------------------------------------------------------------------------------- splits


def test_a_list_for_train_and_val_together_is_divided_at_random(tmp_path):
    root = voc(tmp_path, simple(6))
    (root / "ImageSets").mkdir()
    (root / "ImageSets" / "trainval.txt").write_text("p00\np01\np02\np03\np04\n")
    (root / "ImageSets" / "test.txt").write_text("p05\n")
    parts = [names(open_folder(root, split)) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [4, 1, 1]
    assert sorted(name for part in parts for name in part) == names(open_folder(root, "all"))


@pytest.mark.parametrize("more", [(), ("Test",), ("TESTING",)])
@pytest.mark.parametrize("train", ["train", "Training_Set"])
def test_a_folder_without_val_holds_out_a_share_of_train_and_says_so(tmp_path, train, more):
    """The most common export of all: train and test, or train alone."""
    voc(tmp_path / train, simple(10))
    for name in more:
        voc(tmp_path / name, {"q": xml(("ant", 1, 1, 5, 5))})
    data = {split: open_folder(tmp_path, split) for split in ("train", "val", "all")}
    assert [len(part) for part in data.values()] == [8, 2, 10 + len(more)]
    assert not set(names(data["train"])) & set(names(data["val"]))
    assert {name for part in ("train", "val") for name in names(data[part])} == {
        f"p{i:02}" for i in range(10)
    }
    said = f"{tmp_path} has no images for val: 20% of its images for train, chosen at random, are held out"
    assert all(any(note.startswith(said) for note in data[part].notes) for part in ("train", "val"))
    assert data["val"].split_record["by"] == "seed"
    if more:
        assert names(open_folder(tmp_path, "test")) == ["q"]
    else:
        with pytest.raises(DataError, match="no images for test, but for train"):
            open_folder(tmp_path, "test")


def test_a_list_for_train_leaves_the_rest_for_val(tmp_path):
    root = voc(tmp_path, simple(6))
    (root / "ImageSets").mkdir()
    (root / "ImageSets" / "train.txt").write_text("p00\np01\np02\n")
    assert names(open_folder(root, "train")) == ["p00", "p01", "p02"]
    assert names(open_folder(root, "val")) == ["p03", "p04", "p05"]


def test_a_folder_of_test_images_alone_cannot_be_trained_on(tmp_path):
    voc(tmp_path / "test", simple(3))
    assert len(open_folder(tmp_path, "test")) == 3
    with pytest.raises(DataError, match="no images for train, but for test"):
        open_folder(tmp_path, "train")


@pytest.mark.parametrize("form", ["voc", "coco"])
def test_lists_of_ones_own_divide_any_folder(tmp_path, form):
    if form == "voc":
        root = voc(tmp_path / "set", {f"p{i}": xml(("cat", 1, 1, 5, 5)) for i in range(3)})
    else:
        root = coco(tmp_path / "set", content())
    first, rest = tmp_path / "a list.txt", tmp_path / "rest.txt"
    folder = "JPEGImages" if form == "voc" else "images"
    first.write_text(f"\ufeffp1\n\n{folder}/p0.jpg\n", encoding="utf-8")
    rest.write_text("p2.jpg\n")
    assert names(open_folder(root, "train", train_list=first)) == ["p1", "p0"]
    assert names(open_folder(root, "val", train_list=first)) == ["p2"]
    assert names(open_folder(root, "train", val_list=first)) == ["p2"]
    assert names(open_folder(root, "val", train_list=first, val_list=rest)) == ["p2"]
    with pytest.raises(DataError, match="no list of test images"):
        open_folder(root, "test", val_list=first)
    rest.write_text("p1\n")
    with pytest.raises(DataError, match=r"a list\.txt and .*rest\.txt both name .*p1: leave it in one"):
        open_folder(root, "train", train_list=first, val_list=rest)
    rest.write_text("p0\np1\np2\n")
    with pytest.raises(DataError, match="nothing is left for train"):
        open_folder(root, "train", val_list=rest)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"p0\np0.jpg\n", r"line 2: 'p0\.jpg' was named before"),
        (b"p9\n", "line 1: there is no annotation for 'p9'"),
        (b"p\xff\n", "write it as UTF-8"),
        (b"", "no image for train"),
    ],
)
def test_lists_that_make_no_sense_are_refused(tmp_path, text, fault):
    root = voc(tmp_path / "set", {"p0": xml(("cat", 1, 1, 5, 5)), "p1": xml()})
    (tmp_path / "train.txt").write_bytes(text)
    with pytest.raises(DataError, match=fault):
        open_folder(root, "train", train_list=tmp_path / "train.txt")
    with pytest.raises(DataError, match="no file"):
        open_folder(root, "train", train_list=tmp_path / "none.txt")


def test_lists_divide_and_the_classes_are_those_of_all(tmp_path):
    files = simple(3) | {"p03": xml(("ant", 1, 1, 5, 5))}
    root = voc(tmp_path, files)
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("p02\n\np00.jpg\n")
    (lists / "val.txt").write_text("p03\n")
    (lists / "cat_train.txt").write_text("p00 1\n")
    train, val = open_folder(root, "train"), open_folder(root, "val")
    assert names(train) == ["p02", "p00"]
    assert names(val) == ["p03"]
    assert train.classes == val.classes == ("ant", "cat")
    assert len(open_folder(root, "all")) == 4
    with pytest.raises(DataError, match="no images for test, but for train, val"):
        open_folder(root, "test")
    (lists / "val.txt").write_text("p03\np9\n")
    with pytest.raises(DataError, match=r"val\.txt, line 2: there is no annotation for 'p9'"):
        open_folder(root, "val")


@pytest.mark.parametrize(("count", "share", "expected"), [(10, 0.2, 2), (3, 0.01, 1), (2, 0.99, 1)])
def test_an_undivided_folder_is_divided_at_random(tmp_path, count, share, expected):
    root = voc(tmp_path, simple(count))
    train, val, whole = (open_folder(root, split, val_fraction=share) for split in ("train", "val", "all"))
    assert len(val) == expected
    assert sorted(names(train) + names(val)) == names(whole)
    assert names(val) == names(open_folder(root, "val", val_fraction=share))
    with pytest.raises(DataError, match="no images for test, but for train, val: ask"):
        open_folder(root, "test")


def test_the_seed_decides_the_division(tmp_path):
    root = voc(tmp_path, simple(12))
    drawn = {tuple(names(open_folder(root, "val", seed=seed))) for seed in range(5)}
    assert len(drawn) > 1


def test_one_image_cannot_be_divided(tmp_path):
    with pytest.raises(DataError, match="too few to divide"):
        open_folder(voc(tmp_path, simple(1)))


def test_a_record_of_the_division_repeats_it(tmp_path, monkeypatch):
    """The same images have the same record from any split, place and file system; one more has another."""
    root = voc(tmp_path / "set", simple(9) | {name: xml() for name in "äéö"})
    train = open_folder(root, seed=5, val_fraction=0.4)
    record = json.loads(json.dumps(train.split_record))
    assert (record["by"], record["seed"], record["val_fraction"]) == ("seed", 5, 0.4)
    val = open_folder(root, "val", split_record=record)
    assert not {*names(val)} & {*names(train)}
    assert len(val) + len(train) == 12
    elsewhere = shutil.copytree(root, tmp_path / "elsewhere")
    for folder in ("Annotations", "JPEGImages"):
        for path in (elsewhere / folder).iterdir():
            path.rename(path.with_name(unicodedata.normalize("NFD", path.name)))  # as on a Mac
    entries = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: reversed(sorted(entries(path))))
    for split in ("train", "val", "all"):
        assert open_folder(elsewhere, split, split_record=record).split_record == record
    assert open_folder(root, seed=6, val_fraction=0.4).split_record["files"] != record["files"]
    voc(root, {"one more": xml()})
    assert open_folder(root, split_record=record).split_record["files"] != record["files"]


def test_a_record_says_what_divides_the_folder(tmp_path):
    root = voc(tmp_path / "set", simple(4))
    (tmp_path / "val.txt").write_text("p01\np03.jpg\n")
    by_list = open_folder(root, val_list=tmp_path / "val.txt").split_record
    assert (by_list["by"], [*by_list]) == ("lists", ["by", "val_list", "files"])
    (tmp_path / "val.txt").write_text("p01\np03\n")
    assert open_folder(root, "val", val_list=tmp_path / "val.txt", seed=3).split_record == by_list
    (tmp_path / "val.txt").write_text("p01\np02\n")
    changed = open_folder(root, val_list=tmp_path / "val.txt").split_record
    assert changed["val_list"] != by_list["val_list"]
    assert changed["files"] != by_list["files"]
    (root / "ImageSets").mkdir()
    (root / "ImageSets" / "val.txt").write_text("p01\np03\n")
    assert open_folder(root, "val").split_record == {"by": "folder", "files": None}
    (root / "ImageSets" / "train.txt").write_text("p02\np00\n")
    divided = {"by": "folder", "files": by_list["files"]}  # the same images are for training
    assert open_folder(root, "val").split_record == open_folder(root, "all").split_record == divided


@pytest.mark.parametrize("val", ["val", "valid"])
def test_a_folder_per_split_stays_divided(tmp_path, val):
    voc(tmp_path / "train", simple(3))
    voc(tmp_path / val, {"q": xml(("ant", 1, 1, 5, 5))})
    assert names(open_folder(tmp_path, "train")) == ["p00", "p01", "p02"]
    data = open_folder(tmp_path, "val")
    assert names(data) == ["q"]
    assert data.classes == ("ant", "cat")
    assert len(open_folder(tmp_path, "all")) == 4
    with pytest.raises(DataError, match="no images for test, but for train, val"):
        open_folder(tmp_path, "test")


def test_a_json_file_per_split_stays_divided(tmp_path):
    """COCO's own layout, of which only one split's images are there."""
    coco(tmp_path, content(2), "annotations/instances_train2017.json")
    ant = content(3, categories=[{"id": 18, "name": "dog"}, {"id": 1, "name": "ant"}])
    coco(tmp_path, ant, "annotations/instances_val2017.json")
    coco(tmp_path, {"captions": []}, "annotations/captions_val2017.json")
    shutil.move(tmp_path / "images", tmp_path / "val2017")
    data = open_folder(tmp_path, "val")
    assert len(data) == 3
    assert data.classes == ("ant", "cat", "dog")
    assert data[1].labels.tolist() == [2]
    with pytest.raises(
        DataError, match=r"instances_train2017\.json, image 100: there is no image p0\.jpg in"
    ):
        open_folder(tmp_path, "train")
    with pytest.raises(DataError, match="no images for test, but for train, val"):
        open_folder(tmp_path, "test")
    coco(tmp_path, content(), "annotations/instances_val2014.json")
    with pytest.raises(DataError, match="more than one JSON file for val"):
        open_folder(tmp_path, "val")


# --------------------------------------------------------------------------------------------- COCO


@pytest.mark.parametrize("name", ["annotations/instances.json", "_annotations.coco.json"])
def test_coco_boxes_are_a_corner_and_two_sides(tmp_path, name):
    data = open_folder(coco(tmp_path, content(), name), "all", size=32)
    assert data.classes == ("cat", "dog")
    assert len(data) == 3
    assert data[0].labels.tolist() == []
    assert data[1].boxes.tolist() == [[0.25, 0.25, 0.75, 0.75]]
    assert data[1].labels.tolist() == [1]


def test_coco_crowds_are_left_out_unless_asked_for(tmp_path):
    found = content()
    found["annotations"][0]["iscrowd"] = 1
    root = coco(tmp_path, found)
    assert [len(open_folder(root, "all", difficult=d)[1].labels) for d in (False, True)] == [0, 1]


def test_coco_sizes_are_compared(tmp_path):
    found = content()
    found["images"][0] |= {"width": WIDTH, "height": HEIGHT}
    found["images"][1] |= {"width": 99, "height": HEIGHT}
    data = open_folder(coco(tmp_path, found), "all")
    assert data[0].boxes.shape == (0, 4)
    with pytest.raises(DataError, match="image 107 is for 99 × 20"):
        data[1]


def changed(part: str, **values) -> dict:
    """Instances whose second record of one part is changed."""
    found = content()
    found[part][1] = {k: v for k, v in (found[part][1] | values).items() if v is not ...}
    return found


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        ([], "has no annotations that are known here.* there are 3 .jpg, 1 .json; expected"),
        ({"images": []}, "no list 'categories'"),
        (content(images={}), "no list 'images'"),
        (content(annotations=[4]), r"annotations\[0\] is 4: it must be an object"),
        (changed("images", id=100), r"images\[1\]: the id 100 is used twice"),
        (changed("images", id=[1]), r"images\[1\]: 'id' is \[1\]"),
        (changed("images", file_name=...), r"images\[1\]: 'file_name' is None"),
        (changed("images", file_name="  "), r"image 107: there is no image \(no name\) in"),
        (changed("categories", name=7), r"categories\[1\]: 'name' is 7"),
        (changed("annotations", image_id=1), r"annotations\[1\]: 'image_id' is 1, which is not in"),
        (changed("annotations", category_id=True), r"annotations\[1\]: 'category_id' is True"),
        (changed("annotations", bbox=[1, 2, 3]), r"annotations\[1\]: 'bbox' is \[1, 2, 3\]"),
        (changed("annotations", bbox=[1, 2, 3, "x"]), r"annotations\[1\]: 'bbox'"),
        (changed("annotations", bbox=[1, 2, 3, float("nan")]), "must be finite"),
        (changed("annotations", bbox=[1, 2, 3, 10**400]), r"annotations\[1\]: 'bbox'"),
    ],
)
def test_json_of_the_wrong_shape_is_refused_by_record(tmp_path, found, fault):
    with pytest.raises(DataError, match=fault):
        open_folder(coco(tmp_path, found), "all")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\udcff"])
def test_what_is_no_json_is_refused(tmp_path, text):
    root = coco(tmp_path, content())
    path = root / "annotations" / "instances.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"instances\.json cannot be read as (JSON|text)"):
        open_folder(root, "all")


def test_coco_images_may_be_in_any_folder_and_in_folders_below(tmp_path):
    found = content()
    for image in found["images"]:
        image["file_name"] = f"cats/{image['file_name']}"
    coco(tmp_path, found)
    (tmp_path / "photos").mkdir()
    shutil.move(tmp_path / "images", tmp_path / "photos" / "cats")
    assert len(open_folder(tmp_path, "all", size=16)[2].labels) == 1


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (changed("categories", id=18), r"categories\[1\]: the id 18 is used twice"),
        (changed("categories", name=" "), r"categories\[1\]: 'name' is empty"),
        (
            changed("images", file_name="p0.jpg"),
            r"image 100 and .*image 107 are both for .*p0\.jpg: keep one",
        ),
    ],
)
def test_what_coco_says_twice_is_refused(tmp_path, found, fault):
    with pytest.raises(DataError, match=fault):
        open_folder(coco(tmp_path, found), "all")


# ----------------------------------------------------------------------------------------- skipping


def spoilt(root: Path) -> Path:
    """Eight images in VOC's form, five of which have something wrong."""
    voc(root, simple(8))
    (root / "Annotations" / "p00.xml").write_text("<annotation>")
    (root / "Annotations" / "p01.xml").write_text(xml(("cat", 9, 1, 3, 5), ("cat", 1, 1, 5, 5)))
    (root / "JPEGImages" / "p02.jpg").write_bytes(b"")
    (root / "JPEGImages" / "p03.jpg").unlink()
    (root / "Annotations" / "p04.xml").write_text(xml(("cat", 1, 1, "x", 5)))
    return root


def test_faults_are_skipped_counted_and_named(tmp_path):
    root = spoilt(tmp_path / "schöne Bilder")
    with pytest.raises(DataError, match=r"p00\.xml"):
        open_folder(root, "all", size=16)
    with pytest.warns(DataWarning, match=r"schöne Bilder, all: 5 faults were skipped, 3 images are left"):
        data = open_folder(root, "all", size=16, skip_bad=True)
    assert names(data) == ["p05", "p06", "p07"]
    assert [len(data[i].labels) for i in range(3)] == [1, 1, 1]
    for name, fault in zip(
        ("p00.xml", "p04.xml", "p03.xml", "p01.xml", "p02.jpg"), data.skipped, strict=True
    ):
        assert name in fault


def test_a_list_may_name_what_is_skipped(tmp_path):
    root = spoilt(tmp_path)
    (root / "ImageSets").mkdir()
    (root / "ImageSets" / "train.txt").write_text("p00\np02\np05\n")
    with pytest.warns(DataWarning, match="1 images are left"):
        data = open_folder(root, "train", size=16, skip_bad=True)
    assert names(data) == ["p05"]


@pytest.mark.parametrize("skip_bad", [False, True])
def test_objects_of_other_classes_are_left_out_and_counted_in_one_line(tmp_path, skip_bad):
    dogs = [("dog", 1, 1, 9, 9), ("emu", 1, 1, 9, 9), ("dog", 1, 1, 5, 5)]
    root = voc(tmp_path, {"a": xml(("cat", 1, 1, 5, 5), *dogs), "b": xml(("dog", 1, 1, 5, 5))})
    data = open_folder(root, "all", size=16, classes=["cat"], skip_bad=skip_bad)
    assert data.notes == (f"{root}: 4 objects of other classes are left out: dog 3, emu 1",)
    assert [data[i].labels.tolist() for i in range(2)] == [[0], []]


def test_coco_records_are_skipped_with_their_images(tmp_path):
    found = content()
    found["annotations"][0]["bbox"] = [1, 2]
    found["annotations"] += [{"image_id": 4, "category_id": 18, "bbox": [1, 1, 2, 2]}]
    found["images"] += [{"id": 9}]
    with pytest.warns(DataWarning, match="3 faults were skipped, 2 images are left"):
        data = open_folder(coco(tmp_path, found), "all", size=16, skip_bad=True)
    assert names(data) == ["p0", "p2"]


def test_nothing_left_is_an_error_and_nothing_skipped_no_warning(tmp_path, recwarn):
    root = voc(tmp_path / "good", simple(2))
    assert open_folder(root, "all", skip_bad=True).skipped == ()
    assert not recwarn.list
    for path in (root / "JPEGImages").iterdir():
        path.write_bytes(b"x")
    with pytest.warns(DataWarning), pytest.raises(DataError, match=r"no image is without.*p00\.jpg"):
        open_folder(root, "all", skip_bad=True)


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.skipif(os.name != "posix", reason="has no POSIX permissions")
@pytest.mark.parametrize(
    "closed", ["", "Annotations", "Annotations/p00.xml", "JPEGImages", "JPEGImages/p00.jpg"]
)
def test_what_may_not_be_read_asks_for_permissions(anyones_folder, closed):
    root = voc(anyones_folder / "set", simple(2))
    with as_nobody():
        assert len(open_folder(root, "all", size=16)[0].labels) == 1
    (root / closed).chmod(0)
    try:
        with as_nobody(), pytest.raises(DataError, match=rf"{closed}.*permission"):
            open_folder(root, "all", size=16)[0]
    finally:
        (root / closed).chmod(0o755)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no named pipes")
@pytest.mark.parametrize("name", ["Annotations/p00.xml", "JPEGImages/p00.jpg"])
def test_pipes_would_hang_and_are_refused(tmp_path, name):
    root = voc(tmp_path, simple(2))
    (root / name).unlink()
    os.mkfifo(root / name)
    with pytest.raises(DataError, match=f"{name} is a pipe"):
        open_folder(root, "all", size=16)[0]


def test_a_deep_or_long_xml_file_is_refused(tmp_path, monkeypatch):
    deep = "<a>" * 100_000 + "</a>" * 100_000
    root = voc(tmp_path, {"a": xml(("cat", 1, 1, 5, 5), extra=deep)})
    assert len(open_folder(root, "all", size=16)[0].labels) == 1  # depth alone does no harm
    monkeypatch.setattr(voc_form, "MAX_XML", 1000)
    with pytest.raises(DataError, match=r"a\.xml has \d+ bytes"):
        open_folder(root, "all")


BOMB = (
    '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;">]><annotation><filename>&c;</filename></annotation>'
)
OUTSIDE = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;</annotation>'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "cannot be read as XML"),
        ("<annotation>", "cannot be read as XML"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "cannot be read as XML"),
        (BOMB, "cannot be read as XML"),
        (OUTSIDE, "cannot be read as XML"),
        ("<html/>", "is <html>"),
        ("<annotation><object/></annotation>", "object 1 has no <name>"),
        ("<annotation><object><name>cat</name></object></annotation>", r"\(cat\): <xmin> is None"),
        (xml(("cat", 1, 2, "x", 4)), r"object 1 \(cat\): <xmax> is 'x'"),
    ],
)
def test_bad_xml_is_refused_by_file_and_object(tmp_path, text, fault):
    root = voc(tmp_path, simple(1) | {"bad": text})
    with pytest.raises(DataError, match=rf"bad\.xml.*{fault}"):
        open_folder(root, "all")


@pytest.mark.parametrize(
    ("box", "fault"), [((9, 1, 3, 5), "reversed"), (("nan", 1, 3, 5), "finite"), ((1, 1, 90, 5), "out")]
)
def test_bad_boxes_are_refused_when_their_image_is_read(tmp_path, box, fault):
    data = open_folder(voc(tmp_path, {"a": xml(("cat", 1, 1, 5, 5), ("cat", *box))}), "all")
    with pytest.raises(DataError, match=rf"a\.xml, object 2 \(cat\).*{fault}"):
        data[0]


@pytest.mark.parametrize("split", ["train", "val", "all"])
def test_a_folder_of_one_or_no_image_is_not_divided(tmp_path, split):
    with pytest.raises(DataError, match=r"has 0 annotated image|has no image for all"):
        open_folder(coco(tmp_path / "none", content(0)), split)
    one = coco(tmp_path / "one", content(1))
    if split == "all":
        assert len(open_folder(one, split)) == 1
    else:
        with pytest.raises(DataError, match="has 1 annotated image"):
            open_folder(one, split)


def test_folders_that_are_not_data_are_refused(tmp_path):
    with pytest.raises(DataError, match="no folder at"):
        open_folder(tmp_path / "missing")
    with pytest.raises(
        DataError, match=r"no annotations that are known here.*6 levels.*there are no files; expected"
    ):
        open_folder(tmp_path)
    with pytest.raises(DataError, match="no object in any annotation"):
        open_folder(voc(tmp_path / "empty", {"a": xml(), "b": xml()}))


def test_options_are_checked(tmp_path):
    with pytest.raises(ValueError, match="split is 'dev'"):
        open_folder(tmp_path, "dev")
    with pytest.raises(ValueError, match="val_fraction is 1"):
        open_folder(tmp_path, val_fraction=1)
    for name, value in (("seed", -1), ("seed", "0"), ("val_fraction", None)):
        with pytest.raises(ValueError, match=f"{name} is {value!r}"):
            open_folder(tmp_path, split_record={name: value})


def test_hidden_files_are_not_read(tmp_path):
    root = voc(tmp_path, simple(2))
    (root / "Annotations" / "._p00.xml").write_bytes(b"\0\5\26\7")
    (root / ".idea").mkdir()
    (root / ".idea" / "workspace.xml").write_text("<project/>")
    assert len(open_folder(root, "all")) == 2


# ------------------------------------------------------------------------------------- any nonsense

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "name", "file_name", "bbox", "image_id", "category_id"]), inner
        )
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def ready(tmp_path_factory) -> Path:
    """Two folders that are right but for the annotation that a test writes over."""
    root = tmp_path_factory.mktemp("any")
    coco(root / "coco", content())
    voc(root / "voc", {"a": xml(), "b": xml(("cat", 1, 1, 5, 5))})
    return root


def complaint(root: Path) -> str:
    """What is wrong, or nothing if everything can be read and is right."""
    try:
        data = open_folder(root, "all", size=16)
        boxes = torch.cat([data[i].boxes for i in range(len(data))])
    except DataError as error:
        return str(error)
    assert bool((boxes[:, 2:] > boxes[:, :2]).all())
    assert bool(((boxes >= 0) & (boxes <= 1)).all())
    return ""


@settings(max_examples=40, deadline=None)
@given(part=st.sampled_from(["images", "categories", "annotations"]), first=ANYTHING, box=ANYTHING)
def test_any_json_is_read_or_refused_by_file(ready, part, first, box):
    root, found = ready / "coco", content()
    found["annotations"][0]["bbox"] = box
    found[part][0] = found[part][0] | first if isinstance(first, dict) else first
    (root / "annotations" / "instances.json").write_text(json.dumps(found))
    said = complaint(root)
    assert not said or str(root) in said


@settings(max_examples=40, deadline=None)
@given(values=st.lists(SCALARS, min_size=5, max_size=5), extra=st.text(max_size=30))
def test_any_xml_is_read_or_refused_by_file(ready, values, extra):
    root, text = ready / "voc", xml(tuple(values), filename=extra, extra=extra)
    (root / "Annotations" / "a.xml").write_bytes(text.encode(errors="replace"))
    said = complaint(root)
    assert not said or str(root) in said
