"""What is in an image: random shapes of every class, where they lie, and the light they lie in."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from d2lmini.data import drawing, shapes
from d2lmini.data.backdrops import backdrop, illumination
from d2lmini.data.drawing import Light, Placed
from d2lmini.data.shapes import Array, Color, Shape

CLASSES = {
    "bananas": ("banana",),
    "scenes": ("banana", "apple", "mug", "star", "fish", "leaf"),
}
PLAN_SIZE = 128  # who hides whom is decided on this grid, so that it is the same at every size
MIN_SHOWN = 0.45  # at least this share of an object's outline stays in view


class Item(NamedTuple):
    """Something to draw: where, its class id (-1: not to be found), how its paint is tinted."""

    placed: Placed
    label: int
    tint: Array  # (3,)


class Look(NamedTuple):
    """How the camera renders a scene; blur is a fraction of the side, noise is in grey levels."""

    contrast: float
    brightness: float
    cast: Array  # (3,)
    blur: float
    noise: float


class Scene(NamedTuple):
    """Everything about an image but its size; the items go from back to front."""

    ground: Array  # (GRID, GRID, 3)
    glow: Array  # (GRID, GRID)
    light: Light
    items: list[Item]
    look: Look


def _near(rng: Generator, color: Color, spread: float = 14.0, scale: float = 0.1) -> Color:
    """A colour near the given one: a little lighter or darker, a little off in hue."""
    shifted = np.asarray(color) * rng.normal(1.0, scale) + rng.normal(0.0, spread, 3)
    return tuple(float(c) for c in np.clip(shifted, 8.0, 250.0))


def _pick(rng: Generator, *colors: Color) -> Color:
    return _near(rng, colors[int(rng.integers(len(colors)))])


def random_banana(rng: Generator) -> shapes.Banana:
    """Green to overripe, slim to thick, nearly straight to strongly bent."""
    ripeness = float(rng.beta(2.5, 1.5))
    green, yellow = np.array((158, 176, 58)), np.array((238, 200, 58))
    skin = green + (yellow - green) * min(1.0, 1.6 * ripeness)
    spots = max(0.0, float(rng.normal(0.9 * ripeness - 0.42, 0.25)))
    return shapes.Banana(
        bend=float(rng.uniform(0.55, 2.1)),
        thickness=float(rng.uniform(0.16, 0.3)),
        lean=float(rng.normal(0.0, 0.08)),
        ripeness=ripeness,
        spots=min(spots, 0.8),
        skin=_near(rng, tuple(skin), 9.0, 0.06),
        tip=_near(rng, (74, 58, 30), 8.0),
    )


def random_apple(rng: Generator) -> shapes.Apple:
    """Red, red-and-yellow, now and then green."""
    skin = _pick(rng, (178, 24, 30), (198, 40, 36), (150, 18, 34), (205, 60, 40), (140, 170, 50))
    blush = _near(rng, tuple(0.5 * np.array(skin) + 0.5 * np.array((225, 150, 60))))
    return shapes.Apple(
        skin,
        blush,
        float(rng.uniform(0.95, 1.1)),
        rng.uniform() < 0.6,
        float(rng.normal(0.08, 0.08)),
    )


def random_mug(rng: Generator) -> shapes.Mug:
    """Glazed in white, blues or dark tones, with coffee, tea or nothing in it."""
    glaze = _pick(
        rng,
        (232, 232, 228),
        (46, 92, 170),
        (60, 150, 170),
        (40, 52, 84),
        (205, 215, 225),
        (80, 110, 190),
    )
    band = _pick(rng, (200, 60, 50), (240, 240, 235), (40, 60, 120), (240, 190, 70))
    inside = _pick(rng, (52, 30, 16), (120, 66, 24), (170, 170, 168))
    return shapes.Mug(
        glaze,
        inside,
        band,
        rng.uniform() < 0.4,
        float(rng.uniform(0.66, 0.88)),
        float(rng.uniform(0, 0.12)),
    )


def random_star(rng: Generator) -> shapes.Star:
    """A five-armed star in pinks and violets."""
    paint = _pick(rng, (206, 60, 130), (150, 70, 190), (226, 92, 150), (112, 62, 170), (190, 80, 200))
    heart = _near(rng, tuple(0.5 * np.array(paint) + 0.5 * np.array((255, 210, 220))))
    return shapes.Star(5, float(rng.uniform(0.42, 0.6)), paint, heart, float(rng.uniform(0.03, 0.12)))


def random_fish(rng: Generator) -> shapes.Fish:
    """Orange with white bands, or silver, or blue."""
    back, belly, stripe = (
        ((236, 110, 24), (250, 160, 60), (250, 244, 236)),
        ((70, 100, 130), (214, 222, 224), (40, 60, 84)),
        ((20, 120, 200), (120, 205, 220), (250, 220, 70)),
        ((240, 130, 30), (250, 200, 110), (200, 60, 20)),
    )[int(rng.integers(4))]
    colors = (_near(rng, back), _near(rng, belly), _near(rng, stripe))
    return shapes.Fish(
        *colors,
        int(rng.integers(0, 4)),
        float(rng.uniform(0.3, 0.46)),
        float(rng.uniform(0.08, 0.24)),
    )


def random_leaf(rng: Generator) -> shapes.Leaf:
    """Greens, and autumn's reds now and then."""
    blade = _pick(rng, (62, 130, 44), (40, 106, 50), (96, 160, 56), (70, 140, 60), (168, 84, 30))
    vein = _near(rng, tuple(0.5 * np.array(blade) + 0.5 * np.array((225, 235, 150))))
    wide, teeth = float(rng.uniform(0.3, 0.52)), float(rng.choice([0.0, 0.025, 0.05]))
    return shapes.Leaf(blade, vein, wide, teeth, float(rng.normal(0, 0.15)))


