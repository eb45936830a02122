"""Image files to pixels: every mode, the network's square, and files that are no images."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from d2lmini.data import images
from d2lmini.data.files import DataError
from d2lmini.data.images import RESIZE_MODES, placement, read_image, to_tensor
from tests.nobody import as_nobody

SIDES = st.integers(1, 300)


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG file that says it has so many grey pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# ------------------------------------------------------------------------------------------ the square


@given(
    width=SIDES, height=SIDES, size=st.sampled_from([16, 64, 300]), resize_mode=st.sampled_from(RESIZE_MODES)
)
def test_a_placement_is_whole_pixels_in_the_middle_and_in_shape(width, height, size, resize_mode):
    left, top, w, h = (size * side for side in placement((width, height), (size, size), resize_mode))
    assert all(abs(side - round(side)) < 1e-9 for side in (left, top, w, h))
    if resize_mode == "stretch":
        assert (left, top, w, h) == (0, 0, size, size)
        return
    assert max(round(w), round(h)) == size
    assert abs(2 * left + w - size) <= 1
    assert abs(2 * top + h - size) <= 1
    scale = size / max(width, height)
    assert abs(w - scale * width) <= 0.5 or w == 1  # at most rounded, but never to nothing
    assert abs(h - scale * height) <= 0.5 or h == 1


@given(width=SIDES, height=SIDES, resize_mode=st.sampled_from(RESIZE_MODES), data=st.data())
def test_boxes_go_into_the_square_and_come_back(width, height, resize_mode, data):
    place = placement((width, height), (300, 300), resize_mode)
    edges = [data.draw(st.floats(0, 1)) for _ in range(4)]
    x, y = sorted(edges[:2]), sorted(edges[2:])
    box = torch.tensor([[x[0], y[0], x[1], y[1]]], dtype=torch.float64)
    inside = place.into_square(box)
    assert bool(((inside >= 0) & (inside <= 1 + 1e-12)).all())
    torch.testing.assert_close(place.out_of_square(inside), box)


@pytest.mark.parametrize("resize_mode", RESIZE_MODES)
@pytest.mark.parametrize("shape", [(64, 20), (20, 64), (128, 128), (100, 37)])
def test_a_box_stays_on_its_pixels(resize_mode, shape):
    """A white rectangle on black: after fitting, more than half white exactly within its box."""
    pixels = np.zeros((shape[1], shape[0], 3), np.uint8)
    pixels[4:16, 8:19] = 255
    box = torch.tensor([[8 / shape[0], 4 / shape[1], 19 / shape[0], 16 / shape[1]]])
    square = to_tensor(Image.fromarray(pixels), (256, 256), resize_mode)[0] > 127
    rows, columns = square.any(1).nonzero(), square.any(0).nonzero()
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    expected = 256 * placement(shape, (256, 256), resize_mode).into_square(box)[0]
    assert (torch.tensor(found) - expected).abs().max() <= 1


def test_bands_have_the_mean_color():
    image = Image.new("RGB", (4, 2), (200, 100, 0))
    image.paste((0, 100, 200), (0, 0, 2, 2))
    square = to_tensor(image, (4, 4), "letterbox")
    assert square[:, 0].tolist() == [[100] * 4] * 3
    assert square[:, 1:3, 0].tolist() == [[0, 0], [100, 100], [200, 200]]
    assert square[:, 3, 3].tolist() == [100] * 3


@pytest.mark.parametrize("resize_mode", RESIZE_MODES)
@pytest.mark.parametrize(
    ("shape", "times"), [((512, 640), 8), ((512, 520), 8), ((128, 300), 2), ((516, 520), 4), ((511, 640), 1)]
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_large_jpeg_files_are_read_smaller_and_look_the_same(
    tmp_path, monkeypatch, shape, times, resize_mode, orientation
):
    pixels = Image.radial_gradient("L").resize(shape).convert("RGB")
    pixels.paste((255, 0, 0), (40, 64, 200, 100))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.jpg", pixels, quality=95, exif=exif)
    seen = []
    monkeypatch.setattr(images, "to_tensor", lambda *a: (seen.append(a[0].size), to_tensor(*a))[1])
    square, size = images.read_square(path, (32, 32), resize_mode)
    whole = read_image(path)
    assert size == whole.size
    assert seen == [(size[0] // times, size[1] // times)]
    # A line of pixels more on one side would move the rectangle's edges, which are 255 high.
    assert (square.float() - to_tensor(whole, (32, 32), resize_mode).float()).abs().max() < 16


def test_an_unknown_resize_mode_is_named():
    with pytest.raises(ValueError, match="resize_mode is 'crop': choose from stretch, letterbox"):
        placement((1, 1), (1, 1), "crop")


# ----------------------------------------------------------------------------------------- every mode


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "LAB", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    image = Image.new("RGB", (6, 4), (0, 128, 255)).convert("L" if mode in "IF1" else "RGB")
    image = image.convert("RGB").convert("LAB") if mode == "LAB" else image.convert(mode)
    suffix = "png" if mode in ("1", "L", "LA", "P", "RGB", "RGBA") else "tif"
    found = read_image(saved(tmp_path / f"a.{suffix}", image))
    assert (found.mode, found.size) == ("RGB", (6, 4))
    if mode in ("RGB", "RGBA", "P", "YCbCr"):
        away = max(abs(a - b) for a, b in zip(found.getpixel((0, 0)), (0, 128, 255), strict=True))
        assert away < (26 if mode == "P" else 4)  # the usual palette is coarse


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("I;16", [0, 32896, 65535], [0, 128, 255]),
        ("I;16", [0, 100, 200], [0, 0, 0]),  # a dark image stays dark
        ("I", [0, 128, 255], [0, 128, 255]),
        ("I", [-5, 32896, 65535], [0, 128, 255]),
        ("F", [0.0, 0.5, 1.0], [0, 127, 255]),
        ("F", [float("nan"), 0.0, 255.0], [0, 0, 255]),
    ],
)
def test_gray_of_many_bits_keeps_its_range(tmp_path, mode, values, expected):
    kinds = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
    image = Image.fromarray(np.array([values], kinds[mode]))
    found = read_image(saved(tmp_path / "a.tif", image))
    assert [found.getpixel((i, 0))[0] for i in range(3)] == expected


def test_transparency_lies_on_white(tmp_path):
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 255))
    found = read_image(saved(tmp_path / "a.png", image))
    assert [found.getpixel((i, 0)) for i in range(2)] == [(255, 255, 255), (255, 0, 0)]


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    found = read_image(saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:]))
    assert found.getpixel((0, 0)) == (255, 0, 0)


# ------------------------------------------------------------------------------------- what is refused


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(file, "jpeg")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is empty"),
        (b"<html>", "is not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
        (jpeg()[:1000], "cut or damaged"),
        (png(20_000, 20_000), "is too large"),
        (png(10_000, 10_000), "is too large"),
        (png(0, 4), "."),
    ],
    ids=["empty", "html", "eps", "truncated", "enormous", "large", "zero"],
)
def test_what_is_no_image_is_refused_by_name(tmp_path, content, fault):
    path = tmp_path / "schön, 1.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"schön, 1\.png.*{fault}"):
        read_image(path)


def test_what_is_no_file_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"no file .*none\.png"):
        read_image(tmp_path / "none.png")
    with pytest.raises(DataError, match="is a folder"):
        read_image(tmp_path)
    for name in ("a\0b", "p" * 300):
        with pytest.raises(DataError, match=r"no file name|cannot be read"):
            read_image(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no named pipes")
def test_a_pipe_would_hang_and_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match="pipe or a device"):
        read_image(tmp_path / "a.png")


def test_a_file_too_long_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("d2lmini.data.images.MAX_FILE", 5)
    (tmp_path / "a.png").write_bytes(b"123456")
    with pytest.raises(DataError, match="has 6 bytes, at most 5"):
        read_image(tmp_path / "a.png")


@pytest.mark.skipif(os.name != "posix", reason="has no POSIX permissions")
def test_an_unreadable_image_asks_for_permissions(anyones_folder):
    path = saved(anyones_folder / "a.png", Image.new("RGB", (4, 4)))
    with as_nobody():
        assert read_image(path).size == (4, 4)
    path.chmod(0)
    with as_nobody(), pytest.raises(DataError, match=r"a\.png may not be read .*permissions"):
        read_image(path)
