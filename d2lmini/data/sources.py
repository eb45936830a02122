"""Where batches come from: from memory, when the images fit there, or from threads that read ahead.

Both give the same batches for the same choice of images, and measure for how long training had to wait.
Threads do, because decoding and resizing release Python's lock: there is no process that could die, and no
shared memory that could be too small.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from d2lmini.data.samples import Batch, GroundTruth, Sample, collate, concatenate

CHUNK = 25  # images that a thread returns at a time when a whole data set is read
PREFETCH_FACTOR = 2  # batches that each thread reads ahead
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
    """Batches of a data set with `classes` on disk, read ahead by `workers` threads (None: one per core).

    Raises ValueError for negative `workers`; with 0 the caller's thread reads.
    """

    def __init__(self, dataset: Dataset[Sample], workers: int | None = None) -> None:
        if workers is not None and workers < 0:
            raise ValueError(f"workers is {workers}: give 0 (nothing is read ahead) or more")
        self.dataset, self.workers = dataset, workers
        self.top_label = len(dataset.classes) - 1  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    @cached_property
    def image_size(self) -> tuple[int, int]:  # type: ignore[override]
        return tuple(self.dataset[0].image.shape[1:])

    def _batches(self, chosen: Sequence[Tensor]) -> Iterator[Batch]:
        return read_ahead(self._read, (index.tolist() for index in chosen), self.workers)

    def _read(self, index: Sequence[int]) -> Batch:
        batch = collate([self.dataset[i] for i in index])
        # from page-locked memory, copies to a GPU run beside its work
        return Batch(*(t.pin_memory() for t in batch)) if torch.cuda.is_available() else batch


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


def usable_cores(root: str = "/sys/fs/cgroup") -> int:
    """The cores that this process may use: by its affinity and its control group (version 2, or 1)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for quota in ("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"):
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            most, period = map(int, " ".join(Path(root, name).read_text() for name in quota).split())
            return max(1, min(cores, math.ceil(most / period))) if most > 0 else cores
    return cores


def image_bytes(dataset: Dataset[Sample]) -> int:
    """The bytes of all images in memory: 3 for a pixel."""
    return 3 * dataset.size**2 * len(dataset)  # type: ignore[attr-defined, arg-type]


def load(dataset: Dataset[Sample], workers: int | None = None, progress: bool = False) -> Batch:
    """A whole data set in memory as one batch: 1,000 images of 256 × 256 take 200 MB.

    `workers` threads read it; None takes one per core. Raises ValueError for a data set without images, and
    what the data set raises.
    """
    if (count := len(dataset)) == 0:  # type: ignore[arg-type]
        raise ValueError("the data set has no images: there is nothing to load")
    images, truth, done = None, [], 0
    with tqdm(total=count, desc="images", unit="", leave=False, disable=not progress) as bar:
        for part in _read_all(lambda i: collate([dataset[k] for k in i]), count, workers):
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

    def faults(chunk: Iterable[int]) -> dict[int, ValueError]:
        found = {}
        for i in chunk:
            try:
                dataset[i]
            except ValueError as error:
                found[i] = error
        return found

    parts = _read_all(faults, len(dataset), workers)  # type: ignore[arg-type]
    return {i: error for part in parts for i, error in part.items()}


T, R = TypeVar("T"), TypeVar("R")


def _read_all(read: Callable[[range], R], count: int, workers: int | None) -> Iterator[R]:
    """What `read` makes of `count` samples, `CHUNK` at a time, in order."""
    return read_ahead(read, (range(i, min(i + CHUNK, count)) for i in range(0, count, CHUNK)), workers)


def read_ahead(read: Callable[[T], R], chosen: Iterable[T], workers: int | None = None) -> Iterator[R]:
    """What `read` makes of each choice, in order, by `workers` threads (None: one per core) that are ahead.

    An error of `read` is raised where its result was due. With 0 workers nothing is read ahead.
    """
    workers = usable_cores() if workers is None else workers
    if not workers:
        yield from map(read, chosen)
        return
    threads = torch.get_num_threads()
    # a thread that decodes leaves the other cores to the others, as processes of a DataLoader do
    pool = ThreadPoolExecutor(workers, "reader", torch.set_num_threads, (1,))
    ahead: deque[Future[R]] = deque()
    try:
        for choice in chosen:
            ahead.append(pool.submit(read, choice))
            if len(ahead) > PREFETCH_FACTOR * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # of threads that are still to come
