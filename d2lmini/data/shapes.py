"""The shapes that images are drawn from, as formulas (`drawing.Shape`) over x to the right and y downward.

The classes of the presets draw their own parameters at random; the others are told theirs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from d2lmini.data.drawing import Array, Color, choose, mix, near, smooth

Surface = tuple[Array, Array]  # height (h, w) and color (h, w, 3)


def _speckled(color: Color, grain: Array, strength: float) -> Array:
    return np.asarray(color, np.float32) * (1 + strength * grain[..., None])  # (h, w, 3)


def _segment(x: Array, y: Array, start: tuple, end: tuple, radius: float) -> Array:
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
    nearest, inside = np.full_like(x, np.inf), np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        ex, ey, px, py = bx - ax, by - ay, x - ax, y - ay
        t = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0.0, 1.0)
        nearest = np.minimum(nearest, (px - t * ex) ** 2 + (py - t * ey) ** 2)
        if ey != 0:
            inside ^= ((ay > y) != (by > y)) & (px < py * (ex / ey))
    return np.where(inside, 1.0, -1.0).astype(np.float32) * np.sqrt(nearest)


def _dome(distance: Array, depth: float) -> Array:
    """A puffed-up height: a quarter circle over `depth` from the outline, then flat."""
    t = np.clip(distance / depth, 0.0, 1.0)
    return depth * np.sqrt(t * (2.0 - t))


# Half width of a banana from stem (-1) to tip (1), as a fraction of the thickest place.
_ALONG = np.linspace(-1, 1, 129)
_WIDTH = np.interp(
    _ALONG,
    (-1.0, -0.84, -0.72, -0.45, 0.0, 0.45, 0.74, 0.9, 0.96, 1.0),
    (0.26, 0.24, 0.45, 0.87, 1.0, 0.93, 0.68, 0.38, 0.24, 0.2),
)
_WIDTH = np.convolve(np.pad(_WIDTH, 6, mode="edge"), np.hanning(15)[1:-1] / 7.0, "valid").astype(np.float32)


class Banana:
    """A bent tube: green to overripe, slim to thick, nearly straight to strongly bent."""

    def __init__(self, rng: Generator) -> None:
        self.ripeness = rng.beta(2.5, 1.5)  # 0..1
        green, yellow = np.array((158, 176, 58)), np.array((238, 200, 58))
        skin = green + (yellow - green) * min(1.0, 1.6 * self.ripeness)
        self.spots = min(max(0.0, rng.normal(0.9 * self.ripeness - 0.42, 0.25)), 0.8)
        self.bend = rng.uniform(0.55, 2.1)  # radians
        self.thickness = rng.uniform(0.16, 0.3)  # width over length
        self.lean = rng.normal(0.0, 0.08)
        self.skin = near(rng, skin, spread=9.0, scale=0.06)
        self.tip = near(rng, (74, 58, 30), spread=8.0)

    def measure(self, x: Array, y: Array) -> tuple[Array, ...]:
        """Distance, position along the banana (-1..1), across it in half widths, and that half width."""
        radius = 2.0 / self.bend
        middle = radius * (1.0 - math.cos(self.bend / 2)) / 2  # centers the arc on the origin
        dy = y + radius - middle
        along = np.arctan2(x, dy) * (2.0 / self.bend)
        profile = np.interp(along, _ALONG, _WIDTH).astype(np.float32) * self.thickness
        across = np.hypot(x, dy) - radius - self.lean * (along * along * along - along)
        across = across / profile
        return np.minimum((1.0 - np.abs(across)) * profile, 1.0 - np.abs(along)), along, across, profile

    def surface(
        self, x: Array, y: Array, grain: Array, distance: Array, along: Array, across: Array, profile: Array
    ) -> Surface:
        ridge = np.maximum(0.0, 0.95 - 0.55 * np.abs(across - 0.25) - 0.6 * np.maximum(across - 0.25, 0))
        round_ = np.sqrt(np.clip(1.0 - across * across, 0.0, 1.0))
        height = profile * (0.6 * round_ + 0.55 * ridge)
        color = mix(self.skin, (118.0, 150.0, 48.0), smooth(np.abs(along), 0.5, 1.15) * (1 - self.ripeness))
        color = mix(color, (150.0, 105.0, 35.0), 0.35 * np.exp(-(((across - 0.27) / 0.07) ** 2)))
        brown = smooth(grain, 1.6 - 1.3 * self.spots, 2.1 - 1.2 * self.spots) * min(1.0, 2 * self.spots)
        color = mix(color, (92.0, 58.0, 24.0), 0.7 * brown)
        ends = np.maximum(smooth(along, 0.9, 0.97), smooth(-along, 0.93, 0.99))
        return height, mix(_speckled(color, grain, 0.04), self.tip, ends)


class Apple:
    """A two-lobed disc with a dimple, a stem, and perhaps a leaflet: red, red-and-yellow or green."""

    def __init__(self, rng: Generator) -> None:
        self.skin = near(rng, (178, 24, 30), (198, 40, 36), (150, 18, 34), (205, 60, 40), (140, 170, 50))
        self.blush = near(rng, np.add(self.skin, (225, 150, 60)) / 2)
        self.squat = rng.uniform(0.95, 1.1)
        self.leaflet = rng.uniform() < 0.6
        self.tilt = rng.normal(0.08, 0.08)

    def measure(self, x: Array, y: Array) -> tuple[Array, ...]:
        """Distances of the whole, the body, the stem and the leaflet."""
        angle = np.arctan2(x, -y)  # 0 is straight up
        dent = 0.2 * np.exp(-((angle / 0.42) ** 2)) + 0.06 * np.exp(-(((np.abs(angle) - np.pi) / 0.3) ** 2))
        narrow = 0.07 * smooth(np.abs(angle), 1.2, 2.9)
        body = 0.86 - dent - narrow - np.hypot(x, y * self.squat)
        stem = _segment(x, y, (0.0, -0.55), (self.tilt, -1.02), 0.055)
        u, v = x - self.tilt - 0.27, y + 0.92
        u, v = 0.9 * u + 0.43 * v, 0.9 * v - 0.43 * u
        leaf = 0.36 - np.hypot(u, np.abs(v) + 0.22) if self.leaflet else np.full_like(x, -1.0)
        return np.maximum(np.maximum(body, stem), leaf), body, stem, leaf

    def surface(
        self, x: Array, y: Array, grain: Array, distance: Array, body: Array, stem: Array, leaf: Array
    ) -> Surface:
        color = mix(self.skin, self.blush, smooth(x * 0.6 + y + 0.25 * grain, -0.5, 0.9))
        color = mix(color, (250.0, 225.0, 150.0), 0.2 * smooth(grain, 1.2, 1.8))
        color = mix(color, (60.0, 50.0, 20.0), 0.6 * np.exp(-(x**2 / 0.05 + (y + 0.58) ** 2 / 0.01)))
        color = mix(color, (88.0, 140.0, 45.0), smooth(leaf, -0.01, 0.01))
        color = mix(color, (84.0, 56.0, 30.0), smooth(stem, -0.01, 0.01))
        return np.maximum(_dome(np.maximum(body, 0), 0.72), 0.2 * (leaf > 0)), color


class Mug:
    """A tapered cup with a handle and perhaps a band: white, blue or dark, full or empty."""

    def __init__(self, rng: Generator) -> None:
        glazes = (232, 232, 228), (46, 92, 170), (60, 150, 170), (40, 52, 84), (205, 215, 225), (80, 110, 190)
        self.glaze = near(rng, *glazes)
        self.band = near(rng, (200, 60, 50), (240, 240, 235), (40, 60, 120), (240, 190, 70))
        self.inside = near(rng, (52, 30, 16), (120, 66, 24), (170, 170, 168))
        self.has_band = rng.uniform() < 0.4
        self.tall = rng.uniform(0.66, 0.88)
        self.taper = rng.uniform(0, 0.12)

    def measure(self, x: Array, y: Array) -> tuple[Array, ...]:
        """Distances of the whole, the body, the handle and the opening."""
        x = x + 0.2
        wide, rim = x / (1.0 - self.taper * y), y + self.tall - 0.06
        body = _rounded_box(wide, y - 0.06, (0.6, self.tall - 0.06), 0.16)
        body = np.maximum(body, 0.16 - np.hypot(wide * 0.27, rim))
        handle = 0.11 - np.abs(np.hypot(x - 0.6, (y - 0.04) * 0.85) - 0.34)
        opening = 0.135 - np.hypot(wide * 0.255, rim)
        return np.maximum(body, handle), body, handle, opening

    def surface(
        self, x: Array, y: Array, grain: Array, distance: Array, body: Array, handle: Array, opening: Array
    ) -> Surface:
        round_ = np.sqrt(np.clip(1.0 - ((x + 0.2) / 0.66) ** 2, 0.0, 1.0)) * 0.55
        height = np.where(body > 0, round_, _dome(handle, 0.11))
        color = _speckled(self.glaze, grain, 0.02)
        if self.has_band:
            color = mix(color, self.band, smooth(0.2 - np.abs(y - 0.15), -0.02, 0.02) * (body > 0))
        rim = smooth(opening, -0.05, -0.03)
        color = mix(color, np.minimum(self.glaze * 1.15 + 12, 255), rim * (body > 0))
        return np.where(opening > 0, 0.5, height), mix(color, self.inside, smooth(opening, 0.0, 0.02))


class Star:
    """A five-armed star in pinks and violets."""

    def __init__(self, rng: Generator) -> None:
        self.paint = near(rng, (206, 60, 130), (150, 70, 190), (226, 92, 150), (112, 62, 170), (190, 80, 200))
        self.heart = near(rng, np.add(self.paint, (255, 210, 220)) / 2)
        self.inner = rng.uniform(0.42, 0.6)  # where the valleys lie, as a fraction of the tips' radius
        self.round = rng.uniform(0.03, 0.12)

    def measure(self, x: Array, y: Array) -> tuple[Array]:
        """Folds the plane into one half arm, then measures to that arm's single edge."""
        sector, radius = np.pi / 5, np.hypot(x, y)
        folded = np.abs((np.arctan2(x, -y) + sector) % (2 * sector) - sector)
        px, py = radius * np.sin(folded), radius * np.cos(folded)
        tip = 1.0 - self.round
        valley = (self.inner * tip * math.sin(sector), self.inner * tip * math.cos(sector))
        away = -_segment(px, py, (0.0, tip), valley, 0.0)
        side = valley[0] * (py - tip) - (valley[1] - tip) * px
        return (self.round + np.where(side < 0, away, -away),)

    def surface(self, x: Array, y: Array, grain: Array, distance: Array) -> Surface:
        height = 0.8 * np.maximum(distance, 0)  # the medial axis turns into a ridge along each arm
        color = mix(self.heart, self.paint, smooth(np.hypot(x, y) + 0.1 * grain, 0.05, 0.7))
        return height, _speckled(color, grain, 0.05)


