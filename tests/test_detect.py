"""Detection against loops: suppression hard and soft, candidates, and what must never come out."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from d2lmini.anchors import TINY_SSD_ANCHORS, make_anchors
from d2lmini.boxes import box_iou, decode
from d2lmini.detect import DetectConfig, Detections, detect, greedy_nms, nms, soft_nms, suppress

from . import references
from .strategies import box_tensors, random_boxes

# `d2lmini.detect` is the function once the package is imported; this is the module of that name
detection = importlib.import_module("d2lmini.detect")

EXACT = {"rtol": 0, "atol": 0}
THRESHOLDS = [0.0, 0.3, 0.5, 0.75, 1.0]
WHOLE = [0.0, 0.0, 1.0, 1.0]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crowd(count: int, seed: int = 0, spots: int = 10) -> Tensor:
    """Boxes (count, 4) that huddle around a few spots, so that there is much to suppress."""
    generator = seeded(seed)
    at = random_boxes(spots, generator=generator)[torch.randint(spots, (count,), generator=generator)]
    return at + 0.05 * torch.rand(count, 4, generator=generator)


def answers(n: int, a: int, k: int, seed: int = 0, sharpness: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, offsets and anchors of a network that says all kinds of things."""
    generator = seeded(seed)
    logits = sharpness * torch.randn(n, a, k + 1, generator=generator)
    offsets = torch.randn(n, a, 4, generator=generator)
    return logits, offsets, crowd(a, seed)


def sure(classes: list[int | None], k: int, score: float = 0.9) -> Tensor:
    """Logits (1, A, K + 1) of anchors that each give `score` to one class, or all to background."""
    p = torch.full((1, len(classes), k + 1), (1 - score) / k)
    for anchor, label in enumerate(classes):
        p[0, anchor, 0 if label is None else label + 1] = score
    return p.log()


# ------------------------------------------------------------------------------------ hard NMS


@given(
    boxes=box_tensors(max_size=12),
    scores=st.lists(st.sampled_from([0.1, 0.5, 0.5, 0.9]), min_size=12, max_size=12),
    groups=st.none() | st.lists(st.integers(0, 2), min_size=12, max_size=12),
    threshold=st.sampled_from(THRESHOLDS),
)
def test_nms_equals_the_loop_ties_and_all(boxes, scores, groups, threshold):
    boxes = boxes[boxes.isfinite().all(-1)]
    scores = torch.tensor(scores[: len(boxes)])
    groups = None if groups is None else torch.tensor(groups[: len(boxes)], dtype=torch.int64)
    table = box_iou(boxes, boxes).tolist()
    given_groups = None if groups is None else groups.tolist()
    expected = references.nms(table, scores.tolist(), threshold, given_groups)
    kept = nms(boxes, scores, threshold, groups)
    assert kept.dtype == torch.int64
    assert kept.tolist() == expected


@pytest.mark.parametrize("count", [1, 127, 128, 129, 400, 700])
@pytest.mark.parametrize("classes", [0, 3])
def test_nms_of_a_crowd_equals_the_loop(count, classes):
    """128 boxes are settled at a time, so that counts around it and far beyond matter."""
    for spots in (5, 60):
        boxes = crowd(count, seed=count, spots=spots)
        scores = torch.rand(count, generator=seeded(1)).mul(50).round()  # many are equal
        labels = torch.randint(classes, (count,), generator=seeded(2)) if classes else None
        table = box_iou(boxes, boxes).tolist()
        groups = None if labels is None else labels.tolist()
        for threshold in (0.3, 0.6):
            expected = references.nms(table, scores.tolist(), threshold, groups)
            assert nms(boxes, scores, threshold, labels).tolist() == expected


def test_a_chain_where_every_other_box_survives():
    """Each box overlaps only its neighbours: what survives depends on all before it."""
    start = 0.6 * torch.arange(300.0)
    boxes = torch.stack([start, 0 * start, start + 1, 0 * start + 1], dim=-1)  # neighbours: IoU 0.25
    kept = nms(boxes, -torch.arange(300.0), iou_threshold=0.2)
    assert kept.tolist() == list(range(0, 300, 2))


def test_equality_stays():
    boxes = torch.tensor([WHOLE, [0.0, 0.0, 1.0, 0.5]])  # IoU is exactly 0.5
    scores = torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.5).tolist() == [0, 1]
    assert nms(boxes, scores, 0.4999).tolist() == [0]


