"""Small folders that pass for photographs: few images, much clutter, and a folder in VOC's form.

    python -m benchmarks.photographs creatures FOLDER --count 200

writes one of three kinds. `creatures`: one furry animal, now and then two, mostly large, in the colours of
what is around it. `tools`: up to six hammers, bottles and wheels of all sizes. `signs`: up to four signs on
poles, small, among boards and balls of the same paint. None of the shapes is one that the package's own
images have as a class. Images are upright, wide or square, 240 to 320 pixels a side, saved as JPEG; every
fifth one is for validation, by lists in ImageSets/Main.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageFilter

from d2lmini.data import drawing, shapes
from d2lmini.data.backdrops import backdrop, illumination
from d2lmini.data.drawing import REACH, Array, Color, Light, Placed, Shape
from d2lmini.data.synthetic import random_blob, random_distractor

CANVAS = 320
WINDOWS = ((320, 240), (240, 320), (320, 320), (320, 214), (300, 240))  # (width, height)
LEAST_SHOWN = 0.5  # of an object's pixels; one that shows less is painted over, or moved


class Part(NamedTuple):
    """A shape in an object's own plane, whose longer side is about 2: centre, scale and angle."""

    shape: Shape
    x: float
    y: float
    scale: float
    angle: float = 0.0


class Thing(NamedTuple):
    """Parts from back to front, what they are together (-1: clutter), and how far they may be turned."""

    parts: list[Part]
    label: int
    turn: float


class Photo(NamedTuple):
    """Pixels (H, W, 3) uint8, and a class id and corners in pixels, edges from 0, for each object."""

    pixels: Array
    objects: list[tuple[int, tuple[int, int, int, int]]]


# --------------------------------------------------------------------------------------------- things


def _shade(rng: Generator, color: Sequence[float], spread: float = 12.0) -> Color:
    """A colour near another, lighter or darker."""
    near = np.asarray(color, np.float64) * rng.uniform(0.8, 1.2) + rng.normal(0, spread, 3)
    return tuple(float(c) for c in near.clip(8, 248))


def _coat(rng: Generator, around: Array) -> Color:
    """A fur between grey and brown that half hides in the colours around it."""
    own = np.array([(120, 112, 104), (92, 76, 62), (150, 128, 100), (70, 68, 70)][int(rng.integers(4))])
    return _shade(rng, own + (around.mean((0, 1)) - own) * rng.uniform(0.0, 0.45))


def creature(rng: Generator, around: Array, label: int = 0) -> Thing:
    """A body, a head with two ears, a mask over the eyes and a snout, legs, and a banded tail."""
    coat = _coat(rng, around)
    dark, light = tuple(0.4 * c for c in coat), tuple(min(1.5 * c + 20, 248) for c in coat)

    def lump(paint: Color, stretch: float) -> Shape:
        return random_blob(rng, paint, 0.05)._replace(stretch=stretch)

    hx, hy = rng.uniform(0.45, 0.8), rng.uniform(-0.55, -0.05)  # where the head is
    plump, size = rng.uniform(0.5, 0.85), rng.uniform(0.34, 0.5)
    bend = rng.uniform(-0.5, 0.9)
    tail = shapes.Stick(((0, 0), (-0.5, -0.3 * bend), (-0.85, -bend)), rng.uniform(0.1, 0.17), coat, dark)
    band = shapes.Stick(((-0.1, -0.2), (0.1, 0.2)), 0.09, dark, dark)
    parts = [Part(tail, -0.55, 0.05, 0.8)]
    parts += [Part(band, -0.55 - 0.4 * t, 0.05 - 0.24 * t * bend, 0.5) for t in (0.6, 1.1)]
    leg = shapes.Stick(((0, -0.5), (rng.uniform(-0.2, 0.2), 0.5)), 0.2, dark, coat)
    parts += [Part(leg, x, 0.55, 0.5) for x in rng.uniform(-0.55, 0.55, int(rng.integers(1, 5)))]
    parts += [Part(lump(coat, plump), 0, 0.1, 0.75)]
    ear = shapes.Blob((0.0,), (0.0,), 0.8, dark, light, 0.4)
    parts += [Part(ear, hx + s * size * 0.55, hy - size * 0.62, size * 0.34) for s in (-1, 1)]
    parts += [Part(lump(light, 0.88), hx, hy, size)]
    mask = shapes.Stick(((-0.7, 0.1), (0.0, -0.08), (0.7, 0.1)), 0.22, dark, dark)
    parts += [
        Part(mask, hx, hy - 0.05 * size, size * 0.85),
        Part(lump(light, 0.8), hx, hy + size * 0.4, size * 0.35),
    ]
    parts += [Part(ear._replace(other=dark), hx, hy + size * 0.36, size * 0.13)]
    return Thing(parts, label, 0.5)


