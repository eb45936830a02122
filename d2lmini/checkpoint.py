"""Checkpoints: safetensors with a metadata header, written atomically, checked on reading; never pickle.

One file holds named tensors and one JSON record. Its SHA-256 covers both, so that a damaged file is refused.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from d2lmini.anchors import AnchorSpec
from d2lmini.data.output import write_bytes
from d2lmini.mobilenet import SSDMobileNetV2, TopDownMobileNetV2
from d2lmini.model import NORMS, TinyBackbone, TinySSD, fuse_conv_bn

WEIGHTS = Path(__file__).parent / "weights"  # what the package ships
BACKBONES = {"ssd_mobilenet_v2": SSDMobileNetV2, "top_down_mobilenet_v2": TopDownMobileNetV2}
FORMAT = 1  # raised when a reader of today could no longer read the file


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or made for something else; the message says what to do."""


@dataclass(frozen=True)
class ModelInfo:
    """What a saved detector needs to be used: names of its classes, free notes (recipe, AP, …), how images
    get into its square ("stretch" or "letterbox", see `data.annotated`), and how the folder that it was
    trained on was divided (see `data.folders`; None where it was no folder)."""

    classes: tuple[str, ...]
    notes: dict[str, Any] = field(default_factory=dict)
    resize_mode: str = "stretch"
    split: dict[str, Any] | None = None


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write tensors and a JSON-able record to one file, atomically."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    text = json.dumps(record, sort_keys=True)
    metadata = {"d2lmini": str(FORMAT), "record": text, "sha256": _digest(tensors, text)}
    write_bytes(path, safetensors.torch.save(tensors, metadata=metadata))


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and record of a file that `save_tensors` wrote.

    Raises CheckpointError where the file is missing, cut, altered, of a newer format or not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}: train one first, or check the path")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is no whole safetensors file ({error}): use another copy") from error
    if "d2lmini" not in metadata:
        raise CheckpointError(f"{path} was not written by d2lmini: its header has no d2lmini record")
    if int(metadata["d2lmini"]) > FORMAT:
        raise CheckpointError(f"{path} comes from a newer d2lmini: update the package to read it")
    if metadata.get("sha256") != _digest(tensors, metadata["record"]):
        raise CheckpointError(f"{path} was changed after it was written (SHA-256 differs): use another copy")
    return tensors, json.loads(metadata["record"])


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 over the record and every tensor's name, type, shape and bytes."""
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        t = tensors[name]
        sha.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        sha.update(t.reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b"")
    return sha.hexdigest()


def describe_model(model: TinySSD, info: ModelInfo) -> dict[str, Any]:
    """The JSON record from which `build_model` makes the same, untrained, network again."""
    return {
        "classes": list(info.classes),
        "image_size": list(model.image_size),
        "sizes": model.anchor_spec.sizes,
        "ratios": model.anchor_spec.ratios,
        "paired": model.anchor_spec.paired,
        "head_kernel": model.head_kernel,
        "score_function": model.score_function,
        "backbone": getattr(model.backbone, "options", None),  # ours and timm's have them
        "notes": info.notes,
        "resize_mode": info.resize_mode,
        "split": info.split,
        "folded": not any(isinstance(module, NORMS) for module in model.backbone.modules()),
    }


def build_model(record: Mapping[str, Any], backbone: nn.Module | None = None) -> tuple[TinySSD, ModelInfo]:
    """An untrained network from its record; a backbone of the user's own must be handed in."""
    options = record["backbone"]
    if backbone is None and options is None:
        raise CheckpointError("this checkpoint was trained with a backbone of your own: pass backbone=…")
    if backbone is None and "timm" in options:
        # Imported here, by name: the optional package timm is needed only for a file that asks for it.
        timm = importlib.import_module("d2lmini.interop.timm")
        backbone = timm.timm_backbone(options["timm"], **{k: v for k, v in options.items() if k != "timm"})
    elif backbone is None:
        kind = BACKBONES.get(options.get("name"), TinyBackbone)
        backbone = kind(**{k: v for k, v in options.items() if k != "name"})
    spec = AnchorSpec(record["sizes"], record["ratios"], record.get("paired", False))
    heads = {name: record[name] for name in ("head_kernel", "score_function") if name in record}
    model = TinySSD(len(record["classes"]), tuple(record["image_size"]), spec, backbone, **heads)
    if record.get("folded"):  # written by `export`, for inference
        model = fuse_conv_bn(model)
    mode = record.get("resize_mode", record.get("fit", "stretch"))
    return model, ModelInfo(tuple(record["classes"]), dict(record["notes"]), mode, record.get("split"))


def save_model(path: str | Path, model: TinySSD, info: ModelInfo) -> None:
    """Write a detector that `load_model` can use without being told anything else."""
    save_tensors(path, model_tensors(model), {"model": describe_model(model, info)})


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model under names that start with "model."."""
    return {f"model.{name}": t for name, t in model.state_dict().items()}


def load_model(
    path: str | Path, device: torch.device | str = "cpu", backbone: nn.Module | None = None
) -> tuple[TinySSD, ModelInfo]:
    """The detector of a checkpoint, ready for use (evaluation mode), and its class names and notes.

    Reads files of `save_model` and the checkpoints of a training run alike. Raises CheckpointError.
    """
    tensors, record = load_tensors(path)
    if "model" not in record:
        raise CheckpointError(f"{path} holds no model")
    model, info = build_model(record["model"], backbone)
    load_weights(model, tensors, path)
    return model.eval().to(device), info


def pretrained(name: str = "scenes", device: torch.device | str = "cpu") -> tuple[TinySSD, ModelInfo]:
    """A detector that comes with the package, ready for use; nothing is downloaded.

    "scenes" is a TinySSD that knows the six classes of the generated scenes; "everyday" is an SSD-MobileNetV2
    that knows 23 kinds of things, trained by others on photographs. Raises CheckpointError naming those
    that exist.
    """
    path = WEIGHTS / f"{name}.safetensors"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in WEIGHTS.glob("*.safetensors"))) or "none"
        raise CheckpointError(f"no detector {name!r} comes with the package: choose from {there}")
    return load_model(path, device)


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Put the "model." tensors of a checkpoint into a model; raises CheckpointError if they differ."""
    weights = {k.removeprefix("model."): t for k, t in tensors.items() if k.startswith("model.")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit this model: {error}") from error
