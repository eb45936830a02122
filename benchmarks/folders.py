"""Folders of real photographs: a head on frozen features, the same fine-tuned, and other recipes beside them.

    python -m benchmarks.folders boards PATH --folds 5
    python -m benchmarks.folders cards PATH --recipes everyday folder d2l

trains on the folder's train split and scores its test split; with `--folds K` both are put together and
divided, and the row has the mean and the range of K runs. `everyday` is `--start everyday`, `folder` what
`train --data FOLDER` does without it, `d2l` the recipe of section 14.7 as published. A row is kept in
`benchmarks/results/photos-NAME-RECIPE.json`; scores are those of the last epoch, seconds those of the call.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine, small
from d2lmini import data, train, transfer
from d2lmini.data import Batch
from d2lmini.data.samples import concatenate
from d2lmini.engine import devices
from d2lmini.engine.validation import validate
from d2lmini.train import FitResult

RECIPES = ("everyday", "folder", "d2l")
SCORES = ("ap50", "ap")


def parts_of(folder: Path, folds: int, images: int | None, size: int) -> Iterator[tuple[Batch, Batch, tuple]]:
    """Training images, held-out images and class names of each run."""
    sets = [data.open_data(str(folder), split, size=size) for split in ("train", "test")]
    classes = tuple(sets[0].classes)
    training, held_out = (data.load(one) for one in sets)
    if not folds:
        yield training.select(slice(0, images)), held_out, classes
        return
    every = concatenate([training, held_out])
    order = torch.randperm(len(every.images), generator=torch.Generator().manual_seed(0))
    for fold in range(folds):
        held = torch.zeros(len(order), dtype=torch.bool)
        held[fold::folds] = True
        yield every.select(order[~held][:images]), every.select(order[held]), classes


def scores_of(result: FitResult, held_out: Batch, classes: Sequence[str]) -> dict[str, float]:
    """AP50 and AP after the last epoch."""
    metrics = validate(result.model, held_out, classes).metrics.as_dict()
    return {name: metrics[name] for name in SCORES}


def run(recipe: str, parts: tuple[Batch, Batch, tuple], seed: int) -> dict[str, dict[str, float]]:
    """Scores and seconds of each stage of a run."""
    training, held_out, classes = parts
    start, stages = time.perf_counter(), {}
    if recipe == "d2l":
        row = small.run_d2l((training, held_out, classes), seed)
        return {"d2l": {name: row["final"][name] for name in SCORES} | {"seconds": row["fit_seconds"]}}
    if recipe == "folder":
        config = dataclasses.replace(transfer.FOLDER_RECIPE.config, seed=seed)
        size = training.images.shape[2:]
        config, model = transfer.configure_for_dataset(config, training, size, classes)
        result = train.fit(training, None, classes, config, model=model, progress=False)
        stages["folder"] = scores_of(result, held_out, classes)
    else:
        config = dataclasses.replace(transfer.PHOTOGRAPH_RECIPE.config, seed=seed)
        options = {"config": config, "progress": False}
        result = transfer.fit_photographs(training, None, classes, finetune=0, **options)
        stages["head"] = {"seconds": time.perf_counter() - start}
        stages["head"] |= scores_of(result["head"], held_out, classes)
        start = time.perf_counter()
        result = transfer.fit_photographs(training, None, classes, **options)
        stages["fine-tuned"] = scores_of(result["finetune"], held_out, classes)
    last = list(stages)[-1]
    stages[last]["seconds"] = time.perf_counter() - start
    return stages


def table() -> str:
    """All rows that are kept, as Markdown."""
    lines = ["| photographs | training images | recipe | AP50 | COCO AP | seconds |"]
    lines += ["| --- | ---: | --- | ---: | ---: | ---: |"]
    for path in sorted(machine.RESULTS.glob("photos-*.json")):
        record = json.loads(path.read_text())
        for stage in record["runs"][0]["stages"]:
            stages = [one["stages"][stage] for one in record["runs"]]
            cells = [f"{record['name']}, {record['how']}", f"{record['train_images']}", stage]
            for name in SCORES:
                values = [one[name] for one in stages]
                mean = f"{sum(values) / len(values):.3f}"
                spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
                cells.append(mean + spread)
            cells.append(f"{sum(one['seconds'] for one in stages) / len(stages):.0f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute one row for each recipe and print all of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.folders", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=["everyday"])
    parser.add_argument("--folds", type=int, default=0)
    parser.add_argument("--images", type=int, help="only so many for training")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    devices.disable_malloc_trim()
    for recipe in options.recipes:
        size = (transfer.PHOTOGRAPH_RECIPE if recipe == "everyday" else transfer.FOLDER_RECIPE).image_size
        runs: list[dict[str, Any]] = []
        for parts in parts_of(options.folder, options.folds, options.images, size):
            stages = run(recipe, parts, options.seed)
            runs.append({"held_out": len(parts[1].images), "stages": stages})
            said = {k: {name: round(v, 3) for name, v in stage.items()} for k, stage in stages.items()}
            print(options.name, recipe, said, flush=True)
        how = f"{options.folds} folds" if options.folds else "train to test"
        record = {"name": options.name, "how": how, "recipe": recipe, "train_images": len(parts[0].images)}
        record |= {"seed": options.seed, "image_size": size, "date": machine.today()}
        record |= {"machine": machine.describe(), "runs": runs}
        few = f"-{options.images}" if options.images else ""
        machine.write_json(machine.RESULTS / f"photos-{options.name}{few}-{recipe}.json", record)
    print(table())


if __name__ == "__main__":
    main()
