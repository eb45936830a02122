"""Image files of any kind to RGB pixels, the right way up, and into the network's square."""

from __future__ import annotations

import io
import threading
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from d2lmini.data.files import DataError, read_bytes

# What people have images in. Pillow knows more, some of which it hands to programs outside (EPS).
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TGA", "TIFF", "WEBP")
MAX_FILE = 512 * 2**20  # bytes
_OPENING = threading.Lock()  # how Python treats warnings is one setting for all threads
RESIZE_MODES = ("stretch", "letterbox")


def read_image(path: str | Path) -> Image.Image:
    """The first frame of an image file as RGB, upright; raises DataError naming the file and its fault."""
    return _read(Path(path), None)[0]


def read_square(
    path: str | Path, size: tuple[int, int], resize_mode: str = "stretch"
) -> tuple[Tensor, tuple[int, int]]:
    """Pixels uint8 (3, H, W) of an image file brought to `size` (H, W), and its upright (width, height).

    A large JPEG file is decoded at 1/2, 1/4 or 1/8 of its size, where that divides it without a rest.
    """
    image, times = _read(Path(path), max(size))
    return to_tensor(image, size, resize_mode), (image.width * times, image.height * times)


def _read(path: Path, side: int | None) -> tuple[Image.Image, int]:
    """An image, and how many times smaller it is than the file's: no side is below twice `side`."""
    data, times = read_bytes(path, MAX_FILE), 1
    if not data:
        raise DataError(f"{path} is empty, not an image: copy it again or remove it")
    try:
        with _open(data) as image:
            if side is not None and image.format == "JPEG":
                times = _shrink(image, 2 * side)
            image.load()
            image = to_rgb(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path} is too large ({error}): make it smaller first") from error
    except UnidentifiedImageError as error:
        wanted = f"an image in one of the formats {', '.join(FORMATS)}"
        raise DataError(f"{path} is not {wanted}: convert it first") from error
    except Exception as error:  # decoders of damaged bytes raise what they like
        raise DataError(f"{path} cannot be read ({error}): it may be cut or damaged") from error
    if 0 in image.size:
        raise DataError(f"{path} has no pixels ({image.width} × {image.height}): remove it")
    return image, times


def _open(data: bytes) -> Image.Image:
    """A Pillow image that is not decoded yet. Pillow warns above 89 megapixels: that is an error here."""
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(data), formats=FORMATS)


def _shrink(image: Image.Image, least: int) -> int:
    """Let a JPEG file decode itself smaller, if no side gets below `least`; returns how many times."""
    width, height = image.size
    for times in (8, 4, 2):
        if width % times == height % times == 0 and min(width, height) // times >= least:
            image.draft(image.mode, (width // times, height // times))
            return width // image.width
    return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB: transparent parts lie on white, black to white is 0 to 255."""
    if image.mode.startswith("I") or image.mode == "F":  # 16 or more bits of grey
        gray = np.nan_to_num(np.asarray(image, dtype=np.float64))
        most = 65535 if image.mode.startswith("I;16") else gray.max(initial=0)
        white = 1 if image.mode == "F" and most <= 1 else 255 if most <= 255 else 65535
        gray = gray.clip(0, white)
        return Image.fromarray((gray * (255 / white)).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        under = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(under, image).convert("RGB")
    return image.convert("RGB")


class Placement(NamedTuple):
    """Where an image lies in the network's square, in fractions of the square's sides."""

    left: float
    top: float
    width: float
    height: float

    def into_square(self, boxes: Tensor) -> Tensor:
        """Boxes (G, 4) in fractions of the image as fractions of the square; `out_of_square` undoes it.

        >>> placement((400, 200), (64, 64), "letterbox").into_square(torch.tensor([[0.0, 0, 0.5, 1]]))
        tensor([[0.0000, 0.2500, 0.5000, 0.7500]])
        """
        return boxes * boxes.new_tensor(self[2:] * 2) + boxes.new_tensor(self[:2] * 2)

    def out_of_square(self, boxes: Tensor) -> Tensor:
        """Boxes (G, 4) in fractions of the square as fractions of the image, cut to it."""
        return ((boxes - boxes.new_tensor(self[:2] * 2)) / boxes.new_tensor(self[2:] * 2)).clamp(0, 1)


def placement(image: tuple[int, int], size: tuple[int, int], resize_mode: str = "stretch") -> Placement:
    """Where an image of (width, height) goes in `size` (height, width), in whole pixels; or ValueError."""
    if resize_mode not in RESIZE_MODES:
        raise ValueError(f"resize_mode is {resize_mode!r}: choose from {', '.join(RESIZE_MODES)}")
    height, width = size
    if resize_mode == "stretch":
        return Placement(0.0, 0.0, 1.0, 1.0)
    scale = min(width / image[0], height / image[1])
    w, h = (max(1, round(scale * side)) for side in image)  # a line stays one pixel wide
    return Placement((width - w) // 2 / width, (height - h) // 2 / height, w / width, h / height)


def to_tensor(
    image: Image.Image, size: tuple[int, int] | None = None, resize_mode: str = "stretch"
) -> Tensor:
    """Pixels uint8 (3, H, W) of an RGB image, brought to `size` (H, W); letterbox bands get its mean."""
    height, width = size = (image.height, image.width) if size is None else size
    place = placement(image.size, size, resize_mode)
    inner = round(place.width * width), round(place.height * height)
    if image.size != inner:  # first the width: Pillow's own order depends on its version
        for shape in ((inner[0], image.height), inner):
            image = image.resize(shape, Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()  # (3, h, w)
    if inner == (width, height):
        return pixels
    mean = pixels.float().mean(dim=(1, 2)).round().to(torch.uint8)  # (3,)
    square = mean[:, None, None].repeat(1, height, width)  # (3, H, W)
    left, top = round(place.left * width), round(place.top * height)
    square[:, top : top + inner[1], left : left + inner[0]] = pixels
    return square
