"""A folder of annotated images looked over before any training: what it is, what is wrong, what to look at.

It is opened as `data`, `train` and `evaluate` open it, so that what these would refuse or say is said here.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from d2lmini.anchors import make_anchors, suggest_anchors
from d2lmini.boxes import box_area, box_iou
from d2lmini.data.annotated import AnnotatedImages
from d2lmini.data.files import DataError, DataWarning, read_bytes
from d2lmini.data.folders import open_folder
from d2lmini.data.images import MAX_FILE, read_image
from d2lmini.data.sources import read_ahead
from d2lmini.data.splits import SPLITS
from d2lmini.inspect.coverage import AnchorReport, anchor_report, read_objects

KINDS = {
    "xml": "PASCAL VOC",
    "json": "COCO",
    "txt": "YOLO",
    "csv": "D2L's bananas",
}  # by their files
RARE = 20  # objects of a class for training; with fewer it is hardly learned
TINY, WHOLE, TWICE = 4.0, 0.95, 0.9  # side in the network's pixels, share of the image, IoU of one class
# Side of a thumbnail, and the mean difference (of 255) up to which two are of one image: rescaled and
# compressed anew, photographs came to 3.4; different ones began at 14.
THUMBNAIL, ALIKE = 16, 5.0


class Suspect(NamedTuple):
    """A box that looks wrong: the image's split and index there, the object's number from 0, and why."""

    split: str
    image: int
    number: int
    reason: str


class Look(NamedTuple):
    """What is seen of an image file: hash of its bytes, (width, height), a thumbnail (3 · THUMBNAIL²,)."""

    sha256: str
    size: tuple[int, int]
    thumbnail: NDArray[np.float32]


@dataclass
class Checkup:
    """What `examine` found: `faults` must be mended, `notes` are worth knowing, `suspects` worth a look."""

    root: Path
    kind: str = "unknown"
    datasets: dict[str, AnnotatedImages] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)  # objects by class, then by split
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    anchors: AnchorReport | None = None
    suspects: list[Suspect] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def where(self, suspect: Suspect) -> str:
        """The image of a suspect, below the folder."""
        path = self.datasets[suspect.split].entries[suspect.image].image
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def as_dict(self) -> dict[str, Any]:
        """Everything for JSON."""
        groups = {"side": self.anchors.by_side(), "ratio": self.anchors.by_ratio()} if self.anchors else {}
        return {
            "folder": str(self.root),
            "kind": self.kind,
            "images": {split: len(data) for split, data in self.datasets.items()},
            "objects": self.counts,
            "sizes": [[*size, count] for size, count in self.sizes.most_common()],
            "fitted": {n: [g._asdict() for g in rows if g.objects] for n, rows in groups.items()},
            "suspects": [s._asdict() | {"image": self.where(s)} for s in self.suspects],
            "faults": self.faults,
            "notes": self.notes,
        }

    def text(self, most: int = 10) -> str:
        """All of it in words; of long lists the first `most`."""
        images = ", ".join(f"{split} {len(data)}" for split, data in self.datasets.items())
        lines = [f"{self.root} is taken for {self.kind}", f"images: {images or 'none'}"]
        if self.counts:
            lines += ["", f"{'objects':24}" + "".join(f"{split:>8}" for split in self.datasets)]
            lines += [self._class_line(name, counts) for name, counts in self.counts.items()]
        if self.sizes:
            few = [f"{w} × {h} ({n})" for (w, h), n in self.sizes.most_common(5)]
            lines += ["", f"image sizes: {', '.join(few)}{self._more(len(self.sizes) - 5)}"]
        if self.anchors is not None:
            names = [str(entry.image) for entry in self.datasets["train"].entries]
            lines += [
                "",
                "what suggested anchors reach, of the training images:",
                self.anchors.text(self.datasets["train"].classes, names),
            ]
        by_reason = Counter(suspect.reason for suspect in self.suspects)
        suspects = [f"{n} × {reason}" for reason, n in by_reason.most_common()]
        suspects += [f"{self.where(s)}, object {s.number + 1}: {s.reason}" for s in self.suspects]
        shown = most + len(by_reason)
        for title, rows, limit in (
            ("boxes worth a look", suspects, shown),
            ("notes", self.notes, most),
            ("must be mended", self.faults, most),
        ):
            if rows:
                lines += ["", f"{title}:", *(f"  {row}" for row in rows[:limit])]
                lines += [f" {self._more(len(rows) - limit)}"] * (len(rows) > limit)
        return "\n".join([*lines, "", "" if self.faults else "nothing has to be mended"]).rstrip()

    def _class_line(self, name: str, counts: dict[str, int]) -> str:
        rare = f"  rare: fewer than {RARE} to learn from" if counts.get("train", RARE) < RARE else ""
        return f"  {name:22}" + "".join(f"{counts[split]:8,}" for split in self.datasets) + rare

    @staticmethod
    def _more(count: int) -> str:
        return f" … and {count} more" if count > 0 else ""


def examine(
    root: str | Path, maps: Sequence[tuple[int, int]], size: int, progress: bool = False, **options: Any
) -> Checkup:
    """Look a folder over; `options` are those of `open_folder`, `maps` the network's for images of `size`.

    Raises DataError where there is no folder.
    """
    found = Checkup(Path(root))
    if not found.root.is_dir():
        raise DataError(f"no folder at {root}: check the path")
    for split in SPLITS:
        _open(found, split, size, options)
    looks = {split: _looks(data) for split, data in found.datasets.items()}
    found.sizes.update(look.size for rows in looks.values() for look in rows)
    _compare_splits(found, looks)
    for split, data in found.datasets.items():
        truth = read_objects(data, progress)
        for i, name in enumerate(data.classes):
            found.counts.setdefault(name, {})[split] = int((truth.labels == i).sum())
        found.suspects += _suspects(split, data, size)
        if split == "train":
            if not (truth.labels >= 0).any():
                no_object = "has no object in the images for train"
                found.faults.append(f"{root} {no_object}: annotate some, or choose other --classes")
                continue
            spec = suggest_anchors(truth.boxes[truth.labels >= 0], maps)
            found.anchors = anchor_report(make_anchors(maps, spec), *truth, image_size=size)
    return found


def _open(found: Checkup, split: str, size: int, options: dict[str, Any]) -> None:
    """Open a split as training would, and note what is left out of it, or why it cannot be opened."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # `skipped` has all of it
            data = open_folder(found.root, split, size=size, skip_bad=True, **options)
    except ValueError as error:
        if split != "test" or not found.datasets:  # which few folders have
            found.faults += [str(error)] * (str(error) not in found.faults)
        return
    found.datasets[split] = data
    found.notes += [note for note in data.notes if note not in found.notes]
    found.faults += [fault for fault in data.skipped if fault not in found.faults]
    ends = Counter(re.findall(r"\.(xml|json|txt|csv)\b", data.entries[0].where.lower()))
    found.kind = KINDS[ends.most_common(1)[0][0]] if ends else found.kind


