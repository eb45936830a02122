"""A trained detector for use elsewhere: as an inference checkpoint, in a web page, as ONNX.

All of them hold the same network: batch normalisation folded into the convolutions, and every weight
rounded to float16. `inference_model` makes it, Python's `detect` command and the live page compute with
it, so they agree box for box; the network as trained differs from it in the fourth digit of a score.

The web page has no framework: `live/` holds a forward pass that reads its layer plan from beside the
weights, so that classes, input size, anchors and channels may be others without touching JavaScript.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.util
import io
import json
import math
import re
import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from d2lmini import boxes, live
from d2lmini.checkpoint import ModelInfo, describe_model, save_tensors, write_bytes
from d2lmini.data import Sample
from d2lmini.model import PIXEL_MEAN, PIXEL_STD, TinyBackbone, TinySSD, fold

MEGABYTES = 256  # what the maps of one picture may take in a browser; a phone has that much
NEEDED = {"onnx": "onnx", "onnxscript": "onnxscript"}  # to write ONNX: module and package
OPSET = 18
FIGURES = Path(__file__).parent / "widgets" / "figures.css"  # colours and type of all live figures


class ExportError(ValueError):
    """A detector that cannot be exported as it is; the message names the reason and the remedy."""


@torch.no_grad()
def inference_model(model: TinySSD) -> TinySSD:
    """The network that is exported: a folded copy with weights that float16 can hold, computing in float32.

    Making it of itself again changes nothing. Raises ExportError where a weight is not finite in float16.
    """
    rounded = fold(model).float()
    for name, weight in rounded.named_parameters():
        weight.copy_(weight.half())
        if not weight.isfinite().all():
            raise ExportError(f"{name} holds values that float16 cannot: train again with a lower rate")
    return rounded


def save_inference(path: str | Path, model: TinySSD, info: ModelInfo) -> None:
    """Write the network of `inference_model` as a checkpoint of half the size, for `load_model`."""
    model = inference_model(model)
    tensors = {f"model.{name}": t.half() for name, t in model.state_dict().items()}
    save_tensors(path, tensors, {"model": describe_model(model, info)})


# ---------------------------------------------------------------- the layer plan


def layer_plan(model: TinySSD) -> list[dict[str, Any]]:
    """What the browser has to do, in order, as JSON: convolve, pool, read the heads of a map.

    `conv` has `inputs`, `outputs` and is followed by ReLU; `pool` halves, `global` takes the largest value
    of each channel; `heads` reads classes and boxes of `anchors` anchors a pixel off the newest map.
    Raises ExportError naming the layer that the browser's forward pass does not know.
    """
    if not isinstance(model.backbone, TinyBackbone):
        raise ExportError(
            f"the backbone is a {type(model.backbone).__name__}: the browser runs TinyBackbone only, in any "
            "width and depth; export to ONNX instead"
        )
    backbone = fold(model).backbone
    heads = zip(model.class_heads, model.box_heads, model.anchor_spec.per_pixel, strict=True)
    plan: list[dict[str, Any]] = []
    for block in (backbone.base, *backbone.blocks):
        plan += _layers(block)
        plan.append(_heads(*next(heads)))
    return [*plan, {"op": "global"}, _heads(*next(heads))]


def _layers(block: nn.Module) -> Iterator[dict[str, Any]]:
    """The steps of one block; ReLU goes with its convolution, since it and max pooling commute."""
    for layer in (m for m in block.modules() if not list(m.children())):
        if isinstance(layer, nn.Conv2d):
            yield {"op": "conv", **_channels(layer)}
        elif isinstance(layer, nn.MaxPool2d) and (layer.kernel_size, layer.stride) == (2, 2):
            yield {"op": "pool"}
        elif not isinstance(layer, (nn.ReLU, nn.Identity)):
            raise ExportError(f"the browser cannot run the layer {layer}: export to ONNX instead")


def _heads(classes: nn.Module, moves: nn.Module, anchors: int) -> dict[str, Any]:
    inputs = _channels(classes)["inputs"]
    if _channels(moves)["inputs"] != inputs:
        raise ExportError("the class head and the box head of one map read different numbers of channels")
    return {"op": "heads", "inputs": inputs, "anchors": anchors}


def _channels(layer: nn.Module) -> dict[str, int]:
    """Channels of a convolution that is the kind the browser knows: 3 × 3, padded by 1, nothing else."""
    if not isinstance(layer, nn.Conv2d):
        raise ExportError(f"the browser needs a convolution where this is {layer}: export to ONNX instead")
    shape = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
    if shape != ((3, 3), (1, 1), (1, 1), (1, 1), 1) or layer.padding_mode != "zeros":
        raise ExportError(f"the browser cannot run {layer}: it convolves 3 × 3 with padding 1 only")
    return {"inputs": layer.in_channels, "outputs": layer.out_channels}


def flat_weights(model: TinySSD) -> Tensor:
    """All weights of an inference model one behind the other, float16 (W,), in the order of the plan.

    Of a convolution first the filters (outputs, inputs, 3, 3), then the bias; of a map's heads the class
    head, then the box head.
    """
    convs: list[nn.Module] = []
    blocks = (model.backbone.base, *model.backbone.blocks, None)
    for block, classes, moves in zip(blocks, model.class_heads, model.box_heads, strict=True):
        if block is not None:
            convs += [m for m in block.modules() if isinstance(m, nn.Conv2d)]
        convs += [classes, moves]
    return torch.cat([t.detach().flatten() for c in convs for t in (c.weight, c.bias)]).half().cpu()


# ---------------------------------------------------------------- the weights script


def browser_model(model: TinySSD, info: ModelInfo) -> dict[str, Any]:
    """Everything that the browser has to know of a detector, as JSON, with its weights in base64.

    `sha256` covers all the rest, so that one name stands for one detector. Raises ExportError for what
    the browser cannot run, and for what would not fit into a phone's memory.
    """
    plan = layer_plan(model)
    model = inference_model(model)
    needed = sum(maps_in_floats(plan, model.image_size)) * 4 / 1e6
    if needed > MEGABYTES:
        raise ExportError(
            f"pictures of {model.image_size} need {needed:.0f} MB of feature maps in a browser, more than "
            f"{MEGABYTES}: set_image_size to a smaller one, or export to ONNX"
        )
    weights = flat_weights(model).numpy().astype("<f2").tobytes()
    record = {
        "classes": list(info.classes),
        "size": list(model.image_size),
        "fit": info.fit,
        "sizes": model.anchor_spec.sizes,
        "ratios": model.anchor_spec.ratios,
        "pixels": {"mean": PIXEL_MEAN, "std": PIXEL_STD},
        "decoding": {**boxes.VARIANCES._asdict(), "most": boxes.MAX_LOG_GROWTH},
        "plan": plan,
        "notes": _notes(info),
    }
    text = json.dumps(record, sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(text.encode() + weights).hexdigest()
    return {**record, "sha256": digest, "weights": base64.b64encode(weights).decode()}


def _notes(info: ModelInfo) -> dict[str, Any]:
    """Notes as JSON can hold them: a score without objects is NaN, and becomes null."""
    unknown = (k for k, v in info.notes.items() if isinstance(v, float) and not math.isfinite(v))
    return {**info.notes, **dict.fromkeys(unknown)}


def maps_in_floats(plan: list[dict[str, Any]], size: tuple[int, int]) -> Iterator[int]:
    """Numbers that each feature map holds in the browser, its rim included, the picture first."""
    (height, width), channels = size, 3
    yield _with_rim(channels, height, width)
    for step in plan:
        if step["op"] == "conv":
            channels = step["outputs"]
        elif step["op"] == "pool":
            height, width = height // 2, width // 2
        elif step["op"] == "global":
            height = width = 1
        yield _with_rim(channels, height, width)


def _with_rim(channels: int, height: int, width: int) -> int:
    return channels * (height + 2) * (-(-width // 8) * 8 + 2)


def script_name(model: dict[str, Any], name: str) -> str:
    """The file name of a weights script: it changes when anything in it does, so a browser may keep it."""
    return f"{re.sub(r'[^a-z0-9-]+', '-', name.lower()).strip('-') or 'model'}-{model['sha256'][:12]}.js"


def weights_script(model: dict[str, Any], name: str) -> str:
    """A classic script that puts a `browser_model` where the engine finds it; it also loads from a disk.

    A page opened from a file may not fetch its neighbours, but it may name them in a script tag.
    """
    notes = model["notes"]
    told = [f"classes: {', '.join(model['classes'])}", f"SHA-256 {model['sha256']}"]
    told += [f"{key}: {notes[key]}" for key in ("recipe", "seed", "epochs", "ap", "ap50") if key in notes]
    told.insert(0, "A detector of d2lmini, weights in float16.")
    head = "\n".join(f"// {' '.join(line.split())}" for line in told)
    key = json.dumps(script_name(model, name))
    return f"{head}\n(globalThis.d2lminiModels ??= {{}})[{key}] = {json.dumps(model, ensure_ascii=False)};\n"


def save_weights_script(folder: str | Path, model: TinySSD, info: ModelInfo, name: str) -> Path:
    """Write a detector's weights script into a folder; returns its path."""
    record = browser_model(model, info)
    path = Path(folder) / script_name(record, name)
    write_bytes(path, weights_script(record, name).encode())
    return path


