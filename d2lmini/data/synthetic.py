"""The default data: images drawn on demand, with exact boxes, the same for ever for one seed."""

from __future__ import annotations

from operator import index as as_index

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import Dataset

from d2lmini.data import drawing
from d2lmini.data.backdrops import GRID
from d2lmini.data.samples import Sample
from d2lmini.data.scenes import CLASSES, SCENES, Look, Scene
from d2lmini.data.shapes import Array

SPLITS = ("train", "val")
SIZES = (64, 1024)


def _stretch(field: Array, size: int) -> Array:
    """A backdrop's field at the image's size; (GRID, GRID[, 3]) -> (size, size[, 3])."""
    if size == GRID:
        return field.copy()
    if field.ndim == 3:
        image = Image.fromarray(np.clip(field, 0, 255).astype(np.uint8))
    else:
        image = Image.fromarray(field)
    return np.array(image.resize((size, size), Image.Resampling.BICUBIC), np.float32)


def _develop(image: Array, look: Look, rng: Generator) -> Array:
    """Blur, contrast, colour cast and noise; (size, size, 3) float -> uint8."""
    size = image.shape[0]
    radius = look.blur * size
    if radius > 0.15:
        pixels = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
        image = np.asarray(pixels.filter(ImageFilter.GaussianBlur(radius)), np.float32)
    bits = np.frombuffer(rng.bytes(2 * size * size * 3), np.uint8).reshape(2, size, size, 3)
    grain = np.add(bits[0], bits[1], dtype=np.float32)  # of two uniforms: a triangle, near enough to a bell
    grain -= 255.0
    grain *= look.noise / 104.0  # its spread is 104
    grain += image * (look.contrast * look.cast)
    grain += 128.0 * (1.0 - look.contrast) + look.brightness + 0.5
    return np.clip(grain, 0, 255, out=grain).astype(np.uint8)


def render(scene: Scene, size: int, rng: Generator) -> tuple[Array, list[tuple[int, Array]]]:
    """Draw a scene: pixels (size, size, 3) uint8, and a label and mask (size, size) per object.

    A mask is the whole outline within the image, also where something else lies over it.
    """
    image = _stretch(scene.ground, size)
    objects = []
    for item in scene.items:
        crop = drawing.paint(image, item.placed, scene.light, item.tint)
        if item.label >= 0:
            objects.append((item.label, drawing.full_mask(crop, size)))
    image *= _stretch(scene.glow, size)[..., None]
    return _develop(image, scene.look, rng), objects


class Synthetic(Dataset[Sample]):
    """Drawn images with exact boxes, `size` by `size` pixels; no file is needed.

    Image `i` depends on `(seed, preset, split, i)` and on nothing else: not on `count`, the
    order, the worker or the process. `size` changes the resolution only; the scene stays the same
    (an object that covers half of no pixel at a small size is left out).

    A box is read from the pixels that its object covers by half or more: first column and row, last
    column and row plus one, over `size`. It spans the object's whole outline within the image,
    also where something lies over it; at least `scenes.MIN_SHOWN` of every outline is in view.

    Presets: `bananas` has exactly one banana per image, like D2L's set, all of it in view;
    `scenes` has 0 to 8 objects of six classes, with sides from 4 % to 80 % of the image's.

    Raises ValueError for an unknown preset or split, a size outside 64..1024, or a negative count
    or seed, and IndexError for an index outside the set (negative ones too).

    >>> data = Synthetic("scenes", count=2, size=64)
    >>> data[0].image.shape, data[0].boxes.shape[1]
    (torch.Size([3, 64, 64]), 4)
    """

    split_record = None  # no folder was divided (see `folders.open_folder`)

    def __init__(
        self,
        preset: str = "bananas",
        count: int = 1000,
        size: int = 256,
        split: str = "train",
        seed: int = 0,
    ) -> None:
        if preset not in CLASSES:
            raise ValueError(f"preset is {preset!r}; choose one of {', '.join(CLASSES)}")
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; choose one of {', '.join(SPLITS)}")
        if not isinstance(size, int) or not SIZES[0] <= size <= SIZES[1]:
            raise ValueError(f"size is {size!r}; choose a whole number from {SIZES[0]} to {SIZES[1]}")
        for name, value in (("count", count), ("seed", seed)):
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"{name} is {value!r}; choose a whole number of 0 or more")
        self.preset, self.count, self.size, self.split, self.seed = preset, count, size, split, seed

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names; a label is an index into them."""
        return CLASSES[self.preset]

    def __len__(self) -> int:
        return self.count

    def _draw(self, index: int) -> tuple[Array, list[tuple[int, Array]]]:
        """Pixels and (label, mask) pairs of image `index`."""
        index = as_index(index)
        if not 0 <= index < self.count:
            raise IndexError(f"index {index} is outside 0..{self.count - 1}")
        key = (list(CLASSES).index(self.preset), SPLITS.index(self.split), index)
        plan, film = np.random.SeedSequence(self.seed, spawn_key=key).spawn(2)
        scene = SCENES[self.preset](np.random.default_rng(plan))
        return render(scene, self.size, np.random.default_rng(film))

    def masks(self, index: int) -> Tensor:
        """The pixels of each object of image `index` within the image, (G, size, size) bool."""
        masks = [mask for _, mask in self._draw(index)[1] if mask.any()]
        return torch.from_numpy(np.stack(masks) if masks else np.zeros((0, self.size, self.size), bool))

    def __getitem__(self, index: int) -> Sample:
        pixels, objects = self._draw(index)
        found = [(label, drawing.tight_box(mask)) for label, mask in objects]
        found = [(label, box) for label, box in found if box is not None]
        boxes = np.array([box for _, box in found], np.float32).reshape(-1, 4) / np.float32(self.size)
        return Sample(
            torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            torch.from_numpy(boxes),
            torch.tensor([label for label, _ in found], dtype=torch.int64),
        )
