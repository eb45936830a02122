"""Detection: from the network's answers for every anchor to a short list of boxes.

Scores below a threshold go first, then all but the best `top_k`, then non-maximum suppression removes
boxes that a better one already explains. Rows that the threshold rejects never reach suppression: the
result is the same and the work a hundredth.

Hard NMS is exact. Going down the list one box at a time is not needed: whether a box survives depends
only on better ones, so "survives = valid and no surviving better box overlaps it" has one solution, and
repeating that sentence for all boxes at once until nothing changes finds it in a few rounds.

"Until nothing changes" is a look, and on a GPU a look is a wait. There all shapes are fixed instead, the
list is walked down once for all pictures, and `detect_padded` returns what was found without any wait.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from d2lmini.boxes import box_iou, decode
from d2lmini.matching import leading

BLOCK = 64  # candidates that are settled together before the rest is thinned out
CPU_ENTRIES, GPU_ENTRIES = 2**21, 2**28  # of the overlap matrix at a time; see matching.py
LONGEST = 2048  # candidates of a picture that are walked down without a look; longer lists take looks
SOFT = ("linear", "gaussian")


class Detections(NamedTuple):
    """What was found in one picture, best first: `boxes` (D, 4) corners in [0, 1], `scores` (D,),
    `labels` (D,) class ids from 0 (background is not counted)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def at_least(self, score: float) -> Detections:
        """Only those with at least this score."""
        chosen = self.scores >= score
        return Detections(*(t[chosen] for t in self))


