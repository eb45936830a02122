"""Live figures of anchors: those of one feature map over an image, and how well a set covers a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import traitlets
from torch import Tensor

from d2lmini import plots
from d2lmini.anchors import AnchorSpec, make_anchors, map_anchors
from d2lmini.boxes import box_area, box_iou
from d2lmini.data import Sample
from d2lmini.widgets.base import Figure, Live, choice, jpeg, pack, steps, switch
from d2lmini.widgets.boxes import object_names, running_scene

# ---- one map ----

MAPS = (1, 2, 4, 8, 16, 32)
FURTHER = 2  # stops from a size to the second one beside it: four stops double it, so two are √2
SIZES = tuple(0.05 * 2 ** (k / 4) for k in range(17))  # 0.05, 0.06, … 0.8
RATIOS = {"1": 1.0, "2": 2.0, "½": 0.5, "3": 3.0, "⅓": 1 / 3}
RATIO_SETS = ("1", "1, 2, ½", "1, 2, ½, 3, ⅓")


class AnchorGrid(Figure):
    """`data`: photo, its width in pixels, boxes (G, 4) and names of its objects; what there is to choose:
    sizes, ratios, maps, sets of ratios; shapes (S, R, 2) and best (S, R, M, G), each object's best IoU
    with the anchors of one shape on one map.

    `cell` is a point (x, y) of the image: the anchors of the cell that holds it are drawn.
    """

    script = "anchors.js"
    size = traitlets.Int(0).tag(sync=True)
    ratios = traitlets.Int(0).tag(sync=True)
    map = traitlets.Int(0).tag(sync=True)
    second = traitlets.Bool(False).tag(sync=True)
    cell = traitlets.List(traitlets.Float()).tag(sync=True)


def anchor_grid(
    sample: Sample | None = None,
    classes: Sequence[str] = (),
    *,
    size: int = 8,
    cells: int = 8,
    cell: tuple[float, float] = (0.34, 0.68),
) -> Live:
    """The grid of centres of a feature map over an image, the anchors at one cell, and what they reach.

    Without a `sample` the image is the scene that the book follows. It starts with size number `size`
    of `SIZES`, a map of `cells` × `cells`, one of `MAPS`, and the cell under the point `cell`. Click
    another cell, or go there with the arrow keys. Raises ValueError for another number of cells and for
    an image without objects.
    """
    if sample is None:
        sample, classes = running_scene()
    if cells not in MAPS:
        raise ValueError(f"a map of {cells} × {cells} cells is not offered: choose from {MAPS}")
    if not len(sample.boxes):
        raise ValueError("the image has no objects: anchors have nothing to reach")
    every = [
        *SIZES,
        *(SIZES[-1] * 2 ** (k / 4) for k in range(1, FURTHER + 1)),
    ]  # the last ones' second sizes
    ratios = list(RATIOS.values())
    figure = AnchorGrid(
        data={
            "photo": jpeg(sample.image, 80),
            "pixels": sample.image.shape[-1],
            "boxes": pack(sample.boxes),
            "names": object_names(sample.labels, classes),
            "sizes": every,
            "further": FURTHER,
            "ratios": list(RATIOS),
            "sets": [[list(RATIOS).index(name) for name in names.split(", ")] for names in RATIO_SETS],
            "maps": list(MAPS),
            "shapes": pack([[AnchorSpec(((s,),), ((r,),)).shapes(0)[0] for r in ratios] for s in every]),
            "best": pack(torch.stack([_best(sample.boxes, s) for s in every])),
        },
        cell=list(cell),
        alt=(
            "The image with the centres of a feature map's cells as dots and the anchors of one cell; "
            "beside it a bar for each object, its best IoU with any anchor of the map."
        ),
    )
    controls = {
        "size": steps("size s", [f"{s:.2f}" for s in SIZES], size),
        "ratios": choice("ratios", RATIO_SETS, 1),
        "second": switch("a second size, √2 · s, at the first ratio"),
        "map": steps("feature map", [f"{n} × {n}" for n in MAPS], MAPS.index(cells)),
    }
    caption = (
        "The same few boxes at the centre of every cell. The finer the grid, the more objects have one that "
        "fits; but the large apple needs a larger size, and no finer grid replaces it."
    )
    return Live(figure, controls, caption=caption, fallback=_three_maps(sample))


def _best(boxes: Tensor, size: float) -> Tensor:
    """Each object's best IoU with the anchors of one size, by ratio and map, (R, M, G)."""
    rows = [
        [box_iou(boxes, map_anchors(n, n, [size], [ratio])).amax(1) for n in MAPS]
        for ratio in RATIOS.values()
    ]
    return torch.stack([torch.stack(row) for row in rows])


