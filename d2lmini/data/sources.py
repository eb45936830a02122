"""Where batches come from: from memory, when the images fit there, or from processes that read ahead.

Both give the same batches for the same choice of images, and measure for how long training had to wait.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from d2lmini.data.files import DataError
from d2lmini.data.samples import Batch, GroundTruth, Sample, collate, concatenate

MIN_IMAGES_FOR_WORKERS = 100  # with fewer, starting processes takes longer than it saves
CHUNK = 25  # images that a process returns at a time when a whole data set is read
PREFETCH_FACTOR = 4  # batches that each process reads ahead
MEMORY_FRACTION = 0.5  # of the free memory: what images may take


class BatchSource:
    """Batches of a data set in any order: `InMemorySource` or, from disk, `LoaderSource`."""

    image_size: tuple[int, int]  # (height, width)
    top_label: int  # no label is above it; -1 where there is no object
    split_record: Mapping[str, Any] | None = None  # how its folder was divided, for the checkpoint
    origin: BatchSource | None = None  # what its batches were computed from, if they were
    waited = worked = 0.0  # seconds that the consumer waited for batches, and spent between them

    def __len__(self) -> int:
        raise NotImplementedError

    def _batches(self, chosen: Sequence[Tensor]) -> Iterator[Batch]:
        raise NotImplementedError

    def batches(self, chosen: Sequence[Tensor]) -> Iterator[Batch]:
        """A batch for each tensor of indices, in this order."""
        source, start = self._batches(chosen), time.perf_counter()
        for batch in source:
            given = time.perf_counter()
            self.waited += given - start
            yield batch
            start = time.perf_counter()
            self.worked += start - given

    @property
    def loading_fraction(self) -> float:
        """The share of the time spent waiting for data, from 0 to 1."""
        return self.waited / max(self.waited + self.worked, 1e-12)

    def in_order(self, size: int = 32) -> Iterator[Batch]:
        """All images, `size` at a time."""
        return self.batches(torch.arange(len(self)).split(size))

    def ground_truth(self) -> GroundTruth:
        """Boxes (N, G, 4) and labels (N, G) of all images."""
        return concatenate([batch.ground_truth for batch in self.in_order()])


class InMemorySource(BatchSource):
    """Batches of a data set in memory."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.image_size = tuple(batch.images.shape[2:])
        self.top_label = int(batch.labels.max()) if batch.labels.numel() else -1

    def __len__(self) -> int:
        return len(self.batch.images)

    def _batches(self, chosen: Sequence[Tensor]) -> Iterator[Batch]:
        return map(self.batch.select, chosen)

    def ground_truth(self) -> GroundTruth:
        return self.batch.ground_truth


class LoaderSource(BatchSource):
    """Batches of a data set with `classes` on disk, read ahead by `workers` processes (None: one per core).

    Raises ValueError for negative `workers`; with 0 this process reads.
    """

    def __init__(self, dataset: Dataset[Sample], workers: int | None = None) -> None:
        if workers is not None and workers < 0:
            raise ValueError(f"workers is {workers}: give 0 (read in this process) or more")
        self.dataset = dataset
        self.workers = (os.cpu_count() or 1) if workers is None else workers
        self.top_label = len(dataset.classes) - 1  # type: ignore[attr-defined]
        self._chosen: list[list[int]] = []
        self._loader = _loader(dataset, self.workers, _collate, self._chosen, pin=True)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    @cached_property
    def image_size(self) -> tuple[int, int]:  # type: ignore[override]
        return tuple(self.dataset[0].image.shape[1:])

    def _batches(self, chosen: Sequence[Tensor]) -> Iterator[Batch]:
        self._chosen[:] = [index.tolist() for index in chosen]  # what the loader iterates over
        return _read(self._loader)


def as_source(data: Batch | Dataset[Sample] | BatchSource) -> BatchSource:
    """A batch in memory or a data set as a source; a source as it is."""
    if isinstance(data, BatchSource):
        return data
    return InMemorySource(data) if isinstance(data, Batch) else LoaderSource(data)


def fits_in_memory(dataset: Dataset[Sample], others: int = 0) -> bool:
    """Whether a data set's images, beside `others` bytes, take at most half of the free memory."""
    free = free_memory()
    return free is None or image_bytes(dataset) + others <= MEMORY_FRACTION * free


def free_memory() -> int | None:
    """Bytes that this process may still use: the system's, or what its container leaves; None: unknown."""
    room = (_system_memory(), _container_memory())
    return min((value for value in room if value is not None), default=None)