class Fish:
    """A spindle body with tail and fins, an eye, and perhaps stripes: orange and white, silver, or blue."""

    def __init__(self, rng: Generator) -> None:
        colors = choose(
            rng,
            ((236, 110, 24), (250, 160, 60), (250, 244, 236)),
            ((70, 100, 130), (214, 222, 224), (40, 60, 84)),
            ((20, 120, 200), (120, 205, 220), (250, 220, 70)),
            ((240, 130, 30), (250, 200, 110), (200, 60, 20)),
        )
        self.back, self.belly, self.stripe = (near(rng, color) for color in colors)
        self.stripes = int(rng.integers(0, 4))
        self.deep = rng.uniform(0.3, 0.46)
        self.fork = rng.uniform(0.08, 0.24)

    def measure(self, x: Array, y: Array) -> tuple[Array, ...]:
        """Distances of the whole and of the body."""
        squash = self.deep * (1.0 - 0.18 * (x + 0.15))
        body = (1.0 - np.sqrt(((x + 0.2) / 0.78) ** 2 + (y / squash) ** 2)) * self.deep
        d, f = self.deep, self.fork
        tail = _polygon(x, y, [(0.35, 0.0), (0.98, -0.62 * d - 0.2), (0.98 - f, 0.0), (0.98, 0.62 * d + 0.2)])
        top = _polygon(x, y, [(-0.5, -0.75 * d), (-0.12, -1.42 * d), (0.32, -1.2 * d), (0.25, -0.5 * d)])
        low = _polygon(x, y, [(-0.2, 0.8 * d), (0.1, 1.35 * d), (0.18, 0.6 * d)])
        return np.maximum(body, np.maximum(np.maximum(tail, top), low) + 0.03), body

    def surface(self, x: Array, y: Array, grain: Array, distance: Array, body: Array) -> Surface:
        height = np.maximum(_dome(np.maximum(body, 0), self.deep) * 0.9, 0.05)
        color = mix(self.back, self.belly, smooth(y + 0.05 * grain, -0.05, self.deep * 0.9))
        if self.stripes:
            wave = np.sin((x + 0.15 * y * y) * np.pi * (self.stripes + 0.5) + 0.6)
            color = mix(color, self.stripe, smooth(wave, 0.45, 0.75) * (body > 0))
        scales = 0.06 * np.sin(x * 42.0) * np.sin(y * 42.0) * (body > 0.05)
        color = color * (1 + scales[..., None])
        color = mix(color, self.back * 0.8, smooth(-body, -0.01, 0.02) * (0.8 + 0.2 * np.sin(y * 34.0)))
        eye = np.hypot(x + 0.68, y + 0.2 * self.deep)
        color = mix(color, (245.0, 245.0, 235.0), smooth(-eye, -0.13, -0.11))
        return height, mix(color, (15.0, 15.0, 20.0), smooth(-eye, -0.085, -0.065))


