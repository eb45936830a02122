"""The live figure that replays a training run: its tables are the detections and rows that it was given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from d2lmini import Detections, box_iou, widgets
from d2lmini.data import Synthetic
from d2lmini.widgets.training import SHOWN

BANANAS = Synthetic("bananas", count=2, size=64, split="val")
SCENES = Synthetic("scenes", count=5, size=64, split="val")


def found(count: int, seed: int) -> Detections:
    draw = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 4, generator=draw)
    boxes = torch.cat([torch.minimum(corners[:, :2], corners[:, 2:]), corners[:, 2:] * 0.5 + 0.5], 1)
    scores = torch.rand(count, generator=draw).sort(descending=True).values
    return Detections(boxes, scores, torch.zeros(count, dtype=torch.int64))


SAMPLES = [BANANAS[0], SCENES[2]]
FRAMES = [[found(0, 0), found(2, 1)], [found(9, 2), found(5, 3)], [found(1, 4), found(7, 5)]]
HISTORY = [
    {"epoch": 0, "ap": 0.0, "ap50": None},
    {"epoch": 1, "loss": 3.0, "cls_loss": 2.0, "box_loss": 1.0, "ap": 0.1, "ap50": 0.2},
    {"epoch": 2, "loss": 2.0, "cls_loss": 1.5, "box_loss": 0.5, "ap": 0.2, "ap50": 0.5},
]


@pytest.fixture(scope="module")
def live():
    return widgets.training_replay(SAMPLES, FRAMES, HISTORY)


def table(figure, name):
    packed = figure.data[name]
    return np.frombuffer(packed["bytes"], packed["dtype"]).reshape(packed["shape"])


def test_the_surest_boxes_with_their_iou(live):
    boxes, confidence, iou = (table(live.figure, name) for name in ("boxes", "confidence", "iou"))
    assert boxes.shape == (3, 2, SHOWN, 4)
    for e, frame in enumerate(FRAMES):
        for p, (detections, sample) in enumerate(zip(frame, SAMPLES, strict=True)):
            count = min(SHOWN, len(detections.boxes))
            np.testing.assert_array_equal(boxes[e, p, :count], detections.boxes[:count])
            np.testing.assert_array_equal(confidence[e, p, :count], detections.scores[:count])
            best = box_iou(detections.boxes[:count], sample.boxes).amax(-1)
            np.testing.assert_allclose(iou[e, p, :count], best, atol=1e-6)
            assert not confidence[e, p, count:].any()


def test_curves_have_gaps_where_nothing_was_measured(live):
    losses, scores = table(live.figure, "losses"), table(live.figure, "scores")
    assert np.isnan(losses[0]).all()
    np.testing.assert_allclose(losses[1:], [[3, 2, 1], [2, 1.5, 0.5]])
    np.testing.assert_allclose(scores, [[np.nan, 0], [0.2, 0.1], [0.5, 0.2]])


def test_truth_is_padded_and_shapes_do_not_depend_on_training(live):
    truth = table(live.figure, "truth")
    assert truth.shape == (2, len(SCENES[2].boxes), 4)
    assert not truth[0, 1:].any()
    assert not live.figure.reproducible
    other = widgets.training_replay(SAMPLES, [FRAMES[1]] * 3, HISTORY)
    shapes = [{k: v.get("shape") for k, v in x.figure.data.items() if "shape" in v} for x in (live, other)]
    assert shapes[0] == shapes[1]


def test_controls_drive_the_figure(live):
    assert (live.figure.epoch, live.figure.image) == (1, 0)
    live.controls["epoch"].value = 2
    live.controls["image"].index = 1
    assert (live.figure.epoch, live.figure.image) == (2, 1)


def test_an_image_without_objects_can_be_watched():
    live = widgets.training_replay([SCENES[4]], [[found(3, 0)]], HISTORY[:1], names=["empty"], start=0)
    assert not table(live.figure, "iou").any()
    assert live.controls["image"].options == ("empty",)


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match="3 frames for 2 rows"):
        widgets.training_replay(SAMPLES, FRAMES, HISTORY[:2])
    with pytest.raises(ValueError, match="frame 0 is of 2 images, but there are 1"):
        widgets.training_replay(SAMPLES[:1], FRAMES, HISTORY)