def _system_memory() -> int | None:
    with contextlib.suppress(OSError, KeyError, ValueError), open("/proc/meminfo") as file:
        return int(dict(line.split(":", 1) for line in file)["MemAvailable"].split()[0]) * 1024
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _container_memory(root: str = "/sys/fs/cgroup") -> int | None:
    """What a control group (version 2, or 1) leaves; None where there is none or it sets no limit."""
    old = "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"
    for most, used in (("memory.max", "memory.current"), old):
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            return max(0, int(Path(root, most).read_text()) - int(Path(root, used).read_text()))
    return None


def image_bytes(dataset: Dataset[Sample]) -> int:
    """The bytes of all images in memory: 3 for a pixel."""
    return 3 * dataset.size**2 * len(dataset)  # type: ignore[attr-defined, arg-type]


def load(dataset: Dataset[Sample], workers: int | None = None, progress: bool = False) -> Batch:
    """A whole data set in memory as one batch: 1,000 images of 256 × 256 take 200 MB.

    `workers` processes read it; None takes one per core where that pays. Raises ValueError for a data set
    without images, and what the data set raises.
    """
    if (count := len(dataset)) == 0:  # type: ignore[arg-type]
        raise ValueError("the data set has no images: there is nothing to load")
    images, truth, done = None, [], 0
    with tqdm(total=count, desc="images", unit="", leave=False, disable=not progress) as bar:
        for part in _read_all(dataset, workers, _collate):
            if images is None:  # in one piece: joining parts would take the memory twice
                images = torch.empty(count, *part.images.shape[1:], dtype=part.images.dtype)
            size, first = tuple(part.images.shape[2:]), tuple(images.shape[2:])
            if size != first:
                raise ValueError(f"images {done} and on are {size}, those before {first}: resize them")
            images[done : done + len(part.images)] = part.images
            truth.append(part.ground_truth)
            done += len(part.images)
            bar.update(len(part.images))
    return Batch(images, *concatenate(truth))


def faults_of(dataset: Dataset[Sample], workers: int | None = None) -> dict[int, ValueError]:
    """The images that cannot be read, by index, each with its error."""
    errors = (error for part in _read_all(dataset, workers, _errors) for error in part)
    return {i: error for i, error in enumerate(errors) if error is not None}


def _read_all(dataset: Dataset[Sample], workers: int | None, collate_fn: Callable) -> Iterator[Any]:
    """What `collate_fn` makes of all samples (or their errors), `CHUNK` at a time, in order."""
    count = len(dataset)  # type: ignore[arg-type]
    if workers is None:
        workers = (os.cpu_count() or 1) if count >= MIN_IMAGES_FOR_WORKERS else 0
    chunks = [range(i, min(i + CHUNK, count)) for i in range(0, count, CHUNK)]
    return _read(_loader(dataset, workers, collate_fn, chunks))


class _CatchErrors(Dataset[Any]):
    """Returns a data set's errors: raised in another process they would come with its traceback."""

    def __init__(self, dataset: Dataset[Sample]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Sample | ValueError:
        try:
            return self.dataset[index]
        except ValueError as error:
            return error


def _collate(samples: list[Sample | ValueError]) -> Batch | ValueError:
    """A batch, or the first error."""
    return next((one for one in samples if isinstance(one, ValueError)), None) or collate(samples)


def _errors(samples: list[Sample | ValueError]) -> list[ValueError | None]:
    """The errors alone: images need not travel between processes to be found sound."""
    return [one if isinstance(one, ValueError) else None for one in samples]


def _loader(
    dataset: Dataset, workers: int, collate_fn: Callable, chosen: list, pin: bool = False
) -> DataLoader:
    """A loader whose processes leave Ctrl-C to this one and stay for the next epoch."""
    more = {"prefetch_factor": PREFETCH_FACTOR, "persistent_workers": True} if workers else {}
    return DataLoader(
        _CatchErrors(dataset),
        num_workers=workers,
        collate_fn=collate_fn,
        batch_sampler=chosen,
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator(),  # not the global one, from which the network's dropout draws
        pin_memory=pin and torch.cuda.is_available(),  # copies to a GPU then run beside its work
        **more,
    )


def _ignore_interrupts(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read(loader: DataLoader) -> Iterator[Any]:
    """What a loader gives; raises errors among it, and DataError if one of its processes was killed."""
    try:
        for part in loader:
            if isinstance(part, ValueError):
                raise part
            yield part
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        ended = "a process that reads images ended, most likely for want of memory"
        raise DataError(f"{ended}: use fewer --workers") from error
