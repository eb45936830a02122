"""What leaves the package: a fused network, its layer plan, scripts, a page, ONNX."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from d2lmini import AnchorSpec, TinyBackbone, TinySSD, detect, load_model, pretrained, save_model
from d2lmini.boxes import decode
from d2lmini.checkpoint import ModelInfo
from d2lmini.cli import main
from d2lmini.data import Synthetic
from d2lmini.interop import export, plan
from d2lmini.interop.export import ExportError
from d2lmini.model import fuse_conv_bn

NODE = shutil.which("node")


def odd_detector(seed: int = 0) -> TinySSD:
    """Nothing of it is usual: sides, channels, depth, classes, anchors; its normalisations have learnt."""
    torch.manual_seed(seed)
    spec = AnchorSpec(((0.1, 0.2), (0.4,), (0.8, 0.9)), ((1, 2), (1,), (1, 0.5, 3)))
    model = TinySSD(2, (150, 213), spec, TinyBackbone((6, 10, 13), 7, 1)).eval()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(norm.weight, 1, 0.3)
        nn.init.normal_(norm.bias)
    return model


ODD = ModelInfo(("ant", "bee"), {"ap": float("nan"), "recipe": "none"})


@pytest.fixture(scope="module")
def detector():
    return pretrained("scenes")


@pytest.fixture(scope="module")
def scene():
    return Synthetic("scenes", count=24, size=256, split="val")[2]


# ---------------------------------------------------------------- the network


def test_fusing_changes_no_prediction():
    model = odd_detector()
    images = torch.rand(2, 3, 150, 213)
    with torch.inference_mode():
        for old, new in zip(model(images), fuse_conv_bn(model)(images), strict=True):
            torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-4)


def test_fusing_leaves_the_original_alone_and_no_norm_in_the_copy():
    model = odd_detector()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    fused = fuse_conv_bn(model)
    assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_the_exported_network_is_its_own_export(detector):
    once = export.inference_model(detector[0])
    twice = export.inference_model(once)
    for (name, a), (_, b) in zip(once.named_parameters(), twice.named_parameters(), strict=True):
        assert torch.equal(a, b), name
        assert torch.equal(a, a.half().float()), f"{name} is not rounded"


def test_weights_beyond_float16_are_refused():
    model = odd_detector()
    model.box_heads[1].bias.data[0] = 1e6
    with pytest.raises(ExportError, match=r"box_heads\.1\.bias holds values that float16 cannot"):
        export.inference_model(model)


def test_the_inference_checkpoint_is_small_and_loads_like_any_other(tmp_path):
    model = odd_detector()
    save_model(tmp_path / "trained.safetensors", model, ODD)
    export.save_inference(tmp_path / "small.safetensors", model, ModelInfo(("ant", "bee"), {"ap": 0.5}))
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("small", "trained")]
    assert sizes[0] < 0.6 * sizes[1]
    loaded, info = load_model(tmp_path / "small.safetensors")
    assert info.classes == ("ant", "bee")
    assert info.notes == {"ap": 0.5}
    images = torch.randint(0, 256, (1, 3, 150, 213), dtype=torch.uint8)
    with torch.inference_mode():
        for mine, theirs in zip(loaded(images), export.inference_model(model)(images), strict=True):
            assert torch.equal(mine, theirs)


def test_rounding_keeps_what_the_detector_finds(detector, scene):
    lists = []
    for model in (detector[0], export.inference_model(detector[0])):
        with torch.inference_mode():
            lists.append(detect(*model(scene.image[None]), model.anchors)[0].at_least(0.5))
    old, new = lists
    assert old.labels.tolist() == new.labels.tolist()
    torch.testing.assert_close(new.boxes, old.boxes, rtol=0, atol=0.005)
    torch.testing.assert_close(new.scores, old.scores, rtol=0, atol=0.01)


# ---------------------------------------------------------------- the layer plan


def plan_of(model: TinySSD) -> list[dict]:
    return plan.layer_plan(export.inference_model(model)).steps


def test_the_plan_tells_every_layer_of_the_default_network():
    steps = plan_of(TinySSD(3))
    assert [step["op"] for step in steps] == [
        *["conv", "conv", "pool"] * 3, "heads",
        *["conv", "conv", "pool", "heads"] * 3,
        "global", "heads",
    ]  # fmt: skip
    assert steps[0] == {"op": "conv", "inputs": 3, "outputs": 16}
    assert steps[-1] == {"op": "heads", "inputs": 128, "anchors": 4, "map": [1, 1]}


def finer_detector() -> TinySSD:
    """With a map from inside the base network."""
    return TinySSD(1, 64, AnchorSpec(((0.1,),) * 6, ((1,),) * 6), TinyBackbone(finer=1))


def test_the_plan_reads_the_heads_of_a_finer_map_where_that_arises():
    steps = plan_of(finer_detector())
    assert [step["inputs"] for step in steps if step["op"] == "heads"] == [32, 64, 128, 128, 128, 128]
    assert [step["op"] for step in steps][:9] == [*["conv", "conv", "pool"] * 2, "heads", "conv", "conv"]


@pytest.mark.parametrize(
    "model", [TinySSD(1), odd_detector(), finer_detector()], ids=["usual", "odd", "finer"]
)
def test_plan_and_weights_have_the_same_length(model):
    classes = model.num_classes
    needed = 0
    for step in plan_of(model):
        if step["op"] == "conv":
            needed += step["outputs"] * (9 * step["inputs"] + 1)
        elif step["op"] == "heads":
            needed += step["anchors"] * (classes + 1 + 4) * (9 * step["inputs"] + 1)
    weights = plan.flat_weights(plan.layer_plan(export.inference_model(model)))["weights"]
    assert len(weights) == 2 * needed


class Other(nn.Module):
    """A backbone that does what no step can be."""

    def forward(self, x):
        return [x[:, :, ::8, ::8].sin()]


def with_layer(layer: nn.Module) -> TinySSD:
    model = TinySSD(1)
    model.backbone.blocks[0][0][0] = layer
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (TinySSD(1, 64, AnchorSpec(((0.1,),), ((1,),)), Other()), "cannot run the layer"),
        (with_layer(nn.Conv2d(64, 128, 3, padding=1, dilation=2)), "it convolves 3 × 3"),
        (with_layer(nn.Conv2d(64, 128, 5, padding=2)), "it convolves 3 × 3"),
        (with_layer(nn.Conv2d(64, 128, 3, padding=1, groups=2)), "it convolves 3 × 3"),
        (with_layer(nn.Sequential(nn.Conv2d(64, 128, 3, padding=1), nn.GELU())), "cannot run the layer GELU"),
        (with_layer(nn.Sequential(nn.Conv2d(64, 128, 3, padding=1), nn.ReLU6())), "has no ReLU6 behind"),
        (with_layer(nn.Sequential(nn.ReLU(), nn.Conv2d(64, 128, 3, padding=1))), "ReLU right behind"),
    ],
    ids=["backbone", "dilated", "5 × 5", "groups", "GELU", "ReLU6", "ReLU"],
)
def test_what_the_browser_cannot_run_is_refused(model, message):
    with pytest.raises(ExportError, match=re.escape(message)):
        export.browser_model(model, ModelInfo(("a",)))


def test_images_too_large_for_a_phone_are_refused():
    with pytest.raises(ExportError, match=r"MB of feature maps.*set_image_size to a smaller one"):
        export.browser_model(TinySSD(1, 2048), ModelInfo(("a",)))


# ---------------------------------------------------------------- the weights script


def test_the_browser_gets_all_weights_to_the_bit(detector):
    record = export.browser_model(*detector)
    sent = np.frombuffer(base64.b64decode(record["weights"]), "<f2")
    model = export.inference_model(detector[0])
    assert sent.size == sum(p.numel() for p in model.parameters())
    first, last = model.backbone.base[0][0][0], model.box_heads[-1]
    np.testing.assert_array_equal(sent[: first.weight.numel()], first.weight.detach().half().flatten())
    np.testing.assert_array_equal(sent[-last.bias.numel() :], last.bias.detach().half())


def test_one_name_stands_for_one_detector(detector):
    model, info = detector
    record = export.browser_model(model, info)
    name = export.script_name(record, "Größe M!")
    assert re.fullmatch(r"gr-e-m-[0-9a-f]{12}\.js", name)
    assert export.script_name(export.browser_model(model, info), "Größe M!") == name
    other = export.browser_model(model, ModelInfo(info.classes, {**info.notes, "seed": 1}))
    assert export.script_name(other, "Größe M!") != name


def test_a_score_that_is_nan_becomes_null():
    assert export.browser_model(odd_detector(), ODD)["notes"] == {"ap": None, "recipe": "none"}


def test_the_script_says_what_it_holds_and_defines_it(detector):
    record = export.browser_model(*detector)
    script = export.weights_script(record, "scenes")
    head = script.splitlines()[:8]
    assert head[1] == "// classes: banana, apple, mug, star, fish, leaf"
    assert head[2] == f"// SHA-256 {record['sha256']}"
    assert "// recipe: scenes" in head
    if NODE is None:
        pytest.skip("no node found; on Debian: apt-get install nodejs")
    program = f"{script}console.log(JSON.stringify(globalThis.d2lminiModels));"
    done = subprocess.run([NODE, "-"], input=program, capture_output=True, text=True, timeout=30)
    assert json.loads(done.stdout) == {export.script_name(record, "scenes"): json.loads(json.dumps(record))}


# ---------------------------------------------------------------- the command


@pytest.fixture
def trained(tmp_path):
    path = tmp_path / "insects" / "best.safetensors"
    path.parent.mkdir()
    save_model(path, odd_detector(), ODD)
    return path


def test_export_writes_checkpoint_and_script(trained, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export", "--model", str(trained), "--out", str(out)]) == 0
    names = sorted(path.name for path in out.glob("insects*"))
    assert names[1] == "insects.safetensors"
    assert re.fullmatch(r"insects-[0-9a-f]{12}\.js", names[0])
    assert "for web pages" in capsys.readouterr().out
    again = tmp_path / "again"
    assert main(["export", "--model", str(out / "insects.safetensors"), "--out", str(again)]) == 0
    assert (again / names[0]).read_bytes() == (out / names[0]).read_bytes()


def test_export_writes_one_page_with_everything_in_it(trained, tmp_path):
    page = tmp_path / "page.html"
    assert main(["export", "--model", str(trained), "--page", str(page)]) == 0
    text = page.read_text("utf8")
    assert "<title>A detector for ant and bee</title>" in text
    assert not re.findall(r'(?:src|href)\s*=\s*["\'](?!data:)', text.replace("src: addresses", ""))
    assert text.count("<script") == text.count("</script>") == 3
    assert not (tmp_path / "export").exists()


def test_a_class_cannot_break_out_of_its_page(tmp_path):
    info = ModelInfo(("</script><b>", "$x & y"))
    export.save_page(tmp_path / "page.html", odd_detector(), info)
    text = (tmp_path / "page.html").read_text("utf8")
    assert "<title>A detector for &lt;/script&gt;&lt;b&gt; and $x &amp; y</title>" in text
    assert text.count("</script>") == 3


def test_export_says_what_is_wrong(trained, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for arguments, message in (
        (["--model", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--model", str(trained), "--out", str(tmp_path / "file")], "file"),
        (["--model", str(trained), "--page", str(tmp_path / "no" / "page.html")], "page.html"),
    ):
        assert main(["export", *arguments]) == 2
        assert message in capsys.readouterr().err


# ---------------------------------------------------------------- ONNX


def test_without_onnx_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"pip install 'd2lmini\[onnx\]'"):
        export.save_onnx(tmp_path / "m.onnx", odd_detector(), ODD)


@pytest.mark.parametrize("which", ["odd", "shipped"])
def test_onnx_gives_the_same_scores_and_boxes(which, tmp_path):
    model, info = pretrained("scenes") if which == "shipped" else (odd_detector(), ODD)
    path = tmp_path / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export.save_onnx(path, model, info)
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version >= 18
    metadata = {p.key: json.loads(p.value) for p in proto.metadata_props}
    notes = {key: None if value != value else value for key, value in info.notes.items()}
    assert metadata == {"classes": list(info.classes), "resize_mode": "stretch", "notes": notes}
    traces = re.compile(rb"\.py\b|site-packages|" + re.escape(str(Path.home()).encode()))
    assert not traces.search(proto.SerializeToString()), "a path of this machine"
    images = torch.rand(1, 3, *model.image_size)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    scores, boxes = session.run(["scores", "boxes"], {"images": images.numpy()})
    small = export.inference_model(model)
    with torch.inference_mode():
        logits, offsets = small(images)
    np.testing.assert_allclose(scores, logits.softmax(-1), atol=1e-5)
    np.testing.assert_allclose(boxes, decode(small.anchors, offsets), atol=1e-4)
