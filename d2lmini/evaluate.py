"""How good is a detector: average precision, kinds of error, and what D2L's own two numbers say.

Average precision takes five small steps, each a function below:

    tables ──► overlaps ──► status ──► curve ──► area under it
    (all       (IoU)        (hit,      (precision (VOC 11-point,
     boxes)                  nothing,   by         VOC all-point,
                             ignored)   recall)    COCO 101-point)

It runs in float64 with NumPy on the host: it happens once an epoch, and has to agree with
pycocotools to the last digits. The one loop left goes over the rank of a detection within its image
and class, because what is still free depends on who came before; all images, classes, IoU
thresholds and size ranges take each step of it together.

An average over no object at all is NaN, never 0 or 1: there was nothing to be right or wrong about.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from d2lmini.boxes import box_iou

if TYPE_CHECKING:
    from d2lmini.matching import Targets
    from d2lmini.model import Predictions

COCO_IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AT_50, AT_75 = 0, 5  # their places among the thresholds
COCO_RECALL_LEVELS = np.linspace(0, 1, 101)
COCO_MAX_DETECTIONS = (1, 10, 100)  # the best of each class in each image
# Areas in pixels. Both ends count, as in COCO: an object of exactly 32 x 32 is small and medium.
SIZE_RANGES = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
BLOCK_CELLS = 4_000_000  # entries of the largest array in one step: bounds memory, not results
NOTHING, HIT, IGNORED = 0, 1, 2  # what became of a detection


class DetectionsLike(Protocol):
    """What is read of one image's detections: boxes (D, 4), scores (D,), labels (D,)."""

    @property
    def boxes(self) -> Tensor: ...
    @property
    def scores(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...


# ---- from a curve to one number ----


class Curve(NamedTuple):
    """Precision and recall after each detection, from the most to the least certain.

    `scores`, `precision`, `recall` are float64 arrays (M,); `objects` is how many there were to
    find. Without objects recall is NaN.
    """

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    objects: int


def voc07_ap(curve: Curve) -> float:
    """VOC 2007's AP: mean of the best precision at a recall of at least 0, 0.1, ..., 1.

    NaN where the curve has no objects. Source: Everingham et al. 2010, section 4.2.

    >>> half = Curve(np.array([0.9]), np.array([1.0]), np.array([0.5]), objects=2)
    >>> round(voc07_ap(half), 4)  # levels 0 to 0.5: six of eleven
    0.5455
    """
    return _interpolated_ap(curve, np.arange(11) / 10)


def voc12_ap(curve: Curve) -> float:
    """VOC's AP since 2010: the whole area under the falling envelope of the curve.

    NaN where the curve has no objects. Source: the VOC2012 development kit, section on evaluation.

    >>> half = Curve(np.array([0.9]), np.array([1.0]), np.array([0.5]), objects=2)
    >>> voc12_ap(half)
    0.5
    """
    if curve.objects == 0:
        return math.nan
    steps = np.diff(curve.recall, prepend=0.0)
    return float((steps * _envelope(curve.precision)).sum())


def coco_ap(curve: Curve) -> float:
    """COCO's AP at one IoU threshold: like VOC 2007's, with 101 levels of recall.

    NaN where the curve has no objects. Source: pycocotools, `COCOeval.accumulate`.

    >>> half = Curve(np.array([0.9]), np.array([1.0]), np.array([0.5]), objects=2)
    >>> round(coco_ap(half), 4)  # levels 0 to 0.50: 51 of 101
    0.505
    """
    return _interpolated_ap(curve, COCO_RECALL_LEVELS)


def _interpolated_ap(curve: Curve, levels: np.ndarray) -> float:
    """Mean over recall levels of the best precision at that recall or more; 0 if out of reach."""
    if curve.objects == 0:
        return math.nan
    best = np.append(_envelope(curve.precision), 0.0)
    return float(best[np.searchsorted(curve.recall, levels, side="left")].mean())


def _envelope(precision: np.ndarray) -> np.ndarray:
    """The best precision from each point on: the lowest falling curve above the zigzag."""
    return np.maximum.accumulate(precision[::-1])[::-1]


def _curve(scores: np.ndarray, status: np.ndarray, objects: int) -> Curve:
    """Precision and recall from what became of each detection; the ignored leave no point.

    The stable sort keeps image order among ties, as COCO does; precision depends on that order.
    """
    order = np.argsort(-scores, kind="stable")
    order = order[status[order] != IGNORED]
    hits = np.cumsum(status[order] == HIT)
    recall = hits / objects if objects else np.full(len(hits), np.nan)
    return Curve(scores[order], hits / np.arange(1, len(hits) + 1), recall, objects)


# ---- average precision ----


@dataclass(frozen=True)
class ClassMetrics:
    """One class: COCO AP, AP at IoU 0.5 and 0.75, both VOC APs, and how many objects it has."""

    ap: float
    ap50: float
    ap75: float
    voc07: float
    voc12: float
    objects: int


@dataclass(frozen=True)
class Metrics:
    """What `evaluate` found, in [0, 1]; NaN where there was no object to find.

    `ap` is the mean over IoU thresholds 0.50 to 0.95, `ap50` and `ap75` are at one; `ar1`, `ar10`,
    `ar100` are the recall with that many detections per class and image, over the same thresholds;
    small is up to 32², large from 96² pixels, medium between. `voc07` and `voc12` are VOC's
    11-point and all-point AP at IoU 0.5. Each is a mean over the classes that have an object.
    `objects` leaves out the ignored.
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
    per_class: dict[str, ClassMetrics]
    images: int
    objects: int
    detections: int

    def as_dict(self) -> dict[str, Any]:
        """The same as plain numbers for JSON, which has no NaN: an undefined value is None."""
        return _jsonable(asdict(self))

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
        lines += [
            f"  {name:<{width}}  AP {_short(c.ap)}  AP50 {_short(c.ap50)}  {c.objects} objects"
            for name, c in self.per_class.items()
        ]
        return "\n".join(lines)


def evaluate(
    detections: Sequence[DetectionsLike],
    boxes: Tensor,
    labels: Tensor,
    *,
    classes: int | Sequence[str],
    image_size: int | tuple[int, int] | Tensor = 256,
    ignored: Tensor | None = None,
    crowd: Tensor | None = None,
) -> Metrics:
    """Score the detections of N images against their objects, the COCO way and the VOC way.

    Shapes: `detections` has one entry per image; `boxes` (N, G, 4) and `labels` (N, G), -1 on
    padding, are the objects. `classes` is how many classes there are, or their names. `image_size`
    in pixels decides what is small: one side, (height, width), or an (N, 2) tensor of (height,
    width).

    `ignored` (N, G) marks objects that need not be found and whose finder is not wrong either
    (VOC's "difficult"). `crowd` (N, G) marks regions that are ignored too, take any number of
    detections, and count as overlap the part of the detection that lies inside (COCO's `iscrowd`).

    The COCO numbers are those of pycocotools' `COCOeval` for boxes, an object's area being that of
    its box. The VOC numbers follow the devkit's own matching (see `precision_recall`) and use all
    detections. Only classes with an object that counts enter a mean; with none it is NaN.

    Raises ValueError where numbers of images or shapes differ, or a box, score or label is not
    legal (NaN, infinite, reversed, unknown class); the message names the image by its index.

    Source: Lin et al. 2014 (COCO) and its evaluation code; Everingham et al. 2010, section 4.2
    (VOC).

    >>> from d2lmini.detect import Detections
    >>> square = torch.tensor([[0.0, 0.0, 0.5, 0.5]])
    >>> found = Detections(square, torch.tensor([0.9]), torch.tensor([0]))
    >>> metrics = evaluate([found], square[None], torch.tensor([[0]]), classes=("banana",))
    >>> round(metrics.ap, 6), metrics.ap_small
    (1.0, nan)
    """
    names = _class_names(classes)
    found, truth = _tables(detections, boxes, labels, ignored, crowd, image_size, len(names))
    ap, recall, voc = _all_classes(found, truth, len(names))  # (K, S, T), (K, S, T, 3), (K, 2)
    objects = np.bincount(truth.label[~truth.ignored], minlength=len(names))
    return Metrics(
        **_coco_means(ap, recall),
        voc07=_mean(voc[:, 0]),
        voc12=_mean(voc[:, 1]),
        per_class=_per_class(names, ap[:, 0], voc, objects),
        images=len(detections),
        objects=int(objects.sum()),
        detections=len(found.scores),
    )


def precision_recall(
    detections: Sequence[DetectionsLike],
    boxes: Tensor,
    labels: Tensor,
    class_id: int = 0,
    iou_threshold: float = 0.5,
    *,
    rule: Literal["coco", "voc"] = "coco",
    ignored: Tensor | None = None,
) -> Curve:
    """The precision-recall curve of one class: one point per detection, best score first.

    Shapes as in `evaluate`. The two rules differ where objects overlap: under "coco" a detection
    takes the best object that is still free; under "voc" it looks at its best object only, and is
    wrong if that one is taken. Detections of equal score keep their order: by image, then as given.

    Raises ValueError as `evaluate` does, and for a threshold outside (0, 1] or an unknown rule.

    >>> from d2lmini.detect import Detections
    >>> squares = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]])
    >>> found = Detections(squares, torch.tensor([0.9, 0.8]), torch.tensor([0, 0]))
    >>> curve = precision_recall([found], squares[None, :1], torch.tensor([[0]]))
    >>> curve.precision.tolist(), curve.recall.tolist()
    ([1.0, 0.5], [1.0, 1.0])
    """
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be above 0 and at most 1, got {iou_threshold}")
    if rule not in ("coco", "voc"):
        raise ValueError(f'rule must be "coco" or "voc", got {rule!r}')
    found, truth = _tables(detections, boxes, labels, ignored)
    found, truth = _rows(found, found.label == class_id), _rows(truth, truth.label == class_id)
    if rule == "voc":
        status = _voc_status(found, truth, iou_threshold)
    else:
        status = _coco_status(found, truth, np.array([iou_threshold]), ~truth.ignored[None])[0, 0]
    return _curve(found.scores, status, int((~truth.ignored).sum()))


def _all_classes(found: _Found, truth: _Truth, count: int) -> tuple[np.ndarray, ...]:
    """COCO AP (K, S, T), COCO recall (K, S, T, 3) and the two VOC APs (K, 2) of every class."""
    counts = _in_ranges(truth.boxes) & ~truth.ignored  # (S, B)
    status = _coco_status(found, truth, COCO_IOU_THRESHOLDS, counts)  # (S, T, M)
    stray = ~_in_ranges(found.boxes)[:, None]  # (S, 1, M): found nothing, but of another size
    status[(status == NOTHING) & stray] = IGNORED
    voc_status = _voc_status(found, truth, 0.5)  # (M,)
    rank = np.arange(len(found.group)) - np.searchsorted(found.group, found.group)

    ap, recall, voc = [], [], []
    for k in range(count):
        mine, objects = found.label == k, counts[:, truth.label == k].sum(1)  # (M,), (S,)
        best = mine & (rank < COCO_MAX_DETECTIONS[-1])
        ap.append(_coco_aps(found.scores[best], status[..., best], objects))
        recall.append(_coco_recall(rank[best], status[..., best], objects))
        curve = _curve(found.scores[mine], voc_status[mine], int(objects[0]))
        voc.append((voc07_ap(curve), voc12_ap(curve)))
    return np.array(ap), np.array(recall), np.array(voc)


def _coco_aps(scores: np.ndarray, status: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """AP (S, T) of one class, from status (S, T, M) and its number of objects of each size (S,)."""
    order = np.argsort(-scores, kind="stable")  # once, so that the sorts to come find it done
    scores, status = scores[order], status[..., order]
    rows = [
        [coco_ap(_curve(scores, at_threshold, int(n))) for at_threshold in of_size]
        for of_size, n in zip(status, objects, strict=True)
    ]
    return np.array(rows)


def _coco_recall(rank: np.ndarray, status: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Share of objects found (S, T, 3) by the best 1, 10 and 100 detections of each image."""
    hits = [((status == HIT) & (rank < most)).sum(-1) for most in COCO_MAX_DETECTIONS]  # 3 x (S, T)
    return np.stack(hits, -1) / np.where(objects, objects, np.nan)[:, None, None]


