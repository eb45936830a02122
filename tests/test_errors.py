"""D2L's two metrics with their baselines, and the verdict on each single detection."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2lmini.boxes import box_iou
from d2lmini.detect import Detections
from d2lmini.engine.anchor_errors import anchor_metrics
from d2lmini.errors import ERROR_KINDS, error_breakdown, error_kinds
from d2lmini.evaluate import evaluate, precision_recall
from d2lmini.matching import Targets
from d2lmini.model import Predictions

# ---- D2L's own metrics ----


def answers(classes, offsets=None, count: int = 3) -> Predictions:
    """Logits that pick these classes (N, A)."""
    logits = torch.nn.functional.one_hot(torch.tensor(classes), count).float() * 5
    offsets = torch.zeros(*logits.shape[:2], 4) if offsets is None else offsets
    return Predictions(logits, offsets)


def d2l_numbers(predictions: Predictions, targets: Targets) -> tuple[float, float]:
    """Class error and box MAE as D2L's evaluation adds them up."""
    right = (predictions.logits.argmax(-1) == targets.labels).sum()
    mask = (targets.labels > 0).float().unsqueeze(-1).repeat(1, 1, 4)
    error = ((targets.offsets - predictions.offsets) * mask).abs().sum()
    return float(1 - right / targets.labels.numel()), float(error / targets.offsets.numel())


def test_anchor_metrics_counted_by_hand():
    labels = torch.tensor([[0, 1, 2, 0], [0, 0, 0, 1]])
    offsets = torch.zeros(2, 4, 4)
    offsets[0, 1], offsets[0, 2], offsets[1, 3] = 1.0, -2.0, 0.5
    guess = torch.full((2, 4, 4), 0.5)
    metrics = anchor_metrics(answers([[0, 1, 1, 0], [2, 0, 0, 0]], guess), Targets(labels, offsets))
    assert metrics.class_error == 3 / 8
    assert metrics.background_class_error == 3 / 8
    assert metrics.positive_recall == pytest.approx(1 / 3)
    assert metrics.box_mae == pytest.approx((4 * 0.5 + 4 * 2.5 + 0) / 32)
    assert metrics.background_box_mae == pytest.approx((4 * 1 + 4 * 2 + 4 * 0.5) / 32)
    assert int(metrics.positives) == 3


def random_batch(seed: int, anchors: int = 50) -> tuple[Predictions, Targets]:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(-6, 3, (4, anchors), generator=random).clamp(min=0)
    offsets = torch.randn(4, anchors, 4, generator=random) * (labels > 0).unsqueeze(-1)
    logits = torch.randn(4, anchors, 3, generator=random)
    return Predictions(logits, torch.randn(4, anchors, 4, generator=random)), Targets(labels, offsets)


def test_anchor_metrics_are_those_of_d2l():
    for seed in range(20):
        predictions, targets = random_batch(seed)
        metrics = anchor_metrics(predictions, targets)
        expected = d2l_numbers(predictions, targets)
        assert (metrics.class_error, metrics.box_mae) == pytest.approx(expected, abs=1e-6)


def test_always_background_scores_exactly_its_baseline():
    for seed in range(5):
        _, targets = random_batch(seed)
        metrics = anchor_metrics(answers(torch.zeros(4, 50).long().tolist()), targets)
        assert metrics.class_error == metrics.background_class_error > 0
        assert metrics.box_mae == metrics.background_box_mae > 0
        assert metrics.positive_recall == 0


def test_sums_of_batches_equal_one_large_batch():
    batches = [random_batch(seed) for seed in range(3)]
    added = sum(anchor_metrics(*batch) for batch in batches)
    predictions, targets = zip(*batches, strict=True)
    together = anchor_metrics(
        Predictions(*map(torch.cat, zip(*predictions, strict=True))),
        Targets(*map(torch.cat, zip(*targets, strict=True))),
    )
    assert added.as_dict() == pytest.approx(together.as_dict())
    assert added.anchors == 3 * 4 * 50


def test_nan_never_looks_like_background():
    predictions, targets = random_batch(0)
    broken = anchor_metrics(predictions._replace(logits=predictions.logits * math.nan), targets)
    assert broken.class_error == 1
    assert broken.positive_recall == 0
    column = torch.tensor([math.nan, 0.0, 0.0])  # argmax takes it for the best: background, which most are
    assert anchor_metrics(predictions._replace(logits=predictions.logits + column), targets).class_error == 1
    broken = anchor_metrics(predictions._replace(offsets=predictions.offsets * math.nan), targets)
    assert math.isnan(broken.box_mae)
    assert broken.as_dict()["box_mae"] is None