def test_equality_stays_beyond_the_first_block_too():
    far = torch.arange(2.0, 202.0).unsqueeze(1) + torch.tensor([0.0, 0.0, 0.5, 0.5])
    boxes = torch.cat([torch.tensor([WHOLE]), far, torch.tensor([[0.0, 0.0, 1.0, 0.5]])])
    scores = -torch.arange(202.0)
    assert nms(boxes, scores, 0.5).tolist() == list(range(202))
    assert nms(boxes, scores, 0.4999).tolist() == list(range(201))


def test_equal_scores_leave_the_earlier_box():
    assert nms(torch.tensor([WHOLE] * 500), torch.zeros(500)).tolist() == [0]


def test_no_boxes_are_no_error_and_indices_stay_whole():
    """D2L returns a float index tensor and then crashes."""
    for labels in (None, torch.zeros(0, dtype=torch.int64)):
        kept = nms(torch.zeros(0, 4), torch.zeros(0), labels=labels)
        assert kept.shape == (0,)
        assert kept.dtype == torch.int64


@pytest.mark.parametrize(("boxes", "scores"), [((3, 4), (2,)), ((3, 5), (3,)), ((1, 3, 4), (1, 3))])
def test_shapes_that_do_not_fit_are_named(boxes, scores):
    with pytest.raises(ValueError, match=r"expected \(M, 4\) and \(M,\)"):
        nms(torch.rand(boxes), torch.rand(scores))


@given(seed=st.integers(0, 2**32), threshold=st.sampled_from(THRESHOLDS))
def test_survivors_of_suppression_survive_it_again(seed, threshold):
    boxes, scores = crowd(60, seed), torch.rand(60, generator=seeded(seed))
    kept = nms(boxes, scores, threshold)
    assert nms(boxes[kept], scores[kept], threshold).tolist() == list(range(len(kept)))


@given(seed=st.integers(0, 2**32))
def test_nms_does_not_care_for_the_order_of_the_boxes(seed):
    boxes, scores = crowd(60, seed), torch.rand(60, generator=seeded(seed), dtype=torch.float64)
    order = torch.randperm(60, generator=seeded(seed + 1))
    assert order[nms(boxes[order], scores[order])].tolist() == nms(boxes, scores).tolist()


@given(
    seed=st.integers(0, 2**32),
    count=st.sampled_from([40, 150]),
    entries=st.sampled_from([1, 128 * 150 * 2, 10**9]),
)
def test_groups_side_by_side_as_one_by_one(seed, count, entries):
    """Groups of very different sizes, in pieces of any size."""
    boxes = crowd(count, seed, spots=10)
    scores = torch.linspace(1, 0.1, count)
    groups = (torch.rand(count, generator=seeded(seed)) ** 4 * 12).long()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detection, "CPU_ENTRIES", entries)
        kept = suppress(boxes, scores, groups, DetectConfig(iou_threshold=0.4))
    for group in groups.unique():
        at = (groups == group).nonzero().flatten()
        alone = at[nms(boxes[at], scores[at], 0.4)]
        wanted = torch.zeros(count).index_put((alone,), scores[alone])
        assert torch.equal(kept[at], wanted[at])


@given(seed=st.integers(0, 2**32), threshold=st.sampled_from(THRESHOLDS))
def test_the_fixed_point_is_the_walk_down_the_list(seed, threshold):
    boxes = torch.stack([crowd(40, seed), crowd(40, seed + 1)])
    valid = torch.rand(2, 40, generator=seeded(seed)) < 0.8
    kept = greedy_nms(boxes, valid, threshold)
    for i in range(2):
        at = valid[i].nonzero().flatten()
        table = box_iou(boxes[i, at], boxes[i, at]).tolist()
        alone = references.nms(table, (-torch.arange(len(at))).tolist(), threshold)
        assert kept[i].nonzero().flatten().tolist() == at[sorted(alone)].tolist()


def test_suppressing_nothing():
    empty = torch.zeros(0)
    assert suppress(torch.zeros(0, 4), empty, empty.long(), DetectConfig()).shape == (0,)
    assert nms(torch.zeros(0, 4), empty).tolist() == []


# ------------------------------------------------------------------------------------ Soft-NMS