def random_blob(rng: Generator, paint: Color, lumpy: float) -> shapes.Blob:
    """A ball (`lumpy` 0) up to a potato."""
    radii = tuple(float(r) for r in rng.normal(0, lumpy, 4) / np.arange(1.0, 5.0))
    phases = tuple(float(p) for p in rng.uniform(0, 2 * np.pi, 4))
    other = tuple(0.72 * c for c in paint)
    return shapes.Blob(
        radii, phases, float(rng.uniform(0.5, 0.95)), paint, other, float(rng.uniform(0.3, 0.8))
    )


def random_stick(rng: Generator, paint: Color, joints: int) -> shapes.Stick:
    """A straight rod (`joints` 0), a boomerang (1) or a twig."""
    turn = np.cumsum(rng.normal(0, 0.9, joints + 1))
    steps = np.stack([np.cos(turn), np.sin(turn)], axis=1) * rng.uniform(0.6, 1.0, (joints + 1, 1))
    corners = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    corners = corners - (corners.min(0) + corners.max(0)) / 2
    corners = corners / max(1.0, float(np.hypot(*corners.T).max()))
    corners = tuple((float(x), float(y)) for x, y in corners)
    return shapes.Stick(corners, float(rng.uniform(0.05, 0.17)), paint, tuple(0.7 * c for c in paint))


def random_distractor(rng: Generator, *colors: Color) -> Shape:
    """Something that belongs to no class, painted near one of the colours."""
    paint = _pick(rng, *colors)
    kind = rng.uniform()
    if kind < 0.12:
        return shapes.Crescent(float(rng.uniform(-0.9, -0.35)), paint, _near(rng, (120, 140, 60)))
    if kind < 0.4:
        return random_stick(rng, paint, int(rng.integers(0, 3)))
    if kind < 0.6:
        half = (float(rng.uniform(0.5, 0.9)), float(rng.uniform(0.2, 0.7)))
        ring = 0.1 if rng.uniform() < 0.15 else 0.0
        return shapes.Panel(half, float(rng.uniform(0.02, 0.2)), paint, _near(rng, paint), ring)
    return random_blob(rng, paint, float(rng.choice([0.0, 0.05, 0.12])))


