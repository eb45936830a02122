"""Batches on their way to the device: the ones asked for, in order, one ahead."""

from __future__ import annotations

import pytest
import torch

from d2lmini.data.augment import AugmentConfig, draw_lots
from d2lmini.feed import Feed, Order, fits

from .test_train import squares

META = torch.device("meta")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def orders(count, log=None):
    """Orders of three pictures each, every second one with lots."""
    for step in range(count):
        if log is not None:
            log.append(step)
        index = torch.tensor([step, 9 - step, 5])
        lots = draw_lots(3, AugmentConfig(), torch.Generator().manual_seed(step)) if step % 2 else None
        yield Order(index, lots)


def same(a, b):
    return (a is None and b is None) or all(torch.equal(x.cpu(), y) for x, y in zip(a, b, strict=True))


def test_on_a_processor_the_batches_are_the_ones_asked_for():
    data = squares(10)
    feed = Feed(data, torch.device("cpu"))
    got = list(feed.batches(orders(4)))
    assert len(got) == 4
    for (batch, lots), order in zip(got, orders(4), strict=True):
        assert same(batch, data.select(order.index))
        assert same(lots, order.lots)


def test_on_a_processor_nothing_is_taken_ahead():
    log = []
    stream = Feed(squares(10), torch.device("cpu")).batches(orders(4, log))
    next(stream)
    assert log == [0]


@pytest.mark.parametrize("room", [None, 0, 10**9])
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_elsewhere_one_batch_is_ahead(room, count):
    log, feed = [], Feed(squares(10), META, room)
    assert feed.resident == (room == 10**9)
    for step, (batch, lots) in enumerate(feed.batches(orders(count, log))):
        assert log[-1] == min(step + 1, count - 1)
        assert batch.images.shape == (3, 3, 32, 32)
        assert {t.device for t in (*batch, *(lots or ()))} == {META}
        assert (lots is None) == (step % 2 == 0)
    assert log == list(range(count))


def test_pictures_fit_if_all_their_bytes_do():
    data = squares(10)
    size = sum(t.numel() * t.element_size() for t in data)
    assert fits(data, META, size)
    assert not fits(data, META, size - 1)
    assert not fits(data, torch.device("cpu"), size)


def test_a_source_that_is_no_batch_is_asked_each_time():
    data = squares(10)

    class Source:
        asked = 0

        def select(self, index):
            self.asked += 1
            return data.select(index)

    source = Source()
    feed = Feed(source, META, room=10**9)
    assert len(list(feed.batches(orders(3)))) == 3
    assert not feed.resident
    assert source.asked == 3


@CUDA
@pytest.mark.parametrize("room", [0, 10**9])
def test_what_arrives_on_a_card_is_what_was_sent(room):
    data = squares(10)
    feed = Feed(data, torch.device("cuda"), room)
    assert feed.resident == (room > 0)
    for (batch, lots), order in zip(feed.batches(orders(5)), orders(5), strict=True):
        assert same(batch, data.select(order.index))
        assert same(lots, order.lots)
