"""Matching against the greedy walk, one entry of the IoU table at a time, and against wrong input.

Tests that are handed `place` run as on a processor, with few objects and many, and with tensors that
claim to be on a GPU, where other instructions give the same answer without waiting for the device.
"""

from __future__ import annotations

import contextlib
from fractions import Fraction
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from d2lmini import matching
from d2lmini.anchors import TINY_SSD_ANCHORS, make_anchors
from d2lmini.boxes import Variances, box_iou, encode
from d2lmini.matching import Targets, assign, match

from . import references
from .pretend import PretendDevice
from .strategies import BAD_BOXES, FAR_BOXES, Case, grid_cases, random_boxes, random_cases

EXACT = {"rtol": 0, "atol": 0}
PLACES = {"cpu": contextlib.nullcontext, "elsewhere": PretendDevice}
PLACES["cpu, as for thousands of objects"] = lambda: mock.patch.object(matching, "MANY_OBJECTS", 0)
UNIT = (0.0, 0.0, 1.0, 1.0)


@pytest.fixture(params=PLACES)
def place(request):
    """What makes the context in which tensors are on the CPU, or say that they are not."""
    return PLACES[request.param]


# hypothesis runs one function many times with one fixture; `place` only names a class
many = settings(suppress_health_check=[*HealthCheck])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def usable(boxes: Tensor, labels: Tensor) -> list[bool]:
    """Objects of one image that may be matched, as the docstring of `assign` says."""
    return [
        label >= 0 and all(map(torch.isfinite, box)) and bool(box[2] > box[0] and box[3] > box[1])
        for box, label in zip(boxes, labels.tolist(), strict=True)
    ]


def walk(case: Case, threshold: float) -> Tensor:
    """`assign` by the reference, from float32 IoUs so that near-ties fall the same way."""
    rows = []
    for boxes, labels in zip(case.boxes, case.labels, strict=True):
        table = box_iou(case.anchors, boxes).tolist()
        rows.append(references.assign(table, usable(boxes, labels), threshold))
    return torch.tensor(rows, dtype=torch.int64).reshape(len(case.labels), len(case.anchors))


def exact_walk(case: Case, threshold: float) -> Tensor:
    """The same from the corners alone, in fractions: nothing of the package is used."""
    anchors = [[Fraction(v) for v in anchor] for anchor in case.anchors.tolist()]
    rows = []
    for boxes, labels in zip(case.boxes, case.labels, strict=True):
        may = usable(boxes, labels)
        objects = [
            [Fraction(v) for v in box] if u else [0] * 4 for box, u in zip(boxes.tolist(), may, strict=True)
        ]
        rows.append(references.assign(references.iou_table(anchors, objects), may, threshold))
    return torch.tensor(rows, dtype=torch.int64).reshape(len(case.labels), len(case.anchors))


def ground_truth(*boxes, labels=None) -> tuple[Tensor, Tensor]:
    """One image with these boxes, all of class 0 unless said otherwise."""
    labels = [0] * len(boxes) if labels is None else labels
    return torch.tensor([boxes], dtype=torch.float32), torch.tensor([labels], dtype=torch.int64)


# ------------------------------------------------------------------------------ the greedy walk


