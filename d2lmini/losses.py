"""Losses: what the network pays for a wrong class and for a box in the wrong place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from d2lmini.boxes import box_area, decode
from d2lmini.matching import Targets


class Losses(NamedTuple):
    """Class and box loss, scalars, already weighted: their sum is what is minimized."""

    cls: Tensor
    box: Tensor

    @property
    def total(self) -> Tensor:
        """cls + box."""
        return self.cls + self.box


def smooth_l1(x: Tensor, sigma: float = 1.0) -> Tensor:
    """Elementwise (σx)²/2 where |x| < 1/σ², |x| − 1/(2σ²) beyond: a parabola with straight arms.

    Large σ approaches |x|. Value and slope agree where the pieces meet. Raises ValueError unless σ > 0.
    Source: Girshick 2015 (Fast R-CNN), equation 3; σ as in D2L 14.7, exercise 1.

    >>> smooth_l1(torch.tensor([0.5, 2.0]), sigma=1.0)
    tensor([0.1250, 1.5000])
    """
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma}: it must be > 0")
    size = x.abs()
    return torch.where(size < sigma**-2, 0.5 * (sigma * x) ** 2, size - 0.5 * sigma**-2)


def focal_loss(p: Tensor, gamma: float = 2.0, alpha: float | None = None) -> Tensor:
    """Elementwise −α (1 − p)^γ log p, where p (...) is the probability given to the true class.

    γ = 0 is cross-entropy; a larger γ silences what is already classified well. `alpha` None means 1.
    p = 0 gives a large finite number. For training use `focal_loss_with_logits`, which loses nothing to
    rounding when p is close to 0 or 1. Raises ValueError unless γ ≥ 0. Source: Lin et al. 2017, eq. 5.

    >>> focal_loss(torch.tensor([0.5]), gamma=0.0)
    tensor([0.6931])
    """
    _check_gamma(gamma)
    log_p = p.clamp(min=torch.finfo(p.dtype).tiny).log()
    return -(1.0 if alpha is None else alpha) * _power(1 - p, gamma) * log_p


def focal_loss_with_logits(
    logits: Tensor, labels: Tensor, gamma: float = 2.0, alpha: float | None = None
) -> Tensor:
    """Focal loss (...) of the softmax of `logits` (..., K + 1) for true classes `labels` (...).

    `alpha` weighs the foreground, 1 − α the background (label 0); None weighs all alike. Finite, with
    finite gradients, for finite logits whose differences are finite; a loss below the rounding of log p
    (1e-7 in float32) comes out as 0. Source: Lin et al. 2017, equation 5, with a softmax.
    """
    _check_gamma(gamma)
    log_p = torch.log_softmax(logits, dim=-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    # 1 − p from log p: −expm1 keeps the digits of log p, where p itself rounds to 1
    loss = -_power(-torch.expm1(log_p), gamma) * log_p
    return loss if alpha is None else torch.where(labels > 0, alpha * loss, (1 - alpha) * loss)


def _power(miss: Tensor, gamma: float) -> Tensor:
    """miss^γ with a finite gradient at 0, where a power below 1 has none."""
    if gamma == 0:
        return torch.ones_like(miss)
    return miss.clamp(min=torch.finfo(miss.dtype).eps if gamma < 1 else 0.0) ** gamma


def _check_gamma(gamma: float) -> None:
    if not gamma >= 0:
        raise ValueError(f"gamma is {gamma}: it must be ≥ 0")


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy (...) of logits (..., K + 1) for true classes `labels` (...), one per anchor."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view_as(labels)


def hard_negatives(loss: Tensor, labels: Tensor, ratio: float = 3.0, minimum: int = 0) -> Tensor:
    """Which anchors (N, A) count as negatives: in each image the `ratio` × positives of largest loss.

    `loss` (N, A) is the class loss, `labels` (N, A) with 0 for background. An image without a positive
    gets `minimum` of them. Ties go to the lower index. Source: SSD, section 2.2.
    """
    positive = labels > 0
    count = positive.sum(1, keepdim=True)  # (N, 1)
    wanted = torch.where(count > 0, count * ratio, minimum)
    order = loss.detach().masked_fill(positive, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return (rank < wanted) & ~positive


def giou_loss(offsets: Tensor, wanted: Tensor) -> Tensor:
    """1 − GIoU (...) of the boxes that two sets of offsets (..., 4) make of one anchor, from 0 to 2.

    Which anchor does not matter: moving it or stretching an axis changes all areas by one factor, and
    GIoU is a ratio of areas. So offsets are enough. Source: Rezatofighi et al. 2019, algorithm 2.

    >>> giou_loss(torch.zeros(4), torch.tensor([10.0, 0.0, 0.0, 0.0]))  # side by side, touching
    tensor(1.)
    """
    unit = torch.arange(4, dtype=offsets.dtype, device=offsets.device) // 2 - 0.5  # -.5, -.5, .5, .5
    a, b = decode(unit, offsets), decode(unit, wanted)
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    inter = box_area(torch.cat([low, high], dim=-1))
    union = box_area(a) + box_area(b) - inter
    low, high = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    hull = box_area(torch.cat([low, high], dim=-1))
    return 2 - inter / union - union / hull


@dataclass(frozen=True)
class LossConfig:
    """How `ssd_loss` weighs and selects.

    `cls` is "cross_entropy" or "focal"; `box` "smooth_l1" (with `sigma`), "l1", "l2" or "giou".
    `negatives` is how many negatives count per positive, None for all of them (as focal loss wants);
    `mining` says which, the "hard" ones or "random" ones. An image without objects contributes
    `minimum_negatives`. A loss is the sum over anchors divided by the number of "positives", or, as in
    D2L, its mean over all "anchors" (the box loss: over all four numbers of each): `cls_normalizer`,
    `box_normalizer`. Raises ValueError naming the option.
    """

    cls: str = "cross_entropy"
    box: str = "smooth_l1"
    sigma: float = 1.0
    gamma: float = 2.0
    alpha: float | None = None
    negatives: float | None = 3.0
    minimum_negatives: int = 3
    cls_weight: float = 1.0
    box_weight: float = 1.0
    mining: str = "hard"
    cls_normalizer: str = "positives"
    box_normalizer: str = "positives"

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"loss {name}={getattr(self, name)!r}: choose from {allowed}")
        for name in ("cls_weight", "box_weight", "gamma", "minimum_negatives"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"loss {name} is {getattr(self, name)}: it must be ≥ 0")
        if not self.sigma > 0:
            raise ValueError(f"loss sigma is {self.sigma}: it must be > 0")
        if self.negatives is not None and not self.negatives > 0:
            raise ValueError(f"loss negatives is {self.negatives}: give a ratio > 0, or None for all")


CHOICES = {
    "cls": ("cross_entropy", "focal"),
    "box": ("smooth_l1", "l1", "l2", "giou"),
    "mining": ("hard", "random"),
    "cls_normalizer": ("positives", "anchors"),
    "box_normalizer": ("positives", "anchors"),
}


def ssd_loss(logits: Tensor, offsets: Tensor, targets: Targets, config: LossConfig | None = None) -> Losses:
    """The two losses of a batch, each a sum over anchors divided by the number of positives.

    Shapes: logits (N, A, K + 1), offsets (N, A, 4), targets as from `match`. A batch without
    a single positive is divided by 1. In a distributed run each rank has a part of the batch, and the
    number is the mean over all ranks, so that the mean of the gradients is that of the whole batch.
    Random negatives come from torch's own generator. Nothing here waits for a GPU. Source: SSD,
    equations 1 to 3.
    """
    config = LossConfig() if config is None else config
    positive = targets.labels > 0
    count = mean_over_ranks(positive.sum())
    cls = _class_loss(logits, targets.labels, config)
    if config.negatives is not None:
        few = config.minimum_negatives
        rank = cls if config.mining == "hard" else torch.rand_like(cls)
        cls = cls * (positive | hard_negatives(rank, targets.labels, config.negatives, few))
    # Masked before the loss: the square of a background anchor's wild prediction is inf,
    # and inf · 0 is NaN.
    offsets = torch.where(positive.unsqueeze(-1), offsets, 0)
    box = _box_loss(offsets, targets.offsets, config)
    cls, box = config.cls_weight * cls.sum(), config.box_weight * box.sum()
    anchors = mean_over_ranks(count.new_full((), positive.numel()))
    cls = cls / (count if config.cls_normalizer == "positives" else anchors)
    return Losses(cls, box / (count if config.box_normalizer == "positives" else 4 * anchors))


def mean_over_ranks(count: Tensor) -> Tensor:
    """A count, or in a distributed run its mean over all ranks; at least one in all."""
    if not (dist.is_available() and dist.is_initialized()):
        return count.clamp(min=1)
    total = count.clone()
    dist.all_reduce(total)
    return total.clamp(min=1) / dist.get_world_size()


def _class_loss(logits: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    if config.cls == "focal":
        return focal_loss_with_logits(logits, labels, config.gamma, config.alpha)
    return cross_entropy(logits, labels)


def _box_loss(offsets: Tensor, wanted: Tensor, config: LossConfig) -> Tensor:
    """The loss of each offset (N, A, 4), or of each box (N, A); 0 where both agree."""
    if config.box == "giou":
        return giou_loss(offsets, wanted)
    difference = offsets - wanted
    if config.box == "smooth_l1":
        return smooth_l1(difference, config.sigma)
    return difference.abs() if config.box == "l1" else 0.5 * difference**2
