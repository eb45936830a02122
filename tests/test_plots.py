"""Drawings: what is in them, where it lies, and files that are whole or absent."""

from __future__ import annotations

import io
import math
import os
import pickle
import subprocess
import sys
import warnings

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from d2lmini import plots
from d2lmini.data.samples import Sample
from d2lmini.detect import Detections
from d2lmini.plots.boxes import box_rows, draw_rows, show_image
from d2lmini.plots.style import new_figure, text_color
from d2lmini.plots.tags import place_tag

CLASSES = ("banana", "apple", "mug")


def noise(height: int = 48, width: int = 64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def some_boxes(count: int, seed: int = 0) -> torch.Tensor:
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed))
    return corners.sort(1).values.reshape(count, 4)


def found(count: int, seed: int = 0) -> Detections:
    return Detections(some_boxes(count, seed), torch.linspace(0.98, 0.3, count), torch.arange(count) % 3)


def sample(labels: list[int], seed: int = 0, height: int = 48, width: int = 64) -> Sample:
    return Sample(noise(height, width, seed), some_boxes(len(labels), seed), torch.tensor(labels).long())


def truth(count: int) -> dict[str, torch.Tensor]:
    return {"boxes": some_boxes(count), "labels": torch.arange(count) % 3}


def edges(figure: Figure) -> list[Rectangle]:
    return [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]


def pixels(figure: Figure) -> np.ndarray:
    """What is drawn, (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(figure._repr_png_())).convert("RGB"))


def tags(figure: Figure) -> list:
    """The visible tags and their frames in pixels, after drawing."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [text for text in figure.axes[0].texts if text.get_visible()]
    return [(text, text.get_bbox_patch().get_window_extent(renderer)) for text in texts]


# ---- no global state ----


