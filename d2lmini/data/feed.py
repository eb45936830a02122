"""Where batches come from: from memory, when the pictures fit there, or from processes that read ahead.

Both give the same batches for the same choice of pictures, so a run does not depend on which it was.
A `Feed` also measures for how long training had to wait for it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from d2lmini import runtime
from d2lmini.data.files import DataError
from d2lmini.data.samples import Batch, Sample, collate, concatenate

MANY = 100  # pictures from which on starting processes pays
PART = 25  # pictures that processes hand over at a time
AHEAD = 4  # batches that each process reads ahead
SHARE = 0.5  # of the memory that is free: what pictures may take


class Feed:
    """Batches of a data set in any order: `Held` in memory, or `Streamed` from disk.

    `waited` and `worked` are the seconds that the taker of its batches waited for one, and spent between
    two.
    """

    def __init__(self) -> None:
        self.waited = self.worked = 0.0

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the pictures."""
        raise NotImplementedError

    @property
    def top_label(self) -> int:
        """No label is above this one; -1 where there is no object at all."""
        raise NotImplementedError

    def _make(self, chosen: Sequence[Tensor]) -> Iterator[Batch]:
        raise NotImplementedError

    def batches(self, chosen: Sequence[Tensor]) -> Iterator[Batch]:
        """A batch for each tensor of indices, in this order."""
        source = iter(self._make(chosen))
        while True:
            asked = time.perf_counter()
            batch = next(source, None)
            given = time.perf_counter()
            if batch is None:
                return
            self.waited += given - asked
            yield batch
            self.worked += time.perf_counter() - given

    @property
    def wait_share(self) -> float:
        """The share of the time that went by in waiting for batches, from 0 to 1."""
        return self.waited / max(self.waited + self.worked, 1e-12)

    def in_order(self, size: int = 32) -> Iterator[Batch]:
        """All pictures, `size` at a time."""
        return self.batches(torch.arange(len(self)).split(size))

    def truth(self) -> Batch:
        """Boxes (N, G, 4) and labels (N, G) of all pictures; `images` is empty."""
        return concatenate([part._replace(images=part.images[:0]) for part in self.in_order()])


class Held(Feed):
    """A data set in memory."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch.images)

    @property
    def image_size(self) -> tuple[int, int]:
        height, width = self.batch.images.shape[2:]
        return height, width

    @property
    def top_label(self) -> int:
        return int(self.batch.labels.max()) if self.batch.labels.numel() else -1

    def _make(self, chosen: Sequence[Tensor]) -> Iterator[Batch]:
        return (self.batch.select(index) for index in chosen)

    def truth(self) -> Batch:
        return self.batch._replace(images=self.batch.images[:0])


class Streamed(Feed):
    """A data set that stays on disk: `workers` processes read and decode its pictures ahead of their use.

    The data set has to give the same sample for the same index every time, and to have `classes`. None
    takes a process per core; 0 reads in this one. Raises ValueError for a negative number.
    """

    def __init__(self, dataset: Dataset[Sample], workers: int | None = None) -> None:
        super().__init__()
        if workers is not None and workers < 0:
            raise ValueError(f"workers is {workers}: give 0 (read in this process) or more")
        self.dataset = dataset
        self.workers = (os.cpu_count() or 1) if workers is None else workers
        self._size: tuple[int, int] | None = None
        self._order = _Order()
        self._loader: DataLoader | None = None

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    @property
    def image_size(self) -> tuple[int, int]:
        if self._size is None:
            height, width = self.dataset[0].image.shape[1:]
            self._size = height, width
        return self._size

    @property
    def top_label(self) -> int:
        return len(self.dataset.classes) - 1  # type: ignore[attr-defined]

    def _make(self, chosen: Sequence[Tensor]) -> Iterator[Batch]:
        self._order.batches = [index.tolist() for index in chosen]
        if self._loader is None:
            pin = torch.cuda.is_available()  # copies to a GPU then run beside its work
            options = {"batch_sampler": self._order, "pin_memory": pin}
            self._loader = _loader(self.dataset, self.workers, _together, **options)
        return (_checked(batch) for batch in _read(self._loader))


class _Order:
    """The indices of the batches to come; a loader asks for them anew in every epoch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def as_feed(data: Batch | Dataset[Sample] | Feed) -> Feed:
    """A batch as it is held, a data set as it is read, a feed as it is."""
    if isinstance(data, Feed):
        return data
    return Held(data) if isinstance(data, Batch) else Streamed(data)