def _coco_means(ap: np.ndarray, recall: np.ndarray) -> dict[str, float]:
    """COCO's twelve numbers, in its order, from AP (K, S, T) and recall (K, S, T, 3)."""
    sizes = list(enumerate(SIZE_RANGES))[1:]
    means = {"ap": ap[:, 0], "ap50": ap[:, 0, AT_50], "ap75": ap[:, 0, AT_75]}
    means |= {f"ap_{size}": ap[:, s] for s, size in sizes}
    means |= {f"ar{most}": recall[:, 0, :, i] for i, most in enumerate(COCO_MAX_DETECTIONS)}
    means |= {f"ar_{size}": recall[:, s, :, -1] for s, size in sizes}
    return {name: _mean(values) for name, values in means.items()}


def _per_class(
    names: Sequence[str], ap: np.ndarray, voc: np.ndarray, objects: np.ndarray
) -> dict[str, ClassMetrics]:
    """Each class's own numbers from AP (K, T), VOC APs (K, 2) and numbers of objects (K,)."""
    columns = zip(ap.mean(1), ap[:, AT_50], ap[:, AT_75], *voc.T, strict=True)
    numbers = [ClassMetrics(*map(float, c), int(n)) for c, n in zip(columns, objects, strict=True)]
    return dict(zip(names, numbers, strict=True))