def test_no_pyplot_no_display_and_settings_untouched():
    code = (
        "import sys, torch, matplotlib as mpl; before = mpl.rcParams.copy()\n"
        "from d2lmini import plots\n"
        "plots.draw_image(torch.zeros(3, 9, 9, dtype=torch.uint8))._repr_png_()\n"
        "plots.plot_history([{'epoch': 1, 'loss': 1.0}])._repr_png_()\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert mpl.rcParams.copy() == before\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "DISPLAY"}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)


def test_a_figure_shows_itself_as_png_of_its_size():
    figure = plots.draw_image(noise(), width=320)
    image = Image.open(io.BytesIO(figure._repr_png_()))
    assert (image.format, image.size) == ("PNG", (320, 240))


def test_dark_style_of_the_user_does_not_leak_into_a_figure():
    rows = [{"epoch": e, "loss": 1 / e, "ap": 0.1 * e, "ap50": 0.2 * e} for e in (1, 2, 3)]
    plain = pixels(plots.plot_history(rows))
    style = {
        "figure.facecolor": "black",
        "axes.facecolor": "black",
        "text.color": "white",
        "axes.edgecolor": "red",
        "xtick.color": "red",
        "grid.linestyle": ":",
        "savefig.bbox": "tight",
        "savefig.dpi": 30,
        "lines.linestyle": "--",
    }
    with mpl.rc_context(style):
        styled = pixels(plots.plot_history(rows))
    np.testing.assert_array_equal(plain, styled)


def test_figures_can_be_pickled():
    figure = plots.draw_image(noise(), **truth(3), classes=CLASSES)
    np.testing.assert_array_equal(pixels(pickle.loads(pickle.dumps(figure))), pixels(figure))


# ---- colors ----


def test_class_colors_differ_for_21_classes_and_repeat_for_ever():
    assert len({plots.class_color(label) for label in range(21)}) == 21
    assert plots.class_color(21) == plots.class_color(0)


@pytest.mark.parametrize("label", range(21))
def test_tag_ink_has_contrast(label):
    def luminance(color: str) -> float:
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    color = plots.class_color(label)
    pair = sorted([luminance(color), luminance(text_color(color))])
    assert (pair[1] + 0.05) / (pair[0] + 0.05) > 4.5  # WCAG AA


# ---- one image ----


def test_images_of_all_kinds_give_one_image():
    tensor = noise()
    array = tensor.permute(1, 2, 0).numpy()
    expected = pixels(plots.draw_image(tensor))
    np.testing.assert_array_equal(pixels(plots.draw_image(array)), expected)
    np.testing.assert_array_equal(pixels(plots.draw_image(Image.fromarray(array))), expected)


def test_an_image_at_its_own_size_is_drawn_pixel_by_pixel():
    tensor = noise(48, 64)
    np.testing.assert_array_equal(pixels(plots.draw_image(tensor, width=64)), tensor.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 8, 8),
        torch.zeros(8, 8, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(8, 8, dtype=torch.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_other_images_are_refused(image):
    with pytest.raises(ValueError, match=r"image is .*pass a uint8 tensor \(3, H, W\)"):
        plots.draw_image(image)


def test_a_data_unit_is_a_pixel_from_edge_to_edge():
    ax = plots.draw_image(noise(48, 64)).axes[0]
    assert tuple(ax.images[0].get_extent()) == (0, 64, 48, 0)
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 64), (48, 0))


def test_boxes_lie_where_they_belong():
    boxes = torch.tensor([[0.25, 0.5, 0.75, 1.0]])
    (edge,) = edges(plots.draw_image(noise(48, 64), boxes=boxes, labels=torch.tensor([1])))
    assert edge.get_xy() == (16, 24)
    assert (edge.get_width(), edge.get_height()) == (32, 24)


def test_a_drawn_edge_has_its_color_between_dark_rims():
    image = torch.full((3, 100, 100), 255, dtype=torch.uint8)
    figure = new_figure(500, 500)
    ax = figure.add_axes((0, 0, 1, 1))
    frame = show_image(image, ax)
    one = plots.Boxes(torch.tensor([[0.2, 0.2, 0.8, 0.8]]), plots.class_color(0))
    draw_rows(ax, box_rows(frame, one), frame)
    drawn = pixels(figure)
    row = drawn[250].astype(int)  # through the left edge at x = 100
    color = np.array([int(plots.class_color(0)[i : i + 2], 16) for i in (1, 3, 5)])
    assert np.abs(row[100] - color).max() <= 2
    assert row[97:100].min() < 60
    assert row[101:104].min() < 60
    assert row[90].min() == row[110].min() == 255


def test_truth_is_dashed_and_detections_are_solid():
    s = sample([0, 2])
    figure = plots.contact_sheet([s], CLASSES, detections=[found(3)])
    styles = [edge.get_linestyle() == "solid" or edge.get_linestyle() == "-" for edge in edges(figure)]
    assert styles == [True] * 3 + [False] * 2
    assert [mpl.colors.to_hex(edge.get_edgecolor()) for edge in edges(figure)[3:]] == ["#ffffff"] * 2


def test_truth_alone_has_the_color_of_its_class():
    s = sample([2])
    (edge,) = edges(plots.draw_image(s.image, boxes=s.boxes, labels=s.labels))
    assert mpl.colors.to_hex(edge.get_edgecolor()) == plots.class_color(2)


def test_padding_and_boxes_that_are_not_finite_are_never_drawn():
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.5], [0, 0, 0, 0], [math.nan, 0, 1, 1], [0, 0, math.inf, 1]])
    figure = plots.draw_image(noise(), boxes=boxes, labels=torch.tensor([1, -1, 0, 0]), classes=CLASSES)
    assert len(edges(figure)) == 1
    assert [text.get_text() for text in figure.axes[0].texts] == ["apple"]


def test_tags_say_class_and_score():
    figure = plots.draw_image(noise(), **truth(3), classes=CLASSES)
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["apple", "banana", "mug"]
    frame, (boxes, scores, labels) = (0, 0, 64, 48), found(3)
    rows = box_rows(frame, plots.Boxes(boxes), labels, scores, CLASSES)
    assert [row.text for row in rows] == ["banana 0.98", "apple 0.64", "mug 0.30"]
    rows = box_rows(frame, plots.Boxes(boxes), labels, scores)
    assert [row.text for row in rows] == ["0.98", "0.64", "0.30"]


@pytest.mark.parametrize("count", [1, 8, 60])
@pytest.mark.parametrize(("height", "width"), [(48, 64), (30, 300), (200, 60)])
def test_tags_stay_inside_the_image(count, height, width):
    objects = truth(count)
    objects["boxes"][0] = torch.tensor([0.97, 0.97, 1.0, 1.0])
    if count > 1:
        objects["boxes"][1] = torch.tensor([0.0, 0.0, 0.02, 0.02])
    names = ("banana", "a long name of a class", "mug")
    figure = plots.draw_image(noise(height, width), **objects, classes=names, width=500)
    pixels(figure)
    frame = figure.axes[0].bbox
    shown = tags(figure)
    assert len(shown) == count
    for _, extent in shown:
        assert extent.x0 >= frame.x0 - 0.6
        assert extent.y0 >= frame.y0 - 0.6
        assert extent.x1 <= frame.x1 + 0.6
        assert extent.y1 <= frame.y1 + 0.6