def fits_in_memory(dataset: Dataset[Sample], others: int = 0) -> bool:
    """Whether a data set's pictures, beside `others` bytes, take at most half of the free memory."""
    free = runtime.free_memory()
    return free is None or picture_bytes(dataset) + others <= SHARE * free


def picture_bytes(dataset: Dataset[Sample]) -> int:
    """The bytes of all pictures in memory: 3 for a pixel."""
    return 3 * dataset.size**2 * len(dataset)  # type: ignore[attr-defined, arg-type]


def load(dataset: Dataset[Sample], workers: int | None = None, progress: bool = False) -> Batch:
    """A whole data set in memory as one batch: 1,000 pictures of 256 × 256 take 200 MB.

    `workers` processes draw or decode at once; None takes one per core where that pays. Raises ValueError
    for a data set without pictures, and what the data set raises.
    """
    count = len(dataset)  # type: ignore[arg-type]
    if count == 0:
        raise ValueError("the data set has no pictures: there is nothing to load")
    images, annotations, done = None, [], 0
    with tqdm(total=count, desc="pictures", unit="", leave=False, disable=not progress) as bar:
        for part in map(_checked, _parts(dataset, workers, _together)):
            if images is None:  # in one piece: joining parts would take the memory twice
                images = torch.empty(count, *part.images.shape[1:], dtype=part.images.dtype)
            if part.images.shape[1:] != images.shape[1:]:
                sizes = tuple(part.images.shape[2:]), tuple(images.shape[2:])
                raise ValueError(
                    f"pictures {done} and on are {sizes[0]}, those before {sizes[1]}: resize them"
                )
            images[done : done + len(part.images)] = part.images
            annotations.append(part._replace(images=part.images[:0]))
            done += len(part.images)
            bar.update(len(part.images))
    return concatenate(annotations)._replace(images=images)


def faults_of(dataset: Dataset[Sample], workers: int | None = None) -> dict[int, ValueError]:
    """The pictures that cannot be read, by index, each with its error."""
    found = (error for part in _parts(dataset, workers, _errors) for error in part)
    return {i: error for i, error in enumerate(found) if error is not None}


# ---------------------------------------------------------------------------------------------- processes


def _parts(dataset: Dataset[Sample], workers: int | None, together: Callable[[list], Any]) -> Iterator[Any]:
    """What `together` makes of the samples (or their errors), a few at a time, in order."""
    count = len(dataset)  # type: ignore[arg-type]
    if workers is None:
        workers = (os.cpu_count() or 1) if count >= MANY else 0
    parts = [range(i, min(i + PART, count)) for i in range(0, count, PART)]
    return _read(_loader(dataset, workers, together, batch_sampler=parts))


class _Told(Dataset[Any]):
    """A data set that returns its errors: raised in another process they would come with its traceback."""

    def __init__(self, dataset: Dataset[Sample]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Sample | ValueError:
        try:
            return self.dataset[index]
        except ValueError as error:
            return error


def _together(samples: list[Sample | ValueError]) -> Batch | ValueError:
    """A batch, or the first error."""
    return next((one for one in samples if isinstance(one, ValueError)), None) or collate(samples)


def _errors(samples: list[Sample | ValueError]) -> list[ValueError | None]:
    """The errors alone: pictures need not travel between processes to be found sound."""
    return [one if isinstance(one, ValueError) else None for one in samples]


def _checked(found: Any) -> Any:
    if isinstance(found, ValueError):
        raise found
    return found


def _loader(
    dataset: Dataset[Sample], workers: int, together: Callable[[list], Any], **options: Any
) -> DataLoader:
    """A loader whose processes leave Ctrl-C to this one and stay for the next epoch.

    A generator of its own: a loader would draw from the one that the network's dropout draws from.
    """
    more = {"prefetch_factor": AHEAD, "persistent_workers": True} if workers else {}
    return DataLoader(
        _Told(dataset),
        num_workers=workers,
        collate_fn=together,
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator(),
        **more,
        **options,
    )


def _ignore_interrupts(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read(loader: DataLoader) -> Iterator[Any]:
    """What a loader gives; a process that was killed is told in one line."""
    try:
        yield from loader
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise DataError(
            "a process that reads pictures ended, most likely for want of memory: use fewer --workers"
        ) from error
