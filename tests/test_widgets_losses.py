"""The live figure of smooth L1: its tables are the package's own loss and gradient at every stop of σ."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from d2lmini import losses, widgets


@pytest.fixture(scope="module")
def live() -> widgets.Live:
    return widgets.smooth_l1(sigma=2.0)


def table(live: widgets.Live, name: str) -> torch.Tensor:
    packed = live.figure.data[name]
    return torch.from_numpy(np.frombuffer(packed["bytes"], packed["dtype"]).reshape(packed["shape"]).copy())


def test_every_stop_of_the_slider_has_its_row(live):
    control, sigmas = live.controls["sigma"], live.figure.data["sigmas"]
    stops = np.arange(control.min, control.max + control.step / 2, control.step)
    np.testing.assert_allclose(sigmas, stops, atol=1e-9)
    x = table(live, "x")
    assert table(live, "loss").shape == table(live, "gradient").shape == (len(sigmas), len(x))
    assert x[0] == -x[-1], "as far to the left as to the right"
    assert x.abs().min() < 1e-6, "the corner of |x| is drawn sharp"


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.7, 3.0])
def test_rows_are_what_the_package_computes(live, sigma):
    row = live.figure.data["sigmas"].index(sigma)
    x = table(live, "x").double().requires_grad_()
    loss = losses.smooth_l1(x, sigma)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    torch.testing.assert_close(table(live, "loss")[row], loss.detach().float())
    torch.testing.assert_close(table(live, "gradient")[row], gradient.float())


def test_the_caption_is_true(live):
    """σ = 3 is almost L1; σ = 0.5 is a parabola for all errors up to 4."""
    x = torch.linspace(-4, 4, 81)
    assert (losses.smooth_l1(x, 3.0) - x.abs()).abs().max() < 0.06
    torch.testing.assert_close(losses.smooth_l1(x, 0.5), 0.125 * x**2)
    assert "σ = 3 is almost L1" in live.caption
    assert "σ = 0.5 is a parabola for all errors up to 4" in live.caption


def test_it_starts_where_asked(live):
    assert live.figure.sigma == live.controls["sigma"].value == 2.0
    assert widgets.smooth_l1().figure.sigma == 1.0


def test_it_is_told_in_words_and_drawn_without_scripts(live):
    assert len(live.figure.alt) > 20
    left, right = live.fallback.axes
    assert [ax.get_title(loc="left") for ax in (left, right)] == ["loss", "gradient"]
    names = [line.get_label() for line in left.lines]
    assert names == ["σ = 0.5", "σ = 1", "σ = 3"]
    middle = left.lines[1].get_xydata()
    np.testing.assert_allclose(middle[:, 1], losses.smooth_l1(torch.from_numpy(middle[:, 0]), 1.0))
