"""Random augmentation of a batch: flips, colour changes, zooming out and crops of images and boxes.

An image is seen through a window (x_0, y_0, x_1, y_1) in its own coordinates, where the image
is (0, 0, 1, 1). A window inside it crops; a larger one zooms out, and what lies outside the image
is filled with its mean colour; x_0 > x_1 mirrors. Windows compose, so whatever is drawn, the
image is resampled once. Colours change by one 3x3 matrix and one shift per image, for the same
reason.

Everything is done for the whole batch at once; a single sample is a batch of one. The random parameters
are plain numbers between 0 and 1 (`AugmentParams`), drawn from the caller's generator, on its device. What
follows from them is computed where the images are. So one generator on the processor gives the same views
on every device (but for the rounding of a grey level now and then), and a rank that has a part of a batch
takes the parameters' rows of that part and gets the views that it would have had in the whole batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
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

    `flip`, `expand` and `crop` are probabilities. `color` is a strength: 1 gives SSD's ranges
    (brightness ±32 grey levels, contrast and saturation ±50 %, hue ±18°), each of the four for half
    of the images. `max_expand` bounds how many times wider and higher the canvas of a zoomed-out
    image is. A crop's sides are `min_scale` to 1 times the image's (their geometric mean), one
    at most `max_ratio` times the other; resized to the image's shape, it is stretched by as much.

    The box of an object that a crop cuts is clipped to it. It stays while its centre is in view and
    `min_visible` of its area is. A centre in view means at least a quarter in view unless the object is
    larger than the crop: up to 0.25 this asks next to nothing.

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

    @property
    def zooms(self) -> bool:
        """Whether any image is resampled."""
        return self.expand > 0 or self.crop > 0


NONE = AugmentConfig(flip=0, color=0, expand=0, crop=0)


def augment(sample: Sample, config: AugmentConfig, generator: Generator) -> Sample:
    """One random view of a sample, of the same size; without the objects that left it.

    Equal generators give equal views. Raises ValueError as `augment_batch` does.

    >>> image = torch.arange(4, dtype=torch.uint8).expand(3, 4, 4)
    >>> sample = Sample(image, torch.tensor([[0.0, 0.0, 0.25, 0.5]]), torch.tensor([7]))
    >>> mirrored = augment(sample, AugmentConfig(1, 0, 0, 0), torch.Generator())
    >>> mirrored.image[0, 0].tolist(), mirrored.boxes.tolist(), mirrored.labels.tolist()
    ([3, 2, 1, 0], [[0.75, 0.0, 1.0, 0.5]], [7])
    """
    batch = augment_batch(collate([sample]), config, generator)
    kept = batch.labels[0] != PADDING_LABEL
    return Sample(batch.images[0], batch.boxes[0, kept], batch.labels[0, kept])


def augment_batch(batch: Batch, config: AugmentConfig, params: Generator | AugmentParams) -> Batch:
    """A random view of every image of a batch, of the same shapes and on the same device.

    Rows of objects that left their image become padding (label -1, box 0) in place. `params` are those of
    `sample_params`, or a generator to draw them from. Raises ValueError when images are not uint8
    (N, 3, H, W). Nothing here waits for the device.
    Source: SSD (arXiv:1512.02325), sections 2.2 (sampling) and 3.6 (zooming out).
    """
    if batch.images.dtype != torch.uint8 or batch.images.ndim != 4 or batch.images.shape[1] != 3:
        raise ValueError(
            f"images are {batch.images.dtype} {tuple(batch.images.shape)}: augment uint8 images "
            "(N, 3, H, W), before they are normalized"
        )
    if isinstance(params, Generator):
        params = sample_params(len(batch.images), config, params)
    params = params.to(batch.images.device)
    windows = _windows(batch.boxes, batch.labels, config, params)  # (N, 4)
    images = render(batch.images, windows, color_changes(params.color, config.color), config)
    return Batch(images, *view_objects(batch.boxes, batch.labels, windows, config.min_visible))


# ------------------------------------------------------------------------------- random parameters


class AugmentParams(NamedTuple):
    """Random numbers from [0, 1) that decide the views of N images, whatever the images are.

    `canvas` (N, 4), `trials` (N, 4, T), `minimum` (N, M), `crop` (N,), `flip` (N,), `color` (N, 2, 4).
    """

    canvas: Tensor
    trials: Tensor
    minimum: Tensor
    crop: Tensor
    flip: Tensor
    color: Tensor

    def to(self, device: torch.device | str) -> AugmentParams:
        """The same parameters on another device."""
        return AugmentParams(*(t.to(device, non_blocking=True) for t in self))

    def select(self, index: slice | Tensor) -> AugmentParams:
        """The parameters of the chosen images."""
        return AugmentParams(*(t[index] for t in self))


def sample_params(count: int, config: AugmentConfig, generator: Generator) -> AugmentParams:
    """Parameters for `count` images, on the generator's device; equal generators give equal ones.

    >>> params = sample_params(2, AugmentConfig(), torch.Generator())
    >>> [tuple(t.shape) for t in params]
    [(2, 4), (2, 4, 50), (2, 6), (2,), (2,), (2, 2, 4)]
    """
    params = _window_params(count, config, generator)
    return params._replace(color=_rand((2, 4, count), generator).permute(2, 0, 1))


def _window_params(count: int, config: AugmentConfig, generator: Generator) -> AugmentParams:
    """The parameters that decide windows; `color` is left empty."""
    trials = TRIALS if config.crop > 0 else 0
    return AugmentParams(
        canvas=_rand((4, count), generator).T,
        trials=_rand((4, count, trials), generator).transpose(0, 1),
        minimum=_rand((count, len(MIN_IOUS) if trials else 0), generator),
        crop=_rand((count,), generator) if trials else torch.zeros(count, device=generator.device),
        flip=_rand((count, 1), generator)[:, 0],
        color=torch.zeros(count, 2, 0, device=generator.device),
    )


def _rand(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)


# ------------------------------------------------------------------------------------------ windows


def sample_windows(boxes: Tensor, labels: Tensor, config: AugmentConfig, generator: Generator) -> Tensor:
    """A random window (N, 4) for each image with objects `boxes` (N, G, 4), `labels` (N, G)."""
    params = _window_params(len(boxes), config, generator).to(boxes.device)
    return _windows(boxes, labels, config, params)


def _windows(boxes: Tensor, labels: Tensor, config: AugmentConfig, params: AugmentParams) -> Tensor:
    """The windows (N, 4) that follow from the parameters."""
    windows = _canvases(config, params)  # (N, 4)
    if config.crop > 0:
        # Crops are chosen on the canvas, so that a zoomed-out object can be cropped to as well.
        seen = _relative(boxes, windows)  # (N, G, 4)
        windows = _compose(windows, _crops(seen, labels, config, params))
    left, top, right, bottom = windows.unbind(1)  # a list as an index would be sent to the device
    mirrored = torch.stack([right, top, left, bottom], dim=1)
    return torch.where((params.flip < config.flip)[:, None], mirrored, windows)


def _canvases(config: AugmentConfig, params: AugmentParams) -> Tensor:
    """Windows (N, 4) with the whole image somewhere on a larger canvas, or just the image."""
    chance, ratio, x, y = params.canvas.unbind(1)  # (N,) each
    ratio = torch.where(chance < config.expand, 1 + ratio * (config.max_expand - 1), 1)
    low = torch.stack([x, y], dim=-1) * (1 - ratio)[:, None]  # (N, 2)
    return torch.cat([low, low + ratio[:, None]], dim=-1)  # (N, 4)


def _crops(boxes: Tensor, labels: Tensor, config: AugmentConfig, params: AugmentParams) -> Tensor:
    """Windows (N, 4) within the image: of `TRIALS`, the first that meets a random minimum.

    The minimum is one of those of `MIN_IOUS` that some trial meets, all as likely. A crop of an
    image with objects keeps at least one; where no trial does, the window is the whole image.
    """
    trials = _trials(config, params)  # (N, T, 4)
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


def _trials(config: AugmentConfig, params: AugmentParams) -> Tensor:
    """Windows (N, T, 4) within the image of random size, ratio and place."""
    size, ratio, x, y = params.trials.unbind(1)  # (N, T) each
    size = config.min_scale + size * (1 - config.min_scale)  # of the square of the same area
    widest = torch.clamp(-2 * size.log(), max=math.log(config.max_ratio))  # neither side above 1
    stretch = ((2 * ratio - 1) * widest / 2).exp()
    sides = torch.stack([size * stretch, size / stretch], dim=-1).clamp(max=1)  # (N, T, 2)
    low = torch.stack([x, y], dim=-1) * (1 - sides)
    return torch.cat([low, low + sides], dim=-1)  # (N, T, 4)


# -------------------------------------------------------------------------------------------- boxes


def view_objects(
    boxes: Tensor, labels: Tensor, windows: Tensor, min_visible: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Boxes (..., G, 4) and labels (..., G) as seen through windows (..., 4).

    Boxes are in the window's coordinates. Kept are objects whose centre is in the window
    and of which at least `min_visible` is; what reaches out of it is cut off. The others
    become padding: label -1, box 0.

    >>> box, label = torch.tensor([[0.0, 0.0, 0.5, 0.5]]), torch.tensor([3])
    >>> view_objects(box, label, torch.tensor([0.2, 0.0, 0.6, 1.0]))[0]
    tensor([[0.0000, 0.0000, 0.7500, 0.5000]])
    >>> view_objects(box, label, torch.tensor([0.3, 0.0, 0.7, 1.0]))[1]
    tensor([-1])
    """
    seen = _relative(boxes, windows)  # (..., G, 4)
    clipped = seen.clamp(0, 1)
    center = (seen[..., :2] + seen[..., 2:]) / 2
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


