"""Batches on their way to the device: the ones asked for, in order, one ahead."""

from __future__ import annotations

import pytest
import torch

from d2lmini.data import Synthetic
from d2lmini.data.augment import AugmentConfig, sample_params
from d2lmini.data.sources import InMemorySource, LoaderSource
from d2lmini.engine.prefetch import DevicePrefetcher, fits

from .test_train import squares

META = torch.device("meta")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def chosen(count):
    """Indices of three images for each step."""
    return [torch.tensor([step, 9 - step, 5]) for step in range(count)]


def params(count, log=None):
    """AugmentParams for every second step; `log` tells which have been drawn."""
    for step in range(count):
        if log is not None:
            log.append(step)
        yield sample_params(3, AugmentConfig(), torch.Generator().manual_seed(step)) if step % 2 else None


def same(a, b):
    return (a is None and b is None) or all(torch.equal(x.cpu(), y) for x, y in zip(a, b, strict=True))


def check(prefetcher, data, count=5):
    got = list(prefetcher.batches(chosen(count), params(count)))
    assert len(got) == count
    for (batch, drawn), index, expected in zip(got, chosen(count), params(count), strict=True):
        assert same(batch, data.select(index))
        assert same(drawn, expected)


def test_on_a_processor_the_batches_are_the_ones_asked_for():
    data = squares(10)
    check(DevicePrefetcher(InMemorySource(data), torch.device("cpu")), data)


def test_on_a_processor_nothing_is_taken_ahead():
    log = []
    stream = DevicePrefetcher(InMemorySource(squares(10)), torch.device("cpu")).batches(
        chosen(4), params(4, log)
    )
    next(stream)
    assert log == [0]


@pytest.mark.parametrize("room", [None, 0, 10**9])
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_elsewhere_one_batch_is_ahead(room, count):
    log, prefetcher = [], DevicePrefetcher(InMemorySource(squares(10)), META, room=room)
    assert (prefetcher.resident is not None) == (room == 10**9)
    for step, (batch, drawn) in enumerate(prefetcher.batches(chosen(count), params(count, log))):
        assert log[-1] == min(step + 1, count - 1)
        assert batch.images.shape == (3, 3, 32, 32)
        assert {t.device for t in (*batch, *(drawn or ()))} == {META}
        assert (drawn is None) == (step % 2 == 0)
    assert log == list(range(count))


def test_images_fit_if_all_their_bytes_do():
    data = squares(10)
    size = sum(t.numel() * t.element_size() for t in data)
    assert fits(data, META, size)
    assert not fits(data, META, size - 1)
    assert not fits(data, torch.device("cpu"), size)


def test_images_on_disk_stay_there():
    data = Synthetic("scenes", count=10, size=64)
    prefetcher = DevicePrefetcher(LoaderSource(data, 0), META, room=10**9)
    assert prefetcher.resident is None
    assert len(list(prefetcher.batches(chosen(3), params(3)))) == 3


@CUDA
@pytest.mark.parametrize("room", [0, 10**9])
def test_what_arrives_on_a_card_is_what_was_sent(room):
    data = squares(10)
    prefetcher = DevicePrefetcher(InMemorySource(data), torch.device("cuda"), room=room)
    assert (prefetcher.resident is not None) == (room > 0)
    check(prefetcher, data)
