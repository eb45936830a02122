"""Detections beside the objects of their images: checked, on the host, with their IoU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from d2lmini.boxes import box_iou

if TYPE_CHECKING:
    from d2lmini.detect import Detections

BLOCK_CELLS = 2**20  # IoUs that are computed at a time: bounds memory, not results


class Comparison(NamedTuple):
    """M detections sorted by image and falling score, and the objects of N images, in float64 and pixels.

    `given` (M,) is where each detection stood when it was given. `iou` (M, G) is with the objects of its
    image, and 0 in `own_iou` where these are of another class. `true_boxes` (N, G, 4) and `true_labels`
    (N, G) are the objects, -1 on padding, of which there is at least one.
    """

    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    given: np.ndarray
    iou: np.ndarray
    own_iou: np.ndarray
    true_boxes: np.ndarray
    true_labels: np.ndarray

    def rows_by_image(self) -> list[slice]:
        """Which rows are the detections of each image."""
        ends = np.searchsorted(self.image, np.arange(len(self.true_labels) + 1)).tolist()
        return list(map(slice, ends[:-1], ends[1:]))


def compare(
    detections: Sequence[Detections],
    boxes: Tensor,
    labels: Tensor,
    image_size: int | tuple[int, int] | Tensor = 1,
    classes: float = math.inf,
) -> Comparison:
    """Check the arguments of `evaluate`, copy them to the host, and measure their IoU."""
    _check_shapes(detections, boxes, labels)
    sides = image_size.cpu() if isinstance(image_size, Tensor) else image_size
    sides, images = np.asarray(sides, dtype=np.float64), len(labels)
    if sides.shape not in ((), (2,), (images, 2)) or not ((sides > 0) & (sides < math.inf)).all():
        raise ValueError(
            "image_size must be one side, (height, width), or an (N, 2) tensor of these, in pixels and "
            f"positive; got {image_size!r} for {images} images"
        )
    scale = np.tile(np.broadcast_to(sides, (images, 2))[:, ::-1], 2)  # (N, 4): width, height, width, height
    image = np.repeat(np.arange(len(detections)), [len(one.scores) for one in detections])
    columns = [torch.cat(column) for column in zip(*detections, strict=True)]  # one copy each from a GPU
    found_boxes, scores, found_labels = map(_to_host, columns or (torch.zeros(0, 4), *torch.zeros(2, 0)))
    true_boxes, true_labels = _to_host(F.pad(boxes, (0, 0, 0, 1))), _to_host(F.pad(labels, (0, 1), value=-1))
    real = true_labels != -1
    _check_values("detection", image, found_boxes, scores, found_labels, classes)
    no_scores = np.zeros(int(real.sum()))
    _check_values("ground truth", real.nonzero()[0], true_boxes[real], no_scores, true_labels[real], classes)

    true_boxes = np.where(real[..., None], true_boxes, 0) * scale[:, None]
    given = np.lexsort((-scores, image))
    found_boxes, scores, found_labels = (c[given] for c in (found_boxes * scale[image], scores, found_labels))
    a, b = torch.from_numpy(found_boxes), torch.from_numpy(true_boxes)
    blocks = np.array_split(np.arange(len(image)), 1 + len(image) * real.shape[1] // BLOCK_CELLS)
    iou = torch.cat([box_iou(a[rows, None], b[image[rows]])[:, 0] for rows in blocks]).numpy()  # (M, G)
    own_iou = np.where(found_labels[:, None] == true_labels[image], iou, 0)
    return Comparison(image, found_boxes, scores, found_labels, given, iou, own_iou, true_boxes, true_labels)


def _to_host(values: Tensor) -> np.ndarray:
    return values.detach().cpu().double().numpy()


def _check_shapes(detections: Sequence[Detections], boxes: Tensor, labels: Tensor) -> None:
    shapes = tuple(boxes.shape), tuple(labels.shape)
    if labels.ndim != 2 or shapes[0] != (*shapes[1], 4):
        raise ValueError(
            f"boxes must be (N, G, 4) and labels (N, G), padded with -1; got {shapes[0]} and {shapes[1]}"
        )
    if len(detections) != len(labels):
        raise ValueError(
            f"detections of {len(detections)} images but ground truth of {len(labels)}: pass one entry for "
            "each image, also where nothing was found"
        )
    for i, one in enumerate(detections):
        found, count = [tuple(t.shape) for t in one], one.scores.numel()
        if found != [(count, 4), (count,), (count,)]:
            raise ValueError(
                f"image {i}: detections must have boxes (D, 4), scores, labels (D,); got {found}"
            )


def _check_values(
    kind: str, image: np.ndarray, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, classes: float
) -> None:
    faults = {
        "a box that is NaN or infinite": ~np.isfinite(boxes).all(1),
        "x_max < x_min or y_max < y_min": (boxes[:, 2:] < boxes[:, :2]).any(1),
        "a score that is NaN or infinite": ~np.isfinite(scores),
        f"a class outside 0 to {classes - 1}": (labels < 0) | (labels >= classes),
    }
    for fault, wrong in faults.items():
        if wrong.any():
            row = wrong.argmax()
            values = f"box {boxes[row].tolist()}, class {labels[row]:g}"
            raise ValueError(f"image {image[row]}: {kind} with {fault} ({values})")
