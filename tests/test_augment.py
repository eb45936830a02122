"""Augmentation: boxes stay on their pixels, legal and exact, and the draws follow their options."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2lmini.boxes import box_iou
from d2lmini.data import augment as module
from d2lmini.data.augment import (
    NONE,
    AugmentConfig,
    Colors,
    augment,
    augment_batch,
    color_changes,
    render,
    sample_windows,
    view_objects,
)
from d2lmini.data.samples import Batch, Sample, collate
from d2lmini.data.synthetic import Synthetic

ALL = AugmentConfig(flip=0.5, color=1, expand=0.5, crop=0.5)
WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
QUICK = settings(max_examples=60, deadline=None)

seeds = st.integers(0, 2**31)
chances = st.sampled_from([0.0, 0.5, 1.0])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(a: tuple, b: tuple) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def plain_colors(count: int) -> Colors:
    return Colors(torch.eye(3).expand(count, 3, 3), torch.zeros(count, 3, 1))


@st.composite
def batches(draw) -> Batch:
    """1 to 3 noise images with 0 to 4 boxes each, padded; some boxes are tiny, some whole."""
    rng = seeded(draw(seeds))
    n, g = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    h, w = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    sides = torch.rand(n, g, 2, generator=rng) ** draw(st.sampled_from([0.2, 1, 6]))
    sides = sides.clamp(min=1e-4)  # positive in float32 wherever it lies
    low = torch.rand(n, g, 2, generator=rng) * (1 - sides)
    labels = torch.randint(-1, 3, (n, g), generator=rng)
    boxes = torch.cat([low, low + sides], -1) * (labels >= 0)[..., None]
    return Batch(torch.randint(0, 256, (n, 3, h, w), dtype=torch.uint8, generator=rng), boxes, labels)


@st.composite
def configs(draw) -> AugmentConfig:
    return AugmentConfig(
        flip=draw(chances),
        color=draw(chances),
        expand=draw(chances),
        crop=draw(chances),
        max_expand=draw(st.sampled_from([1.0, 1.5, 4.0])),
        min_scale=draw(st.sampled_from([0.1, 0.5, 1.0])),
        min_visible=draw(st.sampled_from([0.0, 0.5, 1.0])),
    )


# ------------------------------------------------------------------------------------- any input


@QUICK
@given(batches(), configs(), seeds)
def test_what_comes_out_is_always_a_legal_batch(batch, config, seed):
    out = augment_batch(batch, config, seeded(seed))
    assert out.images.shape == batch.images.shape
    assert out.images.dtype == torch.uint8
    assert out.boxes.dtype == torch.float32
    kept = out.labels >= 0
    assert bool((kept <= (batch.labels >= 0)).all())  # nothing appears
    assert torch.equal(out.labels[kept], batch.labels[kept])
    assert bool((out.labels[~kept] == -1).all())
    assert bool((out.boxes[~kept] == 0).all())
    boxes = out.boxes[kept]
    assert bool(((boxes >= 0) & (boxes <= 1)).all())
    assert bool((boxes[:, 2:] > boxes[:, :2]).all())


@QUICK
@given(batches(), configs(), seeds)
def test_equal_generators_give_equal_views_and_the_input_stays_as_it_was(batch, config, seed):
    before = Batch(*(t.clone() for t in batch))
    first = augment_batch(batch, config, seeded(seed))
    assert same(first, augment_batch(batch, config, seeded(seed)))
    assert same(batch, before)


@QUICK
@given(batches(), seeds)
def test_nothing_asked_for_nothing_changed(batch, seed):
    assert same(augment_batch(batch, NONE, seeded(seed)), batch)


@QUICK
@given(batches())
def test_the_whole_image_resampled_is_the_image(batch):
    """Through the same path as crops, where only the window says that nothing happens."""
    n = len(batch.images)
    out = render(batch.images, WHOLE.expand(n, 4), plain_colors(n), AugmentConfig(crop=1))
    assert torch.equal(out, batch.images)


def test_different_seeds_give_different_views():
    batch = collate([Synthetic("scenes", count=1, size=64)[0]] * 2)
    one, other = (augment_batch(batch, ALL, seeded(s)).images for s in (1, 2))
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])  # nor is it one draw for the whole batch


# ------------------------------------------------------------------------------ pixels and boxes


@settings(max_examples=150, deadline=None)
@given(
    seed=seeds,
    x=st.integers(0, 60),
    y=st.integers(0, 60),
    w=st.integers(8, 44),
    h=st.integers(8, 44),
    config=st.sampled_from(
        [
            AugmentConfig(1, 0, 0, 0),
            AugmentConfig(0.5, 0, 1, 0),
            AugmentConfig(0.5, 0, 0, 1),
            AugmentConfig(0.5, 0, 1, 1, max_expand=4),
        ]
    ),
)
def test_a_solid_rectangle_moves_with_its_box(seed, x, y, w, h, config):
    size = 96
    image = torch.zeros(3, size, size, dtype=torch.uint8)
    image[:, y : y + h, x : x + w] = 255
    box = torch.tensor([[x, y, min(x + w, size), min(y + h, size)]]) / size
    seen = augment(Sample(image, box, torch.tensor([0])), config, seeded(seed))
    assert seen.boxes.shape == (1, 4)  # a crop keeps the only object
    rows, columns = torch.where(seen.image[0] > 127)  # at most a quarter is white: canvas < 127
    found = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert (seen.boxes[0] * size - found).abs().max() < 1.01


def test_mirroring_is_exact():
    batch = collate([Synthetic("scenes", count=3, size=64)[i] for i in range(3)])
    out = augment_batch(batch, AugmentConfig(1, 0, 0, 0), seeded())
    assert torch.equal(out.images, batch.images.flip(-1))
    real = batch.labels >= 0
    x_0, y_0, x_1, y_1 = batch.boxes[real].unbind(-1)
    torch.testing.assert_close(
        out.boxes[real], torch.stack([1 - x_1, y_0, 1 - x_0, y_1], -1), rtol=0, atol=1e-7
    )


def test_mirrored_pixels_are_the_same_by_copying_and_by_resampling():
    images = torch.randint(0, 256, (2, 3, 20, 16), dtype=torch.uint8, generator=seeded())
    windows = torch.tensor([[1.0, 0, 0, 1], [0, 0, 1, 1]])
    copied = render(images, windows, plain_colors(2), NONE)
    assert torch.equal(copied, render(images, windows, plain_colors(2), AugmentConfig(crop=1)))
    assert torch.equal(copied[1], images[1])


def slow_look(image: np.ndarray, window: list[float]) -> np.ndarray:
    """Bilinear samples at pixel centres, one by one; outside the image its mean colour."""
    channels, height, width = image.shape
    mean = image.reshape(channels, -1).mean(1)
    out = np.zeros_like(image)
    for i in range(height):
        for j in range(width):
            u = (window[0] + (j + 0.5) / width * (window[2] - window[0])) * width - 0.5
            v = (window[1] + (i + 0.5) / height * (window[3] - window[1])) * height - 0.5
            for a in (math.floor(v), math.floor(v) + 1):
                for b in (math.floor(u), math.floor(u) + 1):
                    there = 0 <= a < height and 0 <= b < width
                    weight = (1 - abs(v - a)) * (1 - abs(u - b))
                    out[:, i, j] += weight * (image[:, a, b] if there else mean)
    return out


@pytest.mark.parametrize("window", [[0.2, 0.1, 0.7, 0.9], [-0.5, -0.2, 1.5, 1.4], [0.9, 0.3, -0.3, 1.2]])
def test_resampling_is_bilinear_on_a_canvas_of_the_mean_color(window):
    image = torch.randint(0, 256, (1, 3, 9, 12), dtype=torch.uint8, generator=seeded(3))
    out = render(image, torch.tensor([window]), plain_colors(1), AugmentConfig(crop=1))
    expected = slow_look(image[0].double().numpy(), window)
    assert np.abs(out[0].numpy() - expected).max() <= 0.5 + 1e-3


def test_working_in_parts_changes_nothing(monkeypatch):
    batch = collate([Synthetic("scenes", count=5, size=64)[i] for i in range(5)])
    whole = augment_batch(batch, ALL, seeded())
    monkeypatch.setattr(module, "CACHE_PIXELS", 2 * 64 * 64)
    assert same(augment_batch(batch, ALL, seeded()), whole)


# ------------------------------------------------------------------------------------ which objects


def slow_view(box: list[float], window: list[float], min_visible: float) -> list[float] | None:
    """One box through one unmirrored window, or None if it is dropped."""
    x_0, y_0, x_1, y_1 = window
    seen = [(box[0] - x_0) / (x_1 - x_0), (box[1] - y_0) / (y_1 - y_0)]
    seen += [(box[2] - x_0) / (x_1 - x_0), (box[3] - y_0) / (y_1 - y_0)]
    cut = [min(max(v, 0.0), 1.0) for v in seen]
    in_view = (cut[2] - cut[0]) * (cut[3] - cut[1])
    share = in_view / ((seen[2] - seen[0]) * (seen[3] - seen[1]))
    center = (seen[0] + seen[2]) / 2, (seen[1] + seen[3]) / 2
    return cut if all(0 <= c <= 1 for c in center) and share >= min_visible else None


@QUICK
@given(st.lists(st.integers(0, 40), min_size=8, max_size=8), st.sampled_from([0.0, 0.33, 0.61, 1.0]))
def test_objects_are_kept_and_cut_like_the_reference(numbers, min_visible):
    """Fortieths keep centres and shares away from the thresholds, or exactly on a window's edge."""
    (a, b, c, d), (e, f, g, h) = numbers[:4], numbers[4:]
    box = [min(a, c) / 41, min(b, d) / 41, (max(a, c) + 1) / 41, (max(b, d) + 1) / 41]
    window = [min(e, g) / 37, min(f, h) / 37, (max(e, g) + 1) / 37, (max(f, h) + 1) / 37]
    boxes, labels = view_objects(torch.tensor([box]), torch.tensor([5]), torch.tensor(window), min_visible)
    expected = slow_view(box, window, min_visible)
    assert labels.tolist() == ([-1] if expected is None else [5])
    torch.testing.assert_close(boxes[0], torch.tensor(expected or [0.0] * 4), rtol=0, atol=1e-5)


