"""Anchors: the fixed boxes, tiled over feature maps, that a single-shot detector classifies and moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AnchorSpec:
    """Sizes and aspect ratios of the anchors of each scale, finest map first.

    `sizes[k]` are side lengths as fractions of the image, `ratios[k]` width : height. A cell of map k
    carries len(sizes[k]) + len(ratios[k]) - 1 anchors: every size with the first ratio, then the first
    size with every other ratio (D2L 14.4.1). Raises ValueError naming scale and value when a list is
    empty, the two lists differ in length, or a value is not a finite number > 0.

    >>> AnchorSpec(sizes=((0.2, 0.3), (0.6,)), ratios=((1, 2, 0.5), (1,))).per_pixel
    (4, 1)
    """

    sizes: tuple[tuple[float, ...], ...]
    ratios: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        for name in ("sizes", "ratios"):
            try:
                rows = tuple(tuple(float(v) for v in row) for row in getattr(self, name))
            except TypeError:
                raise ValueError(f"anchor {name} must be one list of numbers per feature map") from None
            object.__setattr__(self, name, rows)
            for scale, row in enumerate(rows):
                if not row or not all(math.isfinite(v) and v > 0 for v in row):
                    raise ValueError(
                        f"anchor {name} of scale {scale} are {row}: give at least one number, all > 0"
                    )
        if not self.sizes or len(self.sizes) != len(self.ratios):
            raise ValueError(
                f"{len(self.sizes)} scales have sizes, but {len(self.ratios)} have ratios: "
                "give one tuple of each per feature map"
            )

    @property
    def per_pixel(self) -> tuple[int, ...]:
        """Anchors per cell of each map, n + m - 1."""
        return tuple(len(s) + len(r) - 1 for s, r in zip(self.sizes, self.ratios, strict=True))

    def shapes(self, scale: int) -> list[tuple[float, float]]:
        """(width, height) of the anchors of one scale, as fractions of the image's sides."""
        sizes, ratios = self.sizes[scale], self.ratios[scale]
        pairs = [(s, ratios[0]) for s in sizes] + [(sizes[0], r) for r in ratios[1:]]
        return [(s * math.sqrt(r), s / math.sqrt(r)) for s, r in pairs]


# D2L 14.7: five scales from 0.2 to 0.88 of the image; the second size of each is the geometric mean of
# the scale and the next.
TINY_SSD_ANCHORS = AnchorSpec(
    sizes=((0.2, 0.272), (0.37, 0.447), (0.54, 0.619), (0.71, 0.79), (0.88, 0.961)),
    ratios=((1, 2, 0.5),) * 5,
)


def map_anchors(height: int, width: int, sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Anchors (height * width * (n + m - 1), 4) of one feature map, corners, float32.

    Row-major over cells, then in the order of `AnchorSpec`. An anchor of size s and ratio r is s√r of
    the image's width wide and s/√r of its height high, centred on its cell; those at the border reach
    beyond [0, 1] (D2L 14.4.1; Faster R-CNN, section 3.1.1). Raises ValueError for an empty map.

    >>> map_anchors(1, 2, sizes=[0.5], ratios=[1])
    tensor([[0.0000, 0.2500, 0.5000, 0.7500],
            [0.5000, 0.2500, 1.0000, 0.7500]])
    """
    if height < 1 or width < 1:
        raise ValueError(f"a feature map of {height} × {width} cells carries no anchors")
    shapes = torch.tensor(AnchorSpec((tuple(sizes),), (tuple(ratios),)).shapes(0))  # (k, 2)
    y = (torch.arange(height) + 0.5) / height
    x = (torch.arange(width) + 0.5) / width
    y, x = torch.meshgrid(y, x, indexing="ij")
    centres = torch.stack([x, y], dim=-1).reshape(-1, 1, 2)  # (h * w, 1, 2)
    corners = torch.cat([centres - shapes / 2, centres + shapes / 2], dim=-1)  # (h * w, k, 4)
    return corners.reshape(-1, 4)


def make_anchors(map_shapes: Sequence[tuple[int, int]], spec: AnchorSpec) -> Tensor:
    """Anchors (A, 4) of all feature maps, finest first, corners, float32.

    `map_shapes` are the (height, width) of the maps. Raises ValueError when their number differs from
    the number of scales in `spec`.

    >>> make_anchors([(32, 32), (16, 16), (8, 8), (4, 4), (1, 1)], TINY_SSD_ANCHORS).shape
    torch.Size([5444, 4])
    """
    if len(map_shapes) != len(spec.sizes):
        raise ValueError(
            f"{len(map_shapes)} feature maps, but the anchor spec has {len(spec.sizes)} scales: "
            "give sizes and ratios for every map"
        )
    return torch.cat(
        [
            map_anchors(h, w, sizes, ratios)
            for (h, w), sizes, ratios in zip(map_shapes, spec.sizes, spec.ratios, strict=True)
        ]
    )
