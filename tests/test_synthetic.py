"""The drawn data: determinism, exact boxes, what each preset promises, and a pin on the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from d2lmini.data import drawing, shapes
from d2lmini.data.samples import Sample, collate
from d2lmini.data.synthetic import MIN_SHOWN, SCENES, Synthetic, render

PRESETS = ("bananas", "scenes")


def same(a: Sample, b: Sample) -> bool:
    """Whether two samples agree in every bit."""
    return all(x.shape == y.shape and bool((x == y).all()) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def many() -> list[Sample]:
    """The first 140 scenes, at 128 pixels for speed."""
    data = Synthetic("scenes", count=140, size=128)
    return [data[i] for i in range(len(data))]


# ---------------------------------------------------------------------------------- determinism


@pytest.mark.parametrize("preset", PRESETS)
def test_an_image_is_the_same_in_any_order_and_instance(preset):
    first, second = Synthetic(preset, count=9, size=64), Synthetic(preset, count=5000, size=64)
    forward = [first[i] for i in range(9)]
    backward = [second[i] for i in reversed(range(9))][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))
    assert same(first[4], first[4])


@pytest.mark.parametrize("preset", PRESETS)
def test_workers_yield_what_the_main_process_yields(preset):
    data = Synthetic(preset, count=6, size=64)
    loader = DataLoader(data, batch_size=2, num_workers=2, collate_fn=collate)
    images = torch.cat([batch.images for batch in loader])
    assert torch.equal(images, torch.stack([data[i].image for i in range(6)]))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("other", [{"seed": 1}, {"split": "val"}])
def test_seeds_and_splits_are_different_streams(preset, other):
    base, changed = Synthetic(preset, size=64), Synthetic(preset, size=64, **other)
    images = [data[i].image.flatten().float() for data in (base, changed) for i in range(4)]
    away = torch.cdist(torch.stack(images), torch.stack(images), p=1) / images[0].numel()
    assert away[~torch.eye(8, dtype=torch.bool)].min() > 5  # gray levels per pixel


def test_images_are_pinned():
    """A change to what is drawn must be meant: it makes every stored result stale."""
    summary = []
    for preset in PRESETS:
        data = Synthetic(preset, size=64)
        for i in (0, 1, 7):
            image, boxes, labels = data[i]
            summary.append((labels.tolist(), (boxes * 64).int().tolist()))
            np.testing.assert_allclose(image.float().mean((1, 2)), PINNED_MEANS[preset, i], atol=1.5)
    assert summary == PINNED_OBJECTS


def test_size_changes_the_resolution_not_the_scene():
    """Same objects, most edges within a pixel, about the same image once shrunk."""
    small, large = Synthetic("scenes", size=128), Synthetic("scenes", size=300)
    for i in range(12):
        a, b = small[i], large[i]
        assert torch.equal(a.labels, b.labels)
        away = (a.boxes - b.boxes).abs().flatten().tolist()
        assert max(away, default=0) < 4 / 128  # a leaf's stalk may be too thin to count
        assert sorted(away)[: len(away) * 3 // 4][-1:] < [1.2 / 128]
        shrunk = torch.nn.functional.interpolate(b.image[None].float(), size=128, mode="area")[0]
        assert (shrunk - a.image).abs().mean() < 12


# ---------------------------------------------------------------------------------------- form


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [64, 256, 300])
def test_types_and_shapes(preset, size):
    data = Synthetic(preset, count=4, size=size)
    assert len(data) == 4
    for i in range(4):
        image, boxes, labels = data[i]
        assert (image.dtype, boxes.dtype, labels.dtype) == (torch.uint8, torch.float32, torch.int64)
        assert image.shape == (3, size, size)
        assert boxes.shape == (len(labels), 4)
        assert image.float().std() > 5  # never blank


def test_a_banana_image_has_one_banana_all_of_it_in_view():
    data = Synthetic("bananas", count=40, size=128)
    assert data.classes == ("banana",)
    for i in range(40):
        box, labels = data[i].boxes, data[i].labels
        assert labels.tolist() == [0]
        assert box.min() > 0
        assert box.max() < 1
        assert 0.18 < (box[0, 2:] - box[0, :2]).max() < 0.58


def test_scenes_keep_their_promises(many):
    classes = Synthetic("scenes").classes
    counts = [len(s.labels) for s in many]
    assert set(counts) == set(range(9))
    boxes, labels = torch.cat([s.boxes for s in many]), torch.cat([s.labels for s in many])
    assert set(labels.tolist()) == set(range(len(classes)))
    assert torch.bincount(labels).min() > 0.1 * len(labels)
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.min() > 0
    longer = sides.max(dim=1).values
    assert longer.min() >= 0.04 - 1.5 / 128
    assert longer.max() <= 0.8
    assert 0.15 < longer.median() < 0.3


# ---------------------------------------------------------------------------------- exact boxes


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [64, 256])
def test_boxes_are_tight_about_the_masks(preset, size):
    data = Synthetic(preset, count=12, size=size)
    for i in range(12):
        masks, boxes = data.masks(i), data[i].boxes
        assert len(masks) == len(boxes)
        for mask, box in zip(masks, boxes, strict=True):
            at = mask.nonzero()  # (pixels, 2) as (row, column)
            low, high = at.min(0).values.flip(0), at.max(0).values.flip(0) + 1
            assert torch.equal(box, torch.cat([low, high]) / size)


def test_the_mask_is_what_was_painted():
    """Without its banana the same image differs inside the mask, and hardly beyond its shadow."""
    for seed in range(6):
        scene = SCENES["bananas"](np.random.default_rng(seed))
        plain = scene.look._replace(blur=0.0, noise=0.0)
        scene = scene._replace(look=plain, light=scene.light._replace(shadow=0.0))
        (pixels, [(_, mask)]), (empty, _) = (
            render(s, 128, np.random.default_rng(0)) for s in (scene, scene._replace(items=scene.items[:-1]))
        )
        changed = np.abs(pixels.astype(int) - empty.astype(int)).max(axis=2) > 0
        assert changed[mask].mean() > 0.98
        grown = np.zeros_like(mask)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                grown |= np.roll(mask, (dy, dx), (0, 1))
        assert not (changed & ~grown).any()  # only the antialiased rim lies outside the mask


def test_no_object_is_hidden():
    for seed in range(15):
        items = SCENES["scenes"](np.random.default_rng(seed)).items
        crops = [drawing.coverage(item.placed, 256) for item in items]
        cover = np.zeros((256, 256), bool)
        for item, crop in zip(reversed(items), reversed(crops), strict=True):
            mask = drawing.full_mask(crop, 256)
            if item.label >= 0:
                shown = (mask & ~cover).sum() / (crop.values >= 0.5).sum()
                assert shown > MIN_SHOWN - 0.12  # planned on a coarser grid
            cover |= mask


def test_coverage_of_a_known_shape():
    """A disc of radius 20 pixels: its area and its box are known, wherever its centre lies."""
    ball = shapes.Blob((), (), 1.0, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 0.5)  # radius 0.85
    window = (-1.0, -1.0, 1.0, 1.0)
    grain = np.zeros((2, 2), np.float32)
    for center in ((0.5, 0.5), (0.41, 0.63)):
        placed = drawing.Placed(ball, center, 0.2 / 0.85, 0.7, True, grain, window)
        crop = drawing.coverage(placed, 100)
        assert crop.values.sum() == pytest.approx(np.pi * 400, rel=0.01)
        box = drawing.tight_box(drawing.full_mask(crop, 100))
        middle = np.array([*center, *center]) * 100
        np.testing.assert_allclose(np.array(box) - middle, (-20, -20, 20, 20), atol=1)


def test_an_empty_mask_has_no_box():
    assert drawing.tight_box(np.zeros((5, 5), bool)) is None


def test_a_window_that_reaches_over_the_edge_is_cut():
    crop = drawing.Crop(-2, 3, np.ones((4, 4)))
    mask = drawing.full_mask(crop, 6)
    assert drawing.tight_box(mask) == (0, 3, 2, 6)
    assert not drawing.full_mask(crop._replace(left=50), 6).any()


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "cats"}, "preset is 'cats'; choose one of bananas, scenes"),
        ({"split": "test"}, "split is 'test'; choose one of train, val"),
        ({"size": 63}, "size is 63.*64 to 1024"),
        ({"size": 1025}, "size is 1025.*64 to 1024"),
        ({"size": 256.0}, "size is 256.0"),
        ({"count": -1}, "count is -1"),
        ({"seed": -3}, "seed is -3"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        Synthetic(**options)


@pytest.mark.parametrize("index", [-1, 5, 100])
def test_an_index_outside_the_set_raises(index):
    data = Synthetic(count=5, size=64)
    with pytest.raises(IndexError, match=str(index)):
        data[index]


def test_iteration_ends():
    assert len(list(Synthetic(count=3, size=64))) == 3


PINNED_MEANS: dict[tuple[str, int], list[float]] = {
    ("bananas", 0): [136.2, 116.3, 74.5],
    ("bananas", 1): [72.5, 86.1, 87.0],
    ("bananas", 7): [122.7, 105.3, 125.0],
    ("scenes", 0): [106.5, 110.5, 97.5],
    ("scenes", 1): [161.3, 114.2, 110.9],
    ("scenes", 7): [111.1, 85.2, 45.9],
}
PINNED_OBJECTS: list[tuple[list[int], list[list[int]]]] = [
    ([0], [[41, 42, 60, 50]]),
    ([0], [[27, 13, 59, 40]]),
    ([0], [[18, 5, 49, 28]]),
    ([1, 0, 1], [[7, 0, 41, 35], [54, 46, 58, 48], [16, 59, 21, 64]]),
    ([4], [[53, 22, 63, 28]]),
    ([0, 4, 0, 0], [[52, 39, 59, 52], [34, 18, 47, 26], [59, 33, 63, 36], [23, 48, 26, 51]]),
]
