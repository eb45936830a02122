"""The default data: images drawn on demand, with exact boxes, the same for ever for one seed.

A scene is what is in an image whatever its size: random shapes of every class, where they lie, and the light
they lie in. `render` draws it, and `Synthetic` is the data set of such images.
"""

from __future__ import annotations

from operator import index as as_index
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from d2lmini.data import drawing, shapes
from d2lmini.data.backdrops import backdrop, illumination
from d2lmini.data.drawing import Array, Color, Light, Placed, Shape, near
from d2lmini.data.samples import Sample

__all__ = ["Synthetic"]

SPLITS = ("train", "val")
SIZES = (64, 1024)
MAKERS = {  # what draws an object of each class, and how far it may be turned either way, in radians
    "banana": (shapes.Banana, np.pi),
    "apple": (shapes.Apple, 0.5),
    "mug": (shapes.Mug, 0.3),
    "star": (shapes.Star, np.pi),
    "fish": (shapes.Fish, 0.7),
    "leaf": (shapes.Leaf, np.pi),
}
PRESETS = {"bananas": ("banana",), "scenes": tuple(MAKERS)}  # the classes of each
PLAN_SIZE = 128  # who hides whom is decided on this grid, so that it is the same at every size
MIN_SHOWN = 0.45  # at least this share of an object's outline stays in view

GRAYS = ((220, 220, 215), (60, 60, 66))
BANANA_LIKE = ((232, 196, 60), (214, 170, 70), (150, 100, 50), (120, 140, 50), (240, 214, 120), (96, 60, 34))
ANY_COLOR = (*BANANA_LIKE, *GRAYS, (170, 50, 50), (70, 120, 180), (120, 160, 120))
# For the scenes: nothing that a small apple, leaf or star could be taken for.
DULL = ((150, 100, 50), (96, 60, 34), *GRAYS, (150, 150, 140), (210, 190, 150), (90, 120, 150))


class Item(NamedTuple):
    """Something to draw."""

    placed: Placed
    label: int  # -1: not to be found
    tint: Array  # (3,)


class Look(NamedTuple):
    """How the camera renders a scene; blur is a fraction of the side, noise is in gray levels."""

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


def random_blob(rng: Generator, paint: Color, lumpy: float) -> shapes.Blob:
    """A ball (`lumpy` 0) up to a potato."""
    radii = rng.normal(0, lumpy, 4) / np.arange(1.0, 5.0)
    phases = rng.uniform(0, 2 * np.pi, 4)
    stretch, depth = rng.uniform(0.5, 0.95), rng.uniform(0.3, 0.8)
    return shapes.Blob(radii.tolist(), phases.tolist(), stretch, paint, 0.72 * np.asarray(paint), depth)


def random_distractor(rng: Generator, *colors: Color) -> Shape:
    """Something that belongs to no class, painted near one of the colors."""
    paint = near(rng, *colors)
    kind = rng.uniform()
    if kind < 0.12:
        return shapes.Crescent(rng.uniform(-0.9, -0.35), paint, near(rng, (120, 140, 60)))
    if kind < 0.4:
        sides = int(rng.integers(0, 3)) + 1  # a straight rod, a boomerang or a twig
        turn = np.cumsum(rng.normal(0, 0.9, sides))
        steps = np.stack([np.cos(turn), np.sin(turn)], axis=1) * rng.uniform(0.6, 1.0, (sides, 1))
        corners = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
        corners = corners - (corners.min(0) + corners.max(0)) / 2
        corners = corners / max(1.0, float(np.hypot(*corners.T).max()))
        return shapes.Stick(corners.tolist(), rng.uniform(0.05, 0.17), paint, 0.7 * np.asarray(paint))
    if kind < 0.6:
        half = (rng.uniform(0.5, 0.9), rng.uniform(0.2, 0.7))
        ring = 0.1 if rng.uniform() < 0.15 else 0.0
        return shapes.Panel(half, rng.uniform(0.02, 0.2), paint, near(rng, paint), ring)
    return random_blob(rng, paint, float(rng.choice([0.0, 0.05, 0.12])))


def _turn(rng: Generator, shape: Shape, most: float) -> Placed:
    """Turn the shape by up to `most` radians either way, and find the box that it then has."""
    angle, flip = rng.uniform(-most, most), bool(rng.uniform() < 0.5)
    return Placed(shape, (0.0, 0.0), 1.0, angle, flip, np.empty(0), drawing.extent(shape, angle, flip))


