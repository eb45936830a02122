"""Picture files of any kind to RGB pixels, the right way up, and into the network's square."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from d2lmini.data.files import DataError, read_bytes

# What people have pictures in. Pillow knows more, some of which it hands to programs outside (EPS).
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TGA", "TIFF", "WEBP")
MAX_FILE = 512 * 2**20  # bytes
FITS = ("stretch", "letterbox")


def read_image(path: str | Path) -> Image.Image:
    """A picture file as RGB at its own size, turned as its EXIF orientation says.

    Grey, palette, CMYK and 16-bit pictures are converted; transparent ones lie on white; of an animation
    the first frame is taken. Raises DataError (a ValueError) naming the file and what is wrong with it.
    """
    return _read(Path(path), None)[0]


def read_square(path: str | Path, size: tuple[int, int], fit: str = "stretch") -> Square:
    """A picture file brought to `size` (height, width): `read_image` and `to_tensor` in one, but faster.

    A JPEG file several times as large is decoded at 1/2, 1/4 or 1/8 of its size, where that divides it
    without a rest, so that boxes stay exact: a photograph of 12 megapixels in a seventh of the time.
    """
    picture, times = _read(Path(path), max(size))
    return Square(to_tensor(picture, size, fit), (picture.width * times, picture.height * times))


class Square(NamedTuple):
    """Pixels uint8 (3, H, W) for the network, and the (width, height) that the upright picture had."""

    pixels: Tensor
    picture: tuple[int, int]


def _read(path: Path, side: int | None) -> tuple[Image.Image, int]:
    """A picture, and how many times smaller it is than the file's: no side is below twice `side`."""
    data, times = read_bytes(path, MAX_FILE), 1
    if not data:
        raise DataError(f"{path} is empty, not a picture: copy it again or remove it")
    try:
        with warnings.catch_warnings():
            # Pillow warns above 89 megapixels and refuses above 179; both are refused here.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                if side is not None and picture.format == "JPEG":
                    times = _shrink(picture, 2 * side)
                picture.load()
                picture = _to_rgb(ImageOps.exif_transpose(picture))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path} is too large ({error}): make it smaller first") from error
    except UnidentifiedImageError as error:
        raise DataError(
            f"{path} is not a picture in one of the formats {', '.join(FORMATS)}: convert it first"
        ) from error
    except Exception as error:  # decoders of damaged bytes raise what they like
        raise DataError(f"{path} cannot be read ({error}): it may be cut or damaged") from error
    if 0 in picture.size:
        raise DataError(f"{path} has no pixels ({picture.width} × {picture.height}): remove it")
    return picture, times


def _shrink(picture: Image.Image, least: int) -> int:
    """Let a JPEG file decode itself smaller, if no side gets below `least`; returns how many times."""
    width, height = picture.size
    for times in (8, 4, 2):
        if width % times == height % times == 0 and min(width, height) // times >= least:
            picture.draft(picture.mode, (width // times, height // times))
            return width // picture.width
    return 1


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":  # 16 or more bits of grey
        grey = np.nan_to_num(np.asarray(picture, dtype=np.float64))
        grey = grey.clip(0, top := _top(picture.mode, grey))
        return Image.fromarray((grey * (255 / top)).astype(np.uint8)).convert("RGB")
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def _top(mode: str, grey: np.ndarray) -> int:
    """The number that means white: told by the mode, or the smallest usual one that no pixel exceeds."""
    most = 65535 if mode.startswith("I;16") else grey.max(initial=0)
    return 1 if mode == "F" and most <= 1 else 255 if most <= 255 else 65535


class Placement(NamedTuple):
    """Where a picture lies in the network's square, in fractions of the square's sides.

    "stretch" fills the square, (0, 0, 1, 1); "letterbox" leaves bands above and below, or at the sides.
    """

    left: float
    top: float
    width: float
    height: float

    def into_square(self, boxes: Tensor) -> Tensor:
        """Boxes (G, 4) in fractions of the picture as fractions of the square; `out_of_square` undoes it.

        >>> placement((400, 200), (64, 64), "letterbox").into_square(torch.tensor([[0.0, 0, 0.5, 1]]))
        tensor([[0.0000, 0.2500, 0.5000, 0.7500]])
        """
        return boxes * boxes.new_tensor(self[2:] * 2) + boxes.new_tensor(self[:2] * 2)

    def out_of_square(self, boxes: Tensor) -> Tensor:
        """Boxes (G, 4) in fractions of the square as fractions of the picture, cut to it."""
        return ((boxes - boxes.new_tensor(self[:2] * 2)) / boxes.new_tensor(self[2:] * 2)).clamp(0, 1)


def placement(picture: tuple[int, int], size: tuple[int, int], fit: str = "stretch") -> Placement:
    """Where a picture of (width, height) pixels goes in `size` (height, width) pixels.

    Whole pixels, so that a box stays on the pixels it was on. Raises ValueError for an unknown `fit`.
    """
    if fit not in FITS:
        raise ValueError(f"fit is {fit!r}: choose from {', '.join(FITS)}")
    height, width = size
    if fit == "stretch":
        return Placement(0.0, 0.0, 1.0, 1.0)
    scale = min(width / picture[0], height / picture[1])
    w, h = (max(1, round(scale * side)) for side in picture)  # a line stays one pixel wide
    return Placement((width - w) // 2 / width, (height - h) // 2 / height, w / width, h / height)


def to_tensor(picture: Image.Image, size: tuple[int, int] | None = None, fit: str = "stretch") -> Tensor:
    """Pixels uint8 (3, H, W) of an RGB picture, brought to `size` (height, width) if given.

    "stretch" fits both sides on their own, so that boxes normalised to [0, 1] stay as they are.
    "letterbox" keeps the picture's shape and fills the bands that are left with its mean colour, as
    zooming out does (`augment`); `placement` says where boxes go. First the width is resized, then the
    height: Pillow's own order depends on its version, and the live page has to do the same.

    >>> to_tensor(Image.new("RGB", (40, 20)), (8, 8)).shape
    torch.Size([3, 8, 8])
    """
    if size is None or ((picture.height, picture.width) == tuple(size)):
        return _pixels(picture)
    place, (height, width) = placement(picture.size, size, fit), size
    inner = round(place.width * width), round(place.height * height)
    if picture.size != inner:
        for shape in ((inner[0], picture.height), inner):
            picture = picture.resize(shape, Image.Resampling.BILINEAR)
    pixels = _pixels(picture)  # (3, h, w)
    if inner == (width, height):
        return pixels
    mean = pixels.float().mean(dim=(1, 2)).round().to(torch.uint8)  # (3,)
    square = mean[:, None, None].repeat(1, height, width)  # (3, H, W)
    left, top = round(place.left * width), round(place.top * height)
    square[:, top : top + inner[1], left : left + inner[0]] = pixels
    return square


def _pixels(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()  # (3, H, W)