def _three_maps(sample: Sample) -> plots.Drawing:
    """Three grids with the same three shapes: the centres, and the best anchor of each object it reaches."""
    views = []
    for n in (4, 8, 16):
        anchors = map_anchors(n, n, [0.2], [1, 2, 0.5])
        iou, best = box_iou(sample.boxes, anchors).max(1)
        centers = map_anchors(n, n, [0.004], [1])
        layers = [
            plots.Boxes(centers, plots.TRUTH, linewidth=0.8),
            plots.Boxes(sample.boxes, plots.TRUTH, dashed=True, linewidth=1.0),
            plots.Boxes(anchors[best[iou >= 0.5]], plots.PALETTE[0]),
        ]
        reached = f"{int((iou >= 0.5).sum())} of {len(iou)} objects"
        views.append(plots.View(sample.image, f"{n} × {n}: {reached}", layers))
    return plots.plot_views(views, cell=210)


# ---- a data set ----

FACTORS = (0.5, 0.71, 1.0, 1.41, 2.0)  # steps of √2, which is what an IoU of 0.5 forgives
DEMANDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
GROUPS = ("small", "medium", "large")
LIMITS = (32 / 256, 96 / 256)  # COCO's 32 and 96 pixels, for an image of 256


class AnchorCoverage(Figure):
    """`data`: sides (G,) in pixels of 256 and group (G,) of all objects; sets of anchors with their counts,
    factors on their sizes, and best (K, F, G), each object's best IoU with a set."""

    script = "coverage.js"
    anchors = traitlets.Int(0).tag(sync=True)
    factor = traitlets.Int(0).tag(sync=True)
    demand = traitlets.Int(0).tag(sync=True)


Layout = tuple[Sequence[tuple[int, int]], AnchorSpec]


def anchor_coverage(boxes: Tensor, layouts: Mapping[str, Layout]) -> Live:
    """Each object's best IoU with a set of anchors, by size of the object, and the share that is covered.

    `boxes` (G, 4) are the objects of many images; `layouts` names sets of anchors: the (height, width)
    of their maps and their `AnchorSpec`. Raises ValueError without layouts, and when no object is small
    (a side below an eighth of the image's), medium or large (above three eighths).
    """
    if not layouts:
        raise ValueError("there are no anchors to look at: name at least one layout")
    sides = box_area(boxes).sqrt()
    group = (sides >= LIMITS[0]).int() + (sides >= LIMITS[1]).int()  # (G,)
    missing = [name for k, name in enumerate(GROUPS) if not (group == k).any()]
    if missing:
        raise ValueError(f"none of the {len(boxes)} objects is {missing[0]}: take more images")
    best = torch.stack(
        [
            torch.stack([box_iou(boxes, make_anchors(maps, spec.scaled(f))).amax(1) for f in FACTORS])
            for maps, spec in layouts.values()
        ]
    )  # (K, F, G)
    counts = [len(make_anchors(maps, spec)) for maps, spec in layouts.values()]
    figure = AnchorCoverage(
        data={
            "sides": pack(sides * 256),
            "group": pack(group, "|u1"),
            "groups": list(GROUPS),
            "best": pack(best),
            "sets": list(layouts),
            "counts": counts,
            "factors": list(FACTORS),
            "demands": list(DEMANDS),
        },
        alt=(
            "Left, the best IoU of every object with any anchor, over the object's size. Right, the share of "
            "small, medium and large objects that reach an IoU, over that IoU."
        ),
    )
    controls = {
        "anchors": choice("anchors", list(layouts)),
        "factor": steps("all sizes times", [f"{f:.2f}" for f in FACTORS], FACTORS.index(1.0)),
        "demand": steps("IoU demanded", [f"{d:.1f}" for d in DEMANDS], DEMANDS.index(0.5)),
    }
    caption = (
        "Each mark is an object. What lies below the line has no anchor that fits, and depends on the one "
        "that matching will force on it. Anchors that suit large objects leave all the small ones out."
    )
    return Live(figure, controls, caption=caption, fallback=_coverage_curves(best, group, layouts))


def _coverage_curves(best: Tensor, group: Tensor, layouts: Mapping[str, Layout]) -> plots.Drawing:
    """The share of objects of each group over the IoU demanded, for the first two layouts as they are."""
    demand = torch.linspace(0, 1, 101)
    panels = {}
    for name, rows in list(zip(layouts, best, strict=True))[:2]:
        at_one = rows[FACTORS.index(1.0)]
        panels[name] = {
            f"{size} objects": (at_one[group == k] >= demand[:, None]).float().mean(1)
            for k, size in enumerate(GROUPS)
        }
    return plots.plot_panels(demand, panels, xlabel="IoU demanded", ylims=[(0, 1.02)] * len(panels))
