"""Shapes as formulas: every one is a signed distance, a height and a colour over its own plane.

A shape lies inside the circle of radius `REACH` about the origin, x to the right and y downward.
The distance gives both its antialiased edge and its exact mask; height and colour say how it takes
the light.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

Array = np.ndarray
Color = tuple[float, float, float]

REACH = 1.3  # no shape leaves the circle of this radius in its local plane


class Surface(NamedTuple):
    """A shape's look: `height (h, w)` in local units and `colour (h, w, 3)` in 0..255."""

    height: Array
    color: Array


class Shape(Protocol):
    """What can be placed and drawn."""

    def distance(self, x: Array, y: Array) -> Array:
        """Signed distance to the outline, positive inside, in local units; (h, w) -> (h, w)."""

    def surface(self, x: Array, y: Array, distance: Array, grain: Array) -> Surface:
        """Height and colour over the same grid; `grain` is smooth noise of zero mean, (h, w)."""


def smooth(values: Array, low: float, high: float) -> Array:
    """Smoothstep: 0 below `low`, 1 above `high`, no kink between."""
    t = np.clip((values - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def mix(first: Array | Color, second: Array | Color, weight: Array) -> Array:
    """Blend two colours, (3,) or (h, w, 3), by `weight (h, w)`."""
    first, second = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return first + (second - first) * weight[..., None]


def resize(values: Array, width: int, height: int) -> Array:
    """Stretch a float grid smoothly; (h, w) -> (height, width)."""
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def _segment(x: Array, y: Array, start: Color | tuple, end: tuple, radius: float) -> Array:
    """Signed distance to a thick line with round ends."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    t = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy), 0.0, 1.0)
    return radius - np.hypot(x - start[0] - t * dx, y - start[1] - t * dy)


def _rounded_box(x: Array, y: Array, half: tuple[float, float], radius: float) -> Array:
    """Signed distance to a rounded rectangle about the origin."""
    qx, qy = np.abs(x) - (half[0] - radius), np.abs(y) - (half[1] - radius)
    outside = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0))
    return radius - outside - np.minimum(np.maximum(qx, qy), 0)


def _polygon(x: Array, y: Array, corners: list[tuple[float, float]]) -> Array:
    """Signed distance to a simple polygon, its corners in either order."""
    nearest = np.full_like(x, np.inf)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        ex, ey = bx - ax, by - ay
        px, py = x - ax, y - ay
        t = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0.0, 1.0)
        nearest = np.minimum(nearest, (px - t * ex) ** 2 + (py - t * ey) ** 2)
        if ey != 0:
            inside ^= ((ay > y) != (by > y)) & (px < py * (ex / ey))
    return np.where(inside, 1.0, -1.0).astype(np.float32) * np.sqrt(nearest)


def _dome(distance: Array, depth: float) -> Array:
    """A puffed-up height: a quarter circle over `depth` from the outline, then flat."""
    t = np.clip(distance / depth, 0.0, 1.0)
    return depth * np.sqrt(t * (2.0 - t))


@lru_cache(maxsize=1)
def _banana_profile() -> tuple[Array, Array]:
    """Half width along a banana from stem (-1) to tip (1), as a fraction of the thickest place."""
    at = [-1.0, -0.84, -0.72, -0.45, 0.0, 0.45, 0.74, 0.9, 0.96, 1.0]
    width = [0.26, 0.24, 0.45, 0.87, 1.0, 0.93, 0.68, 0.38, 0.24, 0.2]
    fine = np.linspace(-1, 1, 129)
    rough = np.interp(fine, at, width)
    padded = np.pad(rough, 6, mode="edge")
    return fine.astype(np.float32), np.convolve(padded, np.hanning(15)[1:-1] / 7.0, "valid").astype(
        np.float32
    )


class Banana(NamedTuple):
    """A bent tube: `bend` in radians, `thickness` as width over length, `ripeness` 0..1."""

    bend: float
    thickness: float
    lean: float
    ripeness: float
    spots: float
    skin: Color
    tip: Color

    def _along(self, x: Array, y: Array) -> tuple[Array, Array, Array]:
        """Position along the banana (-1..1), across it in half widths, and that half width."""
        radius = 2.0 / self.bend
        middle = radius * (1.0 - math.cos(self.bend / 2)) / 2  # centres the arc on the origin
        dy = y + radius - middle
        along = np.arctan2(x, dy) * (2.0 / self.bend)
        profile = np.interp(along, *_banana_profile()).astype(np.float32) * self.thickness
        across = np.hypot(x, dy) - radius - self.lean * (along * along * along - along)
        return along, across / profile, profile

    def distance(self, x: Array, y: Array) -> Array:
        along, across, profile = self._along(x, y)
        return np.minimum((1.0 - np.abs(across)) * profile, 1.0 - np.abs(along))

    def surface(self, x: Array, y: Array, distance: Array, grain: Array) -> Surface:
        along, across, profile = self._along(x, y)
        ridge = np.maximum(0.0, 0.95 - 0.55 * np.abs(across - 0.25) - 0.6 * np.maximum(across - 0.25, 0))
        round_ = np.sqrt(np.clip(1.0 - across * across, 0.0, 1.0))
        height = profile * (0.6 * round_ + 0.55 * ridge)
        color = mix(self.skin, (118.0, 150.0, 48.0), smooth(np.abs(along), 0.5, 1.15) * (1 - self.ripeness))
        color = mix(color, (150.0, 105.0, 35.0), 0.35 * np.exp(-(((across - 0.27) / 0.07) ** 2)))
        brown = smooth(grain, 1.6 - 1.3 * self.spots, 2.1 - 1.2 * self.spots) * min(1.0, 2 * self.spots)
        color = mix(color, (92.0, 58.0, 24.0), 0.7 * brown)
        ends = np.maximum(smooth(along, 0.9, 0.97), smooth(-along, 0.93, 0.99))
        return Surface(height, mix(color * (1 + 0.04 * grain[..., None]), self.tip, ends))


class Apple(NamedTuple):
    """A two-lobed disc with a dimple, a stem, and perhaps a leaflet."""

    skin: Color
    blush: Color
    squat: float
    leaflet: bool
    tilt: float

    def _body(self, x: Array, y: Array) -> Array:
        angle = np.arctan2(x, -y)  # 0 is straight up
        dent = 0.2 * np.exp(-((angle / 0.42) ** 2)) + 0.06 * np.exp(-(((np.abs(angle) - np.pi) / 0.3) ** 2))
        narrow = 0.07 * smooth(np.abs(angle), 1.2, 2.9)
        return 0.86 - dent - narrow - np.hypot(x, y * self.squat)

    def _stem(self, x: Array, y: Array) -> Array:
        return _segment(x, y, (0.0, -0.55), (self.tilt, -1.02), 0.055)

    def _leaf(self, x: Array, y: Array) -> Array:
        u, v = x - self.tilt - 0.27, y + 0.92
        u, v = 0.9 * u + 0.43 * v, 0.9 * v - 0.43 * u
        return 0.36 - np.hypot(u, np.abs(v) + 0.22) if self.leaflet else np.full_like(x, -1.0)

    def distance(self, x: Array, y: Array) -> Array:
        return np.maximum(np.maximum(self._body(x, y), self._stem(x, y)), self._leaf(x, y))

    def surface(self, x: Array, y: Array, distance: Array, grain: Array) -> Surface:
        body, stem, leaf = self._body(x, y), self._stem(x, y), self._leaf(x, y)
        height = _dome(np.maximum(body, 0), 0.72)
        color = mix(self.skin, self.blush, smooth(x * 0.6 + y + 0.25 * grain, -0.5, 0.9))
        color = mix(color, (250.0, 225.0, 150.0), 0.2 * smooth(grain, 1.2, 1.8))
        color = mix(color, (60.0, 50.0, 20.0), 0.6 * np.exp(-(x**2 / 0.05 + (y + 0.58) ** 2 / 0.01)))
        color = mix(color, (88.0, 140.0, 45.0), smooth(leaf, -0.01, 0.01))
        color = mix(color, (84.0, 56.0, 30.0), smooth(stem, -0.01, 0.01))
        return Surface(np.maximum(height, 0.2 * (leaf > 0)), color)


class Mug(NamedTuple):
    """A slightly tapered cup seen a little from above, with a handle and perhaps a band."""

    glaze: Color
    inside: Color
    band: Color
    has_band: bool
    tall: float
    taper: float

    def _parts(self, x: Array, y: Array) -> tuple[Array, Array, Array]:
        """Distances of the body, the handle and the opening."""
        x = x + 0.2
        wide = x / (1.0 - self.taper * y)
        body = _rounded_box(wide, y - 0.06, (0.6, self.tall - 0.06), 0.16)
        rim = y + self.tall - 0.06
        body = np.maximum(body, 0.16 - np.hypot(wide * 0.27, rim))
        handle = 0.11 - np.abs(np.hypot(x - 0.6, (y - 0.04) * 0.85) - 0.34)
        opening = 0.135 - np.hypot(wide * 0.255, rim)
        return body, handle, opening

    def distance(self, x: Array, y: Array) -> Array:
        body, handle, _ = self._parts(x, y)
        return np.maximum(body, handle)

    def surface(self, x: Array, y: Array, distance: Array, grain: Array) -> Surface:
        body, handle, opening = self._parts(x, y)
        round_ = np.sqrt(np.clip(1.0 - ((x + 0.2) / 0.66) ** 2, 0.0, 1.0)) * 0.55
        height = np.where(body > 0, round_, _dome(handle, 0.11))
        color = np.broadcast_to(np.asarray(self.glaze, np.float32), (*x.shape, 3)) * (
            1 + 0.02 * grain[..., None]
        )
        if self.has_band:
            color = mix(color, self.band, smooth(0.2 - np.abs(y - 0.15), -0.02, 0.02) * (body > 0))
        rim = smooth(opening, -0.05, -0.03)
        color = mix(color, np.minimum(np.asarray(self.glaze) * 1.15 + 12, 255), rim * (body > 0))
        deep = smooth(opening, 0.0, 0.02)
        height = np.where(opening > 0, 0.5, height)
        return Surface(height, mix(color, self.inside, deep))


class Star(NamedTuple):
    """A star with `points` arms whose valleys lie at `inner` of the tips' radius."""

    points: int
    inner: float
    paint: Color
    heart: Color
    round: float

    def distance(self, x: Array, y: Array) -> Array:
        """Folds the plane into one half arm, then measures to that arm's single edge."""
        sector = np.pi / self.points
        angle = np.arctan2(x, -y)
        folded = np.abs((angle + sector) % (2 * sector) - sector)
        radius = np.hypot(x, y)
        px, py = radius * np.sin(folded), radius * np.cos(folded)
        tip = 1.0 - self.round
        bx, by = self.inner * tip * math.sin(sector), self.inner * tip * math.cos(sector)
        ex, ey = bx, by - tip
        t = np.clip((px * ex + (py - tip) * ey) / (ex * ex + ey * ey), 0.0, 1.0)
        away = np.hypot(px - t * ex, py - tip - t * ey)
        side = ex * (py - tip) - ey * px
        return self.round + np.where(side < 0, away, -away)

    def surface(self, x: Array, y: Array, distance: Array, grain: Array) -> Surface:
        height = 0.8 * np.maximum(distance, 0)  # the medial axis turns into a ridge along each arm
        color = mix(self.heart, self.paint, smooth(np.hypot(x, y) + 0.1 * grain, 0.05, 0.7))
        return Surface(height, color * (1 + 0.05 * grain[..., None]))


class Fish(NamedTuple):
    """A spindle body with tail and fins, an eye, and perhaps stripes."""

    back: Color
    belly: Color
    stripe: Color
    stripes: int
    deep: float
    fork: float

    def _parts(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Distances of the body and of all fins."""
        squash = self.deep * (1.0 - 0.18 * (x + 0.15))
        body = (1.0 - np.sqrt(((x + 0.2) / 0.78) ** 2 + (y / squash) ** 2)) * self.deep
        d, f = self.deep, self.fork
        tail = _polygon(x, y, [(0.35, 0.0), (0.98, -0.62 * d - 0.2), (0.98 - f, 0.0), (0.98, 0.62 * d + 0.2)])
        top = _polygon(x, y, [(-0.5, -0.75 * d), (-0.12, -1.42 * d), (0.32, -1.2 * d), (0.25, -0.5 * d)])
        low = _polygon(x, y, [(-0.2, 0.8 * d), (0.1, 1.35 * d), (0.18, 0.6 * d)])
        return body, np.maximum(np.maximum(tail, top), low) + 0.03

    def distance(self, x: Array, y: Array) -> Array:
        return np.maximum(*self._parts(x, y))

    def surface(self, x: Array, y: Array, distance: Array, grain: Array) -> Surface:
        body, _ = self._parts(x, y)
        height = np.maximum(_dome(np.maximum(body, 0), self.deep) * 0.9, 0.05)
        color = mix(self.back, self.belly, smooth(y + 0.05 * grain, -0.05, self.deep * 0.9))
        if self.stripes:
            wave = np.sin((x + 0.15 * y * y) * np.pi * (self.stripes + 0.5) + 0.6)
            color = mix(color, self.stripe, smooth(wave, 0.45, 0.75) * (body > 0))
        scales = 0.06 * np.sin(x * 42.0) * np.sin(y * 42.0) * (body > 0.05)
        color = color * (1 + scales[..., None])
        fins = np.asarray(self.back) * 0.8
        color = mix(color, fins, smooth(-body, -0.01, 0.02) * (0.8 + 0.2 * np.sin(y * 34.0)))
        eye = np.hypot(x + 0.68, y + 0.2 * self.deep)
        color = mix(color, (245.0, 245.0, 235.0), smooth(-eye, -0.13, -0.11))
        return Surface(height, mix(color, (15.0, 15.0, 20.0), smooth(-eye, -0.085, -0.065)))


class Leaf(NamedTuple):
    """A pointed blade with a stalk, a midrib and side veins."""

    blade: Color
    vein: Color
    wide: float
    teeth: float
    bow: float

    def _parts(self, x: Array, y: Array) -> tuple[Array, Array, Array]:
        """Distances of the blade and of the stalk, and the height above the (bowed) midrib."""
        v = y - self.bow * (x * x - 0.4)
        big = (0.64 + self.wide**2) / (2 * self.wide)  # circle through both tips and one side
        saw = self.teeth * np.abs(((x - 0.5 * np.abs(v)) * 9.0) % 2.0 - 1.0)
        blade = big - np.hypot(x - 0.18, np.abs(v) + big - self.wide) - saw
        stalk = 0.035 - np.hypot(np.maximum(np.abs(x + 0.75) - 0.25, 0), v)
        return blade, stalk, v

    def distance(self, x: Array, y: Array) -> Array:
        blade, stalk, _ = self._parts(x, y)
        return np.maximum(blade, stalk)

    def surface(self, x: Array, y: Array, distance: Array, grain: Array) -> Surface:
        blade, _, v = self._parts(x, y)
        veins = np.abs(((x - 0.9 * np.abs(v)) * 5.0) % 1.0 - 0.5)
        ridge = 0.25 * np.abs(v) + 0.1 * np.minimum(blade, 0.1) + 0.05 * veins
        color = np.asarray(self.blade, np.float32) * (1 + 0.1 * grain[..., None])
        lines = np.maximum(0.6 * smooth(veins, 0.42, 0.49), smooth(-np.abs(v), -0.035, -0.015))
        lines = np.where(blade > 0, lines, 1.0)
        return Surface(ridge, mix(color, self.vein, 0.75 * lines))


class Blob(NamedTuple):
    """A closed wavy outline, a sum of cosines: stones, lemons, balls, bread."""

    radii: tuple[float, ...]
    phases: tuple[float, ...]
    stretch: float
    paint: Color
    other: Color
    depth: float

    def distance(self, x: Array, y: Array) -> Array:
        angle = np.arctan2(y, x)
        outline = np.full_like(x, 0.85)
        for k, (radius, phase) in enumerate(zip(self.radii, self.phases, strict=True), start=2):
            outline = outline + radius * np.cos(k * angle + phase)
        return (outline - np.hypot(x, y / self.stretch)) * self.stretch

    def surface(self, x: Array, y: Array, distance: Array, grain: Array) -> Surface:
        return Surface(_dome(distance, self.depth), mix(self.paint, self.other, smooth(grain, -0.8, 1.4)))


class Crescent(NamedTuple):
    """A disc with a disc cut out of it: a moon, a horn, a slice of melon."""

    cut: float
    paint: Color
    edge: Color

    def distance(self, x: Array, y: Array) -> Array:
        return np.minimum(1.0 - np.hypot(x, y), np.hypot(x, y - self.cut) - 1.0)

    def surface(self, x: Array, y: Array, distance: Array, grain: Array) -> Surface:
        rind = smooth(-(1.0 - np.hypot(x, y)), -0.09, -0.05)
        color = mix(self.paint, self.edge, rind) * (1 + 0.06 * grain[..., None])
        return Surface(0.4 * np.minimum(distance, 0.08), color)


class Stick(NamedTuple):
    """Thick lines from corner (x, y) to corner: twigs, pencils, boomerangs."""

    corners: tuple[tuple[float, float], ...]
    radius: float
    paint: Color
    other: Color

    def distance(self, x: Array, y: Array) -> Array:
        parts = [
            _segment(x, y, a, b, self.radius) for a, b in zip(self.corners, self.corners[1:], strict=False)
        ]
        return np.maximum.reduce(parts)

    def surface(self, x: Array, y: Array, distance: Array, grain: Array) -> Surface:
        return Surface(_dome(distance, self.radius), mix(self.paint, self.other, smooth(grain, -0.5, 1.2)))


class Panel(NamedTuple):
    """A rounded rectangle, or its rim of width `ring`: books, boxes, frames."""

    half: tuple[float, float]
    radius: float
    paint: Color
    other: Color
    ring: float = 0.0

    def distance(self, x: Array, y: Array) -> Array:
        outer = _rounded_box(x, y, self.half, self.radius)
        return np.minimum(outer, self.ring - outer) if self.ring else outer

    def surface(self, x: Array, y: Array, distance: Array, grain: Array) -> Surface:
        stripe = smooth(np.abs(y) - 0.3 * self.half[1], -0.01, 0.01)
        return Surface(
            _dome(distance, 0.08),
            mix(self.other, self.paint, stripe) * (1 + 0.05 * grain[..., None]),
        )