def test_tags_keep_clear_of_each_other_while_there_is_room():
    boxes = torch.tensor([[0.3, 0.3, 0.7, 0.7]]).repeat(4, 1)
    figure = plots.draw_image(noise(), boxes=boxes, labels=[0, 1, 2, 0], classes=CLASSES)
    pixels(figure)
    extents = [extent for _, extent in tags(figure)]
    assert len(extents) == 4
    for i, a in enumerate(extents):
        for b in extents[:i]:
            overlap_x = min(a.x1, b.x1) - max(a.x0, b.x0)
            overlap_y = min(a.y1, b.y1) - max(a.y0, b.y0)
            assert min(overlap_x, overlap_y) < 1


@pytest.mark.parametrize(("width", "least", "most"), [(720, 8, 8), (245, 4, 7.9)])
def test_a_tag_shrinks_to_fit(width, least, most):
    names = ["the name of a class that is rather long"]
    figure = plots.draw_image(noise(), **truth(1), classes=names, width=width)
    (text,) = figure.axes[0].texts
    assert least <= text.get_fontsize() <= most
    pixels(figure)
    ((_, extent),) = tags(figure)
    assert extent.width <= width + 0.6


def test_a_tag_larger_than_the_image_is_left_out():
    figure = plots.draw_image(noise(), **truth(1), classes=["a name that is too long"], width=43)
    assert not figure.axes[0].texts
    assert len(edges(figure)) == 1


def test_tags_stay_at_their_boxes_at_another_resolution():
    figure = plots.draw_image(noise(), **truth(3), classes=CLASSES)
    pixels(figure)
    before = [extent.get_points() for _, extent in tags(figure)]
    figure.set_dpi(2 * figure.dpi)
    pixels(figure)
    after = [extent.get_points() for _, extent in tags(figure)]
    np.testing.assert_allclose(np.array(after) / 2, before, atol=2)


def test_names_are_no_formulas():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plots.draw_image(noise(), **truth(1), classes=[r"$\bad{$"])
        pixels(figure)
        pixels(plots.contact_sheet([sample([0, 1])], [r"$\bad{$", r"$\frac{"]))
    assert figure.axes[0].texts[0].get_text().startswith(r"$\bad{$")


def test_labels_without_names_and_wrong_lengths_are_refused():
    with pytest.raises(ValueError, match="label 2 has no name, there are 2 classes"):
        plots.draw_image(noise(), **truth(3), classes=["a", "b"])
    with pytest.raises(ValueError, match=r"labels is \(1,\) for 2 boxes"):
        plots.draw_image(noise(), boxes=some_boxes(2), labels=[0])
    with pytest.raises(ValueError, match=r"boxes are \(1, 2, 4\)"):
        plots.draw_image(noise(), boxes=some_boxes(2)[None])


@pytest.mark.parametrize(("height", "width"), [(10, 3000), (3000, 10), (1, 1)])
def test_extreme_shapes_make_figures_of_reasonable_size(height, width):
    figure = plots.draw_image(noise(height, width), **truth(2), classes=CLASSES)
    high, wide = pixels(figure).shape[:2]
    assert wide <= 720
    assert high <= 1130


def test_no_objects_draw_no_boxes():
    figure = plots.draw_image(noise(), **truth(0), classes=CLASSES)
    assert edges(figure) == []
    assert len(figure.axes[0].texts) == 0


# ---- contact sheets ----


def test_a_sheet_draws_every_object_once_and_no_padding():
    samples = [sample([0, 1], 0), sample([], 1), sample([2, -1, -1], 2, 100, 20)]
    figure = plots.contact_sheet(samples, CLASSES, columns=2, cell=64)
    assert len(edges(figure)) == 3
    assert len(figure.axes) == 1
    assert len(figure.axes[0].images) == 1


