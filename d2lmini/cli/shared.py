"""What several commands do: open data, say things, keep results."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from d2lmini import plots, transfer
from d2lmini.cli.console import say
from d2lmini.data import open_data, sources
from d2lmini.data.output import write_bytes
from d2lmini.engine.validation import Validation

SHOWN, CONFIDENT = 40, 0.4  # images on a contact sheet, and the least score of a detection there


def is_folder(options: Namespace) -> bool:
    """Whether the data are a folder of one's own."""
    return transfer.recipe(options.data) is transfer.FOLDER_RECIPE


def folder_options(options: Namespace) -> dict[str, Any]:
    """Those options of `open_folder` that were given."""
    names = ("classes", "val_fraction", "train_list", "val_list", "difficult", "skip_bad")
    given = {name: getattr(options, name, None) for name in names}
    given = {name: value for name, value in given.items() if value is not None and value is not False}
    return given | {"seed": options.data_seed or 0}


def open_sets(options: Namespace, counts: dict[str, int | None], **more: Any) -> list[Any]:
    """The data that was asked for, one set for each split and its count; says what they leave out."""
    given = folder_options(options) | more
    datasets = [open_data(options.data, split, count=count, **given) for split, count in counts.items()]
    notes = [note for data in datasets for note in getattr(data, "notes", ())]
    notes += [f"skipped: {fault}" for data in datasets for fault in getattr(data, "skipped", ())]
    for note in dict.fromkeys(notes):
        say(note)
    return datasets


def require_objects(dataset: Any, options: Namespace) -> None:
    """Raise ValueError where no image of a folder has an object: there is nothing to learn or to fit."""
    entries = getattr(dataset, "entries", None)  # other data have none, but objects
    if entries is not None and not any(entry.objects for entry in entries):
        remedy = "annotate some, choose images with --train-list, or other --classes"
        raise ValueError(f"{options.data} has no object in the {len(entries)} images asked for: {remedy}")


def sources_of(options: Namespace, *datasets: Any) -> list[sources.BatchSource]:
    """The data sets in memory if all fit there, otherwise as they are read."""
    sizes = [sources.image_bytes(data) for data in datasets]
    if options.stream or not sources.fits_in_memory(datasets[0], others=sum(sizes[1:])):
        say(f"{sum(sizes) / 2**20:,.0f} MB of images are read while they are used")
        return [sources.LoaderSource(data, options.workers) for data in datasets]
    loaded = (sources.load(data, options.workers, progress=not options.quiet) for data in datasets)
    return [sources.InMemorySource(batch) for batch in loaded]


def chosen(config: type, options: Namespace) -> dict[str, Any]:
    """The fields of a configuration that options set."""
    return {field.name: vars(options)[field.name] for field in fields(config) if field.name in options}


def save_sheet(dataset: Any, count: int, path: str | Path) -> list[Any]:
    """Draw some samples from the first to the last, since folders are often sorted by class; returns them."""
    places = torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).round()
    samples = [dataset[int(i)] for i in places]
    plots.save(plots.contact_sheet(samples, dataset.classes), path)
    return samples


def report(result: Validation) -> str:
    """Scores as text: AP first, then D2L's two numbers beside what predicting only background would score."""
    metrics, anchors = result.metrics, result.anchors
    return (
        f"{metrics.summary()}\n"
        f"class error {anchors.class_error:.2e} (always background: {anchors.background_class_error:.2e}), "
        f"box MAE {anchors.box_mae:.2e} (always background: {anchors.background_box_mae:.2e})\n"
        f"positive anchors classified correctly: {anchors.positive_recall:.1%}"
    )


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Keep a record, atomically."""
    write_bytes(path, (json.dumps(record, indent=1) + "\n").encode())
