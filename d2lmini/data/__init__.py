"""Pictures with boxes: generated ones, D2L's bananas, folders of your own, and what is done to them.

Every data set has `classes` (names), a length, and gives a `Sample` for an index. `open_data` finds one by
name or path, `load` brings it into memory as one `Batch`, which is what `d2lmini.train.fit` takes.
"""

from __future__ import annotations

import os
from pathlib import Path

from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from d2lmini.data.augment import AugmentConfig, augment_batch
from d2lmini.data.bananas import Bananas
from d2lmini.data.folders import open_folder
from d2lmini.data.samples import Batch, Sample, collate, concatenate
from d2lmini.data.scenes import CLASSES as PRESETS
from d2lmini.data.synthetic import Synthetic

__all__ = [
    "PRESETS",
    "AugmentConfig",
    "Bananas",
    "Batch",
    "Sample",
    "Synthetic",
    "augment_batch",
    "collate",
    "concatenate",
    "load",
    "open_data",
    "open_folder",
]


def open_data(
    name: str, split: str = "train", *, size: int = 256, count: int | None = None, seed: int = 0
) -> Dataset[Sample]:
    """A data set by name: "bananas" or "scenes" (generated), or the path of a folder (VOC, COCO).

    `size` is the side of the square pictures in pixels; `count` how many are generated (1000 for
    training, 200 for validation if left out) and has no meaning for a folder. Raises ValueError naming
    what was asked for and what there is.
    """
    if name in PRESETS:
        count = (1000 if split == "train" else 200) if count is None else count
        return Synthetic(name, count=count, size=size, split=split, seed=seed)
    if Path(name).is_dir():
        return open_folder(name, split=split, size=size, seed=seed)
    raise ValueError(
        f"no data called {name!r}: give {' or '.join(PRESETS)} (generated), or the path of a folder"
    )


def load(dataset: Dataset[Sample], workers: int | None = None, progress: bool = False) -> Batch:
    """A whole data set in memory as one batch: 1,000 pictures of 256 × 256 take 200 MB.

    `workers` processes draw or decode at once; None takes one per core where that pays.
    """
    count = len(dataset)  # type: ignore[arg-type]
    if workers is None:
        workers = (os.cpu_count() or 1) if count >= 100 else 0
    loader = DataLoader(dataset, batch_size=25, num_workers=workers, collate_fn=collate)
    bar = tqdm(total=count, desc="pictures", unit="", leave=False, disable=not progress)
    parts = []
    for part in loader:
        parts.append(part)
        bar.update(len(part.images))
    bar.close()
    return concatenate(parts)
