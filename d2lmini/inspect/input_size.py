"""A trained detector at other image sizes: what it costs, what its anchors cover, and what it finds."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2lmini.anchors import make_anchors
from d2lmini.boxes import box_area, box_iou
from d2lmini.data import Batch, Synthetic, load
from d2lmini.detect import detect
from d2lmini.engine.validation import predict_batched
from d2lmini.model import Predictions, TinySSD

KINDS = ("grow with the image", "keep their pixels")  # what anchors can do at another size


def multiply_adds(model: TinySSD) -> dict[str, int]:
    """Multiplications, each with an addition, of all convolutions for one image.

    By part: backbone, class heads, box heads. Counted from the shape of every layer's output; the other
    layers, about a hundredth of the work, are left out.
    """
    counts = dict.fromkeys(("backbone", "class_heads", "box_heads"), 0)
    shadow = copy.deepcopy(model).to("meta").eval()  # shapes without numbers

    def count(part: str, layer: nn.Conv2d, _: Any, output: Tensor) -> None:
        counts[part] += output.numel() * layer.weight[0].numel()

    for part in counts:
        for layer in getattr(shadow, part).modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(partial(count, part))
    shadow(torch.zeros(1, 3, *model.image_size, device="meta"))
    return counts


class AtSize(NamedTuple):
    """A detector at an image size of `size` pixels; each dict has a value (G,) for each of `KINDS`.

    They are an object's best IoU with an anchor, how many anchors reach 0.5, and its best IoU with a
    detection of its class.
    """

    size: int
    anchors: int
    multiply_adds: int
    covered: dict[str, Tensor]
    positives: dict[str, Tensor]
    found: dict[str, Tensor]


class SizeStudy(NamedTuple):
    """Sides √(width · height) of the objects (G,), as fractions of the image's, and a row per size."""

    sides: Tensor
    rows: list[AtSize]


def by_input_size(
    model: TinySSD, sizes: Sequence[int], count: int = 24, score_threshold: float = 0.3
) -> SizeStudy:
    """Run a detector of scenes on the same `count` held-out ones, drawn at each of `sizes` in pixels.

    The ground truth is that of the largest size. Anchors either grow with the image or keep the pixels that
    they had in training. Raises ValueError without sizes.
    """
    if not sizes:
        raise ValueError("there are no sizes to look at: give at least one")
    trained_at, model = model.image_size[0], copy.deepcopy(model)
    batches = {size: load(Synthetic("scenes", count=count, size=size, split="val")) for size in sizes}
    truth = batches[max(sizes)]
    boxes = truth.boxes[truth.labels >= 0]  # (G, 4)
    rows = []
    for size in sizes:
        shapes = [shape[1:] for shape in model.set_image_size(size)]
        kept = make_anchors(shapes, model.anchor_spec.scaled(trained_at / size))
        predictions = predict_batched(model, batches[size].images, batch_size=8, precision="float32")
        covered, positives, found = {}, {}, {}
        for kind, anchors in zip(KINDS, (model.anchors, kept), strict=True):
            iou = box_iou(boxes, anchors)  # (G, A)
            covered[kind], positives[kind] = iou.amax(1), (iou >= 0.5).sum(1)
            found[kind] = _found(predictions, anchors, truth, score_threshold)
        rows.append(AtSize(size, len(kept), sum(multiply_adds(model).values()), covered, positives, found))
    return SizeStudy(box_area(boxes).sqrt(), rows)


def _found(predictions: Predictions, anchors: Tensor, truth: Batch, score_threshold: float) -> Tensor:
    """Each object's best IoU (G,) with a detection of its own class, 0 without one."""
    best = []
    for i, found in enumerate(detect(*predictions, anchors, score_threshold=score_threshold)):
        sample = truth.sample(i)
        same = sample.labels[:, None] == found.labels  # (objects, detections)
        best.append(F.pad(box_iou(sample.boxes, found.boxes) * same, (0, 1)).amax(1))
    return torch.cat(best)
