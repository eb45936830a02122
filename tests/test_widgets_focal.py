"""The live figure of focal loss: its tables against the losses themselves; the prior bias."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from d2lmini import losses, widgets
from d2lmini.anchors import AnchorSpec
from d2lmini.model import TinySSD, init_class_bias
from d2lmini.widgets.losses import ALPHAS, GAMMAS, PARTS, anchor_parts, focal_sums


def table(packed: dict) -> np.ndarray:
    return np.frombuffer(packed["bytes"], packed["dtype"]).reshape(packed["shape"])


def bills(seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Logits of two networks for three images of 200 anchors; few anchors are positive."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(1, 4, (3, 200), generator=generator)
    labels *= torch.rand(3, 200, generator=generator) < 0.04
    logits = torch.randn(3, 200, 4, generator=generator)
    sure = logits + 6 * torch.nn.functional.one_hot(labels, 4)
    return {"fresh": logits, "sure": sure}, labels


def test_parts_divide_the_anchors():
    networks, labels = bills()
    parts = anchor_parts(networks["fresh"], labels)
    assert tuple(parts) == PARTS
    assert (sum(mask.int() for mask in parts.values()) == 1).all()
    assert parts["hard negatives"].sum() == 3 * (labels > 0).sum()


@pytest.mark.parametrize("gamma", [0.0, 0.75, 2.0, 5.0])
def test_sums_are_those_of_the_loss(gamma):
    networks, labels = bills()
    for logits in networks.values():
        each = losses.focal_loss_with_logits(logits.double(), labels, gamma)
        count = (labels > 0).sum()
        expected = [each[mask].sum() / count for mask in anchor_parts(logits, labels).values()]
        found = focal_sums(logits, labels)[GAMMAS.index(gamma)]
        torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize(("gamma", "alpha"), [(0.0, 0.5), (2.0, 0.25), (5.0, 0.95)])
def test_shares_and_totals_at_some_stops(gamma, alpha):
    networks, labels = bills()
    data = widgets.focal_loss(networks, labels).figure.data
    g, a = GAMMAS.index(gamma), ALPHAS.index(alpha)
    for n, logits in enumerate(networks.values()):
        each = losses.focal_loss_with_logits(logits.double(), labels, gamma, alpha)
        total = each.sum() / (labels > 0).sum()
        assert table(data["totals"])[n, g, a] == pytest.approx(float(total), rel=1e-5)
        easy = each[anchor_parts(logits, labels)["easy negatives"]].sum() / each.sum()
        assert table(data["shares"])[n, g, a, 0] == pytest.approx(float(easy), rel=1e-5)
    np.testing.assert_allclose(table(data["shares"]).sum(-1), 1, rtol=1e-5)


def test_curves_are_the_loss_and_its_slope_by_the_logit():
    networks, labels = bills()
    data = widgets.focal_loss(networks, labels).figure.data
    p, g = torch.from_numpy(table(data["p"]).copy()).double(), GAMMAS.index(2.0)
    np.testing.assert_allclose(table(data["loss"])[g], losses.focal_loss(p, 2.0), rtol=1e-4)
    slope = (1 - p) ** 2 * (2 * p * p.log() + p - 1)  # Lin et al. 2017, appendix B
    np.testing.assert_allclose(table(data["gradient"])[g], -slope, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(table(data["gradient"])[0], 1 - p, rtol=1e-4)
    np.testing.assert_allclose(table(data["weights"])[ALPHAS.index(0.25)], [0.75, 0.75, 0.25], rtol=1e-6)


def test_sliders_drive_the_figure():
    live = widgets.focal_loss(*bills(), gamma=1.0, alpha=0.5)
    assert (live.figure.gamma, live.figure.alpha) == (1.0, 0.5)
    live.controls["gamma"].value = 3.0
    live.controls["alpha"].value = 0.75
    assert (live.figure.gamma, live.figure.alpha) == (3.0, 0.75)


def test_shapes_that_do_not_fit():
    networks, labels = bills()
    with pytest.raises(ValueError, match="sure"):
        widgets.focal_loss(networks | {"sure": networks["sure"][:, :7]}, labels)


def test_start_bias_is_the_probability_of_an_object():
    torch.manual_seed(0)
    model = TinySSD(6, 64, AnchorSpec(((0.1, 0.2), (0.3,), (0.5,), (0.7,), (0.9,)), ((1, 2),) * 5))
    init_class_bias(model, 0.03)
    for head in model.class_heads:
        belief = head.bias.view(-1, 7).softmax(-1)
        torch.testing.assert_close(1 - belief[:, 0], torch.full((len(belief),), 0.03))
        torch.testing.assert_close(belief[:, 1:], torch.full((len(belief), 6), 0.03 / 6))


@pytest.mark.parametrize("wrong", [0.0, 1.0, -0.1, float("nan")])
def test_start_bias_must_be_a_probability(wrong):
    with pytest.raises(ValueError, match="between 0 and 1"):
        init_class_bias(TinySSD(1, 64), wrong)
