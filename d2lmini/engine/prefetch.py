"""Batches on their way to the device: `data.sources` says where they come from, this where they go.

A data set that fits into a GPU's memory moves there once, and a batch is then chosen on the GPU. Otherwise,
while the GPU works on one batch, the next is gathered into page-locked memory and sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from d2lmini.data.augment import AugmentConfig, AugmentParams, sample_params
from d2lmini.data.samples import Batch
from d2lmini.data.sources import BatchSource, InMemorySource
from d2lmini.engine.distributed import Ranks

ROOM = 0.4  # of a GPU's free memory that images may take; the step needs the rest
Pair = tuple[Batch, "AugmentParams | None"]


class DevicePrefetcher:
    """Batches of `source` on `device`.

    `batch_size`, `augment` and `seed` are those of the run. `room` is how many bytes the images of a data set
    in memory may take on the device (None: `ROOM` of what a GPU has free); if they fit, they live there.
    """

    def __init__(
        self,
        source: BatchSource,
        device: torch.device,
        batch_size: int = 1,
        augment: AugmentConfig | None = None,
        seed: int = 0,
        room: int | None = None,
    ) -> None:
        self.source, self.device = source, device
        self.batch_size, self.augment, self.seed = batch_size, augment, seed
        self.resident: Batch | None = None
        if isinstance(source, InMemorySource) and fits(source.batch, device, room):
            self.resident = source.batch.to(device)
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def epoch(self, epoch: int, first: int, steps: int, ranks: Ranks) -> Iterator[Pair]:
        """What a rank works on in the steps from `first` to `steps` of an epoch.

        Order and augmentation are those of the whole batches, whatever the number of ranks.
        """
        order = torch.randperm(len(self.source), generator=generator(self.seed, epoch))
        chosen = order.split(self.batch_size)[first:steps]

        def params() -> Iterator[AugmentParams | None]:
            for step, index in enumerate(chosen, start=first):
                if self.augment is None:
                    yield None
                else:
                    whole = sample_params(len(index), self.augment, generator(self.seed, epoch, step))
                    yield AugmentParams(*map(ranks.share, whole))

        return self.batches([ranks.share(index) for index in chosen], params())

    def batches(self, chosen: Sequence[Tensor], params: Iterable[AugmentParams | None]) -> Iterator[Pair]:
        """A batch for each tensor of indices, with its parameters, on the device; one is sent ahead."""
        batches = map(self._select, chosen) if self.resident else self.source.batches(chosen)
        pairs = zip(batches, params, strict=False)  # `params` are drawn as they are needed
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

    def _select(self, index: Tensor) -> Batch:
        """A batch of what lives on the device."""
        with self._on_copy_stream():
            return self.resident.select(self._to_device(index))

    def _send(self, batch: Batch, params: AugmentParams | None) -> Pair:
        """Order the transfer of a batch; it happens beside the step before, not after it."""
        with self._on_copy_stream():
            if not self.resident:
                batch = Batch(*(self._to_device(t) for t in batch))
            return batch, params and AugmentParams(*(self._to_device(t) for t in params))

    def _on_copy_stream(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def _to_device(self, tensor: Tensor) -> Tensor:
        """A tensor on the device. Only from page-locked memory is a transfer ordered without a wait."""
        if self.stream is not None and not tensor.is_pinned():
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def _received(self, pair: Pair) -> Pair:
        """Let the step's stream begin with a batch when it has arrived."""
        if self.stream is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self.stream)
            for tensor in (*pair[0], *(pair[1] or ())):
                tensor.record_stream(current)  # its memory is not used again before the step is done
        return pair


def generator(*key: int) -> torch.Generator:
    """A random stream of its own for (seed, epoch, step), whatever ran before."""
    state = np.random.SeedSequence(key).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)


def fits(images: Batch, device: torch.device, room: int | None = None) -> bool:
    """Whether a data set can live on a device; on a CPU it already does, so there is no need."""
    if device.type == "cpu" or (room is None and device.type != "cuda"):
        return False
    if room is None:
        room = int(ROOM * torch.cuda.mem_get_info(device)[0])
    return sum(t.numel() * t.element_size() for t in images) <= room