class PaddedDetections(NamedTuple):
    """Detections of N pictures in one shape: `boxes` (N, D, 4), `scores` (N, D), `labels` (N, D).

    Each picture's best first; rows after its last have label -1, score 0 and an empty box.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def lists(self) -> list[Detections]:
        """One `Detections` a picture; on a GPU this waits, once."""
        counts = (self.labels >= 0).sum(1).tolist()
        return [
            Detections(b[:n], s[:n], c[:n])
            for b, s, c, n in zip(self.boxes, self.scores, self.labels, counts, strict=True)
        ]


def detect_padded(
    logits: Tensor, offsets: Tensor, anchors: Tensor, *, max_detections: int = 100, **options: Any
) -> PaddedDetections:
    """What `detect` finds, with its options, as tensors of one shape (D is `max_detections`, or fewer if
    there are fewer candidates).

    On a GPU nothing waits, unless `top_k` is None or above 2,048.
    """
    return _front(*_rows(logits, offsets, anchors, max_detections, **options), max_detections)


def _front(boxes: Tensor, scores: Tensor, classes: Tensor, valid: Tensor, most: int) -> PaddedDetections:
    """The first `most` valid rows of each picture, in order."""
    order = valid.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    valid = valid.gather(1, order)
    boxes = boxes.take_along_dim(order.unsqueeze(-1), 1)
    return PaddedDetections(
        torch.where(valid.unsqueeze(-1), boxes, 0),
        torch.where(valid, scores.gather(1, order), 0),
        torch.where(valid, classes.gather(1, order), -1),
    )


@torch.no_grad()
def detect(
    logits: Tensor,
    offsets: Tensor,
    anchors: Tensor,
    *,
    score_threshold: float = 0.01,
    iou_threshold: float = 0.45,
    top_k: int | None = 400,
    max_detections: int = 100,
    class_aware: bool = True,
    best_class_only: bool = False,
    clip: bool = True,
    soft: str | None = None,
    sigma: float = 0.5,
) -> list[Detections]:
    """Detections of each picture, from logits (N, A, K + 1), offsets (N, A, 4) and anchors (A, 4).

    Every (anchor, class) pair whose softmax score reaches `score_threshold` is a candidate; with
    `best_class_only` just each anchor's best class, as in D2L. The best `top_k` of a picture (None: all)
    are decoded, clipped to the picture (unless `clip` is False) and go through NMS: a box is removed when
    its IoU with a better one is above `iou_threshold`, among boxes of its class only unless `class_aware`
    is False.
    `soft="linear"` or "gaussian" (width `sigma`) lowers scores instead (`soft_nms`). At most
    `max_detections` remain. Boxes that are not finite or empty after clipping are left out. Raises
    ValueError naming the option. Source: SSD, section 2.2 "Inference"; D2L 14.4.4.
    """
    options = (score_threshold, iou_threshold, top_k, class_aware, best_class_only, clip, soft, sigma)
    rows = _rows(logits, offsets, anchors, max_detections, *options)
    if logits.device.type != "cpu":
        return _front(*rows, max_detections).lists()
    return [
        Detections(b[v][:max_detections], s[v][:max_detections], c[v][:max_detections])
        for b, s, c, v in zip(*rows, strict=True)
    ]


@torch.no_grad()
def _rows(
    logits: Tensor,
    offsets: Tensor,
    anchors: Tensor,
    max_detections: int,
    score_threshold: float = 0.01,
    iou_threshold: float = 0.45,
    top_k: int | None = 400,
    class_aware: bool = True,
    best_class_only: bool = False,
    clip: bool = True,
    soft: str | None = None,
    sigma: float = 0.5,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes (N, k, 4), scores, classes and which of them are found (N, k), by falling score: `detect`."""
    _check_options(score_threshold, iou_threshold, top_k, max_detections, soft, sigma)
    if not logits.shape[1] == offsets.shape[1] == len(anchors):
        raise ValueError(
            f"logits {tuple(logits.shape)}, offsets {tuple(offsets.shape)}, anchors {tuple(anchors.shape)}: "
            "expected the same number of anchors in each, so take all three from one model"
        )
    looks = logits.device.type == "cpu" or top_k is None or top_k > LONGEST
    scores, index, classes = _candidates(logits, score_threshold, top_k, best_class_only, looks)  # (N, k)
    at = index.unsqueeze(-1).expand(-1, -1, 4)
    boxes = decode(anchors[index], offsets.gather(1, at))  # (N, k, 4)
    boxes = boxes.clamp(0, 1) if clip else boxes
    solid = (boxes[..., 2:] > boxes[..., :2]).all(-1)  # False for NaN, which clamp leaves alone
    valid = (scores >= score_threshold) & solid
    groups = classes if class_aware and logits.shape[-1] > 2 else None
    if soft is not None:
        rows = soft_nms(boxes, scores, valid, soft, iou_threshold, sigma, groups, max_detections)
        scores, order = rows
        valid = (scores >= score_threshold) & (scores > 0)
        boxes = boxes.take_along_dim(order.unsqueeze(-1), 1)
        classes = classes.take_along_dim(order, 1)
    else:
        valid = suppress(boxes, valid, iou_threshold, groups, looks)
    return boxes, scores, classes, valid


