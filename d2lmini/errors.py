"""What goes wrong: kinds of error of single detections, and D2L's two numbers beside their baselines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from d2lmini.compare import compare
from d2lmini.evaluate import TRUE_POSITIVE, match_all, nan_to_none

if TYPE_CHECKING:
    from d2lmini.detect import Detections
    from d2lmini.matching import Targets
    from d2lmini.model import Predictions

ERROR_KINDS = ("correct", "duplicate", "localization", "classification", "both", "background")
ANCHOR_RATES = ("class_error", "background_class_error", "box_mae", "background_box_mae", "positive_recall")


@dataclass(frozen=True)
class ErrorBreakdown:
    """Each detection counts once: as `correct`, or as one of the five errors. `missed` counts objects: all
    that no correct detection found, also those that a badly placed or misnamed one nearly did."""

    correct: int
    duplicate: int
    localization: int
    classification: int
    both: int
    background: int
    missed: int

    @property
    def false_positives(self) -> int:
        """All detections that are wrong, in whatever way."""
        return sum(getattr(self, kind) for kind in ERROR_KINDS[1:])

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
    detections: Sequence[Detections], boxes: Tensor, labels: Tensor, **thresholds: float
) -> ErrorBreakdown:
    """Count what `error_kinds`, with these `thresholds`, says of each detection, and the missed objects.

    >>> from d2lmini.detect import Detections
    >>> cat = torch.tensor([[0.0, 0.0, 0.5, 0.5]])
    >>> twice = Detections(cat.repeat(2, 1), torch.tensor([0.9, 0.8]), torch.tensor([0, 0]))
    >>> errors = error_breakdown([twice], cat[None], torch.tensor([[0]]))
    >>> errors.correct, errors.duplicate, errors.missed
    (1, 1, 0)
    """
    kinds = [kind for image in error_kinds(detections, boxes, labels, **thresholds) for kind in image]
    counts = {kind: kinds.count(kind) for kind in ERROR_KINDS}
    return ErrorBreakdown(**counts, missed=int((labels != -1).sum()) - counts["correct"])


def error_kinds(
    detections: Sequence[Detections],
    boxes: Tensor,
    labels: Tensor,
    *,
    score_threshold: float = 0.5,
    iou_threshold: float = 0.5,
    background_iou: float = 0.1,
) -> list[list[str]]:
    """What each detection is, per image, in the order given: one of `ERROR_KINDS`, or "unused".

    Shapes as in `evaluate`. Detections that score below `score_threshold` are "unused". The others are
    matched as for COCO's AP at `iou_threshold`: those that find an object are "correct", and the rest is
    named by the first that fits, so an object of the right class explains an error before another does:

    - `duplicate`: on an object of its class, which a better detection has already;
    - `localization`: on an object of its class, but by no more than `background_iou` to `iou_threshold`;
    - `classification`: on an object of another class, by `iou_threshold` or more;
    - `both`: on an object of another class, by `background_iou` or more only;
    - `background`: on nothing.

    Raises ValueError as `evaluate` does, and unless 0 < background_iou < iou_threshold <= 1. Source: Hoiem et
    al. 2012, section 2; Bolya et al. 2020 (TIDE), section 2.2, whose "missed" leaves out objects that another
    error explains.
    """
    if not 0 < background_iou < iou_threshold <= 1:
        raise ValueError(
            "the thresholds must be 0 < background_iou < iou_threshold <= 1, got "
            f"{background_iou} and {iou_threshold}"
        )
    found = compare(detections, boxes, labels)
    own, best = found.own_iou.max(1), found.iou.max(1)  # (M,), with its class and with any
    right = match_all(found, iou_threshold) == TRUE_POSITIVE
    fits = [found.scores < score_threshold, right, own >= iou_threshold, own >= background_iou]
    fits += [best >= iou_threshold, best >= background_iou]
    kinds = np.empty(len(right), dtype=object)
    kinds[found.given] = np.array(["unused", *ERROR_KINDS], dtype=object)[np.select(fits, range(6), 6)]
    return [kinds[rows].tolist() for rows in found.rows_by_image()]


@dataclass(frozen=True)
class AnchorMetrics:
    """Sums over anchors, from which D2L's two numbers follow, each beside what "background" scores.

    Add two of them, or `sum` a list, to get those of all batches. The sums stay tensors on their device:
    only reading a property waits for it. All properties are NaN without anchors.
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
        numbers = {name: getattr(self, name) for name in ANCHOR_RATES}
        return nan_to_none({**numbers, "positives": int(self.positives), "anchors": self.anchors})

    def __add__(self, other: AnchorMetrics) -> AnchorMetrics:
        if not isinstance(other, AnchorMetrics):
            return NotImplemented
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return AnchorMetrics(*(one + another for one, another in pairs))

    def __radd__(self, other: int) -> AnchorMetrics:
        return self if other == 0 else NotImplemented  # what `sum` starts from


@torch.no_grad()
def anchor_metrics(predictions: Predictions, targets: Targets) -> AnchorMetrics:
    """D2L's class error and box MAE of a batch, with the baselines that show how little they say.

    Shapes: `predictions.logits` (N, A, K + 1), `.offsets` (N, A, 4); `targets.labels` (N, A), 0 for
    background, `.offsets` (N, A, 4). An anchor with NaN among its logits is wrong. Nothing waits for the
    device. Raises ValueError where shapes disagree.

    Source: D2L, section 14.7.2.2 (evaluation functions).
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


def _ratio(part: Tensor | float, whole: Tensor | float) -> float:
    return float(part) / float(whole) if whole else math.nan
