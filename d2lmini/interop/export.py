"""A trained detector for use elsewhere: as an inference checkpoint, in a web page, as ONNX.

All hold one network (`inference_model`): batch normalization fused, weights rounded to float16. Python's
`detect` command and the live page compute with it too, so they agree box for box. `live/` has a forward pass
that reads its layer plan from beside the weights: classes, sizes, anchors and channels need no JavaScript.
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
from d2lmini.detect import foreground_scores
from d2lmini.model import PIXEL_MEAN, PIXEL_STD, TinyBackbone, TinySSD, fuse_conv_bn

MEGABYTES = 256  # what the maps of one image may take in a browser; a phone has that much
OPSET = 18
FIGURES = Path(__file__).parents[1] / "widgets" / "figures.css"  # colors and type of all live figures


class ExportError(ValueError):
    """A detector that cannot be exported as it is; the message names the reason and the remedy."""


@torch.no_grad()
def inference_model(model: TinySSD) -> TinySSD:
    """The network that is exported: a fused copy with weights that float16 can represent, in float32.

    Applied to its result it changes nothing. Raises ExportError where a weight is not finite in float16.
    """
    rounded = fuse_conv_bn(model).float()
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


def layer_plan(model: TinySSD) -> list[dict[str, Any]]:
    """What the browser has to do, in order, as JSON; ExportError names a layer that it does not know.

    `conv` has `inputs`, `outputs` and is followed by ReLU; `pool` halves, `global` takes the largest value
    of each channel; `heads` reads classes and boxes of `anchors` anchors a cell off the newest map.
    """
    if not isinstance(model.backbone, TinyBackbone):
        need = "the browser runs TinyBackbone only, in any width and depth; export to ONNX instead"
        raise ExportError(f"the backbone is a {type(model.backbone).__name__}: {need}")
    if model.anchor_spec.paired or model.score_function != "softmax":
        raise ExportError(
            "the browser knows D2L's anchors and softmax scores, not paired sizes and ratios or "
            f"{model.score_function} scores: export to ONNX instead"
        )
    return [step for step, _ in _steps(fuse_conv_bn(model))]


def flat_weights(model: TinySSD) -> Tensor:
    """All weights of an inference model one behind the other, float16 (W,), in the order of the plan.

    Filters (outputs, inputs, 3, 3) come before their bias, the class head of a map before its box head.
    """
    convs = [conv for _, layers in _steps(model) for conv in layers]
    return torch.cat([t.detach().flatten() for c in convs for t in (c.weight, c.bias)]).half().cpu()


def _steps(model: TinySSD) -> Iterator[tuple[dict[str, Any], tuple[nn.Conv2d, ...]]]:
    """The steps of the plan of a fused model, each with the convolutions whose weights it takes."""
    heads = zip(model.class_heads, model.box_heads, model.anchor_spec.num_anchors_per_location, strict=True)
    to_one_cell = nn.AdaptiveMaxPool2d(1)  # makes the last map
    blocks = (*model.backbone.base, *model.backbone.blocks, to_one_cell)
    for i, block in enumerate(blocks):
        for layer in (m for m in block.modules() if not list(m.children())):
            if isinstance(layer, nn.Conv2d):  # ReLU goes with it, since it and max pooling commute
                yield {"op": "conv", **_channels(layer)}, (layer,)
            elif isinstance(layer, nn.MaxPool2d) and (layer.kernel_size, layer.stride) == (2, 2):
                yield {"op": "pool"}, ()
            elif layer is to_one_cell:
                yield {"op": "global"}, ()
            elif not isinstance(layer, (nn.ReLU, nn.Identity)):
                raise ExportError(f"the browser cannot run the layer {layer}: export to ONNX instead")
        if i >= len(blocks) - len(model.class_heads):  # the last blocks give a map each
            class_head, box_head, anchors = next(heads)
            inputs, _ = (_channels(head)["inputs"] for head in (class_head, box_head))
            yield {"op": "heads", "inputs": inputs, "anchors": anchors}, (class_head, box_head)


def _channels(layer: nn.Module) -> dict[str, int]:
    """Channels of a convolution that is the kind the browser knows: 3 × 3, padded by 1, nothing else."""
    if not isinstance(layer, nn.Conv2d):
        raise ExportError(f"the browser needs a convolution where this is {layer}: export to ONNX instead")
    shape = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
    if shape != ((3, 3), (1, 1), (1, 1), (1, 1), 1) or layer.padding_mode != "zeros":
        raise ExportError(f"the browser cannot run {layer}: it convolves 3 × 3 with padding 1 only")
    return {"inputs": layer.in_channels, "outputs": layer.out_channels}


def browser_model(model: TinySSD, info: ModelInfo) -> dict[str, Any]:
    """Everything that the browser has to know of a detector, as JSON, with its weights in base64.

    `sha256` covers all the rest. Raises ExportError for what the browser cannot run or keep in memory.
    """
    plan = layer_plan(model)
    model = inference_model(model)
    needed = _bytes_of_maps(plan, model.image_size) / 1e6
    if needed > MEGABYTES:
        need = f"{needed:.0f} MB of feature maps in a browser, more than {MEGABYTES}"
        remedy = "set_image_size to a smaller one, or export to ONNX"
        raise ExportError(f"images of {model.image_size} need {need}: {remedy}")
    weights = flat_weights(model).numpy().astype("<f2").tobytes()
    record = {
        "classes": list(info.classes),
        "size": list(model.image_size),
        "resize_mode": info.resize_mode,
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


def _bytes_of_maps(plan: list[dict[str, Any]], size: tuple[int, int]) -> int:
    """The memory that the image and all feature maps take in the browser: float32, with a rim for padding."""
    (height, width), channels, floats = size, 3, 0
    for step in ({"op": "image"}, *plan):
        if step["op"] == "conv":
            channels = step["outputs"]
        elif step["op"] == "pool":
            height, width = height // 2, width // 2
        elif step["op"] == "global":
            height = width = 1
        floats += channels * (height + 2) * (-(-width // 8) * 8 + 2)
    return 4 * floats


def script_name(model: dict[str, Any], name: str) -> str:
    """The file name of a weights script: it changes when anything in it does, so a browser may keep it."""
    return f"{re.sub(r'[^a-z0-9-]+', '-', name.lower()).strip('-') or 'model'}-{model['sha256'][:12]}.js"


def weights_script(model: dict[str, Any], name: str) -> str:
    """A classic script that puts a `browser_model` where the engine finds it; it also loads from a disk."""
    notes = model["notes"]
    known = [f"{key}: {notes[key]}" for key in ("recipe", "seed", "epochs", "ap", "ap50") if key in notes]
    classes = f"classes: {', '.join(model['classes'])}"
    lines = ["A detector of d2lmini, weights in float16.", classes, f"SHA-256 {model['sha256']}", *known]
    head = "\n".join(f"// {' '.join(line.split())}" for line in lines)
    key = json.dumps(script_name(model, name))
    return f"{head}\n(globalThis.d2lminiModels ??= {{}})[{key}] = {json.dumps(model, ensure_ascii=False)};\n"


def save_weights_script(folder: str | Path, model: TinySSD, info: ModelInfo, name: str) -> Path:
    """Write a detector's weights script into a folder; returns its path."""
    record = browser_model(model, info)
    path = Path(folder) / script_name(record, name)
    write_bytes(path, weights_script(record, name).encode())
    return path


