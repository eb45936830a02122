"""Folders of annotated photographs, in the forms of PASCAL VOC, COCO, YOLO, LabelMe, CVAT and others.

`open_folder` finds out which. A folder that is divided already (a list per split in `ImageSets`, a JSON
file per split, or a folder per split) stays divided as it is, unless lists are given; any other is divided
at random, the same way for the same seed. `voc` and `coco` say what the two forms mean by a box.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from d2lmini.data import files as on_disk
from d2lmini.data.annotated import AnnotatedImages
from d2lmini.data.bananas import find_archive, read_bananas
from d2lmini.data.coco import is_coco, read_categories, read_coco
from d2lmini.data.cvat import read_cvat
from d2lmini.data.entries import Found, LoadOptions, choose_classes
from d2lmini.data.files import DataError, DataWarning, parse_json
from d2lmini.data.foreign import refuse
from d2lmini.data.labelme import is_labelme, read_labelme
from d2lmini.data.sources import faults_of
from d2lmini.data.splits import SPLITS, Division, refuse_shared
from d2lmini.data.tables import is_table, read_header, read_tables
from d2lmini.data.voc import read_voc, top_tag, xml_files
from d2lmini.data.yolo import read_yolo, yolo_names

MAX_QUOTED = 10  # faults that a warning quotes


def open_folder(
    path: str | Path,
    split: str = "train",
    *,
    size: int = 256,
    resize_mode: str = "stretch",
    classes: Sequence[str] | None = None,
    seed: int = 0,
    val_fraction: float = 0.2,
    train_list: str | Path | None = None,
    val_list: str | Path | None = None,
    split_record: Mapping[str, Any] | None = None,
    difficult: bool = False,
    skip_bad: bool = False,
) -> AnnotatedImages:
    """The annotated images of one split of a folder, brought to `size` by `size` pixels.

    `split` is train, val, test (if the folder has one) or all. `resize_mode` is "stretch" or "letterbox"
    (see `AnnotatedImages`). `classes` gives the names in the order of their labels (left out: all names,
    sorted); objects of others are left out. `difficult` keeps the objects marked as difficult (VOC) or as
    crowd (COCO).

    `train_list` and `val_list` are text files with an image a line; with one of them, the other split is all
    the rest. Without, a folder that has no val keeps `val_fraction` of its images (those for train, if it
    says which these are), drawn at random with `seed`, for val. `split_record` of an earlier result gives
    `seed` and `val_fraction`: if the new result's is equal to it, the division is the same.

    `skip_bad` reads every image once and leaves out those with a fault, whole, because an object without its
    box would be taught as background. A DataWarning counts them, `skipped` has them. Raises DataError (a
    ValueError) that names the file and object and the remedy.
    """
    root = Path(path)
    if split_record is not None:
        seed = split_record.get("seed", seed)
        val_fraction = split_record.get("val_fraction", val_fraction)
    if split not in (*SPLITS, "all"):
        raise ValueError(f"split is {split!r}: choose one of {', '.join((*SPLITS, 'all'))}")
    if not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"seed is {seed!r}: choose a whole number from 0")
    if not isinstance(val_fraction, Real) or not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction is {val_fraction!r}: choose a number between 0 and 1")
    options = LoadOptions(difficult, [] if skip_bad else None)
    lists = {name: Path(file) for name, file in (("train", train_list), ("val", val_list)) if file}
    division = Division(lists, seed, val_fraction)
    try:
        if not root.is_dir():
            raise DataError(f"no folder at {root}: check the path")
        found = read_folder(root, options)
        if not found.classes.intersection(found.classes if classes is None else classes):
            what = f"no object of {', '.join(classes)}, but of " if classes and found.classes else ""
            what += ", ".join(sorted(found.classes)) or "no object in any annotation"
            raise DataError(f"{root} has {what}: there is nothing to learn")
        if not lists and find_archive(root) is None:
            refuse_shared(found, root, options.silent())
        entries = division.entries(found, split, root, options)
        if classes is not None:
            entries = choose_classes(entries, classes, root, options)
        classes = sorted(found.classes) if classes is None else classes
        for name in sorted({*classes} & {other.lower() for other in classes if other != other.lower()}):
            options.notes.append(f"{root}: {name} is two classes, in small letters and with capitals")
        silent = LoadOptions(difficult, [] if skip_bad else None)
        record = division.record(found, root, silent)
        data = AnnotatedImages(entries, classes, size, resize_mode, options.notes, record)
    except OSError as error:
        raise DataError(f"{root} cannot be read ({error}): check its permissions") from error
    except DataError as error:
        if not options.faults:
            raise
        raise DataError(f"{error}; what was skipped: {' | '.join(options.faults[:3])}") from error
    if options.faults is not None:
        _skip_faults(data, options.faults, f"{root}, {split}")
    return data


def read_folder(root: Path, options: LoadOptions) -> Found:
    """What is annotated in a folder, in whichever form that is. Raises DataError where there is nothing."""
    if (archive := find_archive(root)) is not None:
        return read_bananas(archive)
    xml, aside = xml_files(root)
    if any(top_tag(path) == "annotation" for path in xml):
        aside += on_disk.files_below(root, [".json"])
        options.note(root, "other XML and JSON files are not read", len(aside), *aside[:1])
        return read_voc(root, xml, options)
    contents = _read_json(root, options)
    if coco := {path: content for path, content in contents.items() if is_coco(content)}:
        others = [path.name for path in contents if path not in coco]
        options.note(root, "JSON files are not in COCO's form and not read", len(others), *others[:1])
        return read_coco(root, coco, options)
    if (yolo := yolo_names(root)) is not None:
        return read_yolo(*yolo)
    if labelme := {path: content for path, content in contents.items() if is_labelme(content)}:
        return read_labelme(root, labelme, options)
    if cvat := [path for path in xml if top_tag(path) == "annotations"]:
        return read_cvat(root, cvat, options)
    if tables := [path for path in on_disk.files_below(root, [".csv"]) if is_table(read_header(path))]:
        return read_tables(root, tables, options)
    if xml:
        return read_voc(root, xml, options)
    raise DataError(refuse(root, contents))


def coco_categories(root: Path) -> dict[int | str, str]:
    """The classes of a folder in COCO's form by their ids there."""
    contents = _read_json(root, LoadOptions())
    files = {path: content for path, content in contents.items() if is_coco(content)}
    return {key: name for path, one in files.items() for key, name in read_categories(one, path).items()}


