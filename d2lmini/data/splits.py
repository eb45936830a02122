"""Which image is for training and which for validation: by lists, by the folder itself, or at random."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from d2lmini.data.annotated import Entry, Found, LoadOptions
from d2lmini.data.files import IMAGE_SUFFIXES, DataError, read_bytes

# What folders and files of a split are called, the usual name first.
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test",)}
MAX_LIST = 256 * 2**20  # bytes


@dataclass(frozen=True)
class Division:
    """How a folder is divided: by `lists` (their paths, by split) if there are any, or as it is already.

    If it is not, `val_fraction` of its images, drawn at random with `seed`, are for validation.
    """

    lists: Mapping[str, Path]
    seed: int = 0
    val_fraction: float = 0.2

    def entries(self, found: Found, split: str, root: Path, options: LoadOptions) -> list[Entry]:
        """The entries of a split; DataError where it has none, or a list makes no sense."""
        whole = _undivided(found)
        if self.lists:
            entries = divide_by_lists(found.entries("all", options), split, self.lists, root)
        elif split == "all" or split in found.parts:
            entries = found.entries(split, options)
        elif whole and split != "test":
            entries = divide(found.entries(whole, options), split, self.seed, self.val_fraction, root)
        else:
            there = [name for name in SPLITS if name in found.parts or (whole and name != "test")]
            raise DataError(
                f"{root} has no images for {split}, but for {', '.join(there)}: ask for one of those"
            )
        if not entries:
            raise DataError(f"{root} has no image for {split}: ask for another split, or correct the list")
        return entries

    def record(self, found: Found, root: Path, options: LoadOptions) -> dict[str, Any]:
        """What decides the division, for JSON: equal records mean that the training images are the same.

        `by` is "lists" (with a hash of each), "folder", or "seed" (with `seed` and `val_fraction`).
        `files` is the hash of the training images' names, None where the folder has none.
        """
        record: dict[str, Any] = {"by": "folder"}
        if self.lists:
            hashes = {f"{name}_list": hash_names(listed(path)) for name, path in self.lists.items()}
            record = {"by": "lists", **hashes}
        elif _undivided(found):
            record = {"by": "seed", "seed": int(self.seed), "val_fraction": float(self.val_fraction)}
        try:
            training = self.entries(found, "train", root, options)
        except DataError:
            return record | {"files": None}
        return record | {"files": hash_names(sorted(_relative(entry, root) for entry in training))}


def _undivided(found: Found) -> str | None:
    """The part that is still to be divided into train and val, if any."""
    return "trainval" if "trainval" in found.parts else "all" if found.parts.keys() == {"all"} else None


def hash_names(names: Iterable[str]) -> str:
    """SHA-256 of names in their order, the same for both ways to write an accent (Unicode's NFC and NFD)."""
    return hashlib.sha256("\n".join(map(_nfc, names)).encode("utf-8", "surrogatepass")).hexdigest()


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _relative(entry: Entry, root: Path) -> str:
    """An image's path below the folder."""
    return _nfc(entry.image.relative_to(root).as_posix())


def divide(entries: Sequence[Entry], split: str, seed: int, val_fraction: float, root: Path) -> list[Entry]:
    """The entries of train or val, at random: the same for a seed, whatever the file system's order."""
    if len(entries) < 2:
        raise DataError(
            f"{root} has {len(entries)} annotated image(s), too few to divide into train and "
            "val: add images, or ask for the split all"
        )
    ordered = sorted(entries, key=lambda entry: _relative(entry, root))
    count = min(max(round(val_fraction * len(ordered)), 1), len(ordered) - 1)
    order = np.random.default_rng(seed).permutation(len(ordered))
    chosen = order[:count] if split == "val" else order[count:]
    return [ordered[i] for i in sorted(chosen)]


def divide_by_lists(
    entries: Sequence[Entry], split: str, lists: Mapping[str, Path], root: Path
) -> list[Entry]:
    """The entries that the list of a split names, in its order; without one, all that the other does not.

    Raises DataError for an image in both lists, which would be scored on what it was trained with.
    """
    by_name = {entry.image.relative_to(root).with_suffix("").as_posix(): entry for entry in entries}
    found = {name: read_list(path, by_name) for name, path in lists.items()}
    if split not in ("all", "train", "val"):
        raise DataError(f"there is no list of {split} images: ask for train, val or all")
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
        raise DataError(f"the list names every image of {root}: nothing is left for {split}")
    return [entry for name, entry in by_name.items() if name in rest]


# ------------------------------------------------------------------------------------------------- lists


def read_list(path: Path, known: Iterable[str]) -> list[str]:
    """The names (paths below some folder, without ending) that the lines of a list mean.

    A line is such a path or its last part, with or without an ending. Raises DataError for a name that is
    not known, or stands for several, or comes twice.
    """
    by_name: dict[str, list[str]] = {}
    for name in known:
        for key in {name, PurePosixPath(name).name}:
            by_name.setdefault(key, []).append(name)
    found: dict[str, None] = {}
    for number, line in _lines(path):
        where, stem = f"{path}, line {number}", _stem(line)
        keys = (line, stem, PurePosixPath(stem).name)
        names = next((by_name[key] for key in keys if key in by_name), [])
        if not names:
            raise DataError(f"{where}: there is no annotation for {line!r}: add one or remove the line")
        if len(names) > 1:
            raise DataError(f"{where}: {line!r} may be {' or '.join(names)}: name it with its folder")
        if names[0] in found:
            raise DataError(f"{where}: {line!r} was named before: keep one line")
        found[names[0]] = None
    return list(found)


def listed(path: Path) -> list[str]:
    """What the lines of a list say, without the endings of images."""
    return [_stem(line) for _, line in _lines(path)]


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a list that are not empty, each with its number."""
    try:
        lines = read_bytes(path, MAX_LIST).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} cannot be read ({error}): write it as UTF-8") from error
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def _stem(line: str) -> str:
    """A line without the ending of an image."""
    path = PurePosixPath(line.replace("\\", "/"))
    return (path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path).as_posix()
