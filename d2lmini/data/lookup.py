"""Finding images by what annotations call them: paths of other machines, URLs, other endings and letters."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from d2lmini.data import files as on_disk
from d2lmini.data.entries import Annotation, Entry, Found, LoadOptions
from d2lmini.data.files import IMAGE_SUFFIXES, DataError, skipping
from d2lmini.data.splits import group_by_split, split_of

IMAGE_FOLDERS = {"jpegimages", "images", "image", "imgs", "img", "photos"}


def name_parts(name: str) -> list[str]:
    """Folders and file name of a path of any system, or of a URL, as they are compared.

    >>> name_parts("C:\\\\Cats\\\\..\\\\1.JPG"), name_parts("https://host/a%20b.png?x=1")
    (['c:', 'cats', '1.jpg'], ['host', 'a b.png'])
    """
    if "://" in name:
        name = unquote(name.split("://", 1)[1].split("?")[0].split("#")[0])
    parts = name.strip().replace("\\", "/").split("/")
    return [_key(part) for part in parts if part.strip() not in ("", ".", "..")]


def _key(name: str) -> str:
    """A name without the difference of small and capital letters, and of composed and decomposed accents."""
    return unicodedata.normalize("NFC", name.casefold())


class ImageIndex:
    """The images in a folder and below, by name; what an annotation names is one of them or not found."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.parts = {
            path: name_parts(path.relative_to(root).as_posix())
            for path in on_disk.files_below(root, IMAGE_SUFFIXES)
        }
        self.by_name: dict[str, list[Path]] = {}
        for path, parts in self.parts.items():
            for key in {parts[-1], _key(path.stem)}:
                self.by_name.setdefault(key, []).append(path)
        self.mentioned: set[str] = set()  # what annotations name, faulty ones too

    def mention(self, names: Iterable[str]) -> None:
        """Note that an annotation names an image, so that it is not said to have none."""
        for parts in map(name_parts, names):
            self.mentioned |= {parts[-1], PurePosixPath(parts[-1]).stem} if parts else set()

    def find(self, annotation: Annotation) -> Path:
        """The image that one of the annotation's names stands for.

        Its relative path decides, then its file's name, and then that without the ending; of several images
        the one nearest to the annotation is taken, but none in a folder of another split. Raises DataError
        if there is none, and if there are several, naming two.
        """
        named = [parts for name in annotation.names if (parts := name_parts(name))]
        for parts in named:
            stem = PurePosixPath(parts[-1])
            ended = stem.suffix[1:].isalnum() and not stem.suffix[1:].isdigit()
            for key in (parts[-1], stem.stem) if ended else (parts[-1],):
                found = [path for path in self.by_name.get(key, []) if self._may_be(path, annotation.split)]
                if found:
                    return self._best(found, named, annotation)
        there = " or ".join(dict.fromkeys(parts[-1] for parts in named)) or "(no name)"
        where = annotation.where
        raise DataError(f"{where}: there is no image {there} in {self.root}: add it or remove the annotation")

    def _may_be(self, path: Path, split: str | None) -> bool:
        return split is None or split_of(*self.parts[path][:-1]) in (None, split)

    def _best(self, found: list[Path], named: list[list[str]], annotation: Annotation) -> Path:
        if len(found) == 1:
            return found[0]
        around = [*annotation.path.relative_to(self.root).parts[:-1], annotation.path.stem]
        near, here = {*map(_key, around)}, [_key(part) for part in around[:-1]]
        exactly = {name.replace("\\", "/").rpartition("/")[2] for name in annotation.names}

        def rank(path: Path) -> tuple:
            parts = self.parts[path]
            return (
                any(parts in (one, here + one) for one in named),
                any(parts[-1] == one[-1] for one in named),
                max(_tail(parts, one) for one in named),
                path.parent == annotation.path.parent,
                bool(IMAGE_FOLDERS.intersection(parts[:-1])),
                len(near.intersection(parts[:-1])),
                path.name in exactly or path.stem in exactly,
            )

        ranks = {path: rank(path) for path in found}
        best = [path for path in found if ranks[path] == max(ranks.values())]
        if len(best) > 1:
            there = " and ".join(str(path) for path in best[:2])
            raise DataError(f"{annotation.where} may be for {there}: keep one, or name it with its folder")
        return best[0]

    def entries(self, annotations: Sequence[Annotation], options: LoadOptions) -> list[Entry]:
        """The annotations with the images that they are for."""
        marked = "objects marked as difficult or crowd are left out (difficult keeps them)"
        options.note(self.root, marked, sum(one.left_out for one in annotations))
        options.note_enclosed(sum(one.enclosed for one in annotations), self.root)
        flat = "points and lines have no box and are left out"
        options.note(self.root, flat, sum(one.flat for one in annotations))
        entries = []
        for one in annotations:
            with skipping(options.faults):
                entries.append(Entry(self.find(one), one.objects, one.where, one.size, key=one.key))
        return entries

    def beside(self, used: Collection[Path]) -> list[Path]:
        """The images that nothing names although they are in the folder of one that is used."""
        folders = {path.parent for path in used}
        rest = [path for path in self.parts if path.parent in folders and path not in used]
        return [path for path in rest if self.mentioned.isdisjoint((_key(path.stem), self.parts[path][-1]))]


def find_images(
    annotations: Sequence[Annotation], mentioned: Iterable[str], root: Path, options: LoadOptions
) -> Found:
    """All that is annotated in a folder, divided by the splits of the annotations; `mentioned` are images
    that these or faulty annotations name."""
    index, by_name = ImageIndex(root), {one.where: one for one in annotations}
    index.mention(mentioned)
    groups = group_by_split({one.where: one.split for one in annotations}, root, options)

    def entries(group: list[str], options: LoadOptions) -> list[Entry]:
        found = index.entries([by_name[where] for where in group], options)
        options.note_unannotated(index.beside({entry.image for entry in found}), root)
        return found

    parts = {part: partial(entries, group) for part, group in groups.items()}
    return Found(parts, {one.name for annotation in annotations for one in annotation.objects})


def _tail(parts: Sequence[str], others: Sequence[str]) -> int:
    """How many parts are the same from the end."""
    pairs = zip(reversed(parts), reversed(others), strict=False)
    return next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(parts), len(others)))
