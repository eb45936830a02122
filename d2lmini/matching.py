"""Matching: which anchor is responsible for which object, and what it has to learn.

The rule is D2L's (14.4.3): take the largest IoU of the whole objects × anchors table, give that anchor
that object, strike out its row and column, repeat until every object has its own anchor; then every
other anchor whose best IoU reaches the threshold takes that best object.

D2L walks through this one object at a time. Here all pairs that are each other's best choice are fixed at
once, since nothing larger can ever take either of them; then the objects that lost their best anchor choose
again. A handful of such rounds gives the same answer as the walk, for all images of a batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from d2lmini.boxes import VARIANCES, Variances, box_iou, encode

# Entries of the IoU table (N, G, A) at a time: 8 MB suit a CPU's cache, a GPU wants large pieces.
CPU_ENTRIES, GPU_ENTRIES = 2**21, 2**26
BLOCK, MANY_OBJECTS = 64, 1000
TINY = torch.finfo(torch.float32).tiny  # the least IoU that counts as overlap


class Targets(NamedTuple):
    """What each anchor has to learn: `labels` (N, A) int64 and `offsets` (N, A, 4).

    Label 0 is background, c + 1 is class c; `labels > 0` are the positives. Offsets of the other
    anchors are 0.
    """

    labels: Tensor
    offsets: Tensor


def match(
    anchors: Tensor,
    boxes: Tensor,
    labels: Tensor,
    iou_threshold: float = 0.5,
    variances: Variances = VARIANCES,
) -> Targets:
    """What every anchor of every image has to learn, from padded ground truth.

    Shapes as in `assign`, which makes the assignment; an anchor with an object gets label class + 1 and
    the offsets that `encode` gives, every other anchor label 0 and offsets 0. Boxes are computed in
    float32 or wider. Nothing here waits for a GPU.
    """
    assigned = assign(anchors, boxes, labels, iou_threshold)  # (N, A)
    anchors, boxes = _at_least_float32(anchors, boxes)
    if labels.shape[1] == 0:
        return Targets(assigned + 1, anchors.new_zeros(*assigned.shape, 4))
    if assigned.device.type == "cpu":  # only the few positives, about 1 in 100, are computed
        image, anchor = (assigned >= 0).nonzero(as_tuple=True)  # (P,), (P,)
        found = assigned[image, anchor]
        classes, offsets = torch.zeros_like(assigned), anchors.new_zeros(*assigned.shape, 4)
        classes[image, anchor] = labels[image, found].long() + 1
        offsets[image, anchor] = encode(anchors[anchor], boxes[image, found], variances)
        return Targets(classes, offsets)
    index, positive = assigned.clamp(min=0), assigned >= 0
    classes = torch.where(positive, labels.long().gather(1, index) + 1, 0)
    chosen = boxes.gather(1, index.unsqueeze(-1).expand(-1, -1, 4))  # (N, A, 4)
    # An anchor without an object is its own target: offsets exactly 0, and no log of an empty box.
    chosen = torch.where(positive.unsqueeze(-1), chosen, anchors)
    return Targets(classes, encode(anchors, chosen, variances))


def assign(anchors: Tensor, boxes: Tensor, labels: Tensor, iou_threshold: float = 0.5) -> Tensor:
    """Index (N, A) int64 of the object that each anchor is responsible for, or -1 for none.

    Shapes: anchors (A, 4), boxes (N, G, 4) corners, labels (N, G) with -1 for padding. Among equal IoUs
    the anchor with the lower index wins, then the object with the lower index. Never matched: padding,
    and a box that is empty, reversed or not finite. An object that overlaps no free anchor at all stays
    without one (so do objects left over when there are more of them than anchors). Source: D2L 14.4.3;
    SSD, section 2.2. Raises ValueError for shapes that do not fit.
    """
    fits = anchors.shape[-1:] == (4,) and anchors.ndim == 2 and boxes.shape == (*labels.shape, 4)
    if not fits or labels.ndim != 2:
        raise ValueError(
            f"anchors {tuple(anchors.shape)}, boxes {tuple(boxes.shape)}, labels {tuple(labels.shape)}: "
            "expected (A, 4), (N, G, 4) and (N, G)"
        )
    anchors, boxes = _at_least_float32(anchors, boxes)
    (n, g), a = labels.shape, len(anchors)
    if n == 0 or g == 0 or a == 0:
        return labels.new_full((n, a), -1, dtype=torch.int64)
    usable = (labels >= 0) & boxes.isfinite().all(-1)
    boxes = torch.where(usable.unsqueeze(-1), boxes, 0)  # an empty box has IoU 0 with everything
    padded = torch.cat([anchors, anchors.new_zeros(-a % BLOCK, 4)])  # to whole blocks: see `_best_anchors`
    entries = CPU_ENTRIES if boxes.device.type == "cpu" else GPU_ENTRIES
    pieces = boxes.split(max(1, entries // (g * len(padded))))  # as many images as fit into one table
    tables = [assign_by_iou(box_iou(piece, padded), iou_threshold) for piece in pieces]
    return (torch.cat(tables) if len(tables) > 1 else tables[0])[:, :a]


def _at_least_float32(anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Both in their common type, or in float32 where that is wider: half precision is too coarse."""
    dtype = torch.promote_types(torch.promote_types(anchors.dtype, boxes.dtype), torch.float32)
    return anchors.to(dtype), boxes.to(dtype)