def _place(rng: Generator, turned: Placed, side: float, margin: float, label: int, tint: Array) -> Item:
    """Put the shape so that its box's longer side is `side`; a negative margin lets part of it leave."""
    x0, y0, x1, y1 = turned.box
    scale = side / max(x1 - x0, y1 - y0)
    low = np.minimum(np.array([x1 - x0, y1 - y0]) * scale / 2 * (1 + margin), 0.5)
    middle = rng.uniform(low, 1 - low)
    center = (middle - scale * np.array([x0 + x1, y0 + y1]) / 2).tolist()
    fine = int(rng.integers(10, 44))
    grain = rng.standard_normal((fine, fine), dtype=np.float32)
    edge = 2 * 2 * drawing.REACH / 64  # what the box may be off by
    window = (x0 - edge, y0 - edge, x1 + edge, y1 + edge)
    placed = turned._replace(center=center, scale=scale, grain=grain, box=window)
    return Item(placed, label, (tint * rng.uniform(0.8, 1.12)).astype(np.float32))


def _random_light(rng: Generator) -> Light:
    angle, lift = rng.uniform(-np.pi, 0.0), rng.uniform(0.6, 1.1)
    direction = (np.cos(angle) * np.cos(lift), np.sin(angle) * np.cos(lift), np.sin(lift))
    ranges = ((0.4, 0.7), (0.0, 0.22), (0.2, 0.65), (0.04, 0.14))  # ambient, shine, shadow, softness
    return Light(tuple(float(d) for d in direction), *(rng.uniform(*between) for between in ranges))


def _random_look(rng: Generator, harsh: float) -> Look:
    return Look(
        contrast=float(np.clip(rng.normal(1.0 - 0.1 * harsh, 0.15), 0.68, 1.25)),
        brightness=rng.normal(4.0, 14.0),
        cast=rng.normal(1.0, 0.045, 3).astype(np.float32),
        blur=max(0.0, rng.normal(0.0012, 0.0018 * (0.5 + harsh))),
        noise=rng.uniform(1.0, 4.0 + 8.0 * harsh),
    )


def bananas_scene(rng: Generator) -> Scene:
    """One banana, all of it in view, on a cluttered image with things of its colors."""
    ground, glow, light = backdrop(rng), illumination(rng), _random_light(rng)
    tint, items = rng.normal(1.0, 0.04, 3).astype(np.float32), []
    for _ in range(int(rng.choice([0, 1, 2, 3, 4], p=[0.3, 0.25, 0.2, 0.15, 0.1]))):
        colors = BANANA_LIKE if rng.uniform() < 0.6 else ANY_COLOR
        dry_leaf = rng.uniform() < 0.18
        shape = shapes.Leaf(rng, near(rng, *BANANA_LIKE)) if dry_leaf else random_distractor(rng, *colors)
        items.append(_place(rng, _turn(rng, shape, np.pi), rng.uniform(0.1, 0.5), -0.6, -1, tint))
    turned = _turn(rng, shapes.Banana(rng), np.pi)
    items.append(_place(rng, turned, rng.uniform(0.2, 0.55), 0.03, 0, tint))
    return Scene(ground, glow, light, items, _random_look(rng, 1.0))


def _in_view(outlines: list[tuple[int, Array, float]]) -> bool:
    """Whether enough of every object is in view; a label, mask and whole area for each, back to front."""
    cover = np.zeros((PLAN_SIZE, PLAN_SIZE), bool)
    for label, mask, area in reversed(outlines):
        if label >= 0 and (mask & ~cover).sum() / max(area, 1) < MIN_SHOWN:
            return False
        cover |= mask
    return True


def scenes_scene(rng: Generator) -> Scene:
    """0 to 8 objects of six classes among things of none, some behind others."""
    ground, glow, light = backdrop(rng), illumination(rng), _random_light(rng)
    tint = rng.normal(1.0, 0.03, 3).astype(np.float32)
    items, outlines, makers = [], [], list(MAKERS.values())
    count = int(rng.choice(9, p=[0.05, 0.15, 0.18, 0.17, 0.14, 0.11, 0.08, 0.07, 0.05]))
    # Longer sides of 0.052 to 0.78: log-uniform, tilted to a median of 0.23. Stalks and tips thinner than
    # half a pixel do not count, so that the smallest boxes measure 0.04.
    jobs = [(0.052 * 15 ** (rng.uniform() ** 0.85), int(rng.integers(len(makers)))) for _ in range(count)]
    jobs += [(rng.uniform(0.1, 0.45), -1) for _ in range(int(rng.integers(0, 4)))]
    for side, label in sorted(jobs, reverse=True):  # small things in front of large ones
        if label < 0:
            turned = _turn(rng, random_distractor(rng, *DULL), np.pi)
        else:
            maker, most = makers[label]
            turned = _turn(rng, maker(rng), most)
        for _ in range(6):
            item = _place(rng, turned, side, -0.25 if side > 0.1 else 0.0, label, tint)
            crop = drawing.coverage(item.placed, PLAN_SIZE)
            outline = (label, drawing.full_mask(crop, PLAN_SIZE), (crop.values >= 0.5).sum())
            if _in_view([*outlines, outline]):
                items.append(item)
                outlines.append(outline)
                break
    return Scene(ground, glow, light, items, _random_look(rng, 0.2))


