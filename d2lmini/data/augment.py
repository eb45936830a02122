"""Random augmentation of a batch: flips, colour changes, zooming out and crops of images and boxes.

An image is seen through a window (x_0, y_0, x_1, y_1) in its own coordinates (0, 0, 1, 1): one inside crops,
a larger one zooms out onto the image's mean color, x_0 > x_1 mirrors. Windows compose, so that an image is
resampled once. The random parameters are numbers from 0 to 1 on the generator's device, what follows is
computed where the images are: one generator gives the same views on every device (but for rounding).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from d2lmini.boxes import box_area, box_iou
from d2lmini.data.samples import PADDING_LABEL, Batch, Sample, collate

# What a crop may have to share with some object (IoU); 0 asks for nothing (SSD, section 2.2).
MIN_IOUS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
TRIALS = 50  # crops drawn per image, of which the first that does is taken
CACHE_PIXELS = 2**18  # pixels of float images that a processor's cache holds


@dataclass(frozen=True)
class AugmentConfig:
    """How much images are augmented; 0 for `flip`, `color`, `expand` and `crop` changes nothing.

    `flip`, `expand` and `crop` are probabilities. `color` is a strength: 1 gives SSD's ranges (brightness ±32
    gray levels, contrast and saturation ±50 %, hue ±18°), each of the four for half of the images.
    `max_expand` bounds how many times wider and higher the canvas of a zoomed-out image is. A crop's sides
    are `min_scale` to 1 times the image's (their geometric mean), one at most `max_ratio` times the other.
    An object stays while its center and `min_visible` of its area are in view; its box is clipped.

    Raises ValueError naming the option that is out of range.

    >>> AugmentConfig(flip=2)
    Traceback (most recent call last):
    ...
    ValueError: flip is 2: choose a number from 0 to 1
    """

    flip: float = 0.5
    color: float = 0.5
    expand: float = 0.25
    crop: float = 0.5
    max_expand: float = 2.0
    min_scale: float = 0.3
    max_ratio: float = 2.0
    min_visible: float = 0.25

    def __post_init__(self) -> None:
        limits = {"max_expand": (1, 4), "min_scale": (0.1, 1), "max_ratio": (1, 4)}
        for name, value in vars(self).items():
            low, high = limits.get(name, (0, 1))
            if not isinstance(value, (int, float)) or not low <= value <= high:  # NaN is not <=
                raise ValueError(f"{name} is {value!r}: choose a number from {low} to {high}")


NONE = AugmentConfig(flip=0, color=0, expand=0, crop=0)


def augment(sample: Sample, config: AugmentConfig, generator: Generator) -> Sample:
    """One random view of a sample, as `augment_batch` gives, without the objects that left it.

    >>> image = torch.arange(4, dtype=torch.uint8).expand(3, 4, 4)
    >>> sample = Sample(image, torch.tensor([[0.0, 0.0, 0.25, 0.5]]), torch.tensor([7]))
    >>> mirrored = augment(sample, AugmentConfig(1, 0, 0, 0), torch.Generator())
    >>> mirrored.image[0, 0].tolist(), mirrored.boxes.tolist(), mirrored.labels.tolist()
    ([3, 2, 1, 0], [[0.75, 0.0, 1.0, 0.5]], [7])
    """
    return augment_batch(collate([sample]), config, generator).sample(0)


def augment_batch(batch: Batch, config: AugmentConfig, params: Generator | AugmentParams) -> Batch:
    """A random view of every image of a batch, of the same shapes and on the same device.

    Rows of objects that left their image become padding (label -1, box 0). `params` are those of
    `sample_params`, or a generator to draw them from. Nothing here waits for the device.
    Raises ValueError when images are not uint8 (N, 3, H, W).
    Source: SSD (arXiv:1512.02325), sections 2.2 (sampling) and 3.6 (zooming out).
    """
    if batch.images.dtype != torch.uint8 or batch.images.ndim != 4 or batch.images.shape[1] != 3:
        found = f"{batch.images.dtype} {tuple(batch.images.shape)}"
        raise ValueError(f"images are {found}: augment uint8 images (N, 3, H, W), before they are normalized")
    if isinstance(params, Generator):
        params = sample_params(len(batch.images), config, params)
    params = params.to(batch.images.device)
    windows = _windows(batch.boxes, batch.labels, config, params)  # (N, 4)
    images = render(batch.images, windows, color_changes(params.color, config.color), config)
    return Batch(images, *view_objects(batch.boxes, batch.labels, windows, config.min_visible))


class AugmentParams(NamedTuple):
    """Random numbers from [0, 1) that decide the views of N images, whatever the images are."""

    canvas: Tensor  # (N, 4)
    trials: Tensor  # (N, 4, T)
    minimum: Tensor  # (N, M)
    crop: Tensor  # (N,)
    flip: Tensor  # (N,)
    color: Tensor  # (N, 2, 4)

    def to(self, device: torch.device | str) -> AugmentParams:
        """The same on another device."""
        return AugmentParams(*(t.to(device, non_blocking=True) for t in self))

    def select(self, index: slice | Tensor) -> AugmentParams:
        """The parameters of the chosen images."""
        return AugmentParams(*(t[index] for t in self))


def sample_params(
    count: int, config: AugmentConfig, generator: Generator, windows_only: bool = False
) -> AugmentParams:
    """Parameters for `count` images, on the generator's device; with `windows_only` none for colors."""
    rand = partial(torch.rand, generator=generator, device=generator.device)
    trials = TRIALS if config.crop > 0 else 0
    return AugmentParams(
        canvas=rand(4, count).T,
        trials=rand(4, count, trials).transpose(0, 1),
        minimum=rand(count, len(MIN_IOUS) if trials else 0),
        crop=rand(count) if trials else torch.zeros(count, device=generator.device),
        flip=rand(count),
        color=rand(0 if windows_only else 2, 4, count).permute(2, 0, 1),
    )


