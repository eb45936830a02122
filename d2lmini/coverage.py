"""Does my data fit these anchors? Which objects an anchor fits, which none does, and what would.

An object that no anchor overlaps by the matching threshold still gets one, its best, but only that one and
with a long way to go. `anchor_report` counts such objects, by size and by shape, before any training;
`suggest_anchors` clusters the objects' shapes and lays the clusters on the maps whose cells suit them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from d2lmini.anchors import AnchorSpec
from d2lmini.boxes import box_iou, corner_to_centre
from d2lmini.data.samples import Sample, pad_objects
from d2lmini.matching import assign

SIDES = (0.0, 16.0, 32.0, 64.0, 128.0, math.inf)  # pixels: root of an object's area
RATIOS = (0.0, 1 / 3, 2 / 3, 1.5, 3.0, math.inf)  # width : height
ENTRIES = 2**18  # of an IoU matrix at a time
NATURAL_CELLS = 3.5  # an anchor's side in cells of its map: at 2.7 it fits its equal wherever that lies
WHOLE = 0.85  # the natural side on a map of one cell
FEW = 8  # objects that do not make a cluster


class Objects(NamedTuple):
    """The annotations of a data set without its pixels: boxes (N, G, 4), labels (N, G), -1 for padding."""

    boxes: Tensor
    labels: Tensor


def read_objects(dataset: Dataset[Sample], workers: int | None = None, progress: bool = False) -> Objects:
    """The boxes and labels of a data set, whose pictures are read (for their sizes) but not kept.

    `workers` as for `data.load`.
    """
    count = len(dataset)  # type: ignore[arg-type]
    if workers is None:
        workers = (os.cpu_count() or 1) if count >= 100 else 0
    loader = DataLoader(dataset, batch_size=25, num_workers=workers, collate_fn=_without_pixels)
    boxes: list[Tensor] = []
    labels: list[Tensor] = []
    for part in tqdm(loader, desc="annotations", unit="", leave=False, disable=not progress):
        boxes += [box for box, _ in part]
        labels += [label for _, label in part]
    return Objects(*pad_objects(boxes, labels))


def _without_pixels(samples: Sequence[Sample]) -> list[tuple[Tensor, Tensor]]:
    return [(sample.boxes, sample.labels) for sample in samples]


# ----------------------------------------------------------------------------------------------- the report


class Group(NamedTuple):
    """Objects that are alike: how many, the share fitted, their mean best IoU and positives (NaN if none)."""

    name: str
    objects: int
    recall: float
    best_iou: float
    positives: float


@dataclass(frozen=True, eq=False)
class AnchorReport:
    """How a set of anchors fits G objects; a row of each tensor is an object.

    `boxes` (G, 4), `labels` (G,), and `picture` (G,), the index of the picture it is in. `best` (G,) is
    the largest IoU with any anchor, `positives` (G,) how many anchors matching gives the object, 0 where
    others took them all. `side` and `ratio` (G,) are the root of the area in pixels, and width : height.
    """

    boxes: Tensor
    labels: Tensor
    picture: Tensor
    best: Tensor
    positives: Tensor
    side: Tensor
    ratio: Tensor
    pictures: int
    anchors: int
    image_size: tuple[int, int]
    iou_threshold: float

    @property
    def fitted(self) -> Tensor:
        """Which objects (G,) some anchor fits: IoU at or above the threshold."""
        return self.best >= self.iou_threshold

    @property
    def recall(self) -> float:
        """The share of objects that some anchor fits; NaN without objects."""
        return float(self.fitted.float().mean())

    @property
    def alone(self) -> Tensor:
        """Which objects (G,) have no anchor at all to learn from."""
        return self.positives == 0

    def by_side(self) -> list[Group]:
        """Groups of objects by the root of their area, in pixels."""
        return self._groups(self.side, SIDES, "{:.0f}".format, " pixels")

    def by_ratio(self) -> list[Group]:
        """Groups of objects by shape, width : height."""
        return self._groups(self.ratio, RATIOS, _ratio)

    def by_class(self, classes: Sequence[str]) -> list[Group]:
        """A group for each class."""
        return [self._group(name, self.labels == k) for k, name in enumerate(classes)]

    def worst(self, count: int = 5) -> list[int]:
        """Rows of the objects that no anchor fits, the worst first, at most `count`."""
        order = self.best.argsort(stable=True)[:count]
        return [i for i in order.tolist() if not self.fitted[i]]

    def _groups(
        self, values: Tensor, edges: Sequence[float], say: Callable[[float], str], unit: str = ""
    ) -> list[Group]:
        return [
            self._group(_range(low, high, say) + unit, (values >= low) & (values < high))
            for low, high in pairwise(edges)
        ]

    def _group(self, name: str, mask: Tensor) -> Group:
        numbers = (self.fitted, self.best, self.positives)
        return Group(name, int(mask.sum()), *(float(x[mask].float().mean()) for x in numbers))

    def text(self, classes: Sequence[str] = (), names: Sequence[str] = ()) -> str:
        """The report in words and tables; `names` (one for each picture) tell where the worst ones are."""
        return "\n".join(_lines(self, classes, names))


def anchor_report(
    anchors: Tensor,
    boxes: Tensor,
    labels: Tensor,
    *,
    image_size: int | tuple[int, int] = 256,
    iou_threshold: float = 0.5,
) -> AnchorReport:
    """Which objects anchors (A, 4) fit: boxes (N, G, 4), corners, labels (N, G) with -1 for padding.

    `image_size` (a side, or height and width) turns fractions into pixels. The time grows with anchors
    times objects: 50,000 objects and 8,166 anchors take seconds. A box that is empty, reversed or not
    finite counts as one that no anchor fits. Raises ValueError as `matching.assign` does, for shapes
    that do not fit.
    """
    height, width = (image_size,) * 2 if isinstance(image_size, int) else image_size
    positives = _positives(anchors, boxes, labels, iou_threshold)  # (N, G)
    picture, column = (labels >= 0).nonzero(as_tuple=True)  # (G,)
    real = boxes[picture, column]  # (G, 4)
    usable = real.isfinite().all(-1)
    sides = torch.where(usable.unsqueeze(-1), real[:, 2:] - real[:, :2], 0).clamp(min=0)
    pixels = sides * torch.tensor([width, height])
    return AnchorReport(
        boxes=real,
        labels=labels[picture, column],
        picture=picture,
        best=_best_iou(anchors, torch.where(usable.unsqueeze(-1), real, 0)),
        positives=positives[picture, column],
        side=pixels.prod(-1).sqrt(),
        ratio=pixels[:, 0] / pixels[:, 1].clamp(min=1e-9),
        pictures=len(labels),
        anchors=len(anchors),
        image_size=(height, width),
        iou_threshold=iou_threshold,
    )


def _best_iou(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Each object's largest IoU (G,) with any anchor."""
    parts = boxes.split(max(1, ENTRIES // max(1, len(anchors))))
    return torch.cat([box_iou(part, anchors).amax(1) for part in parts if len(part)] or [boxes.new_zeros(0)])


def _positives(anchors: Tensor, boxes: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """How many anchors matching gives each object, (N, G) int64.

    Pictures go through matching with others of about as many objects, so that the one with 200 does not
    pad all the rest.
    """
    counts = torch.zeros(labels.shape, dtype=torch.int64)
    if not labels.numel():
        return counts
    width = ((labels >= 0) * torch.arange(1, labels.shape[1] + 1)).amax(1)  # (N,) up to the last object
    order = width.argsort(stable=True)
    for rows in order.split(64):
        most = int(width[rows[-1]])
        chosen = assign(anchors, boxes[rows, :most], labels[rows, :most], iou_threshold)  # (n, A)
        hits = torch.zeros(len(rows), most + 1, dtype=torch.int64)
        hits.scatter_add_(1, chosen + 1, torch.ones_like(chosen))  # column 0: anchors without an object
        counts[rows, :most] = hits[:, 1:]
    return counts


def _range(low: float, high: float, say: Callable[[float], str]) -> str:
    """A range in words, from 0 or to infinity too."""
    if low == 0:
        return f"below {say(high)}"
    return f"from {say(low)}" if high == math.inf else f"{say(low)} to {say(high)}"


def _ratio(value: float) -> str:
    """A ratio as people say it.

    >>> _ratio(1.5), _ratio(1 / 3)
    ('1.5 : 1', '1 : 3')
    """
    return f"{value:.3g} : 1" if value >= 1 else f"1 : {1 / value:.3g}"


def _lines(report: AnchorReport, classes: Sequence[str], names: Sequence[str]) -> list[str]:
    height, width = report.image_size
    pictures = f"{report.pictures:,} pictures of {width} × {height}"
    lines = [f"{report.anchors:,} anchors; {pictures}, {len(report.best):,} objects"]
    if not len(report.best):
        return [*lines, "there is no object, and so nothing to fit"]
    positives = f"{report.positives.float().mean():.1f}, median {report.positives.median()}"
    lines += [
        f"fitted (IoU ≥ {report.iou_threshold:g}): {report.recall:.1%}   mean best IoU "
        f"{report.best.mean():.2f}   positives per object: {positives}",
        *_table("side (root of the area)", report.by_side()),
        *_table("width : height", report.by_ratio()),
    ]
    lines += _table("class", report.by_class(classes)) if len(classes) > 1 else []
    if missed := int((~report.fitted).sum()):
        lines += ["", f"{missed} object{'s are' if missed > 1 else ' is'} fitted by no anchor; the worst:"]
        lines += [f"  {_where(report, i, names)}" for i in report.worst()]
    if alone := int(report.alone.sum()):
        lines += [f"{alone} of {len(report.best)} have no anchor at all to learn from: others took them"]
    return lines


def _table(title: str, groups: Sequence[Group]) -> list[str]:
    """A heading and a line for each group that has objects."""
    lines = ["", f"{title:24}{'objects':>8}{'fitted':>9}{'best IoU':>10}{'positives':>11}"]
    for name, objects, recall, best, positives in groups:
        if objects:
            lines.append(f"  {name:22}{objects:8,}{recall:9.1%}{best:10.2f}{positives:11.1f}")
    return lines


def _where(report: AnchorReport, row: int, names: Sequence[str]) -> str:
    """An object in words: its picture, its place in pixels, its IoU."""
    index = int(report.picture[row])
    name = names[index] if names else f"picture {index}"
    height, width = report.image_size
    corners = (report.boxes[row] * torch.tensor([width, height, width, height])).tolist()
    place = ", ".join(f"{v:.0f}" for v in corners)
    return f"{name}: IoU {report.best[row]:.3f}, box ({place}) of {width} × {height}"


# -------------------------------------------------------------------------------------------- a suggestion


def suggest_anchors(
    boxes: Tensor, map_shapes: Sequence[tuple[int, int]], *, max_ratios: int = 5, seed: int = 0
) -> AnchorSpec:
    """Sizes and ratios for boxes (G, 4), corners, on maps of (height, width) cells, finest first.

    Two clusterings, both with 1 − IoU as the distance. Objects are dealt out to the maps by their side:
    to the one of whose cells it measures nearest to `NATURAL_CELLS`; their sides' two clusters are that
    map's sizes (one, if there are few objects or the two nearly agree). Shapes, all sides made equal,
    give the ratios, as many as it takes, the commonest first. A map that gets no object keeps one size.
    Boxes that are empty or not finite do not count. Equal seeds give equal answers. Raises ValueError
    without a usable box or map. Source: Redmon and Farhadi 2017 (YOLO9000), section 2, for the distance.

    >>> small, large = torch.tensor([[0.1, 0.1, 0.2, 0.2]]), torch.tensor([[0.1, 0.1, 0.9, 0.9]])
    >>> suggest_anchors(torch.cat([small] * 9 + [large] * 9), [(32, 32), (1, 1)])
    AnchorSpec(sizes=((0.1,), (0.8,)), ratios=((1.0,), (1.0,)))
    """
    if not len(map_shapes):
        raise ValueError("there are no feature maps: give the height and width of at least one")
    sides = corner_to_centre(boxes.reshape(-1, 4).double())[:, 2:]
    sides = sides[(sides.isfinite() & (sides > 0)).all(1)]
    if not len(sides):
        raise ValueError("there is no object whose box is finite and not empty: nothing can be suggested")
    side = sides.prod(1).sqrt()
    natural = torch.tensor([_natural_side(shape) for shape in map_shapes], dtype=torch.float64)
    home = (side.log()[:, None] - natural.log()).abs().argmin(1)  # (G,)
    sizes = [_sizes(side[home == k], float(natural[k]), seed) for k in range(len(natural))]
    ratios = _ratios(sides[:, 0] / sides[:, 1], max_ratios, seed)
    return AnchorSpec(tuple(sizes), (ratios,) * len(sizes))


def _natural_side(shape: tuple[int, int]) -> float:
    return min(WHOLE, NATURAL_CELLS / min(shape))


def _sizes(side: Tensor, natural: float, seed: int) -> tuple[float, ...]:
    """One or two sizes for the objects of one map, the smaller first."""
    if len(side) < FEW:
        return (_round(float(side.median()) if len(side) else natural),)
    square = side[:, None].expand(-1, 2)
    low, high = cluster(square, 2, seed)[[0, -1], 0].tolist()
    # Nearer than this, one of the two covers all that the other does.
    return (_round(low), _round(high)) if high > 1.15 * low else (_round(float(side.median())),)


def _ratios(ratio: Tensor, most: int, seed: int) -> tuple[float, ...]:
    """As many ratios as bring the mean IoU of shapes up to 0.9, the commonest first."""
    shapes = torch.stack([ratio.sqrt(), ratio.rsqrt()], 1)  # (G, 2), area 1
    for count in range(1, most + 1):
        centres = cluster(shapes, count, seed)
        iou = shape_iou(shapes, centres)  # (G, K)
        if iou.amax(1).mean() >= 0.9:
            break
    often = iou.argmax(1).bincount(minlength=len(centres)).argsort(descending=True, stable=True)
    return tuple(dict.fromkeys(_round(float(w / h)) for w, h in centres[often]))


def _round(value: float) -> float:
    return float(f"{value:.3g}")


def shape_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (P, Q) of widths and heights (P, 2) and (Q, 2), as if all boxes had one centre.

    >>> shape_iou(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 1.0], [2.0, 1.0]]))
    tensor([[1.0000, 0.5000]])
    """
    inter = torch.minimum(a[:, None], b).prod(-1)
    return inter / (a.prod(-1)[:, None] + b.prod(-1) - inter)


def cluster(shapes: Tensor, count: int, seed: int = 0, rounds: int = 100) -> Tensor:
    """k-means of widths and heights (P, 2) with 1 − IoU as the distance: centres (K, 2), smallest first.

    K is `count`, or fewer where there are not so many different shapes. The start is k-means++ (far
    shapes are likelier), drawn with `seed`; a centre is the median of its shapes. Raises ValueError
    without shapes.
    """
    if not len(shapes) or count < 1:
        raise ValueError(f"{count} clusters of {len(shapes)} shapes: there must be at least one of each")
    generator = torch.Generator().manual_seed(seed)
    centres = shapes[torch.randint(len(shapes), (1,), generator=generator)]
    while len(centres) < count:
        far = (1 - shape_iou(shapes, centres).amax(1)).clamp(min=0).square()
        if far.max() < 1e-9:  # every shape is a centre already
            break
        draw = torch.rand((), generator=generator, dtype=torch.float64) * far.sum()
        centres = torch.cat(
            [centres, shapes[int((far.cumsum(0) < draw).sum().clamp(max=len(far) - 1))][None]]
        )
    member = torch.full((len(shapes),), -1)
    for _ in range(rounds):
        nearest = shape_iou(shapes, centres).argmax(1)
        if torch.equal(nearest, member):
            break
        member = nearest
        kept = [shapes[member == k].median(0).values for k in range(len(centres)) if (member == k).any()]
        centres = torch.stack(kept)
    return centres[centres.prod(1).argsort(stable=True)]
