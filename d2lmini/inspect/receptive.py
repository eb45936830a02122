"""Receptive fields of TinySSD with `TinyBackbone`: the pixels on which an output can, and does, depend."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
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

    That of the last map's only cell covers the fields of all cells it is the maximum of. Raises ValueError
    for another backbone than `TinyBackbone`.
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
    cells = max(model.image_size) // field.stride  # the last map is a maximum over all of them
    return [*(field.after(3) for field in fields), field.after(cells, cells)]


def effective_field(model: TinySSD, images: Tensor, scale: int) -> Tensor:
    """How strongly the outputs at a cell of one scale depend on the pixels around it: (n, n), sum 1.

    n is the size of the scale's receptive field. Per pixel: the root mean square of the gradient, over the
    cell's outputs (a sum with random signs stands for them), colors, images (N, 3, H, W) and several cells
    whose field fits into the image, or both diagonals where none does. Source: Luo et al. 2016, section 3.
    """
    field = receptive_fields(model)[scale]
    model = copy.deepcopy(model).double()  # in float32 rounding would decide near ties of a maximum
    pixels = normalize(images, torch.float64).requires_grad_()
    features = model.backbone(pixels)[scale]
    outputs = torch.cat([h[scale](features) for h in (model.class_heads, model.box_heads)], dim=1)
    generator = torch.Generator().manual_seed(0)
    sums = torch.zeros(2, field.size, field.size, dtype=torch.float64)  # of squares, and of pixels seen
    for group in _groups(field, outputs.shape[-1], images.shape[-1]):
        signs = torch.zeros_like(outputs)
        for i, j in group:
            signs[:, :, i, j] = torch.randint(0, 2, outputs.shape[:2], generator=generator).double() * 2 - 1
        (gradient,) = torch.autograd.grad(outputs, pixels, signs, retain_graph=True)
        energy = gradient.square().sum((0, 1))  # (H, W)
        padded = F.pad(torch.stack([energy, torch.ones_like(energy)]), [field.size] * 4)
        for i, j in group:
            top, left = (field.start(cell) + field.size for cell in (i, j))
            sums += padded[:, top : top + field.size, left : left + field.size]
    strength = (sums[0] / sums[1].clamp(min=1)).sqrt()
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


def side_that_holds(field: Tensor, share: float) -> int:
    """Side, in pixels, of the least centered square that holds a share of a field (n, n)."""
    n, least = field.shape[-1], share * field.sum()
    margins = (m for m in range((n - 1) // 2, 0, -1) if field[m : n - m, m : n - m].sum() >= least)
    return n - 2 * next(margins, 0)
