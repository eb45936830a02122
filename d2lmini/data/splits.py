"""Which image is for training and which for validation: by lists, by the folder itself, or at random."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np

from d2lmini.data.entries import Entry, Found, LoadOptions
from d2lmini.data.files import IMAGE_SUFFIXES, DataError, is_file, read_text, same_bytes

# What folders and files of a split are called, the usual name first.
SPLITS = {
    "train": ("train", "training", "training_set", "train_set"),
    "val": ("val", "valid", "validation", "validation_set", "val_set", "dev"),
    "test": ("test", "testing", "test_set"),
}
NEUTRAL = {"set", "data", "images", "image", "imgs", "img", "annotations", "labels", "split", "xml", "coco"}
MAX_LIST = 256 * 2**20  # bytes
Item = TypeVar("Item")


def split_of(*folders: str, file: str = "") -> str | None:
    """The split that a file's name says, or else the first folder that is called by one; None for none.

    >>> split_of("Training_Set", "val"), split_of(file="instances_val2017")
    ('train', 'val')
    """
    for name in (file, *folders):
        words = {*"".join(c if c.isalpha() else " " for c in name.lower()).split()}
        said = [split for split, aliases in SPLITS.items() if words & {*aliases}]
        if len(said) == 1 and (name is file or words <= {*SPLITS[said[0]]} | NEUTRAL):
            return said[0]
    return None


def group_by_split(
    splits: Mapping[Item, str | None], root: Path, options: LoadOptions
) -> dict[str, list[Item]]:
    """What belongs to each part of a `Found`, where a split is known for each item, or None.

    What has no split is still to be divided, unless there are parts for train and for others: then it is
    not used, and that is noted.
    """
    parts: dict[str, list[Item]] = {}
    for item, split in splits.items():
        parts.setdefault(split or "", []).append(item)
    rest = parts.pop("", [])
    if rest and parts.keys() <= {"train"}:
        return {"all": list(splits)}
    if rest and "train" in parts:
        options.note(root, "annotations are in no split and not used", len(rest), rest[0])
    elif rest:
        parts["trainval"] = rest
    return parts


@dataclass(frozen=True)
class Division:
    """How a folder is divided: by `lists` (their paths, by split), as it is already, or at random."""

    lists: Mapping[str, Path]
    seed: int
    val_fraction: float

    def entries(self, found: Found, split: str, root: Path, options: LoadOptions) -> list[Entry]:
        """The entries of a split; DataError where it has none, or a list makes no sense."""
        whole = undivided(found)
        if self.lists:
            every = found.entries("all", options)
            entries = by_lists(every, split, self.lists, root)
            if len(self.lists) == 2 and split != "all":
                keys = [_relative(entry, root).rpartition(".")[0] for entry in every]
                rest = unlisted(keys, self.lists.values())
                options.note(root, "annotated images are in no list and not used", len(rest), *rest[:1])
        elif whole and split in ("train", "val"):
            entries = divide(found.entries(whole, options), split, self.seed, self.val_fraction, root)
            if whole == "train":
                share = f"{self.val_fraction:.0%} of its images for train, chosen at random"
                options.notes.append(f"{root} has no images for val: {share}, are held out instead")
        elif split == "all" or split in found.parts:
            entries = found.entries(split, options)
        elif split == "val" and {"train", "all"} <= found.parts.keys():  # all that no list names
            silent = options.silent()
            named = {e.image for part in found.parts.keys() - {"all"} for e in found.entries(part, silent)}
            entries = [entry for entry in found.entries("all", options) if entry.image not in named]
        else:
            there = ", ".join(name for name in SPLITS if name in found.parts or (whole and name != "test"))
            remedy = "ask for one of those, or give lists of images (train_list, val_list)"
            raise DataError(f"{root} has no images for {split}, but for {there}: {remedy}")
        if not entries:
            raise DataError(f"{root} has no image for {split}: ask for another split, or correct the list")
        return entries

    def record(self, found: Found, root: Path, options: LoadOptions) -> dict[str, Any]:
        """What decides the division, for JSON: equal records mean that the training images are the same.

        `files` is the hash of the training images' names, None where the folder has none.
        """
        record: dict[str, Any] = {"by": "folder"}
        if self.lists:
            hashes = {f"{name}_list": hash_names(listed(path)) for name, path in self.lists.items()}
            record = {"by": "lists", **hashes}
        elif undivided(found):
            record = {"by": "seed", "seed": int(self.seed), "val_fraction": float(self.val_fraction)}
        try:
            training = self.entries(found, "train", root, options)
        except DataError:
            return record | {"files": None}
        return record | {"files": hash_names(sorted(_relative(entry, root) for entry in training))}


def refuse_shared(found: Found, root: Path, options: LoadOptions) -> None:
    """Raise DataError for an image of two parts: the same file, or one of its name with the same bytes."""
    seen: dict[tuple[str, int], list[tuple[str, Path]]] = {}
    for part in sorted(found.parts.keys() - {"all"}) if len(found.parts) > 1 else ():
        entries: list[Entry] = []
        with suppress(DataError):  # it says so when it is asked for
            entries = found.entries(part, options)
        for image in (entry.image for entry in entries if is_file(entry.image)):
            others = seen.setdefault((image.name, image.stat().st_size), [])
            for other, path in others:
                if other != part and (path == image or same_bytes(path, image)):
                    both = f"{path} is" if path == image else f"{path} and {image} are one image,"
                    lists = "say with lists (train_list, val_list) which images are for what"
                    raise DataError(f"{both} in {other} and in {part}: remove it from one, or {lists}")
            others.append((part, image))


def undivided(found: Found) -> str | None:
    """The part that is still to be divided into train and val, if any: train itself where that is all."""
    parts = found.parts.keys()
    if "trainval" in parts or parts == {"all"}:
        return "trainval" if "trainval" in parts else "all"
    return "train" if "train" in parts and not parts & {"val", "all"} else None


def hash_names(names: Iterable[str]) -> str:
    """SHA-256 of names in their order, the same for both ways to write an accent (Unicode's NFC and NFD)."""
    text = unicodedata.normalize("NFC", "\n".join(names))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _relative(entry: Entry, root: Path) -> str:
    return unicodedata.normalize("NFC", entry.image.relative_to(root).as_posix())


def divide(entries: Sequence[Entry], split: str, seed: int, val_fraction: float, root: Path) -> list[Entry]:
    """The entries of train or val, at random: the same for a seed, whatever the file system's order."""
    if len(entries) < 2:
        few = f"{len(entries)} annotated image(s), too few to divide into train and val"
        raise DataError(f"{root} has {few}: add images")
    ordered = sorted(entries, key=lambda entry: _relative(entry, root))
    count = min(max(round(val_fraction * len(ordered)), 1), len(ordered) - 1)
    order = np.random.default_rng(seed).permutation(len(ordered))
    chosen = order[:count] if split == "val" else order[count:]
    return [ordered[i] for i in sorted(chosen)]


def by_lists(entries: Sequence[Entry], split: str, lists: Mapping[str, Path], root: Path) -> list[Entry]:
    """The entries that a split's list names, in its order; without one, all that the other does not.

    Raises DataError for an image in both lists: a model would be scored on what it was trained with.
    """
    by_name = {entry.image.relative_to(root).with_suffix("").as_posix(): entry for entry in entries}
    found = {name: read_list(path, by_name) for name, path in lists.items()}
    if split not in ("all", "train", "val"):
        raise DataError(f"there is no list of {split} images: ask for train, val or all")
    if both := set(found.get("train", ())) & set(found.get("val", ())):
        raise DataError(f"{lists['train']} and {lists['val']} both name {min(both)}: leave it in one")
    if split == "all":
        return list(entries)
    if split in found:
        return [by_name[name] for name in found[split]]
    (other,) = found.values()
    if not (rest := by_name.keys() - set(other)):
        raise DataError(f"the list names every image of {root}: nothing is left for {split}")
    return [entry for name, entry in by_name.items() if name in rest]


def read_list(path: Path, known: Iterable[str]) -> list[str]:
    """The known names (paths without ending) that a list's lines mean: such a path or its last part.

    Raises DataError for a line that is not known, or stands for several, or comes twice.
    """
    by_name: dict[str, list[str]] = {}
    for name in known:
        for key in {name, PurePosixPath(name).name}:
            by_name.setdefault(key, []).append(name)
    found: dict[str, None] = {}
    for where, line, stem in _lines(path):
        names = next((by_name[key] for key in (line, *_keys(stem)) if key in by_name), [])
        if not names:
            raise DataError(f"{where}: there is no annotation for {line!r}: add one or remove the line")
        if len(names) > 1:
            raise DataError(f"{where}: {line!r} may be {' or '.join(names)}: name it with its folder")
        if names[0] in found:
            raise DataError(f"{where}: {line!r} was named before: keep one line")
        found[names[0]] = None
    return list(found)


def unlisted(known: Iterable[str], lists: Iterable[Path]) -> list[str]:
    """The known names that no list may mean."""
    named = {key for path in lists for stem in listed(path) for key in _keys(stem)}
    return [name for name in known if named.isdisjoint((name, PurePosixPath(name).name))]


def _keys(stem: str) -> tuple[str, ...]:
    """What a line may mean: VOC's lists of a class say behind the name whether it is in the image."""
    stated = re.sub(r"\s+-?[01]$", "", stem)
    return stem, PurePosixPath(stem).name, stated, PurePosixPath(stated).name


def listed(path: Path) -> list[str]:
    """What the lines of a list say, without the endings of images."""
    return [stem for _, _, stem in _lines(path)]


def _lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """Where each line is, what it says, and that without the ending of an image; no empty lines."""
    for number, line in enumerate(map(str.strip, read_text(path, MAX_LIST).splitlines()), start=1):
        if line:
            image = PurePosixPath(line.replace("\\", "/"))
            stem = image.with_suffix("") if image.suffix.lower() in IMAGE_SUFFIXES else image
            yield f"{path}, line {number}", line, stem.as_posix()
