"""Receptive fields: what no pixel outside can change, and what the gradient says of the inside."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from d2lmini import TinySSD
from d2lmini.inspect import ReceptiveField, effective_field, receptive_fields, side_that_holds


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return TinySSD(2, 256).eval()


def test_fields_of_tiny_ssd(model):
    assert receptive_fields(model) == [(52, 8), (108, 16), (220, 32), (444, 64), (508, 256)]


@pytest.mark.parametrize(("scale", "cell"), [(0, (16, 5)), (1, (8, 4))])
def test_only_pixels_of_the_field_matter(model, scale, cell):
    """NaN everywhere else leaves the answer a number; NaN in the field's outermost ring does not."""
    field, (row, column) = receptive_fields(model)[scale], cell
    model = model.double()  # no shortcut of a fast convolution may mix neighbours
    for margin, poisoned in ((0, False), (1, True)):
        pixels = torch.full((1, 3, 256, 256), torch.nan, dtype=torch.float64)
        top, left, side = field.start(row) + margin, field.start(column) + margin, field.size - 2 * margin
        pixels[:, :, top : top + side, left : left + side] = torch.rand(1, 3, side, side)
        answer = model.class_heads[scale](model.backbone(pixels)[scale])[0, :, row, column]
        assert answer.isnan().any() == poisoned
    model.float()


def test_the_effective_field_lies_in_the_field_and_is_concentrated(model):
    images = torch.randint(0, 256, (1, 3, 256, 256), dtype=torch.uint8)
    for scale in (0, 1, 4):
        found = effective_field(model, images, scale)
        assert found.shape == (receptive_fields(model)[scale].size,) * 2
        assert float(found.sum()) == pytest.approx(1)
        assert found.min() >= 0
    small = effective_field(model, images, 0)
    assert side_that_holds(small, 0.5) < 52 * 0.5**0.5  # what an even field would need


def test_the_effective_field_repeats_and_leaves_the_model_alone(model):
    images = torch.randint(0, 256, (1, 3, 256, 256), dtype=torch.uint8)
    first, again = (effective_field(model, images, 1) for _ in range(2))
    assert torch.equal(first, again)
    assert all(p.grad is None for p in model.parameters())


def test_side_that_holds():
    peak = torch.zeros(9, 9)
    peak[4, 4] = 1
    assert side_that_holds(peak, 0.9) == 1
    assert side_that_holds(torch.ones(9, 9), 1) == 9


def test_another_backbone_is_refused():
    class Other(nn.Module):
        def forward(self, x):
            return [x[:, :, ::s, ::s] for s in (8, 16, 32, 64, 128)]

    with pytest.raises(ValueError, match="Other"):
        receptive_fields(TinySSD(1, 256, backbone=Other()))


def test_a_field_starts_before_the_image_at_its_edge():
    assert ReceptiveField(52, 8).start(0) == -22
    assert ReceptiveField(52, 8).start(3) == 2