@many
@given(case=grid_cases(), threshold=st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_ties_and_illegal_boxes_fall_as_in_the_walk(place, case, threshold):
    with place():
        chosen = assign(*case, iou_threshold=threshold)
    torch.testing.assert_close(chosen, exact_walk(case, threshold), **EXACT)


@many
@given(case=random_cases(), threshold=st.sampled_from([0.0, 0.3, 0.5, 0.9]))
def test_random_boxes_fall_as_in_the_walk(place, case, threshold):
    with place():
        chosen = assign(*case, iou_threshold=threshold)
    torch.testing.assert_close(chosen, walk(case, threshold), **EXACT)


@pytest.mark.parametrize("objects", [1, 3, 20, 60])
def test_a_crowd_on_tiny_ssds_anchors_falls_as_in_the_walk(place, objects):
    maps = [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
    anchors = make_anchors(maps, TINY_SSD_ANCHORS)
    boxes = random_boxes(2, objects, generator=seeded(objects))
    boxes[:, 1::2] = boxes[:, :1] + 0.01 * boxes[:, 1::2]  # half of them want the same anchor
    case = Case(anchors, boxes, torch.zeros(2, objects, dtype=torch.int64))
    with place():
        chosen = assign(*case)
    torch.testing.assert_close(chosen, walk(case, 0.5), **EXACT)


@many
@given(case=st.one_of(grid_cases(), random_cases()), entries=st.sampled_from([1, 7, 500]))
@example(Case(torch.rand(3, 4), torch.rand(5, 2, 4), torch.zeros(5, 2, dtype=torch.int64)), 13)
def test_in_pieces_as_at_once(place, case, entries):
    with pytest.MonkeyPatch.context() as patch, place():
        at_once = assign(*case)
        patch.setattr(matching, "CPU_ENTRIES", entries)
        patch.setattr(matching, "GPU_ENTRIES", entries)
        in_pieces = assign(*case)
    torch.testing.assert_close(in_pieces, at_once, **EXACT)


@pytest.mark.parametrize("entries", [1, 2 * 20 * 384])
def test_many_equal_ious_and_rivals_for_the_best_anchors(place, entries, monkeypatch):
    grid = (random_boxes(330, generator=seeded()) * 8).round() / 8
    boxes = (random_boxes(3, 20, generator=seeded(1)) * 8).round() / 8
    boxes[:, 10:] = boxes[:, :1]
    case = Case(grid, boxes, torch.zeros(3, 20, dtype=torch.int64))
    for name in ("CPU_ENTRIES", "GPU_ENTRIES"):
        monkeypatch.setattr(matching, name, entries)
    with place():
        chosen = assign(*case)
    torch.testing.assert_close(chosen, walk(case, 0.5), **EXACT)


def test_pieces_are_really_made(place, monkeypatch):
    seen = []

    def spy(boxes, anchors):
        if anchors.ndim == 2:  # a part of the table, and not the few IoUs of a round
            seen.append(len(boxes))
        return box_iou(boxes, anchors)

    monkeypatch.setattr(matching, "box_iou", spy)
    for name in ("CPU_ENTRIES", "GPU_ENTRIES"):  # whatever an earlier test has set
        monkeypatch.setattr(matching, name, 2 * 3 * matching.BLOCK)  # ten anchors fill one block
    with place():
        assign(torch.rand(10, 4), torch.rand(5, 3, 4), torch.zeros(5, 3, dtype=torch.int64))
    assert seen == [2, 2, 1]


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 127, 128, 129])
def test_any_number_of_anchors(place, count):
    """Anchors come in blocks of 64 inside: the last of one and the first of the next count."""
    anchors = random_boxes(count, generator=seeded(count))
    boxes = anchors[[count - 1, min(63, count - 1), min(64, count - 1), 0]].unsqueeze(0)
    case = Case(anchors, boxes, torch.zeros(1, 4, dtype=torch.int64))
    with place():
        chosen = assign(*case)
    torch.testing.assert_close(chosen, walk(case, 0.5), **EXACT)


# --------------------------------------------------------------------------------- by hand


def test_d2ls_printed_example(place):
    """The numbers on D2L's page (14.4.3): a dog, a cat, five anchors."""
    anchors = [
        [0.0, 0.1, 0.2, 0.3],
        [0.15, 0.2, 0.4, 0.4],
        [0.63, 0.05, 0.88, 0.98],
        [0.66, 0.45, 0.8, 0.8],
        [0.57, 0.3, 0.92, 0.9],
    ]
    boxes, labels = ground_truth((0.1, 0.08, 0.52, 0.92), (0.55, 0.2, 0.9, 0.88), labels=[0, 1])
    with place():
        targets = match(torch.tensor(anchors), boxes, labels)
    assert targets.labels.tolist() == [[0, 1, 2, 0, 2]]
    expected = torch.zeros(1, 5, 4)
    expected[0, 1] = torch.tensor([1.40, 10.0, 2.59, 7.18])
    expected[0, 2] = torch.tensor([-1.20, 0.269, 1.68, -1.57])
    expected[0, 4] = torch.tensor([-0.571, -1.0, 0.0, 0.626])
    torch.testing.assert_close(targets.offsets, expected, rtol=5e-3, atol=1e-4)


