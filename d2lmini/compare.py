"""Detections beside the objects of their images: checked, on the host, with their IoU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from d2lmini.boxes import box_iou
from d2lmini.data.detections import Detections

BLOCK_PAIRS = 2**20  # IoUs that are computed at a time: bounds memory, not results


class Comparison(NamedTuple):
    """M detections of N images sorted by image and falling score, and their G objects, in float64 and pixels.

    `given` (M,) is where each detection stood when it was given, `true_image` (G,) the image of each object.
    `pair` (P, 2) has a detection and an object of its image for each two that overlap, by detection, then
    object; `iou` (P,) is how much, and `own` (P,) whether both are of one class.
    """

    images: int
    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    given: np.ndarray
    true_image: np.ndarray
    true_boxes: np.ndarray
    true_labels: np.ndarray
    pair: np.ndarray
    iou: np.ndarray
    own: np.ndarray

    def rows_by_image(self) -> list[slice]:
        """Which rows are the detections of each image."""
        ends = np.searchsorted(self.image, np.arange(self.images + 1)).tolist()
        return list(map(slice, ends[:-1], ends[1:]))

    def best(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The object (M,) that each detection overlaps most among the chosen pairs (P,), and their IoU (M,).

        -1 and 0 where there is none; of equals the first object.
        """
        pairs = np.flatnonzero(chosen)
        pairs = pairs[np.lexsort((-self.iou[pairs], self.pair[pairs, 0]))]
        rows, first = np.unique(self.pair[pairs, 0], return_index=True)
        thing, iou = np.full(len(self.scores), -1), np.zeros(len(self.scores))
        thing[rows], iou[rows] = self.pair[pairs[first], 1], self.iou[pairs[first]]
        return thing, iou


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
    real = labels != -1
    true_image = _to_host(real.nonzero()[:, 0]).astype(int)
    true_boxes, true_labels = _to_host(boxes[real]), _to_host(labels[real])
    _check_values("detection", image, found_boxes, scores, found_labels, classes)
    _check_values("ground truth", true_image, true_boxes, np.zeros(len(true_image)), true_labels, classes)
    given = np.lexsort((-scores, image))
    found_boxes, scores, found_labels = (c[given] for c in (found_boxes * scale[image], scores, found_labels))
    true_boxes = true_boxes * scale[true_image]
    objects = np.bincount(true_image, minlength=images)  # (N,)
    pair, iou = _overlaps(found_boxes, true_boxes, objects[image], (objects.cumsum() - objects)[image])
    own = found_labels[pair[:, 0]] == true_labels[pair[:, 1]]
    found = image, found_boxes, scores, found_labels, given
    return Comparison(images, *found, true_image, true_boxes, true_labels, pair, iou, own)


def _overlaps(
    boxes: np.ndarray, objects: np.ndarray, counts: np.ndarray, first: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (P, 2) of a box (M, 4) and an object (G, 4) that overlap, and their IoU (P,).

    The objects beside a box are as many as `counts` (M,) says, from `first` (M,) on.
    """
    a, b, pairs, ious = torch.from_numpy(boxes), torch.from_numpy(objects), [np.zeros((0, 2), int)], []
    for rows in np.array_split(np.arange(len(boxes)), 1 + counts.sum() // BLOCK_PAIRS):
        repeat, ends = counts[rows], counts[rows].cumsum()
        row = np.repeat(rows, repeat)
        place = np.arange(len(row)) + np.repeat(first[rows] - ends + repeat, repeat)
        iou = box_iou(a[row, None], b[place, None])[:, 0, 0].numpy()
        pairs.append(np.stack([row, place], 1)[iou > 0])
        ious.append(iou[iou > 0])
    return np.concatenate(pairs), np.concatenate(ious)


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