def sample_windows(boxes: Tensor, labels: Tensor, config: AugmentConfig, generator: Generator) -> Tensor:
    """A random window (N, 4) for each image with objects `boxes` (N, G, 4), `labels` (N, G)."""
    params = sample_params(len(boxes), config, generator, windows_only=True)
    return _windows(boxes, labels, config, params.to(boxes.device))


def _windows(boxes: Tensor, labels: Tensor, config: AugmentConfig, params: AugmentParams) -> Tensor:
    """The windows (N, 4) that follow from the parameters: a canvas, a crop of it, and that mirrored."""
    chance, ratio, x, y = params.canvas.unbind(1)  # (N,) each
    ratio = torch.where(chance < config.expand, 1 + ratio * (config.max_expand - 1), 1)
    low = torch.stack([x, y], dim=-1) * (1 - ratio)[:, None]  # (N, 2)
    windows = torch.cat([low, low + ratio[:, None]], dim=-1)  # (N, 4)
    if config.crop > 0:
        # Crops are chosen on the canvas, so that a zoomed-out object can be cropped to as well.
        crops = _crops(_relative(boxes, windows), labels, config, params)  # (N, 4)
        sides = windows[:, 2:] - low
        windows = torch.cat([low + crops[:, :2] * sides, low + crops[:, 2:] * sides], dim=-1)
    left, top, right, bottom = windows.unbind(1)  # a list as an index would be sent to the device
    mirrored = torch.stack([right, top, left, bottom], dim=1)
    return torch.where((params.flip < config.flip)[:, None], mirrored, windows)


def _crops(boxes: Tensor, labels: Tensor, config: AugmentConfig, params: AugmentParams) -> Tensor:
    """Windows (N, 4) within the image: of `TRIALS` random ones, the first that meets a random minimum.

    The minimum is one of those of `MIN_IOUS` that some trial meets, all as likely. A crop of an image with
    objects keeps at least one; where no trial does, the window is the whole image.
    """
    size, ratio, x, y = params.trials.unbind(1)  # (N, T) each
    size = config.min_scale + size * (1 - config.min_scale)  # of the square of the same area
    widest = torch.clamp(-2 * size.log(), max=math.log(config.max_ratio))  # neither side above 1
    stretch = ((2 * ratio - 1) * widest / 2).exp()
    sides = torch.stack([size * stretch, size / stretch], dim=-1).clamp(max=1)  # (N, T, 2)
    low = torch.stack([x, y], dim=-1) * (1 - sides)
    trials = torch.cat([low, low + sides], dim=-1)  # (N, T, 4)

    best = box_iou(trials, boxes).amax(dim=-1)  # (N, T)
    _, kept = view_objects(boxes[:, None], labels[:, None], trials, config.min_visible)  # (N, T, G)
    empty = (labels == PADDING_LABEL).all(dim=-1, keepdim=True)  # (N, 1)
    legal = (kept != PADDING_LABEL).any(dim=-1) | empty  # (N, T)
    meets = torch.stack([legal & (best >= least) for least in MIN_IOUS], dim=1)  # (N, M, T)

    choice = torch.where(meets.any(dim=-1), params.minimum, -1).argmax(dim=-1)  # (N,)
    rows = torch.arange(len(boxes), device=boxes.device)
    met = meets[rows, choice]  # (N, T)
    crop = trials[rows, met.int().argmax(dim=-1)]  # (N, 4), the first that meets it
    whole = (torch.arange(4, device=boxes.device) >= 2).to(boxes.dtype)  # (4,): 0, 0, 1, 1
    wanted = met.any(dim=-1) & (params.crop < config.crop)  # (N,)
    return torch.where(wanted[:, None], crop, whole)