# ---- kinds of error ----

ERROR_KINDS = (
    "correct",
    "ignored",
    "duplicate",
    "mislocated",
    "wrong_class",
    "wrong_class_mislocated",
    "background",
)


@dataclass(frozen=True)
class ErrorBreakdown:
    """How many detections are right, how many wrong in which way, and how many objects are missed.

    Each detection counts once: in `correct`, in `ignored` (it covers an object that does not count)
    or in one of the five errors. `missed` counts objects: all that no correct detection found, also
    those that a mislocated or misnamed one nearly did.
    """

    correct: int
    ignored: int
    duplicate: int
    mislocated: int
    wrong_class: int
    wrong_class_mislocated: int
    background: int
    missed: int

    @property
    def false_positives(self) -> int:
        """All detections that are wrong, in whatever way."""
        return sum(getattr(self, kind) for kind in ERROR_KINDS[2:])

    @property
    def precision(self) -> float:
        """Share of the detections that are right; NaN if there are none."""
        return _ratio(self.correct, self.correct + self.false_positives)

    @property
    def recall(self) -> float:
        """Share of the objects that were found; NaN if there are none."""
        return _ratio(self.correct, self.correct + self.missed)

    def as_dict(self) -> dict[str, int]:
        """The counts as a plain dictionary for JSON."""
        return asdict(self)