@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(["linear", "gaussian"]),
    threshold=st.sampled_from(THRESHOLDS),
    most=st.sampled_from([1, 5, 100]),
)
def test_soft_nms_equals_the_loop(seed, kind, threshold, most):
    boxes, scores = crowd(15, seed, spots=4), 0.1 + torch.rand(15, generator=seeded(seed))
    found = soft_nms(boxes[None], scores[None], kind, threshold, 0.5, most)[0]
    table = box_iou(boxes, boxes).tolist()
    expected = torch.zeros(15)
    for i, score in references.soft_nms(table, scores.tolist(), kind, threshold, 0.5)[:most]:
        expected[i] = score
    torch.testing.assert_close(found, expected)


@given(seed=st.integers(0, 2**32), kind=st.sampled_from(["linear", "gaussian"]))
def test_soft_nms_within_groups_equals_the_loop(seed, kind):
    boxes = crowd(15, seed, spots=4)
    scores = (0.1 + torch.rand(15, generator=seeded(seed))).sort(descending=True).values
    groups = torch.randint(2, (15,), generator=seeded(seed))
    found = suppress(boxes, scores, groups, DetectConfig(soft=kind))
    table = box_iou(boxes, boxes).tolist()
    expected = references.soft_nms(table, scores.tolist(), kind, 0.45, 0.5, groups.tolist())
    torch.testing.assert_close(found, torch.tensor([score for _, score in sorted(expected)]))


def test_soft_nms_by_hand():
    boxes = torch.tensor([[WHOLE, [0.0, 0.0, 1.0, 0.5], [2.0, 2.0, 3.0, 3.0]]])  # IoU 0.5 and 0
    scores = torch.tensor([[0.9, 0.8, 0.3]])
    expected = torch.tensor([[0.9, 0.8 * math.exp(-0.5), 0.3]])
    torch.testing.assert_close(soft_nms(boxes, scores, "gaussian", sigma=0.5), expected)
    linear = soft_nms(boxes, scores, "linear", iou_threshold=0.4)
    torch.testing.assert_close(linear, torch.tensor([[0.9, 0.4, 0.3]]))
    above = soft_nms(boxes, scores, "linear", iou_threshold=0.5)  # equality is left alone
    torch.testing.assert_close(above, scores)


def test_soft_nms_ignores_padding():
    boxes = torch.tensor([[[math.nan] * 4, WHOLE, WHOLE]])
    assert soft_nms(boxes, torch.tensor([[0.0, 0.5, 0.0]])).tolist() == [[0.0, 0.5, 0.0]]


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_soft_nms_of_nothing(shape):
    assert soft_nms(torch.zeros(*shape, 4), torch.zeros(shape)).shape == shape


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="median"):
        soft_nms(torch.zeros(1, 1, 4), torch.zeros(1, 1), "median")


# --------------------------------------------------------------------------- the whole, by a loop


def candidates(logits: Tensor, options: dict) -> list[tuple[float, int, int]]:
    """(score, anchor, class) of one image's candidates, best first."""
    scores = logits.softmax(-1)[:, 1:].tolist()
    pairs = [(s, a, c) for a, row in enumerate(scores) for c, s in enumerate(row)]
    if options["best_class_only"]:
        pairs = [(max(row), a, row.index(max(row))) for a, row in enumerate(scores)]
    pairs = [pair for pair in pairs if pair[0] >= options["score_threshold"]]
    return sorted(pairs, key=lambda pair: -pair[0])[: options["top_k"]]  # sorted() is stable


def loop(logits: Tensor, offsets: Tensor, anchors: Tensor, options: dict) -> Detections:
    """`detect` for one image, step by step."""
    rows = []
    for score, anchor, label in candidates(logits, options):
        box = decode(anchors[anchor], offsets[anchor])
        box = box.clamp(0, 1) if options["clip"] else box
        if box[2] > box[0] and box[3] > box[1]:
            rows.append((box, score, label))
    boxes = torch.stack([b for b, _, _ in rows]) if rows else torch.zeros(0, 4)
    table, scores = box_iou(boxes, boxes).tolist(), [s for _, s, _ in rows]
    groups = [c for _, _, c in rows] if options["class_aware"] else None
    if options["soft"] is None:
        kept = [(i, scores[i]) for i in references.nms(table, scores, options["iou_threshold"], groups)]
    else:
        numbers = (options["soft"], options["iou_threshold"], options["sigma"])
        kept = references.soft_nms(table, scores, *numbers, groups)
        kept = [(i, s) for i, s in kept if s >= options["score_threshold"]]
    kept = kept[: options["max_detections"]]
    labels = torch.tensor([rows[i][2] for i, _ in kept], dtype=torch.int64)
    return Detections(boxes[[i for i, _ in kept]], torch.tensor([s for _, s in kept]), labels)


