"""Small folders: what the defaults reach on 160 images, beside D2L's recipe on the same ones.

    python -m benchmarks.small --kinds creatures tools signs --recipes folder scratch d2l --seeds 0 1

writes the folders of `benchmarks.photographs` (160 images for training and 40 for validation each), trains
on them and keeps a row of each run in `benchmarks/results/small-KIND-RECIPE-seedN.json`; a row that is there
already is not computed again. `folder` is what `d2lmini train --data FOLDER` does, `scratch` the same with
`--start none`, `d2l` the recipe of section 14.7 as published (buffers kept and channels last, which changes
its speed only). Scores are those of the last epoch, not of the best one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmarks import machine, peer, photographs, published, recipe_d2l
from d2lmini import data, train, transfer
from d2lmini.data import Batch
from d2lmini.engine import devices
from d2lmini.engine.validation import validate
from d2lmini.transfer import configure_for_dataset

IMAGES = 200  # a fifth of them for validation
STARTS = {"folder": "scenes", "scratch": "none"}
RECIPES = (*STARTS, "d2l")


def open_kind(kind: str, folder: Path, size: int = 256) -> tuple[Batch, Batch, tuple[str, ...]]:
    """The two parts of a folder, written if it is not there, and the names of its classes."""
    if not (folder / "ImageSets").is_dir():
        photographs.write(kind, folder, IMAGES)
    parts = [data.open_data(str(folder), split, size=size) for split in ("train", "val")]
    training, held_out = (data.load(part, workers=0) for part in parts)
    return training, held_out, tuple(parts[0].classes)


def run_ours(parts: tuple[Batch, Batch, tuple[str, ...]], recipe: str, seed: int) -> dict[str, Any]:
    """What `d2lmini train --data FOLDER` does."""
    training, held_out, classes = parts
    config = dataclasses.replace(transfer.FOLDER_RECIPE.config, seed=seed)
    config, model = configure_for_dataset(
        config, training, training.images.shape[2:], classes, start=STARTS[recipe]
    )
    start = time.perf_counter()
    result = train.fit(training, held_out, classes, config, model=model, progress=False)
    seconds = time.perf_counter() - start
    metrics, anchors, _ = validate(result.model, held_out, classes, precision=config.precision)
    return {
        "config": config.record(),
        "fit_seconds": round(seconds, 1),  # scores included
        "train_seconds": round(sum(row["seconds"] for row in result.history), 1),
        "final": metrics.as_dict() | anchors.as_dict(),
        "history": result.history,
    }


def run_d2l(parts: tuple[Batch, Batch, tuple[str, ...]], seed: int) -> dict[str, Any]:
    """D2L's recipe, 20 epochs."""
    training, held_out, classes = parts
    torch.manual_seed(seed)
    net = published.PublishedSSD(peer.load(), len(classes)).to(memory_format=torch.channels_last)
    optimizer = published.make_optimizer(net)
    loader = DataLoader(recipe_d2l.Images(training), published.BATCH_SIZE, shuffle=True)
    history = []
    start = time.perf_counter()
    for epoch in range(1, published.EPOCHS + 1):
        loss = recipe_d2l.train_epoch(net, optimizer, loader, torch.channels_last)
        history.append({"epoch": epoch, "loss": loss})
    seconds = round(time.perf_counter() - start, 1)
    scores = recipe_d2l.score(net, held_out, classes)
    return {"fit_seconds": seconds, "train_seconds": seconds, "final": scores, "history": history}


def run(kind: str, recipe: str, seed: int, folder: Path) -> dict[str, Any]:
    """One row."""
    devices.disable_malloc_trim()
    parts = open_kind(kind, folder)
    row = run_d2l(parts, seed) if recipe == "d2l" else run_ours(parts, recipe, seed)
    return {
        "kind": kind,
        "recipe": recipe,
        "date": machine.today(),
        "seed": seed,
        "image_size": 256,
        "train_images": len(parts[0].images),
        "held_out_images": len(parts[1].images),
        "machine": machine.describe(),
        **row,
    }


def path_of(kind: str, recipe: str, seed: int) -> Path:
    """Where a row is kept."""
    return machine.RESULTS / f"small-{kind}-{recipe}-seed{seed}.json"


def table() -> str:
    """All rows that are kept, as Markdown: a line for each folder and recipe."""
    rows = [json.loads(path.read_text()) for path in sorted(machine.RESULTS.glob("small-*.json"))]
    lines = ["| folder | recipe | seeds | AP50 | COCO AP |", "| --- | --- | ---: | ---: | ---: |"]
    for kind in photographs.KINDS:
        for recipe in RECIPES:
            runs = [row for row in rows if (row["kind"], row["recipe"]) == (kind, recipe)]
            if runs:
                scores = [" ".join(f"{row['final'][key]:.2f}" for row in runs) for key in ("ap50", "ap")]
                lines.append(f"| {kind} | {recipe} | {len(runs)} | {' | '.join(scores)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute the rows that are missing and print all of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small", description=__doc__)
    parser.add_argument("--kinds", nargs="*", choices=photographs.KINDS, default=list(photographs.KINDS))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--folders", type=Path, help="where the images are or go (a temporary folder)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folders = options.folders or Path(temporary)
        for seed in options.seeds:
            for kind in options.kinds:
                for recipe in options.recipes:
                    path = path_of(kind, recipe, seed)
                    if not path.exists():
                        machine.write_json(path, run(kind, recipe, seed, folders / kind))
                        print(f"{path.name} written", flush=True)
    print(table())


if __name__ == "__main__":
    main()