def test_a_sheet_letterboxes_and_boxes_follow():
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    shapes = [(40, 80), (80, 40), (64, 64)]
    samples = [
        Sample(torch.full((3, *shape), 200, dtype=torch.uint8), whole, torch.tensor([0])) for shape in shapes
    ]
    figure = plots.contact_sheet(samples, CLASSES[:1], columns=2, cell=64)
    gap = 2
    expected = [
        (gap, gap + 16, 64, 32),
        (gap + 66 + 16, gap, 32, 64),
        (gap, gap + 66, 64, 64),
    ]
    assert [(*e.get_xy(), e.get_width(), e.get_height()) for e in edges(figure)] == expected
    for edge in edges(figure):
        edge.remove()
    drawn = pixels(figure)
    assert drawn.shape == (134, 134, 3)
    for x, y, w, h in expected:
        assert (drawn[y : y + h, x : x + w] == 200).all()
    assert (drawn[gap : gap + 16, gap : gap + 64] == 0xEC).all()  # the mat
    assert (drawn[:gap] == 255).all()
    assert (drawn[gap + 66 :, gap + 66 :] == 255).all()  # no fourth image


def test_a_sheet_cuts_boxes_off_at_their_image():
    wide = torch.tensor([[-2.0, 0.4, 3.0, 0.6]])
    blank = torch.full((3, 64, 64), 255, dtype=torch.uint8)
    samples = [
        Sample(blank, wide, torch.tensor([0])),
        Sample(blank, wide[:0], torch.tensor([]).long()),
    ]
    drawn = pixels(plots.contact_sheet(samples, CLASSES[:1], cell=64))
    assert (drawn[:66, 2:66] < 100).any()
    assert (drawn[:66, 68:] == 255).all()


def test_a_sheet_with_detections_keeps_truth_white_and_names_all_in_a_legend():
    samples = [sample([0], 0), sample([1], 1)]
    figure = plots.contact_sheet(samples, CLASSES, detections=[found(3), found(0)])
    assert len(edges(figure)) == 5
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["banana", "apple", "mug", "ground truth"]


def test_a_sheet_of_one_class_needs_no_legend():
    figure = plots.contact_sheet([sample([0])], CLASSES[:1])
    assert figure.legends == []


def test_a_legend_fits_on_the_sheet_of_many_classes():
    names = [f"class number {i}" for i in range(30)]
    samples = [sample(list(range(30)), 0), sample([1], 1)]
    figure = plots.contact_sheet(samples, names, columns=4, cell=200)
    drawn = pixels(figure)
    (legend,) = figure.legends
    extent = legend.get_window_extent()
    assert extent.x0 >= 0
    assert extent.x1 <= drawn.shape[1]
    assert extent.y0 >= 0
    assert extent.y1 <= figure.axes[0].bbox.y0 + 1


def test_a_sheet_asks_a_data_set_once_for_each_image():
    class Counting(torch.utils.data.Dataset):
        asked = 0

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Sample:
            if index >= 3:
                raise IndexError(index)
            self.asked += 1
            return sample([index])

    data = Counting()
    assert len(edges(plots.contact_sheet(data, CLASSES))) == 3
    assert data.asked == 3


def test_a_sheet_refuses_what_it_cannot_draw():
    with pytest.raises(ValueError, match="no samples to draw"):
        plots.contact_sheet([], CLASSES)
    with pytest.raises(ValueError, match="1 detections for 2 samples"):
        plots.contact_sheet([sample([0])] * 2, CLASSES, detections=[found(0)])
    with pytest.raises(ValueError, match="columns is 0"):
        plots.contact_sheet([sample([0])], CLASSES, columns=0)
    with pytest.raises(ValueError, match="label 3 has no name"):
        plots.contact_sheet([sample([3])], CLASSES)
    bad = sample([0])._replace(image=torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match="image of sample 1 is float32"):
        plots.contact_sheet([sample([0]), bad], CLASSES)


# ---- curves ----


def history(count: int) -> list[dict[str, float | None]]:
    return [
        {
            "epoch": e,
            "loss": 12 * 0.7**e + 0.05,
            "cls_loss": 9 * 0.7**e + 0.03,
            "box_loss": 3 * 0.7**e + 0.02,
            "ap": 0.5 if e % 2 == 0 else None,
            "ap50": 0.8 if e % 2 == 0 else math.nan,
        }
        for e in range(1, count + 1)
    ]


