"""Training fitted to a folder: epochs, anchors, pretrained backbone; and stopping early."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from d2lmini import checkpoint, train
from d2lmini.anchors import suggest_anchors
from d2lmini.data import Synthetic, collate
from d2lmini.interop.timm import Pyramid
from d2lmini.model import TinyBackbone
from d2lmini.transfer import configure_for_dataset, epochs_for

CONFIG = train.TrainConfig(epochs=3, batch_size=4, augment=None, precision="float32")
CLASSES = ("banana",)


@pytest.fixture(scope="module")
def bananas():
    data = Synthetic("bananas", count=8, size=64)
    return collate([data[i] for i in range(8)])


def test_fewer_images_are_seen_more_often_but_less_in_all():
    counts = [10, 50, 100, 160, 300, 1000, 3000, 10**6]
    epochs = [epochs_for(n) for n in counts]
    assert epochs == sorted(epochs, reverse=True)
    seen = [n * e for n, e in zip(counts, epochs, strict=True)]
    assert seen == sorted(seen)
    assert epochs_for(0) == epochs_for(1)


def test_anchors_are_those_of_the_boxes(bananas):
    made = configure_for_dataset(CONFIG, bananas, 64, CLASSES)
    maps = [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]
    assert made[0].anchors == suggest_anchors(bananas.boxes[bananas.labels >= 0], maps)
    assert made[1].anchor_spec == made[0].anchors
    assert made[1].image_size == (64, 64)
    kept = configure_for_dataset(CONFIG, bananas, 64, CLASSES, suggest=False, scale_epochs=False)
    assert kept[0] == CONFIG


def test_the_backbone_starts_from_the_shipped_detector_and_the_heads_do_not(bananas):
    shipped = checkpoint.pretrained()[0].backbone.state_dict()
    model = configure_for_dataset(CONFIG, bananas, 64, CLASSES)[1]
    assert all(torch.equal(t, shipped[name]) for name, t in model.backbone.state_dict().items())
    fresh = configure_for_dataset(CONFIG, bananas, 64, CLASSES, start="none")[1]
    assert not torch.equal(fresh.backbone.base[0][0][0].weight, shipped["base.0.0.0.weight"])
    assert model.num_classes == 1


def test_same_seed_same_network_and_the_callers_stream_is_left_alone(bananas):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = configure_for_dataset(CONFIG, bananas, 64, CLASSES, start="none")[1].state_dict()
    assert torch.equal(torch.rand(3), expected)
    again = configure_for_dataset(CONFIG, bananas, 64, CLASSES, start="none")[1].state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = dataclasses.replace(CONFIG, seed=1)
    third = configure_for_dataset(other, bananas, 64, CLASSES, start="none")[1].state_dict()
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_a_backbone_of_ones_own_is_not_touched(bananas):
    own = Pyramid(TinyBackbone(channels=(4, 8), extra=1), maps=4, width=8)
    before = {name: t.clone() for name, t in own.state_dict().items()}
    made = configure_for_dataset(CONFIG, bananas, 64, CLASSES, backbone=own)
    assert made[1].backbone is own
    assert all(torch.equal(t, before[name]) for name, t in own.state_dict().items())
    assert len(made[0].anchors.sizes) == 4


def test_a_new_network_believes_in_objects_as_the_configuration_says(bananas):
    config = dataclasses.replace(CONFIG, prior_prob=0.05)
    heads = configure_for_dataset(config, bananas, 64, CLASSES)[1].class_heads
    for head in heads:
        probability = head.bias.view(-1, 2).softmax(-1)[:, 1]
        torch.testing.assert_close(probability, torch.full_like(probability, 0.05))
    config = dataclasses.replace(CONFIG, prior_prob=None)
    heads = configure_for_dataset(config, bananas, 64, CLASSES)[1].class_heads
    assert all(head.bias.unique().numel() > 2 for head in heads)  # as torch makes them


def test_what_makes_no_sense_is_refused(bananas):
    with pytest.raises(ValueError, match="start is 'imagenet': choose from scenes, none"):
        configure_for_dataset(CONFIG, bananas, 64, CLASSES, start="imagenet")
    empty = bananas._replace(labels=torch.full_like(bananas.labels, -1))
    with pytest.raises(ValueError, match="no object"):
        configure_for_dataset(CONFIG, empty, 64, CLASSES)
    with pytest.raises(ValueError, match="patience is 0"):
        dataclasses.replace(CONFIG, patience=0)


def test_a_configured_run_trains_and_resumes(bananas, tmp_path):
    made = configure_for_dataset(CONFIG, bananas, 64, CLASSES, scale_epochs=False)
    one = train.fit(bananas, bananas, CLASSES, made[0], model=made[1], out=tmp_path, progress=False)
    assert [row["epoch"] for row in one.history] == [1, 2, 3]
    made = configure_for_dataset(CONFIG, bananas, 64, CLASSES, scale_epochs=False)
    options = {"model": made[1], "out": tmp_path, "resume": True, "progress": False}
    again = train.fit(bananas, bananas, CLASSES, made[0], **options)
    assert again.history == one.history
    one, again = one.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)


def test_patience_ends_a_run_that_does_not_improve(bananas, monkeypatch):
    scores = iter([0.1, 0.4, 0.3, 0.2, 0.5, 0.5, 0.4, 0.4, 0.9])
    monkeypatch.setattr(train, "score_columns", lambda *_: {"ap": next(scores), "ap50": 0.5})
    config = dataclasses.replace(CONFIG, epochs=9, patience=2)
    stopped = train.fit(bananas, bananas, CLASSES, config, progress=False)
    assert (len(stopped.history), stopped.best_epoch) == (4, 2)
    scores = iter([0.1, 0.4, 0.3, 0.2, 0.5, 0.5, 0.4, 0.4, 0.9])
    config = dataclasses.replace(config, patience=3)  # the second 0.5 is no improvement
    assert len(train.fit(bananas, bananas, CLASSES, config, progress=False).history) == 8
    scores = iter([0.4, 0.3])  # a score every second epoch counts as one
    config = dataclasses.replace(config, epochs=4, patience=2, eval_every=2)
    assert len(train.fit(bananas, bananas, CLASSES, config, progress=False).history) == 4
    config = dataclasses.replace(config, epochs=2, patience=1)
    assert len(train.fit(bananas, None, CLASSES, config, progress=False).history) == 2
