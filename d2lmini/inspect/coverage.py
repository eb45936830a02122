"""Do these anchors fit my objects? Which objects an anchor fits, and which none does, before any training.

An object whose IoU with every anchor is below the matching threshold still gets one anchor, its best, but
only that one. `anchor_report` counts such objects by size and by shape; `anchors.suggest_anchors` chooses
anchors for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from d2lmini.boxes import box_iou
from d2lmini.data.samples import GroundTruth, Sample, concatenate
from d2lmini.data.sources import MIN_IMAGES_FOR_WORKERS, LoaderSource
from d2lmini.matching import assign

# The edges of groups of objects, and the groups' names: root of the area in pixels, and width : height.
SIDES = (16.0, 32.0, 64.0, 128.0)
SIDE_NAMES = ("below 16 pixels", "16 to 32 pixels", "32 to 64 pixels", "64 to 128 pixels", "from 128 pixels")
RATIOS = (1 / 3, 2 / 3, 1.5, 3.0)
RATIO_NAMES = ("below 1 : 3", "1 : 3 to 1 : 1.5", "1 : 1.5 to 1.5 : 1", "1.5 : 1 to 3 : 1", "from 3 : 1")
IOU_ENTRIES = 2**18  # of an IoU matrix at a time


def read_objects(dataset: Dataset[Sample], progress: bool = False) -> GroundTruth:
    """The boxes (N, G, 4) and labels (N, G) of a data set, whose images are read but not kept."""
    count = len(dataset)  # type: ignore[arg-type]
    source = LoaderSource(dataset, workers=0 if count < MIN_IMAGES_FOR_WORKERS else None)
    batches = tqdm(source.in_order(), "annotations", -(-count // 32), leave=False, disable=not progress)
    return concatenate([batch.ground_truth for batch in batches])


class Group(NamedTuple):
    """Objects that are alike: how many, the share fitted, their mean best IoU and positives (NaN if none)."""

    name: str
    objects: int
    recall: float
    best_iou: float
    positives: float


class AnchorReport(NamedTuple):
    """How a set of anchors fits G objects; a row of each tensor is an object.

    `boxes` (G, 4), `labels` (G,), and `image` (G,), the index of the image it is in. `best` (G,) is
    the largest IoU with any anchor, `positives` (G,) how many anchors matching gives the object, 0 where
    others took them all. `side` and `ratio` (G,) are the root of the area in pixels, and width : height.
    """

    boxes: Tensor
    labels: Tensor
    image: Tensor
    best: Tensor
    positives: Tensor
    side: Tensor
    ratio: Tensor
    images: int
    anchors: int
    image_size: tuple[int, int]
    iou_threshold: float

    @property
    def fitted(self) -> Tensor:
        """Which objects (G,) some anchor fits: IoU at or above the threshold."""
        return self.best >= self.iou_threshold

    @property
    def recall(self) -> float:
        """The share of objects that some anchor fits; NaN without objects."""
        return float(self.fitted.float().mean())

    @property
    def unmatched(self) -> Tensor:
        """Which objects (G,) matching gives no anchor at all."""
        return self.positives == 0

    def by_side(self) -> list[Group]:
        """Groups of objects by the root of their area, in pixels."""
        return self._groups(self.side, SIDES, SIDE_NAMES)

    def by_ratio(self) -> list[Group]:
        """Groups of objects by shape, width : height."""
        return self._groups(self.ratio, RATIOS, RATIO_NAMES)

    def by_class(self, classes: Sequence[str]) -> list[Group]:
        """A group for each class."""
        return [self._group(name, self.labels == k) for k, name in enumerate(classes)]

    def worst(self, count: int = 5) -> list[int]:
        """Rows of the objects that no anchor fits, the worst first, at most `count`."""
        order = self.best.argsort(stable=True)[:count]
        return [i for i in order.tolist() if not self.fitted[i]]

    def _groups(self, values: Tensor, edges: Sequence[float], names: Sequence[str]) -> list[Group]:
        index = torch.bucketize(values, torch.tensor(edges), right=True)
        return [self._group(name, index == k) for k, name in enumerate(names)]

    def _group(self, name: str, mask: Tensor) -> Group:
        numbers = (self.fitted, self.best, self.positives)
        return Group(name, int(mask.sum()), *(float(x[mask].float().mean()) for x in numbers))

    def text(self, classes: Sequence[str] = (), names: Sequence[str] = ()) -> str:
        """The report in words and tables; `names` (one for each image) tell where the worst objects are."""
        height, width = self.image_size
        images = f"{self.images:,} images of {width} × {height}"
        lines = [f"{self.anchors:,} anchors; {images}, {len(self.best):,} objects"]
        if not len(self.best):
            return f"{lines[0]}\nthere is no object, and so nothing to fit"
        positives = f"{self.positives.float().mean():.1f}, median {self.positives.median()}"
        lines += [
            f"fitted (IoU ≥ {self.iou_threshold:g}): {self.recall:.1%}   mean best IoU "
            f"{self.best.mean():.2f}   positives per object: {positives}",
            *_table("side (root of the area)", self.by_side()),
            *_table("width : height", self.by_ratio()),
        ]
        lines += _table("class", self.by_class(classes)) if len(classes) > 1 else []
        if missed := int((~self.fitted).sum()):
            lines += [
                "",
                f"{missed} object{'s are' if missed > 1 else ' is'} fitted by no anchor; the worst:",
            ]
            lines += [f"  {_object_text(self, i, names)}" for i in self.worst()]
        if unmatched := int(self.unmatched.sum()):
            lines += [
                f"{unmatched} of {len(self.best)} have no anchor at all to learn from: others took them"
            ]
        return "\n".join(lines)


def anchor_report(
    anchors: Tensor,
    boxes: Tensor,
    labels: Tensor,
    *,
    image_size: int | tuple[int, int] = 256,
    iou_threshold: float = 0.5,
) -> AnchorReport:
    """Which objects anchors (A, 4) fit: boxes (N, G, 4), corners, labels (N, G) with -1 for padding.

    `image_size` (a side, or height and width) turns fractions into pixels. The time grows with anchors
    times objects: 50,000 objects and 8,166 anchors take seconds. A box that is empty, reversed or not
    finite counts as one that no anchor fits. Raises ValueError as `matching.assign` does, for shapes
    that do not fit.
    """
    height, width = (image_size,) * 2 if isinstance(image_size, int) else image_size
    positives = _count_positives(anchors, boxes, labels, iou_threshold)  # (N, G)
    image, column = (labels >= 0).nonzero(as_tuple=True)  # (G,)
    real = boxes[image, column]  # (G, 4)
    usable = torch.where(real.isfinite().all(-1, keepdim=True), real, 0)
    pixels = (usable[:, 2:] - usable[:, :2]).clamp(min=0) * torch.tensor([width, height])
    return AnchorReport(
        boxes=real,
        labels=labels[image, column],
        image=image,
        best=_best_iou(anchors, usable),
        positives=positives[image, column],
        side=pixels.prod(-1).sqrt(),
        ratio=pixels[:, 0] / pixels[:, 1].clamp(min=1e-9),
        images=len(labels),
        anchors=len(anchors),
        image_size=(height, width),
        iou_threshold=iou_threshold,
    )


def _best_iou(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Each object's largest IoU (G,) with any anchor."""
    parts = boxes.split(max(1, IOU_ENTRIES // max(1, len(anchors))))
    return torch.cat([box_iou(part, anchors).amax(1) for part in parts if len(part)] or [boxes.new_zeros(0)])


def _count_positives(anchors: Tensor, boxes: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """How many anchors matching gives each object, (N, G) int64.

    Images are matched together with others of about as many objects, so that one with 200 does not pad
    all the rest.
    """
    counts = torch.zeros(labels.shape, dtype=torch.int64)
    if not labels.numel():
        return counts
    width = ((labels >= 0) * torch.arange(1, labels.shape[1] + 1)).amax(1)  # (N,) up to the last object
    for rows in width.argsort(stable=True).split(64):
        most = int(width[rows[-1]])
        chosen = assign(anchors, boxes[rows, :most], labels[rows, :most], iou_threshold)  # (n, A)
        hits = torch.zeros(len(rows), most + 1, dtype=torch.int64)
        hits.scatter_add_(1, chosen + 1, torch.ones_like(chosen))  # column 0: anchors without an object
        counts[rows, :most] = hits[:, 1:]
    return counts


# ---------------------------------------------------------------- the report as text


def _table(title: str, groups: Sequence[Group]) -> list[str]:
    """A heading and a line for each group that has objects."""
    lines = ["", f"{title:24}{'objects':>8}{'fitted':>9}{'best IoU':>10}{'positives':>11}"]
    for name, objects, recall, best, positives in groups:
        if objects:
            lines.append(f"  {name:22}{objects:8,}{recall:9.1%}{best:10.2f}{positives:11.1f}")
    return lines


def _object_text(report: AnchorReport, row: int, names: Sequence[str]) -> str:
    """Where an object is, in pixels, and its IoU."""
    name = names[report.image[row]] if names else f"image {report.image[row]}"
    height, width = report.image_size
    corners = (report.boxes[row] * torch.tensor([width, height, width, height])).tolist()
    place = ", ".join(f"{v:.0f}" for v in corners)
    return f"{name}: IoU {report.best[row]:.3f}, box ({place}) of {width} × {height}"
