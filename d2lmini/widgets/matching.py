"""Live figures of matching: who is responsible for which object, and how the greedy rule decides it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import traitlets
from torch import Tensor

from d2lmini import plots
from d2lmini.anchors import make_anchors, map_anchors
from d2lmini.boxes import box_iou, encode
from d2lmini.data import Sample
from d2lmini.matching import assign
from d2lmini.transfer import recipe
from d2lmini.widgets.base import Figure, Live, choice, jpeg, pack, slider, whole
from d2lmini.widgets.boxes import object_names, running_scene

LOWEST = 0.3  # the threshold slider's lower end: anchors below it are never positive by threshold
MAPS = ((32, 32), (16, 16), (8, 8), (4, 4), (1, 1))  # TinySSD's, of an image of 256 pixels
FORCED_ONLY = 2.0  # no IoU reaches it: what `assign` then gives is the greedy part alone


class MatchInspector(Figure):
    """`data`: photo, its size (width, height), names, labels, objects (G, 4), and for each object its
    candidates, rows start[g] to start[g + 1] of anchors (E, 4), iou (E,), offsets (E, 4) and forced (E,):
    the forced one first, then by falling IoU, so that the positives at any threshold are the first few.
    """

    script = "match_inspector.js"
    object = traitlets.Int(0).tag(sync=True)
    threshold = traitlets.Float(0.5).tag(sync=True)
    pick = traitlets.Int(0).tag(sync=True)


def candidates(anchors: Tensor, sample: Sample, lowest: float = LOWEST) -> list[tuple[Tensor, Tensor]]:
    """Per object the anchors (E,) that are its positives at the threshold `lowest`, and their IoUs (E,).

    The forced anchor comes first, then those of larger IoU. At a higher threshold the positives are the
    forced anchor and every candidate that reaches it.
    """
    forced, chosen = (
        assign(anchors, sample.boxes[None], sample.labels[None], t)[0] for t in (FORCED_ONLY, lowest)
    )
    found = []
    for g, column in enumerate(box_iou(sample.boxes, anchors)):
        mine = (chosen == g).nonzero()[:, 0]
        order = (column[mine] + (forced[mine] == g) * 2.0).argsort(descending=True, stable=True)
        found.append((mine[order], column[mine[order]]))
    return found


def _with_objects(sample: Sample | None, classes: Sequence[str]) -> tuple[Sample, Sequence[str]]:
    """The sample and its classes, or the scene that the book follows."""
    if sample is None:
        return running_scene()
    if not len(sample.boxes):
        raise ValueError("the image has no object to match: choose another one")
    return sample, classes


def match_inspector(
    sample: Sample | None = None,
    classes: Sequence[str] = (),
    anchors: Tensor | None = None,
    *,
    start: int = 0,
    threshold: float = 0.5,
) -> Live:
    """One object's positive anchors over the image, by IoU threshold; each with its IoU and offsets.

    Without a `sample` the image is the scene that the book follows, without `anchors` (A, 4) they are
    those of the detector of the scenes. Object number `start`, from 0, is shown first. Raises ValueError
    for an image without objects and a `start` that is none of them.
    """
    sample, classes = _with_objects(sample, classes)
    if not 0 <= start < len(sample.boxes):
        raise ValueError(f"the image has {len(sample.boxes)} objects, there is no number {start}")
    if anchors is None:
        anchors = make_anchors(MAPS, recipe("scenes").config.anchors)
    found = candidates(anchors, sample)
    rows = torch.cat([mine for mine, _ in found])  # (E,)
    owner = torch.cat([torch.full_like(mine, g) for g, (mine, _) in enumerate(found)])
    forced = assign(anchors, sample.boxes[None], sample.labels[None], FORCED_ONLY)[0]
    names = object_names(sample.labels, classes)
    figure = MatchInspector(
        data={
            "photo": jpeg(sample.image, 80),
            "size": list(sample.image.shape[:0:-1]),
            "names": names,
            "labels": sample.labels.tolist(),
            "objects": pack(sample.boxes),
            "total": len(anchors),
            "start": [0, *torch.tensor([len(mine) for mine, _ in found]).cumsum(0).tolist()],
            "anchors": pack(anchors[rows]),
            "iou": pack(torch.cat([iou for _, iou in found])),
            "offsets": pack(encode(anchors[rows], sample.boxes[owner])),
            "forced": pack(forced[rows] == owner),
        },
        alt=(
            "An image with one object's box dashed and its positive anchors solid; beside it the IoUs of "
            "its candidates as bars against the threshold, and the four offsets of the chosen anchor."
        ),
    )
    return Live(
        figure,
        {
            "object": choice("object", names, start),
            "threshold": slider("IoU threshold", LOWEST, 0.9, 0.05, threshold),
        },
        caption=(
            "The positives of one object. Raise the threshold and they become few and good, until only the "
            "anchor that greedy assignment has given it is left; that one stays, however bad it is."
        ),
        fallback=_at_thresholds(anchors, sample, found[start], start),
    )


def _at_thresholds(
    anchors: Tensor, sample: Sample, found: tuple[Tensor, Tensor], number: int
) -> plots.Drawing:
    """One object (dashed) with its positives at three thresholds."""
    mine, iou = found
    views = []
    for threshold in (0.4, 0.5, 0.7):
        keep = iou >= threshold
        keep[0] = True  # the forced one
        layers = [
            plots.Boxes(anchors[mine[keep]], plots.class_color(int(sample.labels[number]))),
            plots.Boxes(sample.boxes[number][None], plots.TRUTH, dashed=True),
        ]
        count = int(keep.sum())
        title = f"threshold {threshold:g}: {count} positive{'s' * (count > 1)}"
        views.append(plots.View(sample.image, title, layers))
    return plots.plot_views(views, cell=230)


# ---- the greedy rule, watched ----

Pair = tuple[int, int]  # anchor, object


def walk(iou: Tensor) -> list[Pair]:
    """The textbook way through IoUs (A, G): the largest entry left, and its row and column are struck out."""
    left, pairs = iou.clone(), []
    while left.numel() and left.max() > 0:
        anchor, obj = divmod(int(left.argmax()), left.shape[1])
        pairs.append((anchor, obj))
        left[anchor], left[:, obj] = 0, 0
    return pairs


def rounds(iou: Tensor) -> list[list[Pair]]:
    """Greedy matching of IoUs (A, G) in rounds: all pairs at once that are each other's best choice.

    Nothing larger can take either of such a pair away, so the pairs are those of `walk`, and of `assign`.
    """
    left, steps = iou.clone(), []
    while left.numel() and left.max() > 0:
        value, anchor = left.max(dim=0)  # (G,): each object's best anchor
        best = left.argmax(dim=1)  # (A,): each anchor's best object
        mutual = (best[anchor] == torch.arange(len(anchor))) & (value > 0)
        steps.append([(int(anchor[g]), int(g)) for g in mutual.nonzero()[:, 0]])
        left[anchor[mutual]], left[:, mutual] = 0, 0
    return steps


class GreedyRounds(Figure):
    """`data`: photo, names, labels, objects (G, 4), anchors (A, 4), iou (A, G); walk, a list of
    [anchor, object], and rounds, a list of such lists."""

    script = "greedy.js"
    step = traitlets.Int(0).tag(sync=True)


def greedy_rounds(
    sample: Sample | None = None, classes: Sequence[str] = (), anchors: Tensor | None = None, *, step: int = 1
) -> Live:
    """The greedy rule on a few anchors, step by step: one pair at a time, beside all mutual pairs at once.

    Without a `sample` the image is the scene that the book follows; without `anchors` (A, 4) they are
    nine squares, 0.45 of the image wide. Raises ValueError for an image without objects and for more
    than 26 anchors, which are named by letters.
    """
    sample, classes = _with_objects(sample, classes)
    anchors = map_anchors(3, 3, [0.45], [1]) if anchors is None else anchors
    if len(anchors) > 26:
        raise ValueError(f"{len(anchors)} anchors are too many to watch: give at most 26")
    iou = box_iou(anchors, sample.boxes)
    one_by_one, together = walk(iou), rounds(iou)
    figure = GreedyRounds(
        data={
            "photo": jpeg(sample.image, 80),
            "names": object_names(sample.labels, classes),
            "labels": sample.labels.tolist(),
            "objects": pack(sample.boxes),
            "anchors": pack(anchors),
            "iou": pack(iou),
            "walk": [list(pair) for pair in one_by_one],
            "rounds": [[list(pair) for pair in pairs] for pairs in together],
        },
        alt=(
            "Two copies of the image and of the table of IoUs, anchors by objects. On the left one pair is "
            "settled at each step, on the right all pairs that are each other's best choice."
        ),
    )
    return Live(
        figure,
        {"step": whole("step", 0, len(one_by_one), step)},
        caption=(
            "Left: the largest number of the table, its row and column struck out, and again, "
            f"{len(one_by_one)} times. Right: all pairs that nobody can take from each other at once, in "
            f"{len(together)} rounds. Both end with the same pairs."
        ),
        fallback=_after_rounds(anchors, sample, together),
    )


def _after_rounds(anchors: Tensor, sample: Sample, together: list[list[Pair]]) -> plots.Drawing:
    """The pairs settled in each of the first three rounds: anchor solid, object dashed, in one colour."""
    views = []
    for number, pairs in enumerate(together[:3], start=1):
        rows, objects = (list(part) for part in zip(*pairs, strict=True))
        colors = [plots.class_color(int(sample.labels[g])) for g in objects]
        layers = [
            plots.Boxes(anchors[rows], colors),
            plots.Boxes(sample.boxes[objects], colors, dashed=True),
        ]
        title = f"round {number}: {len(pairs)} pair{'s' * (len(pairs) > 1)}"
        views.append(plots.View(sample.image, title, layers))
    return plots.plot_views(views, cell=230)
