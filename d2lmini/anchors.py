"""Anchors: the fixed boxes, tiled over feature maps, that a single-shot detector classifies and moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from d2lmini.boxes import xyxy_to_cxcywh


@dataclass(frozen=True)
class AnchorSpec:
    """Sizes and aspect ratios of the anchors of each scale, finest map first.

    `sizes[k]` are side lengths as fractions of the image, `ratios[k]` width : height. A cell of map k
    carries len(sizes[k]) + len(ratios[k]) - 1 anchors: every size with the first ratio, then the first
    size with every other ratio (D2L 14.4.1); if they are `paired`, each size with the ratio in its place.
    Raises ValueError naming scale and value when a list is empty, the two lists differ in length, or a
    value is not a finite number > 0.

    >>> spec = AnchorSpec(sizes=((0.2, 0.3), (0.6,)), ratios=((1, 2, 0.5), (1,)))
    >>> spec.num_anchors_per_location
    (4, 1)
    """

    sizes: tuple[tuple[float, ...], ...]
    ratios: tuple[tuple[float, ...], ...]
    paired: bool = False

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
        if self.paired and any(len(s) != len(r) for s, r in zip(self.sizes, self.ratios, strict=True)):
            raise ValueError("anchors are paired: give as many ratios as sizes for each feature map")

    @property
    def num_anchors_per_location(self) -> tuple[int, ...]:
        """Anchors per cell of each map."""
        return tuple(len(self.shapes(scale)) for scale in range(len(self.sizes)))

    def shapes(self, scale: int) -> list[tuple[float, float]]:
        """(width, height) of the anchors of one scale, as fractions of the image's sides."""
        sizes, ratios = self.sizes[scale], self.ratios[scale]
        pairs = [(s, ratios[0]) for s in sizes] + [(sizes[0], r) for r in ratios[1:]]
        pairs = list(zip(sizes, ratios, strict=True)) if self.paired else pairs
        return [(s * math.sqrt(r), s / math.sqrt(r)) for s, r in pairs]

    def scaled(self, factor: float) -> AnchorSpec:
        """The same anchors, `factor` times as large."""
        return replace(self, sizes=tuple(tuple(s * factor for s in row) for row in self.sizes))


# D2L 14.7: five scales from 0.2 to 0.88 of the image; the second size of each is the geometric mean of
# the scale and the next.
TINY_SSD_ANCHORS = AnchorSpec(
    sizes=((0.2, 0.272), (0.37, 0.447), (0.54, 0.619), (0.71, 0.79), (0.88, 0.961)),
    ratios=((1, 2, 0.5),) * 5,
)


# The SSD paper's formula (section 2.2) as MobileNet detectors use it: sizes from 0.2 to 0.95, an extra one
# between each and the next; of the finest map only three.
_SCALES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0)
SSD_ANCHORS = AnchorSpec(
    sizes=((0.1, 0.2, 0.2), *((s,) * 5 + (math.sqrt(s * t),) for s, t in pairwise(_SCALES[1:]))),
    ratios=((1, 2, 1 / 2), *((1, 2, 1 / 2, 3, 1 / 3, 1),) * 5),
    paired=True,
)


def map_anchors(
    height: int, width: int, sizes: Sequence[float], ratios: Sequence[float], paired: bool = False
) -> Tensor:
    """Anchors (height * width * k, 4) of one feature map, corners, float32.

    Row-major over cells, then in the order of `AnchorSpec`. An anchor of size s and ratio r is s√r of
    the image's width wide and s/√r of its height high, centred on its cell; those at the border reach
    beyond [0, 1] (D2L 14.4.1; Faster R-CNN, section 3.1.1). Raises ValueError for an empty map.

    >>> map_anchors(1, 2, sizes=[0.5], ratios=[1])
    tensor([[0.0000, 0.2500, 0.5000, 0.7500],
            [0.5000, 0.2500, 1.0000, 0.7500]])
    """
    if height < 1 or width < 1:
        raise ValueError(f"a feature map of {height} × {width} cells carries no anchors")
    shapes = torch.tensor(AnchorSpec((tuple(sizes),), (tuple(ratios),), paired).shapes(0))  # (k, 2)
    y = (torch.arange(height) + 0.5) / height
    x = (torch.arange(width) + 0.5) / width
    y, x = torch.meshgrid(y, x, indexing="ij")
    centers = torch.stack([x, y], dim=-1).reshape(-1, 1, 2)  # (h * w, 1, 2)
    corners = torch.cat([centers - shapes / 2, centers + shapes / 2], dim=-1)  # (h * w, k, 4)
    return corners.reshape(-1, 4)


def make_anchors(map_shapes: Sequence[tuple[int, int]], spec: AnchorSpec) -> Tensor:
    """Anchors (A, 4), corners, float32, of all feature maps of (height, width) cells, finest first.

    Raises ValueError when there are more or fewer maps than scales in `spec`.

    >>> make_anchors([(32, 32), (16, 16), (8, 8), (4, 4), (1, 1)], TINY_SSD_ANCHORS).shape
    torch.Size([5444, 4])
    """
    if len(map_shapes) != len(spec.sizes):
        raise ValueError(
            f"{len(map_shapes)} feature maps, but the anchor spec has {len(spec.sizes)} scales: "
            "give sizes and ratios for every map"
        )
    per_map = zip(map_shapes, spec.sizes, spec.ratios, strict=True)
    return torch.cat([map_anchors(*shape, sizes, ratios, spec.paired) for shape, sizes, ratios in per_map])


