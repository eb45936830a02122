"""Detection: from the network's predictions for every anchor to a short list of boxes.

Candidates (pairs of anchor and class whose score reaches a threshold) are found, decoded, and suppressed
within each image and class. The others go first: suppression would give the same result with them, at a
hundred times the cost. Candidates of all images lie in flat lists, each with the index of its image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from d2lmini.boxes import box_iou, decode
from d2lmini.data.detections import Detections
from d2lmini.model import SCORE_FUNCTIONS

BLOCK = 64  # candidates that are decided together before the rest is thinned out
CPU_ENTRIES, GPU_ENTRIES = 2**22, 2**28  # of an IoU matrix at a time
SOFT_NMS = ("linear", "gaussian")


@dataclass(frozen=True)
class DetectConfig:
    """How `detect` chooses and suppresses.

    A candidate is an (anchor, class) pair whose score reaches `score_threshold`; with `best_class_only` just
    each anchor's best class, as in D2L. At most the best `top_k` of an image (None: all) are decoded, and
    clipped to the image unless `clip` is False. NMS removes a box whose IoU with a better one is above
    `iou_threshold`, among boxes of its class only unless `class_aware` is False. `soft` "linear" or
    "gaussian" (width `sigma`) lowers scores instead (Soft-NMS). At most `max_detections` of an image remain.
    `score_function` is the model's: "softmax" of all logits, or "sigmoid" of each, background left out.
    Raises ValueError naming the option.
    """

    score_threshold: float = 0.01
    iou_threshold: float = 0.45
    top_k: int | None = 400
    max_detections: int = 100
    class_aware: bool = True
    best_class_only: bool = False
    clip: bool = True
    soft: str | None = None
    sigma: float = 0.5
    score_function: str = "softmax"

    def __post_init__(self) -> None:
        for name in ("score_threshold", "iou_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be between 0 and 1")
        for name in ("top_k", "max_detections"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ValueError(f"{name} is {count}: it must be at least 1")
        if self.soft is not None and self.soft not in SOFT_NMS:
            raise ValueError(f"soft is {self.soft!r}: choose from {SOFT_NMS}, or None for hard NMS")
        if self.score_function not in SCORE_FUNCTIONS:
            raise ValueError(f"score_function is {self.score_function!r}: choose from {SCORE_FUNCTIONS}")
        if not self.sigma > 0:
            raise ValueError(f"sigma is {self.sigma}: it must be > 0")


@torch.no_grad()
def detect(logits: Tensor, offsets: Tensor, anchors: Tensor, **options: Any) -> list[Detections]:
    """Detections of each image, from logits (N, A, K + 1), offsets (N, A, 4) and anchors (A, 4).

    `options` are those of `DetectConfig`. Boxes that are not finite, or empty after clipping, are left out;
    among equal scores the lower anchor comes first, then the lower class. Raises ValueError as DetectConfig
    does, and when the numbers of anchors differ. Source: SSD, section 2.2 "Inference"; D2L 14.4.4.
    """
    config = DetectConfig(**options)
    if not logits.shape[1] == offsets.shape[1] == len(anchors):
        raise ValueError(
            f"logits {tuple(logits.shape)}, offsets {tuple(offsets.shape)}, anchors {tuple(anchors.shape)}: "
            "expected the same number of anchors in each, so take all three from one model"
        )
    row, label, score = find_candidates(logits, config)  # (M,) each
    image, anchor = row // len(anchors), row % len(anchors)
    boxes = decode(rows_of(anchors, anchor), rows_of(offsets.flatten(0, 1), row))  # (M, 4)
    boxes = boxes.clamp(0, 1) if config.clip else boxes
    usable = (boxes[:, 2:] > boxes[:, :2]).all(1).nonzero().squeeze(1)  # not NaN, which clamp leaves alone
    image, label, score, boxes = image[usable], label[usable], score[usable], rows_of(boxes, usable)
    classes = logits.shape[-1] - 1
    score = suppress(boxes, score, image * classes + label if config.class_aware else image, config)
    found = ((score > 0) & (score >= config.score_threshold)).nonzero().squeeze(1)  # suppression removes by 0
    found = found[best_first(image[found], score[found], len(logits), config.max_detections)]
    counts = image[found].bincount(minlength=len(logits)).tolist()
    split = [t[found].split(counts) for t in (boxes, score, label)]
    return [Detections(*one) for one in zip(*split, strict=True)]


def find_candidates(logits: Tensor, config: DetectConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Row of N · A, class and score (M,) of the pairs that are worth decoding, by image and falling score.

    `logits` are (N, A, K + 1); an image has at most `top_k` pairs. A NaN, from a broken network, is none.
    """
    row = prefilter_by_logit(logits, config).flatten().nonzero().squeeze(1)  # (R,)
    scores = foreground_scores(rows_of(logits.flatten(0, 1), row), config.score_function)  # (R, K)
    scores, best = scores.max(1, keepdim=True) if config.best_class_only else (scores, None)
    pair = (scores >= config.score_threshold).flatten().nonzero().squeeze(1)
    row, score = row[pair // scores.shape[1]], scores.flatten()[pair]
    label = pair % scores.shape[1] if best is None else best.flatten()[pair]
    order = best_first(row // logits.shape[1], score, len(logits), config.top_k)
    return row[order], label[order], score[order]


def best_first(image: Tensor, score: Tensor, images: int, most: int | None) -> Tensor:
    """Indices of pairs (M,), which come by image, sorted by image and falling score, of equals the earlier.

    At most `most` of an image are left. Scores are ≥ 0.
    """
    if not len(score):
        return image
    counts = image.bincount(minlength=images)
    lists = pad_sequence(score.split(counts.tolist()), batch_first=True, padding_value=-1.0)  # (N, W)
    if most is not None and lists.shape[1] > 4 * most:  # only what can be among the best needs sorting
        chosen = (score >= lists.topk(most, sorted=False).values.amin(1)[image]).nonzero().squeeze(1)
        if len(chosen) < len(score):
            return chosen[best_first(image[chosen], score[chosen], images, most)]
    order = lists.argsort(dim=1, descending=True, stable=True)[:, :most]
    counts = counts.unsqueeze(1)
    return (counts.cumsum(0) - counts + order)[order < counts]


def rows_of(values: Tensor, index: Tensor) -> Tensor:
    """`values[index]`, several times faster where rows are short."""
    return values.index_select(0, index.flatten()).unflatten(0, index.shape)


def prefilter_by_logit(logits: Tensor, config: DetectConfig) -> Tensor:
    """Which anchors (N, A) may have a score above the threshold, from logits (N, A, K + 1).

    An optimization only: no softmax exceeds the sigmoid of its logit above background's, and this bound costs
    one comparison. Of a trained network a few anchors in a hundred are left, and only these need a softmax.
    """
    bound = min(config.score_threshold, 0.99)  # near 1 rounding of the score is too coarse to be compared
    least = math.log(bound / (1 - bound)) - 0.01 if bound > 0 else -math.inf  # less what softmax may round
    half = logits.shape[-1] // 2  # half of the classes against the other first: a long row reduces faster
    best = torch.maximum(logits[..., 1 : half + 1], logits[..., -half:]).amax(-1)
    return best.float() - (0 if config.score_function == "sigmoid" else logits[..., 0].float()) >= least


def foreground_scores(logits: Tensor, score_function: str = "softmax") -> Tensor:
    """Probabilities (..., K) of the classes, background left out, from logits (..., K + 1), in float32."""
    logits = logits.float()
    if score_function == "sigmoid":
        return logits[..., 1:].sigmoid()
    if logits.shape[-1] == 2:  # the softmax of two is a sigmoid, and that is four times faster
        return (logits[..., 1:] - logits[..., :1]).sigmoid()
    return logits.softmax(-1)[..., 1:]


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
    order = order[boxes[order].isfinite().all(-1)]
    groups = torch.zeros_like(order) if labels is None else labels[order].long()
    config = DetectConfig(iou_threshold=iou_threshold)
    return order[suppress(boxes[order], scores.new_ones(len(order)), groups, config) > 0]


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, config: DetectConfig) -> Tensor:
    """New scores (M,) of boxes (M, 4) after NMS or Soft-NMS within each group; 0 where a box is removed.

    `groups` (M,) int64 says which boxes compete: those of one image, or of one image and class; in each
    group `scores` (M,) have to fall.
    """
    new = torch.zeros_like(scores)
    for index, valid in group_lists(groups):
        if config.soft is None:
            found = scores[index] * _nms_in_blocks(rows_of(boxes, index), valid, config.iou_threshold)
        else:
            options = (config.soft, config.iou_threshold, config.sigma, config.max_detections)
            found = soft_nms(rows_of(boxes, index), scores[index] * valid, *options)
        new[index[valid]] = found[valid]
    return new


def group_lists(groups: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Lists (L, W) of the indices of each group (M,), in their order, and which of them are real (L, W).

    Groups of like size come together, in pieces whose IoU matrices fit into memory.
    """
    order = torch.arange(len(groups), device=groups.device)
    if (groups.diff() < 0).any():  # several classes: those of an image are in order
        order = groups.argsort(stable=True)
    counts = groups[order].unique_consecutive(return_counts=True)[1]
    starts = counts.cumsum(0) - counts
    by_size = counts.argsort(descending=True, stable=True)
    sizes = counts[by_size].tolist()
    entries = CPU_ENTRIES if groups.device.type == "cpu" else GPU_ENTRIES
    at = 0
    while at < len(sizes):
        width = sizes[at]
        piece = sizes[at : at + max(1, entries // (BLOCK * width))]
        rows = sum(4 * size >= width for size in piece)  # shorter ones would be padding for the most part
        group = by_size[at : at + rows]
        column = torch.arange(width, device=order.device)
        valid = column < counts[group].unsqueeze(1)  # (L, W)
        place = starts[group].unsqueeze(1) + column
        yield order[torch.where(valid, place, 0)], valid
        at += rows


def greedy_nms(boxes: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes greedy NMS keeps (L, W), of lists (L, W, 4) by falling score, real where `valid` (L, W).

    A box is kept if no better kept box overlaps it. That depends on better boxes only, so it has one
    solution, and applying it to all boxes at once until nothing changes finds it in a few rounds.
    """
    # removes[l, i, j] is 1 where box i, if it is kept, removes the worse box j
    removes = (box_iou(boxes, boxes) > iou_threshold).float().triu(1)  # (L, W, W)
    kept = valid
    while True:
        removed = torch.bmm(kept.float().unsqueeze(1), removes).squeeze(1) > 0
        now = valid & ~removed
        if torch.equal(now, kept):
            return kept
        kept = now


def _nms_in_blocks(boxes: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    """`greedy_nms` for long lists: decide on the best `BLOCK`, drop what they overlap, go on with the rest.

    An optimization only: after the first blocks little is left, and most (L, W, W) IoUs are never needed.
    """
    n, m = valid.shape
    keep = valid.new_zeros(n, m + 1)  # the last column takes what padding writes
    column = torch.arange(m, device=valid.device).expand(n, m)
    head, rest = slice(None, BLOCK), slice(BLOCK, None)
    while True:
        column, boxes, valid = _compact(column, boxes, valid, m)
        kept = greedy_nms(boxes[:, head], valid[:, head], iou_threshold)
        keep.scatter_(1, column[:, head], kept)
        if column.shape[1] <= BLOCK:
            return keep[:, :m]
        _, winners, real = _compact(column[:, head], boxes[:, head], kept, m)
        winners = torch.where(real.unsqueeze(-1), winners, 0)  # an empty box has IoU 0 with everything
        free = box_iou(winners, boxes[:, rest]).amax(1) <= iou_threshold
        column, boxes, valid = column[:, rest], boxes[:, rest], valid[:, rest] & free


def _compact(column: Tensor, boxes: Tensor, valid: Tensor, padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """Move the valid entries of each list to its front, in order, and cut to the longest list."""
    width = int(valid.sum(1).max()) if valid.numel() else 0
    if width == valid.shape[1]:
        return column, boxes, valid
    front = valid.byte().argsort(dim=1, descending=True, stable=True)[:, :width]
    valid = valid.gather(1, front)
    column = torch.where(valid, column.gather(1, front), padding)
    return column, boxes.gather(1, front.unsqueeze(-1).expand(-1, -1, 4)), valid


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    kind: str = "gaussian",
    iou_threshold: float = 0.45,
    sigma: float = 0.5,
    max_detections: int = 100,
) -> Tensor:
    """New scores (L, W) by Soft-NMS: a box that overlaps a better one loses score, not its place.

    Shapes: boxes (L, W, 4), scores (L, W), 0 for padding. The best box left is taken; every other is
    multiplied by `soft_factor` of its IoU with it; repeat. Each choice depends on the one before, so this
    is a loop over the at most `max_detections` boxes that come out; all others get 0. Raises ValueError for
    an unknown kind. Source: Bodla et al. 2017, equations 2 and 3.
    """
    if kind not in SOFT_NMS:
        raise ValueError(f"soft is {kind!r}: choose from {SOFT_NMS}")
    boxes = torch.where((scores > 0).unsqueeze(-1), boxes, 0)  # padding may hold anything
    left, taken = scores, torch.zeros_like(scores)
    for _ in range(min(max_detections, scores.shape[1])):
        best, index = left.max(1, keepdim=True)  # (L, 1)
        if not (best > 0).any():
            break
        taken = torch.maximum(taken, torch.zeros_like(taken).scatter(1, index, best))
        chosen = boxes.take_along_dim(index.unsqueeze(-1), 1)  # (L, 1, 4)
        iou = box_iou(chosen, boxes).squeeze(1)  # (L, W)
        left = (left * soft_factor(iou, kind, iou_threshold, sigma)).scatter(1, index, 0.0)
    return taken


def soft_factor(iou: Tensor, kind: str, iou_threshold: float = 0.45, sigma: float = 0.5) -> Tensor:
    """What Soft-NMS multiplies a score by, from its box's IoU with the box just taken, any shape.

    "linear": 1 − IoU above the threshold, else 1; "gaussian": exp(−IoU²/σ). Source: Bodla et al. 2017,
    equations 2 and 3.
    """
    if kind == "gaussian":
        return torch.exp(-(iou**2) / sigma)
    return torch.where(iou > iou_threshold, 1 - iou, 1.0)
