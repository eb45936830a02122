"""Throw damaged inputs at every loader: anything but a clear refusal or a sound result is a finding.

    python tools/fuzz_loaders.py --inputs 100000

Each input is a sound folder (VOC, COCO, YOLO, LabelMe, CVAT, CSV), image, table, list or archive with a few
bytes or values changed.
The loader has to give samples whose boxes and labels make sense, or raise ValueError with the name of the
file, within seconds. What does neither is counted by place and kept (`--keep`). Same seed, same inputs.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import faulthandler
import io
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from d2lmini.data import open_folder
from d2lmini.data.download import unpack
from d2lmini.data.images import RESIZE_MODES, read_image, read_square

SECONDS = 20  # of work: more is a hang
PATIENCE = 300  # seconds without work: waiting for ever is one, too, but a busy machine is not
ODD_NUMBERS = ["nan", "inf", "-inf", "1e999", "-1", "0", "1e-320", "0x10", "1_0", "", " ", "9" * 5000, "١"]
ODD_NAMES = ["../p0.jpg", "/etc/passwd", "a\0b", "..", ".", "p" * 300, "\udcff", "C:\\x.jpg", "é ü.jpg", "~"]
ODD_VALUES: list[Any] = [None, True, -1, 0, 1.5, 10**400, float("nan"), "", [], {}, [[]], *ODD_NAMES]
TOKENS = [
    *(b"<object>", b"</object>", b"<annotation>", b"<bndbox/>", b"<name>cat</name>", b"<a>" * 2000),
    *(b"&amp;", b"&x;", b"]]>", b"<![CDATA[", b'<?xml version="1.0" encoding="utf-16"?>'),
    *(b'<!DOCTYPE a [<!ENTITY x "ha">]>', b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'),
    *(b"{", b"[", b"[" * 2000, b"Infinity", b"NaN", b"-", b",", b'"', b"\r\n", b"../", b"\0", b"\xff\xfe"),
    *(b"\xef\xbb\xbf", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"PK\x03\x04"),
]


class Target(NamedTuple):
    """A loader: the files that are changed (kind and bytes by path), and what is done with them."""

    files: dict[str, bytes]
    load: Callable[[Path], None]


# ----------------------------------------------------------------------------------------- sound inputs


def encoded(kind: str, mode: str = "RGB", size: tuple[int, int] = (40, 20), **options: Any) -> bytes:
    """A small image as a file."""
    image, file = Image.linear_gradient("L").resize(size), io.BytesIO()
    if mode == "I;16":
        image = Image.frombytes("I;16", size, bytes(range(200)) * (2 * size[0] * size[1] // 200))
    else:
        image = image.convert("RGB").convert(mode)
    image.save(file, kind, **options)
    return file.getvalue()


def images() -> dict[str, bytes]:
    """A file of every kind that is read."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "a.jpg": encoded("jpeg", exif=exif),
        "b.jpg": encoded("jpeg", "CMYK"),
        "c.jpg": encoded("jpeg", "L", progressive=True),
        "d.png": encoded("png"),
        "e.png": encoded("png", "P", transparency=3),
        "f.png": encoded("png", "RGBA"),
        "g.png": encoded("png", "I;16"),
        "h.gif": encoded("gif", "P"),
        "i.bmp": encoded("bmp"),
        "j.tif": encoded("tiff", compression="tiff_lzw"),
        "k.tif": encoded("tiff", "F"),
        "l.webp": encoded("webp"),
        "m.ppm": encoded("ppm"),
        "n.tga": encoded("tga", compression="tga_rle"),
    }


def voc() -> dict[str, bytes]:
    """A folder in VOC's form, divided by lists."""
    text = (
        "<annotation><folder>x</folder><filename>{0}.jpg</filename><size><width>40</width>"
        "<height>20</height><depth>3</depth></size><object><name>cat</name><difficult>0</difficult>"
        "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>20.5</xmax><ymax>19</ymax></bndbox><part><name>head"
        "</name></part></object><object><name>dog</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>40</xmax>"
        "<ymax>20</ymax></bndbox></object></annotation>"
    )
    files = {f"Annotations/{name}.xml": text.format(name).encode() for name in ("p0", "p1")}
    return files | {"ImageSets/Main/train.txt": b"p0\n", "ImageSets/Main/val.txt": b"p1\n"}


