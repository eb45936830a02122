"""Matching: which anchor answers for which object, and what it has to learn.

The rule is D2L's (14.4.3): take the largest IoU of the whole anchors × objects matrix, give that anchor
that object, strike out its row and column, repeat until every object has its own anchor; then every
other anchor whose best IoU reaches the threshold takes that best object.

D2L walks through this one object at a time. Here pairs that are each other's best choice are fixed all
at once, since nothing larger can ever take either of them; what is left is looked at again. A handful of
such rounds gives the same answer as the walk, for a whole batch.

The table of IoUs is held where it fits (`_Held`). Where it does not, it is gone through in strips of
anchors and never held (`_Strips`). On a device that must not be waited for, each object keeps a list of its
best anchors, as many as there are objects, and no other can ever be its own (`_Lists`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from d2lmini.boxes import VARIANCES, Variances, box_iou, encode
from d2lmini.runtime import allocations_kept

# Entries of the IoU matrix worked on at a time. 2 MB stay in a processor's cache; where large buffers are
# kept (runtime.keep_allocations), 8 MB save more in calls than they cost. A GPU wants large pieces; with
# all that is made of them, these take about 2 GB.
CPU_ENTRIES, CPU_ENTRIES_KEPT, GPU_ENTRIES = 2**19, 2**21, 2**26
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
    chosen = [_assign_piece(piece, whole_blocks, iou_threshold, entries) for piece in pieces]
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


def _assign_piece(boxes: Tensor, anchors: Tensor, iou_threshold: float, entries: int) -> Tensor:
    """`assign` for boxes (N, G, 4), usable ones only; one more column (N, A + 1) is a waste bin."""
    n, g, a = *boxes.shape[:2], len(anchors)
    chosen = torch.full((n, a + 1), -1, dtype=torch.int64, device=boxes.device)
    table = _table(boxes, anchors, entries)
    for start, iou in table.strips():
        _by_threshold(iou, iou_threshold, chosen[:, start : start + iou.shape[2]])
    anchor, found = _greedy(table)  # (N, G)
    objects = torch.arange(g, device=boxes.device).expand(n, g)
    return chosen.scatter_(1, torch.where(found, anchor, a), objects)


def _by_threshold(iou: Tensor, iou_threshold: float, out: Tensor) -> None:
    """Write each anchor's best object to `out` (N, A), if their IoU reaches the threshold and is not 0."""
    least = max(iou_threshold, TINY)
    if iou.device.type != "cpu":
        best, thing = iou.max(dim=1)  # (N, A)
        out.copy_(torch.where(best >= least, thing, -1))
        return
    # Few anchors reach the threshold, and the largest value alone comes much faster than its index.
    best = iou.amax(dim=1) if iou.shape[1] > 1 else iou[:, 0]
    picture, anchor = (best >= least).nonzero(as_tuple=True)
    out[picture, anchor] = iou.transpose(1, 2)[picture, anchor].argmax(-1)


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


def _greedy(table: _Table) -> tuple[Tensor, Tensor]:
    """One anchor per object, largest IoU first: indices (N, G) and whether one was found (N, G)."""
    n, g, a = table.shape
    value, anchor = table.favourites()  # (N, G): each object's favourite among the free anchors
    found = torch.zeros_like(value, dtype=torch.bool)
    for _ in range(min(g, a)):  # every round settles at least the largest IoU left
        found = found | _settled(table.wishes(anchor), value, ~found & (value > 0))
        waiting = ~found & (value > 0)
        # On the CPU a look costs nothing; on a GPU it would wait for the device, so all rounds run.
        if value.device.type == "cpu" and not waiting.any():
            break
        taken = value.new_zeros(n, a + 1)  # 2 where an anchor is gone; the last column is a waste bin
        taken.scatter_(1, torch.where(found, anchor, a), 2.0)
        disappointed = waiting & (taken.gather(1, anchor) > 0)
        value, anchor = table.look_again(value, anchor, taken, disappointed)
    return anchor, found


def _settled(wish: Tensor, value: Tensor, waiting: Tensor) -> Tensor:
    """Which waiting objects (N, G) are also the best choice of the anchor they want most.

    `wish` (N, G, G): at [n, i, j], the IoU of object i with the favourite of object j; `value` (N, G) is
    each object's IoU with its own.
    """
    g = value.shape[1]
    if g == 1:
        return waiting
    own = value.unsqueeze(1)
    earlier = torch.ones(g, g, dtype=torch.bool, device=wish.device).triu(1)
    rival = (wish > own) | ((wish == own) & earlier)
    return waiting & ~(rival & waiting.unsqueeze(2)).any(dim=1)


# ---------------------------------------------------------------------------------- the table of IoUs