def hammer(rng: Generator, around: Array, label: int = 0) -> Thing:
    """A head across the end of a handle."""
    wood, steel = _shade(rng, (150, 100, 60)), _shade(rng, (120, 124, 130))
    handle = shapes.Stick(((-0.9, 0), (0.75, 0)), rng.uniform(0.06, 0.12), wood, tuple(0.7 * c for c in wood))
    head = shapes.Panel((rng.uniform(0.13, 0.22), rng.uniform(0.4, 0.6)), 0.05, steel, _shade(rng, steel))
    return Thing([Part(handle, 0, 0, 1.0), Part(head, 0.7, 0, 0.8)], label, math.pi)


def bottle(rng: Generator, around: Array, label: int = 1) -> Thing:
    """A body with a label, shoulders, a neck and a cap."""
    glass = _shade(rng, [(40, 90, 50), (110, 70, 30), (60, 110, 150), (150, 160, 150)][int(rng.integers(4))])
    paper, cap = _shade(rng, (220, 210, 190)), _shade(rng, (170, 40, 40), 40)
    wide = rng.uniform(0.28, 0.42)
    body = shapes.Panel((wide, 0.6), 0.12, glass, paper)
    neck = shapes.Panel((wide * rng.uniform(0.3, 0.45), 0.4), 0.04, glass, glass)
    top = shapes.Panel((wide * 0.5, 0.09), 0.03, cap, cap)
    shoulders = shapes.Blob((0.0,), (0.0,), 0.7, glass, glass, 0.5)
    parts = [Part(neck, 0, -0.65, 1.0), Part(shoulders, 0, -0.2, wide * 1.1), Part(body, 0, 0.4, 1.0)]
    return Thing([*parts, Part(top, 0, -1.0, 1.0)], label, 0.4)


def wheel(rng: Generator, around: Array, label: int = 2) -> Thing:
    """A tyre, a rim and three to six spokes, round or seen from the side."""
    tyre, metal = _shade(rng, (44, 44, 48)), _shade(rng, (170, 172, 176))
    stretch = rng.uniform(0.6, 1.0)
    parts = [Part(shapes.Blob((0.0,), (0.0,), stretch, tyre, tyre, 0.3), 0, 0, 1.1)]
    parts += [Part(shapes.Blob((0.0,), (0.0,), stretch, _shade(rng, (96, 96, 100)), tyre, 0.3), 0, 0, 0.8)]
    turn, count = rng.uniform(0, math.pi), int(rng.integers(3, 7))
    for angle in turn + np.arange(count) * math.pi / count:
        end = (0.62 * math.cos(angle), 0.62 * stretch * math.sin(angle))
        parts += [Part(shapes.Stick(((-end[0], -end[1]), end), 0.05, metal, metal), 0, 0, 1.0)]
    return Thing(
        [*parts, Part(shapes.Blob((0.0,), (0.0,), stretch, metal, tyre, 0.5), 0, 0, 0.2)], label, 0.6
    )


def sign(rng: Generator, around: Array, label: int = 0) -> Thing:
    """A board with a rim of another colour and a mark on it, on a pole that is not part of the box."""
    face, rim = (
        _shade(rng, (226, 220, 210)),
        _shade(rng, [(196, 30, 40), (30, 70, 170)][int(rng.integers(2))]),
    )
    half = (0.85, rng.uniform(0.7, 0.95))
    board = shapes.Panel(half, 0.1, face, face)
    frame = shapes.Panel(half, 0.1, rim, rim, 0.16)
    mark = shapes.Stick(((-0.35, -0.3), (0.1, 0.3), (0.4, -0.35)), 0.1, rim, rim)
    if rng.uniform() < 0.5:
        board, frame = (shapes.Blob((0.0,), (0.0,), 1.0, c, c, 0.1) for c in (rim, face))
        return Thing([Part(board, 0, 0, 1.1), Part(frame, 0, 0, 0.82), Part(mark, 0, 0, 0.8)], label, 0.15)
    return Thing([Part(board, 0, 0, 1.0), Part(frame, 0, 0, 1.0), Part(mark, 0, 0, 0.9)], label, 0.15)