def coco() -> dict[str, bytes]:
    """A folder in COCO's form."""
    images = [
        {"id": 5 * i, "file_name": f"p{i}.jpg", "width": 40, "height": 20, "license": 1} for i in range(2)
    ]
    boxes = [[1, 2, 10, 8], [0.5, 0, 39, 20], [3, 3, 4, 4.25]]
    found = [
        {"id": i, "image_id": 5 * (i % 2), "category_id": 7 + i % 2, "bbox": box, "iscrowd": 0, "area": 4}
        for i, box in enumerate(boxes)
    ]
    kinds = [{"id": 7 + i, "name": name, "supercategory": "x"} for i, name in enumerate(("cat", "dog"))]
    content = {"info": {}, "images": images, "annotations": found, "categories": kinds}
    return {"annotations/instances.json": json.dumps(content).encode()}


def yolo() -> dict[str, bytes]:
    """A folder in YOLO's form, divided by its YAML file."""
    rows = {"p0": b"0 0.5 0.5 0.25 0.5\n1 0.1 0.1 0.3 0.2 0.2 0.7\n", "p1": b"1 0.4 0.4 0.2 0.2\n"}
    names = b"train: train.txt\nval: val.txt\nnc: 2\nnames: [cat, dog]\n"
    labels = {f"labels/{name}.txt": data for name, data in rows.items()}
    return labels | {"data.yaml": names, "train.txt": b"images/p0.jpg\n", "val.txt": b"./images/p1.jpg\n"}


def labelme() -> dict[str, bytes]:
    """A folder in LabelMe's form."""
    kinds = {
        "rectangle": [[1, 2], [9, 8.5]],
        "polygon": [[1, 1], [30, 2], [5, 19]],
        "circle": [[9, 9], [12, 9]],
    }
    shapes = [{"label": "cat", "points": points, "shape_type": kind} for kind, points in kinds.items()]
    size = {"imageWidth": 40, "imageHeight": 20, "imageData": None}
    names = {f"images/p{i}.json": {"shapes": shapes, "imagePath": f"p{i}.jpg", **size} for i in range(2)}
    return {name: json.dumps(content).encode() for name, content in names.items()}


def cvat() -> dict[str, bytes]:
    """A folder in CVAT's form."""
    image = (
        '<image id="{0}" name="x/p{0}.jpg" width="40" height="20" subset="{1}"><box label="cat" xtl="1" '
        'ytl="2" xbr="30.5" ybr="9" rotation="{0}"/><polygon label="dog" points="1,2;9,9;5,12.5"/></image>'
    )
    images = "".join(image.format(i, split) for i, split in enumerate(("train", "val")))
    text = f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{images}</annotations>'
    return {"annotations.xml": text.encode()}


def rows() -> dict[str, bytes]:
    """The table of TensorFlow's tutorials."""
    head = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    text = "".join(f"p{i},40,20,cat,{1 + i},2,30.5,19\n" for i in (0, 0, 1))
    return {"labels.csv": (head + text).encode()}


def table() -> dict[str, bytes]:
    """The banana set's tables."""
    rows = "img_name,label,xmin,ymin,xmax,ymax\n0.png,0,1,2,30,19\n1.png,0,0,0,40,20\n"
    return {f"bananas_{split}/label.csv": rows.encode() for split in ("train", "val")}


