"""The live figure of the front page, a detector at work, and the map of how data flows through the book."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
import torch
import traitlets

from d2lmini import plots
from d2lmini.data import Sample
from d2lmini.data.samples import pad_objects
from d2lmini.detect import Detections
from d2lmini.errors import error_kinds
from d2lmini.widgets.base import HERE, Figure, Live, choice, jpeg, pack, slider, switch

LEAST, STEP, MOST = 0.05, 0.05, 24  # where the score slider begins, its step, and the bars that have room
LETTERS = "ABCDEFGH"  # of the samples; there is no room for more
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")


class DetectorAtWork(Figure):
    """`data`: names of classes; image0, image1, …; for each of P images its best detections, boxes
    (P, D, 4), scores and labels (P, D), whether each is right (P, D), and the true boxes (P, G, 4) and
    their labels (P, G). Label -1 fills up."""

    script = "threshold.js"
    image = traitlets.Int(0).tag(sync=True)
    score = traitlets.Float(0.5).tag(sync=True)
    truth = traitlets.Bool(False).tag(sync=True)


def count_of(objects: int) -> str:
    """A number of objects in words.

    >>> count_of(0), count_of(1), count_of(6)
    ('no objects', 'one object', 'six objects')
    """
    word = COUNTS[objects] if objects < len(COUNTS) else str(objects)
    return f"{word} object{'' if objects == 1 else 's'}"


def sample_titles(samples: Sequence[Sample]) -> list[str]:
    """A letter and the number of objects for each of at most eight samples: "A: six objects"."""
    return [f"{letter}: {count_of(len(s.labels))}" for letter, s in zip(LETTERS, samples, strict=False)]


def pad_detections(detections: Sequence[Detections]) -> Detections:
    """Lists of different lengths as one: boxes (N, D, 4), scores (N, D), labels (N, D), -1 where none is."""
    boxes, labels = pad_objects([d.boxes for d in detections], [d.labels for d in detections])
    scores = torch.zeros(labels.shape)
    scores[labels >= 0] = torch.cat([d.scores for d in detections]).float()
    return Detections(boxes, scores, labels)


def detector_at_work(
    samples: Sequence[Sample],
    detections: Sequence[Detections],
    classes: Sequence[str],
    score: float = 0.5,
) -> Live:
    """What a detector finds in some images, by the score that a box must have to be shown.

    `detections` has one entry a sample; right is a box that has its class and an IoU of 0.5 or more with
    an object that no better box found. Raises ValueError for other lengths.
    """
    if len(samples) != len(detections) or not samples:
        raise ValueError(
            f"{len(detections)} detections for {len(samples)} samples: pass one each, at least one"
        )
    found = [Detections(*(t[:MOST] for t in d.at_least(LEAST))) for d in detections]
    boxes, labels = pad_objects([s.boxes for s in samples], [s.labels for s in samples])
    verdicts = error_kinds(found, boxes, labels, score_threshold=0.0)  # falls in order, so holds at any score
    rows = pad_detections(found)
    right = np.zeros(rows.labels.shape, np.uint8)
    for row, verdict in zip(right, verdicts, strict=True):
        row[: len(verdict)] = [kind == "correct" for kind in verdict]
    figure = DetectorAtWork(
        data={
            "names": list(classes),
            **{f"image{i}": jpeg(s.image) for i, s in enumerate(samples)},
            "boxes": pack(rows.boxes),
            "scores": pack(rows.scores),
            "labels": pack(rows.labels),
            "right": pack(right),
            "truth_boxes": pack(boxes),
            "truth_labels": pack(labels),
        },
        alt="An image with the boxes that the detector found in it, and beside it all scores as bars.",
    )
    first = samples[0].image
    views = [
        plots.View(first, f"score ≥ {s:.2f}: {len(d.scores)} boxes", [plots.Boxes(d.boxes, colors)])
        for s in (LEAST, 0.5, 0.95)
        for d in [found[0].at_least(s)]
        for colors in [[plots.class_color(k) for k in d.labels.tolist()]]
    ]
    return Live(
        figure,
        {
            "image": choice("image", sample_titles(samples)),
            "score": slider("score at least", LEAST, 0.95, STEP, score),
            "truth": switch("show the true boxes too, dashed", False),
        },
        caption=(
            "The network scores thousands of boxes. How many of them you see is your choice: a low "
            "threshold shows its guesses, a high one keeps only what it is sure of, and misses objects."
        ),
        fallback=plots.plot_views(views, cell=220),
    )


# ---- the map ----


class Stop(NamedTuple):
    """A box of the map: its chapter's file, name and words, and its place (column, row, columns it spans)
    in the wide map and in the narrow one."""

    page: str
    name: str
    text: str
    wide: tuple[int, int, int]
    narrow: tuple[int, int, int]


class Layout(NamedTuple):
    """A map's grid in pixels: sides of a box and the gaps between boxes."""

    field: str
    width: int
    height: int
    across: int
    down: int