class Leaf:
    """A pointed blade with a stalk, a midrib and veins: green or red, or slender and of the color given."""

    def __init__(self, rng: Generator, paint: Color | None = None) -> None:
        if paint is None:
            self.blade = near(rng, (62, 130, 44), (40, 106, 50), (96, 160, 56), (70, 140, 60), (168, 84, 30))
            self.vein = near(rng, np.add(self.blade, (225, 235, 150)) / 2)
            self.wide, self.teeth = rng.uniform(0.3, 0.52), float(rng.choice([0.0, 0.025, 0.05]))
            self.bow = rng.normal(0, 0.15)
        else:
            self.blade, self.vein = paint, near(rng, paint)
            self.wide, self.teeth, self.bow = rng.uniform(0.15, 0.4), 0.0, rng.normal(0, 0.3)

    def measure(self, x: Array, y: Array) -> tuple[Array, ...]:
        """Distances of the whole and of the blade, and the height above the (bowed) midrib."""
        v = y - self.bow * (x * x - 0.4)
        big = (0.64 + self.wide**2) / (2 * self.wide)  # circle through both tips and one side
        saw = self.teeth * np.abs(((x - 0.5 * np.abs(v)) * 9.0) % 2.0 - 1.0)
        blade = big - np.hypot(x - 0.18, np.abs(v) + big - self.wide) - saw
        stalk = 0.035 - np.hypot(np.maximum(np.abs(x + 0.75) - 0.25, 0), v)
        return np.maximum(blade, stalk), blade, v

    def surface(self, x: Array, y: Array, grain: Array, distance: Array, blade: Array, v: Array) -> Surface:
        veins = np.abs(((x - 0.9 * np.abs(v)) * 5.0) % 1.0 - 0.5)
        ridge = 0.25 * np.abs(v) + 0.1 * np.minimum(blade, 0.1) + 0.05 * veins
        lines = np.maximum(0.6 * smooth(veins, 0.42, 0.49), smooth(-np.abs(v), -0.035, -0.015))
        lines = np.where(blade > 0, lines, 1.0)
        return ridge, mix(_speckled(self.blade, grain, 0.1), self.vein, 0.75 * lines)