def archive() -> dict[str, bytes]:
    """The banana set's archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as content:
        for i, (name, data) in enumerate(table().items()):
            content.writestr(name, data, zipfile.ZIP_DEFLATED if i else zipfile.ZIP_STORED)
        content.writestr("bananas_train/images/0.png", encoded("png"), zipfile.ZIP_BZIP2)
        content.writestr("bananas_val/images/0.png", encoded("png"), zipfile.ZIP_LZMA)
    return {"archive.zip": file.getvalue()}


# -------------------------------------------------------------------------------------------- what is done


def check(data: Any) -> None:
    """Whether every sample is what a loader promises."""
    for i in range(len(data)):
        image, boxes, labels = data[i]
        assert image.dtype == torch.uint8
        assert image.shape == (3, 16, 16), image.shape
        assert boxes.shape == (len(labels), 4)
        assert bool(((boxes >= 0) & (boxes <= 1)).all())
        assert bool((boxes[:, 2:] > boxes[:, :2]).all()), boxes
        assert all(0 <= label < len(data.classes) for label in labels.tolist())


def load_folder(root: Path, draw: random.Random) -> None:
    split, skip = draw.choice(["all", "all", "train", "val"]), draw.random() < 0.3
    check(open_folder(root, split, size=16, resize_mode=draw.choice(RESIZE_MODES), skip_bad=skip))


def load_images(root: Path, draw: random.Random) -> None:
    (path,) = root.iterdir()
    image = read_image(path)
    assert image.mode == "RGB"
    assert min(image.size) > 0
    small, shape = read_square(path, (4, 4), draw.choice(RESIZE_MODES))
    assert small.shape == (3, 4, 4)
    assert shape == image.size


def load_archive(root: Path, draw: random.Random) -> None:
    """Nothing may be written but below the target."""
    try:
        unpack(root / "archive.zip", root / "out")
    finally:
        assert {path.name for path in root.iterdir()} <= {"archive.zip", "out"}
        assert not (root.parent / "evil").exists()
        shutil.rmtree(root / "out", ignore_errors=True)


# ----------------------------------------------------------------------------------------------- mutations


def damage(data: bytes, draw: random.Random) -> bytes:
    """A few random changes of bytes: flipped, cut, doubled, moved, or replaced by something telling."""
    content = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 4, 16])):
        at, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
        kind = draw.randrange(7)
        if kind == 0 and content:
            content[at % len(content)] ^= 1 << draw.randrange(8)
        elif kind == 1 and content:
            content[at % len(content)] = draw.choice([0, 1, 127, 128, 255, draw.randrange(256)])
        elif kind == 2:
            content[at : at + draw.choice([1, 2, 4, 8])] = draw.choice(
                [b"", b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"]
            )
        elif kind == 3:
            del content[at : min(end, at + draw.choice([1, 8, 64]))]
        elif kind == 4:
            content[at:at] = content[at:end][:200]
        elif kind == 5:
            content[at:at] = draw.choice(TOKENS)
        elif draw.random() < 0.3:
            del content[at:]
    return bytes(content)


def change_number(data: bytes, draw: random.Random) -> bytes:
    """One number of a text replaced by an odd one."""
    text = data.decode("utf-8", "surrogateescape")
    spans = [(i, i + 1) for i, c in enumerate(text) if c.isdigit()]
    if not spans:
        return data
    at, end = draw.choice(spans)
    odd = draw.choice([*ODD_NUMBERS, *ODD_NAMES])
    return (text[:at] + odd + text[end:]).encode("utf-8", "surrogateescape" if "\udcff" in odd else "replace")


def change_value(data: bytes, draw: random.Random) -> bytes:
    """One value, key or record of a JSON text replaced, dropped or doubled."""
    content = json.loads(data)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in list(items):
            places.append((node, key))
            if isinstance(value, (dict, list)):
                walk(value)

    walk(content)
    for _ in range(draw.choice([1, 1, 2])):
        node, key = draw.choice(places)
        with contextlib.suppress(KeyError, IndexError):
            kind = draw.randrange(4)
            if kind == 0:
                del node[key]
            elif kind == 1 and isinstance(node, list):
                node.append(node[key])
            else:
                node[key] = draw.choice(ODD_VALUES)
    return json.dumps(content).encode()


def mutate(name: str, data: bytes, draw: random.Random) -> bytes:
    """One damaged version of a file."""
    kind = draw.random()
    if name.endswith(".json") and kind < 0.6:
        return change_value(data, draw)
    if name.endswith((".xml", ".csv", ".txt", ".json", ".yaml")) and kind < 0.8:
        return change_number(data, draw)
    if name.endswith(".zip") and kind < 0.2:  # names that lead out, in both places of a zip
        evil = draw.choice([b"../evil/", b"/tmp/../", b"..\\evil\\", b"C:\\evil\\"])
        return data.replace(b"bananas_train"[: len(evil)], evil)
    return damage(data, draw)


# ------------------------------------------------------------------------------------------------ the run


class Hang(BaseException):
    """An input took too long; nothing of ours may catch it."""


def prepare(root: Path) -> dict[str, Target]:
    """Folders that are sound, one for each loader."""
    still = {f"images/p{i}.jpg": encoded("jpeg") for i in range(2)}
    bananas_still = {
        f"bananas_{s}/images/{i}.png": encoded("png") for s in ("train", "val") for i in range(2)
    }
    folders = {make.__name__: make() | still for make in (voc, coco, yolo, labelme, cvat, rows)}
    for name, files in (folders | {"table": table() | bananas_still}).items():
        for path, data in files.items():
            (root / name / path).parent.mkdir(parents=True, exist_ok=True)
            (root / name / path).write_bytes(data)
    for name in ("image", "archive"):
        (root / name).mkdir()
    return {
        **{name: Target(files, load_folder) for name, files in folders.items()},
        "table": Target(table(), load_folder),
        "image": Target(images(), load_images),
        "archive": Target(archive(), load_archive),
    }


def attempt(name: str, target: Target, root: Path, draw: random.Random) -> tuple[str, bytes]:
    """Damage one file, load, and put the file back; returns what came of it, and the damaged file."""
    file = draw.choice(list(target.files))
    if "images/p0.jpg" in target.files and draw.random() < 0.5:
        file = next(iter(target.files))  # what is annotated, more than what is shown
    data = mutate(file, target.files[file], draw)
    path = root / name / file
    path.write_bytes(data)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        target.load(root / name, draw)
        return "read", data
    except ValueError as error:
        if str(root / name) in str(error):
            return "refused", data
        return f"{name}: no file named in {type(error).__name__}: {str(error)[:150]}", data
    except (Exception, Hang, RecursionError) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno}: {str(error)[:150]}"
        return f"{name}: {said}", data
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if name == "image":
            path.unlink()
        else:
            path.write_bytes(target.files[file])


def run(
    inputs: int, seed: int, root: Path, keep: Path | None = None, quiet: bool = True
) -> collections.Counter:
    """How often each thing came out of so many inputs; "read" and "refused" are fine."""

    def too_long(number: int, frame: Any) -> None:
        raise Hang(f"{SECONDS} s of work, or {PATIENCE} s in all")

    previous = {name: signal.signal(name, too_long) for name in (signal.SIGPROF, signal.SIGALRM)}
    counts: collections.Counter = collections.Counter()
    targets, began = prepare(root), time.monotonic()
    try:
        for i in range(inputs):
            draw = random.Random(f"{seed} {i}")
            name = draw.choice(list(targets))
            result, data = attempt(name, targets[name], root, draw)
            counts[result if ": " in result else f"{name}: {result}"] += 1
            if ": " in result and keep is not None and counts[result] == 1:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{seed}-{i}").write_bytes(data)
            if not quiet and (i + 1) % 10_000 == 0:
                print(f"{i + 1} inputs, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)
    return counts


def main(arguments: list[str] | None = None) -> int:
    """Fuzz; 0 when there was no finding."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for inputs that are findings")
    options = parser.parse_args(arguments)
    faulthandler.enable()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        counts = run(options.inputs, options.seed, Path(folder), options.keep, quiet=False)
    for what, count in counts.most_common():
        print(f"{count:8}  {what}")
    return int(any(not what.endswith((": read", ": refused")) for what in counts))


if __name__ == "__main__":
    sys.exit(main())
