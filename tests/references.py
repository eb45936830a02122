"""Slow and obvious: what the package computes with tensors, once more with loops over numbers.

Nothing here imports the package, and nothing is clever. Numbers go in as (nested) lists of whatever
can be added and compared: floats, or `fractions.Fraction` where a tie has to be a tie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Box = Sequence[float]  # x_min, y_min, x_max, y_max


def area(box: Box) -> float:
    if box[2] <= box[0] or box[3] <= box[1]:
        return 0
    return (box[2] - box[0]) * (box[3] - box[1])


def iou(a: Box, b: Box) -> float:
    inner = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    if area(a) == 0 or area(b) == 0 or inner == 0:
        return 0
    return inner / (area(a) + area(b) - inner)


def giou(a: Box, b: Box) -> float:
    """Generalised IoU: from the IoU goes the share of the smallest box around both that neither covers."""
    hull = area((min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])))
    union = area(a) + area(b) - area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    return iou(a, b) - (hull - union) / hull


def iou_table(a: Sequence[Box], b: Sequence[Box]) -> list[list[float]]:
    return [[iou(x, y) for y in b] for x in a]


def offsets(anchor: Box, box: Box, center: float, size: float) -> list[float]:
    """Equation 2 of the SSD paper, one number at a time."""
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    return [
        ((box[0] + box[2]) / 2 - (anchor[0] + anchor[2]) / 2) / width / center,
        ((box[1] + box[3]) / 2 - (anchor[1] + anchor[3]) / 2) / height / center,
        math.log((box[2] - box[0]) / width) / size,
        math.log((box[3] - box[1]) / height) / size,
    ]


def anchors(height: int, width: int, sizes: Sequence[float], ratios: Sequence[float]) -> list[list[float]]:
    """Anchors of one feature map: every size with the first ratio, then the other ratios."""
    pairs = [(size, ratios[0]) for size in sizes]
    pairs += [(sizes[0], ratio) for ratio in ratios[1:]]
    out = []
    for row in range(height):
        for column in range(width):
            x, y = (column + 0.5) / width, (row + 0.5) / height
            for size, ratio in pairs:
                w, h = size * math.sqrt(ratio), size / math.sqrt(ratio)
                out.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return out


def assign(table: list[list[float]], usable: Sequence[bool], threshold: float) -> list[int]:
    """Greedy assignment from IoUs [anchor][object]: the largest of the whole table first.

    Equal values: the lower anchor, then the lower object. What overlaps nothing is never assigned.
    """
    rows, columns = range(len(table)), [g for g, u in enumerate(usable) if u]
    chosen = [-1 for _ in rows]
    for row in rows:  # every anchor's best object, if it is good enough
        best = max(columns, key=lambda g: (table[row][g], -g), default=None)
        if best is not None and table[row][best] > 0 and table[row][best] >= threshold:
            chosen[row] = best
    free_rows, free_columns = list(rows), list(columns)
    while free_rows and free_columns:
        value, row, column = max(
            ((table[r][c], r, c) for r in free_rows for c in free_columns),
            key=lambda entry: (entry[0], -entry[1], -entry[2]),
        )
        if value <= 0:
            break
        chosen[row] = column
        free_rows.remove(row)
        free_columns.remove(column)
    return chosen


def hard_negatives(loss: Sequence[float], labels: Sequence[int], ratio: float, minimum: int) -> list[bool]:
    """The negatives of one image that count: those of largest loss, the first among equals."""
    positives = sum(label > 0 for label in labels)
    wanted = max(positives * ratio, minimum)
    negatives = [i for i, label in enumerate(labels) if label <= 0]
    negatives.sort(key=lambda i: (-loss[i], i))
    kept = {i for rank, i in enumerate(negatives) if rank < wanted}
    return [i in kept for i in range(len(labels))]


def nms(
    table: list[list[float]],
    scores: Sequence[float],
    threshold: float,
    groups: Sequence[int] | None = None,
) -> list[int]:
    """Greedy suppression from IoUs [box][box]: take the best, delete what it covers, repeat."""
    left = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [
            i
            for i in left
            if not table[best][i] > threshold or (groups is not None and groups[i] != groups[best])
        ]
    return kept


def soft_nms(
    table: list[list[float]],
    scores: Sequence[float],
    kind: str,
    threshold: float,
    sigma: float,
    groups: Sequence[int] | None = None,
) -> list[tuple[int, float]]:
    """Bodla et al. 2017, figure 2: (box, lowered score) in the order in which they are taken."""
    scores, left, taken = list(scores), list(range(len(scores))), []
    while left:
        best = max(left, key=lambda i: (scores[i], -i))
        left.remove(best)
        taken.append((best, scores[best]))
        for i in left:
            if groups is not None and groups[i] != groups[best]:
                continue
            overlap = table[best][i]
            if kind == "linear":
                scores[i] *= 1 - overlap if overlap > threshold else 1
            else:
                scores[i] *= math.exp(-overlap * overlap / sigma)
    return taken


def smooth_l1(x: float, sigma: float) -> float:
    return (sigma * x) ** 2 / 2 if abs(x) < 1 / sigma**2 else abs(x) - 1 / (2 * sigma**2)


def softmax(logits: Sequence[float]) -> list[float]:
    top = max(logits)
    weights = [math.exp(value - top) for value in logits]
    return [weight / sum(weights) for weight in weights]


def cross_entropy(logits: Sequence[float], label: int) -> float:
    top = max(logits)
    return top + math.log(sum(math.exp(value - top) for value in logits)) - logits[label]


def focal(p: float, gamma: float) -> float:
    return -((1 - p) ** gamma) * math.log(p)
