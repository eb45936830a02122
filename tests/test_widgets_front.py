"""The figure of the front page, and the map: what they hold, against the package's own functions."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from d2lmini import error_breakdown, widgets
from d2lmini.data import Synthetic
from d2lmini.data.samples import pad_objects
from d2lmini.detect import Detections
from d2lmini.widgets import front
from tests.widget_tables import _value

CHAPTERS = Path(__file__).resolve().parents[1] / "chapters"


def tables(live):
    return {name: _value(value) for name, value in live.figure.data.items()}


def detections(sample, generator):
    """Every object found twice, a little off, and some boxes out of nowhere; best first."""
    shifted = (
        sample.boxes.repeat(2, 1) + 0.1 * torch.rand(2 * len(sample.boxes), 4, generator=generator)
    ) / 1.1
    stray = torch.rand(5, 2, 2, generator=generator).sort(1).values.flatten(1)
    boxes = torch.cat([shifted, stray])
    labels = torch.cat([sample.labels.repeat(2), torch.randint(6, (5,), generator=generator)])
    scores = torch.rand(len(boxes), generator=generator).sort(descending=True).values
    order = torch.randperm(len(boxes), generator=generator)
    return Detections(boxes[order], scores, labels[order])


@pytest.fixture(scope="module")
def scenes():
    data = Synthetic("scenes", count=24, size=64, split="val")
    samples = [data[i] for i in (2, 10, 4)]
    generator = torch.Generator().manual_seed(0)
    return data.classes, samples, [detections(sample, generator) for sample in samples]


@pytest.fixture(scope="module")
def live(scenes):
    classes, samples, found = scenes
    return widgets.detector_at_work(samples, found, classes)


@pytest.mark.parametrize("score", [0.05, 0.3, 0.7])
def test_right_boxes_are_those_of_the_error_breakdown(scenes, live, score):
    _, samples, found = scenes
    held = tables(live)
    for p, (sample, one) in enumerate(zip(samples, found, strict=True)):
        boxes, labels = pad_objects([sample.boxes], [sample.labels])
        errors = error_breakdown([one], boxes, labels, score_threshold=score)
        shown = (held["scores"][p] >= score) & (held["labels"][p] >= 0)
        assert (held["right"][p][shown] == 1).sum() == errors.correct
        assert (held["right"][p][shown] == 0).sum() == errors.false_positives


def test_boxes_are_the_best_ones_and_padding_is_marked(scenes, live):
    _, samples, found = scenes
    held = tables(live)
    for p, one in enumerate(found):
        best = one.at_least(front.LEAST)
        real = held["labels"][p] >= 0
        assert real.sum() == min(len(best.scores), front.MOST)
        np.testing.assert_allclose(held["boxes"][p][real], best.boxes[: front.MOST])
        np.testing.assert_allclose(held["scores"][p][real], best.scores[: front.MOST])
    assert [(row >= 0).sum() for row in held["truth_labels"]] == [len(s.labels) for s in samples]


def test_controls_drive_the_figure(live):
    live.controls["score"].value = 0.25
    live.controls["image"].index = 2
    live.controls["truth"].value = True
    assert (live.figure.score, live.figure.image, live.figure.truth) == (0.25, 2, True)
    assert live.controls["image"].options[2] == "C: no objects"


def test_an_image_where_nothing_was_found_is_legal(scenes):
    classes, samples, _ = scenes
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    held = tables(widgets.detector_at_work(samples[:1], [nothing], classes))
    assert (held["labels"] == -1).all()


def test_as_many_detections_as_samples(scenes):
    classes, samples, found = scenes
    with pytest.raises(ValueError, match="2 detections for 3 samples"):
        widgets.detector_at_work(samples, found[:2], classes)


# ---------------------------------------------------------------- the map


def test_the_map_leads_to_every_chapter_in_both_layouts():
    page = widgets.data_flow()._repr_html_()
    for layout in re.findall(r"<svg class=.*?</svg>", page, re.S):
        linked = set(re.findall(r'href="(\w+)\.html"', layout))
        assert linked == {stop.page for stop in front.STOPS}
    toc = {path.stem for path in CHAPTERS.glob("*.ipynb")}
    assert len(front.STOPS) == 12
    missing = {stop.page for stop in front.STOPS} - toc
    assert not missing, f"the map leads to pages that do not exist: {missing}"


@pytest.mark.parametrize("layout", [front.WIDE, front.NARROW], ids=["wide", "narrow"])
def test_boxes_of_the_map_do_not_overlap_and_words_fit(layout):
    frames = [front._frame(stop, layout) for stop in front.STOPS]
    for i, (left, top, width, height) in enumerate(frames):
        for x, y, w, h in frames[:i]:
            assert left + width <= x or x + w <= left or top + height <= y or y + h <= top
        stop = front.STOPS[i]
        assert 6.6 * len(stop.text) < width, stop
        assert 9.5 * len(stop.name) < width, stop


def test_the_map_says_the_same_in_words():
    lines = repr(widgets.data_flow()).splitlines()
    assert {"network → prediction", "matching → losses"} <= set(lines)
