"""Checkpoints: what is written comes back, and what is damaged is refused with a reason."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch

from d2lmini import AnchorSpec, TinyBackbone, TinySSD, checkpoint
from d2lmini.checkpoint import CheckpointError, ModelInfo, load_model, save_model

SPEC = AnchorSpec(sizes=((0.1, 0.2), (0.4,), (0.8,)), ratios=((1, 2, 0.5), (1, 3), (1,)))


def tiny(classes: int = 2) -> TinySSD:
    torch.manual_seed(3)
    return TinySSD(classes, (64, 96), SPEC, TinyBackbone(channels=(4, 6), width=8, extra=1))


def test_a_model_comes_back_with_nothing_but_its_file(tmp_path):
    model = tiny().eval()
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    save_model(tmp_path / "m.safetensors", model, ModelInfo(("cat", "dog"), {"ap": 0.5}))
    again, info = load_model(tmp_path / "m.safetensors")
    assert info == ModelInfo(("cat", "dog"), {"ap": 0.5})
    assert again.image_size == (64, 96)
    assert again.anchor_spec == SPEC
    torch.testing.assert_close(again.anchors, model.anchors, rtol=0, atol=0)
    with torch.no_grad():
        for a, b in zip(again(images), model(images), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_all_tensor_types_and_an_empty_tensor_round_trip(tmp_path):
    tensors = {
        "f": torch.randn(2, 3),
        "b": torch.randn(3).bfloat16(),
        "i": torch.arange(4),
        "u": torch.arange(4, dtype=torch.uint8),
        "scalar": torch.tensor(7.0),
        "empty": torch.zeros(0, 4),
        "strided": torch.randn(4, 5).t(),
    }
    checkpoint.save_tensors(tmp_path / "t", tensors, {"a": [1, "x"]})
    again, record = checkpoint.load_tensors(tmp_path / "t")
    assert record == {"a": [1, "x"]}
    assert again.keys() == tensors.keys()
    for name, value in tensors.items():
        assert again[name].dtype == value.dtype
        torch.testing.assert_close(again[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "m.safetensors"
    save_model(path, tiny(), ModelInfo(("a", "b")))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"m\.safetensors"):
        load_model(path)


@pytest.mark.parametrize("where", [0.1, 0.5, 0.999])
def test_one_changed_bit_is_refused(tmp_path, where):
    path = tmp_path / "m.safetensors"
    save_model(path, tiny(), ModelInfo(("a", "b")))
    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=r"m\.safetensors"):
        load_model(path)


def test_a_changed_record_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(path, tiny(), ModelInfo(("cat", "dog")))
    path.write_bytes(path.read_bytes().replace(b"cat", b"cow"))
    with pytest.raises(CheckpointError, match="changed after it was written"):
        load_model(path)


def test_foreign_newer_and_missing_files_are_refused(tmp_path):
    foreign = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(1)}, foreign)
    with pytest.raises(CheckpointError, match="not written by d2lmini"):
        load_model(foreign)
    newer = tmp_path / "newer.safetensors"
    metadata = {"d2lmini": str(checkpoint.FORMAT + 1), "record": "{}", "sha256": ""}
    safetensors.torch.save_file({"x": torch.zeros(1)}, newer, metadata)
    with pytest.raises(CheckpointError, match="newer"):
        load_model(newer)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_model(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_model(tmp_path)
    checkpoint.save_tensors(tmp_path / "other", {"x": torch.zeros(1)}, {"what": "else"})
    with pytest.raises(CheckpointError, match="no model"):
        load_model(tmp_path / "other")


def test_a_custom_backbone_has_to_be_handed_in(tmp_path):
    class Pair(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Conv2d(3, 4, 3, stride=8, padding=1)

        def forward(self, x):
            x = self.a(x)
            return [x, x.amax((2, 3), keepdim=True)]

    spec = AnchorSpec(((0.1,), (0.5,)), ((1,), (1,)))
    model = TinySSD(1, 32, spec, Pair()).eval()
    save_model(tmp_path / "m", model, ModelInfo(("a",)))
    with pytest.raises(CheckpointError, match="backbone="):
        load_model(tmp_path / "m")
    again, _ = load_model(tmp_path / "m", backbone=Pair())
    image = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(again(image).logits, model(image).logits)


def test_the_header_is_readable_by_any_safetensors_tool(tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(path, tiny(), ModelInfo(("a", "b"), {"recipe": "x"}))
    with safetensors.safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["record"])
    assert record["model"]["classes"] == ["a", "b"]
    assert record["model"]["notes"] == {"recipe": "x"}