def _compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The window that shows what `inner` (..., 4) shows of what `outer` (..., 4) shows."""
    start, sides = outer[..., :2], outer[..., 2:] - outer[..., :2]
    return torch.cat([start + inner[..., :2] * sides, start + inner[..., 2:] * sides], dim=-1)


# ------------------------------------------------------------------------------------------- pixels


class Colors(NamedTuple):
    """New colours, `matrix @ rgb + shift`, in grey levels: matrix (N, 3, 3) and shift (N, 3, 1)."""

    matrix: Tensor
    shift: Tensor


def color_changes(numbers: Tensor, strength: float) -> Colors:
    """Brightness, contrast, saturation and hue (SSD, section 2.2) from random numbers (N, 2, 4) in [0, 1).

    All four are affine in RGB once colourfulness is measured as the distance from the grey axis
    r = g = b: saturation stretches that distance and hue turns around the axis (`turn` by 90°). So
    any mixture of them is one matrix and one shift. `strength` 0 leaves every colour as it is.
    """
    here = numbers.device
    draws, chance = numbers.permute(1, 2, 0)[..., None, None]  # (4, N, 1, 1) each
    amounts = torch.where(chance < 0.5, (2 * draws - 1) * strength, 0)
    brightness, contrast, saturation, hue = amounts  # (N, 1, 1) each
    gray = torch.full((3, 3), 1 / 3, device=here)  # projects onto the grey axis
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
    """The images (N, 3, H, W) seen through their windows (N, 4) in their new colours, uint8."""
    if not config.zooms:
        flip = windows[:, 0] > windows[:, 2]
        images = torch.where(flip[:, None, None, None], images.flip(-1), images)
        if config.color == 0:
            return images
    # On a processor a few images at a time: they stay in its cache, and their buffers are small
    # enough for the C library to use again rather than to fetch from the kernel each time.
    few = max(1, CACHE_PIXELS // images[0, 0].numel())
    size = few if images.device.type == "cpu" else max(1, len(images))
    parts = zip(*(t.split(size) for t in (images, windows, *colors)), strict=True)
    return torch.cat([_render(*part, zoom=config.zooms) for part in parts])


def _render(images: Tensor, windows: Tensor, matrix: Tensor, shift: Tensor, zoom: bool) -> Tensor:
    """`render` for images that are worked on together."""
    pixels = images.float()
    if zoom:
        mean = pixels.mean(dim=(2, 3), keepdim=True)  # (n, 3, 1, 1)
        pixels = _resample(pixels.sub_(mean), windows)  # outside: 0, which is now the mean
        shift = torch.baddbmm(shift, matrix, mean.flatten(2))
    pixels = torch.baddbmm(shift, matrix, pixels.flatten(2))  # (n, 3, H * W)
    return pixels.round_().clamp_(0, 255).to(torch.uint8).view_as(images)


def _resample(pixels: Tensor, windows: Tensor) -> Tensor:
    """Bilinear samples of float images (n, 3, H, W) in windows (n, 4); 0 outside an image."""
    start, end = windows[:, :2], windows[:, 2:]
    # `affine_grid` counts from -1 to 1 where we count from 0 to 1.
    affine = torch.cat([torch.diag_embed(end - start), (start + end - 1)[..., None]], dim=-1)
    grid = F.affine_grid(affine, list(pixels.shape), align_corners=False)  # (n, H, W, 2)
    return F.grid_sample(pixels, grid, align_corners=False)
