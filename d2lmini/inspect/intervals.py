"""How much of a score is luck: intervals by bootstrap over images, and the paired comparison of two models.

A draw of as many images, with repetition, only changes how often each detection and object counts. So all are
matched once, and a draw is a row of weights.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from d2lmini.evaluate import (
    COCO_MAX_DETECTIONS,
    COCO_RECALL_LEVELS,
    IGNORED,
    SIZES,
    TRUE_POSITIVE,
    Judged,
)

DRAWS = 1000
NUMBERS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
BLOCK_CELLS = 2**22  # weights of detections at a time: bounds memory, not results


class Interval(NamedTuple):
    """A score, and the ends of its 95 % interval; NaN where it is not defined."""

    value: float
    low: float
    high: float


def draw_images(images: int, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """How often each image is in a draw (draws, images) of as many, with repetition."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=draws)


def weighted_ap(judged: Judged, weights: np.ndarray) -> np.ndarray:
    """The six `NUMBERS` of each class (B, K, 6) if each image counted as often as weights (B, N) say.

    NaN where no object counts. With weights of 1 they are those of `evaluate`.
    """
    found, out = judged.found, np.full((len(weights), len(judged.classes), len(NUMBERS)), np.nan)
    for k in range(len(judged.classes)):
        own = found.true_labels == k
        objects = np.zeros((found.images, len(SIZES)))
        np.add.at(objects, found.true_image[own], judged.in_range[own])
        rows, rank = judged.of_class(k)
        rows = rows[rank < COCO_MAX_DETECTIONS[-1]]
        blocks = 1 + len(weights) * len(rows) // BLOCK_CELLS
        for block in np.array_split(np.arange(len(weights)), blocks):
            counts = weights[block][:, found.image[rows]]  # (b, M)
            out[block, k] = _numbers(counts, judged.coco[rows], weights[block] @ objects)
    return out


def _numbers(counts: np.ndarray, status: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """`NUMBERS` (b, 6) of a class from how often each detection counts (b, M), its status (M, S, T), and how
    many objects there are of each size (b, S)."""
    ap = np.zeros((*objects.shape, status.shape[-1]))  # (b, S, T)
    every = np.cumsum(counts, axis=1)
    for s, t in np.ndindex(ap.shape[1:]):
        hits, ignored = (np.flatnonzero(status[:, s, t] == kind) for kind in (TRUE_POSITIVE, IGNORED))
        seen = every[:, hits]
        if len(ignored):
            before = np.cumsum(counts[:, ignored], axis=1)
            seen = seen - np.pad(before, ((0, 0), (1, 0)))[:, np.searchsorted(ignored, hits)]
        ap[:, s, t] = _average_precision(np.cumsum(counts[:, hits], axis=1), seen, objects[:, s])
    return np.concatenate([ap[:, 0].mean(1)[:, None], ap[:, 0, [0, 5]], ap[:, 1:].mean(2)], axis=1)


def _average_precision(hits: np.ndarray, seen: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """COCO's AP (b,) from true positives and detections up to each true positive (b, J), and objects (b,)."""
    precision = hits / np.maximum(seen, 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = hits / np.maximum(objects, 1)[:, None]
    reached = np.searchsorted(COCO_RECALL_LEVELS, recall, side="right")  # so many levels
    total = (best * np.diff(reached, axis=1, prepend=0)).sum(1)
    return np.where(objects > 0, total / len(COCO_RECALL_LEVELS), np.nan)