def test_history_draws_finite_values_and_names_the_last():
    figure = plots.plot_history(history(20))
    left, right = figure.axes
    assert left.get_yscale() == "log"
    assert [len(line.get_xdata()) for line in left.lines] == [20, 20, 20]
    assert [line.get_xdata().tolist() for line in right.lines] == [list(range(2, 21, 2))] * 2
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["AP50 0.800", "COCO AP 0.500"]
    assert right.get_ylim()[0] == 0
    assert 1 <= right.get_ylim()[1] < 1.05


def test_history_has_a_legend_in_each_panel_and_nothing_is_cut_off():
    figure = plots.plot_history(history(20))
    drawn = pixels(figure)
    for ax in figure.axes:
        extent, frame = ax.get_legend().get_window_extent(), ax.bbox
        assert frame.x0 <= extent.x0 <= extent.x1 <= frame.x1
        assert frame.y0 <= extent.y0 <= extent.y1 <= frame.y1
    edge = np.concatenate([drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]])
    assert (edge == 255).all()


def test_history_of_one_epoch_and_without_validation():
    figure = plots.plot_history([{"epoch": 1, "loss": 2.0}])
    left, right = figure.axes
    assert [line.get_marker() for line in left.lines] == ["o"]
    assert left.get_yscale() == "linear"
    assert [text.get_text() for text in right.texts] == ["no values yet"]
    pixels(figure)


@pytest.mark.parametrize(
    "rows",
    [
        [{}],
        [{"loss": None}, {"loss": math.nan, "ap": math.inf}],
        [{"epoch": 1, "loss": 0.0, "cls_loss": 0.0, "box_loss": 0.0, "ap": 0.0, "ap50": 0.0}],
        [{"epoch": 1, "loss": -1.0}, {"epoch": 2, "loss": 1e6}],
        [{"epoch": 1, "loss": 1e-9}, {"epoch": 2, "loss": 1e9}],
        [{"epoch": 7, "loss": np.float32(1.5), "ap": torch.tensor(0.5)}],
    ],
)
def test_history_of_odd_values_draws_without_a_warning(rows):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels(plots.plot_history(rows))


def test_history_without_rows_is_refused():
    with pytest.raises(ValueError, match="history is empty"):
        plots.plot_history([])


def test_precision_recall_draws_measured_points_and_envelope():
    recall = np.array([0.25, 0.25, 0.5, 0.5, 0.75])
    precision = np.array([1.0, 0.5, 2 / 3, 0.5, 0.6])
    figure = plots.plot_precision_recall(recall, torch.from_numpy(precision), ap=0.5, label="mug")
    (ax,) = figure.axes
    measured, envelope = ax.lines
    np.testing.assert_array_equal(measured.get_xdata(), recall)
    steps = dict(zip(envelope.get_xdata().tolist(), envelope.get_ydata().tolist(), strict=True))
    # At every recall the best precision to its right, by the definition; 0 after the last.
    for r in (0.0, 0.25, 0.5):
        last = max(i for i, x in enumerate(recall) if x == r) if r else 0
        assert steps[r] == max(precision[last:])
    assert steps[0.75] == 0
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["mug  AP 0.500"]


def test_precision_recall_of_several_classes_share_axes():
    figure = plots.plot_precision_recall([0.5], [1.0], label="a")
    again = plots.plot_precision_recall([0.4], [0.9], label="b", ax=figure.axes[0])
    assert again is figure
    colors = {line.get_color() for line in figure.axes[0].lines}
    assert len(colors) == 2


@pytest.mark.parametrize("recall", [[], [math.nan, math.nan]])
def test_precision_recall_of_nothing_is_an_empty_diagram(recall):
    figure = plots.plot_precision_recall(recall, [1.0] * len(recall))
    assert all(len(line.get_xdata()) == 0 for line in figure.axes[0].lines)
    pixels(figure)


def test_precision_recall_of_different_lengths_is_refused():
    with pytest.raises(ValueError, match=r"recall \(2,\) and precision \(1,\)"):
        plots.plot_precision_recall([0.1, 0.2], [1.0])


# ---- images at their own resolution ----


@pytest.mark.parametrize("size", [(16, 16), (1, 1), (3000, 100), (40, 2000), (640, 480)])
@pytest.mark.parametrize("count", [0, 1, 200])
def test_annotate_keeps_the_size_and_draws(size, count):
    image = Image.new("RGB", size, "#808080")
    before = image.tobytes()
    drawn = plots.annotate(image, found(count), CLASSES)
    assert (drawn.size, drawn.mode) == (size, "RGB")
    assert image.tobytes() == before
    assert (drawn.tobytes() == before) == (count == 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "YCbCr"])
