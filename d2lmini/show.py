"""Every drawing: pictures with boxes, contact sheets, learning curves, precision over recall.

One grammar throughout: a colour is a class, a solid line is a detection, a dashed line is ground
truth. Every line has a dark rim, so that it stands out from any picture; the colours are those of
Okabe and Ito, which the colour-blind can tell apart.

Only matplotlib's object interface is used: no pyplot, no global state, no display. What comes back
is a `Drawing`, a figure that a notebook shows by itself.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter, StrMethodFormatter
from matplotlib.transforms import IdentityTransform
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from d2lmini.checkpoint import write_bytes

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from d2lmini.anchors import AnchorSpec
    from d2lmini.coverage import AnchorReport, Group
    from d2lmini.data.samples import Sample
    from d2lmini.detect import Detections

    Picture = Tensor | NDArray[np.uint8] | Image.Image

# Okabe and Ito's colours, those first that differ most from each other and from a picture's browns.
PALETTE = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2")
CURVES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # dark ones first
INK, FAINT, PAPER, MAT = "#222222", "#767676", "#FFFFFF", "#ECECEC"
RIM, TRUTH = "#101010", "#FFFFFF"
RIM_WIDTH = 1.0  # how much wider the dark line under a line is, in points
TAG_PAD = 0.22  # around a tag's words, in sizes of its type
DPI = 144  # two pixels to a typographic point
DASHES = (0, (2.0, 3.0))  # in line widths; the caps make the dashes one longer, the gaps shorter
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


# ---- colours, pixels, rows: what matplotlib and Pillow drawings share ----


def class_colour(label: int) -> str:
    """The colour of a class id, as "#rrggbb": seven hues, then their tints, then their shades.

    >>> class_colour(0), class_colour(7)
    ('#56b4e9', '#abdaf4')
    """
    mix, share = ((PAPER, 0.0), (PAPER, 0.5), (RIM, 0.45))[label // len(PALETTE) % 3]
    pure, other = np.array(to_rgb(PALETTE[label % len(PALETTE)])), np.array(to_rgb(mix))
    return to_hex((1 - share) * pure + share * other)


def _ink_on(colour: str) -> str:
    """Black or white, whichever is easier to read on a colour (WCAG 2, relative luminance)."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return "#000000" if linear @ (0.2126, 0.7152, 0.0722) > 0.179 else "#FFFFFF"


def _opaque(image: Image.Image) -> Image.Image:
    """A Pillow image of any mode as a new RGB one; what is transparent becomes white."""
    if not image.has_transparency_data:
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    image = image.convert("RGBA")
    paper = Image.new("RGBA", image.size, PAPER)
    return Image.alpha_composite(paper, image).convert("RGB")


def _array(values: ArrayLike | Tensor) -> NDArray[Any]:
    """Anything like an array, on any device, as a NumPy array."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _pixels(image: Picture, name: str = "image") -> NDArray[np.uint8]:
    """Any picture that this module accepts as uint8 (H, W, 3)."""
    if isinstance(image, Image.Image):
        return np.asarray(_opaque(image))
    array = _array(image)
    shape = array.shape
    if isinstance(image, Tensor) and image.ndim == 3:
        array = np.moveaxis(array, 0, -1)  # (H, W, 3)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ValueError(
            f"the {name} is {array.dtype} of shape {shape}: pass a uint8 tensor (3, H, W), "
            "a uint8 array (H, W, 3) or a Pillow image"
        )
    return array


class _Row(NamedTuple):
    """One box to draw: normalised corners, colour, and what its tag says ("": no tag)."""

    corners: tuple[float, float, float, float]
    colour: str
    text: str


def _column(values: ArrayLike | Tensor | None, name: str, length: int) -> NDArray[Any] | None:
    """A column beside the boxes as an array (length,); None stays None."""
    if values is None:
        return None
    array = _array(values)
    if array.shape != (length,):
        raise ValueError(f"{name} is {array.shape} for {length} boxes: pass one for each box")
    return array


def _caption(label: int | None, score: float | None, classes: Sequence[str] | None) -> str:
    """What a tag says: the class's name and the score, as far as they are known."""
    name = ""
    if classes and label is not None:
        if label >= len(classes):
            raise ValueError(
                f"label {label} has no name, there are {len(classes)} classes: pass all their names"
            )
        name = " ".join(str(classes[label]).split())  # Pillow cannot anchor a second line
    return f"{name} {'' if score is None else format(score, '.2f')}".strip()


def _rows(
    boxes: ArrayLike | Tensor,
    labels: ArrayLike | Tensor | None = None,
    scores: ArrayLike | Tensor | None = None,
    classes: Sequence[str] | None = None,
    colours: str | Sequence[str] | None = None,
) -> list[_Row]:
    """What is to be drawn of boxes (G, 4): no padding (label below 0), nothing not finite."""
    array = _array(boxes)
    array = array.reshape(0, 4) if array.size == 0 else array
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes are {array.shape}: pass (G, 4), those of one picture")
    label = _column(labels, "labels", len(array))
    score = _column(scores, "scores", len(array))
    if colours is not None and not isinstance(colours, str) and len(colours) != len(array):
        raise ValueError(f"{len(colours)} colours for {len(array)} boxes: pass one, or one for each")
    rows = []
    for i, corners in enumerate(array.tolist()):
        name = None if label is None else int(label[i])
        if (name is not None and name < 0) or not np.isfinite(corners).all():
            continue
        colour = colours if isinstance(colours, str) else colours[i] if colours else None
        caption = _caption(name, None if score is None else float(score[i]), classes)
        rows.append(_Row(tuple(corners), colour or class_colour(name or 0), caption))
    return rows


