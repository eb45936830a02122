"""Placing shapes in an image and painting them: colors, windows, masks, light and shadow.

A shape is a formula inside the circle of radius `REACH` about the origin of its own plane, x to the right and
y downward. Its signed distance gives the antialiased edge and the mask that the boxes are read from; its
height and color say how it takes the light.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageFilter

Array = np.ndarray
Color = tuple[float, float, float] | Array

REACH = 1.3  # no shape leaves the circle of this radius in its local plane


class Shape(Protocol):
    """What can be placed and drawn."""

    def measure(self, x: Array, y: Array) -> tuple[Array, ...]:
        """Signed distance to the outline, positive inside, in local units, and what else `surface` needs."""

    def surface(self, x: Array, y: Array, grain: Array, *measured: Array) -> tuple[Array, Array]:
        """Height (h, w) in local units and color (h, w, 3) in 0..255; `grain (h, w)` is smooth noise."""


def choose(rng: Generator, *options: Any) -> Any:
    """One of the options at random."""
    return options[rng.integers(len(options))]


def near(rng: Generator, *colors: Color, spread: float = 14.0, scale: float = 0.1) -> Array:
    """A color near one of those given, (3,): a little lighter or darker, a little off in hue."""
    shifted = np.asarray(choose(rng, *colors)) * rng.normal(1.0, scale) + rng.normal(0.0, spread, 3)
    return np.clip(shifted, 8.0, 250.0)


def smooth(values: Array, low: float, high: float) -> Array:
    """Smoothstep: 0 below `low`, 1 above `high`, no kink between."""
    t = np.clip((values - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def mix(first: Color, second: Color, weight: Array) -> Array:
    """Blend two colors, (3,) or (h, w, 3), by `weight (h, w)`."""
    first, second = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return first + (second - first) * weight[..., None]


def resize(values: Array, width: int, height: int) -> Array:
    """Stretch a float grid smoothly; (h, w) -> (height, width)."""
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def to_image(pixels: Array) -> Image.Image:
    """Pixels (H, W, 3) in 0..255, cut off outside, as an 8-bit image."""
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def blurred(image: Image.Image, radius: float) -> Array:
    """Gaussian blur by `radius` pixels, as float32."""
    return np.asarray(image.filter(ImageFilter.GaussianBlur(float(radius))), np.float32)


class Placed(NamedTuple):
    """A shape in an image: center and scale in fractions of the side, angle in radians."""

    shape: Shape
    center: tuple[float, float]
    scale: float
    angle: float
    flip: bool
    grain: Array  # (g, g) coarse noise, stretched over the shape
    box: tuple[float, float, float, float]  # of the turned shape about its center, in local units


class Light(NamedTuple):
    """Where a scene's light comes from (a unit vector towards it, y down) and how it falls."""

    direction: tuple[float, float, float]
    ambient: float
    shine: float
    shadow: float
    softness: float


