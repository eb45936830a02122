"""Anchors against a loop, D2L's own numbers, and specs that make no sense."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from d2lmini.anchors import TINY_SSD_ANCHORS, AnchorSpec, make_anchors, map_anchors
from d2lmini.boxes import xyxy_to_cxcywh

from . import references

MAPS = [(32, 32), (16, 16), (8, 8), (4, 4), (1, 1)]
values = st.lists(st.floats(0.05, 3.0), min_size=1, max_size=3)


@given(height=st.integers(1, 5), width=st.integers(1, 5), sizes=values, ratios=values)
def test_one_map_equals_the_loop(height, width, sizes, ratios):
    ours = map_anchors(height, width, sizes, ratios)
    assert ours.dtype == torch.float32
    expected = torch.tensor(references.anchors(height, width, sizes, ratios))
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


def test_tiny_ssd_equals_the_loop_over_all_maps():
    expected = [
        anchor
        for (h, w), sizes, ratios in zip(MAPS, TINY_SSD_ANCHORS.sizes, TINY_SSD_ANCHORS.ratios, strict=True)
        for anchor in references.anchors(h, w, sizes, ratios)
    ]
    torch.testing.assert_close(make_anchors(MAPS, TINY_SSD_ANCHORS), torch.tensor(expected))


def test_d2ls_count_and_first_rows():
    """Pixel (0, 0) of the 32 × 32 map: centre 1/64, sizes 0.2 and 0.272, ratios 1, 2 and 1/2."""
    anchors = make_anchors(MAPS, TINY_SSD_ANCHORS)
    assert anchors.shape == (5444, 4)
    assert 5444 == (32**2 + 16**2 + 8**2 + 4**2 + 1) * 4
    wide, narrow = 0.1 * math.sqrt(2), 0.1 / math.sqrt(2)
    half_sides = torch.tensor([[0.1, 0.1], [0.136, 0.136], [wide, narrow], [narrow, wide]])
    torch.testing.assert_close(anchors[:4], torch.cat([1 / 64 - half_sides, 1 / 64 + half_sides], 1))
    torch.testing.assert_close(  # the second pixel is one to the right, not one down
        xyxy_to_cxcywh(anchors[4])[:2], torch.tensor([3 / 64, 1 / 64])
    )
    torch.testing.assert_close(anchors[-4], torch.tensor([0.06, 0.06, 0.94, 0.94]))


def test_d2ls_scales_and_geometric_means():
    small = [row[0] for row in TINY_SSD_ANCHORS.sizes]
    large = [row[1] for row in TINY_SSD_ANCHORS.sizes]
    assert small == pytest.approx([0.2 + 0.17 * k for k in range(5)])
    following = [*small[1:], 1.05]
    means = [math.sqrt(s * t) for s, t in zip(small, following, strict=True)]
    assert large == pytest.approx(means, abs=6e-4)


def test_width_is_measured_on_the_width_of_a_image_that_is_not_square():
    """D2L's text says w·s·√r; its code gives h·s·√r, 0.06 to 0.63 in its example (14.4.1)."""
    sizes, ratios = [0.75, 0.5, 0.25], [1, 2, 0.5]
    anchors = map_anchors(561, 728, sizes, ratios).reshape(561, 728, 5, 4)
    first = anchors[250, 250, 0]
    center = torch.tensor([250.5 / 728, 250.5 / 561])
    torch.testing.assert_close(first, torch.cat([center - 0.375, center + 0.375]))
    # in y, where both agree, these are the numbers printed there
    assert first[1].item() == pytest.approx(0.07, abs=5e-3)
    assert first[3].item() == pytest.approx(0.82, abs=5e-3)


def test_shape_depends_on_size_and_ratio_alone():
    boxes = xyxy_to_cxcywh(map_anchors(3, 7, [0.3], [1, 4])).reshape(21, 2, 4)
    torch.testing.assert_close(boxes[:, 0, 2:], torch.full((21, 2), 0.3))
    torch.testing.assert_close(boxes[:, 1, 2:], torch.tensor([0.6, 0.15]).expand(21, 2))


def test_the_first_ratio_goes_with_every_size():
    shapes = AnchorSpec(sizes=((0.2, 0.4),), ratios=((4, 1),)).shapes(0)
    expected = torch.tensor([[0.4, 0.1], [0.8, 0.2], [0.2, 0.2]])
    torch.testing.assert_close(torch.tensor(shapes), expected)


def test_centers_are_spread_evenly_and_inside():
    centers = xyxy_to_cxcywh(map_anchors(4, 5, [0.1], [1]))[:, :2].reshape(4, 5, 2)
    torch.testing.assert_close(centers[0, :, 0], torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]))
    torch.testing.assert_close(centers[:, 0, 1], torch.tensor([0.125, 0.375, 0.625, 0.875]))


def test_anchors_per_location_are_n_plus_m_minus_1():
    spec = AnchorSpec(sizes=((0.1,), (0.2, 0.3), (0.4, 0.5, 0.6)), ratios=((1,), (1, 2), (1, 2, 3)))
    assert spec.num_anchors_per_location == (1, 3, 5)
    assert len(make_anchors([(2, 3), (1, 1), (3, 1)], spec)) == 6 * 1 + 1 * 3 + 3 * 5


def test_scaling_changes_sizes_and_keeps_ratios():
    spec = AnchorSpec(sizes=((0.5,), (0.2, 0.4)), ratios=((1,), (1, 2)))
    assert spec.scaled(0.5) == AnchorSpec(sizes=((0.25,), (0.1, 0.2)), ratios=((1,), (1, 2)))


def test_a_spec_from_lists_is_frozen_hashable_and_equal():
    spec = AnchorSpec(sizes=[[0.2, 0.3]], ratios=[[1, 2]])
    assert spec == AnchorSpec(sizes=((0.2, 0.3),), ratios=((1.0, 2.0),))
    assert hash(spec) == hash(AnchorSpec(sizes=((0.2, 0.3),), ratios=((1.0, 2.0),)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.sizes = ()


@pytest.mark.parametrize("wrong", [(), (0.0,), (-0.1,), (math.nan,), (math.inf,), (0.2, 0.0)])
@pytest.mark.parametrize("name", ["sizes", "ratios"])
def test_a_wrong_value_is_named_with_its_scale(name, wrong):
    rows = {"sizes": ((0.2,), (0.3,)), "ratios": ((1.0,), (1.0,))}
    rows[name] = (rows[name][0], wrong)
    with pytest.raises(ValueError, match=rf"{name} of scale 1"):
        AnchorSpec(**rows)


@pytest.mark.parametrize(("sizes", "ratios"), [((), ()), (((0.2,),), ((1,), (1,)))])
def test_lists_of_different_length_are_refused(sizes, ratios):
    with pytest.raises(ValueError, match=r"\d scales have sizes, but \d have ratios"):
        AnchorSpec(sizes=sizes, ratios=ratios)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (-1, 2)])
def test_an_empty_map_is_refused(shape):
    with pytest.raises(ValueError, match=f"{shape[0]} × {shape[1]}"):
        map_anchors(*shape, sizes=[0.2], ratios=[1])


def test_maps_and_scales_must_be_as_many():
    with pytest.raises(ValueError, match=r"4 feature maps.*5 scales"):
        make_anchors(MAPS[:4], TINY_SSD_ANCHORS)


def test_flat_list_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="one list of numbers per feature map"):
        AnchorSpec((0.1,), (1,))