def save_page(path: str | Path, model: TinySSD, info: ModelInfo, samples: Sequence[Sample] = ()) -> None:
    """Write one HTML file that holds a detector and everything needed to use it, offline, in any browser.

    `samples` are images to begin with; without any, whoever opens the page brings their own.
    """
    shown = [
        {**describe_sample(s, i), "mime": "image/png", "base64": base64.b64encode(png(s.image)).decode()}
        for i, s in enumerate(samples)
    ]
    scripts = {
        "style": FIGURES.read_text("utf8") + live.STYLE,
        "live": live.live_script(),
        "weights": weights_script(browser_model(model, info), "detector"),
        "page": f"globalThis.d2lminiPage = {json.dumps({'about': about(model), 'samples': shown})};\n",
        "start": live.page_script(),
    }
    parts = {name: text.replace("</", "<\\/") for name, text in scripts.items()}
    *others, last = info.classes
    title = html.escape(f"A detector for {' and '.join(filter(None, (', '.join(others), last)))}")
    write_bytes(path, string.Template(live.PAGE).substitute(parts, title=title).encode())


def about(model: TinySSD) -> str:
    """The size of a network in words; the megabytes are those to download."""
    weights = len(flat_weights(inference_model(model)))
    return f"{len(model.anchors):,} anchors, {weights / 1e6:.1f} million weights, {2 * weights / 1e6:.1f} MB"


def describe_sample(sample: Sample, index: int) -> dict[str, Any]:
    """A sample's title and ground truth, as JSON for a live page."""
    pairs = zip(sample.boxes.tolist(), sample.labels.tolist(), strict=True)
    truth = [{"box": [round(v, 5) for v in box], "label": label} for box, label in pairs]
    objects = f"{len(truth)} object{'' if len(truth) == 1 else 's'}"
    return {"title": f"image {index + 1}, {objects}", "truth": truth}


def png(image: Tensor) -> bytes:
    """An image (3, H, W), uint8, without loss, so that detections in a browser are those of Python."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


class Deployed(nn.Module):
    """An inference model with scores and decoding: images (1, 3, H, W), floats in [0, 1], go in.

    Out come probabilities (1, A, K + 1), background first, and corner boxes (1, A, 4), not clipped. Where
    each class has a sigmoid, background gets what the best class leaves. Thresholds and NMS stay with
    whoever deploys it.
    """

    def __init__(self, model: TinySSD) -> None:
        super().__init__()
        self.model = inference_model(model)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, offsets = self.model(images)
        if self.model.score_function == "softmax":
            scores = logits.softmax(-1)
        else:
            scores = foreground_scores(logits, self.model.score_function)
            scores = torch.cat([1 - scores.amax(-1, keepdim=True), scores], dim=-1)
        return scores, boxes.decode(self.model.anchors, offsets)


def save_onnx(path: str | Path, model: TinySSD, info: ModelInfo) -> None:
    """Write a detector as ONNX (opset 18); its graph is `Deployed`.

    Its metadata are `classes`, `resize_mode` (how an image is brought to the network's size) and `notes`,
    each as JSON. Needs the packages onnx and onnxscript (the extra `onnx`). Raises ExportError without them.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"ONNX needs {' and '.join(missing)}: pip install 'd2lmini[onnx]'")
    names = {"input_names": ["images"], "output_names": ["scores", "boxes"]}
    options = {"dynamo": True, "verbose": False, "opset_version": OPSET, **names}
    example = torch.zeros(1, 3, *model.image_size)
    proto = torch.onnx.export(Deployed(model).eval(), (example,), **options).model_proto
    graph = proto.graph
    tensors = (*graph.value_info, *graph.input, *graph.output, *graph.initializer)
    for part in (proto, graph, *graph.node, *tensors):  # the exporter's notes hold paths of this machine
        del part.metadata_props[:]
        part.doc_string = ""
    metadata = {"classes": list(info.classes), "resize_mode": info.resize_mode, "notes": _notes(info)}
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=json.dumps(value, ensure_ascii=False))
    write_bytes(path, proto.SerializeToString())
