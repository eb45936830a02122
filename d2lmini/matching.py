"""Matching: which anchor answers for which object, and what it has to learn.

The rule is D2L's (14.4.3): take the largest IoU of the whole anchors × objects matrix, give that anchor
that object, strike out its row and column, repeat until every object has its own anchor; then every
other anchor whose best IoU reaches the threshold takes that best object.

D2L walks through this one object at a time. Here pairs that are each other's best choice are fixed all
at once, since nothing larger can ever take either of them; what is left is looked at again. A handful of
such rounds gives the same answer as the walk, for a whole batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from d2lmini.boxes import VARIANCES, Variances, box_iou, encode
from d2lmini.runtime import allocations_kept

# Entries of the IoU matrix worked on at a time. 2 MB stay in a processor's cache; where large buffers are
# kept (runtime.keep_allocations), 8 MB save more in calls than they cost. A GPU wants large pieces.
CPU_ENTRIES, CPU_ENTRIES_KEPT, GPU_ENTRIES = 2**19, 2**21, 2**28
BLOCK = 64
TINY = torch.finfo(torch.float32).tiny  # the least IoU that counts as one


class Targets(NamedTuple):
    """What each anchor has to learn: `labels` (N, A) int64 and `offsets` (N, A, 4).

    Label 0 is background, c + 1 is class c; `labels > 0` are the positives. Offsets of the other
    anchors are 0.
    """

    labels: Tensor
    offsets: Tensor


def assign(anchors: Tensor, boxes: Tensor, labels: Tensor, iou_threshold: float = 0.5) -> Tensor:
    """Index (N, A) int64 of the object that each anchor answers for, or -1 for none.

    Shapes: anchors (A, 4), boxes (N, G, 4) corners, labels (N, G) with -1 for padding. Among equal IoUs
    the anchor with the lower index wins, then the object with the lower index. Never matched: padding,
    and a box that is empty, reversed or not finite. An object that overlaps no free anchor at all stays
    without one (so do objects left over when there are more of them than anchors). Source: D2L 14.4.3;
    SSD, section 2.2. Raises ValueError for shapes that do not fit.
    """
    _check(anchors, boxes, labels)
    anchors, boxes = _at_least_float32(anchors, boxes)
    n, g = labels.shape
    a = anchors.shape[0]
    if n == 0 or g == 0 or a == 0:
        return labels.new_full((n, a), -1, dtype=torch.int64)
    usable = (labels >= 0) & boxes.isfinite().all(-1)
    boxes = torch.where(usable.unsqueeze(-1), boxes, 0)  # an empty box has IoU 0 with everything
    on_cpu = CPU_ENTRIES_KEPT if allocations_kept() else CPU_ENTRIES
    entries = on_cpu if boxes.device.type == "cpu" else GPU_ENTRIES
    whole_blocks = torch.cat([anchors, anchors.new_zeros(-a % BLOCK, 4)])  # empty anchors match nothing
    pieces = boxes.split(max(1, entries // (g * a)))
    chosen = [_assign_piece(box_iou(piece, whole_blocks), iou_threshold) for piece in pieces]
    return (chosen[0] if len(chosen) == 1 else torch.cat(chosen))[:, :a]


def _check(anchors: Tensor, boxes: Tensor, labels: Tensor) -> None:
    fits = anchors.shape[-1:] == (4,) and anchors.ndim == 2 and boxes.shape == (*labels.shape, 4)
    if not fits or labels.ndim != 2:
        raise ValueError(
            f"anchors {tuple(anchors.shape)}, boxes {tuple(boxes.shape)}, labels {tuple(labels.shape)}: "
            "expected (A, 4), (N, G, 4) and (N, G)"
        )


def _at_least_float32(anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Both in their common type, or in float32 where that is wider: half precision is too coarse."""
    dtype = torch.promote_types(torch.promote_types(anchors.dtype, boxes.dtype), torch.float32)
    return anchors.to(dtype), boxes.to(dtype)


def _assign_piece(iou: Tensor, iou_threshold: float) -> Tensor:
    """`assign` from the IoUs (N, G, A) themselves; one more column (N, A + 1) is a waste bin."""
    n, g, a = iou.shape
    chosen = _by_threshold(iou, iou_threshold)  # (N, A + 1)
    anchor, found = _greedy(iou)  # (N, G)
    objects = torch.arange(g, device=iou.device).expand(n, g)
    return chosen.scatter_(1, torch.where(found, anchor, a), objects)


def _by_threshold(iou: Tensor, iou_threshold: float) -> Tensor:
    """Each anchor's best object (N, A + 1), or -1 where their IoU is below the threshold (or 0)."""
    n, g, a = iou.shape
    chosen = torch.full((n, a + 1), -1, dtype=torch.int64, device=iou.device)
    if iou.device.type != "cpu":
        best, thing = iou.max(dim=1)  # (N, A)
        chosen[:, :a] = torch.where(best >= max(iou_threshold, TINY), thing, -1)
        return chosen
    # Few anchors reach the threshold, and the largest value alone comes much faster than its index.
    best = iou.amax(dim=1) if g > 1 else iou[:, 0]
    picture, anchor = (best >= max(iou_threshold, TINY)).nonzero(as_tuple=True)
    chosen[picture, anchor] = iou.transpose(1, 2)[picture, anchor].argmax(-1)
    return chosen


