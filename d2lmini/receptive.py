"""Receptive fields: which pixels an answer of the network can depend on, and which it really listens to.

The first is arithmetic over the layers (`receptive_fields`), the second is a gradient, measured on
pictures (`effective_field`). Only TinySSD's own backbone is understood.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from d2lmini.model import TinyBackbone, TinySSD, normalise


class Field(NamedTuple):
    """The pixels that an answer can depend on: a square of `size`, and `stride` from cell to cell.

    The field of cell i starts at `(i + 0.5) * stride - size / 2`: its middle is the middle of the cell.
    """

    size: int
    stride: int

    def grown(self, kernel: int, step: int = 1) -> Field:
        """After one more layer that looks at `kernel` neighbours and keeps every `step`-th result.

        >>> Field(1, 1).grown(3).grown(3).grown(2, 2)
        Field(size=6, stride=2)
        """
        return Field(self.size + (kernel - 1) * self.stride, self.stride * step)

    def start(self, cell: int) -> int:
        """The first pixel of the field of a cell; it may lie before the picture."""
        return (2 * cell + 1) * self.stride // 2 - self.size // 2


def receptive_fields(model: TinySSD) -> list[Field]:
    """What an answer of each head can depend on, finest map first (its own 3 × 3 included).

    The last map has one cell, which sees everything: its field is the least square that covers the fields
    of all cells it is the maximum of. Raises ValueError for another backbone than `TinyBackbone`.
    """
    if not isinstance(model.backbone, TinyBackbone):
        raise ValueError(f"the backbone is {type(model.backbone).__name__}: only TinyBackbone is understood")
    field, fields = Field(1, 1), []
    for stage in (model.backbone.base, *model.backbone.blocks):
        for layer in stage.modules():
            if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
                kernel, step = layer.kernel_size, layer.stride
                field = field.grown(*(v[0] if isinstance(v, tuple) else v for v in (kernel, step)))
        fields.append(field)
    cells = max(model.image_size) // field.stride
    last = field.grown(cells, cells)  # a maximum over the whole map
    return [*(field.grown(3) for field in fields), last]


def effective_field(model: TinySSD, images: Tensor, scale: int, seed: int = 0) -> Tensor:
    """How strongly pixels around a cell move the answers of one scale: (n, n), summing to 1.

    n is the size of the scale's field, the cell's middle is the middle. Per pixel: the root mean square
    gradient over the cell's answers (random signs stand for their sum of squares), over colours, the
    pictures (N, 3, H, W) and some cells whose field fits into the picture; over those of both diagonals
    where none does.
    After Luo et al. 2016, section 3.
    """
    field = receptive_fields(model)[scale]
    model = copy.deepcopy(model).double()  # in float32 a near tie in a maximum falls to chance, and processor
    pixels = normalise(images, torch.float64).requires_grad_()
    features = model.backbone(pixels)[scale]
    answers = torch.cat([h[scale](features) for h in (model.class_heads, model.box_heads)], dim=1)
    generator = torch.Generator().manual_seed(seed)
    total, seen = torch.zeros(2, field.size, field.size, dtype=torch.float64)
    for group in _groups(field, answers.shape[-1], images.shape[-1]):
        signs = torch.zeros_like(answers)
        for i, j in group:
            shape = answers.shape[:2]
            signs[:, :, i, j] = torch.randint(0, 2, shape, generator=generator).to(signs) * 2 - 1
        (gradient,) = torch.autograd.grad(answers, pixels, signs, retain_graph=True)
        energy = gradient.square().sum((0, 1))  # (H, W)
        for i, j in group:
            inside, there = _overlap(field, i, j, energy.shape)
            total[inside] += energy[there]
            seen[inside] += 1
    strength = (total / seen.clamp(min=1)).sqrt()
    return (strength / strength.sum()).float()


def _groups(field: Field, cells: int, side: int) -> list[list[tuple[int, int]]]:
    """Cells (row, column) to ask together: those whose fields lie inside the picture and apart."""
    fit = [i for i in range(cells) if field.start(i) >= 0 and field.start(i) + field.size <= side]
    if not fit:
        pairs = {(i, j) for i in range(cells) for j in (i, cells - 1 - i)}  # both diagonals, one at a time
        return [[pair] for pair in sorted(pairs)]
    apart = math.ceil(field.size / field.stride)
    starts = {0, (len(fit) - 1) % apart}  # twice as many each way, so that no single cell speaks for all
    return [
        [(i, j) for i in fit[k::apart] for j in fit[m::apart]] for k in sorted(starts) for m in sorted(starts)
    ]


def _overlap(field: Field, row: int, column: int, shape: tuple[int, ...]) -> tuple[tuple, tuple]:
    """Where a cell's field lies in the picture, as slices of the field and of the picture."""
    inside, there = [], []
    for cell, side in zip((row, column), shape, strict=True):
        start = field.start(cell)
        low, high = max(0, start), min(side, start + field.size)
        inside.append(slice(low - start, high - start))
        there.append(slice(low, high))
    return tuple(inside), tuple(there)


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
