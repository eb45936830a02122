"""Images with boxes: generated ones, D2L's bananas, folders of your own, and their augmentation.

Every data set has `classes` (names), a length, a `size`, and gives a `Sample` for an index. `open_data`
finds one by name or path. `load` brings it into memory as one `Batch`; `LoaderSource` reads from disk what
does not fit there. `d2lmini.train.fit` takes either.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from d2lmini.data import bananas
from d2lmini.data.augment import AugmentConfig, augment_batch
from d2lmini.data.files import DataError, DataWarning
from d2lmini.data.folders import open_folder
from d2lmini.data.samples import Batch, GroundTruth, Sample, collate
from d2lmini.data.sources import BatchSource, InMemorySource, LoaderSource, load
from d2lmini.data.synthetic import PRESETS, Synthetic

__all__ = ["AugmentConfig", "Batch", "BatchSource", "DataError", "DataWarning", "GroundTruth", "Sample"]
__all__ += ["PHOTOGRAPHS", "PRESETS", "InMemorySource", "LoaderSource", "Synthetic"]
__all__ += ["augment_batch", "collate", "load", "open_data", "open_folder"]

PHOTOGRAPHS = "d2l-bananas"  # the name of D2L's real set, which is downloaded once when asked for


def open_data(
    name: str,
    split: str = "train",
    *,
    size: int = 256,
    count: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Dataset[Sample]:
    """A data set by name: "bananas" or "scenes" (generated), "d2l-bananas" (downloaded), or a folder's path.

    `size` is the side of the square images in pixels, `count` how many are generated (left out: 1000 for
    training, else 200). `options` are those of `open_folder`, and for folders only, but for `resize_mode`.
    Raises ValueError naming what was asked for and what there is.
    """
    if name in (*PRESETS, PHOTOGRAPHS) and (refused := [key for key in options if key != "resize_mode"]):
        raise ValueError(f"{', '.join(refused)} cannot be chosen for {name}: only for folders")
    if name in PRESETS:
        count = (1000 if split == "train" else 200) if count is None else count
        return Synthetic(name, count=count, size=size, split=split, seed=seed)
    if name == PHOTOGRAPHS:
        return open_folder(bananas.download(), split, size=size, **options)
    if Path(name).is_dir():
        return open_folder(name, split, size=size, seed=seed, **options)
    raise ValueError(
        f"no data called {name!r}: give {' or '.join(PRESETS)} (generated), {PHOTOGRAPHS} (downloaded), or "
        "the path of a folder"
    )
