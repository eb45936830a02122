"""The live figure of boxes: two of them to drag over an image, and their IoU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
import traitlets
from torch import Tensor

from d2lmini import plots
from d2lmini.boxes import box_iou
from d2lmini.data import Sample, Synthetic
from d2lmini.widgets.base import Figure, Live, choice, jpeg, pack

RUNNING = 2  # the held-out scene that the book follows through the whole detector
BY_HAND = "(placed by hand)"


def running_scene() -> tuple[Sample, tuple[str, ...]]:
    """The image that the book follows, and the names of its classes."""
    scenes = Synthetic("scenes", count=24, size=256, split="val")
    return scenes[RUNNING], scenes.classes


def object_names(labels: Tensor, classes: Sequence[str]) -> list[str]:
    """A name for each object (G,), numbered where a class occurs more than once.

    >>> object_names(torch.tensor([1, 0, 1]), ["star", "apple"])
    ['apple 1', 'star', 'apple 2']
    """
    names = [classes[label] for label in labels.tolist()]
    total, seen, found = Counter(names), Counter(), []
    for name in names:
        seen[name] += 1
        found.append(f"{name} {seen[name]}" if total[name] > 1 else name)
    return found


class BoxPair(Figure):
    """`data`: photo, its size (width, height) in pixels, objects (G, 4).

    `a` and `b` are normalised corners; `object_a` and `object_b` say on which object, from 1, each was
    put, 0 for none. The drawing tells both boxes and their IoU in data-a, data-b and data-iou.
    """

    script = "iou.js"
    a = traitlets.List(traitlets.Float()).tag(sync=True)
    b = traitlets.List(traitlets.Float()).tag(sync=True)
    object_a = traitlets.Int(0).tag(sync=True)
    object_b = traitlets.Int(0).tag(sync=True)


def iou(
    sample: Sample | None = None,
    classes: Sequence[str] = (),
    *,
    start: int = 1,
    b: Sequence[float] = (69, 146, 140, 200),
) -> Live:
    """Two boxes to drag and resize over an image, by pointer or keyboard, with their areas and IoU.

    Without a `sample` the image is the scene that the book follows. Box A starts on object number
    `start`, counted from 0, B at the corners `b`, in pixels. Raises ValueError for an image without
    objects, a `start` that is none of them, and a `b` that is no box within the image.
    """
    if sample is None:
        sample, classes = running_scene()
    height, width = sample.image.shape[1:]
    if not 0 <= start < len(sample.boxes):
        raise ValueError(f"the image has {len(sample.boxes)} objects, there is no number {start}")
    x0, y0, x1, y1 = b
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ValueError(f"b is {tuple(b)}: give x_min, y_min, x_max, y_max within {width} × {height} pixels")
    names = [BY_HAND, *object_names(sample.labels, classes)]
    figure = BoxPair(
        data={
            "photo": jpeg(sample.image, 80),
            "size": [width, height],
            "objects": pack(sample.boxes),
        },
        a=sample.boxes[start].tolist(),
        b=[x0 / width, y0 / height, x1 / width, y1 / height],
        alt=(
            "An image with two boxes, A and B, that can be moved and resized. What they share is hatched; "
            "beside it bars show both areas, the intersection and the union."
        ),
    )
    return Live(
        figure,
        {
            "object_a": choice("box A lies on", names, start + 1),
            "object_b": choice("box B lies on", names),
        },
        caption=(
            "Drag a box, or pull its two corners. IoU is the hatched area, which both boxes cover, divided "
            "by what they cover together. Shift a box by a third of its width, and IoU is down to 0.5."
        ),
        fallback=_shifted(sample, start),
    )


def _shifted(sample: Sample, start: int) -> plots.Drawing:
    """One object's box (dashed) and a copy of it, moved along by three shares of its width."""
    truth = sample.boxes[start]
    views = []
    for share, name in ((1 / 10, "a tenth"), (1 / 3, "a third"), (2 / 3, "two thirds")):
        step = torch.tensor([share, 0, share, 0]) * (truth[2] - truth[0])
        value = float(box_iou(truth[None], truth[None] + step))
        layers = [
            plots.Boxes(truth[None], plots.TRUTH, dashed=True),
            plots.Boxes(truth[None] + step, plots.PALETTE[1]),
        ]
        views.append(plots.View(sample.image, f"by {name}: IoU {value:.2f}", layers))
    return plots.plot_views(views, cell=230)
