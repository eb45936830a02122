"""Batches: padding, what comes back out of them, and samples that do not fit together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from d2lmini.data.samples import Batch, GroundTruth, Sample, collate, concatenate, pad_objects

EXACT = {"rtol": 0, "atol": 0}


def sample(objects: int, seed: int = 0, height: int = 4, width: int = 6) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    return Sample(
        torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8),
        torch.rand(objects, 4, generator=generator),
        torch.randint(5, (objects,), generator=generator),
    )


@given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=6), spare=st.none() | st.integers(0, 4))
def test_a_batch_holds_every_sample_and_padding_behind_it(counts, spare):
    samples = [sample(count, seed) for seed, count in enumerate(counts)]
    width = max(1, *counts, 1) + (spare or 0)
    batch = collate(samples, None if spare is None else width)
    assert batch.images.shape == (len(counts), 3, 4, 6)
    assert batch.boxes.shape == (len(counts), width, 4)
    assert (batch.images.dtype, batch.boxes.dtype) == (torch.uint8, torch.float32)
    assert batch.labels.dtype == torch.int64
    for i, (count, one) in enumerate(zip(counts, samples, strict=True)):
        torch.testing.assert_close(batch.images[i], one.image, **EXACT)
        torch.testing.assert_close(batch.boxes[i, :count], one.boxes, **EXACT)
        torch.testing.assert_close(batch.labels[i, :count], one.labels, **EXACT)
        assert (batch.labels[i, count:] == -1).all()
        assert (batch.boxes[i, count:] == 0).all()


def test_images_without_objects_still_have_a_row():
    batch = collate([sample(0), sample(0)])
    assert batch.labels.tolist() == [[-1], [-1]]


def test_no_images_at_all_pad_to_an_empty_table():
    boxes, labels = pad_objects([], [])
    assert boxes.shape == (0, 1, 4)
    assert labels.shape == (0, 1)


def test_too_many_objects_name_the_image_and_the_remedy():
    with pytest.raises(ValueError, match=r"image 1 .*3 objects.*max_objects is 2"):
        collate([sample(2), sample(3)], max_objects=2)


def test_exactly_as_many_as_allowed_is_fine():
    assert collate([sample(2), sample(1)], max_objects=2).labels.shape == (2, 2)


def test_no_room_is_no_room_for_one():
    with pytest.raises(ValueError, match="image 0"):
        collate([sample(1)], max_objects=0)


def test_sizes_must_agree():
    with pytest.raises(ValueError, match=r"image 2 .*\(3, 4, 7\).*\(3, 4, 6\)"):
        collate([sample(1), sample(1), sample(1, width=7)])


def test_an_empty_list_is_refused():
    with pytest.raises(ValueError, match="empty"):
        collate([])


@pytest.mark.parametrize(
    ("boxes", "labels"),
    [
        pytest.param(*(1, 3), id="one box for three labels"),
        pytest.param(*(3, 1), id="three boxes for one label"),
        pytest.param(*(2, 3), id="two boxes for three labels"),
        pytest.param(*(2, 0), id="boxes without labels"),
    ],
)
def test_boxes_and_labels_must_be_as_many(boxes, labels):
    bad = sample(0)._replace(boxes=torch.rand(boxes, 4), labels=torch.zeros(labels, dtype=torch.int64))
    with pytest.raises(ValueError, match="image 1"):
        collate([sample(2), bad])


def test_a_loader_with_workers_yields_batches():
    samples = [sample(i % 3, i) for i in range(5)]
    batches = list(DataLoader(samples, batch_size=2, collate_fn=collate, num_workers=1))
    assert [type(batch) for batch in batches] == [Batch] * 3
    torch.testing.assert_close(
        torch.cat([b.images for b in batches]), torch.stack([s.image for s in samples]), **EXACT
    )


@pytest.mark.parametrize(
    "index", [slice(1, 3), torch.tensor([1, 2]), torch.tensor([False, True, True, False])]
)
def test_select_picks_whole_images(index):
    batch = collate([sample(i, i) for i in range(4)])
    chosen = batch.select(index)
    assert isinstance(chosen, Batch)
    for tensor, part in zip(batch, chosen, strict=True):
        torch.testing.assert_close(part, tensor[1:3], **EXACT)


def test_moving_a_batch_moves_all_of_it():
    moved = collate([sample(2)]).to("meta", non_blocking=True)
    assert isinstance(moved, Batch)
    assert {tensor.device.type for tensor in moved} == {"meta"}
    truth = collate([sample(2)]).ground_truth.to("meta")
    assert isinstance(truth, GroundTruth)
    assert {tensor.device.type for tensor in truth} == {"meta"}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_sample_comes_back_out_as_it_went_in(count):
    given = sample(count, seed=count)
    again = collate([sample(2), given, sample(4)], max_objects=5).sample(1)
    assert isinstance(again, Sample)
    for tensor, expected in zip(again, given, strict=True):
        torch.testing.assert_close(tensor, expected, **EXACT)


def test_batches_behind_each_other_are_the_batch_of_all():
    samples = [sample(count, seed) for seed, count in enumerate([1, 0, 4, 2, 2])]
    whole = concatenate([collate(samples[:2]), collate(samples[2:4]), collate(samples[4:])])
    assert isinstance(whole, Batch)
    for tensor, expected in zip(whole, collate(samples), strict=True):
        torch.testing.assert_close(tensor, expected, **EXACT)


def test_ground_truth_behind_each_other_is_that_of_all():
    samples = [sample(count, seed) for seed, count in enumerate([1, 0, 4])]
    whole = concatenate([collate(samples[:2]).ground_truth, collate(samples[2:]).ground_truth])
    assert isinstance(whole, GroundTruth)
    assert torch.equal(whole.boxes, collate(samples).boxes)
    assert torch.equal(whole.labels, collate(samples).labels)


def test_no_batches_are_refused():
    with pytest.raises(ValueError, match="empty"):
        concatenate([])
