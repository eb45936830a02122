"""Box formats, IoU and offsets relative to an anchor: batched, with the device and dtype of the input."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Variances(NamedTuple):
    """Scales that bring centre and size offsets to about unit variance (SSD, section 2.2, footnote)."""

    center: float = 0.1
    size: float = 0.2


VARIANCES = Variances()


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(x_min, y_min, x_max, y_max) to (centre x, centre y, width, height), shape (..., 4).

    >>> xyxy_to_cxcywh(torch.tensor([0.25, 0.0, 0.75, 1.0]))
    tensor([0.5000, 0.5000, 0.5000, 1.0000])
    """
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(centre x, centre y, width, height) to (x_min, y_min, x_max, y_max), shape (..., 4).

    >>> cxcywh_to_xyxy(torch.tensor([0.5, 0.5, 0.5, 1.0]))
    tensor([0.2500, 0.0000, 0.7500, 1.0000])
    """
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([center - half, center + half], dim=-1)


def box_area(boxes: Tensor) -> Tensor:
    """Areas (...) of corner boxes (..., 4), in squared units of the input; a reversed box has none."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every box of `a` with every box of `b` (Jaccard index).

    Shapes: a (..., M, 4), b (..., N, 4), both corners, leading dimensions broadcast; the result is
    (..., M, N) in [0, 1]. A box without area overlaps nothing: its row or column is 0, never NaN.

    >>> a = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    >>> box_iou(a, torch.tensor([[0.0, 0.0, 1.0, 0.5], [2.0, 2.0, 2.0, 2.0]]))
    tensor([[0.5000, 0.0000]])
    """
    if not a.is_floating_point() or not b.is_floating_point():
        raise ValueError(f"boxes must be floating point, got {a.dtype} and {b.dtype}: call .float()")
    a, b = a.unsqueeze(-2), b.unsqueeze(-3)  # (..., M, 1, 4), (..., 1, N, 4)
    area_a, area_b = box_area(a), box_area(b)
    area_a = torch.where(area_a > 0, area_a, 1)  # an empty box must not divide 0 by 0
    area_b = torch.where(area_b > 0, area_b, 0)  # nor infinity times 0 give NaN
    # Each coordinate contiguous: with strided ones the same arithmetic takes ten times as long.
    a, b = a.movedim(-1, 0).contiguous(), b.movedim(-1, 0).contiguous()
    width, height = (interval_overlap(a[k], a[k + 2], b[k], b[k + 2]) for k in (0, 1))
    inter = width.mul_(height)  # (..., M, N)
    return inter / (area_a + area_b).sub_(inter)


def interval_overlap(low: Tensor, high: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Length shared by the intervals [low, high] and [start, end], 0 where they do not meet."""
    return torch.minimum(high, end).sub_(torch.maximum(low, start)).clamp_(min=0)


def encode(anchors: Tensor, boxes: Tensor, variances: Variances = VARIANCES) -> Tensor:
    """Offsets (..., 4) that move each anchor onto its box (SSD, equation 2).

    Both are corner boxes (..., 4) with sides > 0. The offset of the centre is in units of the anchor's
    sides, that of the sides a log ratio; both are divided by their variance. Inverse: `decode`.

    >>> anchor = torch.tensor([0.0, 0.0, 0.5, 0.5])
    >>> encode(anchor, torch.tensor([0.25, 0.0, 0.75, 0.5]))
    tensor([5., 0., 0., 0.])
    """
    anchor, box = xyxy_to_cxcywh(anchors), xyxy_to_cxcywh(boxes)
    center = (box[..., :2] - anchor[..., :2]) / anchor[..., 2:] / variances.center
    size = (box[..., 2:] / anchor[..., 2:]).log() / variances.size
    return torch.cat([center, size], dim=-1)


# A side is at most 62.5 times that of its anchor, as in Detectron and torchvision: an untrained or
# diverging network then gives wrong boxes, but never infinite ones.
MAX_LOG_GROWTH = 4.135


def decode(anchors: Tensor, offsets: Tensor, variances: Variances = VARIANCES) -> Tensor:
    """Corner boxes (..., 4) from anchors (corner, (..., 4)) and predicted offsets (..., 4).

    Finite offsets give finite boxes. Boxes may reach beyond the image: `detect` clips them.
    """
    anchor = xyxy_to_cxcywh(anchors)
    center = offsets[..., :2] * variances.center * anchor[..., 2:] + anchor[..., :2]
    growth = (offsets[..., 2:] * variances.size).clamp(max=MAX_LOG_GROWTH)
    return cxcywh_to_xyxy(torch.cat([center, growth.exp() * anchor[..., 2:]], dim=-1))
