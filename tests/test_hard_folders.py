"""Folders as tools and people leave them: marks, ids, outlines, encodings, paths, and images of two."""

from __future__ import annotations

import json
import math
import unicodedata

import numpy as np
import pytest
from PIL import Image

from d2lmini import cli
from d2lmini.cli import main
from d2lmini.data.entries import LoadOptions
from d2lmini.data.files import DataError, DataWarning
from d2lmini.data.folders import open_folder, read_folder
from tests.test_folders import HEIGHT, WIDTH, coco, content, image, names, simple, voc, xml

CAT = ("cat", 1, 1, 9, 9)
SIZE = "<size><width>{}</width><height>{}</height></size>"


def boxes(data) -> list[list[tuple]]:
    return [[one.edges for one in entry.objects] for entry in data.entries]


def write(root, name, text, encoding="utf-8"):
    (root / "Annotations" / f"{name}.xml").write_bytes(text.encode(encoding))


# ------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("mark", "kept"),
    [(m, True) for m in ("Unspecified", "False", "0.0", "no", " 0 ", "", "n", "nan")]
    + [(m, False) for m in ("1", "True", "yes", "1.0", " 1")],
)
def test_difficult_and_crowd_however_they_are_written(tmp_path, mark, kept):
    objects = [CAT, ("dog", 1, 1, 5, 5, f"<difficult>{mark}</difficult>")]
    data = open_folder(voc(tmp_path / "voc", {"a": xml(*objects)}), "all")
    assert len(data.entries[0].objects) == 1 + kept
    found = content()
    found["annotations"][0]["iscrowd"] = mark
    data = open_folder(coco(tmp_path / "coco", found), "all")
    assert sum(len(entry.objects) for entry in data.entries) == 1 + kept


@pytest.mark.parametrize("change", [str, float, lambda n: f"{n}.0", lambda n: f"{n:012}"])
@pytest.mark.parametrize("keys", ["image_id category_id", "id"])
def test_ids_are_the_same_however_they_are_written(tmp_path, change, keys):
    found = content()
    for record in (*found["annotations"], *(found["images"] if keys == "id" else ())):
        record |= {key: change(record[key]) for key in keys.split() if key in record}
    data = open_folder(coco(tmp_path, found), "all")
    assert [[one.name for one in entry.objects] for entry in data.entries] == [[], ["dog"], ["dog"]]


def test_outlines_of_voc_give_the_boxes_around_them(tmp_path):
    polygon = "<polygon>{}</polygon>".format(
        "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((3, 4), (9, 4), (5, 8)))
    )
    numbered = "<polygon><x1>3</x1><y1>4</y1><x2>9</x2><y2>8</y2></polygon>"
    turned = "<robndbox><cx>20</cx><cy>10</cy><w>8</w><h>4</h><angle>{}</angle></robndbox>"
    outlines = (polygon, numbered, turned.format(0), turned.format(math.pi / 2), turned.format(0.5))
    extra = "".join(f"<object><name>cat</name>{outline}</object>" for outline in outlines)
    data = open_folder(voc(tmp_path, {"a": xml(("cat", 0, 0, 9, 9), extra=extra)}), "all")
    corners = np.array([[-4, -2], [4, -2], [4, 2], [-4, 2]]) @ np.array(
        [[math.cos(0.5), math.sin(0.5)], [-math.sin(0.5), math.cos(0.5)]]
    ) + (20, 10)
    around = (*corners.min(axis=0), *corners.max(axis=0))
    expected = [(0, 0, 9, 9), (3, 4, 9, 8), (3, 4, 9, 8), (16, 8, 24, 12), (18, 6, 22, 14), around]
    np.testing.assert_allclose(boxes(data)[0], expected)
    assert [note for note in data.notes if "5 objects are given by an outline alone" in note]
    write(tmp_path, "a", "<annotation><object><name>cat</name><polygon/></object></annotation>")
    with pytest.raises(DataError, match=r"a\.xml, object 1 \(cat\): its <polygon> has no numbers"):
        open_folder(tmp_path, "all")


