"""The live figure of augmentation: its tables are what `augment` does, view by view."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from d2lmini import widgets
from d2lmini.data import Synthetic
from d2lmini.data.augment import AugmentConfig, augment
from d2lmini.widgets.data import CUT, LOST, STRENGTHS, WHOLE, random_view

SCENES = Synthetic("scenes", count=5, size=96, split="val")


@pytest.fixture(scope="module")
def live():
    return widgets.augmentation(SCENES[2], SCENES.classes, seeds=6, side=96)


def table(figure, name):
    packed = figure.data[name]
    return np.frombuffer(packed["bytes"], packed["dtype"]).reshape(packed["shape"])


def test_tables_hold_what_augment_gives(live):
    sample, figure = SCENES[2], live.figure
    for s, config in enumerate(STRENGTHS.values()):
        for n in range(6):
            view = augment(sample, config, torch.Generator().manual_seed(n))
            kept = table(figure, "states")[s, n] != LOST
            np.testing.assert_allclose(table(figure, "views")[s, n][kept], view.boxes, atol=1e-6)
            assert [sample.labels[i] for i in kept.nonzero()[0]] == view.labels.tolist()
            stored = figure.data[f"view{table(figure, 'which')[s, n]}"]
            pixels = np.asarray(Image.open(io.BytesIO(stored["bytes"])), np.float32)
            difference = np.abs(pixels - view.image.permute(1, 2, 0).numpy())
            assert difference.mean() < 10  # JPEG, and another view's pixels are 30 and more away


def test_windows_look_where_the_views_do(live):
    """A box's place in the image, seen through the window, is its place in the view."""
    figure, source = live.figure, SCENES[2].boxes.numpy()
    windows, views, states = (table(figure, name) for name in ("windows", "views", "states"))
    for s, n in np.ndindex(windows.shape[:2]):
        start, end = windows[s, n, :2], windows[s, n, 2:]
        seen = (source.reshape(-1, 2, 2) - start) / (end - start)
        seen = np.sort(seen, axis=1).reshape(-1, 4)
        whole = states[s, n] == WHOLE
        np.testing.assert_allclose(views[s, n][whole], seen[whole], atol=1e-5)
        cut = states[s, n] == CUT
        np.testing.assert_allclose(views[s, n][cut], seen[cut].clip(0, 1), atol=1e-5)
        assert (np.abs(seen[cut] - views[s, n][cut]).max(axis=1) > 0).all() if cut.any() else True


def test_all_three_states_occur_and_equal_views_travel_once(live):
    assert set(np.unique(table(live.figure, "states"))) == {LOST, WHOLE, CUT}
    assert (table(live.figure, "which")[0] == 0).all()  # strength "none"
    assert len({k for k in live.figure.data if k.startswith("view") and k != "views"}) <= 19


def test_no_strength_leaves_everything_as_it_is():
    sample = SCENES[2]
    image, window, boxes, states = random_view(sample, STRENGTHS["none"], 5)
    assert torch.equal(image, sample.image)
    assert window.tolist() == [0, 0, 1, 1]
    assert torch.equal(boxes, sample.boxes)
    assert (states == WHOLE).all()


def test_controls_drive_the_figure(live):
    assert live.figure.strength == 2
    live.controls["strength"].index = 1
    live.controls["seed"].value = 4
    assert (live.figure.strength, live.figure.seed) == (1, 4)
    assert live.controls["seed"].max == 5


def test_own_strengths_and_a_start():
    flip = AugmentConfig(flip=1, color=0, expand=0, crop=0)
    live = widgets.augmentation(SCENES[2], SCENES.classes, {"mirror": flip}, seeds=2, start=(0, 1), side=48)
    assert live.figure.data["strengths"] == ["mirror"]
    assert table(live.figure, "windows").tolist() == [[[1, 0, 0, 1]] * 2]
    assert live.figure.seed == 1
    assert live.fallback._repr_png_().startswith(b"\x89PNG")


def test_an_image_without_objects_is_refused():
    empty = SCENES[4]
    assert len(empty.boxes) == 0
    with pytest.raises(ValueError, match="no object"):
        widgets.augmentation(empty, SCENES.classes)
