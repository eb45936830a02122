"""The gradients of several losses by the parameters that they share, side by side."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from d2lmini.data.samples import Batch
from d2lmini.losses import LossConfig, ssd_loss
from d2lmini.matching import match
from d2lmini.model import TinySSD


def flat_gradients(values: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The gradient of each scalar by all parameters of `module`, concatenated (P,): a backward pass each.

    The graph is kept, so that one forward pass can be used again. A parameter that a value does not depend
    on has gradient 0.
    """
    parameters = list(module.parameters())
    found = {}
    for name, value in values.items():
        parts = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        filled = (torch.zeros_like(p) if g is None else g for g, p in zip(parts, parameters, strict=True))
        found[name] = torch.cat([g.flatten() for g in filled])
    return found


def backbone_gradients(model: TinySSD, batch: Batch, configs: Mapping[str, LossConfig]) -> dict[str, Tensor]:
    """Gradients (P,) by the backbone: of the class loss of each config, and the first's box loss as "box".

    One forward pass as in training (batch statistics), a backward pass for each; the model is not changed.
    """
    model = copy.deepcopy(model).train().to(memory_format=torch.channels_last)
    targets = match(model.anchors, batch.boxes, batch.labels)
    predictions = model(batch.images.contiguous(memory_format=torch.channels_last))
    losses = {name: ssd_loss(*predictions, targets, config) for name, config in configs.items()}
    values = {name: loss.cls for name, loss in losses.items()}
    return flat_gradients(values | {"box": next(iter(losses.values())).box}, model.backbone)


def backbone_stages(model: TinySSD) -> dict[str, int]:
    """The number of parameters of each stage of TinySSD's backbone, in the order of `backbone_gradients`."""
    parts = {"base network": model.backbone.base}
    parts |= {f"block {i}": block for i, block in enumerate(model.backbone.blocks, start=1)}
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
