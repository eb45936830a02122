"""Folders of annotated photographs, in PASCAL VOC's form (XML) or COCO's (JSON).

`open_folder` finds out which. A folder that is divided already (a list per split in `ImageSets`, a JSON
file per split, or a folder per split) stays divided as it is, unless lists are given; any other is divided
by lot, the same way for the same seed. What the two forms mean by a box is told in `voc` and `coco`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from d2lmini.data.annotated import AnnotatedPictures, Entry, Found, Reading
from d2lmini.data.bananas import Bananas, find_archive
from d2lmini.data.coco import EXPECTED, json_files, read_coco
from d2lmini.data.feed import faults_of
from d2lmini.data.files import DataError, DataWarning
from d2lmini.data.voc import SPLITS, read_list, read_voc, xml_folder

TOLD = 10  # faults that a warning quotes


def open_folder(
    path: str | Path,
    split: str = "train",
    *,
    size: int = 256,
    fit: str = "stretch",
    classes: Sequence[str] | None = None,
    seed: int = 0,
    val_share: float = 0.2,
    train_list: str | Path | None = None,
    val_list: str | Path | None = None,
    difficult: bool = False,
    skip_bad: bool = False,
) -> AnnotatedPictures:
    """The annotated pictures of one split of a folder, brought to `size` by `size` pixels.

    `split` is train, val, test (if the folder has one) or all. `fit` is "stretch" or "letterbox" (see
    `AnnotatedPictures`). `classes` gives the names in the order of their labels; left out, they are all
    that the folder's annotations name, sorted. `train_list` and `val_list` are text files with a picture
    a line; with one of them, the other split is all the rest. Without, a folder that is not divided keeps
    `val_share` of its pictures, drawn with `seed`, for val. `difficult` keeps the objects marked as
    difficult (VOC) or as crowd (COCO), which are left out otherwise. The banana archive (see `bananas`)
    is opened too, but has no test split; of the options only `size`, `fit` and `skip_bad` matter to it.

    `skip_bad` reads every picture once and leaves out those with a fault, whole, because an object
    without its box would be taught as background; of objects whose class is not among `classes` only
    these. A DataWarning counts them, and `skipped` of the result has every fault; `notes` says what else
    is not used.

    Raises DataError (a ValueError) that names the file and object and says what to do.
    """
    root = Path(path)
    if split not in (*SPLITS, "all"):
        raise ValueError(f"split is {split!r}: choose one of {', '.join((*SPLITS, 'all'))}")
    if not 0 < val_share < 1:
        raise ValueError(f"val_share is {val_share}: choose a share between 0 and 1")
    reading = Reading(difficult, [] if skip_bad else None)
    lists = {"train": train_list, "val": val_list}
    try:
        if not root.is_dir():
            raise DataError(f"no folder at {root}: check the path")
        if find_archive(root) is not None:
            data = Bananas(root, split, size, fit)
        else:
            found = _read(root, "all" if any(lists.values()) else split, reading)
            names = _names(found, classes, root)
            entries = _part_of(found, split, lists, seed, val_share, root)
            data = AnnotatedPictures(entries, names, size, fit, reading.notes)
    except OSError as error:
        raise DataError(f"{root} cannot be read ({error}): check its permissions") from error
    return data if reading.faults is None else _without_faults(data, reading.faults, f"{root}, {split}")


def _names(found: Found, classes: Sequence[str] | None, root: Path) -> Sequence[str]:
    """The classes that were given, or all that were found."""
    if classes is None and not found.classes:
        raise DataError(f"{root} has no object in any annotation: there is nothing to learn")
    return sorted(found.classes) if classes is None else classes


def _read(root: Path, split: str, reading: Reading) -> Found:
    """The annotations of `root`, or of its folder for the split if it has one."""
    parts = {name: _part(root, name) for name in SPLITS}
    if not any(parts.values()):
        return _read_one(root, split, reading)
    wanted = parts if split == "all" else {split: parts[split]}
    if not any(wanted.values()):
        there = ", ".join(folder.name for folder in parts.values() if folder)
        raise DataError(f"{root} has no folder for {split}, but {there}: ask for one of those")
    entries, classes = [], set()
    for name, part in parts.items():  # every part is read, so that a label means the same class in each
        if part is not None:
            asked = reading if name in wanted else Reading(reading.difficult, reading.faults)
            found = _read_one(part, "all", asked)
            classes |= found.classes
            entries += found.entries if name in wanted else []
    return Found(entries, classes, True)


def _part(root: Path, split: str) -> Path | None:
    """The folder of a split, if it has annotations of its own."""
    for name in SPLITS[split]:
        folder = root / name
        if folder.is_dir() and (xml_folder(folder) or json_files(folder)):
            return folder
    return None


def _read_one(root: Path, split: str, reading: Reading) -> Found:
    annotations = xml_folder(root)
    if annotations is not None:
        return read_voc(root, annotations, split, reading)
    files = json_files(root)
    if files:
        return read_coco(root, files, split, reading)
    raise DataError(f"{root} has no annotations: {EXPECTED}")


# ----------------------------------------------------------------------------------------------- splits


def _part_of(
    found: Found,
    split: str,
    lists: dict[str, str | Path | None],
    seed: int,
    val_share: float,
    root: Path,
) -> list[Entry]:
    """The entries of one split: by lists if there are any, by lot if the folder is not divided."""
    entries = found.entries
    if any(lists.values()):
        entries = divide_by_lists(entries, split, lists, root)
    elif not found.divided:
        entries = divide(entries, split, seed, val_share, root)
    if not entries:
        raise DataError(f"{root} has no picture for {split}: ask for another split, or correct the list")
    return entries


def divide(entries: Sequence[Entry], split: str, seed: int, val_share: float, root: Path) -> list[Entry]:
    """The entries of one split by lot: the same for one seed, whatever the file system's order."""
    if split == "all":
        return list(entries)
    if split == "test":
        raise DataError(f"{root} has no list of test pictures: ask for train, val or all")
    if len(entries) < 2:
        raise DataError(
            f"{root} has {len(entries)} annotated picture(s), too few to divide into train and "
            "val: add pictures, or ask for the split all"
        )
    ordered = sorted(entries, key=lambda entry: entry.image.as_posix())
    count = min(max(round(val_share * len(ordered)), 1), len(ordered) - 1)
    order = np.random.default_rng(seed).permutation(len(ordered))
    chosen = order[:count] if split == "val" else order[count:]
    return [ordered[i] for i in sorted(chosen)]


