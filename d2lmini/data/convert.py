"""Writing a folder in PASCAL VOC's form, COCO's or YOLO's: the same images, boxes, classes and splits."""

from __future__ import annotations

import html
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from d2lmini.data.annotated import check_size, normalize
from d2lmini.data.entries import Entry, LoadOptions, choose_classes
from d2lmini.data.files import DataError, skipping
from d2lmini.data.folders import read_folder
from d2lmini.data.images import read_square
from d2lmini.data.splits import SPLITS, Division, undivided


class Row(NamedTuple):
    """An image as it is written: its new file name, (width, height), and its objects: name and pixels."""

    name: str
    size: tuple[int, int]
    objects: list[tuple[str, tuple[float, ...]]]

    @property
    def stem(self) -> str:
        return Path(self.name).stem


def convert(
    path: str | Path,
    form: str,
    out: str | Path,
    classes: Sequence[str] | None = None,
    options: LoadOptions | None = None,
) -> dict[str, int]:
    """Write a folder anew in a form of `FORMS`, whole or not at all; returns how many images each part has.

    Images are linked where the disk allows that, else copied. A folder that is not divided has the part
    "all". Raises DataError for what `open_folder` refuses, and for a target that is there already.
    """
    root, out, options = Path(path), Path(out), options or LoadOptions()
    if form not in FORMS:
        raise ValueError(f"the form is {form!r}: choose from {', '.join(FORMS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is there already: name a new folder")
    if not root.is_dir():
        raise DataError(f"no folder at {root}: check the path")
    parts, names = _parts(root, options)
    names = names if classes is None else list(classes)
    if classes is not None:
        parts = {part: choose_classes(found, names, root, options) for part, found in parts.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    target = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        rows = _copy(parts, target, FORMS[form].images, options)
        FORMS[form].write(target, rows, names)
        target.chmod(0o755)
        with suppress(FileNotFoundError):
            out.rmdir()
        os.replace(target, out)
    finally:
        shutil.rmtree(target, ignore_errors=True)
    return {part: len(found) for part, found in rows.items()}


def _parts(root: Path, options: LoadOptions) -> tuple[dict[str, list[Entry]], list[str]]:
    """The entries of a folder as it is divided, and all classes; nothing is drawn at random."""
    found = read_folder(root, options)
    whole, there = undivided(found), found.parts.keys()
    parts = {"all": found.entries("all", options)} if there == {"all"} else {}
    if whole and not parts:
        parts["train"] = found.entries(whole, options)
    for split in SPLITS:
        if split not in parts and (split in there or (split == "val" and {"train", "all"} <= there)):
            parts[split] = Division({}, 0, 0.2).entries(found, split, root, options)
    return parts, sorted(found.classes)


def _copy(
    parts: Mapping[str, Sequence[Entry]], target: Path, images: str, options: LoadOptions
) -> dict[str, list[Row]]:
    """The images of all parts in one folder for each, under names that differ by more than their ending."""
    rows: dict[str, list[Row]] = {}
    taken: set[str] = set()
    for part, entries in parts.items():
        rows[part] = []
        folder = target / images.format(part="" if part == "all" else part)
        folder.mkdir(parents=True, exist_ok=True)
        for entry in entries:
            with skipping(options.faults):
                row = _row(entry, taken)
                _link(entry.image, folder / row.name)
                rows[part].append(row)
    if not any(rows.values()):
        raise DataError(f"no image is without a fault. The first: {(options.faults or ['none there'])[0]}")
    return rows


def _row(entry: Entry, taken: set[str]) -> Row:
    _, size = read_square(entry.image, (1, 1))
    check_size(entry, size)
    edges = [normalize(entry, i, size) for i in range(len(entry.objects))]
    if odd := [one.name for one in entry.objects if not one.name.isprintable()]:
        raise DataError(f"{entry.where}: the class {odd[0]!r} cannot be written: rename it")
    stem, number = entry.image.stem, 1
    while stem.casefold() in taken:
        number += 1
        stem = f"{entry.image.stem}-{number}"
    taken.add(stem.casefold())
    pixels = [tuple(edge * side for edge, side in zip(box, size * 2, strict=True)) for box in edges]
    names = [one.name for one in entry.objects]
    return Row(stem + entry.image.suffix, size, list(zip(names, pixels, strict=True)))


def _link(image: Path, copy: Path) -> None:
    try:
        os.link(image.resolve(), copy)
    except OSError:  # another disk, or one without links
        shutil.copyfile(image, copy)


def _write_voc(target: Path, rows: Mapping[str, list[Row]], classes: Sequence[str]) -> None:
    """First and last pixels, counted from 1: what is an edge from 0 gets 1 on the left and on top."""
    (target / "Annotations").mkdir()
    for part, found in rows.items():
        for row in found:
            size = "<width>{}</width><height>{}</height><depth>3</depth>".format(*row.size)
            objects = "".join(
                f"<object><name>{html.escape(name)}</name><difficult>0</difficult><bndbox>"
                f"<xmin>{left + 1!r}</xmin><ymin>{top + 1!r}</ymin>"
                f"<xmax>{right!r}</xmax><ymax>{bottom!r}</ymax></bndbox></object>\n"
                for name, (left, top, right, bottom) in row.objects
            )
            head = f"<annotation><filename>{html.escape(row.name)}</filename><size>{size}</size>\n"
            _write(target / "Annotations" / f"{row.stem}.xml", f"{head}{objects}</annotation>\n")
        if part != "all":
            lines = "".join(f"{row.stem}\n" for row in found)
            _write(target / "ImageSets" / "Main" / f"{part}.txt", lines)


def _write_coco(target: Path, rows: Mapping[str, list[Row]], classes: Sequence[str]) -> None:
    for part, found in rows.items():
        images, annotations = [], []
        for i, row in enumerate(found, start=1):
            width, height = row.size
            images.append({"id": i, "file_name": row.name, "width": width, "height": height})
            for name, (left, top, right, bottom) in row.objects:
                box = [left, top, right - left, bottom - top]
                record = {"id": len(annotations) + 1, "image_id": i, "category_id": classes.index(name) + 1}
                annotations.append(record | {"bbox": box, "area": box[2] * box[3], "iscrowd": 0})
        categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        name = "instances" if part == "all" else f"instances_{part}"
        _write(target / "annotations" / f"{name}.json", json.dumps(content, ensure_ascii=False))


def _write_yolo(target: Path, rows: Mapping[str, list[Row]], classes: Sequence[str]) -> None:
    splits: dict[str, Any] = {}
    for part, found in rows.items():
        below = "" if part == "all" else part
        splits |= {part: f"images/{part}"} if below else {}
        for row in found:
            lines = []
            for name, (left, top, right, bottom) in row.objects:
                (width, height), label = row.size, classes.index(name)
                center = (left + right) / 2 / width, (top + bottom) / 2 / height
                sides = (right - left) / width, (bottom - top) / height
                lines.append(" ".join(map(repr, (label, *center, *sides))) + "\n")
            _write(target / "labels" / below / f"{row.stem}.txt", "".join(lines))
    content = splits | {"nc": len(classes), "names": list(classes)}
    _write(target / "data.yaml", yaml.safe_dump(content, allow_unicode=True, sort_keys=False))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


class Form(NamedTuple):
    """Where a form has the images of a part, and what writes the rest."""

    images: str
    write: Callable[[Path, Mapping[str, list[Row]], Sequence[str]], None]


FORMS = {
    "voc": Form("JPEGImages", _write_voc),
    "coco": Form("images/{part}", _write_coco),
    "yolo": Form("images/{part}", _write_yolo),
}