all_options = st.fixed_dictionaries(
    {
        "score_threshold": st.sampled_from([0.011, 0.2, 0.5, 0.97, 1.0]),
        "iou_threshold": st.sampled_from([0.0, 0.45, 0.7, 1.0]),
        "top_k": st.sampled_from([None, 1, 7, 40, 400]),
        "max_detections": st.sampled_from([1, 5, 100]),
        "class_aware": st.booleans(),
        "best_class_only": st.booleans(),
        "clip": st.booleans(),
        "soft": st.sampled_from([None, None, "linear", "gaussian"]),
        "sigma": st.sampled_from([0.1, 0.5]),
    }
)


@given(
    seed=st.integers(0, 2**32),
    k=st.integers(1, 4),
    a=st.sampled_from([1, 9, 60, 150]),
    options=all_options,
)
def test_detect_equals_the_loop(seed, k, a, options):
    logits, offsets, anchors = answers(2, a, k, seed)
    for i, found in enumerate(detect(logits, offsets, anchors, **options)):
        expected = loop(logits[i], offsets[i], anchors, options)
        torch.testing.assert_close(found.scores, expected.scores)
        torch.testing.assert_close(found.boxes, expected.boxes)
        torch.testing.assert_close(found.labels, expected.labels, **EXACT)


def without_the_bound() -> pytest.MonkeyPatch:
    """Every anchor gets its softmax, as if the quick bound on it did not exist."""
    patch = pytest.MonkeyPatch()
    every = lambda logits, config: torch.ones(logits.shape[:2], dtype=torch.bool)  # noqa: E731
    patch.setattr(detection, "prefilter_by_logit", every)
    return patch


