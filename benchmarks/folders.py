"""Folders of real photographs: a head on frozen features, the same fine-tuned, and other recipes beside them.

    python -m benchmarks.folders boards PATH --folds 5
    python -m benchmarks.folders cards PATH --recipes everyday scenes d2l curve

trains on the folder's train split and scores its test split, once for each seed; with `--folds K` both are
put together and divided. A row has the mean and the range of all runs. `everyday` is what `train --data
FOLDER` does, `efficientnet` a frozen head on another backbone, `scenes` is `--start scenes`, `d2l` the recipe
of section 14.7 as published, and `curve` the learning curve of heads on frozen features, with forecasts from
its smaller numbers of images. Results are kept in `benchmarks/results/photos-NAME-RECIPE.json`; scores are
those of the last epoch, seconds those of the call.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import efficientnet, machine, small
from d2lmini import data, train, transfer
from d2lmini.data import Batch
from d2lmini.engine import devices
from d2lmini.engine.validation import validate
from d2lmini.inspect import LearningCurve, learning_curve
from d2lmini.train import FitResult

RECIPES = ("everyday", "efficientnet", "scenes", "d2l", "curve")
SCORES = ("ap50", "ap")
REPEATS = 5  # of the learning curve


def parts_of(folder: Path, folds: int, images: int | None, size: int) -> Iterator[tuple[Batch, Batch, tuple]]:
    """Training images, held-out images and class names of each run."""
    sets = [data.open_data(str(folder), split, size=size) for split in ("all", "test")]
    classes = tuple(sets[0].classes)
    every, held_out = (data.load(one) for one in sets)
    if not folds:  # all images are those for training, then those of the test
        training = every.select(slice(0, len(every.images) - len(held_out.images)))
        yield training.select(slice(0, images)), held_out, classes
        return
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
    if recipe == "scenes":
        config = dataclasses.replace(transfer.FOLDER_RECIPE.config, seed=seed)
        size = training.images.shape[2:]
        config, model = transfer.configure_for_dataset(config, training, size, classes)
        result = train.fit(training, None, classes, config, model=model, progress=False)
        stages["scenes"] = scores_of(result, held_out, classes)
    elif recipe == "efficientnet":
        result = efficientnet.fit_head(training, classes, seed)
        stages["head on EfficientNet-Lite0"] = scores_of(result, held_out, classes)
    else:
        config = dataclasses.replace(transfer.PHOTOGRAPH_RECIPE.config, seed=seed)
        with tempfile.TemporaryDirectory() as out:
            options = {"config": config, "progress": False, "out": out}
            result = transfer.fit_photographs(training, None, classes, finetune=0, **options)
            stages["head"] = {"seconds": time.perf_counter() - start}
            stages["head"] |= scores_of(result["head"], held_out, classes)
            result = transfer.fit_photographs(training, None, classes, resume=True, **options)
            stages["fine-tuned"] = scores_of(result["finetune"], held_out, classes)
    last = list(stages)[-1]
    stages[last]["seconds"] = time.perf_counter() - start
    return stages


def curve(parts: tuple[Batch, Batch, tuple], seed: int) -> dict[str, Any]:
    """A learning curve up to all training images, and what its first parts forecast of its next point."""
    training, held_out, classes = parts
    config = dataclasses.replace(transfer.PHOTOGRAPH_RECIPE.config, seed=seed)
    count = len(training.images)
    sizes = [n for n in (10, 20) if n < count // 4] + [count // 4, count // 2]
    options = {"sizes": sizes, "repeats": REPEATS, "progress": False}
    scores = learning_curve(training, held_out, classes, config, **options).scores
    forecasts = []
    for n in sizes[1:]:
        known = LearningCurve({k: row for k, row in scores.items() if k <= n})
        forecasts.append(known.forecast(min(k for k in scores if k > n))._asdict() | {"from": n})
    return {"scores": scores, "forecasts": forecasts}


def records(curves: bool) -> Iterator[dict[str, Any]]:
    """The kept learning curves, or the other rows, by name."""
    for path in sorted(machine.RESULTS.glob("photos-*.json")):
        record = json.loads(path.read_text())
        if ("curve" in record) == curves:
            yield record


def curve_table() -> str:
    """All forecasts that are kept beside what came of it, as Markdown."""
    lines = ["| photographs | from | forecast of AP for | | it was |", "| --- | ---: | ---: | --- | --- |"]
    for record in records(curves=True):
        for one in record["curve"]["forecasts"]:
            row = record["curve"]["scores"][str(one["images"])]
            band = f"{one['ap']:.2f} ({one['low']:.2f} to {one['high']:.2f})"
            truth = f"{sum(row) / len(row):.2f} ({min(row):.2f} to {max(row):.2f})"
            cells = (record["name"], str(one["from"]), str(one["images"]), band, truth)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def table() -> str:
    """All rows that are kept, as Markdown."""
    lines = ["| photographs | training images | recipe | runs | AP50 | COCO AP | seconds | threads |"]
    lines += ["| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |"]
    for record in records(curves=False):
        for stage in record["runs"][0]["stages"]:
            stages = [one["stages"][stage] for one in record["runs"]]
            cells = [
                f"{record['name']}, {record['how']}",
                f"{record['train_images']}",
                stage,
                f"{len(stages)}",
            ]
            for name in SCORES:
                values = [one[name] for one in stages]
                mean = f"{sum(values) / len(values):.3f}"
                spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
                cells.append(mean + spread)
            cells.append(f"{sum(one['seconds'] for one in stages) / len(stages):.0f}")
            cells.append(f"{record['machine']['threads']}")
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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args(arguments)
    devices.disable_malloc_trim()
    for recipe in options.recipes:
        ours = recipe in ("everyday", "efficientnet", "curve")
        size = (transfer.PHOTOGRAPH_RECIPE if ours else transfer.FOLDER_RECIPE).image_size
        every = list(parts_of(options.folder, options.folds, options.images, size))
        how = f"{options.folds} folds" if options.folds else "train to test"
        record = {"name": options.name, "how": how, "recipe": recipe, "seeds": options.seeds}
        record |= {"train_images": len(every[0][0].images), "image_size": size, "date": machine.today()}
        record |= {"machine": machine.describe()}
        few = f"-{options.images}" if options.images else ""
        path = machine.RESULTS / f"photos-{options.name}{few}-{recipe}.json"
        if recipe == "curve":
            machine.write_json(path, record | {"curve": curve(every[0], options.seeds[0])})
            continue
        runs: list[dict[str, Any]] = []
        for seed in options.seeds:
            for fold, parts in enumerate(every):
                stages = run(recipe, parts, seed)
                runs.append({"seed": seed, "fold": fold, "held_out": len(parts[1].images), "stages": stages})
                said = {k: {n: round(v, 3) for n, v in stage.items()} for k, stage in stages.items()}
                print(options.name, recipe, said, flush=True)
                machine.write_json(path, record | {"runs": runs})
    print(f"{table()}\n\n{curve_table()}")


if __name__ == "__main__":
    main()
