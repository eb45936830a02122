"""Folders of photographs, divided anew by each seed, and what the backbone of "everyday" knows of them.

The environment variable PHOTOGRAPHS names the folder that holds one for each set (`photographs/`).
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import NamedTuple

import torch

from d2lmini import data
from d2lmini.data import AugmentConfig, Batch
from d2lmini.data.sources import BatchSource, as_source
from d2lmini.engine import devices
from d2lmini.engine.features import keep_features, photograph_model

FOLDER = Path(os.environ.get("PHOTOGRAPHS", "photographs"))


class Parts(NamedTuple):
    """Images to train with, held-out images, class names."""

    training: Batch
    held_out: Batch
    classes: tuple[str, ...]


@functools.lru_cache(maxsize=2)
def read(name: str, size: int) -> tuple[Batch, tuple[str, ...]]:
    """All images of a folder, and their classes."""
    data_set = data.open_data(str(FOLDER / name), "all", size=size)
    return data.load(data_set, workers=0), tuple(data_set.classes)


@functools.lru_cache(maxsize=2)
def parts(name: str, size: int, held_out: int, seed: int) -> Parts:
    """The images as a seed divides them: `held_out` of them to score, the others to train with."""
    batch, classes = read(name, size)
    order = torch.randperm(len(batch.images), generator=torch.Generator().manual_seed(seed))
    return Parts(batch.select(order[held_out:]), batch.select(order[:held_out]), classes)


@functools.lru_cache(maxsize=1)
def features(
    name: str, size: int, held_out: int, seed: int, views: int, augment: AugmentConfig | None, device: str
) -> BatchSource:
    """Frozen features of all training images and augmented views of them: computed once for many rows."""
    images, _, classes = parts(name, size, held_out, seed)
    model = photograph_model(images.ground_truth, (size, size), classes, seed, None)
    return keep_features(model.to(devices.pick_device(device)), as_source(images), views, augment, seed)