def test_annotate_takes_every_mode(mode):
    drawn = plots.annotate(Image.new(mode, (50, 40)), found(2), CLASSES)
    assert (drawn.size, drawn.mode) == ((50, 40), "RGB")


def test_annotate_shows_transparency_as_white():
    image = Image.new("RGBA", (30, 20), (255, 0, 0, 0))
    drawn = np.asarray(plots.annotate(image, found(0), CLASSES))
    assert (drawn == 255).all()


def test_annotate_keeps_the_color_profile_and_nothing_else():
    image = Image.new("RGB", (50, 40))
    image.info = {"icc_profile": b"profile", "exif": b"where I live"}
    assert plots.annotate(image, found(1), CLASSES).info == {"icc_profile": b"profile"}
    assert "exif" in image.info


def test_annotate_takes_tensors_and_leaves_them_alone():
    image = noise()
    before = image.clone()
    drawn = plots.annotate(image, found(3), CLASSES)
    assert drawn.size == (64, 48)
    assert torch.equal(image, before)


def test_annotate_puts_the_edge_on_the_border_of_the_box():
    image = Image.new("RGB", (50, 50), "white")  # small: a line of one pixel, no rim, no tag
    box = torch.tensor([[0.2, 0.4, 0.6, 0.8]])
    drawn = plots.annotate(image, Detections(box, torch.ones(1), torch.tensor([2])), CLASSES)
    color = np.array([int(plots.class_color(2)[i : i + 2], 16) for i in (1, 3, 5)])
    expected = np.zeros((50, 50), bool)
    expected[20:40, 10:30] = True
    expected[21:39, 11:29] = False
    np.testing.assert_array_equal((np.asarray(drawn) == color).all(-1), expected)