def test_offsets_of_negatives_do_not_count():
    predictions, targets = random_batch(1)
    wild = targets.offsets.masked_fill((targets.labels == 0).unsqueeze(-1), math.nan)
    metrics = anchor_metrics(predictions, targets._replace(offsets=wild))
    assert metrics.as_dict() == anchor_metrics(predictions, targets).as_dict()


def test_no_positive_and_no_anchor_are_undefined_not_perfect():
    metrics = anchor_metrics(answers([[0, 0]]), Targets(torch.zeros(1, 2), torch.zeros(1, 2, 4)))
    assert math.isnan(metrics.positive_recall)
    assert (metrics.class_error, metrics.box_mae) == (0, 0)
    none = Predictions(torch.zeros(0, 5, 3), torch.zeros(0, 5, 4))
    empty = anchor_metrics(none, Targets(torch.zeros(0, 5), torch.zeros(0, 5, 4)))
    assert math.isnan(empty.class_error)
    assert math.isnan(empty.background_box_mae)


def test_anchor_metrics_refuse_shapes_that_disagree():
    predictions, targets = random_batch(0)
    with pytest.raises(ValueError, match=r"expected logits .* got \(4, 50, 3\)"):
        anchor_metrics(predictions, targets._replace(labels=targets.labels[:, :1]))
    with pytest.raises(ValueError, match="expected logits"):
        anchor_metrics(predictions._replace(offsets=predictions.offsets[..., :2]), targets)


def test_adding_something_else_is_refused():
    metrics = anchor_metrics(*random_batch(0))
    with pytest.raises(TypeError):
        metrics + 1


# ---- kinds of error ----

CAT, DOG = 0, 1
OBJECT = [0.0, 0.0, 0.4, 0.4]
SHIFTED = [0.2, 0.0, 0.6, 0.4]  # IoU 1/3
NUDGED = [0.05, 0.0, 0.45, 0.4]  # IoU 7/9
AWAY = [0.6, 0.6, 0.9, 0.9]
GRAZING = [0.36, 0.0, 0.76, 0.4]  # IoU 1/19


def found(*rows) -> Detections:
    boxes, scores, labels = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), torch.tensor(labels).long())


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ((NUDGED, 0.9, CAT), "correct"),
        ((SHIFTED, 0.9, CAT), "localization"),
        ((NUDGED, 0.9, DOG), "classification"),
        ((SHIFTED, 0.9, DOG), "both"),
        ((AWAY, 0.9, CAT), "background"),
        ((GRAZING, 0.9, CAT), "background"),
        ((NUDGED, 0.4, CAT), "unused"),
    ],
)
def test_each_kind_alone(row, kind):
    truth = torch.tensor([[OBJECT]]), torch.tensor([[CAT]])
    assert error_kinds([found(row)], *truth) == [[kind]]
    errors = error_breakdown([found(row)], *truth)
    assert errors.missed == (kind != "correct")
    assert errors.false_positives == (kind not in ("correct", "unused"))
    assert all(getattr(errors, other) == (other == kind) for other in ERROR_KINDS)


def test_the_second_detection_of_an_object_is_a_duplicate_in_whatever_order_given():
    truth = torch.tensor([[OBJECT]]), torch.tensor([[CAT]])
    one = found((NUDGED, 0.6, CAT), (AWAY, 0.7, CAT), (OBJECT, 0.9, CAT))
    assert error_kinds([one], *truth) == [["duplicate", "background", "correct"]]
    errors = error_breakdown([one], *truth)
    assert (errors.precision, errors.recall) == (1 / 3, 1)


def test_an_object_of_the_right_class_explains_an_error_first():
    truth = torch.tensor([[OBJECT, SHIFTED]]), torch.tensor([[CAT, DOG]])
    # on the dog, but called a cat, and a third of it on the cat
    assert error_kinds([found((SHIFTED, 0.9, CAT))], *truth) == [["localization"]]
    assert error_kinds([found((NUDGED, 0.9, CAT), (OBJECT, 0.8, CAT))], *truth) == [["correct", "duplicate"]]


def test_nothing_found_and_nothing_there():
    truth = torch.zeros(2, 1, 4), torch.tensor([[-1], [-1]])
    empty = error_breakdown([found(), found()], *truth)
    assert set(empty.as_dict().values()) == {0}
    assert math.isnan(empty.precision)
    assert math.isnan(empty.recall)
    assert error_kinds([found((AWAY, 0.9, CAT)), found()], *truth) == [["background"], []]
    assert error_kinds([], torch.zeros(0, 1, 4), torch.zeros(0, 1)) == []