def test_a_cut_object_stays_by_its_center_and_its_visible_share():
    box, label = torch.tensor([[0.0, 0.0, 0.4, 0.4]]), torch.tensor([1])
    half = torch.tensor([0.1, 0.1, 0.9, 0.9])  # shows 9/16 of it
    assert view_objects(box, label, half, 0.5)[1].tolist() == [1]
    assert view_objects(box, label, half, 0.6)[1].tolist() == [-1]
    corner = torch.tensor([0.21, 0.0, 0.9, 0.9])  # just without its centre
    assert view_objects(box, label, corner, 0.0)[1].tolist() == [-1]


def test_a_sample_loses_its_dropped_rows_and_may_hold_no_object():
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    empty = Sample(image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    for seed in range(20):
        out = augment(empty, ALL, seeded(seed))
        assert out.boxes.shape == (0, 4)
        assert out.labels.shape == (0,)
    corners = torch.tensor([[0.0, 0.0, 0.1, 0.1], [0.9, 0.9, 1.0, 1.0]])
    two = Sample(image, corners, torch.tensor([0, 1]))
    counts = [len(augment(two, AugmentConfig(0, 0, 0, 1), seeded(s)).labels) for s in range(40)]
    assert set(counts) == {1, 2}


# ---------------------------------------------------------------------------------- how it is drawn


def test_chances_are_kept():
    boxes, labels = torch.tensor([0.3, 0.3, 0.6, 0.6]).expand(4000, 1, 4), torch.zeros(4000, 1)
    config = AugmentConfig(flip=0.3, color=0, expand=0.25, crop=0)
    windows = sample_windows(boxes, labels.long(), config, seeded())
    assert (windows[:, 0] > windows[:, 2]).float().mean() == pytest.approx(0.3, abs=0.03)
    high = windows[:, 3] - windows[:, 1]
    assert (high > 1).float().mean() == pytest.approx(0.25, abs=0.03)
    assert high.max() == pytest.approx(config.max_expand, abs=0.02)
    config = AugmentConfig(flip=0, color=0, expand=0, crop=0.75)
    windows = sample_windows(boxes, labels.long(), config, seeded())
    assert (windows != WHOLE).any(-1).float().mean() == pytest.approx(0.75, abs=0.03)


def test_crops_keep_to_their_limits():
    boxes, labels = torch.tensor([0.3, 0.3, 0.6, 0.6]).expand(2000, 1, 4), torch.zeros(2000, 1)
    config = AugmentConfig(0, 0, 0, 1, min_scale=0.4, max_ratio=1.5)
    windows = sample_windows(boxes, labels.long(), config, seeded())
    width, height = (windows[:, 2:] - windows[:, :2]).unbind(-1)
    scale, ratio = (width * height).sqrt(), width / height
    assert scale.min() == pytest.approx(0.4, abs=0.02)
    assert scale.max() > 0.95
    assert ratio.max() == pytest.approx(1.5, abs=0.05)
    assert ratio.min() == pytest.approx(1 / 1.5, abs=0.05)
    assert windows.min() >= 0
    assert windows.max() <= 1


def slow_crop(box: list[float], rng: np.random.Generator) -> list[float]:
    """SSD's sampling with loops: minima in random order, up to 50 crops each, the first hit."""
    for least in rng.permutation(module.MIN_IOUS):
        for _ in range(50):
            size, ratio, x, y = rng.random(4)
            size = 0.3 + 0.7 * size
            widest = min(math.log(2), -2 * math.log(size))
            stretch = math.exp((2 * ratio - 1) * widest / 2)
            w, h = min(size * stretch, 1), min(size / stretch, 1)
            crop = [x * (1 - w), y * (1 - h), x * (1 - w) + w, y * (1 - h) + h]
            if slow_iou(box, crop) >= least and slow_view(box, crop, 0):
                return crop
    return [0.0, 0.0, 1.0, 1.0]


def slow_iou(a: list[float], b: list[float]) -> float:
    """Intersection over union of two boxes."""
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(w, 0) * max(h, 0)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return inter / (areas - inter)


@pytest.mark.parametrize("box", [[0.2, 0.2, 0.8, 0.8], [0.1, 0.6, 0.3, 0.7]])
def test_crops_are_distributed_like_the_reference(box):
    rng = np.random.default_rng(0)
    expected = np.array([slow_iou(box, slow_crop(box, rng)) for _ in range(1200)])
    boxes, labels = torch.tensor(box).expand(6000, 1, 4), torch.zeros(6000, 1)
    windows = sample_windows(boxes, labels.long(), AugmentConfig(0, 0, 0, 1), seeded())
    found = box_iou(windows[:, None], boxes)[:, 0, 0].numpy()
    for least in (0.05, 0.1, 0.2, 0.3, 0.5, 0.7):
        assert (found >= least).mean() == pytest.approx((expected >= least).mean(), abs=0.05)


def test_an_image_without_objects_is_cropped_as_well():
    boxes, labels = torch.zeros(100, 2, 4), torch.full((100, 2), -1)
    windows = sample_windows(boxes, labels, AugmentConfig(0, 0, 0, 1), seeded())
    assert bool((windows != WHOLE).any(-1).all())


def test_a_crop_of_an_image_with_objects_keeps_one():
    tiny = torch.tensor([[0.02, 0.02, 0.05, 0.05]]).expand(500, 1, 4)
    labels = torch.zeros(500, 1, dtype=torch.int64)
    config = AugmentConfig(0.5, 0, 0.5, 1, min_visible=0.9)
    windows = sample_windows(tiny, labels, config, seeded())
    assert bool((view_objects(tiny, labels, windows, 0.9)[1] == 0).all())


# ------------------------------------------------------------------------------------------ colours


def sample_colors(count: int, strength: float) -> Colors:
    return color_changes(torch.rand((2, 4, count), generator=seeded()).permute(2, 0, 1), strength)


def test_strength_0_leaves_colors_and_strength_bounds_them():
    colors = sample_colors(50, 0.0)
    torch.testing.assert_close(colors.matrix, torch.eye(3).expand(50, 3, 3))
    assert colors.shift.abs().max() == 0
    weak, strong = (sample_colors(300, s) for s in (0.2, 1.0))
    away = [(c.matrix - torch.eye(3)).abs().mean() for c in (weak, strong)]
    assert away[0] < 0.4 * away[1]
    gain = strong.matrix.sum(-1)[:, 0]  # of a grey pixel
    middle = 127.5 * gain + strong.shift[:, 0, 0]  # brightness alone moves it
    assert gain.min() == pytest.approx(0.5, abs=0.03)
    assert gain.max() == pytest.approx(1.5, abs=0.03)
    assert (middle - 127.5).abs().max() == pytest.approx(32, abs=1)
    assert ((gain - 1).abs() < 1e-5).float().mean() == pytest.approx(0.5, abs=0.1)


def test_saturation_and_hue_leave_gray_gray_and_turn_colors_by_at_most_18_degrees():
    matrix, _ = sample_colors(400, 1.0)
    gray = matrix.sum(-1)  # (N, 3), what becomes of (1, 1, 1)
    torch.testing.assert_close(gray, gray[:, :1].expand(-1, 3))
    red = matrix[:, :, 0] / gray  # without contrast
    before = torch.tensor([2.0, -1, -1]) / 3
    after = red - red.mean(-1, keepdim=True)
    stretch = after.norm(dim=-1) / before.norm()
    cosine = (after @ before / after.norm(dim=-1) / before.norm()).clamp(max=1)
    assert stretch.min() == pytest.approx(0.5, abs=0.03)
    assert stretch.max() == pytest.approx(1.5, abs=0.03)
    assert math.degrees(cosine.acos().max()) == pytest.approx(18, abs=0.5)


def test_colors_are_applied_as_they_are_written():
    image = torch.randint(0, 256, (1, 3, 5, 7), dtype=torch.uint8, generator=seeded(1))
    colors = Colors(
        torch.tensor([[[0.5, 0.25, 0.0], [0, 2, 0], [0, 0, -1]]]),
        torch.tensor([[[10.0], [-200], [300]]]),
    )
    expected = torch.einsum("ij,jhw->ihw", colors.matrix[0], image[0].float())
    expected = (expected + colors.shift[0, :, :, None]).round().clamp(0, 255)
    for config in (AugmentConfig(crop=0, expand=0), AugmentConfig(crop=1)):
        assert torch.equal(render(image, WHOLE, colors, config)[0].float(), expected)


def test_colors_do_not_touch_boxes():
    batch = collate([Synthetic("scenes", count=1, size=64)[0]])
    out = augment_batch(batch, AugmentConfig(0, 1, 0, 0), seeded(1))
    assert same(out[1:], batch[1:])
    assert not torch.equal(out.images, batch.images)


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("flip", -0.1),
        ("color", 1.1),
        ("expand", math.nan),
        ("crop", "yes"),
        ("max_expand", 0.5),
        ("min_scale", 0),
        ("max_ratio", math.inf),
        ("min_visible", None),
    ],
)
def test_options_out_of_range_are_named(option, value):
    with pytest.raises(ValueError, match=f"{option} is .*choose a number from"):
        AugmentConfig(**{option: value})


@pytest.mark.parametrize("images", [torch.zeros(1, 3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.uint8)])
def test_other_images_than_uint8_batches_are_refused(images):
    batch = Batch(images, torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="uint8"):
        augment_batch(batch, ALL, seeded())
