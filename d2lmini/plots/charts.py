"""Charts: learning curves, precision over recall, curves in panels, measurements as dots, anchor coverage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter, StrMethodFormatter

from d2lmini.anchors import AnchorSpec
from d2lmini.inspect.coverage import AnchorReport
from d2lmini.inspect.learning import LearningCurve
from d2lmini.plots import style
from d2lmini.plots.fonts import drawable, fit_font
from d2lmini.plots.style import CURVES, INK, LEGEND, Drawing, Values, style_axes, to_array


def plot_history(rows: Sequence[Mapping[str, Any]]) -> Drawing:
    """Learning curves: the losses on the left, average precision on the right, by epoch.

    `rows` has a mapping for each epoch with the keys epoch (from 1), loss, cls_loss, box_loss, ap and ap50;
    values may be missing, None or NaN. Losses that span more than a factor of 20 are on a log scale. Raises
    ValueError without rows.
    """
    if not len(rows):
        raise ValueError("the history is empty: train at least one epoch before you draw it")
    figure, axes = style.axes_grid(2, 2, 576, 470)
    panels = {
        "Training loss": {"total": "loss", "class": "cls_loss", "box": "box_loss"},
        "Average precision, validation": {"AP50": "ap50", "COCO AP": "ap"},
    }
    epochs = [row.get("epoch", i) for i, row in enumerate(rows, start=1)]
    for ax, (title, keys), colors in zip(axes, panels.items(), ((INK, *CURVES), CURVES), strict=True):
        style_axes(ax, title, "epoch")
        for (name, key), color in zip(keys.items(), colors, strict=False):
            column = [(epoch, row.get(key)) for epoch, row in zip(epochs, rows, strict=True)]
            if points := [(x, float(y)) for x, y in column if y is not None and math.isfinite(y)]:
                label = f"{name} {points[-1][1]:#.3g}".rstrip(".")  # with the last value
                marks = {"marker": "o", "markersize": 3.5, "markevery": 1 if len(points) <= 12 else [-1]}
                ax.plot(*zip(*points, strict=True), color=color, ls="-", lw=1.6, label=label, **marks)
        if ax.lines:
            ax.legend(fontsize=9, **LEGEND)
        else:
            ax.text(0.5, 0.5, "no values yet", transform=ax.transAxes, ha="center", color=style.FAINT)
        ax.set_xlim(min(epochs) - 0.3, max(epochs) + 0.3)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7, min_n_ticks=1))
    low, high = axes[0].dataLim.intervaly if axes[0].lines else (0.0, 1.0)
    if 0 < 20 * low < high:
        axes[0].set_yscale("log")
        style.log_ticks(axes[0].yaxis, (1, 2, 5) if high / low < 1000 else (1,))
    else:
        axes[0].set_ylim(min(0.0, low * 1.08), (high if high > 0 else 1.0) * 1.08)
    axes[1].set_ylim(0, 1.02)
    figure.tight_layout(pad=1.2, w_pad=2.5)
    return figure


def plot_precision_recall(
    recall: Values, precision: Values, *, ap: float | None = None, label: str = "", ax: Axes | None = None
) -> Figure:
    """Precision over recall, from the surest detection to the least sure; returns the figure.

    Shapes: recall (M,), rising, and precision (M,), in 0..1; none, or NaN, draws no curve. The thin line is
    measured, the thick one its envelope: the best precision at no less recall, whose area is the all-point
    AP. `ap` and `label` go into the legend, the curve into `ax`. Raises ValueError when lengths differ.
    """
    x, y = (to_array(values).astype(np.float64) for values in (recall, precision))
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"recall {x.shape} and precision {y.shape}: both must be (M,)")
    ax = style.new_figure(620, 560).add_axes((0.12, 0.11, 0.84, 0.8)) if ax is None else ax
    style_axes(ax, "Precision over recall", "recall", "precision")
    ax.set(xlim=(0, 1), ylim=(0, 1.02))
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    color = CURVES[len(ax.lines) // 2 % len(CURVES)]  # each curve is two lines
    ax.plot(x, y, color=color, linewidth=0.8, alpha=0.6, linestyle="-")
    best = np.maximum.accumulate(y[::-1])[::-1]
    if len(x):  # before the first point the best of all holds, after the last nothing
        x, best = np.concatenate([[0.0], x, x[-1:]]), np.concatenate([best[:1], best, [0.0]])
    name = "  ".join(word for word in (drawable(label), "" if ap is None else f"AP {ap:.3f}") if word)
    look = {"drawstyle": "steps-pre", "linewidth": 1.8, "linestyle": "-", "clip_on": False}
    ax.plot(x, best, color=color, label=name or "_", **look)
    if name:
        for text in ax.legend(loc="lower left", fontsize=9, **LEGEND).get_texts():
            text.set_parse_math(False)
            fit_font(text)
    return ax.figure


def plot_learning_curve(curve: LearningCurve) -> Drawing:
    """COCO AP by the number of training images: each training a dot, means a line, the forecast a bar.

    There is a forecast where the curve has two numbers of images or more.
    """
    figure, (ax,) = style.axes_grid(1, 1, 576, 470)
    style_axes(ax, "Average precision, held-out images", "training images", "COCO AP")
    counts = sorted(curve.scores)
    for n in counts:
        ax.plot([n] * len(curve.scores[n]), curve.scores[n], "o", color=CURVES[0], ms=4, alpha=0.6)
    ax.plot(counts, [np.mean(curve.scores[n]) for n in counts], color=CURVES[0], lw=1.6, ls="-")
    if len(counts) > 1:
        more = curve.forecast()
        band = [[max(0.0, more.ap - more.low)], [max(0.0, more.high - more.ap)]]
        ax.errorbar([more.images], [more.ap], band, fmt="s", color=CURVES[1], capsize=4, ms=5)
        counts = [*counts, more.images]
    ax.set(xscale="log", xticks=counts, ylim=(0, 1))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())
    figure.tight_layout(pad=1.2)
    return figure


def plot_panels(
    x: Values,
    panels: Mapping[str, Mapping[str, Values]],
    *,
    xlabel: str = "",
    ylims: Sequence[tuple[float, float] | None] | None = None,
    logx: bool = False,
    logy: bool = False,
    columns: int | None = None,
) -> Drawing:
    """Curves over one x (M,) in panels side by side: {title: {name: y (M,)}}; names in a legend each.

    `columns` panels stand in a row (None: all); `ylims` are (low, high) of each, None where the data decides.
    Raises ValueError without panels, for a curve of another length and for a wrong number of `ylims`.
    """
    if not panels:
        raise ValueError("there are no panels to draw: pass at least one")
    if ylims is not None and len(ylims) != len(panels):
        raise ValueError(f"{len(ylims)} ylims for {len(panels)} panels: pass one for each")
    across, columns = to_array(x), columns or len(panels)
    figure, axes = style.axes_grid(len(panels), columns, 520, 440 if columns >= len(panels) else 330)
    for ax, (title, curves), ylim in zip(axes, panels.items(), ylims or [None] * len(panels), strict=True):
        style_axes(ax, title, xlabel)
        for (name, values), color in zip(curves.items(), CURVES * 2, strict=False):
            y = to_array(values)
            if y.shape != across.shape:
                raise ValueError(f"{name!r} is {y.shape} over x {across.shape}: pass one value for each x")
            ax.plot(across, y, color=color, linewidth=1.6, label=name)
        ax.set(xscale="log" if logx else "linear", yscale="log" if logy else "linear")
        if logx:
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        if ylim is not None:
            ax.set_ylim(*ylim)
        ax.margins(x=0.01)
        if len(curves) > 1:
            ax.legend(fontsize=8, **LEGEND)
    figure.tight_layout(pad=1.2, w_pad=2.5)
    return figure


def plot_dots(panels: Mapping[str, Mapping[str, Sequence[float]]], *, baseline: str | None = None) -> Drawing:
    """Repeated measurements, a row for each name: {title: {name: values}}, panels side by side.

    Each value is a dot, their mean a bar; a dashed line marks the mean of `baseline`. Raises ValueError
    without panels or values.
    """
    names = list(dict.fromkeys(name for rows in panels.values() for name in rows))
    if not names or any(len(values) == 0 for rows in panels.values() for values in rows.values()):
        raise ValueError("there is nothing to draw: pass panels with names, and a value or more for each")
    figure = style.new_figure(300 + 330 * len(panels), 100 + 34 * len(names))
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for ax, (title, rows) in zip(axes, panels.items(), strict=True):
        style_axes(ax, title)
        means = {name: sum(values) / len(values) for name, values in rows.items()}
        for name, values in rows.items():
            y, color = names.index(name), CURVES[name == baseline]
            ax.plot(values, [y] * len(values), "o", color=color, markersize=4, alpha=0.6)
            ax.plot(means[name], y, "|", color=color, markersize=14, markeredgewidth=2)
        if baseline in means:
            ax.axvline(means[baseline], color=CURVES[1], linewidth=0.8, linestyle="--")
        ax.set_xlim(left=0)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)  # the first row on top
    figure.tight_layout(pad=1.2, w_pad=2.0)
    return figure


def plot_coverage(report: AnchorReport, spec: AnchorSpec | None = None) -> Drawing:
    """How anchors fit a data set's objects: each object by side and shape, and the shares by group.

    In the large panel a mark is an object, in pixels of the network's image; with `spec` crosses are the
    shapes of its anchors. Bars give the share fitted of each group and its number of objects. Raises
    ValueError without objects.
    """
    if not len(report.best):
        raise ValueError("the report has no objects: there is nothing to draw")
    figure = style.new_figure(1152, 520)
    _plot_objects(figure.add_axes((0.07, 0.13, 0.42, 0.74)), report, spec)
    for top, title, groups in ((0.59, "by side", report.by_side()), (0.13, "by shape", report.by_ratio())):
        ax = figure.add_axes((0.68, top, 0.25, 0.3))
        style_axes(ax, f"Share fitted, {title}")
        groups = [group for group in groups if group.objects][::-1]  # the first on top
        rows = range(len(groups))
        ax.barh(rows, [group.recall for group in groups], color=CURVES[0], height=0.62)
        ax.barh(rows, 1, color=style.MAT, height=0.62, zorder=0)
        ax.set(xlim=(0, 1), ylim=(-0.6, len(groups) - 0.4), yticks=rows)
        ax.set_yticklabels([group.name for group in groups])
        ax.xaxis.set_major_formatter(PercentFormatter(1))
        words = {"fontsize": 8, "va": "center", "transform": ax.get_yaxis_transform(), "color": INK}
        for row, group in enumerate(groups):
            ax.text(1.03, row, f"{group.objects:,}", **words)
        ax.text(1.03, 1.06, "objects", transform=ax.transAxes, fontsize=8, color=style.FAINT)
    return figure


def _plot_objects(ax: Axes, report: AnchorReport, spec: AnchorSpec | None) -> None:
    """Objects by side and ratio, both on log scales, the unfitted ones on top, and the anchors' shapes."""
    style_axes(ax, "Objects and anchors", "side, pixels (root of the area)", "width : height", pad=26)
    side, ratio = (v.cpu().numpy().clip(1e-2, 1e4) for v in (report.side, report.ratio))
    fitted = report.fitted.cpu().numpy()
    for mask, name, color in ((fitted, "fitted", CURVES[0]), (~fitted, "fitted by no anchor", CURVES[1])):
        marks = {"s": 14, "color": color, "alpha": 0.55, "linewidths": 0, "clip_on": False}
        ax.scatter(side[mask], ratio[mask], label=f"{name}, {mask.sum():,}", **marks)
    if spec is not None:
        shapes = np.array([shape for k in range(len(spec.sizes)) for shape in spec.shapes(k)])  # (S, 2)
        width, height = shapes.T * np.array(report.image_size[::-1])[:, None]
        marks = {"marker": "+", "s": 34, "color": INK, "linewidths": 0.9}
        ax.scatter(np.sqrt(width * height), width / height, label=f"anchors, {len(shapes)} shapes", **marks)
    ax.set(xscale="log", yscale="log")
    style.log_ticks(ax.xaxis)
    style.log_ticks(ax.yaxis)
    place = {"loc": "lower left", "bbox_to_anchor": (-0.02, 0.99), "borderpad": 0}
    ax.legend(ncols=3, handletextpad=0.1, columnspacing=1, fontsize=8, **place, **LEGEND)