def _table(boxes: Tensor, anchors: Tensor, entries: int) -> _Table:
    """The table of boxes (N, G, 4) and anchors (A, 4), with at most about `entries` numbers at a time."""
    n, g, a = *boxes.shape[:2], len(anchors)
    width = max(1, entries // (n * g * BLOCK)) * BLOCK
    if boxes.device.type != "cpu":
        return _Lists(boxes, anchors, width)
    return _Held(box_iou(boxes, anchors)) if width >= a else _Strips(boxes, anchors, width)


class _Held:
    """The whole table (N, G, A) in memory."""

    def __init__(self, iou: Tensor) -> None:
        self.iou, self.shape = iou, tuple(iou.shape)

    def strips(self) -> Iterator[tuple[int, Tensor]]:
        """(first anchor, IoUs) of every part: here, the whole."""
        yield 0, self.iou

    def favourites(self) -> tuple[Tensor, Tensor]:
        """Each object's largest IoU (N, G) and its anchor (N, G)."""
        return _favourite(self.iou)

    def wishes(self, anchor: Tensor) -> Tensor:
        """IoUs (N, G, G) of every object with every object's `anchor` (N, G)."""
        if self.shape[1] == 1:
            return self.iou[..., :1]  # nobody to compare with
        return self.iou.gather(2, anchor.unsqueeze(1).expand(-1, self.shape[1], -1))

    def look_again(
        self, value: Tensor, anchor: Tensor, taken: Tensor, disappointed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """New favourites for the objects whose wish was taken; the others keep theirs."""
        picture, thing = disappointed.nonzero(as_tuple=True)
        value, anchor = value.clone(), anchor.clone()
        again = (self.iou[picture, thing] - taken[picture, :-1]).max(dim=-1)
        value[picture, thing], anchor[picture, thing] = again
        return value, anchor


class _Strips:
    """A table that is never held: `width` anchors at a time, computed again for whoever looks again."""

    def __init__(self, boxes: Tensor, anchors: Tensor, width: int) -> None:
        self.boxes, self.anchors, self.width = boxes, anchors, width
        self.shape = (*boxes.shape[:2], len(anchors))
        self.best: tuple[Tensor, Tensor] | None = None

    def strips(self) -> Iterator[tuple[int, Tensor]]:
        """(first anchor, IoUs) of every strip; favourites are found on the way."""
        for start, anchors in self._parts():
            iou = box_iou(self.boxes, anchors)
            yield start, iou
            self._keep(start, iou)

    def favourites(self) -> tuple[Tensor, Tensor]:
        """As `_Held.favourites`, of the strips that were gone through."""
        return self.best

    def wishes(self, anchor: Tensor) -> Tensor:
        """As `_Held.wishes`."""
        return box_iou(self.boxes, self.anchors[anchor])

    def look_again(
        self, value: Tensor, anchor: Tensor, taken: Tensor, disappointed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `_Held.look_again`."""
        picture, thing = disappointed.nonzero(as_tuple=True)
        value, anchor = value.clone(), anchor.clone()
        rows, best = self.boxes[picture, thing], None
        for start, anchors in self._parts():
            free = box_iou(rows, anchors) - taken[:, start : start + len(anchors)][picture]
            best = _better(best, start, *_favourite(free))
        value[picture, thing], anchor[picture, thing] = best
        return value, anchor

    def _parts(self) -> Iterator[tuple[int, Tensor]]:
        return ((i, self.anchors[i : i + self.width]) for i in range(0, len(self.anchors), self.width))

    def _keep(self, start: int, iou: Tensor) -> None:
        self.best = _better(self.best, start, *_favourite(iou))


def _better(
    best: tuple[Tensor, Tensor] | None, start: int, value: Tensor, anchor: Tensor
) -> tuple[Tensor, Tensor]:
    """The best so far, or what a later strip has if that is larger."""
    if best is None:
        return value, anchor + start
    larger = value > best[0]
    return torch.where(larger, value, best[0]), torch.where(larger, anchor + start, best[1])


class _Lists(_Strips):
    """Each object's best anchors (N, G, k), best first, the earlier among equals: nothing is waited for.

    Of G objects one can lose at most G - 1 anchors to others, so k = G are enough.
    """

    def __init__(self, boxes: Tensor, anchors: Tensor, width: int) -> None:
        super().__init__(boxes, anchors, width)
        self.length = min(self.shape[1:])

    def favourites(self) -> tuple[Tensor, Tensor]:
        """The heads of the lists."""
        return self.best[0][..., 0], self.best[1][..., 0]

    def look_again(
        self, value: Tensor, anchor: Tensor, taken: Tensor, disappointed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The first of each list that is free."""
        values, anchors = self.best
        free = taken.gather(1, anchors.flatten(1)).view_as(values) == 0  # (N, G, k)
        first = free.to(torch.uint8).argmax(-1, keepdim=True)
        values = torch.where(free, values, 0).gather(2, first)[..., 0]
        anchors = anchors.gather(2, first)[..., 0]
        return torch.where(disappointed, values, value), torch.where(disappointed, anchors, anchor)

    def _keep(self, start: int, iou: Tensor) -> None:
        if self.length == 1:
            value, anchor = iou.max(dim=-1, keepdim=True)
        else:
            value, anchor = leading(iou, min(self.length, iou.shape[-1]))
        anchor = anchor + start
        if self.best is not None:  # the earlier strip first: among equals it is the better one
            value = torch.cat([self.best[0], value], dim=-1)
            anchor = torch.cat([self.best[1], anchor], dim=-1)
            value, index = leading(value, min(self.length, value.shape[-1]))
            anchor = anchor.gather(-1, index)
        self.best = value, anchor


def leading(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest along the last dimension and where they stood, the earlier among equals first.

    For values ≥ 0; nothing here waits for the device.

    >>> leading(torch.tensor([0.5, 0.0, 0.7, 0.5]), 3)
    (tensor([0.7000, 0.5000, 0.5000]), tensor([2, 0, 3]))
    """
    if values.dtype != torch.float32:
        ordered = values.sort(dim=-1, descending=True, stable=True)
        return ordered.values[..., :count], ordered.indices[..., :count]
    # `topk` is faster than a sort, but leaves open which of several equal numbers it takes. The bits of
    # floats ≥ 0 are ordered like their values; with the place below them no two are equal.
    last = values.shape[-1] - 1
    place = torch.arange(last, -1, -1, device=values.device)
    keys = (values.view(torch.int32).long() << 32) | place
    index = last - (keys.topk(count, dim=-1).values & 0xFFFFFFFF)
    return values.gather(-1, index), index


_Table = _Held | _Strips


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
