"""Backbones from elsewhere: plain modules, timm's networks where timm is installed, and their checkpoints."""

from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from d2lmini import train
from d2lmini.anchors import AnchorSpec
from d2lmini.checkpoint import CheckpointError, ModelInfo, load_model, save_model
from d2lmini.data import Synthetic, collate
from d2lmini.interop.timm import Pyramid, timm_backbone
from d2lmini.model import TinyBackbone, TinySSD


class Steps(nn.Module):
    """What `features_only=True` gives, in small: a tuple of maps of rising stride."""

    def __init__(self, channels: tuple[int, ...] = (4, 6), channels_last: bool = False) -> None:
        super().__init__()
        pairs = zip((3, *channels[:-1]), channels, strict=True)
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, 3, stride=4, padding=1) for i, o in pairs)
        self.dropout = nn.Dropout(0.5)
        self.output_fmt = "NHWC" if channels_last else "NCHW"
        self.seen: Tensor | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self.seen, maps = x, []
        for convolution in self.convolutions:
            x = convolution(x).relu()
            maps.append(x.permute(0, 2, 3, 1) if self.output_fmt == "NHWC" else x)
        return tuple(maps)


def spec(maps: int) -> AnchorSpec:
    return AnchorSpec(tuple((0.2 * k,) for k in range(1, maps + 1)), ((1, 2),) * maps)


def test_any_module_that_gives_a_list_of_maps_is_a_backbone():
    model = TinySSD(2, 64, spec(2), Steps())
    predictions = model(torch.rand(3, 3, 64, 64))
    assert predictions.logits.shape == (3, (16**2 + 4**2) * 2, 3)
    predictions.logits.sum().backward()
    assert all(p.grad is not None for p in model.backbone.parameters())


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_pyramid_adds_the_coarse_maps(channels_last):
    backbone = Pyramid(Steps(channels_last=channels_last), maps=5, width=8, image_size=64)
    shapes = [tuple(m.shape) for m in backbone(torch.rand(2, 3, 64, 64))]
    assert shapes == [(2, 4, 16, 16), (2, 6, 4, 4), (2, 8, 2, 2), (2, 8, 1, 1), (2, 8, 1, 1)]
    assert backbone.training  # probing left every part in its mode
    assert backbone.features.dropout.training
    with pytest.raises(ValueError, match="maps is 2, but the network gives 2"):
        Pyramid(Steps(), maps=2)
    for wrong in (nn.Identity(), nn.Sequential(nn.Flatten())):
        with pytest.raises(ValueError, match="list of feature maps"):
            Pyramid(wrong)


def test_pixels_reach_the_network_as_it_was_trained_with():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    backbone = Pyramid(Steps(), maps=3, width=8, mean=mean, std=std)
    images = torch.rand(2, 3, 32, 32)
    TinySSD(1, 32, spec(3), backbone)(images)
    expected = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(backbone.features.seen, expected)


def test_a_pyramid_learns():
    torch.manual_seed(0)
    data = Synthetic("bananas", count=4, size=64)
    batch = collate([data[i] for i in range(4)])
    config = train.TrainConfig(epochs=30, batch_size=4, augment=None, precision="float32", lr=1e-2)
    model = TinySSD(1, 64, spec(4), Pyramid(Steps(), maps=4, width=8, image_size=64))
    losses = [
        row["loss"] for row in train.fit(batch, None, ["x"], config, model=model, progress=False).history
    ]
    assert losses[-1] < 0.8 * losses[0]


def test_a_checkpoint_asks_for_a_backbone_that_it_cannot_make(tmp_path):
    model = TinySSD(1, 64, spec(3), Pyramid(Steps(), maps=3, width=8)).eval()
    save_model(tmp_path / "own.safetensors", model, ModelInfo(("x",)))
    with pytest.raises(CheckpointError, match="backbone of your own"):
        load_model(tmp_path / "own.safetensors")
    again, _ = load_model(tmp_path / "own.safetensors", backbone=Pyramid(Steps(), maps=3, width=8))
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(again(images).logits, model(images).logits)


def test_ours_are_made_again_from_their_options(tmp_path):
    own = TinyBackbone(channels=(4, 8), width=8, extra=1)
    save_model(tmp_path / "ours.safetensors", TinySSD(1, 64, spec(3), own), ModelInfo(("x",)))
    again, _ = load_model(tmp_path / "ours.safetensors")
    assert again.backbone.options == own.options


def test_without_timm_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"pip install 'd2lmini\[timm\]'"):
        timm_backbone("resnet18")


# ---------------------------------------------------------------- with timm, where it is installed


@pytest.fixture
def timm(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("timm")


def test_timms_networks_become_backbones(timm, tmp_path):
    torch.manual_seed(0)
    backbone = timm_backbone("resnet10t", width=16)
    model = TinySSD(2, backbone=backbone).eval()
    assert len(model.anchors) == 5444  # the same cells as TinyBackbone's
    path = tmp_path / "model.safetensors"
    save_model(path, model, ModelInfo(("a", "b")))
    again, info = load_model(path)  # without being told of timm
    assert info.classes == ("a", "b")
    images = torch.rand(1, 3, 256, 256)
    assert torch.equal(again(images).logits, model(images).logits)


def test_local_weights_of_a_classifier_are_loaded(timm, tmp_path):
    torch.manual_seed(1)
    classifier = timm.create_model("resnet10t")
    save_file(classifier.state_dict(), tmp_path / "resnet10t.safetensors")
    backbone = timm_backbone("resnet10t", weights=tmp_path / "resnet10t.safetensors", width=16)
    known = classifier.state_dict()
    loaded = backbone.features.state_dict()
    shared = [name for name in loaded if name in known]
    assert len(shared) > 20
    assert all(torch.equal(loaded[name], known[name]) for name in shared)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet10x", {}, "no network 'resnet10x': perhaps"),
        ("hf-hub:someone/anything", {}, "no network"),
        ("resnet10t", {"weights": "nothing.safetensors"}, "no safetensors file at nothing"),
        ("resnet10t", {"weights": __file__}, "no safetensors file"),
        ("vit_tiny_patch16_224", {}, "of which none is 8"),
        ("resnet10t", {"maps": 3}, "maps is 3"),
    ],
)
def test_what_timm_cannot_do_is_said(timm, name, options, message):
    with pytest.raises(ValueError, match=message):
        timm_backbone(name, **options)
