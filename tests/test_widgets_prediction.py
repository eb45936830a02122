"""The figure of NMS: its tables against nms and detect."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from d2lmini import detect, nms, widgets
from d2lmini.data import Synthetic
from d2lmini.detect import Detections, soft_factor
from d2lmini.model import Predictions
from d2lmini.widgets import prediction
from tests.widget_tables import _value

CLASSES = 3


@pytest.fixture(scope="module")
def answers():
    """Logits and offsets of two images over a grid of anchors; many boxes overlap, of several classes."""
    generator = torch.Generator().manual_seed(1)
    center = torch.rand(60, 2, generator=generator) * 0.3 + 0.35
    side = torch.rand(60, 2, generator=generator) * 0.2 + 0.2
    anchors = torch.cat([center - side / 2, center + side / 2], 1)
    logits = 3 * torch.randn(2, 60, CLASSES + 1, generator=generator)
    return Predictions(logits, 0.5 * torch.randn(2, 60, 4, generator=generator)), anchors


@pytest.fixture(scope="module")
def found(answers):
    return prediction.candidates(*answers)[0]


def test_candidates_are_what_detect_would_suppress(answers, found):
    predictions, _ = answers
    scores = predictions.logits[0].softmax(-1)[:, 1:].flatten()
    best = scores[scores >= prediction.LEAST].sort(descending=True).values[: prediction.MOST]
    assert_close(found.scores, best)
    assert len(found.scores) == prediction.MOST


@pytest.mark.parametrize("aware", [False, True])
@pytest.mark.parametrize("iou", [0.15, 0.45, 0.75])
def test_removers_leave_what_nms_keeps_at_every_score(found, iou, aware):
    """The threshold cuts the list: below it nothing decides about what is above."""
    by = prediction.removers(found, iou, aware)
    for score in (0.1, 0.3, 0.6):
        few = found.at_least(score)
        kept = nms(few.boxes, few.scores, iou, few.labels if aware else None)
        assert (by[: len(few.scores)] == -1).nonzero()[:, 0].tolist() == sorted(kept.tolist())
    removed = (by >= 0).nonzero()[:, 0]
    assert len(removed) or iou == 0.75
    assert (by[removed] < removed).all()
    assert (by[by[removed]] == -1).all()
    if aware:
        assert (found.labels[by[removed]] == found.labels[removed]).all()


@pytest.mark.parametrize("aware", [False, True])
@pytest.mark.parametrize("kind", ["linear", "gaussian"])
@pytest.mark.parametrize("score", [0.1, 0.4])
def test_soft_steps_end_where_detect_ends(answers, found, kind, aware, score):
    """Again at any score, though the tables are made of all candidates."""
    order, left = prediction.soft_steps(found, kind, 0.45, 0.5, aware)
    final = left[-1][order]
    predictions, anchors = answers
    one = Predictions(*(t[:1] for t in predictions))
    options = {"soft": kind, "class_aware": aware, "top_k": prediction.MOST, "score_threshold": score}
    (expected,) = detect(*one, anchors, iou_threshold=0.45, sigma=0.5, **options)
    assert_close(final[final >= score], expected.scores)
    assert_close(found.boxes[order][final >= score], expected.boxes)


def test_soft_steps_in_slow_motion(found):
    order, left = prediction.soft_steps(found, "gaussian", 0.45, 0.5, aware=False)
    assert sorted(order.tolist()) == list(range(len(found.scores)))
    assert_close(left[0], found.scores)
    assert (left[1:] <= left[:-1] + 1e-7).all()
    scores = found.scores
    for k in range(prediction.STEPS):  # what is taken next has the best score of those not taken
        free = [i for i in range(len(scores)) if i not in order[:k].tolist()]
        assert order[k] == max(free, key=lambda i: left[k][i])
        assert left[-1][order[k]] == left[k][order[k]]


def test_a_twin_of_another_class_that_loses_all_its_score_comes_last():
    """Two classes of one anchor are one box twice: linear decay takes 1 − 1 of the second."""
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]])
    twins = Detections(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 0]))
    order, left = prediction.soft_steps(twins, "linear", 0.45, 0.5, aware=False)
    assert order.tolist() == [0, 2, 1]
    assert_close(left[-1], torch.tensor([0.9, 0.0, 0.7]))


def test_soft_factor_by_hand():
    iou = torch.tensor([0.0, 0.45, 0.5, 1.0])
    assert_close(soft_factor(iou, "linear", 0.45), torch.tensor([1.0, 1.0, 0.5, 0.0]))
    gaussian = [math.exp(-(x**2) / 0.3) for x in iou.tolist()]
    assert_close(soft_factor(iou, "gaussian", sigma=0.3), torch.tensor(gaussian))


@pytest.fixture(scope="module")
def live(answers):
    predictions, anchors = answers
    data = Synthetic("scenes", count=3, size=64, split="val")
    return widgets.nms_stepper([data[0], data[1]], predictions, anchors, data.classes)


def test_tables_have_a_row_for_each_stop_of_each_slider(live):
    held = {name: _value(value) for name, value in live.figure.data.items()}
    ious, sigmas = len(prediction.IOUS), len(prediction.SIGMAS)
    m = held["scores"].shape[1]
    assert held["removed_by"].shape == (2, 2, ious, m)
    assert held["order"].shape == (2, 2, ious + sigmas, m)
    assert held["left"].shape == (2, 2, ious + sigmas, prediction.STEPS + 2, m)
    assert held["factors"].shape == (2 * ious + sigmas, len(held["x"]))
    for name, stops in (("iou", prediction.IOUS), ("sigma", prediction.SIGMAS)):
        control = live.controls[name]
        assert (control.min, control.max) == (stops[0], stops[-1])
        assert control.step == pytest.approx(stops[1] - stops[0])
    assert live.controls["step"].options[-1] == "end"


def test_controls_drive_the_figure(live):
    live.controls["method"].index = 2
    live.controls["step"].index = prediction.STEPS + 1
    live.controls["aware"].value = False
    assert (live.figure.method, live.figure.step, live.figure.aware) == (2, prediction.STEPS + 1, False)


def test_what_cannot_be_drawn_is_refused(answers):
    predictions, anchors = answers
    sample = Synthetic("scenes", count=1, size=64)[0]
    with pytest.raises(ValueError, match="choose from"):
        widgets.nms_stepper([sample] * 2, predictions, anchors, "abc", method="greedy")
    with pytest.raises(ValueError, match="2 images for 1 samples"):
        widgets.nms_stepper([sample], predictions, anchors, "abc")
    silent = predictions.logits.clone()
    silent[1, :, 0] = 50
    with pytest.raises(ValueError, match="image 1"):
        widgets.nms_stepper([sample] * 2, predictions._replace(logits=silent), anchors, "abc")
