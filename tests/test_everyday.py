"""The SSD-MobileNetV2 that comes with the package: the original's network, and usable like any other."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from d2lmini import TinySSD, detect, fit, load_model, pretrained, replace_class_heads, save_model
from d2lmini.anchors import SSD_ANCHORS, AnchorSpec, make_anchors
from d2lmini.boxes import decode, xyxy_to_cxcywh
from d2lmini.checkpoint import WEIGHTS, CheckpointError
from d2lmini.cli import main
from d2lmini.data import Synthetic, load
from d2lmini.data.images import to_tensor
from d2lmini.detect import DetectConfig, find_candidates, foreground_scores
from d2lmini.interop.export import Deployed, browser_model, inference_model, save_onnx, weights_script
from d2lmini.mobilenet import Conv, MobileNetV2, SSDMobileNetV2
from d2lmini.model import init_class_bias
from d2lmini.train import TrainConfig

RECORDED = np.load(Path(__file__).with_name("everyday.npz"))  # by tools/import_everyday.py
EVERY = 5
SIZE = 300


@pytest.fixture(scope="module")
def everyday():
    return pretrained("everyday")


def image_of(name: str) -> torch.Tensor:
    """The input that `tools/import_everyday.py` gave the original."""
    kind, number = name.split()
    if kind == "scene":
        return Synthetic("scenes", count=2, size=SIZE, split="val")[int(number)].image
    generator = torch.Generator().manual_seed(0)
    shape = (3, SIZE, SIZE)
    noise = [torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for _ in range(2)]
    return noise[int(number)]


@pytest.mark.parametrize("name", list(RECORDED))
@torch.no_grad()
def test_outputs_are_the_originals(everyday, name):
    model, _ = everyday
    predictions = model(image_of(name).unsqueeze(0))
    theirs = torch.from_numpy(RECORDED[name])
    ours = torch.cat(predictions, dim=-1)[0, ::EVERY]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)
    boxes = [SIZE * decode(model.anchors[::EVERY], values[:, -4:]) for values in (ours, theirs)]
    torch.testing.assert_close(*boxes, rtol=0, atol=0.5)


def test_it_has_the_classes_and_size_of_the_original(everyday):
    model, info = everyday
    assert len(info.classes) == model.num_classes == 23
    assert {"Cat", "Person", "Coffee cup", "Book", "Chair"} <= set(info.classes)
    assert model.image_size == (SIZE, SIZE)
    assert len(model.anchors) == 1917
    assert not model.training


def test_its_anchors_are_the_papers_formula():
    scales = [0.2 + 0.75 * k / 5 for k in range(6)] + [1.0]
    rows = []
    for level, cells in enumerate((19, 10, 5, 3, 2, 1)):
        s, extra = scales[level], (scales[level] * scales[level + 1]) ** 0.5
        shapes = [(s, r) for r in (1, 2, 1 / 2, 3, 1 / 3)] + [(extra, 1)]
        shapes = [(0.1, 1), (s, 2), (s, 1 / 2)] if level == 0 else shapes
        rows += [
            ((x + 0.5) / cells, (y + 0.5) / cells, size * r**0.5, size / r**0.5)
            for y in range(cells)
            for x in range(cells)
            for size, r in shapes
        ]
    anchors = make_anchors([(n, n) for n in (19, 10, 5, 3, 2, 1)], SSD_ANCHORS)
    torch.testing.assert_close(xyxy_to_cxcywh(anchors), torch.tensor(rows), rtol=0, atol=1e-6)


def test_paired_sizes_and_ratios_are_counted_checked_and_scaled():
    spec = AnchorSpec(((0.1, 0.2), (0.4,)), ((1, 2), (3,)), paired=True)
    assert spec.num_anchors_per_location == (2, 1)
    assert spec.scaled(2).paired
    assert spec.scaled(2).sizes[1] == (0.8,)
    with pytest.raises(ValueError, match="as many ratios as sizes"):
        AnchorSpec(((0.1, 0.2),), ((1,),), paired=True)


def test_its_licence_source_and_hash_travel_with_it(everyday):
    _, info = everyday
    assert info.notes["license"] == "Apache-2.0"
    assert info.notes["license_text"] == (WEIGHTS / "everyday.LICENSE.txt").read_text("utf8")
    assert "objectron" in info.notes["source"]
    assert len(info.notes["sha256"]) == 64
    assert info.notes["changes"]


def test_altered_weights_are_refused(tmp_path):
    data = bytearray((WEIGHTS / "everyday.safetensors").read_bytes())
    data[-1000] ^= 1
    (tmp_path / "altered.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        load_model(tmp_path / "altered.safetensors")


@pytest.mark.parametrize("side", [5, 6, 7, 8, 19, 38])
def test_tensorflows_padding_halves_as_its_definition_says(side):
    conv, x = Conv(2, 3, 3, 2, padding="tensorflow"), torch.randn(1, 2, side, side + 1)
    rows = []
    for n in (side, side + 1):  # SAME: enough padding for ⌈n / 2⌉ windows, the odd one behind
        total = max((-(-n // 2) - 1) * 2 + 3 - n, 0)
        rows.append((total // 2, total - total // 2))
    (top, bottom), (left, right) = rows
    padded = F.pad(x, (left, right, top, bottom))
    wanted = F.conv2d(padded, conv.weight, conv.bias, stride=2)
    torch.testing.assert_close(conv(x), wanted, rtol=0, atol=0)
    assert wanted.shape[2:] == (-(-side // 2), -(-(side + 1) // 2))


def test_an_unknown_padding_is_named():
    with pytest.raises(ValueError, match="padding is 'same'"):
        MobileNetV2("same")


def test_maps_have_the_documented_shapes():
    x = torch.zeros(1, 3, 300, 300)
    for padding in ("symmetric", "tensorflow"):
        maps = MobileNetV2(padding)(x)
        assert [tuple(m.shape[1:]) for m in maps] == [(192, 38, 38), (576, 19, 19), (1280, 10, 10)]
        assert [m.shape[-1] for m in SSDMobileNetV2(padding)(x)] == [19, 10, 5, 3, 2, 1]


def test_a_sigmoid_scores_each_class_for_itself():
    logits = torch.tensor([[[9.0, 2.0, 2.0], [-9.0, -8.0, 3.0]]])
    torch.testing.assert_close(foreground_scores(logits, "sigmoid"), logits[..., 1:].sigmoid())
    config = DetectConfig(score_threshold=0.5, score_function="sigmoid")
    row, label, score = find_candidates(logits, config)
    assert row.tolist() == [1, 0, 0]
    assert label.tolist() == [1, 0, 1]
    torch.testing.assert_close(score, torch.tensor([3.0, 2.0, 2.0]).sigmoid())
    with pytest.raises(ValueError, match="score_function is 'relu'"):
        DetectConfig(score_function="relu")
    with pytest.raises(ValueError, match="score_function is 'relu'"):
        TinySSD(1, score_function="relu")


@pytest.mark.parametrize("threshold", [0.0, 0.01, 0.3, 0.999, 1.0])
def test_the_prefilter_loses_no_sigmoid(threshold):
    logits = 4 * torch.randn(2, 50, 6, generator=torch.Generator().manual_seed(0))
    row, label, _ = find_candidates(logits, DetectConfig(threshold, top_k=None, score_function="sigmoid"))
    wanted = (logits[..., 1:].sigmoid() >= threshold).flatten(0, 1).nonzero()
    assert set(zip(row.tolist(), label.tolist(), strict=True)) == set(map(tuple, wanted.tolist()))


def test_it_is_saved_and_loaded_with_all_that_makes_it(everyday, tmp_path):
    model, info = everyday
    save_model(tmp_path / "copy.safetensors", model, info)
    copy, copied = load_model(tmp_path / "copy.safetensors")
    assert copied == info
    assert (copy.score_function, copy.head_kernel, copy.anchor_spec) == ("sigmoid", 1, SSD_ANCHORS)
    image = image_of("scene 0").unsqueeze(0)
    with torch.no_grad():
        for a, b in zip(model(image), copy(image), strict=True):
            assert torch.equal(a, b)


def test_a_head_has_a_middle():
    with pytest.raises(ValueError, match="head_kernel is 2"):
        TinySSD(1, head_kernel=2)


@torch.no_grad()
def test_other_classes_start_from_scores_that_were_alone(everyday):
    model, info = everyday
    cat = info.classes.index("Cat")
    other = replace_class_heads(model, [cat, None])
    assert other.score_function == "softmax"
    assert model.score_function == "sigmoid"
    alone = replace_class_heads(model, [cat])
    image = image_of("scene 1").unsqueeze(0)
    before, after = model(image), alone(image)
    wanted = foreground_scores(before.logits, "sigmoid")[..., cat]
    torch.testing.assert_close(foreground_scores(after.logits)[..., 0], wanted, rtol=0, atol=1e-5)
    assert torch.equal(before.offsets, after.offsets)


def test_it_can_be_trained_once_it_is_a_softmax(everyday):
    model, _ = everyday
    data = load(Synthetic("scenes", count=4, size=SIZE, split="train"))
    config = TrainConfig(epochs=8, batch_size=4, lr=1e-3, augment=None, device="cpu", precision="float32")
    classes = Synthetic("scenes", count=1).classes
    with pytest.raises(ValueError, match="replace_class_heads"):
        fit(data, None, [*classes] + ["x"] * 17, config, model=model, progress=False)
    own = replace_class_heads(model, [None] * 6)
    init_class_bias(own)
    history = fit(data, None, classes, config, model=own, progress=False).history
    losses = [row["cls_loss"] + row["box_loss"] for row in history]
    assert losses[-1] < 0.5 * losses[0]


def test_torch_exports_it_and_onnx_agrees(everyday, tmp_path):
    model, info = everyday
    image = image_of("scene 0").unsqueeze(0) / 255
    program = torch.export.export(model, (image,))
    with torch.no_grad():
        for a, b in zip(program.module()(image), model(image), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    save_onnx(tmp_path / "everyday.onnx", model, info)
    session = runtime.InferenceSession(tmp_path / "everyday.onnx")
    scores, boxes = session.run(None, {"images": image.numpy()})
    with torch.no_grad():
        wanted = Deployed(model)(image)
    np.testing.assert_allclose(scores, wanted[0], atol=1e-4)
    np.testing.assert_allclose(boxes, wanted[1], atol=1e-3)
    np.testing.assert_allclose(scores[..., 0], 1 - scores[..., 1:].max(-1), atol=1e-6)


@torch.no_grad()
def test_a_page_gets_nine_bits_that_find_the_same(everyday):
    model, info = everyday
    record = browser_model(model, info, 9)
    script = weights_script(record, "everyday").encode()
    assert len(gzip.compress(script, 6)) < 6e6
    assert len(base64.b64decode(record["high"])) == 8 * len(base64.b64decode(record["low"]))
    small, whole = inference_model(model, 9), inference_model(model)
    again = inference_model(small, 9).state_dict()
    assert all(torch.equal(t, again[name]) for name, t in small.state_dict().items())
    skimage = pytest.importorskip("skimage")
    photos = [Image.fromarray(getattr(skimage.data, name)()) for name in ("chelsea", "astronaut", "coffee")]
    images = torch.stack([to_tensor(photo, (300, 300), "stretch") for photo in photos])
    options = {"score_function": "sigmoid", "score_threshold": 0.4}
    for one, other in zip(*(detect(*m(images), m.anchors, **options) for m in (small, whole)), strict=True):
        assert one.labels.tolist() == other.labels.tolist()
        torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=0.05)
        torch.testing.assert_close(one.boxes, other.boxes, rtol=0, atol=0.03)


@pytest.mark.parametrize(
    ("photo", "what"), [("chelsea", "Cat"), ("astronaut", "Person"), ("coffee", "Coffee cup")]
)
def test_a_photograph_shows_what_it_shows(everyday, photo, what):
    skimage = pytest.importorskip("skimage")
    model, info = everyday
    image = to_tensor(Image.fromarray(getattr(skimage.data, photo)()), model.image_size, "stretch")
    with torch.no_grad():
        (found,) = detect(*model(image.unsqueeze(0)), model.anchors, score_function=model.score_function)
    assert info.classes[found.labels[0]] == what
    assert found.scores[0] > 0.4


def test_detect_uses_it_when_no_model_is_named(tmp_path, capsys):
    skimage = pytest.importorskip("skimage")
    Image.fromarray(skimage.data.chelsea()).save(tmp_path / "photo.png")
    assert main(["detect", str(tmp_path / "photo.png"), "--out", str(tmp_path / "found")]) in (0, None)
    assert "Cat" in capsys.readouterr().out
    rows = json.loads((tmp_path / "found" / "photo.json").read_text())["detections"]
    assert rows[0]["class"] == "Cat"
    assert main(
        ["detect", str(tmp_path / "photo.png"), "--model", "scenes", "--out", str(tmp_path / "b")]
    ) in (0, None)