def run_lengths(mask: np.ndarray) -> list[int]:
    """The slow way: pixel by pixel, down the columns, from outside."""
    runs, inside = [0], False
    for pixel in mask.T.flatten():
        if bool(pixel) != inside:
            runs.append(0)
            inside = not inside
        runs[-1] += 1
    return runs


def compress(runs: list[int]) -> str:
    """COCO's text of run lengths, as its own encoder has it."""
    text = ""
    for i, run in enumerate(runs):
        value, more = run - (runs[i - 2] if i > 2 else 0), True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != -1 if bits & 0x10 else value != 0
            text += chr((bits | 0x20 if more else bits) + 48)
    return text


@pytest.mark.parametrize("form", ["polygon", "runs", "text"])
def test_outlines_of_coco_give_the_boxes_around_them(tmp_path, form):
    found, generator = content(), np.random.default_rng(3)
    expected = []
    for record in found["annotations"]:
        mask = np.zeros((HEIGHT, WIDTH), bool)
        x, y = generator.integers(0, 10, 2)
        mask[y : y + 7, x : x + 20] = generator.random((7, 20)) < 0.3
        ys, xs = mask.nonzero()
        expected.append((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
        runs = run_lengths(mask)
        counts = compress(runs) if form == "text" else runs
        record["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts}
        if form == "polygon":
            left, top, right, bottom = map(float, expected[-1])
            record["segmentation"] = [[left, top, right, top], [right, bottom, left, bottom]]
        record["bbox"] = [] if form == "runs" else [0, 0, 0, 0]
    data = open_folder(coco(tmp_path, found), "all")
    assert boxes(data)[1:] == [[one] for one in expected]
    assert "2 objects are given by an outline alone" in data.notes[-1]
    found["annotations"][0] |= {"segmentation": {"counts": [3], "size": []}, "bbox": []}
    with pytest.raises(DataError, match=r"annotations\[0\]: 'bbox' is \[\]"):
        open_folder(coco(tmp_path, found), "all")


def test_every_box_of_an_object_and_every_nested_object_counts(tmp_path):
    more = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>4</xmax><ymax>5</ymax></bndbox>"
    two = xml((*CAT, more))
    nested = two.replace("<object>", "<objects><object>").replace("</object>", "</object></objects>")
    spaced = two.replace("<annotation>", '<v:annotation xmlns="a" xmlns:v="a">').replace(
        "</annotation>", "</v:annotation>"
    )
    data = open_folder(voc(tmp_path, {"a": two, "b": nested, "c": spaced}), "all")
    assert boxes(data) == [[(0, 0, 9, 9), (1, 1, 4, 5)]] * 3


def test_swapped_sides_are_found_by_boxes_that_fit_only_so(tmp_path):
    """A tool's fault has to show somewhere: else the image may have been turned after annotation."""
    wide = xml(("cat", 1, 1, WIDTH, HEIGHT), size=SIZE.format(HEIGHT, WIDTH))
    small = xml(CAT, size=SIZE.format(HEIGHT, WIDTH))
    data = open_folder(voc(tmp_path / "a", {"a": wide, "b": small}), "all", size=16)
    assert [len(data[i].labels) for i in range(2)] == [1, 1]
    assert "boxes fit only if width and height of 2 sizes are exchanged" in data.notes[0]
    data = open_folder(voc(tmp_path / "b", {"b": small}), "all", size=16)
    with pytest.raises(DataError, match="or correct the size, if only that is wrong"):
        data[0]
    tall = xml(("cat", 1, 1, HEIGHT, WIDTH), size=SIZE.format(HEIGHT, WIDTH))
    assert not open_folder(voc(tmp_path / "c", {"a": wide, "b": tall}), "all").notes


def test_fractions_where_pixels_are_due_are_refused(tmp_path):
    data = open_folder(voc(tmp_path / "voc", {"a": xml(("cat", 0.25, 0.5, 0.75, 1))}), "all", size=16)
    with pytest.raises(DataError, match="is in fractions of the image, where pixels are due"):
        data[0]
    found = content()
    found["annotations"][0]["bbox"] = [0.1, 0.1, 0.5, 0.5]
    data = open_folder(coco(tmp_path / "coco", found), "all", size=16)
    with pytest.raises(DataError, match="pixels are due"):
        data[1]
    one_pixel = open_folder(voc(tmp_path / "one", {"a": xml(("cat", 1, 1, 1, 1))}), "all", size=16)
    assert len(one_pixel[0].labels) == 1


def test_corners_where_sides_are_due_are_refused_by_file(tmp_path):
    found = content(4)
    for i, record in enumerate(found["annotations"]):
        record["bbox"] = [10 + i, 5, 30 + i, 18]
    found["images"] = [one | {"width": WIDTH, "height": HEIGHT} for one in found["images"]]
    root = coco(tmp_path, found)
    image(root / "images" / "p3.jpg")
    with pytest.raises(DataError, match=r"every 'bbox' seems to be left, top, right, bottom"):
        open_folder(root, "all", skip_bad=True)


@pytest.mark.parametrize("same", ["id", "file_name"])
def test_what_refers_to_an_ambiguous_record_goes_with_it(tmp_path, same):
    """Two files joined without new ids: whose object it is, nobody knows."""
    found = content()
    found["images"][2][same] = found["images"][1][same]
    found["annotations"][1] |= {"bbox": [1, 1, 9, 9], "image_id": found["images"][2]["id"]}
    with pytest.warns(DataWarning, match="1 faults were skipped, 1 images are left"):
        data = open_folder(coco(tmp_path, found), "all", skip_bad=True)
    assert names(data) == ["p0"]


@pytest.mark.parametrize(
    ("encoding", "head"),
    [
        ("gbk", '<?xml version="1.0" encoding="GBK"?>'),
        ("gb2312", '<?xml version="1.0" encoding="gb2312"?>'),
        ("gb18030", '<?xml version="1.0" encoding="utf-8"?>'),
        ("gb18030", ""),
        ("utf-16", '<?xml version="1.0" encoding="utf-16"?>'),
        ("utf-16", '<?xml version="1.0" encoding="utf-8"?>'),
        ("utf-8-sig", ""),
        ("utf-8", '\n \n<?xml version="1.0" encoding="utf-8"?>\n'),
        ("big5", '<?xml version="1.0" encoding="Big5"?>'),
    ],
)
def test_encodings_of_names(tmp_path, encoding, head):
    root = voc(tmp_path, simple(2))
    write(root, "p01", head + xml(("中文", 1, 1, 9, 9)), encoding)
    assert open_folder(root, "all").classes == ("cat", "中文")


@pytest.mark.parametrize("encoding", ["gbk", "utf-16", "utf-8-sig"])
def test_encodings_of_json_and_of_lists_of_classes(tmp_path, encoding):
    found = json.dumps(content(categories=[{"id": 18, "name": "中文"}]), ensure_ascii=False)
    root = coco(tmp_path / "coco", {})
    (root / "annotations" / "instances.json").write_bytes(found.encode(encoding))
    assert open_folder(root, "all").classes == ("中文",)
    image(tmp_path / "yolo" / "a.jpg")
    (tmp_path / "yolo" / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
    (tmp_path / "yolo" / "classes.txt").write_bytes("中文\n".encode(encoding))
    assert open_folder(tmp_path / "yolo", "all").classes == ("中文",)


# -------------------------------------------------------------------------------------------- paths

NAMES = [
    *("p1.jpg", "./p1.jpg", "images/p1.jpg", "images\\1/p1.jpg", "..\\..\\media\\upload\\4\\p1.jpg"),
    *("C:\\Users\\me\\p1.jpg", "/content/drive/My Drive/p1.jpg", "https://x.example/a/p1.jpg?x=1#y"),
    *("file:///a/p1.jpg", "p1", "p1.png", "P1.JPG", "~/p1.jpg", "../../../p1.jpg", "p1.heic"),
]


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_found_by_what_tools_call_it(tmp_path, name):
    found = content()
    found["images"][1]["file_name"] = name
    assert names(open_folder(coco(tmp_path / "coco", found), "all")) == ["p0", "p1", "p2"]
    root = voc(tmp_path / "voc", {"p1": xml(CAT)})
    write(root, "other", xml(CAT, filename=name))
    (root / "Annotations" / "p1.xml").unlink()
    assert names(open_folder(root, "all")) == ["p1"]


@pytest.mark.parametrize("ending", [".jfif", ".jpe", ".ppm", ".bmp", ".webp", ".tif", ".JPEG", ".tga"])
def test_endings_of_images(tmp_path, ending):
    root = voc(tmp_path, simple(2))
    for path in (root / "JPEGImages").iterdir():
        new = path.with_suffix(ending)
        Image.open(path).save(new, "jpeg" if ending in (".jfif", ".jpe", ".JPEG") else None)
        path.unlink()
    assert len(open_folder(root, "all", size=16)[1].labels) == 1


def test_composed_and_decomposed_accents_are_the_same(tmp_path):
    found = content()
    found["images"][1]["file_name"] = unicodedata.normalize("NFC", "épée.jpg")
    root = coco(tmp_path, found)
    (root / "images" / "p1.jpg").rename(root / "images" / unicodedata.normalize("NFD", "épée.jpg"))
    assert len(open_folder(root, "all")) == 3


def test_a_relative_path_decides_and_ambiguity_names_both(tmp_path):
    found = content()
    root = coco(tmp_path, found)
    for folder in ("a", "b"):
        image(root / folder / "x.jpg")
    found["images"][1]["file_name"] = "b/x.jpg"
    data = open_folder(coco(tmp_path, found), "all")
    assert data.entries[1].image == root / "b" / "x.jpg"
    found["images"][1]["file_name"] = "/elsewhere/x.jpg"
    with pytest.raises(DataError, match=r"a/x\.jpg and .*b/x\.jpg: keep one, or name it with its folder"):
        open_folder(coco(tmp_path, found), "all")


def test_nothing_outside_the_folder_is_found(tmp_path):
    image(tmp_path / "secret.jpg")
    found = content()
    for name in ("../secret.jpg", str(tmp_path / "secret.jpg")):
        found["images"][1]["file_name"] = name
        with pytest.raises(DataError, match=r"image 107: there is no image secret\.jpg in"):
            open_folder(coco(tmp_path / "set", found), "all")


def test_capitals_tell_images_apart_where_the_disk_does(tmp_path):
    root = voc(tmp_path, {"a": xml(CAT), "A": xml(CAT)})
    if len(list((root / "JPEGImages").iterdir())) == 2:
        assert sorted(names(open_folder(root, "all"))) == ["A", "a"]


def test_detect_looks_into_subfolders_and_says_what_it_skips(tmp_path, capsys):
    for name in ("a.jpg", "b.ppm", "sub/a.bmp"):
        image(tmp_path / name)
    for name in ("c.heic", "sub/d.xml", "sub/e.xml"):
        (tmp_path / name).write_text("x")
    found = cli._image_files([str(tmp_path)], tmp_path / "out")
    assert {name: path.name for name, path in found.items()} == {"a": "a.jpg", "b": "b.ppm", "a-2": "a.bmp"}
    said = capsys.readouterr().err
    assert "skipped, as they are no images: " in said
    assert "2 .xml" in said
    assert "1 .heic" in said


# ------------------------------------------------------------------------------------------ layouts


def test_xml_in_several_folders_is_one_set(tmp_path):
    for folder in ("cats", "dogs"):
        voc(tmp_path / folder, {"p0": xml((folder, 1, 1, 9, 9))}, images=".")
    (tmp_path / "sitemap.xml").write_text("<urlset/>")
    data = open_folder(tmp_path, "all")
    assert [entry.image.parent.name for entry in data.entries] == ["cats", "dogs"]
    assert data.classes == ("cats", "dogs")


def test_splits_are_found_one_level_down_and_stray_xml_is_said(tmp_path):
    for split, start in (("train", 0), ("Test", 6)):
        for i in range(start, start + 6):
            image(tmp_path / "images" / split / f"q{i}.jpg")
            (tmp_path / "images" / split / f"q{i}.xml").write_text(xml(CAT))
    (tmp_path / "sitemap.xml").write_text("<urlset/>")
    counts = [len(open_folder(tmp_path, split)) for split in ("train", "val", "test")]
    assert counts == [5, 1, 6]
    notes = open_folder(tmp_path, "test").notes
    assert any("1 XML files are no annotations and not read, sitemap.xml for one" in note for note in notes)


@pytest.mark.parametrize("how", ["lists", "json", "folders"])
def test_an_image_in_two_splits_is_refused(tmp_path, how):
    if how == "lists":
        root = voc(tmp_path, simple(4))
        (root / "ImageSets").mkdir()
        (root / "ImageSets" / "train.txt").write_text("p00\np01\n")
        (root / "ImageSets" / "val.txt").write_text("p01\n")
        said = r"p01\.jpg is in train and in val"
    elif how == "json":
        root = coco(tmp_path, content(), "train.json")
        coco(tmp_path, content(2), "val.json")
        said = r"p0\.jpg is in train and in val"
    else:
        root = tmp_path
        voc(tmp_path / "train", simple(2))
        voc(tmp_path / "val", simple(1))
        source = tmp_path / "train" / "JPEGImages" / "p00.jpg"
        (tmp_path / "val" / "JPEGImages" / "p00.jpg").write_bytes(source.read_bytes())
        said = r"are one image, in train and in val"
    for split in ("train", "val", "all"):
        with pytest.raises(DataError, match=said):
            open_folder(root, split)


def test_a_second_annotation_of_an_image_is_said_or_refused(tmp_path):
    root = voc(tmp_path, simple(2))
    write(root, "old-p01", xml(("dog", 1, 1, 5, 5), filename="p01.jpg"))
    data = open_folder(root, "all")
    assert [one.name for entry in data.entries for one in entry.objects] == ["cat", "cat"]
    assert "1 images have more than one annotation" in data.notes[-1]
    (root / "Annotations" / "p01.xml").rename(root / "Annotations" / "new-p01.xml")
    write(root, "new-p01", xml(CAT, filename="p01.jpg"))
    with pytest.raises(DataError, match=r"new-p01\.xml and .*old-p01\.xml are both for .*p01\.jpg"):
        open_folder(root, "all")


def test_voc_lists_may_say_whether_the_class_is_there(tmp_path):
    root = voc(tmp_path, simple(3) | {"p 1": xml()})
    (root / "ImageSets").mkdir()
    (root / "ImageSets" / "train.txt").write_bytes(b"p00  1\r\np01 -1\r\np 1\r\n")
    assert names(open_folder(root, "train")) == ["p00", "p01", "p 1"]
    (root / "ImageSets" / "test.txt").write_bytes(b"p02 0\r\n")
    assert [len(open_folder(root, split)) for split in ("train", "val", "test")] == [2, 1, 1]


def test_classes_of_another_folder_are_an_error_and_chosen_ones_can_be_scored(tmp_path):
    root = voc(tmp_path / "set", {f"p{i}": xml(CAT, ("dog", 2, 2, 9, 9)) for i in range(6)})
    run = ["--data", str(root), "--quiet"]
    line = ["train", *run, "--classes", "dog", "--size", "64", "--start", "none", "--epochs", "1"]
    assert main([*line, "--out", str(tmp_path / "run")]) == 0
    model = str(tmp_path / "run" / "best.safetensors")
    assert main(["evaluate", *run, "--model", model]) == 0
    assert main([*line[:-6], "--classes", "cow", "--out", str(tmp_path / "no")]) == 2


# ----------------------------------------------------------------------------------- other formats


def labelme(name: str, *shapes: tuple) -> dict:
    made = [{"label": label, "shape_type": kind, "points": points} for label, kind, points in shapes]
    size = {"imageWidth": WIDTH, "imageHeight": HEIGHT}
    return {"version": "5.0", "shapes": made, "imagePath": name, "imageData": "abc", **size}


def test_labelme(tmp_path):
    shapes = [
        ("cat", "rectangle", [[9, 8], [3, 2]]),
        ("cat", "polygon", [[1, 2], [9, 4], [5, 11]]),
        ("dog", "circle", [[10, 9], [13, 13]]),
        ("eye", "point", [[4, 4]]),
    ]
    for i in range(5):
        image(tmp_path / "images" / f"a{i}.jpg")
        text = json.dumps(labelme(f"..\\images\\a{i}.jpg", *shapes))
        (tmp_path / f"a{i}.json").write_text(text)
    data = open_folder(tmp_path, "all", size=16)
    assert data.classes == ("cat", "dog")
    assert boxes(data) == [[(3, 2, 9, 8), (1, 2, 9, 11), (5, 4, 15, 14)]] * 5
    assert len(data[0].labels) == 3
    assert [any(what in note for note in data.notes) for what in ("10 objects are given", "5 points")] == [
        True
    ] * 2
    assert [len(open_folder(tmp_path, split)) for split in ("train", "val")] == [4, 1]
    (tmp_path / "a0.json").write_text(json.dumps(labelme("a0.jpg", ("cat", "rectangle", [[1, "x"]]))))
    with pytest.raises(DataError, match=r"a0\.json, shapes\[0\] has no label, or no points"):
        open_folder(tmp_path, "all")


def test_cvat(tmp_path):
    shapes = (
        '<box label="cat" xtl="1.5" ytl="2" xbr="9" ybr="8.25"/>'
        '<box label="cat" xtl="6" ytl="8" xbr="14" ybr="12" rotation="90"/>'
        '<polygon label="dog" points="1,2;9,4;5.5,11"/><points label="eye" points="3,3"/>'
        '<ellipse label="dog" cx="10" cy="9" rx="5" ry="2"/>'
        '<mask label="dog" left="3" top="4" width="5" height="6" rle="1, 2"/>'
    )
    images = "".join(
        f'<image id="{i}" name="set/a{i}.jpg" subset="{s}" width="{WIDTH}" height="{HEIGHT}">{shapes}</image>'
        for i, s in enumerate(("Train", "Train", "Validation"))
    )
    for i in range(3):
        image(tmp_path / "images" / f"a{i}.jpg")
    path = tmp_path / "annotations.xml"
    path.write_text(
        f'<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>{images}</annotations>'
    )
    data = open_folder(tmp_path, "train", size=16)
    boxes_of_one = [(1.5, 2, 9, 8.25), (8, 6, 12, 14), (1, 2, 9, 11), (5, 7, 15, 11), (3, 4, 8, 10)]
    np.testing.assert_allclose(boxes(data), [boxes_of_one] * 2)
    assert names(open_folder(tmp_path, "val")) == ["a2"]
    path.write_text("<annotations><track id='0'/></annotations>")
    with pytest.raises(DataError, match="is of a video: export it as 'CVAT for images'"):
        open_folder(tmp_path, "train")


def test_tables_of_tensorflows_tutorials(tmp_path):
    head = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    for split, count in (("train", 3), ("test", 2)):
        rows = [f"{split}{i}.jpg,{WIDTH},{HEIGHT},cat,11,6,20,15\n" for i in range(count)]
        (tmp_path / f"{split}_labels.csv").write_text(head + "".join(rows) + rows[0])
        for i in range(count):
            image(tmp_path / "images" / f"{split}{i}.jpg")
    assert boxes(open_folder(tmp_path, "test")) == [[(10, 5, 20, 15)] * 2, [(10, 5, 20, 15)]]
    assert [len(open_folder(tmp_path, split)) for split in ("train", "val")] == [2, 1]
    path = tmp_path / "train_labels.csv"
    path.write_text(path.read_text() + "train1.jpg,40,20,cat,1,2,x,4\n")
    with pytest.raises(DataError, match=r"train_labels\.csv, line 6: give filename, class, xmin"):
        open_folder(tmp_path, "train")
    with pytest.warns(DataWarning, match="1 faults"):
        assert names(open_folder(tmp_path, "all", skip_bad=True)) == ["test0", "test1", "train0", "train2"]


VIA = {"a.jpg12": {"filename": "a.jpg", "regions": []}}
FOREIGN = [
    ("via.json", VIA, "VIA"),
    ("via.json", {"_via_settings": {}, "_via_img_metadata": VIA}, "VIA"),
    ("x.csv", "filename,file_size,region_shape_attributes\n", "VIA"),
    ("_annotations.createml.json", [{"image": "a.jpg", "annotations": []}], "CreateML"),
    ("ann/a.jpg.json", {"size": {"width": 1}, "objects": []}, "Supervisely"),
    ("a.json", {"asset": {}, "regions": []}, "VoTT"),
    ("p.vott", "{}", "VoTT"),
    ("p.csv", '"image","xmin","ymin","xmax","ymax","label"\n', "VoTT"),
    ("train-annotations-bbox.csv", "ImageID,Source,LabelName,Confidence,XMin,XMax\n", "Open Images"),
    ("train/metadata.jsonl", '{"file_name": "a.jpg"}', "Hugging Face"),
    ("train/metadata.csv", "file_name,objects\n", "Hugging Face"),
    ("project.json", [{"id": 1, "data": {"image": "/a"}, "annotations": []}], "Label Studio"),
    ("train.tfrecord", "x", "TFRecord"),
    ("a.json", [{"bbox": [1, 2, 3, 4], "category_id": 1}], "a list of COCO's annotations"),
]


@pytest.mark.parametrize(("name", "text", "tool"), FOREIGN)
def test_other_formats_are_recognised_and_the_remedy_is_said(tmp_path, name, text, tool):
    image(tmp_path / "a.jpg")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text if isinstance(text, str) else json.dumps(text))
    with pytest.raises(
        DataError, match=rf"{tmp_path / name} is in the form of {tool}, which is not read: \w+"
    ):
        read_folder(tmp_path, LoadOptions())


def test_labels_without_names_of_classes_ask_for_them(tmp_path):
    image(tmp_path / "images" / "a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    with pytest.raises(DataError, match=r"a\.txt seems to be YOLO's.*: add .*data\.yaml with a line such as"):
        open_folder(tmp_path, "all")
    (tmp_path / "data.yaml").write_text("names: [cat]\n")
    (tmp_path / "labels" / "b.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    notes = open_folder(tmp_path, "all").notes
    assert any("1 label files have no image and are not used, b.txt for one" in note for note in notes)


def test_other_json_beside_cocos_is_said(tmp_path):
    root = coco(tmp_path, content(), "coco.json")
    (root / "config.json").write_text('{"a": 1}')
    data = open_folder(root, "all")
    assert any("1 JSON files are not in COCO's form and not read, config.json" in note for note in data.notes)
    (root / "more.json").write_text(json.dumps(content(0)))
    assert len(open_folder(root, "all")) == 3
