"""The look of every drawing, in the colors of Okabe and Ito, which the color-blind can tell apart.

Only matplotlib's object interface is used: no pyplot, no global state, no display.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from d2lmini.data.images import to_rgb as image_to_rgb

ImageLike = Tensor | NDArray[np.uint8] | Image.Image
Values = ArrayLike | Tensor

# The first ones differ most from each other and from an image's browns.
PALETTE = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2")
CURVES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # dark ones first
INK, FAINT, PAPER, MAT = "#222222", "#767676", "#FFFFFF", "#ECECEC"
RIM, TRUTH = "#101010", "#FFFFFF"
DPI = 144  # two pixels to a typographic point
LEGEND = {"frameon": False, "labelcolor": INK}


def png(figure: Figure) -> bytes:
    """A figure as a PNG file that depends on nothing but the drawing."""
    buffer = io.BytesIO()
    look = {"facecolor": figure.get_facecolor(), "bbox_inches": figure.bbox_inches}
    figure.savefig(buffer, format="png", dpi=figure.dpi, metadata={"Software": None}, **look)
    return buffer.getvalue()


class Drawing(Figure):
    """A figure that a notebook shows when a cell ends with it, whether or not pyplot is in use."""

    _repr_png_ = png


def new_figure(width: float, height: float) -> Drawing:
    """An empty figure of so many pixels."""
    return Drawing(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=PAPER, edgecolor=PAPER)


def axes_grid(count: int, columns: int, width: int, height: int) -> tuple[Drawing, list[Axes]]:
    """A figure of `count` axes in rows of `columns`, with so many pixels for each."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = new_figure(columns * width, rows * height)
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


def style_axes(ax: Axes, title: str, xlabel: str = "", ylabel: str = "", pad: float = 10) -> None:
    """Give a diagram its look, whatever matplotlib's settings are."""
    ax.set(facecolor=PAPER, axisbelow=True)
    ax.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK, pad=pad)
    ax.set_xlabel(xlabel, fontsize=9, color=INK)
    ax.set_ylabel(ylabel, fontsize=9, color=INK)
    ax.tick_params(which="both", labelsize=8, colors=FAINT, labelcolor=INK, length=3, width=0.6)
    ax.grid(True, color="#E2E2E2", linewidth=0.6, linestyle="-")
    for side, spine in ax.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=FAINT, linewidth=0.6)


def log_ticks(axis: Axis, steps: tuple[int, ...] = (1, 2, 5)) -> None:
    """Ticks of a log scale at `steps` in each power of ten, written without exponents."""
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))


def class_color(label: int) -> str:
    """The color of a class id, as "#rrggbb": seven hues, then their tints, then their shades."""
    mix, share = ((PAPER, 0.0), (PAPER, 0.5), (RIM, 0.45))[label // len(PALETTE) % 3]
    pure, other = np.array(to_rgb(PALETTE[label % len(PALETTE)])), np.array(to_rgb(mix))
    return to_hex((1 - share) * pure + share * other)


def text_color(background: str) -> str:
    """Black or white, whichever is easier to read on a color (WCAG 2, relative luminance)."""
    rgb = np.array(to_rgb(background))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return "#000000" if linear @ (0.2126, 0.7152, 0.0722) > 0.179 else "#FFFFFF"


def to_array(values: Values) -> NDArray[Any]:
    """Anything like an array, on any device, as a NumPy array."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def to_pixels(image: ImageLike, name: str = "image") -> NDArray[np.uint8]:
    """A uint8 tensor (3, H, W), a uint8 array (H, W, 3) or a Pillow image as uint8 (H, W, 3)."""
    if isinstance(image, Image.Image):
        return np.asarray(image_to_rgb(image))
    array = to_array(image)
    pixels = np.moveaxis(array, 0, -1) if isinstance(image, Tensor) and array.ndim == 3 else array
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ValueError(
            f"the {name} is {array.dtype} of shape {array.shape}: pass a uint8 tensor (3, H, W), "
            "a uint8 array (H, W, 3) or a Pillow image"
        )
    return pixels
