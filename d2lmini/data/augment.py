"""Random views of a batch: mirrored, recoloured, zoomed out of and cropped, boxes and all.

A picture is seen through a window (x_0, y_0, x_1, y_1) in its own coordinates, where the picture
is (0, 0, 1, 1). A window inside it crops; a larger one zooms out, and what lies outside the picture
is filled with its mean colour; x_0 > x_1 mirrors. Windows compose, so whatever is drawn, the
picture is resampled once. Colours change by one 3x3 matrix and one shift per picture, for the same
reason.

Everything is drawn and done for the whole batch at once; a single sample is a batch of one. What is
drawn are plain numbers between 0 and 1 (`Lots`), from the caller's generator and on its device. What
they decide is computed where the pictures are. So one generator on the processor gives the same views
on every device (but for the rounding of a grey level now and then), and whoever holds a part of a batch
takes its rows of the lots and sees what it would have seen in the whole.
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
TRIALS = 50  # crops drawn per picture, of which the first that does is taken
CACHE_PIXELS = 2**18  # float pictures worth of work that a processor's cache holds


@dataclass(frozen=True)
class AugmentConfig:
    """How far pictures are varied; 0 for `flip`, `colour`, `expand` and `crop` leaves them alone.

    `flip`, `expand` and `crop` are probabilities. `colour` is a strength: 1 gives SSD's ranges
    (brightness ±32 grey levels, contrast and saturation ±50 %, hue ±18°), each of the four for half
    of the pictures. `max_expand` bounds how many times wider and higher the canvas of a zoomed-out
    picture is. A crop's sides are `min_scale` to 1 times the picture's (their geometric mean), one
    at most `max_ratio` times the other; resized to the picture's shape, it is stretched by as much.

    An object that a crop cuts is cut to it, and stays while its centre is in view and `min_visible`
    of its area is. A centre in view means at least a quarter in view unless the object is larger than
    the crop: up to 0.25 this asks next to nothing.

    Raises ValueError naming the option that is out of range.

    >>> AugmentConfig(flip=2)
    Traceback (most recent call last):
    ...
    ValueError: flip is 2: choose a number from 0 to 1
    """

    flip: float = 0.5
    colour: float = 0.5
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
        """Whether any picture is resampled."""
        return self.expand > 0 or self.crop > 0


NONE = AugmentConfig(flip=0, colour=0, expand=0, crop=0)


def augment(sample: Sample, config: AugmentConfig, generator: Generator) -> Sample:
    """One random view of a sample, of the same size; objects that left it are gone from the lists.

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


def augment_batch(batch: Batch, config: AugmentConfig, lots: Generator | Lots) -> Batch:
    """A random view of every picture of a batch, of the same shapes and on the same device.

    Rows of objects that left their picture become padding (label -1, box 0) in place. `lots` are the
    numbers of `draw_lots`, or a generator to draw them from. Raises ValueError when images are not uint8
    (N, 3, H, W). Nothing here waits for the device.
    Source: SSD (arXiv:1512.02325), sections 2.2 (sampling) and 3.6 (zooming out).
    """
    if batch.images.dtype != torch.uint8 or batch.images.ndim != 4 or batch.images.shape[1] != 3:
        raise ValueError(
            f"images are {batch.images.dtype} {tuple(batch.images.shape)}: augment uint8 pictures "
            "(N, 3, H, W), before they are normalised"
        )
    if isinstance(lots, Generator):
        lots = draw_lots(len(batch.images), config, lots)
    lots = lots.to(batch.images.device)
    windows = _windows(batch.boxes, batch.labels, config, lots)  # (N, 4)
    images = render(batch.images, windows, _colours(lots.colour, config.colour), config)
    return Batch(images, *view_objects(batch.boxes, batch.labels, windows, config.min_visible))


# ----------------------------------------------------------------------------------- what is drawn


class Lots(NamedTuple):
    """Numbers from [0, 1) that decide the views of N pictures, whatever the pictures are.

    `canvas` (N, 4), `trials` (N, 4, T), `minimum` (N, M), `crop` (N,), `flip` (N,), `colour` (N, 2, 4).
    """

    canvas: Tensor
    trials: Tensor
    minimum: Tensor
    crop: Tensor
    flip: Tensor
    colour: Tensor

    def to(self, device: torch.device | str) -> Lots:
        """The same lots on another device."""
        return Lots(*(t.to(device, non_blocking=True) for t in self))

    def select(self, index: slice | Tensor) -> Lots:
        """The lots of the chosen pictures."""
        return Lots(*(t[index] for t in self))


def draw_lots(count: int, config: AugmentConfig, generator: Generator) -> Lots:
    """The lots of `count` pictures, on the generator's device; equal generators give equal lots.

    >>> lots = draw_lots(2, AugmentConfig(), torch.Generator())
    >>> [tuple(t.shape) for t in lots]
    [(2, 4), (2, 4, 50), (2, 6), (2,), (2,), (2, 2, 4)]
    """
    windows = _window_lots(count, config, generator)
    return windows._replace(colour=_rand((2, 4, count), generator).permute(2, 0, 1))


