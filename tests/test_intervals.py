"""Intervals and comparisons: weighted AP against images that are really repeated, and known cases."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import coverage
from d2lmini.detect import Detections
from d2lmini.evaluate import evaluate, judge
from d2lmini.inspect.intervals import NUMBERS, bootstrap, compare_models, draw_images, weighted_ap
from tests.test_evaluate import random_case


def of(case, chosen):
    """The same of some images, which may come twice."""
    return case._replace(
        detections=[case.detections[i] for i in chosen], boxes=case.boxes[chosen], labels=case.labels[chosen]
    )


def judged(case):
    return judge(case.detections, case.boxes, case.labels, classes=case.classes, image_size=case.size)


def test_weights_are_images_that_come_as_often():
    """Without ties in score, whose order a repeated image would change."""
    for seed in range(120):
        case, random = random_case(seed), np.random.default_rng(seed)
        unique = [
            replace(d, scores=torch.from_numpy(random.permutation(len(d.scores)) + 1.0) / 200 + i / 1e4)
            for i, d in enumerate(case.detections)
        ]
        case = case._replace(detections=unique)
        weights = random.integers(0, 3, (4, len(unique)))
        weights[0] = 1
        found = weighted_ap(judged(case), weights)
        for row, numbers in zip(weights, found, strict=True):
            metrics = of(case, np.repeat(np.arange(len(row)), row)).metrics()
            expected = [[getattr(m, name) for name in NUMBERS] for m in metrics.per_class.values()]
            np.testing.assert_allclose(numbers, expected, rtol=0, atol=1e-9, err_msg=f"seed {seed}")


def test_the_size_of_a_block_changes_nothing(monkeypatch):
    some = coverage.world(30)
    weights = draw_images(30, 50)
    expected = weighted_ap(some, weights)
    monkeypatch.setattr("d2lmini.inspect.intervals.BLOCK_CELLS", 100)
    np.testing.assert_array_equal(weighted_ap(some, weights), expected)


def test_an_interval_holds_its_score_and_shrinks_with_the_images():
    few, many = bootstrap(coverage.world(40)), bootstrap(coverage.world(640, seed=1))
    for name in NUMBERS:
        for made in (few.overall[name], many.overall[name], few.per_class["0"][name]):
            assert made.low < made.value < made.high
        width = [made.overall[name].high - made.overall[name].low for made in (few, many)]
        assert 2.5 < width[0] / width[1] < 6.5  # four times as narrow, by and large


def test_intervals_hold_the_truth_nearly_always():
    """The committed table has 1,000 samples; a hundred tell a broken interval."""
    everything = coverage.world(3000)
    truth = {"ap": bootstrap(everything, draws=2).overall["ap"].value}
    row = coverage.coverage(everything, truth, images=40, samples=100)
    assert 0.88 <= row["ap"] <= 0.99


def test_the_same_seed_gives_the_same_interval_and_another_another():
    some = coverage.world(20)
    assert bootstrap(some, draws=200) == bootstrap(some, draws=200)
    assert bootstrap(some, draws=200) != bootstrap(some, draws=200, seed=1)


def test_what_is_undefined_has_no_interval_and_one_image_none_at_all():
    box = torch.tensor([[[0.0, 0.0, 0.5, 0.5]]])
    right = Detections(box[0], torch.tensor([0.9]), torch.tensor([0]))
    options = {"classes": ("cat", "dog"), "image_size": 256}
    three = judge([right] * 3, box.repeat(3, 1, 1), torch.zeros(3, 1), **options)
    made = bootstrap(three)
    assert made.overall["ap"] == pytest.approx((1, 1, 1))
    assert all(math.isnan(v) for v in (*made.overall["ap_small"], *made.per_class["dog"]["ap"]))
    with pytest.raises(ValueError, match="no interval for 1 image"):
        bootstrap(judge([right], box, torch.zeros(1, 1), **options))


def worse(case_detections, share: float):
    """The same detections, of some images none."""
    random = np.random.default_rng(0)
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())
    return [none if random.random() < share else one for one in case_detections]


def grid(images: int):
    """One object an image, found."""
    box = torch.tensor([0.1, 0.1, 0.6, 0.6])
    scores = torch.linspace(0.9, 0.5, images)
    detections = [Detections(box[None], scores[i : i + 1], torch.tensor([0])) for i in range(images)]
    return detections, box.expand(images, 1, 4), torch.zeros(images, 1)


def test_a_difference_is_paired_and_names_the_images_that_make_it():
    detections, *truth = grid(60)
    gone = worse(detections, 0.2)
    first, second = (judge(found, *truth, classes=("cat",)) for found in (gone, detections))
    found = compare_models(first, second)
    aps = [evaluate(d, *truth, classes=("cat",)).ap for d in (gone, detections)]
    gain, low, high = found.differences.overall["ap"]
    assert gain == pytest.approx(aps[1] - aps[0])
    assert 0 < low < gain < high
    lost = {i for i, one in enumerate(gone) if not len(one.scores)}
    assert set(np.argsort(-found.by_image)[: len(lost)].tolist()) == lost
    assert found.verdict("old", "new").startswith("new is better than old: AP +0.")
    assert compare_models(second, first).verdict("new", "old").startswith("old is worse than new")


def test_equal_models_differ_by_nothing():
    some = coverage.world(30)
    found = compare_models(some, some)
    assert found.differences.overall["ap"] == (0, 0, 0)
    assert found.verdict("a", "b").startswith("30 images do not tell which is better")


def test_models_on_other_images_are_refused():
    some, other = coverage.world(30), coverage.world(30, seed=1)
    with pytest.raises(ValueError, match="different images or classes"):
        compare_models(some, other)