def clutter(rng: Generator, around: Array, colors: Sequence[Color]) -> Thing:
    """Something of no class, painted in the colours of things or of the surroundings."""
    own = around[tuple(rng.integers(0, around.shape[0], 2))]
    paint = colors[int(rng.integers(len(colors)))] if rng.uniform() < 0.6 else own
    return Thing([Part(random_distractor(rng, _shade(rng, paint)), 0, 0, 1.0)], -1, math.pi)


# --------------------------------------------------------------------------------------------- images


class Kind(NamedTuple):
    """What a folder shows: names, makers in the order of the labels, counts and their weights, the range of
    the longer side as a share of the canvas, how much clutter, and its paint."""

    names: tuple[str, ...]
    makers: tuple[Callable[..., Thing], ...]
    counts: tuple[int, ...]
    weights: tuple[float, ...]
    sides: tuple[float, float]
    clutter: tuple[int, int]
    paint: tuple[Color, ...]


KINDS = {
    "creatures": Kind(
        ("creature",), (creature,), (1, 2), (0.85, 0.15), (0.3, 0.95), (4, 14),
        ((110, 100, 92), (80, 66, 54), (150, 130, 104), (60, 58, 60)),
    ),
    "tools": Kind(
        ("hammer", "bottle", "wheel"), (hammer, bottle, wheel), (1, 2, 3, 4, 6), (0.2, 0.3, 0.2, 0.2, 0.1),
        (0.12, 0.6), (3, 12), ((150, 100, 60), (120, 124, 130), (60, 90, 60), (44, 44, 48), (220, 210, 190)),
    ),
    "signs": Kind(
        ("sign",), (sign,), (1, 2, 3, 4), (0.5, 0.25, 0.15, 0.1), (0.08, 0.35), (6, 18),
        ((226, 220, 210), (196, 30, 40), (30, 70, 170), (120, 110, 100)),
    ),
}  # fmt: skip


def _light(rng: Generator) -> Light:
    angle, lift = rng.uniform(-math.pi, 0), rng.uniform(0.6, 1.1)
    towards = (math.cos(angle) * math.cos(lift), math.sin(angle) * math.cos(lift), math.sin(lift))
    return Light(
        towards, rng.uniform(0.4, 0.75), rng.uniform(0, 0.2), rng.uniform(0.1, 0.6), rng.uniform(0.04, 0.14)
    )


def _place(rng: Generator, thing: Thing, side: float, center: tuple[float, float]) -> list[Placed]:
    """The parts of a thing in an image, turned and mirrored together."""
    angle, flip = rng.uniform(-thing.turn, thing.turn), -1 if rng.uniform() < 0.5 else 1
    cos, sin, scale = math.cos(angle), math.sin(angle), side / 2.1
    placed = []
    for part in thing.parts:
        x, y = flip * part.x, part.y
        where = (center[0] + scale * (cos * x - sin * y), center[1] + scale * (sin * x + cos * y))
        grain = rng.standard_normal((int(rng.integers(12, 60)),) * 2, dtype=np.float32)
        turned = angle + flip * part.angle
        box = drawing.extent(part.shape, turned, flip < 0)
        edge = 4 * REACH / 64  # what the box may be off by
        window = (box[0] - edge, box[1] - edge, box[2] + edge, box[3] + edge)
        placed.append(Placed(part.shape, where, scale * part.scale, turned, flip < 0, grain, window))
    return placed


class _Canvas:
    """An image being painted from back to front; nothing may hide more than half of an object."""

    def __init__(self, ground: Array, light: Light, window: tuple[int, int, int, int]) -> None:
        self.image, self.light, self.window = ground, light, window
        self.objects: list[tuple[int, Array, Array]] = []  # class, outline, what is in view

    def offer(self, placed: list[Placed], label: int, tint: Array) -> bool:
        """Paint the parts unless an object would be hidden too far, or come into view too little."""
        outline = np.zeros(self.image.shape[:2], bool)
        for part in placed:
            outline |= drawing.full_mask(drawing.coverage(part, CANVAS), CANVAS)
        left, top, right, bottom = self.window
        shown = np.zeros_like(outline)
        shown[top:bottom, left:right] = outline[top:bottom, left:right]
        if label >= 0 and shown.sum() < max(60, LEAST_SHOWN * outline.sum()):
            return False
        if any((view & ~outline).sum() < LEAST_SHOWN * whole.sum() for _, whole, view in self.objects):
            return False
        for part in placed:
            drawing.paint(self.image, part, self.light, tint)
        self.objects = [(k, whole, view & ~outline) for k, whole, view in self.objects]
        if label >= 0:
            self.objects.append((label, shown, shown))
        return True