def _window_lots(count: int, config: AugmentConfig, generator: Generator) -> Lots:
    """The lots that decide windows; those for colours are left empty."""
    trials = TRIALS if config.crop > 0 else 0
    return Lots(
        canvas=_rand((4, count), generator).T,
        trials=_rand((4, count, trials), generator).transpose(0, 1),
        minimum=_rand((count, len(MIN_IOUS) if trials else 0), generator),
        crop=_rand((count,), generator) if trials else torch.zeros(count, device=generator.device),
        flip=_rand((count, 1), generator)[:, 0],
        colour=torch.zeros(count, 2, 0, device=generator.device),
    )


def _rand(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)


# ------------------------------------------------------------------------------------ where to look


def draw_windows(boxes: Tensor, labels: Tensor, config: AugmentConfig, generator: Generator) -> Tensor:
    """A random window (N, 4) for each picture with objects `boxes` (N, G, 4), `labels` (N, G)."""
    return _windows(boxes, labels, config, _window_lots(len(boxes), config, generator).to(boxes.device))


def _windows(boxes: Tensor, labels: Tensor, config: AugmentConfig, lots: Lots) -> Tensor:
    """The windows (N, 4) that the lots decide on."""
    windows = _canvases(config, lots)  # (N, 4)
    if config.crop > 0:
        # Crops are chosen on the canvas, so that a zoomed-out object can be cropped to as well.
        seen = _relative(boxes, windows)  # (N, G, 4)
        windows = _compose(windows, _crops(seen, labels, config, lots))
    left, top, right, bottom = windows.unbind(1)  # a list as an index would be sent to the device
    mirrored = torch.stack([right, top, left, bottom], dim=1)
    return torch.where((lots.flip < config.flip)[:, None], mirrored, windows)


def _canvases(config: AugmentConfig, lots: Lots) -> Tensor:
    """Windows (N, 4) with the whole picture somewhere on a larger canvas, or just the picture."""
    chance, ratio, x, y = lots.canvas.unbind(1)  # (N,) each
    ratio = torch.where(chance < config.expand, 1 + ratio * (config.max_expand - 1), 1)
    low = torch.stack([x, y], dim=-1) * (1 - ratio)[:, None]  # (N, 2)
    return torch.cat([low, low + ratio[:, None]], dim=-1)  # (N, 4)


def _crops(boxes: Tensor, labels: Tensor, config: AugmentConfig, lots: Lots) -> Tensor:
    """Windows (N, 4) within the picture: of `TRIALS`, the first that meets a random minimum.

    The minimum is one of those of `MIN_IOUS` that some trial meets, all as likely. A crop of a
    picture with objects keeps at least one; where no trial does, the window is the whole picture.
    """
    trials = _trials(config, lots)  # (N, T, 4)
    best = box_iou(trials, boxes).amax(dim=-1)  # (N, T)
    _, kept = view_objects(boxes[:, None], labels[:, None], trials, config.min_visible)  # (N, T, G)
    empty = (labels == PADDING_LABEL).all(dim=-1, keepdim=True)  # (N, 1)
    legal = (kept != PADDING_LABEL).any(dim=-1) | empty  # (N, T)
    meets = torch.stack([legal & (best >= least) for least in MIN_IOUS], dim=1)  # (N, M, T)

    choice = torch.where(meets.any(dim=-1), lots.minimum, -1).argmax(dim=-1)  # (N,)
    rows = torch.arange(len(boxes), device=boxes.device)
    met = meets[rows, choice]  # (N, T)
    crop = trials[rows, met.int().argmax(dim=-1)]  # (N, 4), the first that meets it
    wanted = met.any(dim=-1) & (lots.crop < config.crop)  # (N,)
    return torch.where(wanted[:, None], crop, _whole(boxes))


def _trials(config: AugmentConfig, lots: Lots) -> Tensor:
    """Windows (N, T, 4) within the picture of random size, ratio and place."""
    size, ratio, x, y = lots.trials.unbind(1)  # (N, T) each
    size = config.min_scale + size * (1 - config.min_scale)  # of the square of the same area
    widest = torch.clamp(-2 * size.log(), max=math.log(config.max_ratio))  # neither side above 1
    stretch = ((2 * ratio - 1) * widest / 2).exp()
    sides = torch.stack([size * stretch, size / stretch], dim=-1).clamp(max=1)  # (N, T, 2)
    low = torch.stack([x, y], dim=-1) * (1 - sides)
    return torch.cat([low, low + sides], dim=-1)  # (N, T, 4)


