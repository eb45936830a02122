"""What each kind of error costs in AP: how much higher it were if only that kind were mended (TIDE)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from d2lmini.compare import Comparison, compare
from d2lmini.data.detections import Detections
from d2lmini.evaluate import FALSE_POSITIVE, IGNORED, TRUE_POSITIVE, coco_ap, curve_of, match_objects

COSTS = ("localization", "classification", "both", "duplicate", "background", "missed")
FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1


def error_costs(detections: Sequence[Detections], boxes: Tensor, labels: Tensor) -> dict[str, float]:
    """By how much AP50 rises when all errors of one kind are mended, for each of `COSTS`.

    Shapes and errors as in `evaluate`. A detection at a wrong place, or of a wrong class, is corrected and so
    finds its object, unless that is found already or a better detection is corrected to it: then, and of the
    other kinds, it is removed. Missed objects that no correction would find are not counted. The costs do not
    add up to what AP lacks. NaN without objects. Source: Bolya et al. 2020 (TIDE), sections 2.2 and 2.3;
    of two kinds that fit, as in its authors' program, the first of localization, classification, duplicate.
    """
    found = compare(detections, boxes, labels)
    used = match_objects(found, FOREGROUND_IOU)  # (M,)
    (own_object, own), (other_object, other) = found.best(found.own), found.best(~found.own)  # (M,) each
    fits = [used >= 0, (own >= BACKGROUND_IOU) & (own <= FOREGROUND_IOU), other >= FOREGROUND_IOU]
    fits += [own >= FOREGROUND_IOU, np.maximum(own, other) <= BACKGROUND_IOU]
    names = ["correct", "localization", "classification", "duplicate", "background"]
    kinds = np.select(fits, names, "both")
    aims = np.where(kinds == "localization", own_object, -1)
    aims = np.where(kinds == "classification", other_object, aims)
    corrected = np.zeros(len(aims), bool)  # the best of each aim, as detections of an image come best first
    corrected[np.unique(aims, return_index=True)[1]] = True
    corrected &= (aims >= 0) & ~np.isin(aims, used)
    status = np.where(used >= 0, TRUE_POSITIVE, FALSE_POSITIVE)
    counted = np.ones(len(found.true_labels), bool)
    before, costs = _ap50(found, found.labels, status, counted), {}
    for name in COSTS[:-1]:
        mended = np.where(kinds == name, np.where(corrected, TRUE_POSITIVE, IGNORED), status)
        moved, classes = (kinds == name) & corrected, found.labels.copy()
        classes[moved] = found.true_labels[aims[moved]]
        costs[name] = _ap50(found, classes, mended, counted) - before
    counted[:] = np.isin(np.arange(len(counted)), [used, aims])
    return costs | {"missed": _ap50(found, found.labels, status, counted) - before}


def _ap50(found: Comparison, labels: np.ndarray, status: np.ndarray, counted: np.ndarray) -> float:
    """The mean AP over classes with objects, of detections with these labels and statuses (M,)."""
    order, aps = np.argsort(-found.scores, kind="stable"), []
    for k in np.unique(found.true_labels[counted]):
        rows = order[labels[order] == k]
        objects = int((found.true_labels[counted] == k).sum())
        aps.append(coco_ap(curve_of(found.scores[rows], status[rows], objects)))
    return float(np.mean(aps)) if aps else float("nan")