def test_the_largest_iou_of_all_goes_first_not_the_first_object(place):
    """Object 0 wants anchor 0 too, but object 1 fits it better, so 0 takes its second choice."""
    anchors = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.3, 0.3, 0.9, 0.9]])
    boxes, labels = ground_truth((0.1, 0.1, 0.6, 0.6), (0.0, 0.0, 0.5, 0.49))
    assert box_iou(boxes[0], anchors)[0].argmax() == 0
    with place():
        assert assign(anchors, boxes, labels).tolist() == [[1, 0]]


def test_equal_ious_go_to_the_lower_anchor_and_then_the_lower_object(place):
    anchors, (boxes, labels) = torch.tensor([UNIT] * 3), ground_truth(UNIT, UNIT)
    with place():
        assert assign(anchors, boxes, labels).tolist() == [[0, 1, 0]]


def test_a_chain_of_disappointed_objects(place):
    """Each object wants the anchor that the next one gets: as many rounds as objects."""
    step, count = 0.05, 9
    starts = step * torch.arange(count + 1)
    anchors = torch.stack([starts, 0 * starts, starts + 1, 0 * starts + 1], dim=-1)
    shift = step * torch.arange(count).flip(0) + torch.linspace(0.02, 0.001, count)
    boxes = torch.stack([shift, 0 * shift, shift + 1, 0 * shift + 1], dim=-1).unsqueeze(0)
    case = Case(anchors, boxes, torch.zeros(1, count, dtype=torch.int64))
    with place():
        chosen = assign(*case, iou_threshold=1.0)
    torch.testing.assert_close(chosen, walk(case, 1.0), **EXACT)
    assert sorted(chosen[0].tolist())[-count:] == list(range(count))


def test_the_threshold_itself_is_enough(place):
    half = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.5]])  # IoU 1 and exactly 0.5
    boxes, labels = ground_truth(UNIT)
    with place():
        assert assign(half, boxes, labels, iou_threshold=0.5).tolist() == [[0, 0]]
        assert assign(half, boxes, labels, iou_threshold=0.500001).tolist() == [[0, -1]]


def test_threshold_0_does_not_match_what_does_not_touch(place):
    anchors = torch.tensor([[0.0, 0.0, 0.2, 0.2], [0.5, 0.5, 1.0, 1.0], [0.2, 0.0, 0.4, 0.2]])
    boxes, labels = ground_truth((0.0, 0.0, 0.2, 0.2))
    with place():
        assert assign(anchors, boxes, labels, iou_threshold=0.0).tolist() == [[0, -1, -1]]


def test_more_objects_than_anchors_leave_some_without(place):
    """D2L overwrites anchor 0 instead."""
    anchors = torch.tensor([UNIT, (0.0, 0.0, 0.5, 0.5)])
    boxes, labels = ground_truth((0.0, 0.0, 0.5, 0.4), (0.1, 0.1, 1.0, 1.0), UNIT, (0.0, 0.0, 0.2, 0.2))
    with place():
        assert assign(anchors, boxes, labels).tolist() == [[2, 0]]


def test_a_forced_match_may_take_an_anchor_from_its_best_object(place):
    anchors = torch.tensor([UNIT, (0.0, 0.0, 1.0, 0.9)])
    boxes, labels = ground_truth(UNIT, (0.0, 0.0, 1.0, 0.1))  # anchor 1: IoU 0.9 and 0.11
    with place():
        assert assign(anchors, boxes, labels).tolist() == [[0, 1]]


