"""How much of a score is luck: intervals by bootstrap over images, and the paired comparison of two models.

A draw of as many images, with repetition, only changes how often each detection and object counts. So all are
matched once, and a draw is a row of weights.
"""

from __future__ import annotations

from statistics import NormalDist
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

DRAWS, BLOCKS = 1000, 200  # bootstrap draws, and at most so many parts of which one is left out (jackknife)
NUMBERS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
BLOCK_CELLS = 2**22  # weights of detections at a time: bounds memory, not results


class Interval(NamedTuple):
    """A score, and the ends of its 95 % interval; NaN where it is not defined."""

    value: float
    low: float
    high: float


class Intervals(NamedTuple):
    """An interval for each of `NUMBERS`, over all classes and of each class by its name."""

    overall: dict[str, Interval]
    per_class: dict[str, dict[str, Interval]]


def bootstrap(judged: Judged, draws: int = DRAWS, seed: int = 0) -> Intervals:
    """95 % intervals of the scores of N images, for images of their kind: bootstrap over images.

    The same images and seed give the same intervals. Bias-corrected and accelerated (BCa), and as much wider
    as Student's t is than the normal distribution, which of few images matters. Raises ValueError with fewer
    than two. Source: Efron 1987; Hesterberg 2015 (for the width).
    """
    return _intervals(judged.classes, *_resampled([judged], draws, seed))


class ModelComparison(NamedTuple):
    """How much better the second of two models is: intervals of the differences, and where they come from.

    `by_image` (N,) is how much smaller the difference in AP is without each image.
    """

    differences: Intervals
    by_image: np.ndarray

    def verdict(self, first: str, second: str) -> str:
        """One sentence."""
        gain, low, high = self.differences.overall["ap"]
        span = f"AP {gain:+.3f} (95 % interval {low:+.3f} to {high:+.3f})"
        if low <= 0 <= high or np.isnan(gain):
            return f"{len(self.by_image)} images do not tell which is better: {second} has {span}"
        return f"{second} is {'better' if gain > 0 else 'worse'} than {first}: {span}"


def compare_models(first: Judged, second: Judged, draws: int = DRAWS, seed: int = 0) -> ModelComparison:
    """The scores of `second` less those of `first` on the same N images, which are drawn together (paired).

    Raises ValueError where images or classes differ, and as `bootstrap` does.
    """
    a, b = first.found, second.found
    same = a.true_image.tolist() == b.true_image.tolist() and a.true_labels.tolist() == b.true_labels.tolist()
    if a.images != b.images or first.classes != second.classes or not same:
        raise ValueError("the two models were judged on different images or classes: use the same for both")
    left_out = 1 - np.eye(a.images)
    without = _mean_ap(second, left_out) - _mean_ap(first, left_out)
    made = _intervals(first.classes, *_resampled([second, first], draws, seed))
    return ModelComparison(made, np.nan_to_num(made.overall["ap"].value - without))


def _mean_ap(judged: Judged, weights: np.ndarray) -> np.ndarray:
    """AP (B,) over all classes."""
    return _scores(judged, weights)[:, 0, 0]


def _resampled(models: list[Judged], draws: int, seed: int) -> list[np.ndarray]:
    """Scores (1, K + 1, 6), of all draws (B, …) and of all blocks left out (J, …); of two models the first's
    less the second's."""
    images = models[0].found.images
    if images < 2:
        raise ValueError(f"there is no interval for {images} image: give at least two")
    parts = np.arange(images) % min(images, BLOCKS)
    left_out = parts != np.unique(parts)[:, None]  # (J, N)
    weights = np.ones((1, images)), draw_images(images, draws, seed), left_out.astype(int)
    scores = [[_scores(model, w) for w in weights] for model in models]
    return scores[0] if len(models) == 1 else list(map(np.subtract, *scores))


def _scores(judged: Judged, weights: np.ndarray) -> np.ndarray:
    """`NUMBERS` for weights (B, N): the mean over classes with objects, then each class (B, K + 1, 6)."""
    each = weighted_ap(judged, weights)
    some = ~np.isnan(each)
    mean = np.where(some, each, 0).sum(1) / np.where(some.any(1), some.sum(1), np.nan)
    return np.concatenate([mean[:, None], each], axis=1)


def _intervals(classes: list[str], value: np.ndarray, drawn: np.ndarray, left_out: np.ndarray) -> Intervals:
    rows = [
        {name: _interval(value[0, k, i], drawn[:, k, i], left_out[:, k, i]) for i, name in enumerate(NUMBERS)}
        for k in range(len(classes) + 1)
    ]
    return Intervals(rows[0], dict(zip(classes, rows[1:], strict=True)))


def _interval(value: float, drawn: np.ndarray, left_out: np.ndarray) -> Interval:
    """BCa from a score, that of the draws (B,) and of the blocks left out (J,)."""
    drawn, left_out = drawn[~np.isnan(drawn)], left_out[~np.isnan(left_out)]
    if np.isnan(value) or not len(drawn) or len(left_out) < 2:
        return Interval(float(value), np.nan, np.nan)
    normal, n = NormalDist(), len(left_out)
    below = ((drawn < value).mean() + (drawn <= value).mean()) / 2
    bias = normal.inv_cdf(min(max(below, 0.5 / len(drawn)), 1 - 0.5 / len(drawn)))
    pull = left_out.mean() - left_out
    skew = (pull**3).sum() / (6 * max((pull**2).sum(), 1e-12) ** 1.5)
    z = normal.inv_cdf(0.975)
    wide = (z + (z**3 + z) / (4 * (n - 1))) * (n / (n - 1)) ** 0.5  # Student's t, nearly
    shares = [normal.cdf(bias + (bias + side) / (1 - skew * (bias + side))) for side in (-wide, wide)]
    return Interval(float(value), *(float(end) for end in np.quantile(drawn, shares)))


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