def _found(detections: Detections, classes: Sequence[str] | None) -> list[_Row]:
    """The rows of one picture's detections, the best last, so that it is drawn on top."""
    return _rows(detections.boxes, detections.labels, detections.scores, classes)[::-1]


# ---- where tags go ----


def place_tags(
    boxes: NDArray[Any],
    sizes: NDArray[Any],
    canvas: tuple[float, float, float, float],
    taken: NDArray[Any] | None = None,
    below: bool = False,
) -> NDArray[Any]:
    """Find room for one tag at each box, the first box first; all in pixels, y pointing down.

    Shapes: boxes (D, 4) corners, sizes (D, 2) widths and heights, canvas one box, taken (M, 4)
    corners of tags that are there already; returns the tags' corners (D, 4). A tag stays inside the
    canvas and goes, where there is a choice, above its box (or under it, if `below`), then inside
    it, clear of other tags.
    """
    placed = np.zeros((0, 4)) if taken is None else taken
    start = len(placed)
    low, high = np.array(canvas[:2]), np.array(canvas[2:])
    boxes = np.clip(boxes.reshape(-1, 4), np.tile(low, 2), np.tile(high, 2))
    for (x0, y0, x1, y1), size in zip(boxes, sizes, strict=True):
        w, h = size
        wish = [(x0, y0 - h), (x0, y0), (x1 - w, y0 - h), (x0, y1), (x1 - w, y1 - h), (x1 - w, y1)]
        wish = np.array(wish[::-1] if below else wish)  # (6, 2)
        corner = np.clip(wish, low, np.maximum(low, high - size))
        moved = np.abs(wish - corner).sum(1) / h
        tags = np.concatenate([corner, corner + size], 1)  # (6, 4)
        cost = 2 * _covered(tags, placed) / (w * h) + moved + 0.05 * np.arange(len(tags))
        placed = np.concatenate([placed, tags[cost.argmin()][None]])
    return placed[start:]


def _covered(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """How much of each box of `a` (P, 4) the boxes of `b` (Q, 4) cover in total, (P,)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.clip(high - low, 0, None).prod(-1).sum(-1)


class _Tags(Artist):
    """Places an axes' label tags at the moment of drawing, when its size in pixels is known.

    `texts` are D text artists of the same axes and `corners` (D, 4) their boxes in its data units.
    Being an artist, it is drawn (and so does its work) just before the texts.
    """

    def __init__(self, texts: list[Text], corners: NDArray[Any], rim: float, below: bool) -> None:
        super().__init__()
        self.texts, self.corners, self.rim, self.below = texts, corners, rim, below
        self.points = [text.get_fontsize() for text in texts]
        self.taken = np.zeros((0, 4))
        self.set_in_layout(False)
        self.set_zorder(min(text.get_zorder() for text in texts) - 0.1)

    def draw(self, renderer: RendererBase) -> None:
        """Give every text its size and place; hide those that the axes are too small for."""
        frame = self.axes.bbox
        sizes = np.array(
            [
                self._measure(text, points, frame.width, renderer)
                for text, points in zip(self.texts, self.points, strict=True)
            ]
        )
        fits = (sizes <= (frame.width + 0.5, frame.height)).all(1)
        ends = self.axes.transData.transform(self.corners.reshape(-1, 2)).reshape(-1, 4)  # y is up
        ends = ends * (1, -1, 1, -1)
        low, high = np.minimum(ends[:, :2], ends[:, 2:]), np.maximum(ends[:, :2], ends[:, 2:])
        rim = renderer.points_to_pixels(self.rim)
        boxes = np.concatenate([low - rim, high + rim], 1)[fits]
        canvas = (frame.x0, -frame.y1, frame.x1, -frame.y0)
        self.taken = place_tags(boxes, sizes[fits], canvas, self._others(), self.below)
        spots = iter((self.taken[:, :2] + self.taken[:, 2:]) / 2)
        for text, fit in zip(self.texts, fits, strict=True):
            text.set_visible(bool(fit))
            if fit:
                x, y = next(spots)
                text.set_position((x, -y))

    def _others(self) -> NDArray[Any]:
        """Corners (M, 4) of tags that were drawn on the same axes before these."""
        tags = [artist for artist in self.axes.artists if isinstance(artist, _Tags)]
        return np.concatenate([tag.taken for tag in tags[: tags.index(self)]] or [np.zeros((0, 4))])

    @staticmethod
    def _measure(text: Text, points: float, room: float, renderer: RendererBase) -> tuple[float, float]:
        """A tag's width and height in pixels, in a smaller type (to 4 points) if it has to be."""
        text.set_visible(True)
        while True:
            text.set_fontsize(points)
            extent = text.get_window_extent(renderer)
            pad = 2 * TAG_PAD * renderer.points_to_pixels(points)
            width, height = extent.width + pad, extent.height + pad
            if width <= room or points <= 4:
                return width, height
            # Widths of small type do not quite follow its size, so this may take several steps.
            points = max(4.0, min(points * room / width, points - 0.25))


# ---- pictures with boxes ----


class Drawing(Figure):
    """A figure that a notebook shows when a cell ends with it, whether or not pyplot is in use."""

    def _repr_png_(self) -> bytes:
        return _png(self)


def _drawing(width: float, height: float) -> Drawing:
    """An empty figure of so many pixels."""
    return Drawing(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=PAPER, edgecolor=PAPER)


def show_image(image: Picture, ax: Axes) -> None:
    """Fill axes with a picture, one data unit per pixel, without ticks and frame.

    `image` is a uint8 tensor (3, H, W), a uint8 array (H, W, 3) or a Pillow image. The left edge of
    the first pixel is at 0 and the right one of the last at W, so a normalised x belongs at x · W.
    Raises ValueError for any other image.
    """
    pixels = _pixels(image)
    height, width = pixels.shape[:2]
    ax.imshow(pixels, extent=(0, width, height, 0), interpolation="antialiased", origin="upper")
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.set_axis_off()


class _Frame(NamedTuple):
    """Where a picture lies in its axes' data units."""

    left: float
    top: float
    width: float
    height: float

    def corners(self, row: _Row) -> NDArray[Any]:
        """A row's corners (4,) in data units."""
        x0, y0, x1, y1 = row.corners
        scaled = x0 * self.width, y0 * self.height, x1 * self.width, y1 * self.height
        return np.add(scaled, (self.left, self.top, self.left, self.top))


def _add_edges(ax: Axes, rows: Sequence[_Row], frame: _Frame, dashed: bool, linewidth: float) -> None:
    """One rectangle for each row, with a dark rim, cut off at the frame."""
    window = Rectangle(frame[:2], frame.width, frame.height, transform=ax.transData)
    rim = [withStroke(linewidth=linewidth + RIM_WIDTH, foreground=RIM)]
    for row in rows:
        x0, y0, x1, y1 = frame.corners(row)
        edge = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=row.colour, linewidth=linewidth)
        edge.set(linestyle=DASHES if dashed else "-", path_effects=rim, zorder=3, joinstyle="miter")
        edge.set_capstyle("projecting")  # so that the rim closes the ends of a dash too
        ax.add_patch(edge)
        edge.set_clip_path(window)


