"""Batches on their way to the device: `data.feed` says where they come from, this where they go.

A data set of uint8 pictures that fits into a GPU's memory moves there once, and a batch is then chosen on
the GPU. A larger one stays with the processor: while the GPU works on one batch, the next is gathered
into page-locked memory and sent. On a processor there is nothing to send.

Floor 4.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from d2lmini.data.augment import Lots
from d2lmini.data.feed import Feed, Held
from d2lmini.data.samples import Batch

ROOM = 0.4  # of a GPU's free memory that pictures may take; the step needs the rest


Sent = tuple[Batch, "Lots | None"]


class Delivery:
    """Batches of `source` on `device`.

    `room` is how many bytes the pictures of a data set in memory may take on the device (None: `ROOM` of
    what a GPU has free); if they fit, they live there.
    """

    def __init__(self, source: Feed, device: torch.device, room: int | None = None) -> None:
        self.source, self.device = source, device
        self.resident: Batch | None = None
        if isinstance(source, Held) and fits(source.batch, device, room):
            self.resident = source.batch.to(device)
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def batches(self, chosen: Sequence[Tensor], lots: Iterable[Lots | None]) -> Iterator[Sent]:
        """A batch for each tensor of indices, with its lots, on the device; one is sent ahead."""
        batches = map(self._choose, chosen) if self.resident else self.source.batches(chosen)
        pairs = zip(batches, lots, strict=False)  # `lots` are drawn as they are needed
        if self.device.type == "cpu":
            yield from pairs
            return
        ahead = None
        for pair in pairs:
            following = self._send(*pair)
            if ahead is not None:
                yield self._received(ahead)
            ahead = following
        if ahead is not None:
            yield self._received(ahead)

    def _choose(self, index: Tensor) -> Batch:
        """A batch of what lives on the device."""
        with self._beside():
            return self.resident.select(self._over(index))

    def _send(self, batch: Batch, lots: Lots | None) -> Sent:
        """Order the transfer of a batch; it happens beside the step before, not after it."""
        with self._beside():
            if not self.resident:
                batch = Batch(*(self._over(t) for t in batch))
            return batch, lots if lots is None else Lots(*(self._over(t) for t in lots))

    def _beside(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def _over(self, tensor: Tensor) -> Tensor:
        """A tensor on the device. Only from page-locked memory is a transfer ordered without a wait."""
        if self.stream is not None and not tensor.is_pinned():
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def _received(self, sent: Sent) -> Sent:
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
