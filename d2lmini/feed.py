"""Training pictures where the steps need them: on the device, or on their way to it.

A data set of uint8 pictures that fits into a GPU's memory moves there once, and a batch is then chosen on
the GPU. A larger one stays with the processor: while the GPU works on one batch, the next is gathered
into page-locked memory and sent. On a processor a batch is simply chosen.

Floor 4.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from d2lmini.data.augment import Lots
from d2lmini.data.samples import Batch

ROOM = 0.4  # of a GPU's free memory that pictures may take; the step needs the rest


class Order(NamedTuple):
    """What a step asks for: the pictures' `index` (N,) and the `lots` of their views, if any."""

    index: Tensor
    lots: Lots | None


class Feed:
    """Batches of `pictures` on `device`, in the order asked for.

    `pictures` is a whole data set as a Batch, or anything with its `select`. `room` is how many bytes
    pictures may take on the device (None: `ROOM` of what a GPU has free).
    """

    def __init__(self, pictures: Any, device: torch.device, room: int | None = None) -> None:
        self.device = device
        self.resident = isinstance(pictures, Batch) and fits(pictures, device, room)
        self.pictures = pictures.to(device) if self.resident else pictures
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def batches(self, orders: Iterable[Order]) -> Iterator[tuple[Batch, Lots | None]]:
        """The batch and the lots of every order, on the device; one is sent ahead if there is a way."""
        if self.device.type == "cpu":
            for index, lots in orders:
                yield self.pictures.select(index), lots
            return
        ahead = None
        for order in orders:
            following = self._send(order)
            if ahead is not None:
                yield self._received(ahead)
            ahead = following
        if ahead is not None:
            yield self._received(ahead)

    def _send(self, order: Order) -> tuple[Batch, Lots | None]:
        """Order the transfer of a batch; it happens beside the step before, not after it."""
        with contextlib.nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
            if self.resident:
                batch = self.pictures.select(self._over(order.index))
            else:
                batch = Batch(*(self._over(t) for t in self.pictures.select(order.index)))
            lots = order.lots
            return batch, lots if lots is None else Lots(*(self._over(t) for t in lots))

    def _over(self, tensor: Tensor) -> Tensor:
        """A tensor on the device. Only from page-locked memory is a transfer ordered without a wait."""
        tensor = tensor if self.stream is None else tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def _received(self, sent: tuple[Batch, Lots | None]) -> tuple[Batch, Lots | None]:
        """Let the step's stream begin with a batch when it has arrived."""
        if self.stream is not None:
            here = torch.cuda.current_stream(self.device)
            here.wait_stream(self.stream)
            for tensor in (*sent[0], *(sent[1] or ())):
                tensor.record_stream(here)  # its memory is not used again before the step is done
        return sent


def fits(pictures: Batch, device: torch.device, room: int | None = None) -> bool:
    """Whether a data set can live on a device; on a processor it already does, so there is no need."""
    if device.type == "cpu":
        return False
    if room is None:
        if device.type != "cuda":
            return False
        room = int(ROOM * torch.cuda.mem_get_info(device)[0])
    return sum(t.numel() * t.element_size() for t in pictures) <= room