def error_breakdown(
    detections: Sequence[DetectionsLike],
    boxes: Tensor,
    labels: Tensor,
    *,
    score_threshold: float = 0.5,
    iou_threshold: float = 0.5,
    background_iou: float = 0.1,
    ignored: Tensor | None = None,
) -> ErrorBreakdown:
    """Count what goes wrong among the detections that score at least `score_threshold`.

    Arguments and verdicts are those of `error_kinds`, to which this adds the objects that were
    missed.

    >>> from d2lmini.detect import Detections
    >>> cat = torch.tensor([[0.0, 0.0, 0.5, 0.5]])
    >>> twice = Detections(cat.repeat(2, 1), torch.tensor([0.9, 0.8]), torch.tensor([0, 0]))
    >>> errors = error_breakdown([twice], cat[None], torch.tensor([[0]]))
    >>> errors.correct, errors.duplicate, errors.missed
    (1, 1, 0)
    """
    verdicts = error_kinds(
        detections,
        boxes,
        labels,
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        background_iou=background_iou,
        ignored=ignored,
    )
    flat = [verdict for image in verdicts for verdict in image]
    counts = {kind: flat.count(kind) for kind in ERROR_KINDS}
    real = labels != -1 if ignored is None else (labels != -1) & ~ignored.bool()
    return ErrorBreakdown(**counts, missed=int(real.sum()) - counts["correct"])


def error_kinds(
    detections: Sequence[DetectionsLike],
    boxes: Tensor,
    labels: Tensor,
    *,
    score_threshold: float = 0.5,
    iou_threshold: float = 0.5,
    background_iou: float = 0.1,
    ignored: Tensor | None = None,
) -> list[list[str]]:
    """A verdict on every detection: per image, in the order given, one of `ERROR_KINDS` each.

    Shapes as in `evaluate`. Detections that score below `score_threshold` are "unused". The others
    are matched as for COCO's AP at `iou_threshold`. What found no object is judged by the first
    that fits:

    - `ignored`: it overlaps an ignored object of its class by `iou_threshold` or more;
    - `duplicate`: an object of its class, which a better detection has already;
    - `mislocated`: an object of its class, by `background_iou` or more only;
    - `wrong_class`: an object of another class, by `iou_threshold` or more;
    - `wrong_class_mislocated`: an object of another class, by `background_iou` or more only;
    - `background`: nothing there.

    So an object of the right class explains an error before one of another class does.

    Raises ValueError as `evaluate` does, and unless 0 < background_iou < iou_threshold <= 1.

    Source: Hoiem et al. 2012, section 2; Bolya et al. 2020 (TIDE), section 2.2, whose "missed"
    leaves out objects that another error explains.

    >>> from d2lmini.detect import Detections
    >>> cat = torch.tensor([[0.0, 0.0, 0.5, 0.5]])
    >>> twice = Detections(cat.repeat(2, 1), torch.tensor([0.9, 0.8]), torch.tensor([0, 0]))
    >>> error_kinds([twice], cat[None], torch.tensor([[0]]))
    [['correct', 'duplicate']]
    """
    if not 0 < background_iou < iou_threshold <= 1:
        raise ValueError(
            "the thresholds must be 0 < background_iou < iou_threshold <= 1, got "
            f"{background_iou} and {iou_threshold}"
        )
    found, truth = _tables(detections, boxes, labels, ignored)
    lengths = [len(one.scores) for one in detections]
    verdicts = np.full(sum(lengths), "unused", dtype=object)
    found = _rows(found, found.scores >= score_threshold)
    verdicts[found.place] = _verdicts(found, truth, iou_threshold, background_iou)
    ends = np.cumsum(lengths)
    return [verdicts[end - n : end].tolist() for n, end in zip(lengths, ends, strict=True)]


