"""What the shipped recipes reach: train each preset from scratch with several seeds, keep every row.

    python -m benchmarks.recipes bananas scenes --seeds 0 1 2

does what `d2lmini train` does (draw the images, train, score after every epoch) and writes
`benchmarks/results/recipe-PRESET-seedN.json`. A row that is there already is not computed again
unless `--again` is given. The scores are those of the last epoch, not of the best one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import machine, report
from d2lmini import data, train, transfer
from d2lmini.engine import devices
from d2lmini.engine.validation import validate

HELD_OUT = 200


def run(preset: str, seed: int) -> dict[str, Any]:
    """Train one preset with one seed; returns the row that is kept."""
    recipe = transfer.recipe(preset)
    config = dataclasses.replace(recipe.config, seed=seed)
    if config.disable_malloc_trim:
        devices.disable_malloc_trim()
    start = time.perf_counter()
    parts = (("train", recipe.count), ("val", HELD_OUT))
    training, held_out = (
        data.load(data.open_data(preset, split, size=recipe.image_size, count=count))
        for split, count in parts
    )
    drawn = time.perf_counter()
    result = train.fit(training, held_out, data.PRESETS[preset], config, progress=False)
    done = time.perf_counter()
    metrics, anchors, _ = validate(result.model, held_out, data.PRESETS[preset], precision=config.precision)
    return {
        "recipe": f"d2lmini, {preset}",
        "date": machine.today(),
        "seed": seed,
        "image_size": recipe.image_size,
        "train_images": recipe.count,
        "held_out_images": HELD_OUT,
        "config": config.record(),
        "drawing_seconds": round(drawn - start, 1),
        "fit_seconds": round(done - drawn, 1),
        "images_per_second": round(result.history[-1]["images_per_second"], 1),
        "peak_memory": machine.peak_memory(),
        "machine": machine.describe(),
        "final": metrics.as_dict() | anchors.as_dict(),
        "history": result.history,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute the rows that are missing and print all of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes", description=__doc__)
    parser.add_argument("presets", nargs="+", choices=sorted(transfer.RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--again", action="store_true", help="compute rows that are there already")
    parser.add_argument("--readme", action="store_true", help="put the table into README.md")
    options = parser.parse_args(arguments)
    rows = []
    for preset in options.presets:
        for seed in options.seeds:
            path = machine.RESULTS / f"recipe-{preset}-seed{seed}.json"
            if options.again or not path.exists():
                machine.write_json(path, run(preset, seed))
            row = json.loads(path.read_text())
            rows.append(row)
            scores = f"AP50 {row['final']['ap50']:.3f}  AP {row['final']['ap']:.3f}"
            seconds = row["drawing_seconds"] + row["fit_seconds"]
            print(f"{preset} seed {seed}: {scores}  {seconds:.0f} s", flush=True)
    text = report.recipe_table(rows, published_row())
    print(text)
    if options.readme:
        report.put_into_readme(text, report.FRONT_PAGE, "recipes")


def published_row() -> dict[str, Any]:
    """The kept row of D2L's recipe, its time being 20 epochs of the steps that the newest benchmark
    timed as published (the row itself was computed with buffers kept, which is quicker)."""
    row = json.loads((machine.RESULTS / "recipe-d2l-seed0.json").read_text())
    newest = json.loads(sorted(machine.RESULTS.glob("cpu-*.json"))[-1].read_text())
    step = next(r["d2l_ms"] for r in newest["rows"] if r["group"] == "step")
    steps = row["epochs"] * -(-row["train_images"] // row["batch_size"])
    return row | {"minutes": step * steps / 60e3}


if __name__ == "__main__":
    main()
