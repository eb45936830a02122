"""What goes wrong: the kinds of error of single detections."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from torch import Tensor

from d2lmini.compare import compare
from d2lmini.data.detections import Detections
from d2lmini.evaluate import match_objects

ERROR_KINDS = ("correct", "duplicate", "localization", "classification", "both", "background")


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

    >>> import torch
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
    (_, own), (_, best) = found.best(found.own), found.best(found.iou > 0)  # (M,) each
    right = match_objects(found, iou_threshold) >= 0
    fits = [found.scores < score_threshold, right, own >= iou_threshold, own >= background_iou]
    fits += [best >= iou_threshold, best >= background_iou]
    kinds = np.empty(len(right), dtype=object)
    kinds[found.given] = np.array(["unused", *ERROR_KINDS], dtype=object)[np.select(fits, range(6), 6)]
    return [kinds[rows].tolist() for rows in found.rows_by_image()]


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