def _verdicts(found: _Found, truth: _Truth, enough: float, little: float) -> np.ndarray:
    """One of ERROR_KINDS (M,) for each detection: the first that fits."""
    hit = _coco_status(found, truth, np.array([enough]), ~truth.ignored[None])[0, 0] == HIT
    own, other, excused = _best_overlaps(found, truth)
    fits = [hit, excused >= enough, own >= enough, own >= little, other >= enough, other >= little]
    return np.array(ERROR_KINDS, dtype=object)[np.select(fits, range(len(fits)), len(fits))]


def _best_overlaps(found: _Found, truth: _Truth) -> np.ndarray:
    """Largest IoU (3, M) with an object of the same class, of another, and ignored of the same."""
    best = np.zeros((3, len(found.scores)))
    for mine, theirs, overlaps in _blocks(found, truth, by="image"):  # (P, D), (P, G), (P, D, G)
        same = found.label[mine][..., None] == truth.label[theirs][:, None]
        counts = ~truth.ignored[theirs][:, None]
        masks = np.stack([same & counts, ~same & counts, same & ~counts])  # (3, P, D, G)
        real = mine >= 0
        best[:, mine[real]] = np.where(masks, overlaps, 0).max(-1)[:, real]
    return best


# ---- D2L's own metrics ----


@dataclass(frozen=True)
class AnchorMetrics:
    """Sums over anchors, from which D2L's two numbers follow, each beside what "background" scores.

    Add two of them, or `sum` a list, to get those of all batches. The sums stay tensors on their
    device: only reading a property waits for it. All properties are NaN without anchors.
    """

    anchors: int
    positives: Tensor
    wrong: Tensor
    positives_right: Tensor
    box_error: Tensor
    no_box_error: Tensor

    @property
    def class_error(self) -> float:
        """Share of all anchors whose class is wrong: 1 - accuracy."""
        return _ratio(self.wrong, self.anchors)

    @property
    def box_mae(self) -> float:
        """Mean error of an offset's four numbers over all anchors, with 0 for the negatives."""
        return _ratio(self.box_error, 4 * self.anchors)

    @property
    def background_class_error(self) -> float:
        """The class error of a detector that calls every anchor background."""
        return _ratio(self.positives, self.anchors)

    @property
    def background_box_mae(self) -> float:
        """The box error of a detector that predicts no offset anywhere."""
        return _ratio(self.no_box_error, 4 * self.anchors)

    @property
    def positive_recall(self) -> float:
        """Share of the anchors that hold an object whose class is right; NaN if none holds one."""
        return _ratio(self.positives_right, self.positives)

    def as_dict(self) -> dict[str, float | int | None]:
        """All numbers for JSON; None where one is undefined."""
        names = ("class_error", "background_class_error", "box_mae", "background_box_mae")
        numbers = {name: getattr(self, name) for name in (*names, "positive_recall")}
        return _jsonable({**numbers, "positives": int(self.positives), "anchors": self.anchors})

    def __add__(self, other: AnchorMetrics) -> AnchorMetrics:
        if not isinstance(other, AnchorMetrics):
            return NotImplemented
        names = [field.name for field in fields(self)]
        return AnchorMetrics(*(getattr(self, n) + getattr(other, n) for n in names))

    def __radd__(self, other: int) -> AnchorMetrics:
        return self if other == 0 else NotImplemented  # what `sum` starts from


@torch.no_grad()
def anchor_metrics(predictions: Predictions, targets: Targets) -> AnchorMetrics:
    """D2L's class error and box MAE of a batch, with the baselines that show how little they say.

    Shapes: `predictions.logits` (N, A, K + 1), `.offsets` (N, A, 4); `targets.labels` (N, A), 0 for
    background, `.offsets` (N, A, 4). An anchor with NaN among its logits is wrong. Nothing waits
    for the device. Raises ValueError where shapes disagree.

    Source: D2L, section 14.7.2.2 (evaluation functions).

    >>> from types import SimpleNamespace as Pair
    >>> labels, offsets = torch.tensor([[1, 0, 0, 0]]), torch.zeros(1, 4, 4)
    >>> always_background = Pair(logits=torch.tensor([1.0, 0.0]).expand(1, 4, 2), offsets=offsets)
    >>> metrics = anchor_metrics(always_background, Pair(labels=labels, offsets=offsets))
    >>> metrics.class_error, metrics.background_class_error, metrics.positive_recall
    (0.25, 0.25, 0.0)
    """
    logits, labels = predictions.logits, targets.labels
    shapes = [tuple(t.shape) for t in (logits, predictions.offsets, labels, targets.offsets)]
    if shapes[0][:-1] != shapes[2] or not shapes[1] == shapes[3] == (*shapes[2], 4):
        raise ValueError(
            "expected logits (N, A, K + 1), offsets (N, A, 4), labels (N, A), offsets (N, A, 4), "
            f"got {', '.join(map(str, shapes))}"
        )
    positive = labels > 0  # (N, A)
    right = (logits.argmax(-1) == labels) & ~logits.isnan().any(-1)  # argmax takes NaN for the best
    error = (predictions.offsets.float() - targets.offsets.float()).abs().sum(-1)  # (N, A)
    extent = targets.offsets.float().abs().sum(-1)  # (N, A)
    return AnchorMetrics(
        anchors=labels.numel(),
        positives=positive.sum(),
        wrong=(~right).sum(),
        positives_right=(right & positive).sum(),
        box_error=torch.where(positive, error, 0).sum(),
        no_box_error=torch.where(positive, extent, 0).sum(),
    )