def _looks(data: AnnotatedImages) -> list[Look]:
    """A look at every image file."""

    def look(path: Path) -> Look:
        image = read_image(path)
        small = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
        content = hashlib.sha256(read_bytes(path, MAX_FILE)).hexdigest()
        return Look(content, image.size, np.asarray(small, dtype=np.float32).ravel())

    return list(read_ahead(look, [entry.image for entry in data.entries]))


def _compare_splits(found: Checkup, looks: dict[str, list[Look]]) -> None:
    """Find images of one split that are in another, too: the same file, or the same image at another size."""
    for one, two in combinations(looks, 2):
        entries = found.datasets[one].entries, found.datasets[two].entries
        thumbnails = np.stack([look.thumbnail for look in looks[two]])
        for i, look in enumerate(looks[one]):
            for k in (np.abs(thumbnails - look.thumbnail).mean(1) <= ALIKE).nonzero()[0]:
                names = " and ".join(str(e.image) for e in (entries[0][i], entries[1][k]))
                same = "file" if looks[two][k].sha256 == look.sha256 else "image, or nearly"
                where = f"in {one} and {two}: remove one, or list both for the same split"
                found.faults.append(f"{names} are the same {same}, {where}")


def _suspects(split: str, data: AnnotatedImages, size: int) -> list[Suspect]:
    """Boxes of a split that are legal and look wrong."""
    suspects = []
    for image, sample in enumerate(read_ahead(data.__getitem__, range(len(data)))):
        area = box_area(sample.boxes)  # (G,)
        same = box_iou(sample.boxes, sample.boxes).tril(-1) > TWICE  # (G, G)
        same &= sample.labels[:, None] == sample.labels
        reasons = {
            f"smaller than {TINY:g} pixels at {size} × {size}": area.sqrt() * size < TINY,
            "the whole image": area > WHOLE,
            "the same box twice": same.any(1),
        }
        for reason, which in reasons.items():
            suspects += [Suspect(split, image, int(i), reason) for i in which.nonzero()]
    return suspects
