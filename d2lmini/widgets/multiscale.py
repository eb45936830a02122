"""Live figures of the feature maps: what a cell sees and carries, and which map owns which objects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import traitlets
from torch import Tensor

from d2lmini import plots
from d2lmini.anchors import TINY_SSD_ANCHORS, AnchorSpec, make_anchors, map_anchors
from d2lmini.boxes import box_area
from d2lmini.data import Batch, Sample, Synthetic, load
from d2lmini.inspect import effective_field, receptive_fields, side_that_holds
from d2lmini.matching import assign
from d2lmini.model import TinySSD
from d2lmini.transfer import recipe
from d2lmini.widgets.base import Figure, Live, choice, jpeg, pack, steps, switch
from d2lmini.widgets.boxes import running_scene

SHARES = (0.5, 0.9)  # of the gradient: the squares that hold so much are drawn
BINS = 96  # a field is sent in at most so many steps a side
OURS, D2LS = "this book's anchors", "D2L's anchors"


def anchor_sets(model: TinySSD) -> dict[str, AnchorSpec]:
    """The model's own anchors, and D2L's beside them."""
    return {OURS: model.anchor_spec, D2LS: TINY_SSD_ANCHORS}


def map_sizes(model: TinySSD) -> list[tuple[int, int]]:
    """(height, width) of the feature maps, finest first, from the fields' strides."""
    height, width = model.image_size
    return [(height // field.stride, width // field.stride) for field in receptive_fields(model)]


def coarse(field: Tensor) -> tuple[Tensor, int]:
    """A field (n, n) in at most about `BINS` steps a side, the largest 1, and the pixels of a step.

    Where n is no multiple of the step, zeros are put around it; the middle stays the middle.
    """
    n = field.shape[-1]
    step = math.ceil(n / BINS)
    margin = (-n % (2 * step)) // 2
    padded = torch.nn.functional.pad(field, [margin] * 4)
    blocks = padded.unflatten(0, (-1, step)).unflatten(2, (-1, step)).mean((1, 3))
    return blocks / blocks.max(), step


class ScaleExplorer(Figure):
    """`data`: photo, side (of the image, in pixels), maps (cells a side), sees (field in pixels),
    holds (S, 2), the sides that hold `SHARES` of the gradient, field0 … (n, n), the strength, with its
    steps (pixels), sets (names), shapes0 … (S, k, 2) of each anchor set, owned0 …, lists of the cells that
    hold a positive, by scale.

    `x` and `y` are a place in the image, 0 to 1: the cell that is looked at lies there on every map.
    """

    script = "scales.js"
    scale = traitlets.Int(1).tag(sync=True)
    anchors = traitlets.Int(0).tag(sync=True)
    spotlight = traitlets.Bool(True).tag(sync=True)
    x = traitlets.Float(0.5).tag(sync=True)
    y = traitlets.Float(0.5).tag(sync=True)


def positive_cells(spec: AnchorSpec, maps: Sequence[tuple[int, int]], sample: Sample) -> list[list[int]]:
    """For each map, the cells (row-major) with at least one anchor that is matched with an object."""
    chosen = assign(make_anchors(maps, spec), sample.boxes[None], sample.labels[None])[0] >= 0
    counts = [h * w * k for (h, w), k in zip(maps, spec.num_anchors_per_location, strict=True)]
    parts = zip(chosen.split(counts), spec.num_anchors_per_location, strict=True)
    return [part.unflatten(0, (-1, k)).any(1).nonzero()[:, 0].tolist() for part, k in parts]


def scale_explorer(
    model: TinySSD,
    images: Tensor,
    sample: Sample | None = None,
    *,
    scale: int = 1,
    place: tuple[float, float] = (0.20, 0.47),
) -> Live:
    """A feature map's grid over the image; of one cell its anchors, its field, and what it listens to.

    `images` (N, 3, H, W) are the images over which the gradient is measured: a few, for it takes a
    second or two for each. Without a `sample` the image is the scene that the book follows. The cell is
    chosen by click or arrow keys. Raises ValueError for a scale that the model has not and a place outside
    the image.
    """
    sample = running_scene()[0] if sample is None else sample
    fields, maps = receptive_fields(model), map_sizes(model)
    if not 0 <= scale < len(maps) or not all(0 <= v < 1 for v in place):
        raise ValueError(f"scale {scale} at {place}: give 0 to {len(maps) - 1} and a place from 0 to 1")
    strengths = [effective_field(model, images, k) for k in range(len(maps))]
    holds = [[side_that_holds(f, share) for share in SHARES] for f in strengths]
    small = [coarse(f) for f in strengths]
    sets = anchor_sets(model)
    data = {
        "photo": jpeg(sample.image, 80),
        "side": model.image_size[0],
        "maps": [width for _, width in maps],
        "sees": [field.size for field in fields],
        "holds": holds,
        "steps": [step for _, step in small],
        "sets": list(sets),
    }
    data |= {f"field{k}": pack(f) for k, (f, _) in enumerate(small)}
    for k, spec in enumerate(sets.values()):
        data[f"shapes{k}"] = [spec.shapes(s) for s in range(len(maps))]
        data[f"owned{k}"] = positive_cells(spec, maps, sample)
    figure = ScaleExplorer(
        data=data,
        x=place[0],
        y=place[1],
        alt=(
            "An image under the grid of one feature map, with the anchors and the receptive field of one "
            "cell; what its gradient hardly reaches is dark. Below, for every map, the sizes of both."
        ),
    )
    names = [f"map {k + 1}: {w} × {h} cells" for k, (h, w) in enumerate(maps)]
    return Live(
        figure,
        {
            "scale": choice("feature map", names, scale),
            "anchors": choice("anchors", list(sets)),
            "spotlight": switch("darken what the gradient hardly reaches", True),
        },
        caption=(
            "What a cell's answers can depend on is the dotted square. What they do depend on, by the "
            "gradient of the trained network, is much smaller: about as large as the map's own anchors."
        ),
        fallback=_three_scales(model, sample, strengths, holds, place),
    )


def _corner(place: float, cells: int, size: float) -> float:
    """The start of something of this size about the middle of the cell at a place; all in shares."""
    return (min(int(place * cells), cells - 1) + 0.5) / cells - size / 2


def _three_scales(
    model: TinySSD,
    sample: Sample,
    strengths: list[Tensor],
    holds: list[list[int]],
    place: tuple[float, float],
) -> plots.Drawing:
    """One place on the first three maps: the image as bright as the gradient is strong, the anchors."""
    side, views = model.image_size[0], []
    for k, (field, (_, cells)) in enumerate(zip(receptive_fields(model)[:3], map_sizes(model), strict=False)):
        row, column = (int(v * cells) for v in (place[1], place[0]))
        light = torch.nn.functional.pad(strengths[k] / strengths[k].max(), [side] * 4)
        top, left = side - field.start(row), side - field.start(column)
        light = light[top : top + side, left : left + side].sqrt()
        shaded = (sample.image * (0.15 + 0.85 * light)).byte()
        sizes, ratios = model.anchor_spec.sizes[k], model.anchor_spec.ratios[k]
        per_cell = map_anchors(cells, cells, sizes, ratios).unflatten(
            0, (-1, model.anchor_spec.num_anchors_per_location[k])
        )
        sees = [_corner(v, cells, field.size / side) for v in place]
        square = torch.tensor([[*sees, *(v + field.size / side for v in sees)]])
        layers = [
            plots.Boxes(per_cell[row * cells + column], plots.PALETTE[0]),
            plots.Boxes(square, plots.TRUTH),
        ]
        title = f"map {k + 1}: {field.size} px, half in {holds[k][0]}"
        views.append(plots.View(shaded, title, layers))
    return plots.plot_views(views, cell=230)


# ---- who owns which size ----

EDGES = (10, 16, 24, 34, 48, 68, 96, 136, 210)  # pixels: roots of boxes' areas
THRESHOLDS = (0.4, 0.45, 0.5, 0.55, 0.6, 0.7)


class ScaleOwners(Figure):
    """`data`: maps and sets (names), edges (B + 1, pixels), thresholds, objects (B,), positives
    (sets, T, B, S): the positive anchors of the objects of each size, by feature map."""

    script = "owners.js"
    size = traitlets.Int(0).tag(sync=True)
    threshold = traitlets.Int(2).tag(sync=True)
    anchors = traitlets.Int(0).tag(sync=True)


def count_positives(
    boxes: Tensor, labels: Tensor, spec: AnchorSpec, maps: Sequence[tuple[int, int]], threshold: float
) -> Tensor:
    """Positive anchors of each object by feature map, (N, G, S), of padded boxes (N, G, 4)."""
    chosen = assign(make_anchors(maps, spec), boxes, labels, threshold)  # (N, A)
    counts = [h * w * k for (h, w), k in zip(maps, spec.num_anchors_per_location, strict=True)]
    found = torch.zeros(*labels.shape, len(maps), dtype=torch.int64)
    for scale, part in enumerate(chosen.split(counts, dim=1)):
        here = torch.zeros(len(labels), labels.shape[1] + 1, dtype=torch.int64)
        here.scatter_add_(1, part % here.shape[1], torch.ones_like(part))  # -1 goes to the last column
        found[..., scale] = here[:, :-1]
    return found


def by_size(boxes: Tensor, labels: Tensor, edges: Sequence[float], side: int) -> Tensor:
    """Which size group (N, G) each object is in; -1 for padding and for sizes outside the edges."""
    sizes = box_area(boxes).sqrt() * side
    group = torch.bucketize(sizes, torch.tensor(edges, dtype=sizes.dtype), right=True) - 1
    return group.masked_fill((labels < 0) | (group >= len(edges) - 1), -1)


def scale_owners(
    batch: Batch | None = None,
    sets: Mapping[str, AnchorSpec] | None = None,
    maps: Sequence[tuple[int, int]] = ((32, 32), (16, 16), (8, 8), (4, 4), (1, 1)),
) -> Live:
    """Positive anchors per object, by the object's size and split among the feature maps.

    Without a `batch` 60 training scenes are drawn; without `sets` the anchors are this book's and D2L's.
    """
    batch = load(Synthetic("scenes", count=60)) if batch is None else batch
    sets = {OURS: recipe("scenes").config.anchors, D2LS: TINY_SSD_ANCHORS} if sets is None else dict(sets)
    group = by_size(batch.boxes, batch.labels, EDGES, batch.images.shape[-1])
    inside = torch.nn.functional.one_hot(group + 1, len(EDGES))[..., 1:]  # (N, G, B)
    positives = torch.stack(
        [
            torch.stack(
                [
                    torch.einsum("ngb,ngs->bs", inside, count_positives(*batch[1:], spec, maps, t))
                    for t in THRESHOLDS
                ]
            )
            for spec in sets.values()
        ]
    )  # (sets, T, B, S)
    objects = inside.sum((0, 1))
    names = [f"{h} × {w}" for h, w in maps]
    figure = ScaleOwners(
        data={
            "maps": names,
            "sets": list(sets),
            "edges": list(EDGES),
            "thresholds": list(THRESHOLDS),
            "objects": objects.tolist(),
            "positives": pack(positives),
        },
        alt=(
            "Bars over object sizes, as high as the mean number of positive anchors of an object and split "
            "by feature map: each map has its own stretch of sizes."
        ),
    )
    ranges = [f"{low} to {high} pixels" for low, high in pairwise(EDGES)]
    return Live(
        figure,
        {
            "size": choice("object size", ranges, 3),
            "threshold": steps("IoU threshold", [f"{t:.2f}" for t in THRESHOLDS], THRESHOLDS.index(0.5)),
            "anchors": choice("anchors", list(sets)),
        },
        caption=(
            "Nobody tells a feature map which objects are its own: the sizes of its anchors do. Each map has "
            "its stretch of object sizes, and shares it with its neighbours at the ends."
        ),
        fallback=_owned(positives[:, THRESHOLDS.index(0.5)], objects, names, list(sets)),
    )


def _owned(positives: Tensor, objects: Tensor, names: list[str], sets: list[str]) -> plots.Drawing:
    """Positives per object over its size, a curve for each map, a panel for each anchor set."""
    middles = torch.tensor([(a * b) ** 0.5 for a, b in pairwise(EDGES)])
    mean = positives / objects[:, None].clamp(min=1)
    panels = {
        f"positives per object, {name}": dict(zip(names, mean[k].T, strict=True))
        for k, name in enumerate(sets)
    }
    return plots.plot_panels(middles, panels, xlabel="object size, pixels")
