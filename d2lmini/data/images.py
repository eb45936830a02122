"""Picture files of any kind to RGB pixels, the right way up."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

# What people have pictures in. Pillow knows more, some of which it hands to programs outside (EPS).
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TGA", "TIFF", "WEBP")


def read_image(path: str | Path) -> Image.Image:
    """A picture file as RGB at its own size, turned as its EXIF orientation says.

    Grey, palette, CMYK and 16-bit pictures are converted; transparent ones lie on white; of an animation
    the first frame is taken. Raises ValueError naming the file and what is wrong with it.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"no picture at {path}: check the path")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name the picture files in it")
    try:
        with warnings.catch_warnings():
            # Pillow warns above 89 megapixels and refuses above 179; both are refused here.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as picture:
                picture.load()
                return _to_rgb(ImageOps.exif_transpose(picture))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path} is too large ({error}): make it smaller first") from error
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{path} is not a picture in one of the formats {', '.join(FORMATS)}: convert it first"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}): it may be cut or damaged") from error


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":  # 16 or more bits of grey
        grey = np.asarray(picture, dtype=np.float64)
        top = 65535 if grey.max(initial=0) > 255 else 255
        return Image.fromarray((grey.clip(0, top) * (255 / top)).astype(np.uint8)).convert("RGB")
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def to_tensor(picture: Image.Image, size: tuple[int, int] | None = None) -> Tensor:
    """Pixels uint8 (3, H, W) of an RGB picture, resized to `size` (height, width) if given.

    Both sides are fitted on their own, so that boxes normalised to [0, 1] stay as they are; first the width,
    then the height, since Pillow's own order depends on its version and the live page has to do the same.

    >>> to_tensor(Image.new("RGB", (40, 20)), (8, 8)).shape
    torch.Size([3, 8, 8])
    """
    if size is not None and (picture.height, picture.width) != tuple(size):
        for shape in ((size[1], picture.height), (size[1], size[0])):
            picture = picture.resize(shape, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()  # (3, H, W)
