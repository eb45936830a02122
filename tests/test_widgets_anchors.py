"""The live figures of anchors: their tables are what the package's own functions give."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from d2lmini import TINY_SSD_ANCHORS, AnchorSpec, box_area, box_iou, make_anchors, map_anchors, widgets
from d2lmini.data import Sample, Synthetic


def table(live: widgets.Live, name: str) -> torch.Tensor:
    packed = live.figure.data[name]
    return torch.from_numpy(np.frombuffer(packed["bytes"], packed["dtype"]).reshape(packed["shape"]).copy())


@pytest.fixture(scope="module")
def sample() -> Sample:
    return Synthetic("scenes", count=24, size=256, split="val")[2]


# ---------------------------------------------------------------- one map


@pytest.fixture(scope="module")
def grid() -> widgets.Live:
    return widgets.anchor_grid()


def test_every_size_of_the_slider_has_its_row_and_its_second_size(grid):
    sizes, control = grid.figure.data["sizes"], grid.controls["size"]
    assert [f"{s:.2f}" for s in sizes[: len(control.options)]] == list(control.options)
    further = grid.figure.data["further"]
    assert len(sizes) == len(control.options) + further
    for size, second in zip(sizes, sizes[further:], strict=False):
        assert second == pytest.approx(size * math.sqrt(2))


def test_shapes_and_best_ious_are_those_of_the_package(grid, sample):
    data, shapes, best = grid.figure.data, table(grid, "shapes"), table(grid, "best")
    assert best.shape == (len(data["sizes"]), len(data["ratios"]), len(data["maps"]), len(sample.boxes))
    ratios = [1, 2, 0.5, 3, 1 / 3]  # of "1", "2", "½", "3", "⅓"
    assert data["ratios"] == ["1", "2", "½", "3", "⅓"]
    for s, r, m in ((0, 0, 5), (8, 1, 3), (12, 2, 0), (18, 4, 2)):
        size, cells = data["sizes"][s], data["maps"][m]
        spec = AnchorSpec(((size,),), ((ratios[r],),))
        torch.testing.assert_close(shapes[s, r], torch.tensor(spec.shapes(0)[0]))
        every = map_anchors(cells, cells, [size], [ratios[r]])
        torch.testing.assert_close(best[s, r, m], box_iou(sample.boxes, every).amax(1))


@pytest.mark.parametrize(("choice", "ratios"), [(0, (1,)), (1, (1, 2, 0.5)), (2, (1, 2, 0.5, 3, 1 / 3))])
def test_a_set_of_ratios_and_a_second_size_make_n_plus_m_minus_1_anchors(grid, sample, choice, ratios):
    """What JavaScript looks up for them is the best of `map_anchors` with both sizes and these ratios."""
    data, s, m = grid.figure.data, 8, 4
    chosen, second = data["sets"][choice], s + data["further"]
    assert grid.controls["ratios"].options[choice] == ", ".join(data["ratios"][r] for r in chosen)
    kinds = [(s, chosen[0]), (second, chosen[0]), *((s, r) for r in chosen[1:])]
    together = map_anchors(16, 16, [data["sizes"][s], data["sizes"][second]], ratios)
    assert len(together) == 16 * 16 * len(kinds) == 16 * 16 * (2 + len(ratios) - 1)
    assert data["maps"][m] == 16
    looked_up = torch.stack([table(grid, "best")[k, r, m] for k, r in kinds]).amax(0)
    torch.testing.assert_close(looked_up, box_iou(sample.boxes, together).amax(1))


def test_the_grid_starts_as_the_page_says(grid):
    figure, data = grid.figure, grid.figure.data
    assert data["maps"][figure.map] == 8
    assert data["sizes"][figure.size] == pytest.approx(0.2)
    assert (figure.ratios, figure.second, figure.cell) == (1, False, [0.34, 0.68])
    assert data["names"] == ["apple 1", "fish", "star 1", "mug", "apple 2", "star 2"]


def test_the_grid_is_told_in_words_and_drawn_without_scripts(grid):
    assert len(grid.figure.alt) > 20
    titles = [ax.get_title(loc="left") for ax in grid.fallback.axes]
    assert titles == ["4 × 4: 1 of 6 objects", "8 × 8: 2 of 6 objects", "16 × 16: 5 of 6 objects"]


def test_a_grid_that_makes_no_sense_is_refused(sample):
    with pytest.raises(ValueError, match="5 × 5"):
        widgets.anchor_grid(cells=5)
    with pytest.raises(ValueError, match="no objects"):
        widgets.anchor_grid(Sample(sample.image, sample.boxes[:0], sample.labels[:0]), ["thing"])


# ---------------------------------------------------------------- a data set

MAPS = [(32, 32), (16, 16), (8, 8), (4, 4), (1, 1)]
ONE = AnchorSpec(((0.5,),), ((1,),))


@pytest.fixture(scope="module")
def objects() -> torch.Tensor:
    scenes = Synthetic("scenes", count=30, size=128)
    return torch.cat([scene.boxes for scene in scenes])


@pytest.fixture(scope="module")
def coverage(objects) -> widgets.Live:
    return widgets.anchor_coverage(objects, {"D2L's": (MAPS, TINY_SSD_ANCHORS), "one": ([(2, 2)], ONE)})


def test_best_ious_are_those_of_the_package(coverage, objects):
    best, factors = table(coverage, "best"), coverage.figure.data["factors"]
    assert best.shape == (2, len(factors), len(objects))
    expected = box_iou(objects, make_anchors(MAPS, TINY_SSD_ANCHORS)).amax(1)
    torch.testing.assert_close(best[0, factors.index(1.0)], expected)
    torch.testing.assert_close(
        best[1, factors.index(2.0)], box_iou(objects, map_anchors(2, 2, [1.0], [1])).amax(1)
    )
    assert coverage.figure.data["counts"] == [5444, 4]


def test_groups_are_cocos(coverage, objects):
    sides, group = table(coverage, "sides"), table(coverage, "group")
    torch.testing.assert_close(sides, box_area(objects).sqrt() * 256)
    torch.testing.assert_close(group.long(), torch.bucketize(sides, torch.tensor([32.0, 96.0]), right=True))


def test_coverage_starts_with_the_first_set_as_it_is(coverage):
    figure, data = coverage.figure, coverage.figure.data
    assert (figure.anchors, data["factors"][figure.factor], data["demands"][figure.demand]) == (0, 1.0, 0.5)
    assert coverage.controls["anchors"].options == ("D2L's", "one")
    assert len(figure.alt) > 20
    assert [ax.get_title(loc="left") for ax in coverage.fallback.axes] == ["D2L's", "one"]


def test_what_cannot_be_shown_is_refused(objects):
    with pytest.raises(ValueError, match="at least one layout"):
        widgets.anchor_coverage(objects, {})
    sides = box_area(objects).sqrt()
    with pytest.raises(ValueError, match="is small"):
        widgets.anchor_coverage(objects[sides > 0.2], {"one": ([(2, 2)], ONE)})
    with pytest.raises(ValueError, match="is large"):
        widgets.anchor_coverage(objects[sides < 0.3], {"one": ([(2, 2)], ONE)})