SCENES = {"bananas": bananas_scene, "scenes": scenes_scene}


def _develop(image: Array, look: Look, rng: Generator) -> Array:
    """Blur, contrast, color cast and noise; (size, size, 3) float -> uint8."""
    size = image.shape[0]
    if look.blur * size > 0.15:
        image = drawing.blurred(drawing.to_image(image), look.blur * size)
    bits = np.frombuffer(rng.bytes(2 * size * size * 3), np.uint8).reshape(2, size, size, 3)
    grain = np.add(bits[0], bits[1], dtype=np.float32)  # of two uniforms: a triangle, near enough to a bell
    grain -= 255.0
    grain *= look.noise / 104.0  # its spread is 104
    grain += image * (look.contrast * look.cast)
    grain += 128.0 * (1.0 - look.contrast) + look.brightness + 0.5
    return np.clip(grain, 0, 255, out=grain).astype(np.uint8)


def render(scene: Scene, size: int, rng: Generator) -> tuple[Array, list[tuple[int, Array]]]:
    """Draw a scene: pixels (size, size, 3) uint8, and a label and mask (size, size) per object in view.

    A mask is the whole outline within the image, also where something else lies over it.
    """
    image = scene.ground.copy()
    if size != len(image):
        image = np.array(drawing.to_image(image).resize((size, size), Image.Resampling.BICUBIC), np.float32)
    objects = []
    for item in scene.items:
        crop = drawing.paint(image, item.placed, scene.light, item.tint)
        mask = drawing.full_mask(crop, size)
        if item.label >= 0 and mask.any():
            objects.append((item.label, mask))
    image *= drawing.resize(scene.glow, size, size)[..., None]
    return _develop(image, scene.look, rng), objects


class Synthetic(Dataset[Sample]):
    """Drawn images with exact boxes, `size` by `size` pixels; no file is needed.

    Image `i` depends on `(seed, preset, split, i)` and on nothing else. `size` changes the resolution only
    (an object that covers half of no pixel at a small size is left out). Presets: `bananas` has exactly one
    banana per image, like D2L's set, all of it in view; `scenes` has 0 to 8 objects of six classes, with
    sides from 4 % to 80 % of the image's.

    A box is read from the pixels that its object covers by half or more: first column and row, last column
    and row plus one, over `size`. It spans the object's whole outline within the image, also where something
    lies over it; at least `MIN_SHOWN` of every outline is in view.

    Raises ValueError for an unknown preset or split, a size outside 64..1024, or a negative count or seed,
    and IndexError for an index outside the set (negative ones too).
    """

    split_record = None  # no folder was divided (see `folders.open_folder`)

    def __init__(
        self, preset: str = "bananas", count: int = 1000, size: int = 256, split: str = "train", seed: int = 0
    ) -> None:
        for name, value, known in (("preset", preset, PRESETS), ("split", split, SPLITS)):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; choose one of {', '.join(known)}")
        if not isinstance(size, int) or not SIZES[0] <= size <= SIZES[1]:
            raise ValueError(f"size is {size!r}; choose a whole number from {SIZES[0]} to {SIZES[1]}")
        for name, value in (("count", count), ("seed", seed)):
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"{name} is {value!r}; choose a whole number of 0 or more")
        self.preset, self.count, self.size, self.split, self.seed = preset, count, size, split, seed
        self.classes = PRESETS[preset]

    def __len__(self) -> int:
        return self.count

    def _draw(self, index: int) -> tuple[Array, list[tuple[int, Array]]]:
        """Pixels and (label, mask) pairs of image `index`."""
        index = as_index(index)
        if not 0 <= index < self.count:
            raise IndexError(f"index {index} is outside 0..{self.count - 1}")
        key = (list(PRESETS).index(self.preset), SPLITS.index(self.split), index)
        plan, film = np.random.SeedSequence(self.seed, spawn_key=key).spawn(2)
        scene = SCENES[self.preset](np.random.default_rng(plan))
        return render(scene, self.size, np.random.default_rng(film))

    def masks(self, index: int) -> Tensor:
        """The pixels of each object of image `index` within the image, (G, size, size) bool."""
        masks = np.array([mask for _, mask in self._draw(index)[1]], bool)
        return torch.from_numpy(masks.reshape(-1, self.size, self.size))

    def __getitem__(self, index: int) -> Sample:
        pixels, objects = self._draw(index)
        boxes = np.array([drawing.tight_box(mask) for _, mask in objects], np.float32).reshape(-1, 4)
        return Sample(
            torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            torch.from_numpy(boxes / np.float32(self.size)),
            torch.tensor([label for label, _ in objects], dtype=torch.int64),
        )
