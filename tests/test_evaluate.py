"""Average precision against hand counts, pycocotools and a slow VOC reference.

What D2L's metrics and the error breakdown say is tested in test_errors.py.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from d2lmini import compare
from d2lmini.detect import Detections
from d2lmini.evaluate import (
    Curve,
    coco_ap,
    evaluate,
    precision_recall,
    voc07_ap,
    voc12_ap,
)

COCO_NAMES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)


class Case(NamedTuple):
    detections: list[Detections]
    boxes: Tensor
    labels: Tensor
    classes: int
    size: tuple[int, int]  # height, width

    def metrics(self, **changes):
        settings = {"classes": self.classes, "image_size": self.size}
        return evaluate(self.detections, self.boxes, self.labels, **(settings | changes))


def found(boxes, scores, labels=None) -> Detections:
    scores = torch.tensor(scores, dtype=torch.float32)
    labels = torch.zeros(len(scores)) if labels is None else torch.tensor(labels)
    return Detections(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), scores, labels.long())


# Four boxes that do not touch, and a curve that can be counted by hand.
A, B, C, D = ([0.0, 0.0, 0.4, 0.4], [0.5, 0, 0.9, 0.4], [0, 0.5, 0.4, 0.9], [0.5, 0.5, 0.9, 0.9])


@pytest.fixture
def counted() -> Case:
    """Four objects in two images; detections right, wrong, right, wrong, right; one is missed."""
    first = found([A, D, B, D], [0.9, 0.8, 0.7, 0.6])
    second = found([B], [0.5])
    return Case([first, second], torch.tensor([[A, B], [B, C]]), torch.zeros(2, 2).long(), 1, (100, 100))


def test_precision_recall_counted_by_hand(counted):
    curve = precision_recall(counted.detections, counted.boxes, counted.labels)
    assert curve.objects == 4
    np.testing.assert_allclose(curve.scores, [0.9, 0.8, 0.7, 0.6, 0.5], rtol=1e-6)
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3, 2 / 4, 3 / 5])
    np.testing.assert_allclose(curve.recall, [1 / 4, 1 / 4, 2 / 4, 2 / 4, 3 / 4])


def test_three_flavours_counted_by_hand(counted):
    curve = precision_recall(counted.detections, counted.boxes, counted.labels)
    # best precision is 1 up to recall 1/4, 2/3 up to 1/2, 3/5 up to 3/4, then 0
    assert voc12_ap(curve) == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)
    assert voc07_ap(curve) == pytest.approx((3 * 1 + 3 * 2 / 3 + 2 * 3 / 5) / 11)
    assert coco_ap(curve) == pytest.approx((26 * 1 + 25 * 2 / 3 + 25 * 3 / 5) / 101)
    metrics = counted.metrics()
    assert metrics.ap50 == pytest.approx(coco_ap(curve))
    assert metrics.voc07 == pytest.approx(voc07_ap(curve))
    assert metrics.voc12 == pytest.approx(voc12_ap(curve))
    assert (metrics.images, metrics.objects, metrics.detections) == (2, 4, 5)


def test_recall_with_one_detection_per_image_counted_by_hand(counted):
    metrics = counted.metrics()
    assert (metrics.ar1, metrics.ar10, metrics.ar100) == (2 / 4, 3 / 4, 3 / 4)


def test_eleven_points_count_a_recall_that_is_exactly_on_a_level():
    for objects in (10, 20, 30, 70):
        for hits in range(1, objects + 1):
            recall = np.arange(1, hits + 1) / objects
            curve = Curve(np.ones(hits), np.ones(hits), recall, objects)
            assert voc07_ap(curve) == pytest.approx((hits * 10 // objects + 1) / 11)


def test_perfect_detections_score_one_and_none_score_zero(counted):
    perfect = [found(b.tolist(), [0.9, 0.8]) for b in counted.boxes]
    best = counted._replace(detections=perfect).metrics()
    assert (best.ap, best.ap50, best.ap75) == (1, 1, 1)
    assert best.voc07 == pytest.approx(1)
    assert best.voc12 == best.ar100 == 1
    worst = counted._replace(detections=[found([], [])] * 2).metrics()
    assert (worst.ap, worst.voc07, worst.voc12, worst.ar100) == (0, 0, 0, 0)


def test_each_size_counts_its_own_objects_and_exact_bounds_count_twice():
    boxes = torch.tensor([[[0, 0, 0.125, 0.125], [0.5, 0, 1, 0.5]]])  # 32² and 128² of 256² pixels
    one = found([[0, 0, 0.125, 0.125]], [0.9])
    metrics = evaluate([one], boxes, torch.zeros(1, 2).long(), classes=1, image_size=256)
    assert metrics.ap_small == pytest.approx(1)
    assert metrics.ap_medium == pytest.approx(1)
    assert metrics.ap_large == 0  # not found
    assert metrics.ap == pytest.approx(51 / 101)


# ---- pycocotools ----


def pycocotools_eval(case: Case) -> COCOeval:
    truth, results = COCO(), COCO()
    images = [{"id": i} for i in range(len(case.detections))]
    categories = [{"id": k} for k in range(case.classes)]
    truth.dataset = {"images": images, "categories": categories, "annotations": _objects(case)}
    results.dataset = {**truth.dataset, "annotations": _results(case)}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results.createIndex()
        judge = COCOeval(truth, results, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


def _xywh(box: Tensor, size: tuple[int, int]) -> list[float]:
    height, width = size
    x0, y0, x1, y1 = (box.double() * torch.tensor([width, height] * 2).double()).tolist()
    return [x0, y0, x1 - x0, y1 - y0]


def _objects(case: Case) -> list[dict]:
    rows = []
    for image, place in torch.nonzero(case.labels >= 0).tolist():
        box = _xywh(case.boxes[image, place], case.size)
        rows.append(
            {
                "id": len(rows) + 1,
                "image_id": image,
                "category_id": int(case.labels[image, place]),
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
        )
    return rows


def _results(case: Case) -> list[dict]:
    rows = []
    for image, one in enumerate(case.detections):
        for box, score, label in zip(*one, strict=True):
            box = _xywh(box, case.size)
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": image,
                    "category_id": int(label),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "score": float(score),
                    "iscrowd": 0,
                }
            )
    return rows


def random_boxes(rng: np.random.Generator, count: int, grid: int | None) -> np.ndarray:
    side = rng.choice([0.1, 0.4, 1.0])
    low = rng.random((count, 2)) * 0.8
    high = np.minimum(low + rng.random((count, 2)) * side, 1)
    boxes = np.concatenate([low, high], 1)
    return boxes if grid is None else np.round(boxes * grid) / grid


def random_case(seed: int) -> Case:
    """Small and nasty: ties in score, equal and empty boxes, empty images and classes."""
    rng = np.random.default_rng(seed)
    images, classes, most = rng.integers(1, 5), int(rng.integers(1, 4)), int(rng.integers(1, 7))
    grid = rng.choice([None, 4, 16])  # a coarse grid makes IoUs equal, and equal to thresholds
    levels = rng.choice([None, 1, 3, 10])  # few levels make ties in score
    boxes = random_boxes(rng, images * most, grid).reshape(images, most, 4)
    labels = rng.integers(-1, classes, (images, most))
    labels[:, rng.random(most) < 0.1] = -1
    labels[rng.random((images, 1)).repeat(most, 1) < 0.15] = -1  # images without an object
    labels[labels == rng.integers(0, classes + 2)] = -1  # perhaps a class without an object
    detections = [
        random_detections(rng, b, t, classes, grid, levels) for b, t in zip(boxes, labels, strict=True)
    ]
    return Case(
        detections,
        torch.from_numpy(boxes).float(),
        torch.from_numpy(labels),
        classes,
        [(256, 256), (64, 64), (333, 500), (1000, 700)][rng.integers(4)],
    )


def random_detections(rng, objects, labels, classes, grid, levels) -> Detections:
    """Half around the objects, half anywhere; now and then more than the 100 that COCO looks at."""
    count = rng.choice([0, 3, 20, 130], p=[0.15, 0.4, 0.42, 0.03])
    place = rng.integers(0, len(objects), count)
    near = objects[place] + rng.normal(0, 0.02, (count, 4)) * (rng.random((count, 1)) < 0.7)
    near = near if grid is None else np.round(near * grid) / grid
    near[:, 2:] = np.maximum(near[:, :2], near[:, 2:])
    is_near = rng.random(count) < 0.6
    boxes = np.where(is_near[:, None], near, random_boxes(rng, count, grid))
    guess = np.where(
        is_near & (labels[place] >= 0) & (rng.random(count) < 0.8),
        labels[place],
        rng.integers(0, classes, count),
    )
    scores = rng.random(count)
    scores = scores if levels is None else np.round(scores * levels) / levels
    return Detections(
        torch.from_numpy(boxes).float(),
        torch.from_numpy(scores).float(),
        torch.from_numpy(guess).long(),
    )


def coco_numbers(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """The twelve numbers (12,), and those of each class (K, 12), of pycocotools, NaN for its -1."""
    judge = pycocotools_eval(case)
    ap = judge.eval["precision"].mean(1)  # (T, K, sizes, most)
    recall = judge.eval["recall"]
    columns = [ap[:, :, 0, 2].mean(0), ap[0, :, 0, 2], ap[5, :, 0, 2]]
    columns += [ap[:, :, size, 2].mean(0) for size in (1, 2, 3)]
    columns += [recall[:, :, 0, most].mean(0) for most in (0, 1, 2)]
    columns += [recall[:, :, size, 2].mean(0) for size in (1, 2, 3)]
    return tuple(np.where(v == -1, np.nan, v) for v in (judge.stats, np.stack(columns, 1)))


@pytest.mark.parametrize("block", range(8))
def test_equals_pycocotools(block):
    for seed in range(block * 50, (block + 1) * 50):
        case = random_case(seed)
        expected, by_class = coco_numbers(case)
        metrics = case.metrics()
        ours = [getattr(metrics, name) for name in COCO_NAMES]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9, err_msg=f"seed {seed}")
        ours = [[getattr(m, name) for name in COCO_NAMES] for m in metrics.per_class.values()]
        np.testing.assert_allclose(ours, by_class, rtol=0, atol=1e-9, err_msg=f"seed {seed}")


def test_among_equal_overlaps_the_later_object_is_taken():
    """What the first detection takes decides what is left for the second, which fits one only."""
    left, right = torch.tensor([[0, 0, 0.5, 0.5], [0.125, 0, 0.625, 0.5]])
    two = found([[0.0625, 0, 0.5625, 0.5], [0, 0, 0.3125, 0.5]], [0.9, 0.8])
    for objects, hits in ((left, right), 2), ((right, left), 1):
        boxes, labels = torch.stack(objects)[None], torch.zeros(1, 2).long()
        case = Case([two], boxes, labels, 1, (256, 256))
        assert precision_recall([two], boxes, labels).recall[-1] == hits / 2
        assert case.metrics().ap50 == pytest.approx(coco_numbers(case)[0][1])


def test_coco_looks_at_the_best_hundred_of_each_class_and_image_and_voc_at_all():
    scores = torch.linspace(0.9, 0.1, 101)
    for place, ap50 in ((99, 1), (100, 0)):
        boxes = torch.tensor(D).repeat(101, 1)
        boxes[place] = torch.tensor(A)
        one = Detections(boxes, scores, torch.zeros(101).long())
        metrics = evaluate([one], torch.tensor([[A]]), torch.zeros(1, 1).long(), classes=1)
        assert metrics.ap50 == pytest.approx(ap50 / 100)
        assert metrics.ar100 == ap50
        assert metrics.voc12 == pytest.approx(1 / (place + 1))


def test_the_size_of_a_block_changes_nothing(monkeypatch):
    cases = [random_case(seed) for seed in range(20)]
    expected = [case.metrics().as_dict() for case in cases]
    monkeypatch.setattr(compare, "BLOCK_PAIRS", 1)
    assert [case.metrics().as_dict() for case in cases] == expected


def test_random_cases_are_not_all_trivial():
    """The comparison above means little if its cases were empty or all alike."""
    metrics = [random_case(seed).metrics() for seed in range(400)]
    values = np.array([[getattr(m, name) for name in COCO_NAMES] for m in metrics])
    assert (np.nanstd(values, 0) > 0.1).all()
    assert (np.isnan(values).mean(0) < 0.8).all()
    assert max(m.detections for m in metrics) > 130


# ---- VOC ----


def slow_iou(a, b) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
    return width * height / (area - width * height)


def slow_voc(case: Case, class_id: int) -> tuple[float, float]:
    """VOC's two APs as the devkit's script goes about it, one detection at a time."""
    objects = [
        [b.tolist() for b, t in zip(*image, strict=True) if t == class_id]
        for image in zip(case.boxes.double(), case.labels, strict=True)
    ]
    rows = [
        (float(score), image, box.double().tolist())
        for image, one in enumerate(case.detections)
        for box, score, label in zip(*one, strict=True)
        if label == class_id
    ]
    taken, right, wrong, precision, recall = set(), 0, 0, [], []
    count = sum(map(len, objects))
    if count == 0:
        return math.nan, math.nan
    for _, image, box in sorted(rows, key=lambda row: -row[0]):
        overlaps = [slow_iou(box, other) for other in objects[image]]
        best = int(np.argmax(overlaps)) if overlaps else -1
        if overlaps and overlaps[best] >= 0.5:
            right += (image, best) not in taken
            wrong += (image, best) in taken
            taken.add((image, best))
        else:
            wrong += 1
        precision.append(right / (right + wrong))
        recall.append(right / count)
    return slow_areas(precision, recall)


def slow_areas(precision, recall) -> tuple[float, float]:
    def best_from(level):
        return max((p for p, r in zip(precision, recall, strict=True) if r >= level), default=0)

    levels = sorted(set(recall) | {0.0})
    area = sum((b - a) * best_from(b) for a, b in pairwise(levels))
    return sum(best_from(k / 10) for k in range(11)) / 11, area


def test_equals_a_slow_voc_reference():
    for seed in range(150):
        case = random_case(seed)
        by_class = np.array([slow_voc(case, k) for k in range(case.classes)])
        metrics = case.metrics()
        ours = [[m.voc07, m.voc12] for m in metrics.per_class.values()]
        np.testing.assert_allclose(ours, by_class, atol=1e-9, err_msg=f"seed {seed}")


def test_voc_looks_at_the_best_object_only_and_coco_at_the_best_that_is_free():
    objects = torch.tensor([[[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.4]]])
    twice = found([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.48]], [0.9, 0.8])
    metrics = evaluate([twice], objects, torch.zeros(1, 2), classes=1)
    assert metrics.ap50 == pytest.approx(1)
    assert metrics.voc12 == 0.5


# ---- ties, empties, sizes ----


def test_ties_keep_image_order_then_the_given_order():
    right, wrong = found([A], [0.5]), found([D], [0.5])
    boxes, labels = torch.tensor([[A], [A]]), torch.zeros(2, 1)
    first = precision_recall([right, wrong], boxes, labels)
    last = precision_recall([wrong, right], boxes, labels)
    assert first.precision.tolist() == [1, 0.5]
    assert last.precision.tolist() == [0, 0.5]
    within = precision_recall([found([D, A], [0.5, 0.5]), wrong], boxes, labels)
    np.testing.assert_allclose(within.precision, [0, 1 / 2, 1 / 3])


def test_no_object_at_all_is_undefined_and_never_perfect():
    none = torch.full((2, 3), -1)
    for detections in ([found([], [])] * 2, [found([A], [0.9])] * 2):
        metrics = evaluate(detections, torch.zeros(2, 3, 4), none, classes=("cat", "dog"))
        for name in (*COCO_NAMES, "voc07", "voc12"):
            assert math.isnan(getattr(metrics, name)), name
        assert metrics.objects == 0
        curve = precision_recall(detections, torch.zeros(2, 3, 4), none)
        assert all(math.isnan(ap(curve)) for ap in (voc07_ap, voc12_ap, coco_ap))
    assert evaluate([], torch.zeros(0, 1, 4), torch.zeros(0, 1), classes=1).images == 0


def test_no_column_for_objects_and_batches_without_columns():
    metrics = evaluate([found([A], [0.9])], torch.zeros(1, 0, 4), torch.zeros(1, 0), classes=1)
    assert math.isnan(metrics.ap)
    assert metrics.detections == 1


def test_a_class_without_objects_stays_out_of_the_mean():
    one = found([A, D], [0.9, 0.8], [0, 1])
    metrics = evaluate([one], torch.tensor([[A]]), torch.tensor([[0]]), classes=("cat", "dog"))
    assert metrics.ap50 == pytest.approx(1)
    assert metrics.per_class["cat"].ap50 == pytest.approx(1)
    assert math.isnan(metrics.per_class["dog"].ap50)
    assert [m.objects for m in metrics.per_class.values()] == [1, 0]


def test_padding_is_never_an_object(counted):
    pad = torch.tensor(A).expand(2, 1, 4)
    boxes = torch.cat([pad, counted.boxes, pad], 1)
    labels = torch.nn.functional.pad(counted.labels, (1, 1), value=-1)
    padded = evaluate(counted.detections, boxes, labels, classes=1, image_size=100)
    assert padded.as_dict() == counted.metrics().as_dict()


def test_image_size_may_differ_between_images():
    boxes, labels = torch.tensor([[A], [A]]), torch.zeros(2, 1)
    same = [found([A], [0.9]), found([], [])]
    sizes = torch.tensor([[40, 40], [400, 500]])
    metrics = evaluate(same, boxes, labels, classes=1, image_size=sizes)
    assert metrics.ap_small == pytest.approx(1)
    assert metrics.ap_large == 0
    assert math.isnan(metrics.ap_medium)


def test_float64_and_half_precision_inputs_are_accepted(counted):
    for kind in (torch.float64, torch.bfloat16):
        cast = [Detections(d.boxes.to(kind), d.scores.to(kind), d.labels) for d in counted.detections]
        assert counted._replace(detections=cast).metrics().ap50 == counted.metrics().ap50


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_detections_on_a_gpu_score_the_same():
    case = random_case(3)
    moved = [Detections(*(t.cuda() for t in d)) for d in case.detections]
    rest = {name: getattr(case, name).cuda() for name in ("boxes", "labels")}
    assert case._replace(detections=moved, **rest).metrics().as_dict() == case.metrics().as_dict()


# ---- reports and errors ----


def test_as_dict_is_json_with_none_for_undefined(counted):
    plain = json.loads(json.dumps(counted.metrics(classes=("cat", "dog")).as_dict(), allow_nan=False))
    assert plain["ap_large"] is None
    assert plain["per_class"]["dog"]["ap"] is None
    assert plain["per_class"]["cat"]["objects"] == plain["objects"] == 4


def test_summary_is_short_and_rounded(counted):
    text = counted.metrics(classes=("cat", "dog")).summary()
    assert "AP50 0.571" in text
    assert "large –" in text
    assert text.splitlines()[-1].split() == ["dog", "AP", "–", "AP50", "–", "0", "objects"]
    assert len(text.splitlines()) == 6
    assert max(map(len, text.splitlines())) <= 90


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused_with_the_image(counted, bad):
    good = counted.detections[0]
    for field in ("scores", "boxes"):
        values = getattr(good, field).clone()
        values.view(-1)[0] = bad
        broken = [good, replace(good, **{field: values})]
        with pytest.raises(ValueError, match=r"image 1: detection with .* infinite"):
            counted._replace(detections=broken).metrics()
    boxes = counted.boxes.clone()
    boxes[1, 0, 2] = bad
    with pytest.raises(ValueError, match=r"image 1: ground truth with a box that is NaN or infinite"):
        counted._replace(boxes=boxes).metrics()


def test_values_that_mean_nothing_are_refused_with_the_image(counted):
    backwards = found([[0.5, 0.5, 0.4, 0.9]], [0.5])
    with pytest.raises(ValueError, match="image 1: detection with x_max < x_min or y_max < y_min"):
        counted._replace(detections=[counted.detections[0], backwards]).metrics()
    unknown = found([A], [0.5], [1])
    with pytest.raises(ValueError, match="image 0: detection with a class outside 0 to 0"):
        counted._replace(detections=[unknown, unknown]).metrics()
    with pytest.raises(ValueError, match="image 0: ground truth with a class outside 0 to 0"):
        counted._replace(labels=counted.labels + 1).metrics()
    with pytest.raises(ValueError, match="image 0: ground truth with a class"):
        counted._replace(labels=counted.labels - 2).metrics()


def test_shapes_that_disagree_are_refused_with_both_numbers(counted):
    with pytest.raises(ValueError, match="detections of 1 images but ground truth of 2"):
        counted._replace(detections=counted.detections[:1]).metrics()
    with pytest.raises(ValueError, match=r"\(2, 2, 4\) and \(2, 1\)"):
        counted._replace(labels=counted.labels[:, :1]).metrics()
    uneven = replace(counted.detections[0], labels=torch.zeros(1).long())
    with pytest.raises(ValueError, match="image 1: detections must have"):
        counted._replace(detections=[counted.detections[0], uneven]).metrics()


@pytest.mark.parametrize("size", [0, -1, math.nan, (1, 2, 3), torch.ones(3, 2)])
def test_image_sizes_that_make_no_sense_are_refused(counted, size):
    with pytest.raises(ValueError, match="image_size must be"):
        counted.metrics(image_size=size)


@pytest.mark.parametrize("classes", [0, (), ("cat", "cat"), "cat"])
def test_class_names_that_make_no_sense_are_refused(counted, classes):
    with pytest.raises(ValueError, match="classes must be"):
        counted.metrics(classes=classes)


@pytest.mark.parametrize("threshold", [0, 1.1])
def test_thresholds_of_a_curve_that_make_no_sense_are_refused(counted, threshold):
    with pytest.raises(ValueError, match="iou_threshold"):
        precision_recall(counted.detections, counted.boxes, counted.labels, iou_threshold=threshold)