# --------------------------------------------------------------- padding, and what is no object


def test_defect_1_padding_is_never_matched(place):
    """D2L forces the row (-1, 0, 0, 0, 0) onto an anchor, with offsets near -50 and -70."""
    anchors = random_boxes(50, generator=seeded())
    boxes, labels = ground_truth(UNIT, (0, 0, 0, 0), (0, 0, 0, 0), labels=[2, -1, -1])
    with place():
        padded, alone = match(anchors, boxes, labels), match(anchors, boxes[:, :1], labels[:, :1])
    torch.testing.assert_close(padded, alone, **EXACT)
    assert padded.offsets.abs().max() < 50


def test_padding_that_holds_a_real_box_is_padding_all_the_same(place):
    anchors = torch.tensor([UNIT, (0.0, 0.0, 0.5, 0.5)])
    boxes, labels = ground_truth(UNIT, (0.0, 0.0, 0.5, 0.5), labels=[-1, 4])
    with place():
        assert match(anchors, boxes, labels).labels.tolist() == [[0, 5]]


@many
@given(case=random_cases(), seed=st.integers(0, 2**32))
def test_rows_of_padding_anywhere_change_nothing(place, case, seed):
    generator = seeded(seed)
    n, g = case.labels.shape
    wide = torch.randperm(g + 3, generator=generator)[:g].sort().values  # where the old rows go
    boxes = random_boxes(n, g + 3, generator=generator)
    labels = torch.full((n, g + 3), -1)
    boxes[:, wide], labels[:, wide] = case.boxes, case.labels
    with place():
        torch.testing.assert_close(match(case.anchors, boxes, labels), match(*case), **EXACT)


def test_defect_2_a_image_without_objects_is_background(place):
    anchors = random_boxes(70, generator=seeded())
    boxes, labels = (
        random_boxes(3, 2, generator=seeded(1)),
        torch.tensor([[0, 1], [-1, -1], [1, -1]]),
    )
    with place():
        targets = match(anchors, boxes, labels)
    assert (targets.labels[1] == 0).all()
    assert (targets.offsets[1] == 0).all()
    assert (targets.labels[0] > 0).any()
    assert (targets.labels[2] > 0).any()


@pytest.mark.parametrize(("n", "g", "a"), [(2, 0, 70), (0, 3, 70), (0, 0, 70), (2, 3, 0), (2, 0, 0)])
def test_nothing_to_match(place, n, g, a):
    labels = torch.zeros(n, g, dtype=torch.int64)
    with place():
        targets = match(torch.rand(a, 4), torch.rand(n, g, 4), labels)
        chosen = assign(torch.rand(a, 4), torch.rand(n, g, 4), labels)
    torch.testing.assert_close(chosen, torch.full((n, a), -1), **EXACT)
    torch.testing.assert_close(targets.labels, torch.zeros(n, a, dtype=torch.int64), **EXACT)
    torch.testing.assert_close(targets.offsets, torch.zeros(n, a, 4), **EXACT)


@pytest.mark.parametrize("bad", [*BAD_BOXES, FAR_BOXES[0], FAR_BOXES[1]])
def test_a_box_that_overlaps_nothing_is_never_matched_and_harms_no_other(place, bad):
    """D2L forces it onto anchor 0; an inverted one gives NaN."""
    near = [(0.0, 0.0, 0.5, 0.45), (0.0, 0.0, 0.5, 0.3)]  # by the threshold, not by force
    anchors = torch.tensor([UNIT, (0.0, 0.0, 0.5, 0.4), (0.5, 0.0, 1.0, 0.5), *near])
    good = (0.0, 0.0, 0.5, 0.4)
    with place():
        with_bad = match(anchors, *ground_truth(bad, good, bad, labels=[1, 2, 3]))
        alone = match(anchors, *ground_truth(good, labels=[2]))
    torch.testing.assert_close(with_bad, alone, **EXACT)
    assert with_bad.labels.tolist() == [[0, 3, 0, 3, 3]]


