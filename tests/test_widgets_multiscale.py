"""The live figures of the feature maps: anchors, fields and positives as the package computes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from d2lmini import TINY_SSD_ANCHORS, TinySSD, assign, widgets, xyxy_to_cxcywh
from d2lmini.data import collate
from d2lmini.data.samples import Batch, Sample
from d2lmini.inspect import effective_field, receptive_fields, side_that_holds
from d2lmini.widgets.multiscale import (
    EDGES,
    THRESHOLDS,
    by_size,
    coarse,
    count_positives,
    map_sizes,
    positive_cells,
)

MAPS = [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]


def scene(count: int, seed: int = 0) -> Sample:
    """Random boxes over a noisy image of 128 pixels."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(count, 2, generator=generator) * 0.6
    boxes = torch.cat([start, start + torch.rand(count, 2, generator=generator) * 0.35 + 0.05], dim=1)
    image = torch.randint(0, 256, (3, 128, 128), generator=generator, dtype=torch.uint8)
    return Sample(image, boxes, torch.zeros(count, dtype=torch.int64))


def table(packed: dict) -> np.ndarray:
    return np.frombuffer(packed["bytes"], packed["dtype"]).reshape(packed["shape"])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return TinySSD(2, 128).eval()


@pytest.fixture(scope="module")
def explorer(model):
    sample = scene(4)
    return widgets.scale_explorer(model, sample.image[None], sample, place=(0.3, 0.6))


def test_maps_and_fields_are_the_models(model, explorer):
    data = explorer.figure.data
    assert map_sizes(model) == MAPS
    assert data["maps"] == [w for _, w in MAPS]
    assert data["sees"] == [f.size for f in receptive_fields(model)]


def test_shapes_are_those_of_the_anchors(model, explorer):
    """The drawing puts `shapes` at a cell's centre: that must give the model's anchors of that cell."""
    first = 0
    for k, (height, width) in enumerate(MAPS):
        per_cell = TINY_SSD_ANCHORS.num_anchors_per_location[k]
        row, column = height // 2, width // 3
        start = first + (row * width + column) * per_cell
        mine = xyxy_to_cxcywh(model.anchors[start : start + per_cell])
        np.testing.assert_allclose(mine[:, 2:], explorer.figure.data["shapes0"][k], atol=1e-6)
        np.testing.assert_allclose(mine[0, :2], [(column + 0.5) / width, (row + 0.5) / height])
        first += height * width * per_cell


def test_strength_is_the_measured_one(model, explorer):
    data = explorer.figure.data
    for k in (0, 3):
        field = effective_field(model, scene(4).image[None], k)
        assert data["holds"][k] == [side_that_holds(field, share) for share in (0.5, 0.9)]
        sent = table(data[f"field{k}"])
        np.testing.assert_allclose(sent, coarse(field)[0], atol=1e-5)
        assert sent.max() == 1


@pytest.mark.parametrize("n", [52, 108, 220, 444, 508])
def test_a_coarse_field_keeps_its_middle(n):
    field = torch.rand(n, n)
    field = field + field.flip(0, 1)  # its centre of mass is the middle
    blocks, step = coarse(field)
    assert 0 <= len(blocks) * step - n < 2 * step
    torch.testing.assert_close(blocks, blocks.flip(0, 1))
    even, _ = coarse(torch.ones(n, n))
    inner = even[1:-1, 1:-1]  # the padding only thins out the rim
    torch.testing.assert_close(inner, torch.ones_like(inner))


def test_cells_with_a_positive(model):
    sample = scene(5)
    chosen = assign(model.anchors, sample.boxes[None], sample.labels[None])[0]
    cells = positive_cells(model.anchor_spec, MAPS, sample)
    first = 0
    for (height, width), k, found in zip(MAPS, TINY_SSD_ANCHORS.num_anchors_per_location, cells, strict=True):
        part = chosen[first : first + height * width * k]
        assert found == sorted({int(i) // k for i in (part >= 0).nonzero()})
        first += height * width * k


def test_explorer_is_driven(explorer):
    figure = explorer.figure
    assert (figure.scale, figure.anchors, figure.spotlight) == (1, 0, True)
    explorer.controls["scale"].index = 3
    explorer.controls["anchors"].index = 1
    explorer.controls["spotlight"].value = False
    assert (figure.scale, figure.anchors, figure.spotlight) == (3, 1, False)
    assert (figure.x, figure.y) == (0.3, 0.6)


def test_a_scale_or_place_that_is_none_is_refused(model):
    with pytest.raises(ValueError, match="scale 5"):
        widgets.scale_explorer(model, scene(1).image[None], scene(1), scale=5)
    with pytest.raises(ValueError, match="place"):
        widgets.scale_explorer(model, scene(1).image[None], scene(1), place=(0.5, 1.0))


def test_positives_are_counted_as_one_would(model):
    batch = collate([scene(3), scene(0), scene(6, seed=1)])
    counts = count_positives(batch.boxes, batch.labels, TINY_SSD_ANCHORS, MAPS, 0.5)
    chosen = assign(model.anchors, batch.boxes, batch.labels)
    ends = np.cumsum(
        [h * w * k for (h, w), k in zip(MAPS, TINY_SSD_ANCHORS.num_anchors_per_location, strict=True)]
    )
    for n in range(3):
        for g in range(batch.labels.shape[1]):
            mine = (chosen[n] == g).nonzero()[:, 0].numpy()
            by_map = np.bincount(np.searchsorted(ends, mine, side="right"), minlength=5)
            assert counts[n, g].tolist() == by_map.tolist()
    assert counts.sum() == (chosen >= 0).sum()


def test_size_groups():
    sides = torch.tensor([9.0, 10.0, 15.9, 16.0, 209.0, 210.0, 100.0]) / 256
    boxes = torch.cat([torch.zeros(7, 2), sides[:, None].expand(7, 2)], dim=1)[None]
    labels = torch.tensor([[0, 0, 0, 0, 0, 0, -1]])
    assert by_size(boxes, labels, EDGES, 256).tolist() == [[-1, 0, 0, 1, 7, -1, -1]]


def test_owners_sum_up_the_counts():
    batch = collate([scene(5, seed) for seed in range(4)])
    live = widgets.scale_owners(batch, {"D2L": TINY_SSD_ANCHORS}, MAPS)
    data = live.figure.data
    positives = table(data["positives"])
    assert positives.shape == (1, len(THRESHOLDS), len(EDGES) - 1, 5)
    group = by_size(batch.boxes, batch.labels, EDGES, 128)
    assert data["objects"] == [int((group == b).sum()) for b in range(len(EDGES) - 1)]
    counts = count_positives(batch.boxes, batch.labels, TINY_SSD_ANCHORS, MAPS, THRESHOLDS[3])
    for b in range(len(EDGES) - 1):
        assert positives[0, 3, b].tolist() == counts[group == b].sum(0).tolist()
    live.controls["threshold"].index = 0
    live.controls["size"].index = 6
    assert (live.figure.threshold, live.figure.size) == (0, 6)


def test_owners_of_images_without_objects():
    batch = Batch(
        torch.zeros(2, 3, 64, 64, dtype=torch.uint8),
        torch.zeros(2, 1, 4),
        torch.full((2, 1), -1),
    )
    data = widgets.scale_owners(batch).figure.data
    assert sum(data["objects"]) == 0
    assert table(data["positives"]).sum() == 0
