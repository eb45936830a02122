"""What several commands do: open data, say things, keep results."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from d2lmini import checkpoint, plots, transfer
from d2lmini.cli.console import say
from d2lmini.data import PHOTOGRAPHS, PRESETS, annotated, open_data, sources
from d2lmini.data.output import write_bytes
from d2lmini.engine.validation import Validation
from d2lmini.model import TinySSD

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


def load_model(name: str, device: torch.device | str = "cpu") -> tuple[TinySSD, checkpoint.ModelInfo]:
    """The detector of a file, or the one of that name that comes with the package."""
    shipped = not Path(name).exists() and (checkpoint.WEIGHTS / f"{name}.safetensors").is_file()
    return (checkpoint.pretrained if shipped else checkpoint.load_model)(name, device)


def open_as_trained(options: Namespace, model: TinySSD, info: checkpoint.ModelInfo) -> Any:
    """Images of the model's size and classes; a folder is divided as in training unless options tell how."""
    shape: dict[str, Any] = {"size": model.image_size[0], "resize_mode": info.resize_mode}
    if is_folder(options):
        shape["classes"] = info.classes
    told = {options.data_seed, options.val_fraction, options.train_list, options.val_list} != {None}
    if info.split and not told and options.data not in (*PRESETS, PHOTOGRAPHS):
        shape["split_record"] = info.split
    (dataset,) = open_sets(options, {options.split: options.count}, **shape)
    if tuple(dataset.classes) != info.classes:
        # a folder names its labels, so it need not hold all classes of the model, but none beside them
        if not isinstance(dataset, annotated.AnnotatedImages) or not {*dataset.classes} <= {*info.classes}:
            raise ValueError(
                f"{options.model} finds {', '.join(info.classes)}, but {options.data} holds "
                f"{', '.join(dataset.classes)}: score it on data of its own classes"
            )
        dataset.classes = info.classes
    now = dataset.split_record
    if options.split in ("val", "test") and info.split and now and now["files"] != info.split["files"]:
        how = "anew at random" if now["by"] == "seed" else "by its own folders or lists"
        say(
            f"{options.data} does not hold the training images of {options.model}, and is divided {how}: "
            "images that the model was trained on may be among them"
        )
    return dataset


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
    return f"{result.metrics.summary()}\n{anchor_text(result)}"


def anchor_text(result: Validation) -> str:
    """D2L's two numbers beside their baselines."""
    anchors = result.anchors
    return (
        f"class error {anchors.class_error:.2e} (always background: {anchors.background_class_error:.2e}), "
        f"box MAE {anchors.box_mae:.2e} (always background: {anchors.background_box_mae:.2e})\n"
        f"positive anchors classified correctly: {anchors.positive_recall:.1%}"
    )


def write_json(path: Path, record: Any) -> None:
    """Keep a record, atomically."""
    write_bytes(path, (json.dumps(record, indent=1) + "\n").encode())