@many
@given(case=grid_cases())
def test_offsets_are_finite_and_0_without_an_object(place, case):
    with place():
        targets = match(*case)
    assert targets.offsets.isfinite().all()
    assert (targets.offsets[targets.labels == 0] == 0).all()


# ---------------------------------------------------------------------------------- targets


@many
@given(case=random_cases())
def test_targets_follow_from_the_assignment(place, case):
    variances = Variances(0.3, 0.7)
    with place():
        chosen, targets = assign(*case), match(*case, variances=variances)
    labels, offsets = torch.zeros_like(chosen), torch.zeros(*chosen.shape, 4)
    for n, a in (chosen >= 0).nonzero().tolist():
        labels[n, a] = case.labels[n, chosen[n, a]] + 1
        offsets[n, a] = encode(case.anchors[a], case.boxes[n, chosen[n, a]], variances)
    torch.testing.assert_close(targets, Targets(labels, offsets), rtol=1e-5, atol=1e-5)
    assert targets.labels.dtype == torch.int64


@many
@given(case=random_cases())
def test_a_image_is_matched_the_same_in_any_company(place, case):
    with place():
        together = match(*case)
        apart = [match(case.anchors, b[None], y[None]) for b, y in zip(*case[1:], strict=True)]
    torch.testing.assert_close(together.labels, torch.cat([t.labels for t in apart]), **EXACT)
    torch.testing.assert_close(together.offsets, torch.cat([t.offsets for t in apart]), **EXACT)


@many
@given(case=random_cases())
def test_every_object_that_overlaps_has_an_anchor_of_its_own(place, case):
    """Where anchors that overlap everything are plenty, nobody goes without."""
    anchors = torch.cat([case.anchors, torch.tensor([[-1.0, -1.0, 2.0, 2.0]]).repeat(12, 1)])
    with place():
        chosen = assign(anchors, *case[1:])
    for boxes, labels, row in zip(case.boxes, case.labels, chosen, strict=True):
        wanted = {g for g, may in enumerate(usable(boxes, labels)) if may}
        assert set(row[row >= 0].tolist()) == wanted


def test_inputs_are_left_alone(place):
    case = Case(random_boxes(70, generator=seeded()), torch.rand(2, 3, 4), torch.tensor([[0, -1, 1]] * 2))
    case.boxes[0, 0] = torch.nan
    before = [tensor.clone() for tensor in case]
    with place():
        match(*case)
    for tensor, copy in zip(case, before, strict=True):
        torch.testing.assert_close(tensor, copy, equal_nan=True, **EXACT)