class Blob(NamedTuple):
    """A closed wavy outline, a sum of cosines: stones, lemons, balls, bread."""

    radii: tuple[float, ...]
    phases: tuple[float, ...]
    stretch: float
    paint: Color
    other: Color
    depth: float

    def measure(self, x: Array, y: Array) -> tuple[Array]:
        angle = np.arctan2(y, x)
        outline = np.full_like(x, 0.85)
        for k, (radius, phase) in enumerate(zip(self.radii, self.phases, strict=True), start=2):
            outline = outline + radius * np.cos(k * angle + phase)
        return ((outline - np.hypot(x, y / self.stretch)) * self.stretch,)

    def surface(self, x: Array, y: Array, grain: Array, distance: Array) -> Surface:
        return _dome(distance, self.depth), mix(self.paint, self.other, smooth(grain, -0.8, 1.4))


class Crescent(NamedTuple):
    """A disc with a disc cut out of it: a moon, a horn, a slice of melon."""

    cut: float
    paint: Color
    edge: Color

    def measure(self, x: Array, y: Array) -> tuple[Array]:
        return (np.minimum(1.0 - np.hypot(x, y), np.hypot(x, y - self.cut) - 1.0),)

    def surface(self, x: Array, y: Array, grain: Array, distance: Array) -> Surface:
        color = mix(self.paint, self.edge, smooth(np.hypot(x, y) - 1.0, -0.09, -0.05))
        return 0.4 * np.minimum(distance, 0.08), _speckled(color, grain, 0.06)


class Stick(NamedTuple):
    """Thick lines from corner (x, y) to corner: twigs, pencils, boomerangs."""

    corners: tuple[tuple[float, float], ...]
    radius: float
    paint: Color
    other: Color

    def measure(self, x: Array, y: Array) -> tuple[Array]:
        ends = zip(self.corners, self.corners[1:], strict=False)
        return (np.maximum.reduce([_segment(x, y, start, end, self.radius) for start, end in ends]),)

    def surface(self, x: Array, y: Array, grain: Array, distance: Array) -> Surface:
        return _dome(distance, self.radius), mix(self.paint, self.other, smooth(grain, -0.5, 1.2))


class Panel(NamedTuple):
    """A rounded rectangle, or its rim of width `ring`: books, boxes, frames."""

    half: tuple[float, float]
    radius: float
    paint: Color
    other: Color
    ring: float = 0.0

    def measure(self, x: Array, y: Array) -> tuple[Array]:
        outer = _rounded_box(x, y, self.half, self.radius)
        return (np.minimum(outer, self.ring - outer) if self.ring else outer,)

    def surface(self, x: Array, y: Array, grain: Array, distance: Array) -> Surface:
        stripe = smooth(np.abs(y) - 0.3 * self.half[1], -0.01, 0.01)
        return _dome(distance, 0.08), _speckled(mix(self.other, self.paint, stripe), grain, 0.05)