def _add_tags(
    ax: Axes, rows: Sequence[_Row], frame: _Frame, below: bool, linewidth: float, points: float
) -> None:
    """A text for each row that says something, and the artist that will place them."""
    rows = [row for row in rows if row.text]
    texts = []
    for row in rows:
        box = {"boxstyle": f"square,pad={TAG_PAD}", "facecolor": row.colour, "linewidth": 0}
        text = Text(0, 0, row.text, color=_ink_on(row.colour), fontsize=points, bbox=box, zorder=5)
        text.set(ha="center", va="center", transform=IdentityTransform(), in_layout=False)
        text.set_parse_math(False)
        texts.append(ax.add_artist(text))
    if texts:
        corners = np.stack([frame.corners(row) for row in rows])
        # The best is last in the list, to lie on top, but chooses its place first.
        rim = (linewidth + RIM_WIDTH) / 2
        ax.add_artist(_Tags(texts[::-1], corners[::-1], rim, below))


def draw_boxes(
    ax: Axes,
    boxes: ArrayLike | Tensor,
    *,
    size: tuple[int, int],
    labels: ArrayLike | Tensor | None = None,
    scores: ArrayLike | Tensor | None = None,
    classes: Sequence[str] | None = None,
    colours: str | Sequence[str] | None = None,
    dashed: bool = False,
    linewidth: float = 1.5,
) -> None:
    """Draw boxes (G, 4), normalised corners, over a picture of `size` (height, width) in `ax`.

    With `labels` (G,) a box has its class's colour, and with `classes` a tag with the class's name;
    with `scores` (G,) the tag shows the score. `colours` (one, or one for each box) take
    precedence. Rows with a label below 0 are padding and never drawn, nor is a box that is not
    finite. `linewidth` is in points. Later boxes lie on top. Raises ValueError when lengths differ
    or a label has no name.
    """
    rows = _rows(boxes, labels, scores, classes, colours)
    frame = _Frame(0, 0, size[1], size[0])
    _add_edges(ax, rows, frame, dashed, linewidth)
    _add_tags(ax, rows, frame, dashed, linewidth, points=8)


def picture(
    image: Picture,
    *,
    detections: Detections | None = None,
    boxes: ArrayLike | Tensor | None = None,
    labels: ArrayLike | Tensor | None = None,
    classes: Sequence[str] = (),
    title: str | None = None,
    width: int = 720,
) -> Drawing:
    """One picture with its detections (solid), its ground truth (dashed), or both.

    `image` as for `show_image`; `detections` of this picture, of which all are drawn (thin them out
    with `at_least`); `boxes` (G, 4) with `labels` (G,) the truth. Truth that stands alone has its
    class's colour, beside detections it is white. The figure is `width` pixels wide, less if the
    picture is very tall. Raises ValueError as `show_image` and `draw_boxes` do.
    """
    pixels = _pixels(image)
    high, wide = pixels.shape[:2]
    scale = min(width / wide, 1.5 * width / high)
    both = boxes is not None and detections is not None
    key = [_truth_key(), _Key("detection", class_colour(0), False)] if both else []
    sheet = _Sheet(max(1, round(wide * scale)), max(1, round(high * scale)), title, key)
    ax = sheet.ax
    show_image(pixels, ax)
    frame = _Frame(0, 0, wide, high)
    for layer in _layers(detections, boxes, labels, classes):
        linewidth = 1.0 if layer.beside else 1.5
        _add_edges(ax, layer.rows, frame, layer.dashed, linewidth)
        _add_tags(ax, layer.rows, frame, layer.beside, linewidth, points=8)
    return sheet.figure


class _Layer(NamedTuple):
    """Boxes of one kind over one picture; `beside` says that it is truth over detections."""

    rows: list[_Row]
    dashed: bool
    beside: bool


