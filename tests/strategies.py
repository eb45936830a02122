"""What hypothesis draws for tests of geometry: boxes with many ties, and boxes that are wrong."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

GRID = 8  # corners on eighths: areas and unions are exact in float32, so equal IoUs are really equal

BAD_BOXES = (
    (0.25, 0.25, 0.25, 0.75),  # no width
    (0.25, 0.25, 0.75, 0.25),  # no height
    (0.5, 0.5, 0.5, 0.5),  # a point
    (0.75, 0.25, 0.25, 0.75),  # reversed in x
    (0.75, 0.75, 0.25, 0.25),  # reversed in both: its sides' product is positive
    (math.nan, 0.0, 1.0, 1.0),
    (0.0, 0.0, 1.0, math.nan),
    (0.0, 0.0, math.inf, 1.0),
    (-math.inf, -math.inf, math.inf, math.inf),
)
FAR_BOXES = (
    (2.0, 2.0, 3.0, 3.0),
    (-1.0, -1.0, 0.0, 0.0),  # touches the image's corner
    (-1.0, 0.25, 0.5, 0.75),  # half inside
    (-4.0, -4.0, 4.0, 4.0),
)


class Case(NamedTuple):
    """Anchors (A, 4) and ground truth (N, G, 4), (N, G) for matching."""

    anchors: Tensor
    boxes: Tensor
    labels: Tensor


@st.composite
def grid_boxes(draw) -> tuple[float, float, float, float]:
    """A box with sides > 0 whose corners are multiples of 1 / GRID."""
    x, y = draw(st.integers(0, GRID - 1)), draw(st.integers(0, GRID - 1))
    w, h = draw(st.integers(1, GRID - x)), draw(st.integers(1, GRID - y))
    return (x / GRID, y / GRID, (x + w) / GRID, (y + h) / GRID)


any_boxes = st.one_of(grid_boxes(), grid_boxes(), st.sampled_from(BAD_BOXES + FAR_BOXES))


def box_tensors(boxes=any_boxes, min_size: int = 0, max_size: int = 8):
    """Tensors (M, 4) of such boxes."""
    rows = st.lists(boxes, min_size=min_size, max_size=max_size)
    return rows.map(lambda drawn: torch.tensor(drawn, dtype=torch.float32).reshape(-1, 4))


@st.composite
def grid_cases(draw) -> Case:
    """Few anchors and objects on a grid: duplicates, equal IoUs and illegal boxes abound."""
    n, g = draw(st.integers(0, 3)), draw(st.integers(0, 6))
    anchors = draw(box_tensors(grid_boxes(), 0, 10))
    boxes = draw(box_tensors(any_boxes, n * g, n * g)).reshape(n, g, 4)
    labels = draw(st.lists(st.integers(-1, 3), min_size=n * g, max_size=n * g))
    return Case(anchors, boxes, torch.tensor(labels, dtype=torch.int64).reshape(n, g))


@st.composite
def random_cases(draw) -> Case:
    """More and rounder numbers: any count of anchors, padding anywhere, objects like anchors."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    n, g, a = draw(st.integers(1, 3)), draw(st.integers(1, 12)), draw(st.integers(1, 200))
    anchors = random_boxes(a, generator=generator)
    boxes = random_boxes(n, g, generator=generator)
    if draw(st.booleans()):  # every other object is a moved anchor, so that overlaps are large
        near = anchors[torch.randint(a, (n, g), generator=generator)]
        near = near + 0.05 * torch.rand(n, g, 4, generator=generator)
        boxes[:, ::2] = near[:, ::2]
    if draw(st.booleans()):  # and some are no boxes at all, among others that are fine
        bad = torch.tensor(BAD_BOXES)[torch.randint(len(BAD_BOXES), (n, g), generator=generator)]
        boxes = torch.where(torch.rand(n, g, 1, generator=generator) < 0.2, bad, boxes)
    labels = torch.randint(-1, 4, (n, g), generator=generator)
    return Case(anchors, boxes, labels)


def random_boxes(*shape: int, generator: torch.Generator, dtype=torch.float32) -> Tensor:
    """Boxes (*shape, 4) in the unit square, sides from 0.02 to about 0.6."""
    center = torch.rand(*shape, 2, generator=generator, dtype=dtype)
    side = 0.02 + 0.6 * torch.rand(*shape, 2, generator=generator, dtype=dtype) ** 2
    return torch.cat([center - side / 2, center + side / 2], dim=-1)
