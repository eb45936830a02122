"""The live figure of prediction: non-maximum suppression, hard and soft, one step at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import traitlets
from torch import Tensor

from d2lmini import plots
from d2lmini.boxes import box_iou
from d2lmini.data import Sample
from d2lmini.detect import Detections, detect, nms, soft_factor
from d2lmini.model import Predictions
from d2lmini.widgets.base import Figure, Live, choice, jpeg, pack, slider, steps, switch
from d2lmini.widgets.front import pad_detections, sample_titles

METHODS = ("hard", "linear", "Gaussian")
IOUS = np.arange(0.15, 0.751, 0.1).round(2).tolist()
SIGMAS = np.arange(0.1, 0.901, 0.2).round(2).tolist()
SETTINGS = [("linear", t, 0.5) for t in IOUS] + [("gaussian", 0.45, s) for s in SIGMAS]
STEPS = 8  # after them comes the end
LEAST, MOST = 0.1, 40  # the candidates' lowest score, and how many of them


class NMSStepper(Figure):
    """`data`: image0, image1, …; names, ious (I), sigmas (S); for each of P images its candidates, best
    first: boxes (P, M, 4), scores, labels (P, M), label -1 where there is none.

    `removed_by` (P, 2, I, M): the better box that removes a candidate in hard NMS, -1 if it stays; first
    among all classes, then class by class. `order` (P, 2, I + S, M): which box soft NMS takes when, linear
    for each IoU threshold, then Gaussian for each σ; `left` (P, 2, I + S, STEPS + 2, M): all scores after 0,
    1, … STEPS steps and at the end. `x` (X) and `factors` (I + I + S, X): what a score is multiplied by, over
    IoU. A score threshold needs no table: it cuts the list, and what is below changes nothing above.
    """

    script = "nms.js"
    image = traitlets.Int(0).tag(sync=True)
    method = traitlets.Int(0).tag(sync=True)
    step = traitlets.Int(1).tag(sync=True)
    score = traitlets.Float(0.1).tag(sync=True)
    iou = traitlets.Float(0.45).tag(sync=True)
    sigma = traitlets.Float(0.5).tag(sync=True)
    aware = traitlets.Bool(True).tag(sync=True)


def candidates(predictions: Predictions, anchors: Tensor) -> list[Detections]:
    """What enters NMS of each image: decoded boxes, best first, that score at least `LEAST`."""
    options = {"score_threshold": LEAST, "max_detections": MOST}
    return detect(*predictions, anchors, iou_threshold=1.0, **options)  # removes nothing


def removers(found: Detections, iou_threshold: float, aware: bool) -> Tensor:
    """The kept box that removes each box (M,) in greedy NMS, -1 where it is kept itself."""
    boxes, scores, labels = found
    kept = nms(boxes, scores, iou_threshold, labels if aware else None)
    near = box_iou(boxes, boxes[kept]) > iou_threshold  # (M, K)
    if aware:
        near &= labels.unsqueeze(1) == labels[kept]
    first = kept[near.float().argmax(1)]  # the best kept box that is near
    first[kept] = -1
    return first


def soft_steps(
    found: Detections, kind: str, iou_threshold: float, sigma: float, aware: bool
) -> tuple[Tensor, Tensor]:
    """Soft-NMS in slow motion: which box is taken when (M,), and all scores (STEPS + 2, M).

    A box keeps the score that it had when it was taken; one that has lost all its score comes last.
    """
    boxes, scores, labels = found
    factors = soft_factor(box_iou(boxes, boxes), kind, iou_threshold, sigma)  # (M, M)
    if aware:
        factors = torch.where(labels.unsqueeze(1) == labels, factors, 1.0)
    free, order, history = torch.ones_like(labels, dtype=torch.bool), [], [scores]
    for _ in range(len(scores)):
        best = int(torch.where(free, scores, -1.0).argmax())
        free[best] = False
        scores = torch.where(free, scores * factors[best], scores)
        order.append(best)
        history.append(scores)
    rows = [min(k, len(order)) for k in range(STEPS + 1)] + [len(order)]
    return torch.tensor(order), torch.stack(history)[rows]


class Tables(NamedTuple):
    """What `NMSStepper` holds of one image, or of several with one axis more in front."""

    removed_by: Tensor
    order: Tensor
    left: Tensor


def tables(found: Detections, most: int) -> Tables:
    """Every stop of every method for one image, filled up with zeros to `most` candidates."""
    hard = [torch.stack([removers(found, t, aware) for t in IOUS]) for aware in (False, True)]
    soft = [[soft_steps(found, *s, aware) for s in SETTINGS] for aware in (False, True)]
    order, left = (torch.stack([torch.stack([s[i] for s in row]) for row in soft]) for i in (0, 1))
    room = (0, most - len(found.scores))
    return Tables(*(torch.nn.functional.pad(part, room) for part in (torch.stack(hard), order, left)))


def nms_stepper(
    samples: Sequence[Sample],
    predictions: Predictions,
    anchors: Tensor,
    classes: Sequence[str],
    method: str = "hard",
) -> Live:
    """NMS on a network's answers for some images, step by step: which box is taken, what it removes.

    `predictions` are for these images: logits (P, A, K + 1), offsets (P, A, 4). Raises ValueError for
    another method than one of `METHODS`, for another number of predictions, and for an image where
    nothing scores `LEAST` or more.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}: choose from {METHODS}")
    if len(predictions.logits) != len(samples) or not samples:
        raise ValueError(f"predictions of {len(predictions.logits)} images for {len(samples)} samples")
    found = candidates(predictions, anchors)
    for i, one in enumerate(found):
        if not len(one.scores):
            raise ValueError(f"no box of image {i} scores {LEAST} or more: choose another image")
    rows = pad_detections(found)
    parts = Tables(*map(torch.stack, zip(*(tables(d, rows.labels.shape[1]) for d in found), strict=True)))
    x = torch.arange(101, dtype=torch.float64) / 100  # so that a stop, such as 0.65, is met exactly
    factors = [torch.where(x > t, 0.0, 1.0) for t in IOUS] + [soft_factor(x, *s) for s in SETTINGS]
    figure = NMSStepper(
        data={
            **{f"image{i}": jpeg(s.image) for i, s in enumerate(samples)},
            "names": list(classes),
            "ious": IOUS,
            "sigmas": SIGMAS,
            "boxes": pack(rows.boxes),
            "scores": pack(rows.scores),
            "labels": pack(rows.labels),
            "removed_by": pack(parts.removed_by, "<i2"),
            "order": pack(parts.order, "<i2"),
            "left": pack(parts.left),
            "x": pack(x),
            "factors": pack(torch.stack(factors)),
        },
        alt="Boxes before, during and after suppression over the image; their scores; what lowers them.",
    )
    return Live(
        figure,
        {
            "image": choice("image", sample_titles(samples)),
            "method": choice("method", METHODS, METHODS.index(method)),
            "step": steps("step", [*range(STEPS + 1), "end"], 1),
            "score": slider("score at least", LEAST, 0.9, 0.05, LEAST),
            "iou": slider("IoU above", IOUS[0], IOUS[-1], 0.1, 0.45),
            "sigma": slider("σ (Gaussian)", SIGMAS[0], SIGMAS[-1], 0.2, 0.5, ".1f"),
            "aware": switch("only boxes of the same class", True),
        },
        caption=(
            "Suppression takes the best box that is left and removes, or lowers, what overlaps it; then "
            "again. Boxes below the score threshold would change nothing, so they need not take part."
        ),
        fallback=_fallback(samples[0], found[0]),
    )


def _fallback(sample: Sample, found: Detections) -> plots.Drawing:
    """The candidates; the first box taken with those it removes; what is left."""
    removed = removers(found, 0.45, True)
    colors = [plots.class_color(k) for k in found.labels.tolist()]

    def layer(mask: Tensor, width: float) -> plots.Boxes:
        inks = [c for c, m in zip(colors, mask.tolist(), strict=True) if m]
        return plots.Boxes(found.boxes[mask], inks, linewidth=width)

    first = torch.arange(len(removed)) == 0
    gone, kept = removed == 0, removed == -1
    views = [
        plots.View(sample.image, f"{len(removed)} candidates", [layer(removed > -2, 0.8)]),
        plots.View(
            sample.image,
            f"step 1 removes {int(gone.sum())}",
            [plots.Boxes(found.boxes[gone], "#FFFFFF", linewidth=0.8), layer(first, 2.5)],
        ),
        plots.View(sample.image, f"the end: {int(kept.sum())} are left", [layer(kept, 1.5)]),
    ]
    return plots.plot_views(views, cell=220)
