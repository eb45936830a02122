"""The figure of evaluation: its tables against precision_recall, error_breakdown and the APs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from d2lmini import error_breakdown, widgets
from d2lmini.data import Synthetic, collate
from d2lmini.detect import Detections
from d2lmini.evaluate import Curve, coco_ap, precision_recall, voc12_ap
from d2lmini.widgets import evaluation
from tests.widget_tables import _value

LABELS = (0, 1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def scenes():
    data = Synthetic("scenes", count=12, size=64, split="val")
    batch = collate([data[i] for i in range(12)])
    generator = torch.Generator().manual_seed(3)
    found = []
    for n in range(12):
        sample = batch.sample(n)
        boxes = sample.boxes.repeat(3, 1)
        boxes = (boxes + 0.08 * torch.rand(boxes.shape, generator=generator)) / 1.08
        labels = sample.labels.repeat(3)
        wrong = torch.rand(len(labels), generator=generator) < 0.2
        labels = torch.where(wrong, torch.randint(6, labels.shape, generator=generator), labels)
        scores = torch.rand(len(labels), generator=generator)
        order = scores.argsort(descending=True)
        found.append(Detections(boxes[order], scores[order], labels[order]))
    return data.classes, batch, found


@pytest.fixture(scope="module")
def live(scenes):
    classes, batch, found = scenes
    return widgets.precision_recall(batch, found, classes, class_id=1)


@pytest.fixture(scope="module")
def held(live):
    return {name: _value(value) for name, value in live.figure.data.items()}


@pytest.mark.parametrize("k", LABELS)
@pytest.mark.parametrize("i", [0, 3])
def test_counts_are_those_of_the_class_alone(scenes, held, k, i):
    _, batch, found = scenes
    mine = [Detections(*(t[d.labels == k] for t in d)) for d in found]
    labels = torch.where(batch.labels == k, batch.labels, -1)
    for s in (0, 9, 18):
        options = {"score_threshold": evaluation.STOPS[s], "iou_threshold": evaluation.DEMANDS[i]}
        errors = error_breakdown(mine, batch.boxes, labels, **options)
        expected = [errors.correct, errors.false_positives, errors.missed]
        assert held["counts"][k, i, s].tolist() == expected


@pytest.mark.parametrize("k", LABELS)
def test_the_corners_of_a_curve_are_enough(scenes, held, k):
    _, batch, found = scenes
    curve = precision_recall(found, batch.boxes, batch.labels, k)
    assert held["ap"][k, 0] == pytest.approx(coco_ap(curve))
    recall, precision, best = held["curves"][k, 0][~np.isnan(held["curves"][k, 0, :, 0])].T
    steps = np.diff(recall, prepend=0.0)
    assert float((steps * best).sum()) == pytest.approx(voc12_ap(curve))
    points = set(zip(np.float32(curve.recall), np.float32(curve.precision), strict=True))
    assert set(zip(recall, precision, strict=True)) <= points


def test_no_hit_and_no_object_are_legal():
    none = Curve(np.array([0.9]), np.array([0.0]), np.array([0.0]), objects=3)
    assert evaluation.corners(none).tolist() == [[0.0, 0.0, 0.0]]
    assert evaluation.counts(none)[0] == (0, 1, 3)
    empty = Curve(np.zeros(0), np.zeros(0), np.zeros(0), objects=0)
    assert evaluation.corners(empty).shape == (0, 3)
    assert evaluation.counts(empty)[0] == (0, 0, 0)


def test_every_object_found_has_its_finder(held):
    """As many objects have a finder at a score as there are right boxes from that score on."""
    right = held["kinds"].index("correct")
    for p in range(len(held["scores"])):
        for i in range(len(evaluation.DEMANDS)):
            for score in (0.05, 0.3, 0.6):
                hits = (held["verdicts"][p, i] == right) & (held["scores"][p] >= score)
                real = held["labels"][p] >= 0
                assert (hits & real).sum() == (held["found_at"][p, i] >= score).sum()


def test_images_show_their_class(scenes, held):
    for k, row in enumerate(held["which"]):
        assert len(set(row)) == evaluation.SHOWN
        assert (held["truth_labels"][row[0]] == k).any()


def test_controls_drive_the_figure(live):
    assert live.figure.class_id == 1
    live.controls["demand"].index = 4
    live.controls["score"].value = 0.3
    live.controls["image"].index = 2
    assert (live.figure.demand, live.figure.score, live.figure.image) == (4, 0.3, 2)


def test_too_few_images_are_refused(scenes):
    classes, batch, found = scenes
    with pytest.raises(ValueError, match="pass at least 3"):
        widgets.precision_recall(batch.select(slice(0, 2)), found[:2], classes)
