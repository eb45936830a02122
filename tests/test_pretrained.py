"""The detector that comes with the package: small, documented, and as good as it says."""

from __future__ import annotations

import pytest
import torch

from d2lmini import checkpoint, data, pretrained, transfer, validate
from d2lmini.checkpoint import WEIGHTS, CheckpointError

COUNT = 48  # images scored here; the notes speak of 500


@pytest.fixture(scope="module")
def detector():
    return pretrained("scenes")


def test_it_knows_the_classes_and_anchors_of_its_recipe(detector):
    model, info = detector
    recipe = transfer.recipe("scenes")
    assert info.classes == data.PRESETS["scenes"]
    assert model.image_size == (recipe.image_size, recipe.image_size)
    assert model.anchor_spec == recipe.config.anchors
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}, "stored rounded, computed with as ever"


def test_its_notes_say_how_it_was_made(detector):
    _, info = detector
    assert info.notes["recipe"] == "scenes"
    assert isinstance(info.notes["seed"], int)
    assert info.notes["train_images"] == transfer.recipe("scenes").count
    assert 0.3 < info.notes["ap"] < info.notes["ap50"] < 1
    assert info.notes["held_out_images"] >= 200


def test_it_is_small_and_carries_its_hash():
    path = WEIGHTS / "scenes.safetensors"
    assert path.stat().st_size <= 3e6
    tensors, record = checkpoint.load_tensors(path)  # raises if the hash in its header differs
    assert record["model"]["notes"]["recipe"] == "scenes"
    assert sum(t.numel() for t in tensors.values()) > 1e5


def test_it_scores_what_its_notes_say(detector):
    """On the first images of the same held-out set, so only roughly; untrained it scores about 0."""
    model, info = detector
    recipe = transfer.recipe("scenes")
    held_out = data.load(data.open_data("scenes", "val", size=recipe.image_size, count=COUNT))
    metrics, _, _ = validate(model, held_out, info.classes, precision="float32")
    assert metrics.ap50 == pytest.approx(info.notes["ap50"], abs=0.08)
    assert metrics.ap == pytest.approx(info.notes["ap"], abs=0.08)


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(
        CheckpointError, match="no detector 'scene' comes with the package: choose from everyday, scenes"
    ):
        pretrained("scene")


def test_a_package_without_weights_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "WEIGHTS", tmp_path)
    with pytest.raises(CheckpointError, match="choose from none"):
        pretrained("scenes")


def test_every_detector_in_the_package_can_be_asked_for():
    names = sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))
    assert "scenes" in names
    for name in names:
        assert len(pretrained(name)[1].classes) >= 1