def random_dry_leaf(rng: Generator) -> shapes.Leaf:
    """A slender leaf of the bananas' colours, which only the `bananas` preset may strew."""
    paint = _pick(rng, *BANANA_LIKE)
    return shapes.Leaf(
        paint, _near(rng, paint), float(rng.uniform(0.15, 0.4)), 0.0, float(rng.normal(0, 0.3))
    )


MAKERS = {
    "banana": random_banana,
    "apple": random_apple,
    "mug": random_mug,
    "star": random_star,
    "fish": random_fish,
    "leaf": random_leaf,
}
FREE_ANGLE = {"banana": np.pi, "apple": 0.5, "mug": 0.3, "star": np.pi, "fish": 0.7, "leaf": np.pi}


class Turned(NamedTuple):
    """A shape with an angle and a flip, and the box (x0, y0, x1, y1) that it then has."""

    shape: Shape
    angle: float
    flip: bool
    box: tuple[float, float, float, float]


def _turn(rng: Generator, shape: Shape, most: float) -> Turned:
    """Turn the shape by up to `most` radians either way."""
    angle, flip = float(rng.uniform(-most, most)), bool(rng.uniform() < 0.5)
    return Turned(shape, angle, flip, drawing.extent(shape, angle, flip))


def _place(rng: Generator, turned: Turned, side: float, margin: float) -> Placed:
    """Put the shape so that its box's longer side is `side` and `margin` of it is left around it.

    A negative margin lets up to half as much of the box leave the image.
    """
    x0, y0, x1, y1 = turned.box
    scale = side / max(x1 - x0, y1 - y0)
    low = np.minimum(np.array([x1 - x0, y1 - y0]) * scale / 2 * (1 + margin), 0.5)
    middle = rng.uniform(low, 1 - low)
    center = (middle - scale * np.array([x0 + x1, y0 + y1]) / 2).tolist()
    fine = int(rng.integers(10, 44))
    grain = rng.standard_normal((fine, fine), dtype=np.float32)
    edge = 2 * 2 * shapes.REACH / 64  # what the box may be off by
    window = (x0 - edge, y0 - edge, x1 + edge, y1 + edge)
    return Placed(turned.shape, tuple(center), scale, turned.angle, turned.flip, grain, window)


def _tint(rng: Generator, scene_tint: Array) -> Array:
    return (scene_tint * rng.uniform(0.8, 1.12)).astype(np.float32)


def _random_light(rng: Generator) -> Light:
    angle, lift = rng.uniform(-np.pi, 0.0), rng.uniform(0.6, 1.1)
    direction = (np.cos(angle) * np.cos(lift), np.sin(angle) * np.cos(lift), np.sin(lift))
    return Light(
        tuple(float(d) for d in direction),
        ambient=float(rng.uniform(0.4, 0.7)),
        shine=float(rng.uniform(0.0, 0.22)),
        shadow=float(rng.uniform(0.2, 0.65)),
        softness=float(rng.uniform(0.04, 0.14)),
    )


def _random_look(rng: Generator, harsh: float) -> Look:
    return Look(
        contrast=float(np.clip(rng.normal(1.0 - 0.1 * harsh, 0.15), 0.68, 1.25)),
        brightness=float(rng.normal(4.0, 14.0)),
        cast=rng.normal(1.0, 0.045, 3).astype(np.float32),
        blur=float(max(0.0, rng.normal(0.0012, 0.0018 * (0.5 + harsh)))),
        noise=float(rng.uniform(1.0, 4.0 + 8.0 * harsh)),
    )


BANANA_LIKE = (
    (232, 196, 60),
    (214, 170, 70),
    (150, 100, 50),
    (120, 140, 50),
    (240, 214, 120),
    (96, 60, 34),
)
ANY_COLOR = (
    *BANANA_LIKE,
    (220, 220, 215),
    (60, 60, 66),
    (170, 50, 50),
    (70, 120, 180),
    (120, 160, 120),
)

# For the scenes: nothing that a small apple, leaf or star could be taken for.
DULL = (
    (150, 100, 50),
    (96, 60, 34),
    (220, 220, 215),
    (60, 60, 66),
    (150, 150, 140),
    (210, 190, 150),
    (90, 120, 150),
)


