"""The live figures of matching: their tables are what `assign` and `encode` say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2lmini import assign, box_iou, cxcywh_to_xyxy, encode, map_anchors, widgets
from d2lmini.data import Sample
from d2lmini.widgets.matching import LOWEST, candidates, rounds, walk

CLASSES = ("apple", "fish")


def scene(count: int, seed: int = 0) -> Sample:
    """Random boxes over a grey image."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(count, 2, generator=generator) * 0.8 + 0.1
    sides = torch.rand(count, 2, generator=generator) * 0.4 + 0.05
    boxes = cxcywh_to_xyxy(torch.cat([centers, sides], dim=1))
    labels = torch.randint(0, 2, (count,), generator=generator)
    return Sample(torch.full((3, 64, 64), 128, dtype=torch.uint8), boxes, labels)


ANCHORS = map_anchors(8, 8, [0.2, 0.3], [1, 2, 0.5])


def table(packed: dict) -> np.ndarray:
    return np.frombuffer(packed["bytes"], packed["dtype"]).reshape(packed["shape"])


def greedy_pairs(anchors, boxes) -> dict[int, int]:
    """Anchor of each object by the greedy rule alone."""
    chosen = assign(anchors, boxes[None], torch.zeros(1, len(boxes)), iou_threshold=2.0)[0]
    return {int(chosen[a]): int(a) for a in (chosen >= 0).nonzero()[:, 0]}


@pytest.mark.parametrize("threshold", [LOWEST, 0.4, 0.5, 0.65, 0.9])
def test_candidates_give_the_positives_of_every_threshold(threshold):
    """What the drawing does with its slider: the forced one, and all that reach the threshold."""
    sample = scene(9)
    chosen = assign(ANCHORS, sample.boxes[None], sample.labels[None], threshold)[0]
    forced = greedy_pairs(ANCHORS, sample.boxes)
    for g, (mine, iou) in enumerate(candidates(ANCHORS, sample)):
        positive = iou >= threshold
        positive[0] |= mine[0] == forced[g]
        assert mine[0] == forced[g]
        count = int(positive.sum())
        assert positive[:count].all()  # the first few, as the drawing counts them
        assert sorted(mine[:count].tolist()) == (chosen == g).nonzero()[:, 0].tolist()


def test_the_inspector_sends_ious_and_offsets():
    sample = scene(5)
    data = widgets.match_inspector(sample, CLASSES, ANCHORS, start=2).figure.data
    assert data["start"][-1] == len(table(data["iou"]))
    assert data["total"] == len(ANCHORS)
    for g, (mine, _) in enumerate(candidates(ANCHORS, sample)):
        rows = slice(data["start"][g], data["start"][g + 1])
        np.testing.assert_allclose(
            table(data["iou"])[rows], box_iou(ANCHORS[mine], sample.boxes)[:, g], atol=1e-6
        )
        target = encode(ANCHORS[mine], sample.boxes[g].expand(len(mine), 4))
        np.testing.assert_allclose(table(data["offsets"])[rows], target, atol=1e-5)
        assert table(data["forced"])[rows].tolist() == [1] + [0] * (len(mine) - 1)


def test_its_controls_drive_it_and_the_running_scene_is_the_default():
    live = widgets.match_inspector(start=1, threshold=0.4)
    assert (live.figure.object, live.figure.threshold) == (1, 0.4)
    live.controls["object"].index = 3
    live.controls["threshold"].value = 0.7
    assert (live.figure.object, live.figure.threshold) == (3, 0.7)
    assert live.figure.data["names"] == ["apple 1", "fish", "star 1", "mug", "apple 2", "star 2"]
    live.figure.object = 5  # a click in the drawing
    assert live.controls["object"].index == 5


@settings(max_examples=40, deadline=None)
@given(count=st.integers(0, 9), seed=st.integers(0, 999), cells=st.integers(1, 4))
def test_walk_and_rounds_end_with_the_pairs_of_assign(count, seed, cells):
    anchors, boxes = map_anchors(cells, cells, [0.5], [1]), scene(count, seed).boxes
    iou = box_iou(anchors, boxes)
    pairs = {g: a for a, g in walk(iou)}
    together = rounds(iou)
    assert pairs == {g: a for step in together for a, g in step} == greedy_pairs(anchors, boxes)
    assert all(together)  # no round is empty
    assert len(together) <= count


def test_the_walk_goes_from_large_to_small():
    iou = box_iou(ANCHORS, scene(8).boxes)
    values = [float(iou[pair]) for pair in walk(iou)]
    assert values == sorted(values, reverse=True)


def test_greedy_rounds_shows_the_running_scene_in_three_rounds():
    live = widgets.greedy_rounds()
    data = live.figure.data
    assert [len(step) for step in data["rounds"]] == [3, 2, 1]
    assert len(data["walk"]) == live.controls["step"].max == 6
    live.controls["step"].value = 4
    assert live.figure.step == 4


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="no object"):
        widgets.match_inspector(scene(0), CLASSES)
    with pytest.raises(ValueError, match="no number 7"):
        widgets.match_inspector(scene(3), CLASSES, start=7)
    with pytest.raises(ValueError, match="no object"):
        widgets.greedy_rounds(scene(0), CLASSES)
    with pytest.raises(ValueError, match="27 anchors are too many"):
        widgets.greedy_rounds(scene(3), CLASSES, torch.rand(27, 4))
