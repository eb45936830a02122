"""Box arithmetic against loops, round trips, and the boxes nobody should send."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from d2lmini.boxes import (
    MAX_LOG_GROWTH,
    Variances,
    box_area,
    box_iou,
    cxcywh_to_xyxy,
    decode,
    encode,
    xyxy_to_cxcywh,
)

from . import references
from .strategies import BAD_BOXES, FAR_BOXES, box_tensors, random_boxes

EXACT = {"rtol": 0, "atol": 0}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------------------- IoU


@given(a=box_tensors(), b=box_tensors())
def test_iou_equals_the_loop_for_every_finite_box(a, b):
    a, b = a[a.isfinite().all(-1)], b[b.isfinite().all(-1)]
    expected = torch.tensor(references.iou_table(a.tolist(), b.tolist()), dtype=torch.float32)
    expected = expected.reshape(len(a), len(b))
    # corners are multiples of 1/8, so the only rounding is one division, the same for both
    torch.testing.assert_close(box_iou(a, b), expected, **EXACT)


@given(seed=st.integers(0, 2**32))
def test_iou_of_random_boxes_equals_the_loop(seed):
    generator = seeded(seed)
    a, b = random_boxes(9, generator=generator), random_boxes(7, generator=generator)
    expected = torch.tensor(references.iou_table(a.tolist(), b.tolist()))
    torch.testing.assert_close(box_iou(a, b), expected, rtol=1e-4, atol=1e-6)


@given(a=box_tensors(), b=box_tensors())
def test_iou_is_symmetric_and_between_0_and_1(a, b):
    a, b = a[a.isfinite().all(-1)], b[b.isfinite().all(-1)]
    table = box_iou(a, b)
    torch.testing.assert_close(table, box_iou(b, a).T, **EXACT)
    assert ((table >= 0) & (table <= 1)).all()


def test_iou_of_a_box_with_itself_is_exactly_1_however_small():
    sides = torch.logspace(-18, 3, 200)
    boxes = torch.stack([-sides, -sides, sides, sides], dim=-1)
    assert (box_iou(boxes, boxes).diagonal() == 1).all()


@pytest.mark.parametrize("bad", [box for box in BAD_BOXES if all(map(math.isfinite, box))])
def test_a_box_without_area_overlaps_nothing_not_even_itself(bad):
    bad, whole = torch.tensor([bad]), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    for a, b in ((bad, bad), (bad, whole), (whole, bad)):
        torch.testing.assert_close(box_iou(a, b), torch.zeros(1, 1), **EXACT)
    assert box_area(bad) == 0


def test_a_flat_box_wider_than_float32_overlaps_nothing():
    top = torch.finfo(torch.float32).max
    flat, whole = torch.tensor([[-top, 0.5, top, 0.5]]), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert box_iou(flat, whole) == 0
    assert box_iou(whole, flat) == 0


def test_leading_dimensions_broadcast():
    generator = seeded()
    a, b = random_boxes(3, 1, 5, generator=generator), random_boxes(2, 4, generator=generator)
    table = box_iou(a, b)
    assert table.shape == (3, 2, 5, 4)
    for i in range(3):
        for j in range(2):
            torch.testing.assert_close(table[i, j], box_iou(a[i, 0], b[j]), **EXACT)


def test_no_boxes_give_an_empty_table():
    some, none = torch.rand(3, 4), torch.zeros(0, 4)
    assert box_iou(some, none).shape == (3, 0)
    assert box_iou(none, some).shape == (0, 3)
    assert box_iou(none, none).shape == (0, 0)
    assert box_iou(torch.zeros(2, 0, 4), some).shape == (2, 0, 3)


def test_iou_leaves_its_arguments_alone():
    boxes = random_boxes(6, generator=seeded())
    before = boxes.clone()
    box_iou(boxes, boxes)
    torch.testing.assert_close(boxes, before, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_iou_follows_its_dtype(dtype):
    a = random_boxes(5, generator=seeded(1), dtype=torch.float64)
    table = box_iou(a.to(dtype), a.to(dtype))
    assert table.dtype == dtype
    tolerance = 40 * torch.finfo(dtype).eps
    torch.testing.assert_close(table.double(), box_iou(a, a), rtol=tolerance, atol=tolerance)


def test_mixed_precision_promotes():
    a = random_boxes(5, generator=seeded(1), dtype=torch.float64)
    assert box_iou(a, a.float()).dtype == box_iou(a.float(), a).dtype == torch.float64


def test_whole_numbers_are_refused_with_the_remedy():
    pixels = torch.tensor([[0, 0, 10, 10]])
    with pytest.raises(ValueError, match=r"int64.*float"):
        box_iou(pixels, pixels.float())


def test_iou_has_a_gradient():
    a = random_boxes(3, generator=seeded(3), dtype=torch.float64).requires_grad_()
    b = random_boxes(2, generator=seeded(4), dtype=torch.float64).requires_grad_()
    assert gradcheck(box_iou, (a, b))


# -------------------------------------------------------------------------- two ways to write a box


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_corners_and_centers_are_each_others_inverse(dtype):
    boxes = random_boxes(2, 50, generator=seeded(), dtype=dtype)
    tolerance = {"rtol": 0, "atol": 4 * torch.finfo(dtype).eps}
    torch.testing.assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes, **tolerance)
    torch.testing.assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(boxes)), boxes, **tolerance)


def test_a_center_box_by_hand():
    torch.testing.assert_close(
        xyxy_to_cxcywh(torch.tensor([[0.2, 0.1, 0.6, 0.9]])), torch.tensor([[0.4, 0.5, 0.4, 0.8]])
    )


# ----------------------------------------------------------------------------------------- offsets


@given(seed=st.integers(0, 2**32), variances=st.sampled_from([(0.1, 0.2), (1.0, 1.0), (0.5, 3.0)]))
def test_encode_equals_the_loop(seed, variances):
    generator = seeded(seed)
    anchors = random_boxes(6, generator=generator, dtype=torch.float64)
    boxes = random_boxes(6, generator=generator, dtype=torch.float64)
    expected = [
        references.offsets(anchor, box, *variances)
        for anchor, box in zip(anchors.tolist(), boxes.tolist(), strict=True)
    ]
    ours = encode(anchors, boxes, Variances(*variances))
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64))


@given(seed=st.integers(0, 2**32), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_decode_undoes_encode(seed, dtype):
    generator = seeded(seed)
    anchors = random_boxes(2, 30, generator=generator, dtype=dtype)
    boxes = random_boxes(2, 30, generator=generator, dtype=dtype)
    again = decode(anchors, encode(anchors, boxes))
    assert again.dtype == dtype
    torch.testing.assert_close(again, boxes, rtol=0, atol=20 * torch.finfo(dtype).eps)


@given(seed=st.integers(0, 2**32))
def test_encode_undoes_decode(seed):
    generator = seeded(seed)
    anchors = random_boxes(30, generator=generator, dtype=torch.float64)
    offsets = 3 * torch.randn(30, 4, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(encode(anchors, decode(anchors, offsets)), offsets)


def test_the_round_trip_holds_for_a_box_62_times_its_anchor():
    anchor = torch.tensor([0.5, 0.5, 0.51, 0.51], dtype=torch.float64)
    box = torch.tensor([0.2, 0.2, 0.82, 0.82], dtype=torch.float64)
    torch.testing.assert_close(decode(anchor, encode(anchor, box)), box)


def test_an_anchor_is_its_own_target_and_needs_no_move():
    anchors = random_boxes(40, generator=seeded())
    torch.testing.assert_close(encode(anchors, anchors), torch.zeros(40, 4), **EXACT)
    torch.testing.assert_close(decode(anchors, torch.zeros(40, 4)), anchors, rtol=0, atol=1e-6)


def test_d2ls_printed_offsets():
    """The numbers on D2L's page (14.4.3): two objects, the anchors 1, 2 and 4 of its example."""
    anchors = torch.tensor([[0.15, 0.2, 0.4, 0.4], [0.63, 0.05, 0.88, 0.98], [0.57, 0.3, 0.92, 0.9]])
    dog, cat = [0.1, 0.08, 0.52, 0.92], [0.55, 0.2, 0.9, 0.88]
    expected = [[1.40, 10.0, 2.59, 7.18], [-1.20, 0.269, 1.68, -1.57], [-0.571, -1.0, 0.0, 0.626]]
    offsets = encode(anchors, torch.tensor([dog, cat, cat]))
    torch.testing.assert_close(offsets, torch.tensor(expected), rtol=5e-3, atol=1e-4)


