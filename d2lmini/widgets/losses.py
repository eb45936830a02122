"""Live figures of the losses: what σ does to smooth L1; what γ and α do to focal loss."""

from __future__ import annotations

import numpy as np
import torch
import traitlets

from d2lmini import losses, show
from d2lmini.widgets.base import Figure, Live, pack, slider


class SmoothL1(Figure):
    """`data`: x (M,), sigmas, and loss and gradient (S, M), one row for each σ."""

    script = "smooth_l1.js"
    sigma = traitlets.Float(1.0).tag(sync=True)


def smooth_l1(sigma: float = 1.0) -> Live:
    """Smooth L1 and its gradient beside L1 and L2, with a slider for σ."""
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
        data={"x": pack(x), "sigmas": sigmas, "loss": pack(loss), "gradient": pack(gradient)},
        alt="Smooth L1 loss and its gradient over the error x, beside L1 and L2, for the chosen σ.",
    )
    some = [sigmas.index(s) for s in (0.5, 1.0, 3.0)]
    fallback = show.plot_panels(
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
