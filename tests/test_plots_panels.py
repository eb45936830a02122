"""Curves in panels and images side by side: what stands for a live figure where no script runs."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from d2lmini import plots
from d2lmini.plots import Boxes, View, plot_panels, plot_views

X = torch.linspace(0.1, 2, 20)
PANELS = {"loss": {"a": X**2, "b": X}, "gradient": {"only": 2 * X}}


def pixels(figure: Figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(figure._repr_png_())).convert("RGB"))


# ---------------------------------------------------------------- plot_panels


def test_each_panel_has_its_title_its_curves_and_the_label_of_x():
    drawing = plot_panels(X, PANELS, xlabel="error x")
    assert [ax.get_title(loc="left") for ax in drawing.axes] == ["loss", "gradient"]
    assert [ax.get_xlabel() for ax in drawing.axes] == ["error x", "error x"]
    for ax, curves in zip(drawing.axes, PANELS.values(), strict=True):
        assert [line.get_label() for line in ax.lines] == list(curves)
        for line, y in zip(ax.lines, curves.values(), strict=True):
            np.testing.assert_allclose(line.get_xydata(), np.stack([X, y], 1))


def test_only_several_curves_need_a_legend_and_each_has_a_color_of_its_own():
    left, right = plot_panels(X, PANELS).axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["a", "b"]
    assert right.get_legend() is None
    assert len({line.get_color() for line in left.lines}) == 2


def test_panels_stand_side_by_side_and_none_is_cut_off():
    seen = pixels(plot_panels(X, PANELS))
    assert seen.shape == (440, 1040, 3)
    edge = np.concatenate([seen[0], seen[-1], seen[:, 0], seen[:, -1]])
    assert (edge == 255).all(), "type or lines run over the edge"


def test_limits_are_those_asked_for_and_else_hold_all_the_data():
    left, right = plot_panels(X, PANELS, ylims=((0, 2.5), None)).axes
    assert left.get_ylim() == (0, 2.5)
    low, high = right.get_ylim()
    assert low <= 0.2
    assert high >= 4
    assert plot_panels(X, PANELS, ylims=(None, (1, 3))).axes[1].get_ylim() == (1, 3)


def test_scales_are_logarithmic_when_asked_for():
    for logx, logy in ((False, False), (True, False), (False, True)):
        ax = plot_panels(X, PANELS, logx=logx, logy=logy).axes[0]
        assert (ax.get_xscale(), ax.get_yscale()) == tuple("log" if on else "linear" for on in (logx, logy))


def test_panels_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match="no panels"):
        plot_panels(X, {})
    with pytest.raises(ValueError, match="'short'"):
        plot_panels(X, {"loss": {"short": X[:-1]}})
    with pytest.raises(ValueError, match="1 ylims for 2 panels"):
        plot_panels(X, PANELS, ylims=[(0, 1)])


# ---------------------------------------------------------------- plot_views


def gray(height: int, width: int, level: int = 90) -> torch.Tensor:
    return torch.full((3, height, width), level, dtype=torch.uint8)


def edges(ax) -> list[Rectangle]:
    return [patch for patch in ax.patches if isinstance(patch, Rectangle)]


def test_each_view_has_its_image_title_and_boxes_in_their_places():
    corners = torch.tensor([[0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.5, 0.25]])
    first = View(gray(40, 80), "first", [Boxes(corners, ["#ff0000", "#00ff00"], dashed=True, linewidth=3)])
    left, right = plot_views([first, View(gray(40, 80, 200), "second")]).axes
    assert [ax.get_title(loc="left") for ax in (left, right)] == ["first", "second"]
    assert [int(ax.images[0].get_array()[0, 0, 0]) for ax in (left, right)] == [90, 200]
    assert not edges(right)
    for edge, (x0, y0, x1, y1), color in zip(
        edges(left), corners.tolist(), ("#ff0000", "#00ff00"), strict=True
    ):
        assert edge.get_bbox().extents.tolist() == pytest.approx([80 * x0, 40 * y0, 80 * x1, 40 * y1])
        assert to_hex(edge.get_edgecolor()) == color
        assert edge.get_linewidth() == 3
        assert edge.get_linestyle() != "-"


def test_layers_are_drawn_in_their_order_and_solid_unless_dashed():
    layers = [Boxes(torch.tensor([[0.1, 0.1, 0.9, 0.9]]), color) for color in ("#ff0000", "#0000ff")]
    (ax,) = plot_views([View(gray(50, 50), layers=layers)]).axes
    assert [to_hex(edge.get_edgecolor()) for edge in edges(ax)] == ["#ff0000", "#0000ff"]
    assert {edge.get_linestyle() for edge in edges(ax)} == {"-"}
    seen = pixels(plot_views([View(gray(50, 50), layers=layers)]))
    assert (seen == (0, 0, 255)).all(-1).sum() > 200, "the last layer lies on top"
    assert not (seen == (255, 0, 0)).all(-1).any()


def test_a_view_without_boxes_or_with_an_empty_layer_is_just_an_image():
    for layers in ((), [Boxes(torch.zeros(0, 4))]):
        (ax,) = plot_views([View(gray(30, 30), layers=layers)]).axes
        assert not edges(ax)


@pytest.mark.parametrize(
    ("count", "columns", "shape"), [(1, 3, (1, 1)), (3, 3, (1, 3)), (4, 3, (2, 3)), (2, 1, (2, 1))]
)
def test_views_fill_rows_of_so_many_columns(count, columns, shape):
    views = [View(gray(20, 20), str(i)) for i in range(count)]
    drawing = plot_views(views, columns=columns, cell=100)
    rows, wide = shape
    assert pixels(drawing).shape == (rows * 140, wide * 112, 3)
    shown = [ax for ax in drawing.axes if ax.images]
    assert [ax.get_title(loc="left") for ax in shown] == [str(i) for i in range(count)]
    assert not any(ax.axison for ax in drawing.axes), "an empty place shows no frame"


def test_views_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match="no views"):
        plot_views([])
    with pytest.raises(ValueError, match="pass a uint8 tensor"):
        plot_views([View(torch.zeros(3, 4, 4))])
    with pytest.raises(ValueError, match="pass one, or one for each"):
        plot_views([View(gray(8, 8), layers=[Boxes(torch.zeros(3, 4), ["#ffffff", "#000000"])])])


def test_the_same_drawing_gives_the_same_file():
    assert len({plot_panels(X, PANELS)._repr_png_() for _ in range(2)}) == 1
    assert plots.plot_views([View(gray(9, 9))])._repr_png_()[:4] == b"\x89PNG"
