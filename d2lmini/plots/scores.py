"""Charts of how good a detector is: the confusion matrix, and how far its scores can be believed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import PercentFormatter

from d2lmini.data.samples import Batch
from d2lmini.inspect.suspects import Suspect
from d2lmini.inspect.thresholds import Calibration
from d2lmini.plots import style
from d2lmini.plots.boxes import Boxes, View, plot_views
from d2lmini.plots.style import CURVES, INK, LEGEND, Drawing, style_axes


def plot_confusion(matrix: np.ndarray, classes: Sequence[str]) -> Drawing:
    """The counts of `inspect.confusion_matrix` (K + 1, K + 1), colored by their share of the row."""
    side = 240 + 62 * len(matrix)
    figure = style.new_figure(side, side)
    ax = figure.add_subplot()
    style_axes(ax, "Objects, and what they are found as", "found as", "object")
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1.3)
    ax.grid(visible=False)
    places = range(len(matrix))
    ax.set_xticks(places, [*classes, "missed"], rotation=45, ha="right")
    ax.set_yticks(places, [*classes, "background"])
    for row, column in np.argwhere(matrix):
        color = style.PAPER if share[row, column] > 0.7 else INK
        ax.text(column, row, f"{matrix[row, column]:,}", ha="center", va="center", fontsize=8, color=color)
    for text in (*ax.get_xticklabels(), *ax.get_yticklabels()):
        text.set_parse_math(False)
    figure.tight_layout(pad=1.2)
    return figure


def plot_calibration(found: Calibration) -> Drawing:
    """A reliability diagram: the share of detections that are right by score, and how many score so."""
    figure, (ax,) = style.axes_grid(1, 1, 576, 520)
    style_axes(ax, "How often a score is right", "score", "share that is right (IoU ≥ 0.5)")
    some = found.detections > 0
    ax.plot([0, 1], [0, 1], color=style.FAINT, lw=0.8, ls="--", label="perfectly calibrated")
    label = f"detections, ECE {found.ece:.3f}"
    ax.plot(found.confidence[some], found.precision[some], "o-", color=CURVES[0], lw=1.6, ms=5, label=label)
    for x, y, count in zip(
        *(column[some] for column in (found.confidence, found.precision, found.detections)), strict=True
    ):
        ax.annotate(
            f"{count:,.0f}", (x, y), (0, 7), textcoords="offset points", ha="center", fontsize=7, color=INK
        )
    ax.set(xlim=(0, 1), ylim=(0, 1.05))
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.legend(loc="upper left", fontsize=8, **LEGEND)
    figure.tight_layout(pad=1.2)
    return figure


def plot_suspects(batch: Batch, suspects: Sequence[Suspect], classes: Sequence[str]) -> Drawing:
    """The suspects of `inspect.rank_suspects`, each on its image (one of the batch for each).

    All labels are dashed and white, the one in doubt is orange, what the detector says is blue.
    """
    views = []
    for i, one in enumerate(suspects):
        sample = batch.sample(i)
        layers = [Boxes(sample.boxes, style.TRUTH, dashed=True, linewidth=0.8)]
        for corners, color in ((one.box, style.PALETTE[1]), (one.found_box, style.PALETTE[0])):
            if corners is not None:
                layers.append(Boxes([corners], color, linewidth=1.6))
        views.append(View(sample.image, f"{one.score:.2f}  {one.text(classes)}", layers))
    return plot_views(views, columns=5, cell=240)
