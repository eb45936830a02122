"""Placing shapes in an image and painting them: windows, masks, light and shadow.

A `Placed` shape has its centre and scale in fractions of the image's side, so that one scene can
be painted at any size. The signed distance gives both the antialiased edge and the mask that the
boxes are read from.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from d2lmini.data.shapes import REACH, Array, Shape, Surface, resize, smooth


class Placed(NamedTuple):
    """A shape in an image: centre and scale in fractions of the side, angle in radians."""

    shape: Shape
    center: tuple[float, float]
    scale: float
    angle: float
    flip: bool
    grain: Array  # (g, g) coarse noise, stretched over the shape
    box: tuple[float, float, float, float]  # of the turned shape about its centre, in local units


class Light(NamedTuple):
    """Where a scene's light comes from (a unit vector towards it, y down) and how it falls."""

    direction: tuple[float, float, float]
    ambient: float = 0.5
    shine: float = 0.3
    shadow: float = 0.5
    softness: float = 0.06


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


def _local(placed: Placed, x: Array, y: Array) -> tuple[Array, Array]:
    """Offsets from the centre in image fractions -> local coordinates."""
    cos, sin = math.cos(placed.angle), math.sin(placed.angle)
    u, v = (cos * x + sin * y) / placed.scale, (cos * y - sin * x) / placed.scale
    return (-u if placed.flip else u), v


def _window(placed: Placed, size: int) -> tuple[int, int, Array, Array]:
    """Upper left pixel of the shape's window, and the local coordinates of its pixel centres."""
    axes = []
    for axis, center in enumerate(placed.center):
        low = math.floor((center + placed.scale * placed.box[axis]) * size) - 2
        high = math.ceil((center + placed.scale * placed.box[axis + 2]) * size) + 2
        axes.append((np.arange(low, high) + 0.5) / size - center)
    left, top = (round((axis[0] + c) * size - 0.5) for axis, c in zip(axes, placed.center, strict=True))
    x, y = (axis.astype(np.float32) for axis in axes)
    return left, top, *_local(placed, x[None, :], y[:, None])


def coverage(placed: Placed, size: int) -> Crop:
    """How much of each pixel the shape covers, 0..1, in a window of a `size` by `size` image."""
    left, top, x, y = _window(placed, size)
    distance = placed.shape.distance(x, y)
    return Crop(left, top, np.clip(distance * (placed.scale * size) + 0.5, 0.0, 1.0))


def full_mask(crop: Crop, size: int) -> Array:
    """Pixels of the whole image that the shape covers by half or more, (size, size) bool."""
    mask = np.zeros((size, size), bool)
    outer, inner = crop.clip(size)
    mask[outer] = crop.values[inner] >= 0.5
    return mask


def tight_box(mask: Array) -> tuple[int, int, int, int] | None:
    """First column and row, last column and row plus one, of a mask; None if it is empty."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def extent(shape: Shape, angle: float, flip: bool) -> tuple[float, float, float, float]:
    """The turned shape's box about its centre in local units, to within a 32nd of `REACH`."""
    n, everything = 64, (-REACH, -REACH, REACH, REACH)
    blank = np.zeros((1, 1), np.float32)
    probe = Placed(shape, (0.5, 0.5), 0.5 / REACH, angle, flip, blank, everything)
    box = tight_box(full_mask(coverage(probe, n), n))
    if box is None:
        raise ValueError(f"{shape!r} covers nothing")
    return tuple((edge / n - 0.5) * 2 * REACH for edge in box)


def _shade(surface: Surface, distance: Array, light: Light, step: float) -> Array:
    """Light a surface: diffuse, highlight, darker rim; `step` is a pixel in local units."""
    slope_y, slope_x = np.gradient(surface.height, step)
    norm = 1.0 / np.sqrt(1.0 + slope_x * slope_x + slope_y * slope_y)
    lx, ly, lz = light.direction
    diffuse = np.maximum((lz - lx * slope_x - ly * slope_y) * norm, 0.0)
    long = math.sqrt(2 + 2 * lz)  # of the vector half way between the light and the eye
    gloss = np.maximum((lz + 1.0 - lx * slope_x - ly * slope_y) * (norm / long), 0.0) ** 24
    rim = 0.72 + 0.28 * smooth(distance, 0.0, max(0.07, 1.5 * step))
    tone = (light.ambient + (1.08 - light.ambient) * diffuse) * rim
    return surface.color * tone[..., None] + (255.0 * light.shine) * gloss[..., None]


def cast_shadow(image: Array, crop: Crop, scale: float, light: Light) -> None:
    """Darken `image (H, W, 3)` in place beside the covered pixels, away from the light."""
    size = image.shape[0]
    blur = light.softness * scale * size
    pad = int(np.ceil(2.5 * blur)) + 1
    padded = np.pad((crop.values * 255).astype(np.uint8), pad)
    soft = Image.fromarray(padded).filter(ImageFilter.GaussianBlur(float(blur)))
    throw = 1.6 * blur + 0.03 * scale * size
    left = crop.left - pad - round(light.direction[0] * throw)
    top = crop.top - pad - round(light.direction[1] * throw)
    shadow = Crop(left, top, np.asarray(soft, np.float32) * (light.shadow / 255.0))
    outer, inner = shadow.clip(size)
    image[outer] *= 1.0 - shadow.values[inner][..., None]


def paint(image: Array, placed: Placed, light: Light, tint: Array) -> Crop:
    """Draw the shape and its shadow onto `image (H, W, 3)` float in place and return its coverage.

    `tint (3,)` multiplies the shape's colours, so that it shares the scene's light.
    """
    size = image.shape[0]
    left, top, x, y = _window(placed, size)
    distance = placed.shape.distance(x, y)
    crop = Crop(left, top, np.clip(distance * (placed.scale * size) + 0.5, 0.0, 1.0))
    grain = resize(placed.grain, x.shape[1], x.shape[0])
    surface = placed.shape.surface(x, y, distance, grain)
    color = _shade(surface, distance, light, 1.0 / (placed.scale * size)) * tint
    cast_shadow(image, crop, placed.scale, light)
    outer, inner = crop.clip(size)
    alpha = crop.values[inner][..., None]
    image[outer] += (np.clip(color[inner], 0.0, 255.0) - image[outer]) * alpha
    return crop
