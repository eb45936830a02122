"""The command `doctor`."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import torch

from d2lmini import inspect, plots, transfer
from d2lmini.cli.console import tell
from d2lmini.cli.shared import SHOWN, folder_options, write_json
from d2lmini.data.output import check_file
from d2lmini.detect import Detections
from d2lmini.engine import devices
from d2lmini.inspect.doctor import Checkup
from d2lmini.mobilenet import TopDownMobileNetV2
from d2lmini.model import map_shapes


def run_doctor(options: Namespace) -> int:
    """Look over a folder: what it holds, what must be mended, what training would do."""
    for path in filter(None, (options.out, options.json)):
        check_file(path)
    size = options.size or transfer.PHOTOGRAPH_RECIPE.image_size
    maps = [shape[1:] for shape in map_shapes(TopDownMobileNetV2(), (size, size))]
    found = inspect.examine(options.folder, maps, size, not options.quiet, **folder_options(options))
    tell(found.text())
    if {"train", "val"} <= found.datasets.keys():
        tell(f"\n{_plan(found, size)}")
    if found.suspects:
        _save_suspects(found, options.out)
        tell(f"the boxes worth a look: {options.out}")
    if options.json:
        write_json(Path(options.json), found.as_dict() | {"machine": devices.describe()})
    return 1 if found.faults else 0


def _plan(found: Checkup, size: int) -> str:
    """What `train` would do, in words."""
    count, held_out = (len(found.datasets[split]) for split in ("train", "val"))
    batch = min(transfer.PHOTOGRAPH_RECIPE.config.batch_size, count)
    epochs = min(transfer.FINETUNE_EPOCHS, transfer.epochs_for(count))
    return (
        f"`train` would learn from {count} images at {size} × {size}, from everyday: a head on "
        f"{transfer.VIEWS} views of each, then {epochs} epochs of all weights in "
        f"batches of {batch}; scored on {held_out}"
    )


def _save_suspects(found: Checkup, path: str) -> None:
    """A sheet of the first images with boxes that look wrong: these solid, the others dashed."""
    numbers: dict[tuple[str, int], list[int]] = {}
    for suspect in found.suspects:
        numbers.setdefault((suspect.split, suspect.image), []).append(suspect.number)
    samples, marked = [], []
    for (split, image), objects in [*numbers.items()][:SHOWN]:
        sample = found.datasets[split][image]
        samples.append(sample)
        boxes, labels = sample.boxes[objects], sample.labels[objects]
        marked.append(Detections(boxes, torch.ones(len(objects)), labels))
    classes = next(iter(found.datasets.values())).classes
    plots.save(plots.contact_sheet(samples, classes, detections=marked), path)