def _favourite(iou: Tensor) -> tuple[Tensor, Tensor]:
    """Largest value and its first index along the last dimension: the same as `iou.max(dim=-1)`.

    In two steps, blocks and then within the best block, because the value of a maximum is found with
    vector instructions and its index is not: five times faster on a CPU.
    """
    if iou.shape[-1] % BLOCK:
        return iou.max(dim=-1)
    blocks = iou.unflatten(-1, (-1, BLOCK))  # (..., A / BLOCK, BLOCK)
    value, block = blocks.amax(-1).max(dim=-1)
    row = blocks.take_along_dim(block[..., None, None], dim=-2).squeeze(-2)  # (..., BLOCK)
    return value, block * BLOCK + row.argmax(-1)


def _greedy(iou: Tensor) -> tuple[Tensor, Tensor]:
    """One anchor per object, largest IoU first: indices (N, G) and whether one was found (N, G)."""
    n, g, a = iou.shape
    value, anchor = _favourite(iou)  # (N, G): each object's favourite among the free anchors
    found = torch.zeros_like(value, dtype=torch.bool)
    for _ in range(min(g, a)):  # every round settles at least the largest IoU left
        found = found | _settled(iou, value, anchor, ~found & (value > 0))
        waiting = ~found & (value > 0)
        # On the CPU a look costs nothing; on a GPU it would wait for the device, so all rounds run.
        if iou.device.type == "cpu" and not waiting.any():
            break
        taken = iou.new_zeros(n, a + 1)  # 2 where an anchor is gone; the last column is a waste bin
        taken.scatter_(1, torch.where(found, anchor, a), 2.0)
        disappointed = waiting & (taken.gather(1, anchor) > 0)
        value, anchor = _look_again(iou, value, anchor, taken[:, :a], disappointed)
    return anchor, found


def _settled(iou: Tensor, value: Tensor, anchor: Tensor, waiting: Tensor) -> Tensor:
    """Which waiting objects (N, G) are also the best choice of the anchor they want most."""
    g = iou.shape[1]
    if g == 1:
        return waiting
    wish = iou.gather(2, anchor.unsqueeze(1).expand(-1, g, -1))  # [n, i, j]: i's IoU with j's wish
    own = value.unsqueeze(1)
    earlier = torch.ones(g, g, dtype=torch.bool, device=iou.device).triu(1)
    rival = (wish > own) | ((wish == own) & earlier)
    return waiting & ~(rival & waiting.unsqueeze(2)).any(dim=1)


def _look_again(
    iou: Tensor, value: Tensor, anchor: Tensor, taken: Tensor, disappointed: Tensor
) -> tuple[Tensor, Tensor]:
    """New favourites (value, anchor) for the objects whose wish was taken; the others keep theirs."""
    if iou.device.type != "cpu":  # all rows: picking some would wait for the device
        again = (iou - taken.unsqueeze(1)).max(dim=-1)
        return torch.where(disappointed, again[0], value), torch.where(disappointed, again[1], anchor)
    picture, thing = disappointed.nonzero(as_tuple=True)
    value, anchor = value.clone(), anchor.clone()
    again = (iou[picture, thing] - taken[picture]).max(dim=-1)
    value[picture, thing], anchor[picture, thing] = again
    return value, anchor


def match(
    anchors: Tensor,
    boxes: Tensor,
    labels: Tensor,
    iou_threshold: float = 0.5,
    variances: Variances = VARIANCES,
) -> Targets:
    """What every anchor of every picture has to learn, from padded ground truth.

    Shapes as in `assign`, which makes the assignment; an anchor with an object gets label class + 1 and
    the offsets that `encode` gives, every other anchor label 0 and offsets 0. Boxes are computed in
    float32 or wider. Nothing here waits for the device.
    """
    chosen = assign(anchors, boxes, labels, iou_threshold)
    anchors, boxes = _at_least_float32(anchors, boxes)
    if labels.shape[1] == 0:
        return Targets(chosen + 1, anchors.new_zeros(*chosen.shape, 4))
    if chosen.device.type != "cpu":
        index = chosen.clamp(min=0)
        classes = torch.where(chosen >= 0, labels.long().gather(1, index) + 1, 0)
        assigned = boxes.gather(1, index.unsqueeze(-1).expand(-1, -1, 4))  # (N, A, 4)
        # An anchor without an object is its own target: offsets exactly 0, and no log of an empty box.
        assigned = torch.where((chosen >= 0).unsqueeze(-1), assigned, anchors)
        return Targets(classes, encode(anchors, assigned, variances))
    # On the CPU, where a look is free, only the few positives (about 1 in 100) are computed.
    picture, anchor = (chosen >= 0).nonzero(as_tuple=True)  # (P,), (P,)
    thing = chosen[picture, anchor]
    classes, offsets = torch.zeros_like(chosen), anchors.new_zeros(*chosen.shape, 4)
    classes[picture, anchor] = labels[picture, thing].long() + 1
    offsets[picture, anchor] = encode(anchors[anchor], boxes[picture, thing], variances)
    return Targets(classes, offsets)
