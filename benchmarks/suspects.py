"""Wrong labels that were planted, and those that `evaluate --suspects` names.

    python -m benchmarks.suspects [--readme]

draws images of generated tools (`benchmarks.photographs`), spoils 5 % of their labels, a quarter of these in
each way: an object loses its label, a label comes where nothing is, a class is swapped, a box moves by 35 to
60 % of its sides. Then `inspect.out_of_fold` and `rank_suspects` see them, as they would a user's images.
Counted are the first 5 % of the list. The other table is of scenes, with six classes, as the detector of that
name sees them, which was trained on others.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import machine, photographs, report
from d2lmini import data, detect, predict_batched, pretrained
from d2lmini.boxes import box_iou
from d2lmini.data import Batch
from d2lmini.data.samples import GroundTruth, pad_objects
from d2lmini.inspect.suspects import KINDS, Suspect, out_of_fold, rank_suspects

SHARE, IMAGES, VIEWS, SIDE = 0.05, 240, 3, 300
SAME = 0.45  # IoU from which a suspect is on a fault
PATH = machine.RESULTS / "suspects.json"


class Fault(NamedTuple):
    """What was planted: the kind, the image, and where one has to look for it."""

    kind: str
    image: int
    box: Tensor


def plant(truth: GroundTruth, classes: int, seed: int) -> tuple[GroundTruth, list[Fault]]:
    """The same labels, `SHARE` of them spoilt, as many in each of `KINDS`."""
    random = torch.Generator().manual_seed(seed)
    boxes = [b[k >= 0].clone() for b, k in zip(*truth, strict=True)]
    labels = [k[k >= 0].clone() for k in truth.labels]
    places = [(i, j) for i, own in enumerate(labels) for j in range(len(own))]
    each = max(1, round(SHARE * len(places) / len(KINDS)))
    picked = torch.randperm(len(places), generator=random)[: each * len(KINDS)].tolist()
    faults, dropped = [], set()
    for n, place in enumerate(picked):
        (i, j), kind = places[place], KINDS[n % len(KINDS)]
        box = boxes[i][j].clone()
        if kind == "unlabeled":
            dropped.add((i, j))
        elif kind == "class":
            labels[i][j] = (labels[i][j] + 1 + int(torch.rand(1, generator=random) * (classes - 1))) % classes
        elif kind == "box":
            boxes[i][j] = box = _moved(box, random)
        else:
            box = _empty_place(boxes[i], box[2:] - box[:2], random)
            boxes[i], labels[i] = (
                torch.cat([boxes[i], box[None]]),
                torch.cat([labels[i], labels[i][j : j + 1]]),
            )
        faults.append(Fault(kind, i, box))
    kept = [[j for j in range(len(own)) if (i, j) not in dropped] for i, own in enumerate(labels)]
    boxes, labels = ([values[rows] for values, rows in zip(v, kept, strict=True)] for v in (boxes, labels))
    return pad_objects(boxes, labels), faults


def _moved(box: Tensor, random: torch.Generator) -> Tensor:
    """A box that moved by 35 to 60 % of its sides in any direction, inside the image if that can be."""
    for _ in range(100):
        angle, far = torch.rand(2, generator=random) * torch.tensor([2 * math.pi, 0.25])
        step = torch.stack([angle.cos(), angle.sin()]) * (box[2:] - box[:2]) * (0.35 + far)
        moved = box + step.repeat(2)
        if moved.min() >= 0 and moved.max() <= 1:
            return moved
    return moved.clamp(0, 1)


def _empty_place(boxes: Tensor, sides: Tensor, random: torch.Generator) -> Tensor:
    """A box with these sides (2,) where the fewest objects are."""
    corners = torch.rand(200, 2, generator=random) * (1 - sides)
    tried = torch.cat([corners, corners + sides], dim=1)
    return tried[box_iou(tried, boxes).amax(1).argmin()]


def count(ranked: list[Suspect], faults: list[Fault], labels: int) -> dict[str, list[int]]:
    """Of each kind: suspects among the first, those of them on a fault, faults planted, faults named."""
    first = ranked[: round(SHARE * labels)]
    rows = {kind: [0, 0, 0, 0] for kind in KINDS}
    hits = [[_on(one, fault) for fault in faults] for one in first]
    for one, on in zip(first, hits, strict=True):
        rows[one.kind][0] += 1
        rows[one.kind][1] += any(on)
    for n, fault in enumerate(faults):
        rows[fault.kind][2] += 1
        rows[fault.kind][3] += any(on[n] for on in hits)
    return rows


def _on(one: Suspect, fault: Fault) -> bool:
    box = torch.tensor(one.found_box if one.box is None else one.box)
    return one.image == fault.image and bool(box_iou(box[None], fault.box[None].to(box)) >= SAME)


def run_tools(seed: int) -> dict[str, list[int]]:
    """Tools with spoilt labels, judged by heads that were trained on the other images with such labels."""
    with tempfile.TemporaryDirectory() as folder:
        photographs.write("tools", Path(folder), IMAGES, seed)
        tools = data.open_data(folder, "all", size=SIDE)
        clean = data.load(tools, workers=0)
    truth, faults = plant(clean.ground_truth, len(tools.classes), seed)
    found = out_of_fold(Batch(clean.images, *truth), tools.classes, views=VIEWS)
    return count(rank_suspects(found, *truth), faults, int((truth.labels >= 0).sum()))


def run_scenes(seed: int) -> dict[str, list[int]]:
    """Scenes with spoilt labels, judged by the detector that comes with the package."""
    model, info = pretrained("scenes")
    clean = data.load(data.Synthetic("scenes", count=IMAGES, size=256, split="val", seed=seed), workers=0)
    found = detect(*predict_batched(model, clean.images), model.anchors)
    truth, faults = plant(clean.ground_truth, len(info.classes), seed)
    return count(rank_suspects(found, *truth), faults, int((truth.labels >= 0).sum()))


def table(result: dict[str, Any]) -> str:
    """For each data, a line for each kind, and one for all."""
    return "\n\n".join(_table(name, runs, result) for name, runs in result["runs"].items())


def _table(name: str, runs: list[dict[str, list[int]]], result: dict[str, Any]) -> str:
    rows = {kind: [sum(c) for c in zip(*(one[kind] for one in runs), strict=True)] for kind in KINDS}
    rows["all"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    lines = [f"| {name} | named first | right | precision | planted | found | recall |"]
    lines.append("| --- |" + " ---: |" * 6)
    for kind, (named, right, planted, found) in rows.items():
        shares = f"{right / max(1, named):.2f}", f"{found / max(1, planted):.2f}"
        lines.append(f"| {kind} | {named} | {right} | {shares[0]} | {planted} | {found} | {shares[1]} |")
    return "\n".join([*lines, "", f"{len(runs)} × {result['images']} images, {result['date']}."])


def main() -> int:
    """Plant, judge, print, write `benchmarks/results/suspects.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suspects", description=__doc__)
    parser.add_argument("--readme", action="store_true", help="put the table into benchmarks/README.md")
    options = parser.parse_args()
    result: dict[str, Any] = {"date": machine.today(), "images": IMAGES, "runs": {}}
    for name, (work, seeds) in SETS.items():
        runs = result["runs"][name] = []
        for seed in range(seeds):
            runs.append(work(seed))
            print(name, json.dumps(runs[-1]), file=sys.stderr, flush=True)
            machine.write_json(PATH, result)
    print(table(result))
    if options.readme:
        report.put_into_readme(table(result), name="suspects")
    return 0


SETS = {"scenes, their detector": (run_scenes, 3), "tools, out of fold": (run_tools, 1)}

if __name__ == "__main__":
    sys.exit(main())