def divide_by_lists(
    entries: Sequence[Entry], split: str, lists: dict[str, str | Path | None], root: Path
) -> list[Entry]:
    """The entries that the list of a split names, in its order; without one, all that the other does not.

    Raises DataError for a picture in both lists, which would be scored on what it was trained with.
    """
    by_name = {_name(entry, root): entry for entry in entries}
    found = {name: read_list(Path(path), by_name) for name, path in lists.items() if path is not None}
    if split not in ("all", *lists):
        raise DataError(f"there is no list of {split} pictures: ask for train, val or all")
    both = set(found.get("train", ())) & set(found.get("val", ()))
    if both:
        raise DataError(f"{lists['train']} and {lists['val']} both name {min(both)}: leave it in one")
    if split == "all":
        return list(entries)
    if split in found:
        return [by_name[name] for name in found[split]]
    (other,) = found.values()
    rest = by_name.keys() - set(other)
    if not rest:
        raise DataError(f"the list names every picture of {root}: nothing is left for {split}")
    return [entry for name, entry in by_name.items() if name in rest]


def _name(entry: Entry, root: Path) -> str:
    """A picture's path below the folder, without ending."""
    return entry.image.relative_to(root).with_suffix("").as_posix()


# ---------------------------------------------------------------------------------------------- skipping


def _without_faults(data: AnnotatedPictures, faults: list[str], where: str) -> AnnotatedPictures:
    """The data set without what cannot be used; warns how much that is and quotes the first faults."""
    entries = [_known(entry, data.classes, faults) for entry in data.entries]
    data = AnnotatedPictures(entries, data.classes, data.size, data.fit, data.notes)
    found = faults_of(data)
    entries = [entry for i, entry in enumerate(entries) if i not in found]
    faults = [*dict.fromkeys(faults), *(str(fault) for fault in found.values())]
    if faults:
        more = f" … and {len(faults) - TOLD} more (`skipped` has all)" if len(faults) > TOLD else ""
        said = f"{where}: {len(faults)} faults were skipped, {len(entries)} pictures are left. "
        warnings.warn(said + " | ".join(faults[:TOLD]) + more, DataWarning, stacklevel=3)
    if not entries:
        raise DataError(f"{where}: no picture is without a fault. The first: {faults[0]}")
    return AnnotatedPictures(entries, data.classes, data.size, data.fit, data.notes, faults)


def _known(entry: Entry, classes: Sequence[str], faults: list[str]) -> Entry:
    """The entry without objects of other classes."""
    for number, found in enumerate(entry.objects, start=1):
        if found.name not in classes:
            faults.append(f"{entry.where}, object {number}: {found.name!r} is not among the classes")
    return entry._replace(objects=tuple(o for o in entry.objects if o.name in classes))