def view_objects(
    boxes: Tensor, labels: Tensor, windows: Tensor, min_visible: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Boxes (..., G, 4) and labels (..., G) as seen through windows (..., 4), in their coordinates.

    Kept are objects whose center and at least `min_visible` of whose area are in the window; what reaches
    out of it is cut off. The others become padding: label -1, box 0.

    >>> box, label = torch.tensor([[0.0, 0.0, 0.5, 0.5]]), torch.tensor([3])
    >>> view_objects(box, label, torch.tensor([0.2, 0.0, 0.6, 1.0]))[0]
    tensor([[0.0000, 0.0000, 0.7500, 0.5000]])
    >>> view_objects(box, label, torch.tensor([0.3, 0.0, 0.7, 1.0]))[1]
    tensor([-1])
    """
    seen = _relative(boxes, windows)  # (..., G, 4)
    clipped, center = seen.clamp(0, 1), (seen[..., :2] + seen[..., 2:]) / 2
    inside = ((center >= 0) & (center <= 1)).all(dim=-1)  # (..., G)
    area = box_area(clipped)
    enough = (area > 0) & (area >= min_visible * box_area(seen))
    kept = (labels != PADDING_LABEL) & inside & enough
    return torch.where(kept[..., None], clipped, 0), torch.where(kept, labels, PADDING_LABEL)


def _relative(boxes: Tensor, windows: Tensor) -> Tensor:
    """Boxes (..., G, 4) in the coordinates of windows (..., 4); a mirrored window mirrors them."""
    start, end = windows[..., None, :2], windows[..., None, 2:]  # (..., 1, 2)
    one, other = (boxes[..., :2] - start) / (end - start), (boxes[..., 2:] - start) / (end - start)
    return torch.cat([torch.minimum(one, other), torch.maximum(one, other)], dim=-1)


class Colors(NamedTuple):
    """New colors, `matrix @ rgb + shift`, in gray levels."""

    matrix: Tensor  # (N, 3, 3)
    shift: Tensor  # (N, 3, 1)


def color_changes(numbers: Tensor, strength: float) -> Colors:
    """Brightness, contrast, saturation and hue (SSD, section 2.2) from random numbers (N, 2, 4) in [0, 1).

    All four are affine in RGB: saturation stretches the distance from the gray axis r = g = b, and hue turns
    around it (`turn` by 90°). So any mixture is one matrix and one shift; `strength` 0 changes nothing.
    """
    here = numbers.device
    draws, chance = numbers.permute(1, 2, 0)[..., None, None]  # (4, N, 1, 1) each
    brightness, contrast, saturation, hue = torch.where(chance < 0.5, (2 * draws - 1) * strength, 0)
    gray = torch.full((3, 3), 1 / 3, device=here)  # projects onto the gray axis
    step = torch.arange(3, device=here)
    step = (step - step[:, None]) % 3  # 0, 1, 2 in turn, made where it is needed
    turn = ((step == 2).float() - (step == 1).float()) / math.sqrt(3)
    angle = hue * math.pi / 10
    chroma = angle.cos() * (torch.eye(3, device=here) - gray) + angle.sin() * turn  # (N, 3, 3)
    gain = 1 + contrast / 2
    matrix = gain * (gray + (1 + saturation / 2) * chroma)  # (N, 3, 3)
    shift = (32 * brightness + 127.5 * (1 - gain)).expand(-1, 3, -1)  # (N, 3, 1)
    return Colors(matrix, shift)


def render(images: Tensor, windows: Tensor, colors: Colors, config: AugmentConfig) -> Tensor:
    """The images (N, 3, H, W) seen through their windows (N, 4) in their new colors, uint8."""
    zoom = config.expand > 0 or config.crop > 0
    if not zoom:
        flip = windows[:, 0] > windows[:, 2]
        images = torch.where(flip[:, None, None, None], images.flip(-1), images)
        if config.color == 0:
            return images
    # On a CPU a few images at a time: they stay in its cache, and the C library reuses buffers that small.
    few = max(1, CACHE_PIXELS // images[0, 0].numel())
    size = few if images.device.type == "cpu" else max(1, len(images))
    parts = zip(*(t.split(size) for t in (images, windows, *colors)), strict=True)
    return torch.cat([_render(*part, zoom=zoom) for part in parts])


def _render(images: Tensor, windows: Tensor, matrix: Tensor, shift: Tensor, zoom: bool) -> Tensor:
    pixels = images.float()
    if zoom:
        mean = pixels.mean(dim=(2, 3), keepdim=True)  # (n, 3, 1, 1)
        # `affine_grid` counts from -1 to 1 where we count from 0 to 1.
        start, end = windows[:, :2], windows[:, 2:]
        affine = torch.cat([torch.diag_embed(end - start), (start + end - 1)[..., None]], dim=-1)
        grid = F.affine_grid(affine, list(pixels.shape), align_corners=False)  # (n, H, W, 2)
        pixels = F.grid_sample(pixels.sub_(mean), grid, align_corners=False)  # outside: 0, now the mean
        shift = torch.baddbmm(shift, matrix, mean.flatten(2))
    pixels = torch.baddbmm(shift, matrix, pixels.flatten(2))  # (n, 3, H * W)
    return pixels.round_().clamp_(0, 255).to(torch.uint8).view_as(images)
