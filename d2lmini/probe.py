"""Looking into a network: what a loss asks of it, what it costs, and what it finds at other picture sizes.

Nothing here trains. `flat_gradients` asks which of several losses a network would obey, `multiply_adds`
counts the work of its layers, `by_input_size` shows a trained detector the same scenes smaller and larger.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from d2lmini.anchors import AnchorSpec, make_anchors
from d2lmini.boxes import box_area, box_iou
from d2lmini.data import Batch, Synthetic, load
from d2lmini.detect import detect
from d2lmini.losses import LossConfig, ssd_loss
from d2lmini.matching import match
from d2lmini.model import Predictions, TinySSD

SIZES = (128, 192, 256, 320, 384, 512)
KINDS = ("grow with the picture", "keep their pixels")


def flat_gradients(values: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The gradient of each scalar by all parameters of `module`, laid end to end (P,): a backward pass each.

    The graph stays, so that more can be asked of the same forward pass. A parameter that a value does not
    depend on has gradient 0.
    """
    parameters = list(module.parameters())
    found = {}
    for name, value in values.items():
        parts = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        filled = (torch.zeros_like(p) if g is None else g for g, p in zip(parts, parameters, strict=True))
        found[name] = torch.cat([g.flatten() for g in filled])
    return found


def trunk_gradients(model: TinySSD, batch: Batch, configs: Mapping[str, LossConfig]) -> dict[str, Tensor]:
    """What losses ask of the trunk that they share: gradients (P,) of the class loss of each of `configs`,
    by its name, and of the first one's box loss, "box".

    One forward pass as in training (batch statistics), a backward pass for each; the model stays as it is.
    """
    model = copy.deepcopy(model).train().to(memory_format=torch.channels_last)
    targets = match(model.anchors, batch.boxes, batch.labels)
    predictions = model(batch.images.contiguous(memory_format=torch.channels_last))
    found = {name: ssd_loss(*predictions, targets, config) for name, config in configs.items()}
    values = {name: loss.cls for name, loss in found.items()}
    return flat_gradients(values | {"box": next(iter(found.values())).box}, model.backbone)


def trunk_stages(model: TinySSD) -> dict[str, int]:
    """The stages of TinySSD's trunk and how many parameters each has, in the order of `trunk_gradients`."""
    parts = {"base network": model.backbone.base}
    parts |= {f"block {i}": block for i, block in enumerate(model.backbone.blocks, start=1)}
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def multiply_adds(model: TinySSD) -> dict[str, int]:
    """Multiplications, each with an addition, of all convolutions for one picture.

    By part: backbone, class heads, box heads. Counted, not estimated: every layer is
    asked for its output's shape. The rest, about a hundredth of the work, is left out.
    """
    counts = dict.fromkeys(("backbone", "class_heads", "box_heads"), 0)
    shadow = copy.deepcopy(model).to("meta").eval()  # shapes without numbers

    def counter(part: str) -> Callable[..., None]:
        def count(layer: nn.Module, _: Any, output: Tensor) -> None:
            if isinstance(layer, nn.Conv2d):
                counts[part] += output.numel() * layer.weight[0].numel()

        return count

    for part in counts:
        for layer in getattr(shadow, part).modules():
            layer.register_forward_hook(counter(part))
    shadow(torch.zeros(1, 3, *model.image_size, device="meta"))
    return counts


class AtSize(NamedTuple):
    """What a picture size of `size` pixels means; the two dicts have an entry for each of `KINDS`.

    `covered` (G,) is each object's best IoU with an anchor, `positives` (G,) how many anchors reach 0.5,
    `found` (G,) its best IoU with a detection of its class.
    """

    size: int
    anchors: int
    multiply_adds: int
    covered: dict[str, Tensor]
    positives: dict[str, Tensor]
    found: dict[str, Tensor]


class SizeStudy(NamedTuple):
    """`sides` (G,) are the objects' sides √(width · height) as fractions of the picture's; a row per size."""

    sides: Tensor
    rows: list[AtSize]


def by_input_size(
    model: TinySSD, sizes: Sequence[int] = SIZES, count: int = 24, score: float = 0.3
) -> SizeStudy:
    """Show a detector for scenes `count` held-out ones, drawn at each of `sizes`, and see what it finds.

    Scene and objects are the same at every size; their true boxes are read at the largest. Anchors either
    grow with the picture (`set_image_size`) or keep the size in pixels that they had in training. A box
    counts from `score` on. Raises ValueError without sizes.
    """
    if not sizes:
        raise ValueError("there are no sizes to look at: give at least one")
    trained_at, model = model.image_size[0], copy.deepcopy(model).eval()
    drawn = {size: load(Synthetic("scenes", count=count, size=size, split="val")) for size in sizes}
    truth = drawn[max(sizes)]
    real = truth.labels >= 0
    rows = []
    for size in sizes:
        shapes = [shape[1:] for shape in model.set_image_size(size)]
        kept = make_anchors(shapes, scaled(model.anchor_spec, trained_at / size))
        sets = dict(zip(KINDS, (model.anchors, kept), strict=True))
        ious = {kind: box_iou(truth.boxes[real], anchors) for kind, anchors in sets.items()}  # (G, A)
        predictions = answers(model, drawn[size].images)
        rows.append(
            AtSize(
                size,
                len(model.anchors),
                sum(multiply_adds(model).values()),
                {kind: iou.amax(1) for kind, iou in ious.items()},
                {kind: (iou >= 0.5).sum(1) for kind, iou in ious.items()},
                {kind: _found(predictions, anchors, truth, score) for kind, anchors in sets.items()},
            )
        )
    return SizeStudy(box_area(truth.boxes[real]).sqrt(), rows)


def scaled(spec: AnchorSpec, factor: float) -> AnchorSpec:
    """The same anchors, `factor` times as large.

    >>> scaled(AnchorSpec(sizes=((0.2, 0.3),), ratios=((1,),)), 0.5).sizes
    ((0.1, 0.15),)
    """
    return AnchorSpec(tuple(tuple(s * factor for s in row) for row in spec.sizes), spec.ratios)


@torch.no_grad()
def answers(model: TinySSD, images: Tensor, *, training: bool = False) -> Predictions:
    """What a network says of pictures (N, 3, H, W), eight at a time, in float32; the network stays as it is.

    `training`: batch normalisation uses the statistics of each eight, as in training; this is how a
    network that has not been trained yet has to be looked at, since it has gathered no statistics.
    """
    model = copy.deepcopy(model).train(training).to(memory_format=torch.channels_last)
    parts = [model(part.contiguous(memory_format=torch.channels_last)) for part in images.split(8)]
    return Predictions(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _found(predictions: Predictions, anchors: Tensor, truth: Batch, score: float) -> Tensor:
    """Each object's best IoU (G,) with a detection of its own class that has at least this score."""
    best = []
    for i, found in enumerate(detect(*predictions, anchors, score_threshold=score)):
        sample = truth.sample(i)
        same = sample.labels[:, None] == found.labels[None]  # (objects, detections)
        iou = torch.cat([box_iou(sample.boxes, found.boxes) * same, torch.zeros(len(same), 1)], dim=1)
        best.append(iou.amax(1))
    return torch.cat(best)