class Crop(NamedTuple):
    """A window of an image, which may reach over the edge: its upper left pixel, its values."""

    left: int
    top: int
    values: Array

    def clip(self, size: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Slices of the image and of the window where the two overlap."""
        height, width = self.values.shape[:2]
        x0, y0 = max(self.left, 0), max(self.top, 0)
        x1, y1 = max(min(self.left + width, size), x0), max(min(self.top + height, size), y0)
        inner = (slice(y0 - self.top, y1 - self.top), slice(x0 - self.left, x1 - self.left))
        return (slice(y0, y1), slice(x0, x1)), inner


def _cover(placed: Placed, size: int) -> tuple[Crop, Array, Array, tuple[Array, ...]]:
    """The shape's coverage, x and y in its own plane at the same pixels' centers, what it measures there."""
    corner, axes = [], []
    for axis, center in enumerate(placed.center):
        low = math.floor((center + placed.scale * placed.box[axis]) * size) - 2
        high = math.ceil((center + placed.scale * placed.box[axis + 2]) * size) + 2
        corner.append(low)
        axes.append(((np.arange(low, high) + 0.5) / size - center).astype(np.float32))
    x, y = axes[0][None, :], axes[1][:, None]
    cos, sin = math.cos(placed.angle), math.sin(placed.angle)
    x, y = (cos * x + sin * y) / placed.scale, (cos * y - sin * x) / placed.scale
    x = -x if placed.flip else x
    measured = placed.shape.measure(x, y)
    return Crop(*corner, np.clip(measured[0] * (placed.scale * size) + 0.5, 0.0, 1.0)), x, y, measured


def coverage(placed: Placed, size: int) -> Crop:
    """How much of each pixel the shape covers, 0..1, in a window of a `size` by `size` image."""
    return _cover(placed, size)[0]


def full_mask(crop: Crop, size: int) -> Array:
    """Pixels of the whole image that the shape covers by half or more, (size, size) bool."""
    mask = np.zeros((size, size), bool)
    outer, inner = crop.clip(size)
    mask[outer] = crop.values[inner] >= 0.5
    return mask


def tight_box(mask: Array) -> tuple[int, int, int, int] | None:
    """First column and row, last column and row plus one, of a mask; None if it is empty."""
    return Image.fromarray(mask.astype(np.uint8)).getbbox()


def extent(shape: Shape, angle: float, flip: bool) -> tuple[float, float, float, float]:
    """The turned shape's box about its center in local units, to within a 32nd of `REACH`."""
    everything, no_grain = (-REACH, -REACH, REACH, REACH), np.zeros((1, 1), np.float32)
    probe = Placed(shape, (0.5, 0.5), 0.5 / REACH, angle, flip, no_grain, everything)
    box = tight_box(full_mask(coverage(probe, 64), 64))
    return tuple((edge / 64 - 0.5) * 2 * REACH for edge in box)


def _shade(height: Array, color: Array, distance: Array, light: Light, step: float) -> Array:
    """Light a surface: diffuse, highlight, darker rim; `step` is a pixel in local units."""
    slope_y, slope_x = np.gradient(height, step)
    norm = 1.0 / np.sqrt(1.0 + slope_x * slope_x + slope_y * slope_y)
    lx, ly, lz = light.direction
    diffuse = np.maximum((lz - lx * slope_x - ly * slope_y) * norm, 0.0)
    long = math.sqrt(2 + 2 * lz)  # of the vector half way between the light and the eye
    gloss = np.maximum((lz + 1.0 - lx * slope_x - ly * slope_y) * (norm / long), 0.0) ** 24
    rim = 0.72 + 0.28 * smooth(distance, 0.0, max(0.07, 1.5 * step))
    tone = (light.ambient + (1.08 - light.ambient) * diffuse) * rim
    return color * tone[..., None] + (255.0 * light.shine) * gloss[..., None]


def paint(image: Array, placed: Placed, light: Light, tint: Array) -> Crop:
    """Draw the shape, its colors times `tint` (3,), and its shadow onto `image` (H, W, 3) float in place."""
    size = image.shape[0]
    crop, x, y, measured = _cover(placed, size)
    grain = resize(placed.grain, x.shape[1], x.shape[0])
    height, color = placed.shape.surface(x, y, grain, *measured)
    color = _shade(height, color, measured[0], light, 1.0 / (placed.scale * size)) * tint

    blur = light.softness * placed.scale * size  # of the shadow, which falls away from the light
    pad = int(np.ceil(2.5 * blur)) + 1
    soft = blurred(Image.fromarray(np.pad((crop.values * 255).astype(np.uint8), pad)), blur)
    throw = 1.6 * blur + 0.03 * placed.scale * size
    left, top = (at - pad - round(d * throw) for at, d in zip(crop[:2], light.direction[:2], strict=True))
    outer, inner = Crop(left, top, soft).clip(size)
    image[outer] *= 1.0 - (soft * (light.shadow / 255.0))[inner][..., None]

    outer, inner = crop.clip(size)
    alpha = crop.values[inner][..., None]
    image[outer] += (np.clip(color[inner], 0.0, 255.0) - image[outer]) * alpha
    return crop