def take(kind: Kind, rng: Generator) -> Photo:
    """One random image."""
    ground = Image.fromarray(backdrop(rng).astype(np.uint8)).resize((CANVAS, CANVAS))
    around = np.array(ground, np.float32)
    width, height = WINDOWS[int(rng.integers(len(WINDOWS)))]
    left, top = int(rng.integers(0, CANVAS - width + 1)), int(rng.integers(0, CANVAS - height + 1))
    window = (left, top, left + width, top + height)
    canvas = _Canvas(around.copy(), _light(rng), window)
    for side, thing in _things(kind, rng, around):
        for _ in range(8):
            center = rng.uniform(window[:2], window[2:])
            if thing.label >= 0:  # nearer to the middle, the larger it is
                center = center + (np.add(window[:2], window[2:]) / 2 - center) * min(1, 0.8 * side)
            tint = (rng.uniform(0.8, 1.12) * rng.normal(1, 0.03, 3)).astype(np.float32)
            if canvas.offer(_place(rng, thing, side, tuple(center / CANVAS)), thing.label, tint):
                break
    glow = np.array(Image.fromarray(illumination(rng)).resize((CANVAS, CANVAS)))
    pixels = _develop(canvas.image * glow[..., None], rng)[top : top + height, left : left + width]
    boxes = [
        (label, drawing.tight_box(whole[top : top + height, left : left + width]))
        for label, whole, _ in canvas.objects
    ]
    return Photo(pixels, boxes)


def _things(kind: Kind, rng: Generator, around: Array) -> list[tuple[float, Thing]]:
    """What an image is to show, from back to front: large things tend to be behind small ones."""
    low, high = kind.sides
    makers = rng.integers(0, len(kind.makers), int(rng.choice(kind.counts, p=kind.weights)))
    things = [(low * (high / low) ** rng.uniform(), kind.makers[k](rng, around)) for k in makers]
    for _ in range(int(rng.integers(*kind.clutter))):
        things.append((rng.uniform(0.08, 0.5), clutter(rng, around, kind.paint)))
    return sorted(things, key=lambda one: -one[0] - rng.uniform(0, 0.4))


def _develop(image: Array, rng: Generator) -> Array:
    """Contrast, colour cast, blur and noise of a cheap camera; float -> uint8."""
    image = 128 + (image * rng.normal(1, 0.05, 3) - 128) * rng.uniform(0.6, 1.2) + rng.normal(0, 18)
    soft = Image.fromarray(image.clip(0, 255).astype(np.uint8))
    soft = soft.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.3))))
    noise = rng.normal(0, rng.uniform(1, 10), image.shape)
    return (np.asarray(soft) + noise).clip(0, 255).astype(np.uint8)


# --------------------------------------------------------------------------------------------- a folder


def write(kind: str, folder: Path, count: int = 200, seed: int = 0) -> None:
    """Write a folder in VOC's form; every fifth image is for validation."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    names = [f"{kind}-{i:04}" for i in range(count)]
    for i, name in enumerate(names):
        key = (list(KINDS).index(kind), i)
        shot = take(KINDS[kind], np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key)))
        Image.fromarray(shot.pixels).save(folder / "JPEGImages" / f"{name}.jpg", quality=88)
        (folder / "Annotations" / f"{name}.xml").write_text(annotation(KINDS[kind].names, shot))
    for split in ("train", "val"):
        part = [name for i, name in enumerate(names) if (i % 5 == 4) == (split == "val")]
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(part) + "\n")


def annotation(names: Sequence[str], shot: Photo) -> str:
    """An image's objects as XML: VOC's boxes are the first and last pixel, counted from 1."""
    height, width = shot.pixels.shape[:2]
    lines = [f"<annotation><size><width>{width}</width><height>{height}</height><depth>3</depth></size>"]
    for label, (x0, y0, x1, y1) in shot.objects:
        box = f"<xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
        lines.append(f"<object><name>{names[label]}</name><bndbox>{box}</bndbox></object>")
    return "\n".join([*lines, "</annotation>"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Write one folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.photographs", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200, help="images, a fifth of them for validation")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    write(options.kind, options.folder, options.count, options.seed)


if __name__ == "__main__":
    main()