def test_annotate_grows_with_the_image():
    box = Detections(torch.tensor([[0.2, 0.2, 0.8, 0.8]]), torch.ones(1), torch.zeros(1).long())
    color = np.array([int(plots.class_color(0)[i : i + 2], 16) for i in (1, 3, 5)])
    widths = []
    for side in (320, 3200):
        row = np.asarray(plots.annotate(Image.new("RGB", (side, side)), box, ["a"]))[side // 2]
        widths.append((row == color).all(-1).sum() / 2)
    assert widths == [1, 10]


def test_annotate_draws_the_thinnest_box_as_thick_as_a_line():
    box = Detections(torch.tensor([[0.2, 0.5, 0.8, 0.5]]), torch.ones(1), torch.zeros(1).long())
    drawn = np.asarray(plots.annotate(Image.new("RGB", (1600, 1600)), box, [""]))
    color = np.array([int(plots.class_color(0)[i : i + 2], 16) for i in (1, 3, 5)])
    assert (drawn[:, 1200] == color).all(-1).sum() == 5


def test_annotate_leaves_out_tags_that_do_not_fit():
    box = Detections(torch.tensor([[0.1, 0.1, 0.9, 0.9]]), torch.ones(1), torch.zeros(1).long())
    image = Image.new("RGB", (300, 300))
    short = np.asarray(plots.annotate(image, box, ["mug"]))
    long = np.asarray(plots.annotate(image, box, ["x" * 200]))
    assert (short != long).any()
    color = np.array([int(plots.class_color(0)[i : i + 2], 16) for i in (1, 3, 5)])
    assert (long == color).all(-1).sum() == 4 * 240 - 4  # the outline alone


def test_annotate_draws_names_of_several_lines_and_other_alphabets():
    plots.annotate(Image.new("RGB", (300, 300)), found(3), ["two\nlines", "größe σ", "香蕉"])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_annotate_skips_boxes_that_are_not_finite(bad):
    boxes = torch.tensor([[0.1, 0.1, bad, 0.5]])
    image = Image.new("RGB", (60, 60))
    drawn = plots.annotate(image, Detections(boxes, torch.ones(1), torch.tensor([0])), CLASSES)
    assert drawn.tobytes() == image.tobytes()


@pytest.mark.parametrize("box", [[-1.0, -1.0, 2.0, 2.0], [0.5, 0.5, 0.5, 0.5], [1.0, 1.0, 1.0, 1.0]])
def test_annotate_draws_boxes_beyond_the_image_and_without_area(box):
    detections = Detections(torch.tensor([box]), torch.ones(1), torch.tensor([0]))
    image = Image.new("RGB", (200, 160))
    assert plots.annotate(image, detections, CLASSES).tobytes() != image.tobytes()


# ---- where tags go ----


def place(boxes: np.ndarray, sizes: np.ndarray, canvas: tuple[float, ...]) -> np.ndarray:
    """Corners (D, 4) of tags, each placed clear of those before it."""
    placed = np.zeros((0, 4))
    for box, size in zip(boxes, sizes, strict=True):
        placed = np.concatenate([placed, place_tag(box, size, canvas, placed)[None]])
    return placed


def test_tags_go_above_their_box_else_inside():
    boxes = np.array([[50.0, 50, 90, 90], [5, 0, 60, 40], [80, 40, 100, 60]])
    sizes = np.full((3, 2), (30.0, 10.0))
    placed = place(boxes, sizes, (0, 0, 100, 100))
    expected = [[50, 40, 80, 50], [5, 0, 35, 10], [70, 30, 100, 40]]
    # The third would leave the image: it ends at its box's right edge, but the first is there.
    assert placed[:2].tolist() == expected[:2]
    assert placed[2, 2] == 100
    assert place(boxes[2:], sizes[2:], (0, 0, 100, 100)).tolist() == expected[2:]


def test_tags_never_leave_the_canvas():
    rng = np.random.default_rng(0)
    boxes = np.sort(rng.uniform(-50, 250, (100, 2, 2)), axis=1).reshape(100, 4)
    sizes = rng.uniform(5, 60, (100, 2))
    placed = place(boxes, sizes, (10, 20, 190, 180))
    assert (placed >= np.array([10, 20, 10, 20]) - 1e-9).all()
    assert (placed <= np.array([190, 180, 190, 180]) + 1e-9).all()
    np.testing.assert_allclose(placed[:, 2:] - placed[:, :2], sizes)


# ---- files ----


def test_saving_twice_gives_the_same_bytes_without_date_or_version(tmp_path):
    for name in ("a.png", "b.png"):
        plots.save(plots.draw_image(noise(), **truth(3), classes=CLASSES), tmp_path / name)
    data = (tmp_path / "a.png").read_bytes()
    assert data == (tmp_path / "b.png").read_bytes()
    assert Image.open(tmp_path / "a.png").info.keys() <= {"dpi"}
    assert b"atplotlib" not in data


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.jpg", "a.jpeg", "a.webp"])
@pytest.mark.parametrize("kind", ["figure", "image", "transparent"])
def test_every_format_can_be_read_again(tmp_path, name, kind):
    drawings = {
        "figure": plots.draw_image(noise(), width=64),
        "image": Image.new("RGB", (64, 48), "red"),
        "transparent": Image.new("RGBA", (64, 48), (0, 0, 0, 0)),
    }
    plots.save(drawings[kind], tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.size == (64, 48)
        image.load()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.svg", "a", "a.png.txt"])
def test_an_unknown_suffix_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"choose one of \.png, \.jpg, \.jpeg, \.webp"):
        plots.save(Image.new("RGB", (4, 4)), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named_and_not_made(tmp_path):
    with pytest.raises(ValueError, match=r"missing does not exist"):
        plots.save(Image.new("RGB", (4, 4)), tmp_path / "missing" / "a.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match=r"folder\.png is a folder"):
        plots.save(Image.new("RGB", (4, 4)), tmp_path / "folder.png")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_failure_half_way_keeps_the_old_file_and_leaves_nothing_else(tmp_path, monkeypatch, step):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    if step == "write":
        original = os.fdopen

        def opened(*arguments: object):
            file = original(*arguments)
            file.raw.write(b"half a pic")
            monkeypatch.setattr("os.fsync", fail)
            return file

        monkeypatch.setattr("os.fdopen", opened)
    else:
        monkeypatch.setattr(f"os.{step}", fail)
    with pytest.raises(ValueError, match="disk full"):
        plots.save(Image.new("RGB", (4, 4)), path)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(ValueError, match=r"cannot write to .*a\.png \(read-only\)"):
        plots.save(Image.new("RGB", (4, 4)), tmp_path / "a.png")


def test_a_drawing_that_fails_touches_no_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    figure = plots.draw_image(noise())

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(RuntimeError, match="no room"):
        plots.save(figure, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
