"""The live figure of evaluation: one threshold moves a point on the curve and the boxes on an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import traitlets
from numpy.typing import NDArray
from torch import Tensor

from d2lmini import plots
from d2lmini.boxes import box_iou
from d2lmini.data import Batch
from d2lmini.detect import Detections
from d2lmini.errors import ERROR_KINDS, error_kinds
from d2lmini.evaluate import Curve, coco_ap
from d2lmini.evaluate import precision_recall as measure
from d2lmini.widgets.base import Figure, Live, choice, jpeg, pack, slider, steps
from d2lmini.widgets.front import pad_detections

DEMANDS = (0.5, 0.6, 0.7, 0.8, 0.9)
STOPS = np.arange(0.05, 0.951, 0.05).round(2).tolist()
SHOWN = 3  # images of each class


class PrecisionRecall(Figure):
    """`data`: names (C), stops (S), demands (I), kinds of error; image0, image1, … (P).

    `curves` (C, I, L, 3): recall, precision and the best precision from there on, NaN filling up; `counts`
    (C, I, S, 3): true positives, false positives, missed; `ap` (C, I). `which` (C, 3): the images of a
    class. Of each image boxes (P, D, 4), scores, labels (P, D), verdicts (P, I, D); true boxes (P, G, 4),
    their labels (P, G) and the score of the box that finds each, 0 where none does (P, I, G).
    """

    script = "pr_curve.js"
    class_id = traitlets.Int(0).tag(sync=True)
    demand = traitlets.Int(0).tag(sync=True)
    score = traitlets.Float(0.5).tag(sync=True)
    image = traitlets.Int(0).tag(sync=True)


def corners(curve: Curve) -> NDArray[np.float64]:
    """A curve's recall, precision and envelope (L, 3), only where it turns: at each hit and just before."""
    hit = np.diff(curve.recall, prepend=0.0) > 0
    turns = hit | np.append(hit[1:], True)[: len(hit)]
    best = np.maximum.accumulate(curve.precision[::-1])[::-1]
    return np.stack([curve.recall, curve.precision, best], 1)[turns]


def counts(curve: Curve) -> list[tuple[int, int, int]]:
    """True positives, false positives and missed objects at each of `STOPS`."""
    shown = [int((curve.scores >= stop).sum()) for stop in STOPS]
    right = [round(curve.recall[n - 1] * curve.objects) if n and curve.objects else 0 for n in shown]
    return [(tp, n - tp, curve.objects - tp) for tp, n in zip(right, shown, strict=True)]


def finders(found: Detections, verdicts: Sequence[str], boxes: Tensor, labels: Tensor) -> Tensor:
    """Scores (G,) of the detections that find the objects of an image, 0 for those never found.

    Each right detection, best first, has found the object of its class that is free and overlaps it most.
    """
    scores = torch.zeros(len(labels))
    iou = box_iou(found.boxes, boxes)  # (D, G)
    for d, verdict in enumerate(verdicts):
        if verdict == "correct":
            free = (labels == found.labels[d]) & (scores == 0)
            scores[torch.where(free, iou[d], -1.0).argmax()] = found.scores[d]
    return scores


def telling(batch: Batch, detections: Sequence[Detections], class_id: int) -> list[int]:
    """The images with the most to see of a class: many objects, then many detections."""
    objects = (batch.labels == class_id).sum(1).tolist()
    boxes = [int(((d.labels == class_id) & (d.scores >= 0.3)).sum()) for d in detections]
    return sorted(range(len(objects)), key=lambda i: (-objects[i], -boxes[i], i))[:SHOWN]


def precision_recall(
    batch: Batch,
    detections: Sequence[Detections],
    classes: Sequence[str],
    class_id: int = 0,
    score: float = 0.5,
) -> Live:
    """A detector's precision over recall, and its boxes, by class, by the IoU demanded, by score.

    `detections` has one entry for each image of `batch`. Raises ValueError as `evaluate` does, and for
    fewer than three images.
    """
    if len(batch.images) < SHOWN:
        raise ValueError(f"{len(batch.images)} images: pass at least {SHOWN}")
    curves = [
        [measure(detections, batch.boxes, batch.labels, k, t) for t in DEMANDS] for k in range(len(classes))
    ]
    turns = [[corners(curve) for curve in row] for row in curves]
    table = np.full((len(classes), len(DEMANDS), max(len(t) for row in turns for t in row), 3), np.nan)
    for k, row in enumerate(turns):
        for i, points in enumerate(row):
            table[k, i, : len(points)] = points
    rows = [telling(batch, detections, k) for k in range(len(classes))]
    shown = sorted({i for row in rows for i in row})
    figure = PrecisionRecall(
        data={
            "names": list(classes),
            "stops": STOPS,
            "demands": list(DEMANDS),
            "kinds": list(ERROR_KINDS),
            "curves": pack(table),
            "counts": pack([[counts(curve) for curve in row] for row in curves]),
            "ap": pack([[coco_ap(curve) for curve in row] for row in curves]),
            "which": pack([[shown.index(i) for i in row] for row in rows]),
            **_images(batch, detections, shown),
        },
        alt="Precision over recall with the point of the chosen score, and the boxes of one image.",
    )
    return Live(
        figure,
        {
            "class_id": choice("class", classes, class_id),
            "demand": steps("IoU demanded", [f"{t:.2f}" for t in DEMANDS]),
            "score": slider("score at least", STOPS[0], STOPS[-1], 0.05, score),
            "image": steps("image", list(range(1, SHOWN + 1))),
        },
        caption=(
            "A lower score threshold moves the point to the right: more objects found, and more false "
            "alarms. Demanding a tighter fit bends the whole curve down: the same boxes, judged harder."
        ),
        fallback=_fallback(curves[class_id], classes[class_id]),
    )


def _images(batch: Batch, detections: Sequence[Detections], shown: Sequence[int]) -> dict[str, object]:
    """What is drawn over the images: every box and what became of it, at each IoU demanded."""
    index = torch.tensor(shown)
    part, found = batch.select(index), [detections[i].at_least(STOPS[0]) for i in shown]
    rows = pad_detections(found)
    verdicts = np.zeros((len(shown), len(DEMANDS), rows.labels.shape[1]), np.uint8)
    scores = torch.zeros(len(shown), len(DEMANDS), part.labels.shape[1])
    for i, demand in enumerate(DEMANDS):
        kinds = error_kinds(found, part.boxes, part.labels, score_threshold=0.0, iou_threshold=demand)
        for p, row in enumerate(kinds):
            verdicts[p, i, : len(row)] = [ERROR_KINDS.index(kind) for kind in row]
            scores[p, i] = finders(found[p], row, part.boxes[p], part.labels[p])
    return {
        **{f"image{p}": jpeg(image, 75) for p, image in enumerate(part.images)},
        "boxes": pack(rows.boxes),
        "scores": pack(rows.scores),
        "labels": pack(rows.labels),
        "verdicts": pack(verdicts),
        "truth_boxes": pack(part.boxes),
        "truth_labels": pack(part.labels),
        "found_at": pack(scores),
    }


def _fallback(curves: Sequence[Curve], name: str) -> plots.Drawing:
    """The curves of one class for three demands."""
    drawing = None
    for i in (0, 2, 4):
        ax = drawing.axes[0] if drawing else None
        label = f"{name}, IoU ≥ {DEMANDS[i]:.1f}"
        curve = curves[i]
        drawing = plots.plot_precision_recall(
            curve.recall, curve.precision, ap=coco_ap(curve), label=label, ax=ax
        )
    return drawing