def _read_json(root: Path, options: LoadOptions) -> dict[Path, Any]:
    """JSON files in the folder or its annotations, or else below; only those of instances where names say."""
    below = on_disk.files_below(root, [".json"])
    below = [path for path in below if path.name not in on_disk.RESULTS]
    near = [p for p in below if p.parent == root or p.parent.name.lower() == "annotations"]
    contents: dict[Path, Any] = {}
    for paths in (near, below):
        for path in [path for path in paths if path.name.startswith("instances")] or paths:
            with on_disk.skipping(options.faults):
                contents[path] = contents.get(path) or parse_json(path)
                if isinstance(contents[path], dict):
                    contents[path].pop("imageData", None)  # LabelMe's copy of the image
        if any(is_coco(content) or is_labelme(content) for content in contents.values()):
            break
    return contents


def _skip_faults(data: AnnotatedImages, faults: list[str], where: str) -> None:
    """Leave out of the data set what cannot be used; warn how much that is and quote the first faults."""
    found = faults_of(data)
    data.entries = tuple(entry for i, entry in enumerate(data.entries) if i not in found)
    data.skipped = (*dict.fromkeys(faults), *(str(fault) for fault in found.values()))
    if data.skipped:
        count = len(data.skipped)
        more = f" … and {count - MAX_QUOTED} more (`skipped` has all)" if count > MAX_QUOTED else ""
        said = f"{where}: {count} faults were skipped, {len(data)} images are left. "
        warnings.warn(said + " | ".join(data.skipped[:MAX_QUOTED]) + more, DataWarning, stacklevel=3)
    if not data.entries:
        raise DataError(f"{where}: no image is without a fault. The first: {data.skipped[0]}")
