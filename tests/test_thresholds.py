"""The best threshold, calibration and the confusion matrix, against slow counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from d2lmini.detect import Detections
from d2lmini.errors import error_breakdown
from d2lmini.evaluate import judge
from d2lmini.inspect import best_f1, calibration, confusion_matrix
from d2lmini.inspect.thresholds import confusion_text
from d2lmini.plots import plot_calibration, plot_confusion
from tests.test_evaluate import random_case
from tests.test_intervals import judged


def test_no_threshold_has_a_better_f1():
    for seed in range(100):
        case = random_case(seed)
        best, expected = best_f1(judged(case)), {}
        for threshold in {s for d in case.detections for s in d.scores.tolist()}:
            errors = error_breakdown(case.detections, case.boxes, case.labels, score_threshold=threshold)
            shown = errors.correct + errors.false_positives
            objects = errors.correct + errors.missed
            if objects:
                f1 = 2 * errors.correct / (shown + objects)
                expected[threshold] = f1, errors.precision, errors.recall
        if not expected:
            assert math.isnan(best.f1)
            continue
        assert best.f1 == pytest.approx(max(expected.values())[0])
        assert (best.f1, best.precision, best.recall) == pytest.approx(expected[best.threshold])


def test_calibration_counts_what_is_right_in_each_bin():
    for seed in range(50):
        some = judged(random_case(seed))
        found, right = calibration(some), some.coco[:, 0, 0] == 1
        gaps = 0.0
        for b in range(10):
            low, high = b / 10, (b + 1) / 10 if b < 9 else 2
            chosen = [i for i, s in enumerate(some.found.scores) if low <= s < high]
            if abs(some.found.scores * 10 - np.round(some.found.scores * 10)).min(initial=1) < 1e-6:
                break  # a score on the edge of a bin may be rounded to either side
            assert found.detections[b] == len(chosen)
            if chosen:
                mean, share = some.found.scores[chosen].mean(), right[chosen].mean()
                assert (found.confidence[b], found.precision[b]) == pytest.approx((mean, share))
                gaps += len(chosen) * abs(mean - share)
        else:
            assert found.ece == pytest.approx(gaps / max(1, len(right)), nan_ok=True) or not len(right)


HERE, AWAY = [0.0, 0.0, 0.4, 0.4], [0.6, 0.6, 0.9, 0.9]


def test_a_confusion_matrix_counted_by_hand():
    boxes, labels = torch.tensor([[HERE, AWAY]]), torch.tensor([[0, 1]])
    one = Detections(
        torch.tensor([HERE, HERE, HERE, [0.5, 0.0, 0.9, 0.3]]),
        torch.tensor([0.9, 0.8, 0.2, 0.7]),
        torch.tensor([1, 0, 0, 0]),
    )
    some = judge([one], boxes, labels, classes=("cat", "dog"))
    # the cat is found as a cat, though a dog with a higher score is on it: that counts as on background
    assert confusion_matrix(some, 0.5).tolist() == [[1, 0, 0], [0, 0, 1], [1, 1, 0]]
    # without the cat box, the cat is found as a dog
    assert confusion_matrix(some, 0.85).tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
    text = confusion_text(confusion_matrix(some, 0.5), ("cat", "dog")).splitlines()
    assert [line.split() for line in text] == [
        ["found", "as", "cat", "dog", "missed"],
        ["cat", "1", "0", "0"],
        ["dog", "0", "0", "1"],
        ["background", "1", "1"],
    ]


def test_every_object_and_detection_is_counted_once():
    for seed in range(100):
        case = random_case(seed)
        some = judged(case)
        matrix = confusion_matrix(some, 0.3)
        errors = error_breakdown(case.detections, case.boxes, case.labels, score_threshold=0.3)
        assert np.trace(matrix) == errors.correct
        assert matrix[:, :-1].sum() == errors.correct + errors.false_positives
        assert matrix[:-1].sum() == int((case.labels >= 0).sum())
        assert matrix[-1, -1] == 0


def test_both_are_drawn():
    some = judged(random_case(3))
    matrix = confusion_matrix(some, 0.1)
    shown = {text.get_text() for text in plot_confusion(matrix, some.classes).axes[0].texts}
    assert shown == {f"{n:,}" for n in matrix[matrix > 0]}
    found = calibration(some)
    assert f"ECE {found.ece:.3f}" in plot_calibration(found).axes[0].get_legend().get_texts()[1].get_text()
