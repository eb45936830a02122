"""Do these anchors fit my objects? Which objects an anchor fits, and which none does, before any training.

An object whose IoU with every anchor is below the matching threshold still gets one anchor, its best.
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
from d2lmini.data.sources import LoaderSource
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
    batches = tqdm(
        LoaderSource(dataset).in_order(), "annotations", -(-count // 32), leave=False, disable=not progress
    )
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

    `image` (G,) is the index of its image, `best` (G,) the largest IoU with any anchor, `positives` (G,) how
    many anchors matching gives it, 0 where others took them all. `side` and `ratio` (G,) are the root of the
    area in pixels, and width : height.
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

    def by_side(self) -> list[Group]:
        """Groups of objects by the root of their area, in pixels."""
        return self._groups(torch.bucketize(self.side, torch.tensor(SIDES), right=True), SIDE_NAMES)

    def by_ratio(self) -> list[Group]:
        """Groups of objects by shape, width : height."""
        return self._groups(torch.bucketize(self.ratio, torch.tensor(RATIOS), right=True), RATIO_NAMES)

    def _groups(self, index: Tensor, names: Sequence[str]) -> list[Group]:
        groups = []
        for k, name in enumerate(names):
            of_group = index == k  # (G,)
            means = (float(x[of_group].float().mean()) for x in (self.fitted, self.best, self.positives))
            groups.append(Group(name, int(of_group.sum()), *means))
        return groups

    def worst(self, count: int = 5) -> list[int]:
        """Rows of the objects that no anchor fits, the worst first, at most `count`."""
        return [i for i in self.best.argsort(stable=True)[:count].tolist() if not self.fitted[i]]

    def text(self, classes: Sequence[str] = (), names: Sequence[str] = ()) -> str:
        """The report in words and tables; `names` (one for each image) tell where the worst objects are."""
        height, width = self.image_size
        images, objects = f"{self.images:,} images of {width} × {height}", f"{len(self.best):,} objects"
        lines = [f"{self.anchors:,} anchors; {images}, {objects}"]
        if not len(self.best):
            return f"{lines[0]}\nthere is no object, and so nothing to fit"
        lines += [
            f"fitted (IoU ≥ {self.iou_threshold:g}): {self.recall:.1%}   mean best IoU {self.best.mean():.2f}"
            f"   positives per object: {self.positives.float().mean():.1f}, median {self.positives.median()}",
            *_table("side (root of the area)", self.by_side()),
            *_table("width : height", self.by_ratio()),
            *(_table("class", self._groups(self.labels, classes)) if len(classes) > 1 else []),
        ]
        if missed := int((~self.fitted).sum()):
            are = "objects are" if missed > 1 else "object is"
            lines += ["", f"{missed} {are} fitted by no anchor; the worst:"]
        for i in self.worst():
            name = names[self.image[i]] if names else f"image {self.image[i]}"
            corners = self.boxes[i] * torch.tensor([width, height, width, height])
            place = ", ".join(f"{v:.0f}" for v in corners.tolist())
            lines.append(f"  {name}: IoU {self.best[i]:.3f}, box ({place}) of {width} × {height}")
        if unmatched := int((self.positives == 0).sum()):
            count = f"{unmatched} of {len(self.best)}"
            lines.append(f"{count} have no anchor at all to learn from: others took them")
        return "\n".join(lines)


def _table(title: str, groups: Sequence[Group]) -> list[str]:
    """A heading and a line for each group that has objects."""
    lines = ["", f"{title:24}{'objects':>8}{'fitted':>9}{'best IoU':>10}{'positives':>11}"]
    for name, objects, recall, best, positives in groups:
        if objects:
            lines.append(f"  {name:22}{objects:8,}{recall:9.1%}{best:10.2f}{positives:11.1f}")
    return lines


def anchor_report(
    anchors: Tensor,
    boxes: Tensor,
    labels: Tensor,
    *,
    image_size: int | tuple[int, int] = 256,
    iou_threshold: float = 0.5,
) -> AnchorReport:
    """Which objects anchors (A, 4) fit: boxes (N, G, 4), corners, labels (N, G) with -1 for padding.

    `image_size` (a side, or height and width) turns fractions into pixels. A box that is empty, reversed or
    not finite counts as fitted by none. Raises ValueError as `matching.assign` does.
    """
    height, width = (image_size,) * 2 if isinstance(image_size, int) else image_size
    positives = _count_positives(anchors, boxes, labels, iou_threshold)  # (N, G)
    index = (labels >= 0).nonzero(as_tuple=True)  # image and column, (G,) each
    usable = torch.where(boxes[index].isfinite().all(-1, keepdim=True), boxes[index], 0)  # (G, 4)
    best = best_iou(anchors, usable)
    pixels = (usable[:, 2:] - usable[:, :2]).clamp(min=0) * torch.tensor([width, height])
    side, ratio = pixels.prod(-1).sqrt(), pixels[:, 0] / pixels[:, 1].clamp(min=1e-9)
    objects = (boxes[index], labels[index], index[0], best, positives[index], side, ratio)
    return AnchorReport(*objects, len(labels), len(anchors), (height, width), iou_threshold)


def best_iou(anchors: Tensor, boxes: Tensor) -> Tensor:
    """The largest IoU (G,) of boxes (G, 4) with any anchor (A, 4)."""
    parts = boxes.split(max(1, IOU_ENTRIES // max(1, len(anchors))))
    return torch.cat([boxes.new_zeros(0), *(box_iou(p, anchors).amax(1) for p in parts if len(p))])


def _count_positives(anchors: Tensor, boxes: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """How many anchors matching gives each object, (N, G) int64."""
    counts = torch.zeros(labels.shape, dtype=torch.int64)
    if not labels.numel():
        return counts
    width = ((labels >= 0) * torch.arange(1, labels.shape[1] + 1)).amax(1)  # (N,) up to the last object
    # Images with about as many objects together, so that one with 200 does not pad all the rest.
    for rows in width.argsort(stable=True).split(64):
        most = int(width[rows[-1]])
        chosen = assign(anchors, boxes[rows, :most], labels[rows, :most], iou_threshold)  # (n, A)
        hits = torch.zeros(len(rows), most + 1, dtype=torch.int64)
        hits.scatter_add_(1, chosen + 1, torch.ones_like(chosen))  # column 0: anchors without an object
        counts[rows, :most] = hits[:, 1:]
    return counts