STOPS = (
    Stop("data", "data", "images, true boxes", (0, 0, 1), (0, 1, 3)),
    Stop("multiscale", "network", "many scales, one look", (1, 0, 1), (0, 2, 3)),
    Stop("prediction", "prediction", "from scores to boxes", (2, 0, 1), (0, 3, 3)),
    Stop("evaluation", "evaluation", "how good is it?", (3, 0, 1), (0, 4, 3)),
    Stop("matching", "matching", "who learns what", (0, 1, 1), (3, 2, 3)),
    Stop("losses", "losses", "what a mistake costs", (1, 1, 1), (3, 3, 3)),
    Stop("training", "training", "many small steps", (2, 1, 1), (3, 4, 3)),
    Stop("anchors", "anchors", "boxes to start from", (0, 2, 1), (3, 1, 3)),
    Stop("improving", "improving", "what helps", (1, 2, 1), (0, 5, 2)),
    Stop("speed", "speed", "no more loops", (2, 2, 1), (2, 5, 2)),
    Stop("own_pictures", "your own", "teach it yours", (3, 2, 1), (4, 5, 2)),
    Stop("boxes", "boxes and IoU", "the ruler of everything", (3, 1, 1), (0, 0, 6)),
)
WIDE = Layout("wide", width=154, height=56, across=34, down=40)
NARROW = Layout("narrow", width=44, height=52, across=16, down=32)
# From where to where data flows, by which sides (n, e, s, w, moved by a few pixels), and only in training?
ARROWS = {
    "wide": (
        ("data", "e", "multiscale", "w", False),
        ("multiscale", "e", "prediction", "w", False),
        ("prediction", "e", "evaluation", "w", False),
        ("anchors", "e", "multiscale", "w+16", False),
        ("data", "s", "matching", "n", True),
        ("anchors", "n", "matching", "s", True),
        ("matching", "e", "losses", "w", True),
        ("multiscale", "s-24", "losses", "n-24", True),
        ("losses", "e", "training", "w", True),
        ("training", "n", "multiscale", "s+24", True),
    ),
    "narrow": (
        ("data", "s", "multiscale", "n", False),
        ("multiscale", "s", "prediction", "n", False),
        ("prediction", "s", "evaluation", "n", False),
        ("anchors", "w", "multiscale", "e-14", False),
        ("data", "s+60", "matching", "n-60", True),
        ("anchors", "s", "matching", "n", True),
        ("matching", "s", "losses", "n", True),
        ("multiscale", "s+60", "losses", "n-60", True),
        ("losses", "s", "training", "n", True),
        ("training", "w", "multiscale", "e+12", True),
    ),
}
MAP_STYLE = (HERE / "map.css").read_text("utf8")


def _frame(stop: Stop, layout: Layout) -> tuple[int, int, int, int]:
    """Left, top, width and height of a stop's box."""
    column, row, span = getattr(stop, layout.field)
    step = layout.width + layout.across
    return column * step, row * (layout.height + layout.down), span * step - layout.across, layout.height


def _port(frame: tuple[int, int, int, int], side: str) -> tuple[int, int]:
    """The point of a box where an arrow meets it: the middle of a side, moved by what follows its letter."""
    left, top, width, height = frame
    moved = int(side[1:] or 0)
    if side[0] in "ns":
        return left + width // 2 + moved, top + (height if side[0] == "s" else 0)
    return left + (width if side[0] == "e" else 0), top + height // 2 + moved


def _path(start: tuple[int, int], end: tuple[int, int], first: str, last: str) -> str:
    """A straight line where it can be one, else one with right angles, turning halfway."""
    (x0, y0), (x1, y1) = start, end
    if x0 == x1 or y0 == y1:
        return f"M{x0} {y0}L{x1} {y1}"
    if first in "ns":
        return f"M{x0} {y0}V{(y0 + y1) // 2}H{x1}V{y1}"
    return f"M{x0} {y0}H{(x0 + x1) // 2}V{y1}H{x1}"


def _drawn(layout: Layout) -> str:
    """One SVG of the map."""
    frames = {stop.page: _frame(stop, layout) for stop in STOPS}
    width = max(left + w for left, _, w, _ in frames.values())
    height = max(top + h for _, top, _, h in frames.values())
    tip = f"d2l-tip-{layout.field}"
    parts = [
        f'<svg class="{layout.field}" viewBox="-3 -3 {width + 6} {height + 6}" '
        f'style="max-width:{width + 6}px" role="group" aria-label="How data flows, and the chapters">',
        f'<defs><marker id="{tip}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto" markerUnits="userSpaceOnUse"><path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>',
    ]
    for start, leaving, end, entering, learning in ARROWS[layout.field]:
        ends = _port(frames[start], leaving), _port(frames[end], entering)
        kind = "arrow learning" if learning else "arrow"
        path = _path(*ends, leaving[0], entering[0])
        parts.append(f'<path class="{kind}" d="{path}" marker-end="url(#{tip})"/>')
    for stop in STOPS:
        left, top, w, h = frames[stop.page]
        middle = left + w / 2
        parts.append(
            f'<a href="{stop.page}.html"><rect x="{left}" y="{top}" width="{w}" height="{h}" rx="7"/>'
            f'<text class="name" x="{middle:g}" y="{top + h / 2 - 4:g}">{escape(stop.name)}</text>'
            f'<text x="{middle:g}" y="{top + h / 2 + 14:g}">{escape(stop.text)}</text></a>'
        )
    return "\n".join([*parts, "</svg>"])


class DataFlow:
    """The map of the book: a box for each chapter, joined as data flows through them."""

    def _repr_html_(self) -> str:
        key = (
            '<p class="key"><svg viewBox="0 0 30 8" width="30" height="8" aria-hidden="true">'
            '<path class="arrow" d="M0 4H30"/></svg> always &ensp; '
            '<svg viewBox="0 0 30 8" width="30" height="8" aria-hidden="true">'
            '<path class="arrow learning" d="M0 4H30"/></svg> only while it learns</p>'
        )
        maps = "\n".join(_drawn(layout) for layout in (WIDE, NARROW))
        return f'<div class="d2l-map">\n<style>\n{MAP_STYLE}</style>\n{maps}\n{key}\n</div>'

    def __repr__(self) -> str:
        names = {stop.page: stop.name for stop in STOPS}
        return "\n".join(f"{names[a]} → {names[b]}" for a, _, b, _, _ in ARROWS["wide"])


def data_flow() -> DataFlow:
    """The map of the book; in the built book, and only there, its boxes lead to their chapters."""
    return DataFlow()
