"""Receptive fields: the pixels on which an output can depend, and those on which it does depend.

The first is arithmetic over the layers (`receptive_fields`), the second a gradient, measured on images
(`effective_field`). Both are for TinySSD with `TinyBackbone`.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from d2lmini.model import TinyBackbone, TinySSD, normalize


class ReceptiveField(NamedTuple):
    """A square of `size` pixels on which an output can depend, and the `stride` in pixels between cells.

    The field of cell i starts at `(i + 0.5) * stride - size / 2`: its middle is the middle of the cell.
    """

    size: int
    stride: int

    def after(self, kernel: int, stride: int = 1) -> ReceptiveField:
        """The field after one more layer, with this kernel size and stride.

        >>> ReceptiveField(1, 1).after(3).after(3).after(2, 2)
        ReceptiveField(size=6, stride=2)
        """
        return ReceptiveField(self.size + (kernel - 1) * self.stride, self.stride * stride)

    def start(self, cell: int) -> int:
        """The first pixel of the field of a cell; negative where it begins outside the image."""
        return (2 * cell + 1) * self.stride // 2 - self.size // 2


def receptive_fields(model: TinySSD) -> list[ReceptiveField]:
    """The receptive field of each head's outputs, finest map first, with the head's own 3 × 3.

    The last map has one cell, which sees everything: its field is the least square that covers the fields
    of all cells it is the maximum of. Raises ValueError for another backbone than `TinyBackbone`.
    """
    if not isinstance(model.backbone, TinyBackbone):
        raise ValueError(f"the backbone is {type(model.backbone).__name__}: only TinyBackbone is understood")
    field, fields = ReceptiveField(1, 1), []
    for stage in (model.backbone.base, *model.backbone.blocks):
        for layer in stage.modules():
            if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
                sizes = layer.kernel_size, layer.stride  # each a number, or the same number twice
                field = field.after(*(v[0] if isinstance(v, tuple) else v for v in sizes))
        fields.append(field)
    cells = max(model.image_size) // field.stride
    last = field.after(cells, cells)  # a maximum over the whole map
    return [*(field.after(3) for field in fields), last]


def effective_field(model: TinySSD, images: Tensor, scale: int) -> Tensor:
    """How strongly the outputs at a cell of one scale depend on the pixels around it: (n, n), sum 1.

    n is the size of the scale's receptive field, whose middle is the middle of the cell. Per pixel: the
    root mean square of the gradient, over the cell's outputs (a sum with random signs stands for them), the
    colours, the images (N, 3, H, W) and several cells. These are cells whose field fits into the image, or
    those of both diagonals where none does. Source: Luo et al. 2016, section 3.
    """
    field = receptive_fields(model)[scale]
    model = copy.deepcopy(model).double()  # in float32 rounding would decide near ties of a maximum
    pixels = normalize(images, torch.float64).requires_grad_()
    features = model.backbone(pixels)[scale]
    outputs = torch.cat([h[scale](features) for h in (model.class_heads, model.box_heads)], dim=1)
    generator = torch.Generator().manual_seed(0)
    total, seen = torch.zeros(2, field.size, field.size, dtype=torch.float64)
    for group in _groups(field, outputs.shape[-1], images.shape[-1]):
        signs = torch.zeros_like(outputs)
        for i, j in group:
            signs[:, :, i, j] = torch.randint(0, 2, outputs.shape[:2], generator=generator).double() * 2 - 1
        (gradient,) = torch.autograd.grad(outputs, pixels, signs, retain_graph=True)
        energy = gradient.square().sum((0, 1))  # (H, W)
        for i, j in group:
            in_field, in_image = _overlap(field, i, j, energy.shape)
            total[in_field] += energy[in_image]
            seen[in_field] += 1
    strength = (total / seen.clamp(min=1)).sqrt()
    return (strength / strength.sum()).float()


def _groups(field: ReceptiveField, cells: int, side: int) -> list[list[tuple[int, int]]]:
    """Groups of cells (row, column) whose fields do not overlap, so that one backward pass does for them."""
    fit = [i for i in range(cells) if field.start(i) >= 0 and field.start(i) + field.size <= side]
    if not fit:
        pairs = {(i, j) for i in range(cells) for j in (i, cells - 1 - i)}  # both diagonals, one at a time
        return [[pair] for pair in sorted(pairs)]
    apart = math.ceil(field.size / field.stride)
    starts = sorted({0, (len(fit) - 1) % apart})  # where few cells fit, the first and the last
    return [[(i, j) for i in fit[k::apart] for j in fit[m::apart]] for k in starts for m in starts]


def _overlap(field: ReceptiveField, row: int, column: int, shape: tuple[int, ...]) -> tuple[tuple, tuple]:
    """The part of a cell's field inside the image, as slices of the field and of the image."""
    in_field, in_image = [], []
    for cell, side in zip((row, column), shape, strict=True):
        start = field.start(cell)
        low, high = max(0, start), min(side, start + field.size)
        in_field.append(slice(low - start, high - start))
        in_image.append(slice(low, high))
    return tuple(in_field), tuple(in_image)


def side_that_holds(field: Tensor, share: float) -> int:
    """Side, in pixels, of the least centred square that holds a share of a field (n, n).

    >>> side_that_holds(torch.ones(8, 8), 0.25)
    4
    """
    n = field.shape[-1]
    for margin in range((n - 1) // 2, -1, -1):
        if field[margin : n - margin, margin : n - margin].sum() >= share * field.sum():
            return n - 2 * margin
    return n