def assign_by_iou(iou: Tensor, iou_threshold: float) -> Tensor:
    """`assign` from a table of IoUs (N, G, A): the object of each anchor (N, A), or -1."""
    n, g, a = iou.shape
    least = max(iou_threshold, TINY)
    if iou.device.type == "cpu":  # few anchors reach the threshold, and only they need an argmax
        image, anchor = ((iou.amax(dim=1) if g > 1 else iou[:, 0]) >= least).nonzero(as_tuple=True)
        assigned = torch.full((n, a + 1), -1)
        assigned[image, anchor] = iou.transpose(1, 2)[image, anchor].argmax(-1)
    else:
        best, found = iou.max(dim=1)  # (N, A)
        assigned = F.pad(torch.where(best >= least, found, -1), (0, 1))
    greedy = _greedy_in_order if iou.device.type == "cpu" and g > MANY_OBJECTS else greedy_anchors
    anchor, found = greedy(iou)  # (N, G): an anchor of its own for every object goes before
    place = torch.where(found, anchor, a)  # column A takes what objects without an anchor write
    objects = torch.arange(g, device=iou.device).expand(n, g)
    return assigned.scatter_(1, place, objects)[:, :a]


def greedy_anchors(iou: Tensor) -> tuple[Tensor, Tensor]:
    """One anchor for each object, largest IoU of the table (N, G, A) first: indices (N, G), found (N, G)."""
    n, g, a = iou.shape
    value, anchor = _best_anchors(iou)  # (N, G): each object's best anchor among the free ones
    found = torch.zeros_like(value, dtype=torch.bool)
    for _ in range(min(g, a)):  # every round fixes at least the largest IoU left
        open_ = ~found & (value > 0)
        # [n, i, j]: the IoU of object i with the best anchor of object j
        rivals = iou.gather(2, anchor.unsqueeze(1).expand(n, g, g))
        rivals = torch.where(open_.unsqueeze(2), rivals, -1)
        mutual = open_ & (rivals.argmax(dim=1) == torch.arange(g, device=iou.device))
        found = found | mutual
        open_ = open_ & ~mutual
        if iou.device.type == "cpu" and not open_.any():  # asking a GPU would wait for it: all rounds run
            break
        taken = iou.new_zeros(n, a + 1).scatter_(1, torch.where(found, anchor, a), 2.0)  # more than any IoU
        lost = open_ & (taken.gather(1, anchor) > 0)
        value, anchor = _rematch(iou, taken[:, :a], lost, value, anchor)
    return anchor, found


def _greedy_in_order(iou: Tensor) -> tuple[Tensor, Tensor]:
    """`greedy_anchors`, pair by pair: its rounds compare all objects, which takes long for thousands."""
    found = torch.full(iou.shape[:2], -1)
    for table, anchor in zip(iou, found, strict=True):
        rows, columns = table.nonzero(as_tuple=True)
        order = columns.argsort(stable=True)  # of equals, the first anchor's first object
        order = order[table[rows, columns][order].argsort(descending=True, stable=True)]
        chosen, taken = {}, set()
        for i, a in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
            if i not in chosen and a not in taken:
                chosen[i] = a
                taken.add(a)
        anchor[[*chosen]] = torch.tensor([*chosen.values()], dtype=torch.int64)
    return found.clamp(min=0), found >= 0


def _rematch(
    iou: Tensor, taken: Tensor, lost: Tensor, value: Tensor, anchor: Tensor
) -> tuple[Tensor, Tensor]:
    """New best anchors for the objects (N, G) that `lost` theirs; `taken` (N, A) is 2 where one is gone."""
    if iou.device.type == "cpu":  # only the rows in question
        image, row = lost.nonzero(as_tuple=True)
        value[image, row], anchor[image, row] = (iou[image, row] - taken[image]).max(dim=-1)
        return value, anchor
    again = _best_anchors(iou - taken.unsqueeze(1))
    return torch.where(lost, again[0], value), torch.where(lost, again[1], anchor)


def _best_anchors(iou: Tensor) -> tuple[Tensor, Tensor]:
    """Largest value (N, G) and its first index along the last dimension, as `iou.max(dim=-1)`.

    In two steps, blocks and then within the best block, because a CPU finds the value of a maximum with
    vector instructions and its index without: five times faster.
    """
    if iou.shape[-1] % BLOCK:
        return iou.max(dim=-1)
    blocks = iou.unflatten(-1, (-1, BLOCK))  # (N, G, A / BLOCK, BLOCK)
    value, block = blocks.amax(-1).max(dim=-1)
    row = blocks.take_along_dim(block[..., None, None], dim=-2).squeeze(-2)  # (N, G, BLOCK)
    return value, block * BLOCK + row.argmax(-1)
