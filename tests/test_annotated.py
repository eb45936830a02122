"""Annotated images on disk: which boxes are taken, cut or refused, and what is said of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from d2lmini.data.annotated import AnnotatedImages, DataError
from d2lmini.data.entries import Entry, Object


def entry(tmp_path, *edges, size=None, orientation=None) -> Entry:
    """An image of 40 × 20 pixels, black but for its white first box, with objects called cat."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    if edges and all(math.isfinite(e) for e in edges[0]):
        left, top, right, bottom = (max(0, round(e)) for e in edges[0])
        pixels[top:bottom, left:right] = 255
    image, exif = Image.fromarray(pixels), Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    path = tmp_path / "an image, schön.png"
    image.save(path, exif=exif)
    return Entry(path, tuple(Object("cat", box) for box in edges), "notes.xml", size)


def first(found: Entry, **options):
    return AnnotatedImages([found], ("cat", "dog"), **{"size": 64, **options})[0]


def test_an_image_is_resized_and_its_box_normalized(tmp_path):
    sample = first(entry(tmp_path, (10.0, 5.0, 30.0, 20.0)))
    assert sample.image.shape == (3, 64, 64)
    assert sample.image.dtype == torch.uint8
    assert sample.boxes.dtype == torch.float32
    assert sample.boxes.tolist() == [[0.25, 0.25, 0.75, 1.0]]
    assert sample.labels.tolist() == [0]
    white = torch.where(sample.image[0] > 127)
    assert [white[1].min(), white[0].min(), white[1].max(), white[0].max()] == [16, 16, 47, 63]


def test_a_letterbox_moves_the_box_with_the_image(tmp_path):
    """40 × 20 in 64 × 64: 64 × 32, with 16 rows above and below."""
    sample = first(entry(tmp_path, (10.0, 5.0, 30.0, 20.0)), resize_mode="letterbox")
    assert sample.boxes.tolist() == [[0.25, 0.375, 0.75, 0.75]]
    white = torch.where(sample.image[0] > 127)
    assert [white[1].min(), white[0].min(), white[1].max(), white[0].max()] == [16, 24, 47, 47]
    with pytest.raises(ValueError, match="resize_mode is 'pad'"):
        first(entry(tmp_path), resize_mode="pad")


def test_no_object_is_legal(tmp_path):
    sample = first(entry(tmp_path))
    assert sample.boxes.shape == (0, 4)
    assert sample.labels.shape == (0,)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_images_are_turned_upright_before_boxes_are_read(tmp_path, orientation):
    """Whichever way the pixels are stored, the box says where the white is once it is upright."""
    stored = entry(tmp_path, (0.0, 0.0, 10.0, 5.0), orientation=orientation)
    upright = {1: (0, 0, 10, 5), 3: (30, 15, 40, 20), 6: (15, 0, 20, 10), 8: (0, 30, 5, 40)}
    box = tuple(map(float, upright[orientation]))
    sample = first(stored._replace(objects=(Object("cat", box),)))
    left, top, right, bottom = (sample.boxes[0] * 64).round().int().tolist()
    inside = sample.image[0, top:bottom, left:right]
    assert (inside > 127).all()
    assert (sample.image[0] > 127).sum() == inside.numel()


def test_a_pixel_out_of_the_image_is_clipped(tmp_path):
    sample = first(entry(tmp_path, (-1.0, 0.0, 41.0, 20.5)))
    assert sample.boxes.tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("box", "fault"),
    [
        ((10.0, 5.0, 10.0, 9.0), "reversed or empty"),
        ((10.0, 9.0, 12.0, 5.0), "reversed or empty"),
        ((math.nan, 5.0, 10.0, 9.0), "not finite"),
        ((1.0, 5.0, math.inf, 9.0), "not finite"),
        ((1.0, 5.0, 42.0, 9.0), "reaches out of the image of 40 × 20"),
        ((1.0, -2.0, 9.0, 9.0), "reaches out"),
        ((40.0, 5.0, 41.0, 9.0), "outside"),
        ((-1.0, 5.0, 0.0, 9.0), "outside"),
        ((20.0, 5.0, 20.0000001, 9.0), "too thin"),
    ],
)
def test_other_boxes_are_refused_by_name_and_number(tmp_path, box, fault):
    with pytest.raises(DataError, match=rf"notes.xml, object 2 \(cat\).*{fault}.*remove"):
        first(entry(tmp_path, (0.0, 0.0, 5.0, 5.0), box))


def test_the_annotated_size_must_be_the_images(tmp_path):
    box = (0.0, 0.0, 5.0, 5.0)
    assert len(first(entry(tmp_path, box, size=(40, 20))).boxes) == 1
    assert len(first(entry(tmp_path, box, size=(20, 40), orientation=6)).boxes) == 1
    with pytest.raises(DataError, match=r"notes.xml is for 80 × 40 .* has 40 × 20"):
        first(entry(tmp_path, box, size=(80, 40)))
    with pytest.raises(DataError, match=r"lying down.*EXIF"):
        first(entry(tmp_path, box, size=(40, 20), orientation=6))


def test_classes_and_size_are_checked(tmp_path):
    found = entry(tmp_path, (0.0, 0.0, 5.0, 5.0))
    with pytest.raises(DataError, match=r"notes.xml, object 1: unknown class 'cat'.*dog"):
        AnnotatedImages([found], ("dog",))[0]
    with pytest.raises(ValueError, match="twice"):
        AnnotatedImages([found], ("dog", "dog"))
    with pytest.raises(ValueError, match="size is 0"):
        AnnotatedImages([found], ("cat",), size=0)


@pytest.mark.parametrize("index", [-1, 1])
def test_indices_outside_the_set_are_refused(tmp_path, index):
    with pytest.raises(IndexError, match="outside"):
        AnnotatedImages([entry(tmp_path)], ("cat",))[index]


@pytest.mark.parametrize("content", [b"", b"<html>", None])
def test_broken_images_are_named(tmp_path, content):
    found = entry(tmp_path)
    whole = found.image.read_bytes()
    found.image.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match=r"an image, schön\.png"):
        first(found)
