"""Backgrounds that pass for photographs: ground, boards, tiles, leaves, rooms, lights out of focus.

Every backdrop is made at `GRID` pixels, so that a scene stays the same when only the image's size changes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from PIL import ImageDraw

from d2lmini.data.drawing import Array, blurred, choose, resize, smooth, to_image

GRID = 256

# Dark, middle and light tone of a surface; every use jitters them.
PALETTES = {
    "grass": ((38, 58, 22), (86, 122, 44), (164, 180, 88)),
    "sand": ((140, 112, 74), (204, 176, 128), (240, 222, 184)),
    "stone": ((66, 64, 62), (132, 128, 122), (196, 192, 186)),
    "wood": ((74, 44, 24), (146, 96, 54), (204, 158, 104)),
    "sea": ((14, 48, 74), (40, 104, 136), (150, 196, 208)),
    "sky": ((96, 138, 190), (156, 190, 222), (236, 240, 244)),
    "autumn": ((84, 44, 18), (170, 104, 34), (226, 182, 74)),
    "wall": ((150, 138, 120), (206, 196, 176), (238, 232, 218)),
    "ochre": ((130, 92, 30), (206, 162, 62), (244, 214, 124)),
    "cloth": ((88, 26, 34), (164, 62, 66), (222, 150, 140)),
    "slate": ((24, 28, 36), (62, 72, 86), (118, 130, 146)),
    "mint": ((62, 110, 100), (132, 182, 164), (206, 230, 216)),
    "straw": ((96, 78, 32), (178, 152, 72), (232, 214, 140)),
}


def fractal(rng: Generator, rows: int, columns: int, fade: float = 0.55) -> Array:
    """Smooth noise (GRID, GRID) of about unit spread: each octave doubles the grid and fades by `fade`."""
    field, gain, power = np.zeros((rows, columns), np.float32), 1.0, 0.0
    while True:
        field = field + gain * rng.standard_normal(field.shape, dtype=np.float32)
        power += gain * gain
        gain *= fade
        if max(field.shape) >= GRID:
            break
        field = resize(field, *(min(2 * side, GRID) for side in reversed(field.shape)))
    return resize(field, GRID, GRID) / math.sqrt(power)


def palette(rng: Generator, *names: str) -> Array:
    """Lookup table from dark to light, (256, 3) float32, a random shade off one of the named palettes."""
    tones = np.array(PALETTES[choose(rng, *names)], np.float32) * rng.uniform(0.8, 1.15)
    tones = tones + rng.normal(0.0, 14.0, (1, 3)) + rng.normal(0.0, 7.0, (3, 3))
    at = np.linspace(0.0, 2.0, 256)
    return np.stack([np.interp(at, (0, 1, 2), tones[:, c]) for c in range(3)], axis=1).astype(np.float32)


def colorize(field: Array, table: Array) -> Array:
    """Colors of a field of about unit spread; (GRID, GRID) -> (GRID, GRID, 3)."""
    return table[np.clip(field * 52.0 + 128.0, 0, 255).astype(np.uint8)]


def surface(rng: Generator, *names: str) -> Array:
    """A patch of ground, cloth or wall seen from above."""
    name, coarse = choose(rng, *(names or PALETTES)), int(rng.choice([2, 4, 8, 16]))
    field = fractal(rng, coarse, coarse, rng.uniform(0.55, 0.9))
    return colorize(field * rng.uniform(0.4, 1.1), palette(rng, name))


def boards(rng: Generator) -> Array:
    """Planks with grain, seams and a tone of their own each."""
    field = fractal(rng, 32, 2, 0.65) * 0.8
    count = int(rng.integers(2, 8))
    row = np.arange(GRID, dtype=np.float32) * (count / GRID) + rng.uniform()
    field = field + rng.normal(0.0, 0.5, count + 2).astype(np.float32)[row.astype(int), None]
    seam = smooth(np.abs(row % 1.0 - 0.5), 0.5 - 0.012 * count, 0.5)
    image = colorize(field, palette(rng, "wood", "wood", "ochre", "wall", "slate"))
    image = image * (1.0 - 0.6 * seam[:, None, None]).astype(np.float32)
    return image.transpose(1, 0, 2) if rng.uniform() < 0.5 else image


def tiles(rng: Generator) -> Array:
    """Bricks or tiles: joints, and one tone per brick."""
    rows = int(rng.integers(3, 11))
    columns = max(2, int(rows * rng.uniform(0.4, 1.0)))
    y, x = np.mgrid[0:GRID, 0:GRID].astype(np.float32) / GRID
    v = y * rows + rng.uniform()
    u = x * columns + (np.floor(v) % 2) * float(rng.choice([0.0, 0.5])) + rng.uniform()
    tone = rng.normal(0.0, rng.uniform(0.1, 0.6), (rows + 2, columns + 3)).astype(np.float32)
    field = tone[v.astype(int), u.astype(int)] + 0.5 * fractal(rng, 8, 8, 0.75)
    image = colorize(field, palette(rng, "stone", "wall", "cloth", "mint", "wood", "sea", "slate"))
    gap = 0.008 * rows
    across, down = np.abs(u % 1 - 0.5), np.abs(v % 1 - 0.5)
    joint = np.maximum(smooth(across, 0.5 - gap, 0.5 - gap / 3), smooth(down, 0.5 - gap, 0.5 - gap / 3))
    return image + (rng.uniform(40, 210) - image) * (0.7 * joint[..., None])


def landscape(rng: Generator) -> Array:
    """Sky over sea, sand or fields, with a ragged horizon."""
    field = fractal(rng, 16, 4, 0.75) * 0.8
    ground = colorize(field, palette(rng, "grass", "sand", "sea", "autumn", "stone", "straw"))
    field = fractal(rng, 4, 2, 0.5) * 0.5
    sky = colorize(field, palette(rng, "sky", "sky", "sky", "ochre", "wall"))
    ridge = fractal(rng, 2, 8, 0.5)[0] * float(rng.choice([0.0, 0.02, 0.07])) + rng.uniform(0.15, 0.6)
    y = (np.arange(GRID, dtype=np.float32) / GRID)[:, None]
    below = smooth(y - ridge, 0.0, rng.uniform(0.006, 0.03))[..., None]
    far = np.clip(1.0 - (y - ridge) * 2.5, 0.0, 1.0)[..., None] * 0.45
    return sky * (1 - below) + (ground + (sky.mean((0, 1)) - ground) * far) * below


def foliage(rng: Generator) -> Array:
    """Layers of leaves, near ones lighter."""
    table = palette(rng, "grass", "grass", "autumn", "straw", "mint")
    image = to_image(colorize(fractal(rng, 4, 4) - 1.5, table))
    draw = ImageDraw.Draw(image)
    count, length = int(rng.integers(60, 170)), rng.uniform(9, 26)
    where, turn = rng.uniform(-10, GRID + 10, (count, 2)), rng.uniform(0, 2 * np.pi, count)
    length = length * rng.uniform(0.5, 1.5, count)
    outline = np.array([(-1, 0), (-0.4, 0.34), (0.3, 0.3), (1, 0), (0.3, -0.3), (-0.4, -0.34)])
    axes = np.stack([np.cos(turn), np.sin(turn), -np.sin(turn), np.cos(turn)], axis=1) * length[:, None]
    leaves = outline @ axes.reshape(count, 2, 2) + where[:, None]  # (count, 6, 2)
    tone = 40 + 190 * np.arange(count) / count + rng.normal(0, 30, count)
    fills = np.clip(table[np.clip(tone, 0, 255).astype(int)], 0, 255).astype(int).tolist()
    for leaf, fill in zip(leaves.reshape(count, 12).tolist(), fills, strict=True):
        draw.polygon(leaf, fill=tuple(fill))
    return blurred(image, rng.choice([0.7, 1.2, 2.5, 5.0]))


def blades(rng: Generator) -> Array:
    """Grass or straw: thin strokes that grow upward."""
    table = palette(rng, "grass", "grass", "straw")
    image = to_image(colorize(fractal(rng, 4, 4) - 1.2, table))
    draw = ImageDraw.Draw(image)
    count = int(rng.integers(150, 330))
    start = rng.uniform(0, GRID * 1.15, (count, 2))
    start = start[np.argsort(start[:, 1])]
    tip = rng.normal((0, -28), (12, 10), (count, 2)) + start
    tone = np.clip(rng.normal(140, 55, count), 0, 255).astype(int)
    fills = np.clip(table[tone], 0, 255).astype(int).tolist()
    widths = rng.integers(1, 4, count).tolist()
    strokes = np.concatenate([start, tip], axis=1).tolist()  # (count, 4)
    for stroke, fill, width in zip(strokes, fills, widths, strict=True):
        draw.line(stroke, fill=tuple(fill), width=width)
    return blurred(image, rng.uniform(0.4, 1.6))


def bokeh(rng: Generator) -> Array:
    """Lights and colors far out of focus."""
    name = choose(rng, *PALETTES)
    image = to_image(colorize(fractal(rng, 2, 2, 0.4) - rng.uniform(0, 1), palette(rng, name)))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(8, 40))):
        x, y = rng.uniform(0, GRID, 2)
        radius = rng.uniform(4, 30)
        under = np.array(image.getpixel((int(x), int(y))), np.float32)
        light = under + (rng.uniform(60, 255, 3) - under) * rng.uniform(0.15, 0.7)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(light.astype(int).tolist()))
    return blurred(image, rng.uniform(2.0, 7.0))


def room(rng: Generator) -> Array:
    """A table before a wall, with furniture-like boxes behind it."""
    base = surface(rng, "wall", "wall", "stone", "mint", "cloth", "ochre", "slate")
    image = to_image((base + base.mean((0, 1)) * 2) / 3)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 12))):
        x, y = rng.uniform(-20, GRID, 2)
        w, h = rng.uniform(10, 110, 2)
        tone = rng.uniform(0.5, 1.0) * rng.uniform(30, 255, 3)
        gray = rng.uniform(0.2, 0.8)
        fill = tuple(int(c) for c in tone * (1 - gray) + tone.mean() * gray)
        draw.rectangle((x, y, x + w, y + h), fill=fill)
        if rng.uniform() < 0.5:
            draw.line((x, y + h / 2, x + w, y + h / 2), fill=tuple(int(c * 0.6) for c in fill), width=2)
    wall = blurred(image, rng.uniform(0.6, 5.0))
    table = boards(rng) if rng.uniform() < 0.5 else surface(rng)
    edge = rng.uniform(0.35, 0.95)
    y = (np.arange(GRID, dtype=np.float32) / GRID)[:, None, None]
    return wall + (table - wall) * smooth(y - edge, 0.0, 0.012)


KINDS = (surface, surface, boards, tiles, landscape, foliage, blades, bokeh, room, room)


def illumination(rng: Generator) -> Array:
    """Uneven light that multiplies the image: slope, patches, vignette, shade; (GRID, GRID)."""
    y, x = np.mgrid[-1 : 1 : GRID * 1j, -1 : 1 : GRID * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0.0, 0.28) * (math.cos(angle) * x + math.sin(angle) * y)
    patches = rng.uniform(0.0, 0.16) * resize(rng.standard_normal((4, 4), dtype=np.float32), GRID, GRID)
    vignette = rng.uniform(0.0, 0.22) * (x * x + y * y) / 2
    shade = np.float32(0.0)
    if rng.uniform() < 0.3:  # the hard shadow of something outside the image
        beside = math.sin(angle) * x - math.cos(angle) * y + 0.15 * patches
        shade = rng.uniform(0.15, 0.4) * smooth(beside, 0.0, 0.08)
    return np.clip(1.0 + slope + patches - vignette - shade, 0.3, 1.6).astype(np.float32)


def backdrop(rng: Generator) -> Array:
    """A random background, (GRID, GRID, 3) float32 in 0..255."""
    image = choose(rng, *KINDS)(rng)
    blur = rng.choice([0.0, 0.0, 0.8, 2.0])
    if blur:
        image = blurred(to_image(image), blur)
    return np.clip(image, 0.0, 255.0).astype(np.float32)
