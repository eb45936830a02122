"""How good is a detector: average precision (AP), as VOC and as COCO count it.

The detections of each image, best first, are matched with its objects; precision and recall after each
detection of a class give a curve; AP is the area under it: float64 with NumPy, equal to pycocotools. An
average over no object at all is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from d2lmini.compare import Comparison, compare
from d2lmini.data.detections import Detections

COCO_IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
COCO_RECALL_LEVELS = np.linspace(0, 1, 101)
COCO_MAX_DETECTIONS = (1, 10, 100)  # the best of each class in each image
# Areas in pixels. Both ends count, as in COCO: an object of exactly 32 x 32 is small and medium.
SIZES = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
FALSE_POSITIVE, TRUE_POSITIVE, IGNORED = 0, 1, 2  # ignored: its object, or a box on none, is of another size


class Curve(NamedTuple):
    """Precision and recall (M,) after each detection of a class, from the most to the least certain.

    `objects` is how many there were to find; without any, recall is NaN.
    """

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    objects: int


def voc07_ap(curve: Curve) -> float:
    """VOC 2007's AP: mean of the best precision at a recall of at least 0, 0.1, ..., 1.

    NaN where the curve has no objects. Source: Everingham et al. 2010, section 4.2.
    """
    return interpolated_ap(curve, np.arange(11) / 10)


def voc12_ap(curve: Curve) -> float:
    """VOC's AP since 2010: the whole area under the falling envelope of the curve.

    NaN where the curve has no objects. Source: the VOC2012 development kit, section on evaluation.
    """
    if curve.objects == 0:
        return math.nan
    steps = np.diff(curve.recall, prepend=0.0)
    return float((steps * _envelope(curve.precision)).sum())


def coco_ap(curve: Curve) -> float:
    """COCO's AP at one IoU threshold: like VOC 2007's, with 101 levels of recall.

    NaN where the curve has no objects. Source: pycocotools, `COCOeval.accumulate`.
    """
    return interpolated_ap(curve, COCO_RECALL_LEVELS)


def interpolated_ap(curve: Curve, levels: np.ndarray) -> float:
    """Mean over recall levels (L,) of the best precision at that recall or more, 0 where none reaches it.

    NaN where the curve has no objects.
    """
    if curve.objects == 0:
        return math.nan
    best = np.append(_envelope(curve.precision), 0.0)
    return float(best[np.searchsorted(curve.recall, levels, side="left")].mean())


def _envelope(precision: np.ndarray) -> np.ndarray:
    """The best precision from each point on: the lowest falling curve above the zigzag."""
    return np.maximum.accumulate(precision[::-1])[::-1]


@dataclass(frozen=True)
class ClassMetrics:
    """How well one class is found, in [0, 1], and how many objects it has; NaN where there is none to find.

    `ap` is the mean over IoU thresholds 0.50 to 0.95, `ap50` and `ap75` are at one; `ar1`, `ar10`, `ar100`
    are the recall with that many detections per class and image, over the same thresholds; small is up to
    32², large from 96² pixels, medium between. `voc07` and `voc12` are VOC's 11-point and all-point AP at
    IoU 0.5.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    voc07: float
    voc12: float
    objects: int


@dataclass(frozen=True)
class Metrics(ClassMetrics):
    """What `evaluate` found: each number is the mean over the classes that have such an object."""

    per_class: dict[str, ClassMetrics]
    images: int
    detections: int

    def as_dict(self) -> dict[str, Any]:
        """The same as plain numbers for JSON, which has no NaN: an undefined value is None."""
        return nan_to_none(asdict(self))

    def summary(self) -> str:
        """A few lines for people, rounded; a dash where there was nothing to find."""
        s = {name: _short(v) for name, v in vars(self).items() if isinstance(v, float)}
        width = max(map(len, self.per_class))
        lines = [
            f"AP {s['ap']}  AP50 {s['ap50']}  AP75 {s['ap75']}"
            f"  ({self.images} images, {self.objects} objects, {self.detections} detections)",
            f"AP by size   small {s['ap_small']}  medium {s['ap_medium']}  large {s['ap_large']}",
            f"recall with  1 box {s['ar1']}  10 boxes {s['ar10']}  100 boxes {s['ar100']}",
            f"VOC AP       11-point {s['voc07']}  all-point {s['voc12']}",
        ]
        for name, c in self.per_class.items():
            lines.append(f"  {name:<{width}}  AP {_short(c.ap)}  AP50 {_short(c.ap50)}  {c.objects} objects")
        return "\n".join(lines)


