"""Live figures of the losses: what σ does to smooth L1; what γ and α do to focal loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import traitlets
from torch import Tensor

from d2lmini import losses, plots
from d2lmini.widgets.base import Figure, Live, pack, slider
from d2lmini.widgets.experiments import experiment


def measured_curves(question: str, axis: str) -> list[dict[str, Any]]:
    """What trained detectors reached over `axis`, for JavaScript: name, x, mean and spread of each curve."""
    return [
        {"name": name} | {key: np.round(values, 4).tolist() for key, values in curve._asdict().items()}
        for name, curve in experiment(question).curves(axis).items()
    ]


class SmoothL1(Figure):
    """`data`: x (M,), sigmas, and loss and gradient (S, M), one row for each σ; `measured_curves` of σ."""

    script, parts = "smooth_l1.js", ("measured.js",)
    sigma = traitlets.Float(1.0).tag(sync=True)


def smooth_l1(sigma: float = 1.0) -> Live:
    """Smooth L1 and its gradient beside L1 and L2, and the AP of detectors trained with it, by σ."""
    x = torch.linspace(-3, 3, 241)
    sigmas = np.arange(0.5, 3.01, 0.05).round(2).tolist()
    rows = []
    for s in sigmas:
        at = x.clone().requires_grad_()
        value = losses.smooth_l1(at, s)
        (slope,) = torch.autograd.grad(value.sum(), at)
        rows.append((value.detach(), slope))
    loss, gradient = (torch.stack(parts) for parts in zip(*rows, strict=True))
    figure = SmoothL1(
        data={
            "x": pack(x),
            "sigmas": sigmas,
            "loss": pack(loss),
            "gradient": pack(gradient),
            "measured": measured_curves("box_loss", "σ"),
        },
        alt="Smooth L1 loss and its gradient over the error x, beside L1 and L2, for the chosen σ.",
    )
    some = [sigmas.index(s) for s in (0.5, 1.0, 3.0)]
    fallback = plots.plot_panels(
        x,
        {
            "loss": {f"σ = {sigmas[i]:g}": loss[i] for i in some},
            "gradient": {f"σ = {sigmas[i]:g}": gradient[i] for i in some},
        },
        xlabel="error x",
        ylims=((0, 2.5), None),
    )
    return Live(
        figure,
        {"sigma": slider("σ", 0.5, 3.0, 0.05, sigma)},
        caption=(
            "Smooth L1 is a parabola near zero and a straight line beyond 1/σ². The larger σ, the sooner "
            "it is straight: σ = 3 is almost L1, σ = 0.5 is a parabola for all errors up to 4."
        ),
        fallback=fallback,
    )


GAMMAS = np.arange(0, 5.01, 0.25).round(2).tolist()
ALPHAS = np.arange(0.05, 0.951, 0.05).round(2).tolist()
PARTS = ("easy negatives", "hard negatives", "positives")


class FocalLoss(Figure):
    """`data`: p (M,), gammas, alphas, names of networks and of `PARTS`; loss and gradient (Γ, M) for α = 1;
    shares (N, Γ, Α, 3) of the class loss by part, and totals (N, Γ, Α) divided by the positives;
    `measured_curves` of γ and of α."""

    script, parts = "focal.js", ("measured.js",)
    gamma = traitlets.Float(2.0).tag(sync=True)
    alpha = traitlets.Float(0.25).tag(sync=True)


def anchor_parts(logits: Tensor, labels: Tensor, ratio: float = 3.0) -> dict[str, Tensor]:
    """Which anchors (N, A) are easy negatives, hard negatives and positives.

    Hard are those that SSD would keep: in each image the `ratio` × positives with the largest
    cross-entropy (`hard_negatives`). Focal loss ranks them the same way, whatever γ.
    """
    hard = losses.hard_negatives(losses.cross_entropy(logits, labels), labels, ratio)
    return dict(zip(PARTS, ((labels == 0) & ~hard, hard, labels > 0), strict=True))


def focal_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """Focal loss with α = 1 summed over each of `PARTS`, divided by the positives, for all γ: (Γ, 3)."""
    log_p = torch.log_softmax(logits.double(), -1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    parts = [log_p[mask].exp() for mask in anchor_parts(logits, labels).values()]
    count = (labels > 0).sum().clamp(min=1)
    return torch.stack([torch.stack([losses.focal_loss(p, g).sum() for p in parts]) for g in GAMMAS]) / count


def _focal_curves(p: Tensor) -> tuple[Tensor, Tensor]:
    """Focal loss over p and minus its derivative by the true class's logit, (Γ, M) each."""
    rows = []
    for gamma in GAMMAS:
        logit = torch.logit(p).requires_grad_()  # what changes p with all other logits held
        value = losses.focal_loss(torch.sigmoid(logit), gamma)
        (slope,) = torch.autograd.grad(value.sum(), logit)
        rows.append((value.detach(), -slope))
    loss, gradient = (torch.stack(parts) for parts in zip(*rows, strict=True))
    return loss, gradient


def focal_loss(
    networks: Mapping[str, Tensor], labels: Tensor, gamma: float = 2.0, alpha: float = 0.25
) -> Live:
    """Focal loss and its gradient over p, and who holds the class loss of real networks, by γ and α.

    `networks` are names and class logits (N, A, K + 1) for the same images; `labels` (N, A) is what
    their anchors have to learn. Raises ValueError when shapes differ.
    """
    for name, logits in networks.items():
        if logits.shape[:2] != labels.shape:
            raise ValueError(f"{name}: logits {tuple(logits.shape)} for labels {tuple(labels.shape)}")
    p = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    loss, gradient = _focal_curves(p)
    weights = torch.tensor([[1 - a, 1 - a, a] for a in ALPHAS])  # (Α, 3): as focal_loss_with_logits
    sums = torch.stack([focal_sums(logits, labels) for logits in networks.values()])  # (N, Γ, 3)
    weighted = sums.unsqueeze(2) * weights  # (N, Γ, Α, 3)
    totals = weighted.sum(-1)
    shares = weighted / totals.unsqueeze(-1)
    figure = FocalLoss(
        data={
            "p": pack(p),
            "gammas": GAMMAS,
            "alphas": ALPHAS,
            "names": list(networks),
            "parts": list(PARTS),
            "loss": pack(loss),
            "gradient": pack(gradient),
            "weights": pack(weights),
            "shares": pack(shares),
            "totals": pack(totals),
            "measured": {symbol: measured_curves("focal", symbol) for symbol in "γα"},
        },
        alt="Focal loss and its gradient over p; below, bars: which anchors hold the total class loss.",
    )
    half = ALPHAS.index(0.5)
    panels = {
        f"share held by {part}": {name: shares[i, :, half, k] for i, name in enumerate(networks)}
        for k, part in ((0, PARTS[0]), (2, PARTS[2]))
    }
    return Live(
        figure,
        {
            "gamma": slider("γ", 0.0, 5.0, 0.25, gamma),
            "alpha": slider("α, of objects", 0.05, 0.95, 0.05, alpha),
        },
        caption=(
            "γ silences anchors that are already classified well. Before training there are none, so it "
            "changes little. With the prior-probability bias it takes the loss away from easy "
            "negatives; a network that was trained with all of them has little left to take. α shifts what "
            "is left between objects and background."
        ),
        fallback=plots.plot_panels(GAMMAS, panels, xlabel="γ (α = 0.5)", ylims=((0, 1.02), (0, 1.02))),
    )