@given(
    seed=st.integers(0, 10_000),
    k=st.integers(2, 6),
    threshold=st.sampled_from([1e-30, 0.01, 0.5, 0.99, 0.999999, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    best=st.booleans(),
)
def test_the_bound_on_scores_leaves_out_none_that_reaches_the_threshold(seed, k, threshold, dtype, best):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 60, k + 1, generator=draw).mul(3).round()  # equal scores among them
    logits[..., 0] += 20 * torch.rand(2, 60, generator=draw)  # background in most places
    logits[0, 3, 1], logits[0, 4, 0], logits[1, 5, 2] = math.nan, math.inf, math.inf
    edge = math.log(0.5 / 0.5) if threshold == 0.5 else 5.0
    logits[1, 6] = torch.tensor([0.0, edge, *[-200.0] * (k - 1)])  # a softmax that equals its bound
    case = (logits.to(dtype), torch.randn(2, 60, 4, generator=draw), random_boxes(60, generator=draw))
    options = {"score_threshold": threshold, "best_class_only": best, "iou_threshold": 1.0, "top_k": None}
    patch = without_the_bound()
    try:
        wanted = detect(*case, max_detections=1000, **options)
    finally:
        patch.undo()
    for found, all_of_them in zip(detect(*case, max_detections=1000, **options), wanted, strict=True):
        for a, b in zip(found, all_of_them, strict=True):
            assert torch.equal(a, b)


def test_the_bound_leaves_few_anchors_of_a_trained_network():
    logits = torch.zeros(2, 100, 4)
    logits[..., 0] = 12
    logits[0, [7, 40], 2] = 14.0
    logits[1, 99, 3] = 12.0
    chosen = detection.prefilter_by_logit(logits, DetectConfig())
    assert chosen.nonzero().tolist() == [[0, 7], [0, 40], [1, 99]]


@pytest.mark.parametrize("soft", [None, "linear", "gaussian"])
@pytest.mark.parametrize("k", [1, 3])
def test_a_image_is_answered_the_same_in_any_company(soft, k):
    given = answers(6, 80, k)
    given[0][:, :, 0] += torch.arange(6).unsqueeze(1)  # from many candidates to few
    together = detect(*given, soft=soft)
    for i, found in enumerate(together):
        (alone,) = detect(given[0][i : i + 1], given[1][i : i + 1], given[2], soft=soft)
        torch.testing.assert_close(tuple(found), tuple(alone))
    assert len({len(found.scores) for found in together}) > 1


@given(seed=st.integers(0, 2**32), soft=st.sampled_from([None, "linear", "gaussian"]))
def test_what_comes_out_is_in_order_inside_the_image_and_above_the_threshold(seed, soft):
    for found in detect(*answers(2, 60, 3, seed), score_threshold=0.1, soft=soft):
        assert (found.scores[:-1] >= found.scores[1:]).all()
        assert (found.scores >= 0.1).all()
        assert ((found.boxes >= 0) & (found.boxes <= 1)).all()
        assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
        assert set(found.labels.tolist()) <= {0, 1, 2}
        assert (found.boxes.dtype, found.labels.dtype) == (torch.float32, torch.int64)


@given(seed=st.integers(0, 2**32), threshold=st.sampled_from([0.05, 0.3, 0.8]))
def test_a_higher_threshold_only_leaves_out_the_weaker(seed, threshold):
    """So what the threshold rejects need not go through suppression."""
    given = answers(2, 60, 2, seed)
    options = {"top_k": None, "max_detections": 10**6}
    low = detect(*given, score_threshold=0.01, **options)
    high = detect(*given, score_threshold=threshold, **options)
    for many, few in zip(low, high, strict=True):
        torch.testing.assert_close(tuple(many.at_least(threshold)), tuple(few), **EXACT)


@given(seed=st.integers(0, 2**32))
def test_each_class_by_itself_as_all_at_once(seed):
    logits, offsets, anchors = answers(1, 60, 3, seed)
    options = {"top_k": None, "max_detections": 10**6}
    (together,) = detect(logits, offsets, anchors, **options)
    for label in range(3):
        p = logits.softmax(-1)[..., label + 1]
        alone = torch.stack([torch.zeros_like(p), p.logit()], dim=-1)
        (found,) = detect(alone, offsets, anchors, **options)
        mine = together.labels == label
        torch.testing.assert_close(found.scores, together.scores[mine], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.boxes, together.boxes[mine])


def test_tiny_ssds_5444_anchors_equal_the_loop():
    anchors = make_anchors([(32, 32), (16, 16), (8, 8), (4, 4), (1, 1)], TINY_SSD_ANCHORS)
    logits = 2 * torch.randn(1, 5444, 2, generator=seeded())
    logits[..., 0] += 4
    offsets = torch.randn(1, 5444, 4, generator=seeded(1))
    (found,) = detect(logits, offsets, anchors, max_detections=400)
    options = {"score_threshold": 0.01, "top_k": 400, "best_class_only": False, "class_aware": True}
    options |= {"soft": None, "iou_threshold": 0.45, "max_detections": 400, "clip": True}
    expected = loop(logits[0], offsets[0], anchors, options)
    torch.testing.assert_close(tuple(found), tuple(expected))


# ------------------------------------------------------------------------------------- by hand


def test_d2ls_printed_example():
    """The numbers on D2L's page (14.4.4): three dogs over each other, and a cat."""
    boxes = [
        [0.1, 0.08, 0.52, 0.92],
        [0.08, 0.2, 0.56, 0.95],
        [0.15, 0.3, 0.62, 0.91],
        [0.55, 0.2, 0.9, 0.88],
    ]
    p = torch.tensor([[[0.0, 0.9, 0.1], [0.0, 0.8, 0.2], [0.0, 0.7, 0.3], [0.0, 0.1, 0.9]]])
    (found,) = detect(
        *(p.log(), torch.zeros(1, 4, 4), torch.tensor(boxes)),
        iou_threshold=0.5,
        best_class_only=True,
    )
    assert found.labels.tolist() == [0, 1]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.9]))
    torch.testing.assert_close(found.boxes, torch.tensor([boxes[0], boxes[3]]))


def test_defect_4_a_cat_does_not_delete_a_dog_over_it():
    anchors = torch.tensor([WHOLE, [0.0, 0.0, 1.0, 0.98]])
    logits = torch.tensor([[[0.03, 0.02, 0.95], [0.06, 0.90, 0.04]]]).log()
    options = {"score_threshold": 0.5}
    (both,) = detect(logits, torch.zeros(1, 2, 4), anchors, **options)
    assert both.labels.tolist() == [1, 0]
    (one,) = detect(logits, torch.zeros(1, 2, 4), anchors, class_aware=False, **options)
    assert one.labels.tolist() == [1]