# ---------------------------------------------------------------- a page of its own


def save_page(path: str | Path, model: TinySSD, info: ModelInfo, samples: Sequence[Sample] = ()) -> None:
    """Write one HTML file that holds a detector and everything needed to use it, offline, in any browser.

    `samples` are pictures to begin with; without any, whoever opens the page brings their own.
    """
    record = browser_model(model, info)
    parts = {
        "title": html.escape(f"A detector for {_listed(info.classes)}"),
        "style": FIGURES.read_text("utf8") + live.STYLE,
        "live": live.live_script(),
        "weights": weights_script(record, "detector"),
        "page": f"globalThis.d2lminiPage = {json.dumps(_beginning(model, samples))};\n",
        "start": live.page_script(),
    }
    scripts = {name: text.replace("</", "<\\/") for name, text in parts.items() if name != "title"}
    text = string.Template(live.PAGE).substitute(parts | scripts)
    write_bytes(path, text.encode())


def _listed(classes: Sequence[str]) -> str:
    *others, last = classes
    return f"{', '.join(others)} and {last}" if others else last


def about(model: TinySSD) -> str:
    """How large a network is, for its readers; the megabytes are what has to be loaded."""
    weights = len(flat_weights(inference_model(model)))
    return f"{len(model.anchors):,} anchors, {weights / 1e6:.1f} million weights, {2 * weights / 1e6:.1f} MB"