class Judged(NamedTuple):
    """Detections and objects, compared, and what each of the M detections is at every size and IoU threshold.

    `coco` (M, S, T) and `voc` (M,) are statuses; `in_range` (G, S) says which objects are of each size.
    """

    classes: list[str]
    found: Comparison
    in_range: np.ndarray
    coco: np.ndarray
    voc: np.ndarray

    def of_class(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The detections of a class, best first, and the rank of each in its image."""
        rows = np.flatnonzero(self.found.labels == k)
        image, order = self.found.image[rows], np.argsort(-self.found.scores[rows], kind="stable")
        rank = np.arange(len(rows)) - np.searchsorted(image, image)
        return rows[order], rank[order]  # ties stay in the order of the images


def judge(
    detections: Sequence[Detections],
    boxes: Tensor,
    labels: Tensor,
    *,
    classes: int | Sequence[str],
    image_size: int | tuple[int, int] | Tensor = 256,
) -> Judged:
    """Match the detections of N images with their objects; everything is as in `evaluate`."""
    names = [str(k) for k in range(classes)] if isinstance(classes, int) else list(classes)
    if isinstance(classes, str) or not names or len(set(names)) < len(names):
        raise ValueError(f"classes must be a positive count or distinct names, got {classes!r}")
    found = compare(detections, boxes, labels, image_size, len(names))
    in_range = _in_ranges(found.true_boxes)  # (G, S)
    coco = coco_match(found, COCO_IOU_THRESHOLDS, in_range)  # (M, S, T)
    coco[(coco == FALSE_POSITIVE) & ~_in_ranges(found.boxes)[..., None]] = IGNORED
    return Judged(names, found, in_range, coco, voc_match(found, 0.5))


def evaluate(
    detections: Sequence[Detections],
    boxes: Tensor,
    labels: Tensor,
    *,
    classes: int | Sequence[str],
    image_size: int | tuple[int, int] | Tensor = 256,
) -> Metrics:
    """Score the detections of N images against their objects, the COCO way and the VOC way.

    Shapes: `detections` has one entry per image; `boxes` (N, G, 4) and `labels` (N, G), -1 on padding, are
    the objects. `classes` is how many classes there are, or their names. `image_size` in pixels decides
    what is small: one side, (height, width), or an (N, 2) tensor of (height, width).

    The COCO numbers are those of pycocotools' `COCOeval` for boxes, an object's area being that of its
    box. The VOC numbers follow the devkit's own matching and use all detections. Raises ValueError where
    numbers of images or shapes differ, or a box, score or label is not legal (NaN, infinite, reversed,
    unknown class), naming the image. Source: Lin et al. 2014 (COCO); Everingham et al. 2010, section 4.2.

    >>> import torch
    >>> from d2lmini.detect import Detections
    >>> square = torch.tensor([[0.0, 0.0, 0.5, 0.5]])
    >>> found = Detections(square, torch.tensor([0.9]), torch.tensor([0]))
    >>> metrics = evaluate([found], square[None], torch.tensor([[0]]), classes=("banana",))
    >>> round(metrics.ap, 6), metrics.ap_small
    (1.0, nan)
    """
    judged = judge(detections, boxes, labels, classes=classes, image_size=image_size)
    per_class = {}
    for k, name in enumerate(judged.classes):
        rows, rank = judged.of_class(k)
        objects = judged.in_range[judged.found.true_labels == k].sum(0)  # (S,)
        scores, statuses = judged.found.scores[rows], (judged.coco[rows], judged.voc[rows])
        per_class[name] = _class_metrics(scores, rank, *statuses, objects)
    columns = {f.name: [getattr(one, f.name) for one in per_class.values()] for f in fields(ClassMetrics)}
    total = sum(columns.pop("objects"))
    defined = {name: [v for v in column if not math.isnan(v)] for name, column in columns.items()}
    means = {name: sum(values) / len(values) if values else math.nan for name, values in defined.items()}
    counts = {"objects": total, "images": len(detections), "detections": len(judged.voc)}
    return Metrics(**means, **counts, per_class=per_class)


def _class_metrics(
    scores: np.ndarray, rank: np.ndarray, coco: np.ndarray, voc: np.ndarray, objects: np.ndarray
) -> ClassMetrics:
    """The numbers of one class from its detections, best first: scores, rank in the image, and VOC's
    status (M,); COCO's status (M, S, T); objects of each size (S,)."""
    kept = [rank < most for most in COCO_MAX_DETECTIONS]
    hits = np.stack([(coco[some] == TRUE_POSITIVE).sum(0) for some in kept])  # (3, S, T)
    recall = hits.mean(-1) / np.where(objects, objects, np.nan)  # (3, S)
    scores_kept, status = scores[kept[-1]], np.moveaxis(coco[kept[-1]], 0, -1)  # (S, T, M)
    sizes = zip(status, objects, strict=True)
    ap = np.array(
        [[coco_ap(curve_of(scores_kept, t, count)) for t in size] for size, count in sizes]
    )  # (S, T)
    curve = curve_of(scores, voc, objects[0])
    numbers = {"ap": ap[0].mean(), "ap50": ap[0, 0], "ap75": ap[0, 5]}  # thresholds 0.50 and 0.75
    numbers |= {f"ar{most}": recall[i, 0] for i, most in enumerate(COCO_MAX_DETECTIONS)}
    numbers |= {f"ap_{size}": ap[s].mean() for s, size in enumerate(SIZES) if s}
    numbers |= {f"ar_{size}": recall[-1, s] for s, size in enumerate(SIZES) if s}
    numbers |= {"voc07": voc07_ap(curve), "voc12": voc12_ap(curve)}
    return ClassMetrics(**{name: float(n) for name, n in numbers.items()}, objects=int(objects[0]))


def precision_recall(
    detections: Sequence[Detections],
    boxes: Tensor,
    labels: Tensor,
    class_id: int = 0,
    iou_threshold: float = 0.5,
) -> Curve:
    """The precision-recall curve of one class, matched as in COCO: one point per detection, best first.

    Shapes as in `evaluate`. Detections of equal score keep their order: by image, then as given. Raises
    ValueError as `evaluate` does, and for a threshold outside (0, 1].
    """
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be above 0 and at most 1, got {iou_threshold}")
    found = compare(detections, boxes, labels)
    rows = np.flatnonzero(found.labels == class_id)
    rows = rows[np.argsort(-found.scores[rows], kind="stable")]  # ties stay in the order of the images
    status = (match_objects(found, iou_threshold)[rows] >= 0).astype(int)
    return curve_of(found.scores[rows], status, int((found.true_labels == class_id).sum()))


def curve_of(scores: np.ndarray, status: np.ndarray, objects: int) -> Curve:
    """Precision and recall from the status of each detection, best first; the ignored leave no point."""
    counted = status != IGNORED
    hits = np.cumsum(status[counted] == TRUE_POSITIVE)
    recall = hits / objects if objects else np.full(len(hits), np.nan)
    return Curve(scores[counted], hits / np.arange(1, len(hits) + 1), recall, objects)


def coco_match(found: Comparison, thresholds: np.ndarray, in_range: np.ndarray) -> np.ndarray:
    """Status (M, S, T) by COCO's matching at rising thresholds (T,); in_range (G, S): who is of each size."""
    rows, objects = _choose(found, thresholds, in_range)
    status = np.full((len(found.scores), *objects.shape[1:]), FALSE_POSITIVE, np.int8)
    right = np.where(in_range[objects, np.arange(in_range.shape[1])[:, None]], TRUE_POSITIVE, IGNORED)
    status[rows] = np.where(objects < 0, FALSE_POSITIVE, right)
    return status


def match_objects(found: Comparison, iou_threshold: float) -> np.ndarray:
    """The object (M,) that each detection finds at one IoU threshold, by COCO's matching, or -1."""
    every = np.ones((len(found.true_labels), 1), bool)
    rows, objects = _choose(found, np.array([iou_threshold]), every)
    chosen = np.full(len(found.scores), -1)
    chosen[rows] = objects[:, 0, 0]
    return chosen


def _choose(found: Comparison, thresholds: np.ndarray, in_range: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give each detection, best first, the best object of its class that is still free, or -1.

    Returns the detections (R,) that overlap an object enough, and the object that each gets (R, S, T). An
    object in range goes before one that is not, then the larger IoU, then the later object. The first
    detections of all images and classes choose at once, then the second: of one round no two want one object.
    """
    pairs = np.flatnonzero(found.own & (found.iou >= thresholds[0]))
    pairs = pairs[np.lexsort((found.iou[pairs], found.pair[pairs, 0]))]  # stable: later objects last
    thing, most = found.pair[pairs, 1], len(pairs)
    rows, row = np.unique(found.pair[pairs, 0], return_inverse=True)  # (R,), (P,)
    wish = np.arange(1, most + 1)[:, None] + most * in_range[thing]  # (P, S), above P in range
    fits = found.iou[pairs, None, None] >= thresholds  # (P, 1, T)
    free = np.ones((*in_range.shape, len(thresholds)), bool)
    best = np.zeros((len(rows), *free.shape[1:]), int)
    turn = _turns(found, rows)[row]
    order = np.argsort(turn, kind="stable")
    for p in np.split(order, np.flatnonzero(np.diff(turn[order])) + 1) if most else ():
        choice = wish[p, :, None] * (fits[p] & free[thing[p]])  # (p, S, T), 0 where taken or fits too little
        starts = np.flatnonzero(np.diff(row[p], prepend=-1))
        best[row[p][starts]] = np.maximum.reduceat(choice, starts)
        free[thing[p]] &= (choice < best[row[p]]) | (choice == 0)
    return rows, np.where(best > 0, thing[(best - 1) % max(most, 1)], -1) if most else best


def _turns(found: Comparison, rows: np.ndarray) -> np.ndarray:
    """How many others of its image and class are before each of some detections (R,)."""
    order = np.lexsort((found.labels[rows], found.image[rows]))
    group = np.stack([found.image[rows], found.labels[rows]], 1)[order]
    start = np.flatnonzero((np.diff(group, axis=0, prepend=-1) != 0).any(1))
    turn = np.empty(len(rows), int)
    turn[order] = np.arange(len(rows)) - np.repeat(start, np.diff(start, append=len(rows)))
    return turn


def voc_match(found: Comparison, threshold: float) -> np.ndarray:
    """Status (M,) where each detection, best first, looks at its best object only: wrong if that is taken."""
    thing, iou = found.best(found.own)
    claims = np.flatnonzero(iou >= threshold)
    status = np.full(len(found.scores), FALSE_POSITIVE, np.int8)
    status[claims[np.unique(thing[claims], return_index=True)[1]]] = TRUE_POSITIVE
    return status


def _in_ranges(boxes: np.ndarray) -> np.ndarray:
    """Which boxes (..., 4), in pixels, are of each size (..., S)."""
    low, high = np.array(list(SIZES.values())).T  # (S,) each
    area = np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1, keepdims=True)
    return (area >= low) & (area <= high)


def _short(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def nan_to_none(value: Any) -> Any:
    """The same with None for NaN, at any depth of dictionaries and tuples, since JSON has no NaN."""
    if isinstance(value, dict):
        return {key: nan_to_none(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [nan_to_none(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
