"""What a score is worth: the best threshold, calibration, and which class is taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from d2lmini.evaluate import Judged, match_objects

IOU = 0.5  # from here on a detection has found its object
BINS = 10


class OperatingPoint(NamedTuple):
    """Precision, recall and their harmonic mean F1 of the detections that score `threshold` or more."""

    threshold: float
    f1: float
    precision: float
    recall: float


def best_f1(judged: Judged) -> OperatingPoint:
    """The threshold with the best F1 over all classes, at IoU 0.5; NaN without detections or objects."""
    scores, right = judged.found.scores, judged.coco[:, 0, 0] == 1
    objects = len(judged.found.true_labels)
    if not len(scores) or not objects:
        return OperatingPoint(np.nan, np.nan, np.nan, np.nan)
    order = np.argsort(-scores, kind="stable")
    hits, shown = np.cumsum(right[order]), np.arange(1, len(scores) + 1)
    last = np.diff(scores[order], append=-np.inf) < 0  # of equal scores all or none are shown
    best = int(np.argmax(np.where(last, 2 * hits / (shown + objects), -1)))
    numbers = 2 * hits / (shown + objects), hits / shown, hits / objects
    return OperatingPoint(float(scores[order[best]]), *(float(column[best]) for column in numbers))


class Calibration(NamedTuple):
    """Detections (B,) that score b / B to (b + 1) / B, their mean score, and the share that is right."""

    detections: np.ndarray
    confidence: np.ndarray
    precision: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean gap between score and share; NaN without detections."""
        gaps = np.abs(self.confidence - self.precision)[self.detections > 0]
        weights = self.detections[self.detections > 0]
        return float(np.average(gaps, weights=weights)) if len(weights) else np.nan


def calibration(judged: Judged, bins: int = BINS) -> Calibration:
    """How often detections of each score are right at IoU 0.5; a bin without any is NaN.

    Source: Guo et al. 2017 (ECE); Küppers et al. 2020, with detections in the place of classified images.
    """
    scores, right = judged.found.scores, judged.coco[:, 0, 0] == 1
    place = np.clip((scores * bins).astype(int), 0, bins - 1)
    counts, *sums = (np.bincount(place, weights, bins) for weights in (None, scores, right))
    return Calibration(counts, *(np.divide(s, counts, np.full(bins, np.nan), where=counts > 0) for s in sums))


def confusion_matrix(judged: Judged, score_threshold: float) -> np.ndarray:
    """How often an object of a class (row) is found as which (column), by detections that score enough.

    Shape (K + 1, K + 1): the last row is background that was taken for an object, the last column objects
    that were missed. Detections first find objects of their class, as in `evaluate`; those left, best first,
    are given the object of another class that they overlap most, from IoU 0.5 on.
    """
    found, classes = judged.found, len(judged.classes)
    shown = found.scores >= score_threshold
    mine = np.where(shown, match_objects(found, IOU), -1)  # (M,)
    pairs = np.flatnonzero(~found.own & (found.iou >= IOU) & (shown & (mine < 0))[found.pair[:, 0]])
    taken = set(mine.tolist())
    for row, thing in found.pair[pairs[np.lexsort((-found.iou[pairs], found.pair[pairs, 0]))]].tolist():
        if mine[row] < 0 and thing not in taken:
            mine[row] = thing
            taken.add(thing)
    things = np.append(found.true_labels, classes).astype(int)  # -1 is background
    missed = np.setdiff1d(np.arange(len(things) - 1), mine)
    matrix = np.zeros((classes + 1, classes + 1), int)
    np.add.at(matrix, (things[mine[shown]], found.labels[shown].astype(int)), 1)
    np.add.at(matrix, (things[missed], classes), 1)
    return matrix


def confusion_text(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """The matrix as a table for people, a row for each class and one for the background."""
    rows = [["found as", *classes, "missed"]]
    rows += [[name, *line] for name, line in zip([*classes, "background"], matrix.tolist(), strict=True)]
    rows[-1][-1] = ""  # background is never missed
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}"
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
