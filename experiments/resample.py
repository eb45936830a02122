"""Bootstrap over images: AP of many random draws, with repetition, of the same held-out set.

A draw only changes how often each detection counts; whether it is right stays.
So everything is matched once, and a draw is a row of weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from d2lmini.detect import Detections
from d2lmini.evaluate import COCO_IOU_THRESHOLDS, COCO_RECALL_LEVELS, precision_recall

DRAWS = 100


def draw_images(images: int, draws: int = DRAWS) -> np.ndarray:
    """How often each image is drawn (draws, images): the same for all rows, so that rows pair."""
    generator = np.random.default_rng(0)
    return generator.multinomial(images, np.full(images, 1 / images), size=draws)


def resampled_ap(
    detections: Sequence[Detections],
    boxes: Tensor,
    labels: Tensor,
    classes: int,
    weights: np.ndarray,
    thresholds: Sequence[float] = COCO_IOU_THRESHOLDS,
) -> np.ndarray:
    """AP (draws, thresholds) of each draw, mean over the classes that have an object in it.

    `weights` (draws, N) is how often each image counts; shapes otherwise as in `evaluate`.
    """
    out = np.full((classes, len(weights), len(thresholds)), np.nan)
    for k in range(classes):
        objects = weights @ (labels == k).sum(1).numpy()  # (draws,)
        if not objects.any():
            continue
        image, scores = _of_class(detections, k)
        counts = weights[:, image[np.argsort(-scores, kind="stable")]]  # (draws, M)
        for j, threshold in enumerate(thresholds):
            curve = precision_recall(detections, boxes, labels, k, float(threshold))
            hits = np.diff(np.rint(curve.recall * curve.objects), prepend=0) > 0  # (M,)
            out[k, :, j] = _average_precision(counts, hits, objects)
    return np.nanmean(out, axis=0)


def _of_class(detections: Sequence[Detections], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and score (M,) of every detection of a class, in the order in which they are evaluated."""
    image = np.repeat(np.arange(len(detections)), [len(one.scores) for one in detections])
    scores, labels = (torch.cat([getattr(one, n) for one in detections]) for n in ("scores", "labels"))
    chosen = (labels == k).cpu().numpy()
    return image[chosen], scores.detach().cpu().double().numpy()[chosen]


def _average_precision(counts: np.ndarray, hits: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """COCO's AP (draws,) from how often each ranked detection counts (draws, M) and which are hits (M,)."""
    found = np.cumsum(counts * hits, axis=1)
    recall = found / np.where(objects > 0, objects, np.nan)[:, None]
    precision = found / np.maximum(np.cumsum(counts, axis=1), 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    best = np.pad(best, ((0, 0), (0, 1)))
    at = [np.searchsorted(row, COCO_RECALL_LEVELS, side="left") for row in np.nan_to_num(recall)]
    ap = np.take_along_axis(best, np.array(at), axis=1).mean(1)
    return np.where(objects > 0, ap, np.nan)