def bananas_scene(rng: Generator) -> Scene:
    """One banana, all of it in view, on a cluttered image with things of its colours."""
    ground, glow, light = backdrop(rng), illumination(rng), _random_light(rng)
    tint = rng.normal(1.0, 0.04, 3).astype(np.float32)
    items = []
    for _ in range(int(rng.choice([0, 1, 2, 3, 4], p=[0.3, 0.25, 0.2, 0.15, 0.1]))):
        colors = BANANA_LIKE if rng.uniform() < 0.6 else ANY_COLOR
        leaf = rng.uniform() < 0.18
        shape = random_dry_leaf(rng) if leaf else random_distractor(rng, *colors)
        placed = _place(rng, _turn(rng, shape, np.pi), rng.uniform(0.1, 0.5), -0.6)
        items.append(Item(placed, -1, _tint(rng, tint)))
    placed = _place(rng, _turn(rng, random_banana(rng), np.pi), rng.uniform(0.2, 0.55), 0.03)
    items.append(Item(placed, 0, _tint(rng, tint)))
    return Scene(ground, glow, light, items, _random_look(rng, 1.0))


def _shown(masks: list[Array], areas: list[float]) -> list[float]:
    """Share of each outline that later ones and the image's edge leave in view."""
    cover = np.zeros((PLAN_SIZE, PLAN_SIZE), bool)
    shares = []
    for mask, area in zip(reversed(masks), reversed(areas), strict=True):
        shares.append(float((mask & ~cover).sum()) / max(area, 1.0))
        cover |= mask
    return shares[::-1]


class _Planner:
    """Collects items from back to front and refuses any that would hide another too far."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._masks: list[Array] = []
        self._areas: list[float] = []

    def offer(self, item: Item) -> bool:
        """Add the item in front of the others if every object keeps enough in view."""
        crop = drawing.coverage(item.placed, PLAN_SIZE)
        masks = [*self._masks, drawing.full_mask(crop, PLAN_SIZE)]
        areas = [*self._areas, float((crop.values >= 0.5).sum())]
        labels = [*(i.label for i in self.items), item.label]
        shown = _shown(masks, areas)
        if any(share < MIN_SHOWN for share, label in zip(shown, labels, strict=True) if label >= 0):
            return False
        self.items, self._masks, self._areas = [*self.items, item], masks, areas
        return True


def _random_side(rng: Generator) -> float:
    """Longer side of an object, 0.052 to 0.78: log-uniform, tilted to a median of 0.23.

    Stalks and tips thinner than half a pixel do not count, so that the smallest boxes measure 0.04.
    """
    return 0.052 * 15.0 ** (rng.uniform() ** 0.85)


def scenes_scene(rng: Generator) -> Scene:
    """0 to 8 objects of six classes among things of none, some behind others."""
    ground, glow, light = backdrop(rng), illumination(rng), _random_light(rng)
    tint = rng.normal(1.0, 0.03, 3).astype(np.float32)
    planner, classes = _Planner(), CLASSES["scenes"]
    count = int(rng.choice(9, p=[0.05, 0.15, 0.18, 0.17, 0.14, 0.11, 0.08, 0.07, 0.05]))
    jobs = [(_random_side(rng), int(rng.integers(len(classes)))) for _ in range(count)]
    jobs += [(rng.uniform(0.1, 0.45), -1) for _ in range(int(rng.integers(0, 4)))]
    for side, label in sorted(jobs, reverse=True):  # small things in front of large ones
        if label < 0:
            turned = _turn(rng, random_distractor(rng, *DULL), np.pi)
        else:
            turned = _turn(rng, MAKERS[classes[label]](rng), FREE_ANGLE[classes[label]])
        for _ in range(6):
            placed = _place(rng, turned, side, -0.25 if side > 0.1 else 0.0)
            if planner.offer(Item(placed, label, _tint(rng, tint))):
                break
    return Scene(ground, glow, light, planner.items, _random_look(rng, 0.2))


SCENES = {"bananas": bananas_scene, "scenes": scenes_scene}