def _candidates(
    logits: Tensor, score_threshold: float, top_k: int | None, best_class_only: bool, looks: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, anchor indices and class ids (N, k) of the best candidates, by falling score."""
    logits, place = _hopeful(logits, score_threshold) if looks else (logits, None)
    every = foreground_scores(logits)  # (N, A, K); A: those that are left of the anchors
    # The largest value alone comes much faster than its index, which only the few candidates need.
    scores = _largest(every).unsqueeze(-1) if best_class_only else every
    k = scores.shape[-1]
    scores = scores.flatten(1).nan_to_num(0)  # (N, A * k); a broken network finds nothing
    if looks:
        most = int((scores >= score_threshold).sum(1).max()) if scores.numel() else 0
        scores, index = _first(scores, most if top_k is None else min(most, top_k))
    else:
        scores, index = leading(scores, min(top_k, scores.shape[1]))
    anchor = index if k == 1 else index // k
    if k < every.shape[-1]:
        group = every.take_along_dim(anchor.unsqueeze(-1), 1).argmax(-1)
    else:
        group = index - k * anchor
    return scores, anchor if place is None else place.gather(1, anchor), group


def _hopeful(logits: Tensor, score_threshold: float) -> tuple[Tensor, Tensor | None]:
    """Logits (N, W, K + 1) of the anchors whose score may reach the threshold, and where they stood (N, W).

    With more than one class no softmax exceeds the sigmoid of its logit above the background's, and that
    bound costs one look at each logit. Of a trained network a few anchors in a hundred are left; where that
    is not so, all are returned, and None. Rows that fill up a picture's list are all background.
    """
    n, a, classes = logits.shape
    if classes == 2 or score_threshold == 0 or logits.numel() == 0:
        return logits, None
    bound = min(score_threshold, 0.99)  # near 1, rounding of the score is too coarse to be compared
    least = math.log(bound / (1 - bound)) - 0.01  # rounding again, this time of the softmax
    lead = _largest(logits[..., 1:]).float() - logits[..., 0].float()  # (N, A)
    picture, anchor = (lead >= least).nonzero(as_tuple=True)
    counts = torch.bincount(picture, minlength=n)
    width = int(counts.max())
    if 2 * width > a:
        return logits, None
    rank = torch.arange(len(picture), device=logits.device) - (counts.cumsum(0) - counts)[picture]
    place = anchor.new_zeros(n, width)
    place[picture, rank] = anchor
    few = logits.new_zeros(n, width, classes)
    few[..., 0] = torch.inf  # no score at all
    few[picture, rank] = logits[picture, anchor]
    return few, place


def _largest(x: Tensor) -> Tensor:
    """`x.amax(-1)`, in two steps: half against half for all rows at once, then along the shorter rows."""
    half = (x.shape[-1] + 1) // 2
    return torch.maximum(x[..., :half], x[..., -half:]).amax(-1)  # with an odd number one is in both


def foreground_scores(logits: Tensor) -> Tensor:
    """Probabilities (..., K) of the classes, background left out, from logits (..., K + 1), in float32."""
    logits = logits.float()
    if logits.shape[-1] == 2:  # the softmax of two is a sigmoid, and that is four times faster
        return (logits[..., 1:] - logits[..., :1]).sigmoid()
    return logits.softmax(-1)[..., 1:]


def _first(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row and where they stood; among equals the earlier one first."""
    if count == 0 or count * 8 > scores.shape[1]:
        scores, index = scores.sort(dim=1, descending=True, stable=True)
        return scores[:, :count], index[:, :count]
    # topk leaves open which of several equal scores it takes, and in which order: it only finds the edge.
    edge = scores.topk(count, dim=1, sorted=False).values.amin(1, keepdim=True)
    above, level = scores > edge, scores == edge
    room = count - above.sum(1, keepdim=True)
    chosen = above | (level & (level.cumsum(1) <= room))  # exactly `count` in each row
    index = chosen.nonzero()[:, 1].view(-1, count)
    scores, order = scores.gather(1, index).sort(dim=1, descending=True, stable=True)
    return scores, index.gather(1, order)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float = 0.5, labels: Tensor | None = None) -> Tensor:
    """Indices (D,) of the boxes that greedy non-maximum suppression keeps, best first.

    Shapes: boxes (M, 4) corners, scores (M,), labels (M,) if boxes of different classes shall leave each
    other alone. A box goes when its IoU with a better kept one is above the threshold; equality stays.
    Among equal scores the earlier box is the better one. A box that is not finite is never kept and
    removes nothing. Source: D2L 14.4.4.

    >>> boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.9], [2.0, 2.0, 3.0, 3.0]])
    >>> nms(boxes, torch.tensor([0.8, 0.9, 0.1]), iou_threshold=0.5)
    tensor([1, 2])
    """
    if boxes.shape != (*scores.shape, 4) or scores.ndim != 1:
        raise ValueError(
            f"boxes {tuple(boxes.shape)} and scores {tuple(scores.shape)}: expected (M, 4) and (M,)"
        )
    order = scores.argsort(descending=True, stable=True)
    groups = None if labels is None else labels[order].unsqueeze(0)
    valid = boxes[order].isfinite().all(-1)
    return order[suppress(boxes[order].unsqueeze(0), valid.unsqueeze(0), iou_threshold, groups)[0]]