def _layers(
    detections: Detections | None,
    boxes: ArrayLike | Tensor | None,
    labels: ArrayLike | Tensor | None,
    classes: Sequence[str] | None,
) -> list[_Layer]:
    """What lies over one picture, from the bottom."""
    found = [] if detections is None else [_Layer(_found(detections, classes), False, False)]
    if boxes is None:
        return found
    # One class needs no name twice.
    names = classes if not found or (classes and len(classes) > 1) else None
    rows = _rows(boxes, labels, None, names, TRUTH if found else None)
    return [*found, _Layer(rows, True, bool(found))]


class _Key(NamedTuple):
    """One entry of the key under a drawing."""

    name: str
    colour: str
    dashed: bool


def _truth_key() -> _Key:
    return _Key("ground truth", TRUTH, True)


class _Sheet:
    """A figure of pixels: one axes for pictures, a title over it and a key under it if wanted."""

    def __init__(self, width: int, height: int, title: str | None, key: Sequence[_Key]) -> None:
        wide = max(width, 300) if title or key else width
        columns = _key_columns([len(entry.name) for entry in key], wide - 20)
        head = 46 if title else 0
        foot = 30 * math.ceil(len(key) / columns) + 14 if key else 0
        total = head + height + foot
        self.figure = _drawing(wide, total)
        place = ((wide - width) / 2 / wide, foot / total, width / wide, height / total)
        self.ax = self.figure.add_axes(place)
        if title:
            text = self.figure.text(8 / wide, 1 - 24 / total, title, ha="left", va="center")
            text.set(color=INK, fontsize=10, fontweight="bold", parse_math=False)
        if key:
            _add_key(self.figure, key, columns, 7 / total)


def _key_columns(lengths: Sequence[int], width: int) -> int:
    """How many entries of a key, names of so many letters, stand side by side in so many pixels."""
    sizes = [11 * length + 75 for length in lengths]
    if sum(sizes) <= width:
        return max(1, len(sizes))
    most = max(1, width // max(sizes))
    return math.ceil(len(sizes) / math.ceil(len(sizes) / most))  # lines of even length


def _add_key(figure: Figure, key: Sequence[_Key], columns: int, bottom: float) -> None:
    """The key along a figure's lower edge."""
    lines = []
    for entry in key:
        line = Line2D([], [], color=entry.colour, linewidth=2)
        line.set(linestyle=DASHES if entry.dashed else "-", dash_capstyle="projecting")
        line.set_path_effects([withStroke(linewidth=3, foreground=RIM)])
        lines.append(line)
    legend = figure.legend(
        lines, [entry.name for entry in key], loc="lower center", bbox_to_anchor=(0.5, bottom),
        ncols=columns, frameon=False, fontsize=8, labelcolor=INK, borderpad=0, borderaxespad=0,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def contact_sheet(
    samples: Sequence[Sample],
    classes: Sequence[str],
    *,
    columns: int = 8,
    detections: Sequence[Detections] | None = None,
    cell: int = 128,
    title: str | None = None,
) -> Drawing:
    """Many pictures in a grid with their boxes: truth dashed, `detections` (one a sample) solid.

    Pictures of any size are fitted into cells of `cell` pixels. Truth has its class's colour, or,
    beside detections, is white; a key names the colours. Padding rows (label -1) are not drawn.
    Raises ValueError without samples, for a count of detections that differs, or an option out of
    range.
    """
    samples = list(samples)  # a data set draws a picture anew each time it is asked
    found = [None] * len(samples) if detections is None else detections
    _check_sheet(samples, found, columns, cell)
    images = [_pixels(s.image, f"image of sample {i}") for i, s in enumerate(samples)]
    pixels, frames = _grid(images, columns, cell)
    layers = [_layers(d, s.boxes, s.labels, None) for d, s in zip(found, samples, strict=True)]
    key = _class_key(samples, found, classes)
    sheet = _Sheet(pixels.shape[1], pixels.shape[0], title, key)
    show_image(pixels, sheet.ax)
    for pile, frame in zip(layers, frames, strict=True):
        for layer in pile:
            linewidth = 0.5 if layer.beside else 1.0
            _add_edges(sheet.ax, layer.rows, frame, layer.dashed, linewidth)
    return sheet.figure


def _check_sheet(
    samples: Sequence[Sample], found: Sequence[Detections | None], columns: int, cell: int
) -> None:
    if not samples:
        raise ValueError("there are no samples to draw: pass at least one")
    if len(found) != len(samples):
        raise ValueError(f"{len(found)} detections for {len(samples)} samples: pass one a sample")
    for name, value, least in (("columns", columns, 1), ("cell", cell, 16)):
        if value < least:
            raise ValueError(f"{name} is {value}: it must be at least {least}")


def _class_key(
    samples: Sequence[Sample], found: Sequence[Detections | None], classes: Sequence[str]
) -> list[_Key]:
    """Names of the classes that occur, if there are several, and of truth beside detections."""
    beside = any(d is not None for d in found)
    columns = [s.labels for s in samples] + [d.labels for d in found if d is not None]
    labels = sorted({label for column in columns for label in column.tolist() if label >= 0})
    names = [_caption(label, None, classes) for label in labels]
    key = [_Key(name, class_colour(label), not beside) for label, name in zip(labels, names, strict=True)]
    if beside:
        return [*key, _truth_key()]
    return key if len(classes) > 1 else []


def _grid(
    images: Sequence[NDArray[np.uint8]], columns: int, cell: int
) -> tuple[NDArray[np.uint8], list[_Frame]]:
    """Pictures (H, W, 3) of any sizes in one (H', W', 3), and where each lies in it."""
    gap = max(2, cell // 32)
    columns = min(columns, len(images))
    step, rows = cell + gap, math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * step + gap, rows * step + gap), PAPER)
    frames = []
    for i, image in enumerate(images):
        left, top = gap + i % columns * step, gap + i // columns * step
        sheet.paste(MAT, (left, top, left + cell, top + cell))
        scale = cell / max(image.shape[:2])
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        small = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
        frame = _Frame(left + (cell - width) // 2, top + (cell - height) // 2, width, height)
        sheet.paste(small, (frame.left, frame.top))
        frames.append(frame)
    return np.asarray(sheet), frames


# ---- curves ----


def _style(ax: Axes, title: str, xlabel: str, ylabel: str = "") -> None:
    """One look for every diagram, whatever matplotlib's settings are."""
    ax.set_facecolor(PAPER)
    ax.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK, pad=10)
    ax.set_xlabel(xlabel, fontsize=9, color=INK)
    ax.set_ylabel(ylabel, fontsize=9, color=INK)
    ax.tick_params(which="both", labelsize=8, colors=FAINT, labelcolor=INK, length=3, width=0.6)
    ax.grid(True, color="#E2E2E2", linewidth=0.6, linestyle="-")
    ax.set_axisbelow(True)
    for side, spine in ax.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=FAINT, linewidth=0.6)


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> NDArray[Any]:
    """(epoch, value) points (P, 2) of a column, without what is missing, None, NaN or infinite."""
    points = [
        (row.get("epoch", i), row[key])
        for i, row in enumerate(rows, start=1)
        if row.get(key) is not None and math.isfinite(row[key])
    ]
    return np.array(points, dtype=np.float64).reshape(-1, 2)