@pytest.mark.parametrize("thresholds", [(0.5, 0), (0.5, 0.5), (1.5, 0.1), (0.1, 0.5)])
def test_thresholds_that_make_no_sense_are_refused(thresholds):
    truth = torch.tensor([[OBJECT]]), torch.tensor([[CAT]])
    enough, little = thresholds
    with pytest.raises(ValueError, match="0 < background_iou < iou_threshold <= 1"):
        error_breakdown([found()], *truth, iou_threshold=enough, background_iou=little)


def test_errors_refuse_what_evaluate_refuses():
    with pytest.raises(ValueError, match="detections of 2 images but ground truth of 1"):
        error_breakdown([found()] * 2, torch.tensor([[OBJECT]]), torch.tensor([[CAT]]))
    broken = found((OBJECT, math.nan, CAT))
    with pytest.raises(ValueError, match="image 0: detection with a score that is NaN"):
        error_kinds([broken], torch.tensor([[OBJECT]]), torch.tensor([[CAT]]))


CORNERS = [x / 8 for x in range(9)]


@st.composite
def scenes(draw):
    """Up to three images on a coarse grid, so that overlaps of every kind are common."""
    span = st.tuples(st.sampled_from(CORNERS), st.sampled_from(CORNERS)).map(sorted)
    box = st.tuples(span, span).map(lambda s: [s[0][0], s[1][0], s[0][1], s[1][1]])
    row = st.tuples(box, st.sampled_from([0.2, 0.5, 0.7, 0.9]), st.integers(0, 1))
    images = draw(st.integers(1, 3))
    detections = [found(*draw(st.lists(row, max_size=6))) for _ in range(images)]
    some = st.lists(box, min_size=4 * images, max_size=4 * images)
    labels = st.lists(st.integers(-1, 1), min_size=4 * images, max_size=4 * images)
    boxes = torch.tensor(draw(some)).reshape(images, 4, 4)
    return detections, boxes, torch.tensor(draw(labels)).reshape(images, 4)


def slow_kinds(one: Detections, boxes, labels) -> list[str]:
    """The verdicts on one image, one detection at a time."""
    free, kinds = set(torch.nonzero(labels >= 0).flatten().tolist()), ["unused"] * len(one.scores)
    overlaps = box_iou(one.boxes.double(), boxes.double())
    for d in torch.argsort(-one.scores, stable=True).tolist():
        if one.scores[d] < 0.5:
            continue
        same, other = (labels == one.labels[d]), (labels >= 0) & (labels != one.labels[d])
        best, match = max(((float(overlaps[d, g]), g) for g in free if same[g]), default=(0, -1))
        own, wrong = (float((overlaps[d] * mask).max()) for mask in (same, other))
        if best >= 0.5:
            kinds[d] = "correct"
            free.remove(match)
        elif own >= 0.1:
            kinds[d] = "duplicate" if own >= 0.5 else "localization"
        elif wrong >= 0.1:
            kinds[d] = "classification" if wrong >= 0.5 else "both"
        else:
            kinds[d] = "background"
    return kinds


@settings(max_examples=150, deadline=None)
@given(scenes())
def test_every_detection_has_exactly_one_kind_and_it_is_the_slow_one(scene):
    detections, _, labels = scene
    kinds = error_kinds(*scene)
    assert kinds == [slow_kinds(*image) for image in zip(*scene, strict=True)]
    errors = error_breakdown(*scene)
    counted = Counter(kind for image in kinds for kind in image)
    assert {kind: getattr(errors, kind) for kind in ERROR_KINDS} == {k: counted[k] for k in ERROR_KINDS}
    used = sum(int((one.scores >= 0.5).sum()) for one in detections)
    assert errors.correct + errors.false_positives == used
    assert errors.correct + errors.missed == int((labels >= 0).sum())


@settings(max_examples=50, deadline=None)
@given(scenes())
def test_errors_agree_with_the_end_of_the_curve(scene):
    """With every score used, right and wrong add up to the last point of each class's curve."""
    errors = error_breakdown(*scene, score_threshold=0)
    curves = [precision_recall(*scene, k) for k in (CAT, DOG)]
    assert errors.correct == sum(
        round(c.recall[-1] * c.objects) for c in curves if c.objects and len(c.recall)
    )
    assert errors.correct + errors.false_positives == sum(len(c.precision) for c in curves)
    metrics = evaluate(*scene, classes=2)
    assert metrics.detections == errors.correct + errors.false_positives
    assert metrics.objects == errors.correct + errors.missed
