"""A trained detector for use elsewhere: as an inference checkpoint, in a web page, as ONNX.

All of them hold the same network: batch normalization fused into the convolutions, and every weight
rounded to float16. `inference_model` makes it, Python's `detect` command and the live page compute with
it, so they agree box for box; the network as trained differs from it in the fourth digit of a score.

The web page has no framework: `live/` has a forward pass that reads its layer plan from beside the
weights, so that classes, input size, anchors and channels can differ without a change of JavaScript.
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
from d2lmini.model import PIXEL_MEAN, PIXEL_STD, TinyBackbone, TinySSD, fuse_conv_bn

MEGABYTES = 256  # what the maps of one image may take in a browser; a phone has that much
OPSET = 18
FIGURES = Path(__file__).parents[1] / "widgets" / "figures.css"  # colours and type of all live figures


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


# ---------------------------------------------------------------- the layer plan


def layer_plan(model: TinySSD) -> list[dict[str, Any]]:
    """What the browser has to do, in order, as JSON: convolve, pool, read the heads of a map.

    `conv` has `inputs`, `outputs` and is followed by ReLU; `pool` halves, `global` takes the largest value
    of each channel; `heads` reads classes and boxes of `anchors` anchors a cell off the newest map.
    Raises ExportError naming the layer that the browser's forward pass does not know.
    """
    if not isinstance(model.backbone, TinyBackbone):
        raise ExportError(
            f"the backbone is a {type(model.backbone).__name__}: the browser runs TinyBackbone only, in any "
            "width and depth; export to ONNX instead"
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
    blocks = (*model.backbone.base, *model.backbone.blocks)
    maps = len(model.class_heads) - 1  # the last blocks give one each, and then comes the map of one cell
    for i, block in enumerate(blocks):
        for layer in (m for m in block.modules() if not list(m.children())):
            if isinstance(layer, nn.Conv2d):  # ReLU goes with it, since it and max pooling commute
                yield {"op": "conv", **_channels(layer)}, (layer,)
            elif isinstance(layer, nn.MaxPool2d) and (layer.kernel_size, layer.stride) == (2, 2):
                yield {"op": "pool"}, ()
            elif not isinstance(layer, (nn.ReLU, nn.Identity)):
                raise ExportError(f"the browser cannot run the layer {layer}: export to ONNX instead")
        if i >= len(blocks) - maps:
            yield _heads(*next(heads))
    yield {"op": "global"}, ()
    yield _heads(*next(heads))


def _heads(class_head: nn.Module, box_head: nn.Module, anchors: int) -> tuple[dict[str, Any], tuple]:
    inputs, _ = (_channels(head)["inputs"] for head in (class_head, box_head))
    return {"op": "heads", "inputs": inputs, "anchors": anchors}, (class_head, box_head)


def _channels(layer: nn.Module) -> dict[str, int]:
    """Channels of a convolution that is the kind the browser knows: 3 × 3, padded by 1, nothing else."""
    if not isinstance(layer, nn.Conv2d):
        raise ExportError(f"the browser needs a convolution where this is {layer}: export to ONNX instead")
    shape = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
    if shape != ((3, 3), (1, 1), (1, 1), (1, 1), 1) or layer.padding_mode != "zeros":
        raise ExportError(f"the browser cannot run {layer}: it convolves 3 × 3 with padding 1 only")
    return {"inputs": layer.in_channels, "outputs": layer.out_channels}


# ---------------------------------------------------------------- the weights script


def browser_model(model: TinySSD, info: ModelInfo) -> dict[str, Any]:
    """Everything that the browser has to know of a detector, as JSON, with its weights in base64.

    `sha256` covers all the rest, so that one name stands for one detector. Raises ExportError for what
    the browser cannot run, and for what would not fit into a phone's memory.
    """
    plan = layer_plan(model)
    model = inference_model(model)
    needed = _bytes_of_maps(plan, model.image_size) / 1e6
    if needed > MEGABYTES:
        raise ExportError(
            f"images of {model.image_size} need {needed:.0f} MB of feature maps in a browser, more than "
            f"{MEGABYTES}: set_image_size to a smaller one, or export to ONNX"
        )
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
    """A classic script that puts a `browser_model` where the engine finds it; it also loads from a disk.

    A page opened from a file may not fetch other files, but it may name them in a script tag.
    """
    notes = model["notes"]
    lines = ["A detector of d2lmini, weights in float16.", f"classes: {', '.join(model['classes'])}"]
    lines.append(f"SHA-256 {model['sha256']}")
    lines += [f"{key}: {notes[key]}" for key in ("recipe", "seed", "epochs", "ap", "ap50") if key in notes]
    head = "\n".join(f"// {' '.join(line.split())}" for line in lines)
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

    `samples` are images to begin with; without any, whoever opens the page brings their own.
    """
    record = browser_model(model, info)
    *others, last = info.classes
    parts = {
        "title": html.escape(f"A detector for {' and '.join(filter(None, (', '.join(others), last)))}"),
        "style": FIGURES.read_text("utf8") + live.STYLE,
        "live": live.live_script(),
        "weights": weights_script(record, "detector"),
        "page": f"globalThis.d2lminiPage = {json.dumps(_first_view(model, samples))};\n",
        "start": live.page_script(),
    }
    scripts = {name: text.replace("</", "<\\/") for name, text in parts.items() if name != "title"}
    write_bytes(path, string.Template(live.PAGE).substitute(parts | scripts).encode())


def about(model: TinySSD) -> str:
    """The size of a network in words; the megabytes are those to download."""
    weights = len(flat_weights(inference_model(model)))
    return f"{len(model.anchors):,} anchors, {weights / 1e6:.1f} million weights, {2 * weights / 1e6:.1f} MB"


def _first_view(model: TinySSD, samples: Sequence[Sample]) -> dict[str, Any]:
    """What a page shows before the first click, as JSON."""
    shown = [
        {**describe_sample(s, i), "mime": "image/png", "base64": base64.b64encode(png(s.image)).decode()}
        for i, s in enumerate(samples)
    ]
    return {"about": about(model), "samples": shown}


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


# ---------------------------------------------------------------- ONNX


class Deployed(nn.Module):
    """An inference model with pixels normalized before it and boxes decoded behind it.

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
    """Write a detector as ONNX (opset 18); its graph is `Deployed`.

    Its metadata are `classes`, `resize_mode` (how an image is brought to the network's size) and `notes`,
    each as JSON. Needs the packages onnx and onnxscript (the extra `onnx`). Raises ExportError without them.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"ONNX needs {' and '.join(missing)}: pip install 'd2lmini[onnx]'")
    example = torch.zeros(1, 3, *model.image_size)
    names = {"input_names": ["images"], "output_names": ["scores", "boxes"]}
    options = {"dynamo": True, "verbose": False, "opset_version": OPSET, **names}
    program = torch.onnx.export(Deployed(model).eval(), (example,), **options)
    proto = _without_traces(program.model_proto)
    metadata = {"classes": list(info.classes), "resize_mode": info.resize_mode, "notes": _notes(info)}
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=json.dumps(value, ensure_ascii=False))
    write_bytes(path, proto.SerializeToString())


def _without_traces(proto: Any) -> Any:
    """Without the exporter's notes, which hold paths of the machine that it ran on."""
    graph = proto.graph
    tensors = (*graph.value_info, *graph.input, *graph.output, *graph.initializer)
    for part in (proto, graph, *graph.node, *tensors):
        del part.metadata_props[:]
        part.doc_string = ""
    return proto