def plot_history(rows: Sequence[Mapping[str, Any]], path: str | Path | None = None) -> Drawing:
    """Learning curves: the losses on the left, average precision on the right, by epoch.

    `rows` has one mapping for each epoch with the keys epoch (from 1), loss, cls_loss and box_loss,
    and where it was validated ap and ap50. A value may be missing, None or NaN. Losses that span
    more than a factor of 20 are on a log scale. With `path` the figure is saved there too. Raises
    ValueError without rows, and as `save` does.
    """
    if not len(rows):
        raise ValueError("the history is empty: train at least one epoch before you draw it")
    figure = _drawing(1152, 470)
    left = figure.add_axes((0.055, 0.135, 0.315, 0.75))
    right = figure.add_axes((0.55, 0.135, 0.315, 0.75))
    _style(left, "Training loss", "epoch")
    _style(right, "Average precision, validation", "epoch")
    losses = {"loss": "total", "cls_loss": "class", "box_loss": "box"}
    _plot_losses(left, {name: _series(rows, key) for key, name in losses.items()})
    right.set_ylim(0, 1.02)
    _plot_lines(right, {"AP50": _series(rows, "ap50"), "COCO AP": _series(rows, "ap")}, CURVES)
    for ax in (left, right):
        epochs = [row.get("epoch", i) for i, row in enumerate(rows, start=1)]
        ax.set_xlim(min(epochs) - 0.3, max(epochs) + 0.3)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7, min_n_ticks=1))
    if path is not None:
        save(figure, path)
    return figure


def _plot_losses(ax: Axes, lines: Mapping[str, NDArray[Any]]) -> None:
    """Loss curves, on a log scale if they span much."""
    values = np.concatenate([points[:, 1] for points in lines.values()])
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    if 0 < 20 * low < high:
        ax.set_yscale("log")
        ax.set_ylim(low / 1.3, high * 1.3)
        few = high / low < 1000
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        ax.set_ylim(min(0.0, low * 1.08), (high if high > 0 else 1.0) * 1.08)
    _plot_lines(ax, lines, (INK, *CURVES))


def _plot_lines(ax: Axes, lines: Mapping[str, NDArray[Any]], colours: Sequence[str]) -> None:
    """Curves (P, 2), names and last values at their ends; the axes' limits stand already."""
    ends = []
    for (name, points), colour in zip(lines.items(), colours, strict=False):
        if not len(points):
            continue
        few = len(points) <= 12
        ax.plot(*points.T, color=colour, linewidth=1.6, marker="o", markersize=3.5,
                linestyle="-", markevery=1 if few else [-1], label=name, clip_on=False)  # fmt: skip
        height = ax.transAxes.inverted().transform(ax.transData.transform(points[-1]))[1]
        ends.append((height, f"{name} {points[-1, 1]:#.3g}".rstrip("."), colour))
    if not ends:
        ax.text(0.5, 0.5, "no values yet", transform=ax.transAxes, ha="center", color=FAINT)
    ends.sort(key=lambda end: end[0])
    spots = _spread([end[0] for end in ends], 0.065)
    for (_, caption, colour), spot in zip(ends, spots, strict=True):
        ax.text(1.03, spot, caption, transform=ax.transAxes, color=colour, fontsize=9, va="center")


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Rising heights moved as little as needed to be `gap` apart, within 0..1 if there is room.

    >>> [round(height, 2) for height in _spread([0.5, 0.5, 1.0], 0.1)]
    [0.5, 0.6, 1.0]
    """
    spots: list[float] = []
    for height in heights:
        spots.append(max(height, spots[-1] + gap) if spots else max(height, 0.0))
    top = 1.0
    for i in reversed(range(len(spots))):
        spots[i] = min(spots[i], top)
        top = spots[i] - gap
    return spots


def plot_precision_recall(
    recall: ArrayLike | Tensor,
    precision: ArrayLike | Tensor,
    *,
    ap: float | None = None,
    label: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Precision over recall, from the surest detection to the least sure; returns the figure.

    Shapes: recall (M,), rising, and precision (M,), both in 0..1. The thin line is what was
    measured, the thick one its envelope: the best precision at no less recall, whose area is the
    all-point AP. `ap` and `label` are written into the key. With `ax` the curve goes there, in the
    next colour. M = 0 or recall that is NaN (nothing to find) draws no curve. Raises ValueError
    when lengths differ.
    """
    x, y = (_array(values).astype(np.float64) for values in (recall, precision))
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"recall {x.shape} and precision {y.shape}: both must be (M,)")
    ax = _drawing(620, 560).add_axes((0.12, 0.11, 0.84, 0.8)) if ax is None else ax
    _style(ax, "Precision over recall", "recall", "precision")
    ax.set(xlim=(0, 1), ylim=(0, 1.02))
    words = [label, None if ap is None else f"AP {ap:.3f}"]
    finite = np.isfinite(x) & np.isfinite(y)
    _plot_envelope(ax, x[finite], y[finite], "  ".join(word for word in words if word))
    return ax.figure