def test_defect_5_no_score_is_rewritten():
    """D2L turns a rejected 0.001 into 0.999."""
    logits, offsets, anchors = answers(1, 50, 1)
    logits[0, :, 0] += 3
    (found,) = detect(logits, offsets, anchors, score_threshold=0.0)
    assert len(found.scores) > 5
    given = logits.softmax(-1)[0, :, 1]
    assert (found.scores[:, None] - given).abs().amin(1).max() < 1e-6  # a sigmoid rounds otherwise


def test_an_anchor_may_name_two_classes_unless_told_otherwise():
    logits = torch.tensor([[[0.1, 0.5, 0.4]]]).log()
    (two,) = detect(logits, torch.zeros(1, 1, 4), torch.tensor([WHOLE]))
    assert two.labels.tolist() == [0, 1]
    (one,) = detect(logits, torch.zeros(1, 1, 4), torch.tensor([WHOLE]), best_class_only=True)
    assert one.labels.tolist() == [0]


def test_the_threshold_itself_is_enough():
    logits = torch.zeros(1, 1, 2)  # exactly 0.5
    given = (logits, torch.zeros(1, 1, 4), torch.tensor([WHOLE]))
    assert len(detect(*given, score_threshold=0.5)[0].scores) == 1
    assert len(detect(*given, score_threshold=0.5001)[0].scores) == 0


def test_boxes_are_clipped_to_the_image_unless_told_otherwise():
    anchors = torch.tensor([[-0.2, 0.5, 0.3, 1.4]])
    (found,) = detect(sure([0], 1), torch.zeros(1, 1, 4), anchors)
    torch.testing.assert_close(found.boxes, torch.tensor([[0.0, 0.5, 0.3, 1.0]]))
    (found,) = detect(sure([0], 1), torch.zeros(1, 1, 4), anchors, clip=False)
    torch.testing.assert_close(found.boxes, anchors)


@pytest.mark.parametrize(
    "offsets",
    [
        [math.nan] * 4,
        [0.0, 0.0, math.nan, 0.0],
        [100.0, 0.0, 0.0, 0.0],  # to the right of the image
        [0.0, -100.0, 0.0, 0.0],
        [math.inf, 0.0, 0.0, 0.0],
        [0.0, 0.0, -math.inf, 0.0],  # no width
        [0.0, 0.0, 0.0, -1e6],
    ],
)
@pytest.mark.parametrize("soft", [None, "linear", "gaussian"])
def test_a_box_that_is_not_one_is_left_out_and_harms_no_other(offsets, soft):
    anchors = torch.tensor([[0.1, 0.1, 0.5, 0.5]] * 2)
    rows = torch.tensor([[offsets, [0.0] * 4]])
    logits = torch.tensor([[[0.0, 3.0], [0.0, 2.0]]])
    (found,) = detect(logits, rows, anchors, soft=soft)
    torch.testing.assert_close(found.boxes, anchors[:1])
    assert found.scores.item() == pytest.approx(1 / (1 + math.exp(-2)))


def test_huge_offsets_give_a_box_as_large_as_the_image():
    (found,) = detect(
        sure([0], 1), torch.tensor([[[0.0, 0.0, 1e30, 1e30]]]), torch.tensor([[0.4, 0.4, 0.6, 0.6]])
    )
    torch.testing.assert_close(found.boxes, torch.tensor([WHOLE]))


def test_a_broken_network_finds_nothing():
    logits, offsets, anchors = answers(2, 20, 2)
    logits[1] = math.nan
    whole, broken = detect(logits, offsets, anchors)
    assert len(whole.scores) > 0
    assert len(broken.scores) == 0


def test_broken_anchors_do_not_crowd_out_the_others():
    logits, offsets, anchors = answers(1, 20, 1)
    (expected,) = detect(logits[:, 10:], offsets[:, 10:], anchors[10:], top_k=3)
    logits[0, :10] = math.nan
    (found,) = detect(logits, offsets, anchors, top_k=3)
    torch.testing.assert_close(tuple(found), tuple(expected))


@pytest.mark.parametrize("soft", [None, "gaussian"])
@pytest.mark.parametrize(("n", "a"), [(0, 5), (2, 0), (0, 0)])
def test_nothing_in_nothing_out(n, a, soft):
    found = detect(torch.zeros(n, a, 3), torch.zeros(n, a, 4), torch.zeros(a, 4), soft=soft)
    assert [len(one.scores) for one in found] == [0] * n


