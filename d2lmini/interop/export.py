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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from d2lmini import boxes, live
from d2lmini.checkpoint import ModelInfo, describe_model, save_tensors
from d2lmini.data import Sample
from d2lmini.data.output import write_bytes
from d2lmini.detect import foreground_scores
from d2lmini.interop.plan import (
    BITS,
    ExportError,
    bytes_of_maps,
    coarse,
    flat_weights,
    layer_plan,
    whole_numbers,
)
from d2lmini.model import PIXEL_MEAN, PIXEL_STD, TinySSD, fuse_conv_bn

MEGABYTES = 256  # what the maps of one image may take in a browser; a phone has that much
OPSET = 18
FIGURES = Path(__file__).parents[1] / "widgets" / "figures.css"  # colors and type of all live figures


@torch.no_grad()
def inference_model(model: TinySSD, bits: int = 16) -> TinySSD:
    """The network that is exported: a fused copy with weights that float16 can represent, in float32.

    With `bits` 9 the filters of `plan.coarse` convolutions are whole numbers of nine bits times a scale for
    each output, for a page that has to come fast. Applied to its result it changes nothing. Raises
    ExportError where a weight is not finite in float16.
    """
    rounded = fuse_conv_bn(model).float()
    for name, weight in rounded.named_parameters():
        weight.copy_(weight.half())
        if not weight.isfinite().all():
            raise ExportError(f"{name} holds values that float16 cannot: train again with a lower rate")
    if bits == BITS:
        for conv in (m for m in rounded.modules() if isinstance(m, nn.Conv2d) and coarse(m)):
            numbers, scales = whole_numbers(conv.weight)
            conv.weight.copy_((numbers * scales[:, None]).view_as(conv.weight))
    return rounded


def save_inference(path: str | Path, model: TinySSD, info: ModelInfo) -> None:
    """Write the network of `inference_model` as a checkpoint of half the size, for `load_model`."""
    model = inference_model(model)
    tensors = {f"model.{name}": t.half() for name, t in model.state_dict().items()}
    save_tensors(path, tensors, {"model": describe_model(model, info)})


def browser_model(model: TinySSD, info: ModelInfo, bits: int = 16) -> dict[str, Any]:
    """Everything that the browser has to know of a detector, as JSON, with its weights in base64.

    They are those of `inference_model` with so many `bits`. `sha256` covers all the rest. Raises ExportError
    for what the browser cannot run or keep in memory.
    """
    model = inference_model(model, bits)
    plan = layer_plan(model)
    needed = bytes_of_maps(plan, model.image_size) / 1e6
    if needed > MEGABYTES:
        need = f"{needed:.0f} MB of feature maps in a browser, more than {MEGABYTES}"
        remedy = "set_image_size to a smaller one, or export to ONNX"
        raise ExportError(f"images of {model.image_size} need {need}: {remedy}")
    weights = flat_weights(plan, bits)
    record = {
        "classes": list(info.classes),
        "size": list(model.image_size),
        "resize_mode": info.resize_mode,
        "sizes": model.anchor_spec.sizes,
        "ratios": model.anchor_spec.ratios,
        "paired": model.anchor_spec.paired,
        "scores": model.score_function,
        "pixels": {"mean": PIXEL_MEAN, "std": PIXEL_STD},
        "decoding": {**boxes.VARIANCES._asdict(), "most": boxes.MAX_LOG_GROWTH},
        "plan": plan.steps,
        "bits": bits,
        "notes": _notes(info),
    }
    text = json.dumps(record, sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(text.encode() + b"".join(weights.values())).hexdigest()
    return {**record, "sha256": digest, **{name: base64.b64encode(b).decode() for name, b in weights.items()}}


def _notes(info: ModelInfo) -> dict[str, Any]:
    """Notes as JSON can hold them: a score without objects is NaN, and becomes null."""
    unknown = (k for k, v in info.notes.items() if isinstance(v, float) and not math.isfinite(v))
    return {**info.notes, **dict.fromkeys(unknown)}


def script_name(model: dict[str, Any], name: str) -> str:
    """The file name of a weights script: it changes when anything in it does, so a browser may keep it."""
    return f"{re.sub(r'[^a-z0-9-]+', '-', name.lower()).strip('-') or 'model'}-{model['sha256'][:12]}.js"


def weights_script(model: dict[str, Any], name: str) -> str:
    """A classic script that puts a `browser_model` where the engine finds it; it also loads from a disk."""
    notes = model["notes"]
    known = [f"{key}: {notes[key]}" for key in ("recipe", "seed", "epochs", "ap", "ap50") if key in notes]
    classes = f"classes: {', '.join(model['classes'])}"
    lines = [
        "A detector of d2lmini, its weights and what to do with them.",
        classes,
        f"SHA-256 {model['sha256']}",
        *known,
    ]
    head = "\n".join(f"// {' '.join(line.split())}" for line in lines)
    key = json.dumps(script_name(model, name))
    return f"{head}\n(globalThis.d2lminiModels ??= {{}})[{key}] = {json.dumps(model, ensure_ascii=False)};\n"


def save_weights_script(
    folder: str | Path, model: TinySSD, info: ModelInfo, name: str, bits: int = 16
) -> Path:
    """Write a detector's weights script into a folder; returns its path."""
    record = browser_model(model, info, bits)
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
    # Whatever is named so: these three would end the script that holds it, or never let it end.
    parts = {name: re.sub(r"<(?=/|!--|script)", r"<\\", text, flags=re.I) for name, text in scripts.items()}
    *others, last = info.classes
    title = html.escape(f"A detector for {' and '.join(filter(None, (', '.join(others), last)))}")
    write_bytes(path, string.Template(live.PAGE).substitute(parts, title=title).encode())


def about(model: TinySSD, bits: int = 16) -> str:
    """The size of a network in words; the megabytes are those to download."""
    weights = sum(p.numel() for p in model.parameters())
    megabytes = f"{weights * bits / 8e6:.1f} MB"
    return f"{len(model.anchors):,} anchors, {weights / 1e6:.1f} million weights, {megabytes}"


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
