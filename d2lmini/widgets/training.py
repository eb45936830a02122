"""Live figure of training: what the network said of a few images after every epoch, beside its curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import traitlets
from torch import Tensor

from d2lmini import plots
from d2lmini.boxes import box_iou
from d2lmini.data.samples import Sample
from d2lmini.detect import Detections
from d2lmini.widgets.base import Figure, Live, choice, jpeg, pack, whole

SHOWN = 5  # boxes of an image, the highest score first
LOSSES, SCORES = ("loss", "cls_loss", "box_loss"), ("ap50", "ap")


class TrainingReplay(Figure):
    """`data`: epochs; losses (E, 3) and scores (E, 2), NaN where there is none; image0 …; truth (P, G, 4),
    padded with 0; boxes (E, P, D, 4), confidence (E, P, D), 0 for none, and iou (E, P, D) with the truth."""

    script = "replay.js"
    epoch = traitlets.Int(0).tag(sync=True)
    image = traitlets.Int(0).tag(sync=True)


def training_replay(
    samples: Sequence[Sample],
    frames: Sequence[Sequence[Detections]],
    history: Sequence[Mapping[str, Any]],
    *,
    names: Sequence[str] | None = None,
    start: int | None = None,
    over: str = "held-out images",
) -> Live:
    """What the network detected in some images, epoch by epoch, beside its losses and its AP.

    `frames` holds the detections of the samples for every row of `history`, which has the epoch's number,
    and where known loss, cls_loss, box_loss, ap50 and ap. `names` are the images' in the list; `start`
    is the row shown first, the middle one if left out; `over` says which images AP is of. Raises
    ValueError when frames and history, or a frame and the samples, are not as many.
    """
    if len(frames) != len(history):
        raise ValueError(f"{len(frames)} frames for {len(history)} rows of history: give one for each")
    for number, frame in enumerate(frames):
        if len(frame) != len(samples):
            raise ValueError(f"frame {number} is of {len(frame)} images, but there are {len(samples)}")
    tables = [[_table(found, sample.boxes) for found, sample in zip(f, samples, strict=True)] for f in frames]
    rows = torch.stack([torch.stack(row) for row in tables])  # (E, P, D, 6)
    truth = torch.nn.utils.rnn.pad_sequence([s.boxes for s in samples], batch_first=True)
    start = len(history) // 2 if start is None else start
    names = [f"image {i + 1}" for i in range(len(samples))] if names is None else list(names)
    figure = TrainingReplay(
        data={
            "epochs": [row["epoch"] for row in history],
            "losses": pack([[_value(row, name) for name in LOSSES] for row in history]),
            "scores": pack([[_value(row, name) for name in SCORES] for row in history]),
            "truth": pack(truth),
            "boxes": pack(rows[..., :4]),
            "confidence": pack(rows[..., 4]),
            "iou": pack(rows[..., 5]),
            "over": over,
            **{f"image{i}": jpeg(sample.image, 88) for i, sample in enumerate(samples)},
        },
        alt="A held-out image with its best boxes after the chosen epoch, beside the losses and AP.",
        reproducible=False,
    )
    return Live(
        figure,
        {
            "epoch": whole("after epoch", history[0]["epoch"], history[-1]["epoch"], history[start]["epoch"]),
            "image": choice("image", names),
        },
        caption=(
            "The best boxes in an image that was never trained on, epoch by epoch: first anywhere, then "
            "on the object, then around it. AP at an IoU of 0.5 rises first, AP with stricter demands later."
        ),
        fallback=_fallback(samples, frames, history),
    )


def _value(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    return math.nan if value is None else float(value)


def _table(found: Detections, truth: Tensor) -> Tensor:
    """The best detections as rows (SHOWN, 6): box, score, largest IoU with an object; 0 for none."""
    rows = torch.zeros(SHOWN, 6)
    count = min(SHOWN, len(found.boxes))
    boxes = found.boxes[:count].cpu().float()
    rows[:count, :4], rows[:count, 4] = boxes, found.scores[:count].cpu().float()
    if count and len(truth):
        rows[:count, 5] = box_iou(boxes, truth).amax(-1)
    return rows


def _fallback(
    samples: Sequence[Sample], frames: Sequence[Sequence[Detections]], history: Sequence[Mapping[str, Any]]
) -> plots.Drawing:
    """Each image (three at most) at four moments, with its best box."""
    last = len(history) - 1
    moments = sorted({0, math.ceil(last / 4), math.ceil(last / 2), last})
    views = []
    for i, sample in enumerate(samples[:3]):
        for e in moments:
            found = frames[e][i]
            best = plots.Boxes(found.boxes[:1].cpu(), linewidth=2)
            truth = plots.Boxes(sample.boxes, plots.TRUTH, dashed=True, linewidth=1)
            score = f", score {float(found.scores[0]):.2f}" if len(found.scores) else ": nothing"
            views.append(plots.View(sample.image, f"epoch {history[e]['epoch']}{score}", [truth, best]))
    return plots.plot_views(views, columns=len(moments), cell=220)