# ---- matching ----


def _coco_status(found: _Found, truth: _Truth, thresholds: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """What becomes of each detection (S, T, M), for S choices of the objects that count (S, B)."""
    status = np.zeros((len(counts), len(thresholds), len(found.scores)), np.int8)
    for mine, theirs, overlaps in _blocks(found, truth):  # (P, D), (P, G), (P, D, G)
        regular = counts[:, theirs].swapaxes(0, 1)  # (P, S, G)
        block = _greedy(overlaps, regular, truth.crowd[theirs], thresholds)  # (P, S, T, D)
        real = mine >= 0
        status[:, :, mine[real]] = np.moveaxis(block, 0, 2)[:, :, real]
    return status


def _greedy(
    overlaps: np.ndarray, regular: np.ndarray, crowd: np.ndarray, thresholds: np.ndarray
) -> np.ndarray:
    """Give each detection, best score first, the best object that is free: status (P, S, T, D).

    Shapes: overlaps (P, D, G), regular (P, S, G), crowd (P, G), thresholds (T,). An object that
    counts goes before an ignored one, then the larger overlap, then the later object. Only a crowd
    can be taken twice.
    """
    pairs, count, objects = overlaps.shape
    status = np.zeros((pairs, regular.shape[1], len(thresholds), count), np.int8)
    free = np.ones((*status.shape[:3], objects), bool)  # (P, S, T, G)
    candidate = (overlaps >= thresholds.min()).any(-1)  # (P, D)
    for d in np.flatnonzero(candidate.any(0)):
        rows = np.flatnonzero(candidate[:, d])  # R of the P
        iou = overlaps[rows, d]  # (R, G)
        place = iou.argsort(-1, kind="stable").argsort(-1)  # (R, G), no two alike
        fits = free[rows] & (iou[:, None, None] >= thresholds[:, None])  # (R, S, T, G)
        wish = (place[:, None] + objects * regular[rows])[:, :, None]  # (R, S, 1, G)
        wish = np.where(fits, wish, -1)  # (R, S, T, G)
        best = wish.max(-1)  # (R, S, T)
        status[rows, :, :, d] = np.select([best < 0, best < objects], [NOTHING, IGNORED], HIT)
        taken = fits & (wish == best[..., None]) & ~crowd[rows][:, None, None]
        free[rows] &= ~taken
    return status


def _voc_status(found: _Found, truth: _Truth, threshold: float) -> np.ndarray:
    """What becomes of each detection (M,) where it may look at its best object only."""
    status = np.zeros(len(found.scores), np.int8)
    for mine, theirs, overlaps in _blocks(found, truth):  # (P, D), (P, G), (P, D, G)
        best = overlaps.argmax(-1)[..., None]  # (P, D, 1), the earlier of equals
        claim = (best == np.arange(theirs.shape[1])) & (overlaps >= threshold)
        first = claim & (claim.cumsum(1) == 1)  # (P, D, G): nobody with a better score claims it
        excused = (claim & truth.ignored[theirs][:, None]).any(-1)  # (P, D)
        block = np.select([excused, first.any(-1)], [IGNORED, HIT], NOTHING)
        status[mine[mine >= 0]] = block[mine >= 0]
    return status


def _blocks(
    found: _Found, truth: _Truth, by: Literal["group", "image"] = "group"
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The groups with both detections and objects: rows (P, D) and (P, G), overlaps (P, D, G).

    Rows are padded with -1, and overlaps there are -1. Groups of like size travel together, so that
    little is padding.
    """
    (f_key, f_start, f_count), (t_key, t_start, t_count) = (
        np.unique(getattr(table, by), return_index=True, return_counts=True) for table in (found, truth)
    )
    _, f, t = np.intersect1d(f_key, t_key, assume_unique=True, return_indices=True)
    if len(f) == 0:
        return
    order = np.lexsort((f_count[f], t_count[t]))
    f, t = f[order], t[order]
    steps = max(f_count[f].max(), len(SIZE_RANGES) * len(COCO_IOU_THRESHOLDS))
    pieces = min(len(f), math.ceil(len(f) * t_count[t].max() * steps / BLOCK_CELLS))
    for f_part, t_part in zip(np.array_split(f, pieces), np.array_split(t, pieces), strict=True):
        mine = _runs(f_start[f_part], f_count[f_part])  # (P, D)
        theirs = _runs(t_start[t_part], t_count[t_part])  # (P, G)
        yield mine, theirs, _overlaps(found, truth, mine, theirs)


def _runs(start: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Each row counts up from its start, `count` numbers long, then -1: (P, longest)."""
    step = np.arange(count.max())
    return np.where(step < count[:, None], start[:, None] + step, -1)


def _overlaps(found: _Found, truth: _Truth, mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """IoU (P, D, G) of rows (P, D) with rows (P, G); -1 where either is padding."""
    a, b = found.boxes[mine], truth.boxes[theirs]  # (P, D, 4), (P, G, 4)
    overlaps = box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()  # (P, D, G)
    crowd = truth.crowd[theirs]
    if crowd.any():
        overlaps = np.where(crowd[:, None], _share_inside(a, b), overlaps)
    padding = (mine < 0)[..., None] | (theirs < 0)[:, None]
    return np.where(padding, -1.0, overlaps)


def _share_inside(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Share (P, D, G) of each box of a (P, D, 4) that lies inside b (P, G, 4); 0 for an empty a."""
    a, b = a[:, :, None], b[:, None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    area = _area(a)
    return sides.clip(0).prod(-1) / np.where(area > 0, area, 1)


def _area(boxes: np.ndarray) -> np.ndarray:
    """Areas (...) of boxes (..., 4)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _in_ranges(boxes: np.ndarray) -> np.ndarray:
    """Which boxes (M, 4), in pixels, are of each size: (S, M)."""
    low, high = np.array(list(SIZE_RANGES.values())).T[..., None]  # (S, 1) each
    area = _area(boxes)
    return (area >= low) & (area <= high)


# ---- tables ----


class _Found(NamedTuple):
    """All detections, sorted by image, class and falling score; boxes are float64, in pixels.

    `group` numbers image and class together; `place` is where among all detections it was given.
    """

    group: np.ndarray
    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    place: np.ndarray


class _Truth(NamedTuple):
    """All objects, sorted by image and class; boxes as above. A crowd is ignored too."""

    group: np.ndarray
    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    ignored: np.ndarray
    crowd: np.ndarray


def _tables(
    detections: Sequence[DetectionsLike],
    boxes: Tensor,
    labels: Tensor,
    ignored: Tensor | None = None,
    crowd: Tensor | None = None,
    image_size: int | tuple[int, int] | Tensor = 1,
    classes: int | None = None,
) -> tuple[_Found, _Truth]:
    """Both sides as checked flat tables; without `classes` any class from 0 is legal."""
    _check_shapes(detections, boxes, labels, ignored=ignored, crowd=crowd)
    scale = _pixels(image_size, len(detections))  # (N, 4)
    image, label, corners, scores = _flat_detections(detections)
    _check_values("detection", image, corners, label, classes, scores)
    t_image, column = np.nonzero(_integers(labels) != -1)
    t_label, t_corners = _integers(labels)[t_image, column], _floats(boxes)[t_image, column]
    _check_values("ground truth", t_image, t_corners, t_label, classes)

    span = 1 + max(label.max(initial=0), t_label.max(initial=0))
    group, t_group = image * span + label, t_image * span + t_label
    crowds = _flags(crowd, t_image, column)
    ignores = _flags(ignored, t_image, column) | crowds
    place = np.arange(len(group))
    found = _Found(group, image, label, corners * scale[image], scores, place)
    truth = _Truth(t_group, t_image, t_label, t_corners * scale[t_image], ignores, crowds)
    return _rows(found, np.lexsort((-scores, group))), _rows(truth, t_group.argsort(kind="stable"))


def _flat_detections(detections: Sequence[DetectionsLike]) -> tuple[np.ndarray, ...]:
    """Image (M,), label (M,), boxes (M, 4), scores (M,) of all images, copied to the host once."""
    if len(detections) == 0:
        return np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4)), np.zeros(0)
    image = np.repeat(np.arange(len(detections)), [len(one.scores) for one in detections])
    boxes, scores, labels = (
        torch.cat([getattr(one, name) for one in detections]) for name in ("boxes", "scores", "labels")
    )
    return image, _integers(labels), _floats(boxes), _floats(scores)


def _floats(values: Tensor) -> np.ndarray:
    return values.detach().cpu().double().numpy()


def _integers(values: Tensor) -> np.ndarray:
    return values.detach().cpu().long().numpy()


def _flags(marks: Tensor | None, image: np.ndarray, column: np.ndarray) -> np.ndarray:
    """The marks (N, G) of the real objects (B,); none is marked where nothing is given."""
    return np.zeros(len(image), bool) if marks is None else _integers(marks)[image, column] != 0


def _rows(table: Any, rows: np.ndarray) -> Any:
    """The same table with these rows only, or in this order."""
    return type(table)(*(column[rows] for column in table))


def _pixels(image_size: int | tuple[int, int] | Tensor, images: int) -> np.ndarray:
    """What normalised corners are multiplied by, (N, 4): width, height, width, height."""
    sides = np.asarray(image_size, dtype=np.float64)
    if sides.shape not in ((), (2,), (images, 2)) or not (np.isfinite(sides) & (sides > 0)).all():
        raise ValueError(
            "image_size must be one side, (height, width), or a tensor with such a row for each of "
            f"the {images} images, in pixels and positive; got {image_size!r}"
        )
    height, width = np.broadcast_to(sides, (images, 2)).T
    return np.stack([width, height, width, height], 1)


# ---- what is not legal ----


def _check_shapes(
    detections: Sequence[DetectionsLike], boxes: Tensor, labels: Tensor, **marks: Tensor | None
) -> None:
    """Refuse numbers of images, or shapes, that do not belong together."""
    if labels.ndim != 2 or boxes.shape != (*labels.shape, 4):
        raise ValueError(
            "boxes must be (N, G, 4) and labels (N, G), padded with label -1; got "
            f"{tuple(boxes.shape)} and {tuple(labels.shape)}"
        )
    if len(detections) != len(labels):
        raise ValueError(
            f"detections of {len(detections)} images but ground truth of {len(labels)}: pass one "
            "entry for each image, also where nothing was found"
        )
    for name, mark in marks.items():
        if mark is not None and mark.shape != labels.shape:
            raise ValueError(f"{name} must be {tuple(labels.shape)}, got {tuple(mark.shape)}")
    for i, one in enumerate(detections):
        shapes = [tuple(t.shape) for t in (one.boxes, one.scores, one.labels)]
        count = one.scores.numel()
        if shapes != [(count, 4), (count,), (count,)]:
            raise ValueError(
                f"image {i}: detections must have boxes (D, 4), scores (D,) and labels (D,), got "
                f"{', '.join(map(str, shapes))}"
            )


def _check_values(
    kind: str,
    image: np.ndarray,
    boxes: np.ndarray,
    label: np.ndarray,
    classes: int | None,
    scores: np.ndarray | None = None,
) -> None:
    """Refuse what no detector or annotator can mean, naming the first image that has it."""
    last = np.iinfo(np.int64).max if classes is None else classes - 1
    faults = {
        "a box that is NaN or infinite": ~np.isfinite(boxes).all(-1),
        "x_max < x_min or y_max < y_min": (boxes[:, 2:] < boxes[:, :2]).any(-1),
        f"a class outside 0 to {last}": (label < 0) | (label > last),
    }
    if scores is not None:
        faults["a score that is NaN or infinite"] = ~np.isfinite(scores)
    for fault, rows in faults.items():
        if rows.any():
            row = int(rows.argmax())
            what = f"box {boxes[row].tolist()}, class {label[row]}"
            what += "" if scores is None else f", score {scores[row]}"
            raise ValueError(f"image {image[row]}: {kind} with {fault} ({what})")


def _class_names(classes: int | Sequence[str]) -> list[str]:
    """The names to report under; numbers where only a count is given."""
    names = [str(k) for k in range(classes)] if isinstance(classes, int) else list(classes)
    if isinstance(classes, str) or not names or len(set(names)) < len(names):
        raise ValueError(f"classes must be a positive count or distinct names, got {classes!r}")
    return names


# ---- small print ----


def _mean(values: np.ndarray) -> float:
    """Mean of what is defined; NaN, without NumPy's warning, where nothing is."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else math.nan


def _ratio(part: Tensor | float, whole: Tensor | float) -> float:
    return float(part) / float(whole) if whole else math.nan


def _short(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _jsonable(value: Any) -> Any:
    """The same with None for NaN, at any depth."""
    if isinstance(value, dict):
        return {key: _jsonable(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