def suppress(
    boxes: Tensor, valid: Tensor, iou_threshold: float, groups: Tensor | None = None, looks: bool = True
) -> Tensor:
    """Which boxes (N, M) greedy NMS keeps, for N lists at once that are sorted by falling score.

    Shapes: boxes (N, M, 4), valid (N, M) bool, groups (N, M) ints if only boxes of one group may remove
    each other. Invalid boxes are neither kept nor remove anything. Without `looks` nothing waits for the
    device: every place of the lists is gone through, whether anything changes or not.
    """
    n, m = valid.shape
    entries = CPU_ENTRIES if boxes.device.type == "cpu" else GPU_ENTRIES
    step = max(1, entries // max(1, (BLOCK if looks else m) * m))
    pieces = [slice(i, i + step) for i in range(0, n, step)]
    piece = _suppress_piece if looks else _walk_down
    kept = [piece(boxes[p], valid[p], iou_threshold, None if groups is None else groups[p]) for p in pieces]
    return torch.cat(kept) if kept else valid


def _suppress_piece(boxes: Tensor, valid: Tensor, iou_threshold: float, groups: Tensor | None) -> Tensor:
    """`suppress` block by block: settle the best `BLOCK` boxes, drop what they overlap, go on."""
    n, m = valid.shape
    keep = torch.zeros(n, m + 1, dtype=torch.bool, device=boxes.device)  # the last: a waste bin
    source = torch.arange(m, device=boxes.device).expand(n, m)
    head, rest = slice(None, BLOCK), slice(BLOCK, None)
    while True:
        source, boxes, valid, groups = _compact(source, boxes, valid, groups, waste=m)
        kept = _settle(boxes[:, head], valid[:, head], iou_threshold, _part(groups, head))
        keep.scatter_(1, source[:, head], kept)
        if source.shape[1] <= BLOCK:
            return keep[:, :m]
        _, winners, real, teams = _compact(source[:, head], boxes[:, head], kept, _part(groups, head), m)
        winners = torch.where(real.unsqueeze(-1), winners, 0)  # an empty box has IoU 0 with everything
        overlap = _overlap(winners, boxes[:, rest], teams, _part(groups, rest))
        valid = valid[:, rest] & ~(overlap.amax(1) > iou_threshold)
        source, boxes, groups = source[:, rest], boxes[:, rest], _part(groups, rest)


def _walk_down(boxes: Tensor, valid: Tensor, iou_threshold: float, groups: Tensor | None) -> Tensor:
    """`suppress` one place of the lists after the other, for all of them at once: nothing is looked at."""
    removes = (_overlap(boxes, boxes, groups, groups) > iou_threshold).float().triu(1)  # (N, M, M)
    alive = valid.float()
    for i in range(valid.shape[1]):  # alive and removed by i, which is alive: 1 - 1 · 1
        alive = torch.addcmul(alive, alive, removes[:, i] * alive[:, i : i + 1], value=-1)
    return alive > 0


def _compact(
    source: Tensor, boxes: Tensor, valid: Tensor, groups: Tensor | None, waste: int
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Move the valid entries of each row to its front, in order, and cut to the longest row."""
    n, m = valid.shape
    count = valid.sum(1)
    width = int(count.max()) if valid.numel() else 0
    if width == m:
        return source, boxes, valid, groups
    place = torch.where(valid, valid.cumsum(1) - 1, width)  # (N, M); invalid ones pile up at the end
    index = torch.zeros(n, width + 1, dtype=torch.int64, device=valid.device)
    columns = torch.arange(m, device=valid.device).expand(n, m)
    index = index.scatter_(1, place, columns)[:, :width]
    filled = torch.arange(width, device=valid.device) < count.unsqueeze(1)
    source = torch.where(filled, source.gather(1, index), waste)
    boxes = boxes.take_along_dim(index.unsqueeze(-1), 1)
    return source, boxes, filled, None if groups is None else groups.gather(1, index)


def _part(groups: Tensor | None, columns: slice) -> Tensor | None:
    return None if groups is None else groups[:, columns]


def _overlap(a: Tensor, b: Tensor, group_a: Tensor | None, group_b: Tensor | None) -> Tensor:
    """IoU (N, P, Q) of boxes (N, P, 4) and (N, Q, 4), 0 between different groups."""
    iou = box_iou(a, b)
    if group_a is None or group_b is None:
        return iou
    return iou.mul_(group_a.unsqueeze(2) == group_b.unsqueeze(1))


def _settle(boxes: Tensor, valid: Tensor, iou_threshold: float, groups: Tensor | None) -> Tensor:
    """Which boxes (N, B) of a block survive among themselves."""
    # removes[n, i, j] is 1 where box i, if it survives, removes the worse box j
    removes = (_overlap(boxes, boxes, groups, groups) > iou_threshold).float().triu(1)
    kept = valid
    while True:
        removed = torch.bmm(kept.float().unsqueeze(1), removes).squeeze(1) > 0
        now = valid & ~removed
        if torch.equal(now, kept):
            return kept
        kept = now


class SoftRows(NamedTuple):
    """`scores` (N, D) after Soft-NMS, falling, and `order` (N, D): which box each belongs to."""

    scores: Tensor
    order: Tensor


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    valid: Tensor,
    kind: str = "gaussian",
    iou_threshold: float = 0.45,
    sigma: float = 0.5,
    groups: Tensor | None = None,
    max_detections: int = 100,
) -> SoftRows:
    """Soft-NMS: overlapping boxes lose score instead of their place, for N lists at once.

    Shapes: boxes (N, M, 4), scores and valid (N, M), groups (N, M) as in `suppress`. The best box left is
    taken; every other of its group is multiplied by 1 − IoU where the IoU is above `iou_threshold`
    ("linear"), or by exp(−IoU²/σ) ("gaussian"); repeat. Every choice depends on the one before, so this is
    a loop over the at most `max_detections` boxes that come out, for all pictures at once; invalid
    entries come out with score 0. Source: Bodla et al. 2017, equations 2 and 3.
    """
    if kind not in SOFT:
        raise ValueError(f"soft is {kind!r}: choose from {SOFT}")
    left = torch.where(valid, scores, 0)
    boxes = torch.where(valid.unsqueeze(-1), boxes, 0)
    out_scores, out_order = [], []
    for _ in range(min(max_detections, scores.shape[1])):
        best, index = left.max(1, keepdim=True)  # (N, 1)
        out_scores.append(best)
        out_order.append(index)
        if best.device.type == "cpu" and not (best > 0).any():  # elsewhere a look is a wait
            break
        chosen = boxes.take_along_dim(index.unsqueeze(-1), 1)
        group = None if groups is None else groups.gather(1, index)
        iou = _overlap(chosen, boxes, group, groups).squeeze(1)  # (N, M)
        left = left * soft_factor(iou, kind, iou_threshold, sigma)
        left = left.scatter(1, index, 0.0)
    if not out_order:
        return SoftRows(scores[:, :0], torch.zeros_like(scores[:, :0], dtype=torch.int64))
    return SoftRows(torch.cat(out_scores, 1), torch.cat(out_order, 1))


def soft_factor(iou: Tensor, kind: str, iou_threshold: float = 0.45, sigma: float = 0.5) -> Tensor:
    """What Soft-NMS multiplies a score by, from its box's IoU with the box just taken, any shape.

    "linear": 1 − IoU above the threshold, else 1; "gaussian": exp(−IoU²/σ). Source: Bodla et al. 2017,
    equations 2 and 3.
    """
    if kind == "gaussian":
        return torch.exp(-(iou**2) / sigma)
    return torch.where(iou > iou_threshold, 1 - iou, 1.0)


def _check_options(
    score_threshold: float,
    iou_threshold: float,
    top_k: int | None,
    max_detections: int,
    soft: str | None,
    sigma: float,
) -> None:
    for name, value in (("score_threshold", score_threshold), ("iou_threshold", iou_threshold)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}: it must be between 0 and 1")
    for name, count in (("top_k", top_k), ("max_detections", max_detections)):
        if count is not None and count < 1:
            raise ValueError(f"{name} is {count}: it must be at least 1")
    if soft is not None and soft not in SOFT:
        raise ValueError(f"soft is {soft!r}: choose from {SOFT}, or None for hard NMS")
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma}: it must be > 0")