@pytest.mark.parametrize("far", [FAR_BOXES[0], FAR_BOXES[3]])
def test_boxes_beyond_the_image_make_the_round_trip_too(far):
    anchor, box = torch.tensor([0.2, 0.2, 0.6, 0.4]), torch.tensor(far)
    torch.testing.assert_close(decode(anchor, encode(anchor, box)), box)


def test_any_finite_offset_gives_a_finite_box():
    anchors = torch.tensor([[0.4, 0.4, 0.6, 0.6], [-0.1, 0.0, 1.2, 0.9]]).repeat(6, 1)
    top = torch.finfo(torch.float32).max
    steps = torch.tensor([-top, -1e4, -80.0, 80.0, 1e4, top])
    offsets = steps.repeat_interleave(2).unsqueeze(1).expand(-1, 4)
    boxes = decode(anchors, offsets)
    assert boxes.isfinite().all()
    assert (boxes[:, 2:] >= boxes[:, :2]).all()


def test_sides_stop_growing_at_the_limit_and_have_no_gradient_there():
    anchor = torch.tensor([0.4, 0.4, 0.6, 0.6], dtype=torch.float64)
    offsets = torch.tensor([0, 0, 2 * MAX_LOG_GROWTH / 0.2, 1.0], dtype=torch.float64)
    offsets.requires_grad_()
    box = xyxy_to_cxcywh(decode(anchor, offsets))
    assert box[2].item() == pytest.approx(0.2 * math.exp(MAX_LOG_GROWTH))
    assert math.exp(MAX_LOG_GROWTH) == pytest.approx(62.5, rel=1e-3)
    box[2:].sum().backward()
    assert offsets.grad[2] == 0
    assert offsets.grad[3] > 0


def test_gradients_of_encode_and_decode():
    generator = seeded(5)
    anchors = random_boxes(4, generator=generator, dtype=torch.float64).requires_grad_()
    boxes = random_boxes(4, generator=generator, dtype=torch.float64).requires_grad_()
    offsets = torch.randn(4, 4, generator=generator, dtype=torch.float64).requires_grad_()
    assert gradcheck(encode, (anchors, boxes))
    assert gradcheck(decode, (anchors, offsets))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_offsets_meet_float32_anchors_in_float32(dtype):
    anchors = random_boxes(4, generator=seeded())
    assert decode(anchors, torch.zeros(4, 4, dtype=dtype)).dtype == torch.float32