def _plot_envelope(ax: Axes, x: NDArray[Any], y: NDArray[Any], name: str) -> None:
    """Precision y (M,) as measured at rising recall x (M,), and its envelope, in the next colour."""
    colour = CURVES[sum(line.get_gid() == "envelope" for line in ax.lines) % len(CURVES)]
    ax.plot(x, y, color=colour, linewidth=0.8, alpha=0.6, linestyle="-")
    best = np.maximum.accumulate(y[::-1])[::-1]
    if len(x):  # before the first point the best of all holds, after the last nothing
        x, best = np.concatenate([[0.0], x, x[-1:]]), np.concatenate([best[:1], best, [0.0]])
    (line,) = ax.plot(x, best, drawstyle="steps-pre", color=colour, linewidth=1.8, linestyle="-")
    line.set(gid="envelope", label=name or "_", clip_on=False)
    if name:
        legend = ax.legend(loc="lower left", fontsize=9, frameon=False, labelcolor=INK)
        for text in legend.get_texts():
            text.set_parse_math(False)


def plot_panels(
    x: ArrayLike | Tensor,
    panels: Mapping[str, Mapping[str, ArrayLike | Tensor]],
    *,
    xlabel: str = "",
    ylims: Sequence[tuple[float, float] | None] | None = None,
    logx: bool = False,
    logy: bool = False,
    columns: int | None = None,
) -> Drawing:
    """Curves over one x (M,) in panels side by side: {title: {name: y (M,)}}; names in a key each.

    `columns` panels stand in a row (None: all of them); one is what stays legible on a phone. `ylims` are
    (low, high) of each panel, None where the data decides. Raises ValueError without panels, for a curve
    of another length and for a wrong number of `ylims`.
    """
    if not panels:
        raise ValueError("there are no panels to draw: pass at least one")
    across = _array(x)
    if ylims is not None and len(ylims) != len(panels):
        raise ValueError(f"{len(ylims)} ylims for {len(panels)} panels: pass one for each")
    columns = min(columns or len(panels), len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = _drawing(520 * columns, 440 if rows == 1 else 330 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in axes[len(panels) :]:
        spare.set_axis_off()
    for i, (ax, (title, curves)) in enumerate(zip(axes, panels.items(), strict=False)):
        _style(ax, title, xlabel)
        for (name, values), colour in zip(curves.items(), CURVES * 2, strict=False):
            y = _array(values)
            if y.shape != across.shape:
                raise ValueError(f"{name!r} is {y.shape} over x {across.shape}: pass one value for each x")
            ax.plot(across, y, color=colour, linewidth=1.6, label=name)
        if logx:
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        if logy:
            ax.set_yscale("log")
        if ylims is not None and ylims[i] is not None:
            ax.set_ylim(*ylims[i])
        ax.margins(x=0.01)
        if len(curves) > 1:
            ax.legend(fontsize=8, frameon=False, labelcolor=INK)
    figure.tight_layout(pad=1.2, w_pad=2.5)
    return figure


def plot_dots(panels: Mapping[str, Mapping[str, Sequence[float]]], *, baseline: str | None = None) -> Drawing:
    """Repeated measurements, a row for each name: {title: {name: values}}, panels side by side.

    Each value is a dot, their mean a bar across; a dashed line goes down from the mean of `baseline`. Rows
    stand in the order of the first panel that has them. Raises ValueError without panels or values.
    """
    names = list(dict.fromkeys(name for rows in panels.values() for name in rows))
    if not names or any(len(values) == 0 for rows in panels.values() for values in rows.values()):
        raise ValueError("there is nothing to draw: pass panels with names, and a value or more for each")
    figure = _drawing(300 + 330 * len(panels), 100 + 34 * len(names))
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for ax, (title, rows) in zip(axes, panels.items(), strict=True):
        _style(ax, title, "")
        for name, values in rows.items():
            y, colour = names.index(name), CURVES[name == baseline]
            ax.plot(values, [y] * len(values), "o", color=colour, markersize=4, alpha=0.6)
            ax.plot([sum(values) / len(values)], [y], "|", color=colour, markersize=14, markeredgewidth=2)
        if baseline in rows:
            middle = sum(rows[baseline]) / len(rows[baseline])
            ax.axvline(middle, color=CURVES[1], linewidth=0.8, linestyle="--")
        ax.set_xlim(left=0)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)  # the first row on top
    figure.tight_layout(pad=1.2, w_pad=2.0)
    return figure


class Boxes(NamedTuple):
    """Boxes of one kind over a picture: corners (B, 4), one colour or one each, and how to draw them."""

    corners: ArrayLike | Tensor
    colour: str | Sequence[str] = PALETTE[0]
    dashed: bool = False
    linewidth: float = 1.5


class View(NamedTuple):
    """A picture, what is written above it, and the boxes over it, the lowest layer first."""

    image: Picture
    title: str = ""
    layers: Sequence[Boxes] = ()


def plot_views(views: Sequence[View], *, columns: int = 3, cell: int = 320) -> Drawing:
    """Pictures side by side, each with a title and layers of boxes: what a figure shows at several stops.

    `cell` is a picture's side in pixels. Raises ValueError without views and as `show_image` does.
    """
    if not views:
        raise ValueError("there are no views to draw: pass at least one")
    columns = min(columns, len(views))
    rows = math.ceil(len(views) / columns)
    figure = _drawing(columns * (cell + 12), rows * (cell + 40))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, view in zip(axes, views, strict=False):
        pixels = _pixels(view.image)
        show_image(pixels, ax)
        ax.set_title(view.title, fontsize=9, color=INK, loc="left")
        frame = _Frame(0, 0, pixels.shape[1], pixels.shape[0])
        for layer in view.layers:
            rows_ = _rows(layer.corners, colours=layer.colour)
            _add_edges(ax, rows_, frame, layer.dashed, layer.linewidth)
    figure.tight_layout(pad=0.4, w_pad=0.8, h_pad=0.8)
    return figure


# ---- do the anchors fit? ----


def plot_coverage(report: AnchorReport, spec: AnchorSpec | None = None) -> Drawing:
    """How anchors fit a data set's objects: each object by side and shape, and the shares by group.

    In the large panel a mark is an object, in pixels of the network's picture, in another colour where no
    anchor fits; with `spec` crosses are the shapes of its anchors. Bars give the share fitted of each
    group that has objects, by side and by shape, and the number of objects. Raises ValueError without
    objects.
    """
    if not len(report.best):
        raise ValueError("the report has no objects: there is nothing to draw")
    figure = _drawing(1152, 520)
    _plot_objects(figure.add_axes((0.07, 0.13, 0.42, 0.74)), report, spec)
    for top, title, groups in ((0.59, "by side", report.by_side()), (0.13, "by shape", report.by_ratio())):
        _plot_shares(figure.add_axes((0.68, top, 0.25, 0.3)), title, [g for g in groups if g.objects])
    return figure


def _plot_objects(ax: Axes, report: AnchorReport, spec: AnchorSpec | None) -> None:
    """Objects by side and ratio, both on log scales, the unfitted ones on top, and the anchors' shapes."""
    _style(ax, "", "side, pixels (root of the area)", "width : height")
    ax.set_title("Objects and anchors", loc="left", fontsize=10, fontweight="bold", color=INK, pad=26)
    side, ratio = (_array(v).clip(1e-2, 1e4) for v in (report.side, report.ratio))
    fitted = _array(report.fitted)
    for mask, name, colour in ((fitted, "fitted", CURVES[0]), (~fitted, "fitted by no anchor", CURVES[1])):
        marks = {"s": 14, "color": colour, "alpha": 0.55, "linewidths": 0, "clip_on": False}
        ax.scatter(side[mask], ratio[mask], label=f"{name}, {mask.sum():,}", **marks)
    if spec is not None:
        shapes = np.array([shape for k in range(len(spec.sizes)) for shape in spec.shapes(k)])  # (S, 2)
        width, height = shapes.T * np.array(report.image_size[::-1])[:, None]
        place = np.sqrt(width * height), width / height
        ax.scatter(
            *place, marker="+", s=34, color=INK, linewidths=0.9, label=f"anchors, {len(shapes)} shapes"
        )
    ax.set(xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_locator(NullLocator())
    ax.legend(ncols=3, loc="lower left", bbox_to_anchor=(-0.02, 0.99), borderpad=0, handletextpad=0.1,
              columnspacing=1, fontsize=8, frameon=False, labelcolor=INK)  # fmt: skip


def _plot_shares(ax: Axes, title: str, groups: Sequence[Group]) -> None:
    """A bar for each group, the share of its objects that an anchor fits, and how many they are."""
    _style(ax, f"Share fitted, {title}", "")
    rows = np.arange(len(groups))[::-1]
    ax.barh(rows, [group.recall for group in groups], color=CURVES[0], height=0.62)
    ax.barh(rows, 1, color=MAT, height=0.62, zorder=0)
    ax.set(xlim=(0, 1), ylim=(-0.6, len(groups) - 0.4))
    ax.set_yticks(rows, [group.name for group in groups])
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    for row, group in zip(rows, groups, strict=True):
        ax.text(1.03, row, f"{group.objects:,}", transform=ax.get_yaxis_transform(), va="center",
                fontsize=8, color=INK)  # fmt: skip
    ax.text(1.03, 1.06, "objects", transform=ax.transAxes, fontsize=8, color=FAINT)


# ---- pictures at their own resolution ----


def annotate(image: Picture, detections: Detections, classes: Sequence[str]) -> Image.Image:
    """A copy of a picture, at its own resolution, with boxes, class names and scores drawn into it.

    `image` is a Pillow image of any mode and size or one that `show_image` takes; it is not
    modified. The result is RGB and keeps only the colour profile of the original. Lines and type
    grow with the picture; where a tag does not fit it shrinks, and is left out rather than
    unreadable. Raises ValueError for another image or a label without a name.
    """
    if isinstance(image, Image.Image):
        canvas, profile = _opaque(image), image.info.get("icc_profile")
    else:
        canvas, profile = Image.fromarray(_pixels(image)), None
    canvas.info = {"icc_profile": profile} if profile and image.mode in ("RGB", "RGBA", "P") else {}
    rows = _found(detections, classes)
    scale = math.sqrt(canvas.width * canvas.height)
    line = max(1, round(scale / 320))
    rim = 0 if scale < 96 else max(1, line // 3)
    draw = ImageDraw.Draw(canvas)
    corners = [_pixel_corners(row, canvas.size) for row in rows]
    for row, box in zip(rows, corners, strict=True):
        _draw_edge(draw, box, row.colour, line, rim)
    _draw_tags(draw, rows[::-1], corners[::-1], max(11, round(scale / 55)), rim)
    return canvas


def _pixel_corners(row: _Row, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """First and last pixel that a box covers, at least one, in a picture of (width, height)."""
    x0, y0, x1, y1 = (
        round(min(max(value, 0.0), 1.0) * side) for value, side in zip(row.corners, size * 2, strict=True)
    )
    left, top = min(x0, size[0] - 1), min(y0, size[1] - 1)
    return left, top, max(left, x1 - 1), max(top, y1 - 1)


def _draw_edge(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colour: str, line: int, rim: int
) -> None:
    """A box's outline, inwards from its border, with a dark rim on both sides."""
    x0, y0, x1, y1 = box
    x1, y1 = max(x1, x0 + line - 1), max(y1, y0 + line - 1)  # the thinnest box is one line thick
    most = (min(x1 - x0, y1 - y0) + 2) // 2  # a thicker outline would turn inside out
    if rim:
        around = (x0 - rim, y0 - rim, x1 + rim, y1 + rim)
        draw.rectangle(around, outline=RIM, width=rim + min(line + rim, most))
    draw.rectangle((x0, y0, x1, y1), outline=colour, width=min(line, most))


def _draw_tags(
    draw: ImageDraw.ImageDraw,
    rows: Sequence[_Row],
    corners: Sequence[tuple[int, int, int, int]],
    points: int,
    rim: int,
) -> None:
    """Tags for rows that come best first: the best chooses its place first and is drawn last."""
    width, height = draw.im.size
    fonts = [ImageFont.load_default(size=size) for size in _type_sizes(points)]
    tags = []
    for row, (x0, y0, x1, y1) in zip(rows, corners, strict=True):
        sizes = [(_tag_size(row.text, font), font) for font in fonts if row.text]
        fitting = [(s, f) for s, f in sizes if s[0] <= 0.6 * width and s[1] <= 0.25 * height]
        if fitting:
            tags.append((row, *fitting[0], (x0 - rim, y0 - rim, x1 + rim + 1, y1 + rim + 1)))
    if not tags:
        return
    boxes, sizes = np.array([tag[3] for tag in tags]), np.array([tag[1] for tag in tags])
    places = place_tags(boxes, sizes, (0, 0, width, height)).round().astype(int).tolist()
    for (row, _, font, _), (x0, y0, x1, y1) in list(zip(tags, places, strict=True))[::-1]:
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=row.colour)
        pad = _tag_pad(font)
        spot = x0 + pad, y0 + pad // 2 + font.getmetrics()[0]
        draw.text(spot, row.text, fill=_ink_on(row.colour), font=font, anchor="ls")


def _tag_pad(font: ImageFont.FreeTypeFont) -> int:
    return max(1, round(TAG_PAD * font.size))


def _tag_size(text: str, font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    """Width and height of a tag in pixels."""
    pad = _tag_pad(font)
    return math.ceil(font.getlength(text)) + 2 * pad, sum(font.getmetrics()) + pad


def _type_sizes(points: int) -> list[int]:
    """Sizes to try, from the wanted one down to the smallest that can be read.

    >>> _type_sizes(16)
    [16, 13, 10, 9]
    """
    sizes = [points]
    while sizes[-1] > 9:
        sizes.append(max(9, int(sizes[-1] * 0.82)))
    return sizes


# ---- files ----


def _png(figure: Figure) -> bytes:
    """A figure as a PNG file that depends on nothing but the drawing."""
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="png", dpi=figure.dpi, facecolor=figure.get_facecolor(),
        bbox_inches=figure.bbox_inches, metadata={"Software": None},
    )  # fmt: skip
    return buffer.getvalue()


def save(drawing: Figure | Image.Image, path: str | Path) -> None:
    """Write a figure or a Pillow image to a file, whole or not at all; the suffix tells the format.

    Suffixes: .png, .jpg, .jpeg, .webp. A PNG has no date and no version in it: the same drawing
    gives the same file. Raises ValueError for another suffix, a folder that does not exist (none is
    made) or that cannot be written to.
    """
    path = Path(path)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path} ends with {path.suffix!r}: choose one of {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise ValueError(f"the folder {path.parent} does not exist: make it, or choose another path")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: choose the name of a file")
    data = _encoded(drawing, kind)
    try:
        write_bytes(path, data)
    except PermissionError as error:
        raise ValueError(f"cannot write to {path} ({error}): choose another folder") from error


def _encoded(drawing: Figure | Image.Image, kind: str) -> bytes:
    """The bytes of a file of that kind."""
    if isinstance(drawing, Figure):
        data = _png(drawing)
        if kind == "PNG":
            return data
        drawing = Image.open(io.BytesIO(data))
    if kind == "JPEG":
        drawing = _opaque(drawing)
    buffer = io.BytesIO()
    drawing.save(buffer, kind, **({} if kind == "PNG" else {"quality": 92}))
    return buffer.getvalue()