# ---------------------------------------------------------------------------- what becomes of boxes


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
    centre = (seen[..., :2] + seen[..., 2:]) / 2
    inside = ((centre >= 0) & (centre <= 1)).all(dim=-1)  # (..., G)
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


def _whole(boxes: Tensor) -> Tensor:
    """The window of the whole picture (4,), in the dtype and on the device of `boxes`."""
    return (torch.arange(4, device=boxes.device) >= 2).to(boxes.dtype)


# --------------------------------------------------------------------------- what becomes of pixels


class Colours(NamedTuple):
    """New colours, `matrix @ rgb + shift`, in grey levels: matrix (N, 3, 3) and shift (N, 3, 1)."""

    matrix: Tensor
    shift: Tensor


def draw_colours(
    count: int, strength: float, generator: Generator, device: torch.device | str = "cpu"
) -> Colours:
    """Random brightness, contrast, saturation and hue for `count` pictures (SSD, section 2.2).

    All four are affine in RGB once colourfulness is measured as the distance from the grey axis
    r = g = b: saturation stretches that distance and hue turns around the axis (`turn` by 90°). So
    any mixture of them is one matrix and one shift. `strength` 0 leaves every colour as it is.
    """
    return _colours(_rand((2, 4, count), generator).permute(2, 0, 1).to(device), strength)


def _colours(lots: Tensor, strength: float) -> Colours:
    """The colours that lots (N, 2, 4) decide on."""
    here = lots.device
    draws, chance = lots.permute(1, 2, 0)[..., None, None]  # (4, N, 1, 1) each
    amounts = torch.where(chance < 0.5, (2 * draws - 1) * strength, 0)
    brightness, contrast, saturation, hue = amounts  # (N, 1, 1) each
    grey = torch.full((3, 3), 1 / 3, device=here)  # projects onto the grey axis
    step = torch.arange(3, device=here)
    step = (step - step[:, None]) % 3  # 0, 1, 2 in turn, made where it is needed
    turn = ((step == 2).float() - (step == 1).float()) / math.sqrt(3)
    angle = hue * math.pi / 10
    chroma = angle.cos() * (torch.eye(3, device=here) - grey) + angle.sin() * turn  # (N, 3, 3)
    gain = 1 + contrast / 2
    matrix = gain * (grey + (1 + saturation / 2) * chroma)  # (N, 3, 3)
    shift = (32 * brightness + 127.5 * (1 - gain)).expand(-1, 3, -1)  # (N, 3, 1)
    return Colours(matrix, shift)


def render(images: Tensor, windows: Tensor, colours: Colours, config: AugmentConfig) -> Tensor:
    """The pictures (N, 3, H, W) seen through their windows (N, 4) in their new colours, uint8."""
    if not config.zooms:
        images = _mirror(images, windows[:, 0] > windows[:, 2])
    if not config.zooms and config.colour == 0:
        return images
    # On a processor a few pictures at a time: they stay in its cache, and their buffers are small
    # enough for the C library to use again rather than to fetch from the kernel each time.
    few = max(1, CACHE_PIXELS // images[0, 0].numel())
    size = few if images.device.type == "cpu" else max(1, len(images))
    parts = zip(*(t.split(size) for t in (images, windows, *colours)), strict=True)
    return torch.cat([_develop(*part, zoom=config.zooms) for part in parts])


def _mirror(images: Tensor, flip: Tensor) -> Tensor:
    """The pictures (N, 3, H, W) with those mirrored for which `flip` (N,) holds."""
    return torch.where(flip[:, None, None, None], images.flip(-1), images)


def _develop(images: Tensor, windows: Tensor, matrix: Tensor, shift: Tensor, zoom: bool) -> Tensor:
    """Windows and colours of `render`, without its splitting."""
    pixels = images.float()
    if zoom:
        mean = pixels.mean(dim=(2, 3), keepdim=True)  # (n, 3, 1, 1)
        pixels = _look_through(pixels.sub_(mean), windows)  # outside: 0, which is now the mean
        shift = torch.baddbmm(shift, matrix, mean.flatten(2))
    pixels = torch.baddbmm(shift, matrix, pixels.flatten(2))  # (n, 3, H * W)
    return pixels.round_().clamp_(0, 255).to(torch.uint8).view_as(images)


def _look_through(pixels: Tensor, windows: Tensor) -> Tensor:
    """Bilinear samples of float pictures (n, 3, H, W) in windows (n, 4); 0 outside a picture."""
    start, end = windows[:, :2], windows[:, 2:]
    # `affine_grid` counts from -1 to 1 where we count from 0 to 1.
    affine = torch.cat([torch.diag_embed(end - start), (start + end - 1)[..., None]], dim=-1)
    grid = F.affine_grid(affine, list(pixels.shape), align_corners=False)  # (n, H, W, 2)
    return F.grid_sample(pixels, grid, align_corners=False)