def test_places_past_2_to_the_24_are_found():
    """D2L divides positions in float32, and errs with 561 × 728 × 5 anchors and 9 objects."""
    count = 561 * 728 * 5
    corner = torch.linspace(0, 0.9, count)
    anchors = torch.stack([corner, corner.flip(0), corner + 0.1, corner.flip(0) + 0.1], dim=-1)
    wanted = torch.arange(count - 1, 0, -count // 9)[:9]
    wanted = wanted - wanted % 2  # an odd place is what float32 cannot hold there
    wanted[0] += 1
    boxes = anchors[wanted].unsqueeze(0)
    chosen = assign(anchors, boxes, torch.zeros(1, 9, dtype=torch.int64), iou_threshold=1.0)
    best = box_iou(boxes[0], anchors)
    expected = torch.where(best.amax(0) == 1, best.argmax(0), -1)
    torch.testing.assert_close(chosen[0], expected, **EXACT)
    assert chosen[0, wanted].tolist() == list(range(9))


# ------------------------------------------------------------------------------ kinds of numbers


def test_float64_stays_float64_and_agrees(place):
    anchors = random_boxes(70, generator=seeded(), dtype=torch.float64)
    boxes = random_boxes(2, 5, generator=seeded(1), dtype=torch.float64)
    labels = torch.zeros(2, 5, dtype=torch.int64)
    with place():
        wide, narrow = match(anchors, boxes, labels), match(anchors.float(), boxes.float(), labels)
    assert wide.offsets.dtype == torch.float64
    torch.testing.assert_close(wide.labels, narrow.labels, **EXACT)
    torch.testing.assert_close(wide.offsets.float(), narrow.offsets, rtol=1e-4, atol=1e-4)


def test_bfloat16_boxes_are_computed_in_float32_or_wider(place):
    anchors = random_boxes(70, generator=seeded()).bfloat16()
    boxes = random_boxes(2, 5, generator=seeded(1)).bfloat16()
    labels = torch.zeros(2, 5, dtype=torch.int64)
    with place():
        half, whole = match(anchors, boxes, labels), match(anchors.float(), boxes.float(), labels)
    torch.testing.assert_close(half.labels, whole.labels, **EXACT)
    torch.testing.assert_close(half.offsets.float(), whole.offsets)


@pytest.mark.parametrize("kinds", [(torch.float32, torch.bfloat16), (torch.float32, torch.float64)])
def test_offsets_have_one_kind_wherever_they_are_computed(kinds):
    anchors = random_boxes(70, generator=seeded(), dtype=kinds[0])
    boxes = random_boxes(1, 5, generator=seeded(1)).to(kinds[1])
    labels = torch.zeros(1, 5, dtype=torch.int64)
    here = match(anchors, boxes, labels)
    with PretendDevice():
        there = match(anchors, boxes, labels)
    torch.testing.assert_close(here, there)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32, torch.float32, torch.bfloat16])
def test_target_labels_are_int64_whatever_the_labels_were(place, kind):
    """D2L crashes on labels of most kinds."""
    boxes, labels = ground_truth(UNIT, (0.0, 0.0, 0.5, 0.5), labels=[3, 1])
    with place():
        targets = match(torch.tensor([UNIT, (0.5, 0.5, 1.0, 1.0)]), boxes, labels.to(kind))
    assert targets.labels.tolist() == [[4, 0]]
    assert targets.labels.dtype == torch.int64


# -------------------------------------------------------------------------------- wrong shapes


@pytest.mark.parametrize(
    ("anchors", "boxes", "labels"),
    [
        ((5, 4), (2, 3, 4), (2, 2)),
        ((5, 4), (2, 3, 5), (2, 3)),
        ((5, 3), (2, 3, 4), (2, 3)),
        ((1, 5, 4), (2, 3, 4), (2, 3)),
        ((5, 4), (3, 4), (3,)),
        ((5, 4), (3, 2, 4), (2, 3)),
        ((4,), (2, 3, 4), (2, 3)),
    ],
)
def test_shapes_that_do_not_fit_are_named(anchors, boxes, labels):
    with pytest.raises(ValueError, match=r"anchors \(.*boxes \(.*labels \(.*expected"):
        match(torch.rand(anchors), torch.rand(boxes), torch.zeros(labels, dtype=torch.int64))


# ------------------------------------------------------------------------------- other devices


def test_nothing_waits_for_the_device():
    case = Case(
        random_boxes(200, generator=seeded()),
        random_boxes(4, 6, generator=seeded(1)),
        torch.randint(-1, 3, (4, 6), generator=seeded(2)),
    )
    with PretendDevice() as device:
        match(*case)
    assert not device.waits


def test_the_pretended_device_would_notice():
    tensor = torch.arange(3)
    with PretendDevice() as device:
        assert tensor.device.type == "cuda"
        tensor[tensor > 0], tensor.nonzero(), bool(tensor.any()), torch.tensor([1])
    assert set(device.waits) == {"__getitem__", "nonzero", "__bool__", "tensor"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@given(case=st.one_of(grid_cases(), random_cases()))
def test_a_gpu_agrees_with_the_processor(case):
    there = match(*(tensor.cuda() for tensor in case))
    here = match(*case)
    torch.testing.assert_close(there.labels.cpu(), here.labels, **EXACT)
    torch.testing.assert_close(there.offsets.cpu(), here.offsets, rtol=1e-4, atol=1e-4)
