"""The live figure of prediction: non-maximum suppression, hard and soft, one step at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import traitlets
from torch import Tensor

from d2lmini import show
from d2lmini.boxes import box_iou
from d2lmini.data import Sample
from d2lmini.detect import Detections, detect, nms, soft_factor, soft_nms
from d2lmini.model import Predictions
from d2lmini.widgets.base import Figure, Live, choice, pack, picture, slider, steps, switch
from d2lmini.widgets.front import count_of, pad_detections

METHODS = ("hard", "linear", "Gaussian")
IOUS = np.arange(0.15, 0.751, 0.1).round(2).tolist()
SIGMAS = np.arange(0.1, 0.901, 0.2).round(2).tolist()
SETTINGS = [("linear", t, 0.5) for t in IOUS] + [("gaussian", 0.45, s) for s in SIGMAS]
STEPS = 8  # after them comes the end
LEAST, MOST = 0.1, 40  # the candidates' lowest score, and how many of them


class NMSStepper(Figure):
    """`data`: image0, image1, …; names, ious (I), sigmas (S); for each of P pictures its candidates, best
    first: boxes (P, M, 4), scores, labels (P, M), label -1 where there is none.

    `removed_by` (P, 2, I, M): the better box that removes a candidate in hard NMS, -1 if it stays; first
    among all classes, then class by class. `order` (P, 2, I + S, M): which box soft NMS takes when, linear
    for each IoU threshold, then Gaussian for each σ; `left` (P, 2, I + S, STEPS + 2, M): all scores after 0,
    1, … STEPS steps and at the end. `x` (X) and `factors` (I + I + S, X): what a score is multiplied by, over
    IoU. A score threshold needs no table: it cuts the list, and what is below changes nothing above.
    """

    script = "nms.js"
    picture = traitlets.Int(0).tag(sync=True)
    method = traitlets.Int(0).tag(sync=True)
    step = traitlets.Int(1).tag(sync=True)
    score = traitlets.Float(0.1).tag(sync=True)
    iou = traitlets.Float(0.45).tag(sync=True)
    sigma = traitlets.Float(0.5).tag(sync=True)
    aware = traitlets.Bool(True).tag(sync=True)


def candidates(predictions: Predictions, anchors: Tensor) -> list[Detections]:
    """What enters NMS of each picture: decoded boxes, best first, that score at least `LEAST`."""
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
) -> tuple[Tensor, ...]:
    """Soft-NMS in slow motion: which box is taken when (M,), and all scores (STEPS + 2, M).

    A box keeps the score that it had when it was taken.
    """
    boxes, scores, labels = found
    groups = labels.unsqueeze(0) if aware else None
    valid = torch.ones(1, len(scores), dtype=torch.bool)
    options = (kind, iou_threshold, sigma, groups, len(scores))
    taken = soft_nms(boxes.unsqueeze(0), scores.unsqueeze(0), valid, *options).order[0]
    # A box whose score has become 0 is never taken: it comes last.
    order = torch.tensor(list(dict.fromkeys([*taken.tolist(), *range(len(scores))])))  # (M,)
    factors = soft_factor(box_iou(boxes[order], boxes), kind, iou_threshold, sigma)  # (M, M)
    if aware:
        factors = torch.where(labels[order].unsqueeze(1) == labels, factors, 1.0)
    place = order.argsort()
    done = torch.arange(len(order)).unsqueeze(1) >= place  # (M, M): row k is after step k + 1
    factors = torch.where(done, 1.0, factors)  # those taken are lowered no more
    history = torch.cat([scores.unsqueeze(0), scores * factors.cumprod(0)])  # (M + 1, M)
    rows = [min(k, len(order)) for k in range(STEPS + 1)] + [len(order)]
    return order, history[rows]


class Tables(NamedTuple):
    """What `NMSStepper` holds of one picture, or of several with one axis more in front."""

    removed_by: Tensor
    order: Tensor
    left: Tensor


def tables(found: Detections, most: int) -> Tables:
    """Every stop of every method for one picture, filled up with zeros to `most` candidates."""
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
    """NMS on a network's answers for some pictures, step by step: which box is taken, what it removes.

    `predictions` are for these pictures: logits (P, A, K + 1), offsets (P, A, 4). Raises ValueError for
    another method than one of `METHODS`, for another number of predictions, and for a picture where
    nothing scores `LEAST` or more.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}: choose from {METHODS}")
    if len(predictions.logits) != len(samples) or not samples:
        raise ValueError(f"predictions of {len(predictions.logits)} pictures for {len(samples)} samples")
    found = candidates(predictions, anchors)
    for i, one in enumerate(found):
        if not len(one.scores):
            raise ValueError(f"no box of picture {i} scores {LEAST} or more: choose another picture")
    rows = pad_detections(found)
    parts = Tables(*map(torch.stack, zip(*(tables(d, rows.labels.shape[1]) for d in found), strict=True)))
    x = torch.arange(101, dtype=torch.float64) / 100  # so that a stop, such as 0.65, is met exactly
    factors = [torch.where(x > t, 0.0, 1.0) for t in IOUS] + [soft_factor(x, *s) for s in SETTINGS]
    figure = NMSStepper(
        data={
            **{f"image{i}": picture(s.image) for i, s in enumerate(samples)},
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
        alt="Boxes before, during and after suppression over the picture; their scores; what lowers them.",
    )
    titles = [f"{letter}: {count_of(len(s.labels))}" for letter, s in zip("ABCDEFGH", samples, strict=False)]
    return Live(
        figure,
        {
            "picture": choice("picture", titles),
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


def _fallback(sample: Sample, found: Detections) -> show.Drawing:
    """The candidates; the first box taken with those it removes; what is left."""
    removed = removers(found, 0.45, True)
    colours = [show.class_colour(k) for k in found.labels.tolist()]

    def layer(mask: Tensor, width: float) -> show.Boxes:
        inks = [c for c, m in zip(colours, mask.tolist(), strict=True) if m]
        return show.Boxes(found.boxes[mask], inks, linewidth=width)

    first = torch.arange(len(removed)) == 0
    gone, kept = removed == 0, removed == -1
    views = [
        show.View(sample.image, f"{len(removed)} candidates", [layer(removed > -2, 0.8)]),
        show.View(
            sample.image,
            f"step 1 removes {int(gone.sum())}",
            [show.Boxes(found.boxes[gone], "#FFFFFF", linewidth=0.8), layer(first, 2.5)],
        ),
        show.View(sample.image, f"the end: {int(kept.sum())} are left", [layer(kept, 1.5)]),
    ]
    return show.plot_views(views, cell=220)