@pytest.mark.parametrize("soft", [None, "gaussian"])
def test_background_everywhere_gives_empty_tensors_of_the_right_shape(soft):
    found = detect(sure([None] * 5, 2, 0.999), torch.zeros(2, 5, 4)[:1], torch.rand(5, 4), soft=soft)
    assert [tuple(t.shape) for t in found[0]] == [(0, 4), (0,), (0,)]
    assert found[0].labels.dtype == torch.int64


@pytest.mark.parametrize(("count", "top_k"), [(3000, 700), (5444, 400), (5444, 1)])
def test_among_equal_scores_the_first_anchors_are_taken(count, top_k):
    anchors = torch.arange(count).unsqueeze(1) / count + torch.tensor([[0.0, 0.0, 0.5, 0.5]]) / count
    logits = torch.zeros(1, count, 2)
    (found,) = detect(logits, torch.zeros(1, count, 4), anchors, top_k=top_k, max_detections=count)
    torch.testing.assert_close(found.boxes, anchors[:top_k])


@pytest.mark.parametrize("soft", [None, "linear", "gaussian"])
def test_threshold_0_lets_every_box_through_but_none_that_is_not_one(soft):
    logits, offsets, anchors = answers(2, 30, 1)
    offsets[0, ::2] = math.nan
    found = detect(logits, offsets, anchors, score_threshold=0.0, iou_threshold=1.0, soft=soft)
    for one in found:
        assert one.boxes.isfinite().all()
        assert (one.boxes[:, 2:] > one.boxes[:, :2]).all()
        assert len(one.boxes.unique(dim=0)) == len(one.boxes)
    assert len(found[0].scores) <= 15


def test_detections_of_a_network_that_is_being_trained():
    logits, offsets, anchors = answers(1, 20, 1)
    plain = detect(logits, offsets, anchors)
    tracked = detect(logits.requires_grad_(), offsets.requires_grad_(), anchors)
    torch.testing.assert_close(tuple(tracked[0]), tuple(plain[0]), **EXACT)
    assert not any(t.requires_grad for t in tracked[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_kinds_of_numbers_give_about_the_same(dtype):
    logits, offsets, anchors = answers(1, 1, 1)
    (plain,) = detect(logits, offsets, anchors)
    (other,) = detect(logits.to(dtype), offsets.to(dtype), anchors.to(dtype))
    torch.testing.assert_close(other.boxes.float(), plain.boxes, rtol=0.02, atol=0.02)
    torch.testing.assert_close(other.scores.float(), plain.scores, rtol=0.02, atol=0.02)


def test_inputs_are_left_alone():
    given = answers(2, 40, 2)
    before = [tensor.clone() for tensor in given]
    detect(*given)
    detect(*given, soft="linear")
    torch.testing.assert_close(list(given), before, **EXACT)


def test_at_least():
    found = Detections(torch.rand(3, 4), torch.tensor([0.9, 0.5, 0.1]), torch.tensor([2, 1, 0]))
    assert found.at_least(0.5).labels.tolist() == [2, 1]
    assert found.at_least(0.95).boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("score_threshold", -0.1),
        ("score_threshold", 1.1),
        ("iou_threshold", 50),
        ("iou_threshold", math.nan),
        ("top_k", 0),
        ("max_detections", -1),
        ("soft", "hard"),
        ("sigma", 0.0),
        ("sigma", math.nan),
    ],
)
def test_a_wrong_option_is_named(option, value):
    with pytest.raises(ValueError, match=option):
        detect(*answers(1, 2, 1), **{option: value})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("soft", [None, "linear", "gaussian"])
def test_a_gpu_agrees_with_the_processor(soft):
    given = answers(3, 300, 2)
    here, there = detect(*given, soft=soft), detect(*(t.cuda() for t in given), soft=soft)
    for one, other in zip(here, there, strict=True):
        assert other.boxes.is_cuda
        torch.testing.assert_close(tuple(t.cpu() for t in other), tuple(one), rtol=1e-4, atol=1e-4)


def test_broken_box_hides_nothing_beyond_the_first_block():
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(300, 1)
    boxes[5] = torch.nan
    kept = nms(boxes, torch.linspace(1, 0, 300), 0.5)
    assert kept.tolist() == [0]


def test_anchors_of_another_model_are_refused():
    with pytest.raises(ValueError, match="take all three from one model"):
        detect(torch.zeros(1, 3, 2), torch.zeros(1, 3, 4), torch.zeros(4, 4))