CELLS_PER_OBJECT = 3.5  # side of an object in cells of its map; from 2.7 on, its equal fits it anywhere
LARGEST_SIDE = 0.85  # the same for a map of one cell, as a fraction of the image
MIN_CLUSTERED = 8  # fewer objects on a map get one size, their median


def suggest_anchors(boxes: Tensor, map_shapes: Sequence[tuple[int, int]]) -> AnchorSpec:
    """Sizes and ratios for boxes (G, 4), corners, on maps of (height, width) cells, finest first.

    Each object goes to the map on which its side is nearest to `CELLS_PER_OBJECT` cells. K-means with
    1 − IoU as the distance then gives one or two sizes for each map, and, of all objects scaled to the same
    area, the ratios. Boxes that are empty or not finite do not count. Equal boxes give equal anchors.
    Raises ValueError without a usable box or map. Source: Redmon and Farhadi 2017 (YOLO9000), section 2.

    >>> small, large = torch.tensor([[0.1, 0.1, 0.2, 0.2]]), torch.tensor([[0.1, 0.1, 0.9, 0.9]])
    >>> suggest_anchors(torch.cat([small] * 9 + [large] * 9), [(32, 32), (1, 1)])
    AnchorSpec(sizes=((0.1,), (0.8,)), ratios=((1.0,), (1.0,)), paired=False)
    """
    if not len(map_shapes):
        raise ValueError("there are no feature maps: give the height and width of at least one")
    sides = xyxy_to_cxcywh(boxes.reshape(-1, 4).double())[:, 2:]
    sides = sides[(sides.isfinite() & (sides > 0)).all(1)]  # (G, 2)
    if not len(sides):
        raise ValueError("there is no object whose box is finite and not empty: nothing can be suggested")
    side = sides.prod(1).sqrt()
    best_side = [min(LARGEST_SIDE, CELLS_PER_OBJECT / min(shape)) for shape in map_shapes]
    steps = side.log()[:, None] - torch.tensor(best_side, dtype=torch.float64).log()  # (G, maps)
    map_index = steps.abs().argmin(1)  # (G,)
    sizes = [_map_sizes(side[map_index == k], default) for k, default in enumerate(best_side)]
    return AnchorSpec(tuple(sizes), (_common_ratios(sides[:, 0] / sides[:, 1]),) * len(sizes))


def _map_sizes(side: Tensor, default: float) -> tuple[float, ...]:
    """One or two sizes for the objects of one map (G,), the smaller first; `default` without objects."""
    if not len(side):
        return (_round(default),)
    if len(side) >= MIN_CLUSTERED:
        low, high = cluster_shapes(side[:, None].expand(-1, 2), 2)[[0, -1], 0].tolist()
        if high > 1.15 * low:  # otherwise one of the two fits whatever the other does
            return (_round(low), _round(high))
    return (_round(float(side.median())),)


def _common_ratios(ratio: Tensor) -> tuple[float, ...]:
    """As many of the ratios (G,), up to 5, as bring the mean IoU of shapes to 0.9, the commonest first."""
    shapes = torch.stack([ratio.sqrt(), ratio.rsqrt()], 1)  # (G, 2), area 1
    for count in range(1, 6):
        centers = cluster_shapes(shapes, count)
        iou = shape_iou(shapes, centers)  # (G, K)
        if iou.amax(1).mean() >= 0.9:
            break
    order = iou.argmax(1).bincount(minlength=len(centers)).argsort(descending=True, stable=True)
    return tuple(dict.fromkeys(_round(float(w / h)) for w, h in centers[order]))


def _round(value: float) -> float:
    return float(f"{value:.3g}")


def shape_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (P, Q) of widths and heights (P, 2) and (Q, 2), as if all boxes had one center."""
    inter = torch.minimum(a[:, None], b).prod(-1)
    return inter / (a.prod(-1)[:, None] + b.prod(-1) - inter)


def cluster_shapes(shapes: Tensor, count: int) -> Tensor:
    """K-means of widths and heights (P, 2) with 1 − IoU as the distance: centers (K, 2), smallest first.

    K is `count`, or fewer where there are not so many different shapes. It starts as k-means++ does, with a
    fixed seed; a center is the median of its shapes. Raises ValueError without shapes.
    """
    if not len(shapes) or count < 1:
        raise ValueError(f"{count} clusters of {len(shapes)} shapes: there must be at least one of each")
    generator = torch.Generator().manual_seed(0)
    centers = shapes[torch.randint(len(shapes), (1,), generator=generator)]
    while len(centers) < count:
        distance = (1 - shape_iou(shapes, centers).amax(1)).clamp(min=0).square()  # (P,)
        if distance.max() < 1e-9:  # every shape is a center already
            break
        drawn = torch.rand((), generator=generator, dtype=torch.float64) * distance.sum()
        row = int((distance.cumsum(0) < drawn).sum().clamp(max=len(shapes) - 1))
        centers = torch.cat([centers, shapes[row : row + 1]])
    member = torch.full((len(shapes),), -1)
    for _ in range(100):  # a limit: it ends where no member moves
        nearest = shape_iou(shapes, centers).argmax(1)
        if torch.equal(nearest, member):
            break
        member = nearest
        centers = torch.stack([shapes[member == k].median(0).values for k in member.unique()])
    return centers[centers.prod(1).argsort(stable=True)]