def _beginning(model: TinySSD, samples: Sequence[Sample]) -> dict[str, Any]:
    """What a page shows before the first click, as JSON."""
    told = [
        {**describe_sample(s, i), "mime": "image/png", "base64": base64.b64encode(png(s.image)).decode()}
        for i, s in enumerate(samples)
    ]
    return {"about": about(model), "samples": told}


def describe_sample(sample: Sample, index: int) -> dict[str, Any]:
    """A sample's title and true boxes, as JSON for a live page."""
    pairs = zip(sample.boxes.tolist(), sample.labels.tolist(), strict=True)
    truth = [{"box": [round(v, 5) for v in box], "label": label} for box, label in pairs]
    objects = f"{len(truth)} object{'' if len(truth) == 1 else 's'}"
    return {"title": f"picture {index + 1}, {objects}", "truth": truth}


def png(image: Tensor) -> bytes:
    """A picture (3, H, W), uint8, without any loss, so that a browser finds in it what Python finds."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


# ---------------------------------------------------------------- ONNX


class Deployed(nn.Module):
    """An inference model with normalisation before and decoding behind it: pixels in, scores and boxes out.

    `images` (1, 3, H, W) are floats in [0, 1]; what comes out is probabilities (1, A, K + 1), background
    first, and corner boxes (1, A, 4), not clipped. Thresholds and NMS stay with whoever deploys it.
    """

    def __init__(self, model: TinySSD) -> None:
        super().__init__()
        self.model = inference_model(model)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, offsets = self.model(images)
        return logits.softmax(-1), boxes.decode(self.model.anchors, offsets)


def save_onnx(path: str | Path, model: TinySSD, info: ModelInfo) -> None:
    """Write a detector as ONNX (opset 18), `Deployed` being its graph.

    Its metadata are `classes`, `fit` (how a picture is brought to the network's size) and `notes`, each as
    JSON. Needs the packages onnx and onnxscript (the extra `onnx`). Raises ExportError without them.
    """
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ExportError(f"ONNX needs {' and '.join(missing)}: pip install 'd2lmini[onnx]'")
    deployed = Deployed(model).eval()
    example = torch.zeros(1, 3, *model.image_size)
    program = torch.onnx.export(
        deployed,
        (example,),
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=["images"],
        output_names=["scores", "boxes"],
    )
    proto = _without_traces(program.model_proto)
    for key, value in {"classes": list(info.classes), "fit": info.fit, "notes": _notes(info)}.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value, ensure_ascii=False)
    write_bytes(path, proto.SerializeToString())


def _without_traces(proto: Any) -> Any:
    """Without the exporter's notes, which hold paths of the machine that it ran on."""
    graph = proto.graph
    tensors = (*graph.value_info, *graph.input, *graph.output, *graph.initializer)
    for part in (proto, graph, *graph.node, *tensors):
        del part.metadata_props[:]
        part.doc_string = ""
    return proto
