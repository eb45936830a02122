"""COCO-size evaluation beside other programs: 5,000 images, 80 classes, 36,000 objects, 500,000 detections.

    OMP_NUM_THREADS=1 RAYON_NUM_THREADS=1 python -m benchmarks.evaluation [--readme]

scores the same generated detections with this package, pycocotools, and, where they are installed,
faster-coco-eval and hotcoco, one after the other on one thread; twelve numbers have to be equal. A plain loop
over thresholds, detections and objects is timed on a few images, and told for all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import machine, report
from d2lmini.detect import Detections
from d2lmini.evaluate import COCO_IOU_THRESHOLDS, evaluate

IMAGES, CLASSES, OBJECTS, DETECTIONS, SIDE = 5000, 80, 36_000, 100, 640
PLAIN = 100  # images for the plain loop
NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
NAMES += ("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")
PEERS = {  # where the classes COCO and COCOeval are
    "pycocotools": ("pycocotools.coco", "COCO", "pycocotools.cocoeval", "COCOeval"),
    "faster-coco-eval": ("faster_coco_eval", "COCO", "faster_coco_eval", "COCOeval_faster"),
    "hotcoco": ("hotcoco", "COCO", "hotcoco", "COCOeval"),
}
PATH = machine.RESULTS / "evaluation.json"


class World(NamedTuple):
    """Detections on N images, and boxes (N, G, 4) and labels (N, G) of their objects."""

    detections: list[Detections]
    boxes: Tensor
    labels: Tensor


def world(seed: int = 0) -> World:
    """Objects of all sizes; up to five of an image's detections lie near each of them, others anywhere."""
    rng = np.random.default_rng(seed)
    counts = np.bincount(rng.integers(0, IMAGES, OBJECTS), minlength=IMAGES)
    boxes, labels = torch.zeros(IMAGES, counts.max(), 4), torch.full((IMAGES, counts.max()), -1)
    detections = []
    for i, n in enumerate(counts):
        sides = np.exp(rng.uniform(np.log(8), np.log(400), (n, 2))) / SIDE
        corner = rng.random((n, 2)) * (1 - sides)
        own, ids = np.concatenate([corner, corner + sides], 1), rng.integers(0, CLASSES, n)
        boxes[i, :n], labels[i, :n] = torch.from_numpy(own), torch.from_numpy(ids)
        picked = rng.integers(0, n, min(60, 5 * n)) if n else np.zeros(0, int)
        near = own[picked] + rng.normal(0, 0.1, (len(picked), 4)) * np.tile(sides[picked], 2)
        named = np.where(rng.random(len(picked)) < 0.8, ids[picked], rng.integers(0, CLASSES, len(picked)))
        rest = DETECTIONS - len(picked)
        corner = rng.random((rest, 2)) * 0.8
        corners = np.concatenate([near, np.concatenate([corner, corner + rng.random((rest, 2)) * 0.2], 1)])
        corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1e-3)
        scores = np.concatenate([rng.random(len(picked)), rng.random(rest) ** 3])
        named = np.concatenate([named, rng.integers(0, CLASSES, rest)])
        columns = corners, scores, named
        detections.append(Detections(*(torch.from_numpy(column) for column in columns)))
    return World(detections, boxes, labels)


def ours(some: World) -> dict[str, float]:
    """The twelve numbers of this package."""
    metrics = evaluate(some.detections, some.boxes, some.labels, classes=CLASSES, image_size=SIDE)
    return {name: getattr(metrics, name) for name in NAMES}


def coco_form(some: World) -> tuple[dict[str, Any], np.ndarray]:
    """The objects as a COCO data set, and the detections (M, 7): image, box, score, class."""
    objects = []
    for i, place in torch.nonzero(some.labels >= 0).tolist():
        x0, y0, x1, y1 = (some.boxes[i, place].double() * SIDE).tolist()
        box = [x0, y0, x1 - x0, y1 - y0]
        record = {"image_id": i + 1, "category_id": int(some.labels[i, place]) + 1, "bbox": box}
        objects.append(record | {"id": len(objects) + 1, "area": box[2] * box[3], "iscrowd": 0})
    images = [{"id": i + 1, "width": SIDE, "height": SIDE} for i in range(IMAGES)]
    categories = [{"id": k + 1, "name": f"c{k}"} for k in range(CLASSES)]
    truth = {"info": {}, "images": images, "categories": categories, "annotations": objects}
    image = np.repeat(np.arange(IMAGES), [len(one) for one in some.detections]) + 1
    boxes, scores, labels = (torch.cat(c).double().numpy() for c in zip(*some.detections, strict=True))
    sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1) * SIDE
    return truth, np.concatenate([image[:, None], sides, scores[:, None], labels[:, None] + 1], 1)


def theirs(name: str, truth: dict[str, Any], rows: list[dict[str, Any]]) -> Callable[[], dict[str, float]]:
    """What evaluates with another program, its data loaded already; ImportError where it is not there."""
    (data, coco, judge, judge_name) = PEERS[name]
    COCO = getattr(importlib.import_module(data), coco)
    COCOeval = getattr(importlib.import_module(judge), judge_name)
    with contextlib.redirect_stdout(io.StringIO()):
        made = COCO(json.loads(json.dumps(truth))) if name != "pycocotools" else COCO()
        if name == "pycocotools":
            made.dataset = truth
            made.createIndex()
        found = made.loadRes([dict(row) for row in rows])

    def run() -> dict[str, float]:
        with contextlib.redirect_stdout(io.StringIO()):
            one = COCOeval(made, found, "bbox")
            one.evaluate()
            one.accumulate()
            one.summarize()
        return dict(zip(NAMES, map(float, one.stats[:12]), strict=True))

    return run


def plain_loop(some: World) -> int:
    """Match the first images with loops over thresholds, detections and objects; returns the matches."""
    matched = 0
    for i in range(PLAIN):
        objects = [
            (b, k) for b, k in zip(some.boxes[i].tolist(), some.labels[i].tolist(), strict=True) if k >= 0
        ]
        columns = (column.tolist() for column in some.detections[i].best_first())
        found = [(box, label) for box, _, label in zip(*columns, strict=True)]
        for threshold in COCO_IOU_THRESHOLDS:
            free = set(range(len(objects)))
            for box, label in found:
                ious = {g: _iou(box, objects[g][0]) for g in free if objects[g][1] == label}
                best = max(ious, key=ious.__getitem__, default=None)
                if best is not None and ious[best] >= threshold:
                    free.remove(best)
                    matched += 1
    return matched


def _iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inner = max(width, 0) * max(height, 0)
    return inner / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner)


def timed(work: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """The least seconds of a core in some repeats, which a busy machine does not change, and the result."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
    return min(seconds), result


def measure() -> dict[str, Any]:
    """Seconds and numbers of all programs."""
    torch.set_num_threads(1)  # as OMP_NUM_THREADS=1 RAYON_NUM_THREADS=1 does for the others
    some = world()
    truth, table_ = coco_form(some)
    rows = [
        {"image_id": int(r[0]), "bbox": r[1:5].tolist(), "score": r[5], "category_id": int(r[6])}
        for r in table_
    ]
    seconds, numbers = timed(lambda: ours(some))
    result = {"rows": [{"program": "d2lmini", "seconds": round(seconds, 2), "largest_difference": 0.0}]}
    for name in PEERS:
        try:
            run = theirs(name, truth, rows)
        except ImportError as error:
            print(f"{name} is not installed ({error})", file=sys.stderr)
            continue
        seconds, other = timed(run, 1 if name == "pycocotools" else 3)
        gap = max(abs(numbers[key] - other[key]) for key in NAMES)
        version = importlib.metadata.version(name)
        result["rows"].append(
            {"program": f"{name} {version}", "seconds": round(seconds, 2), "largest_difference": gap}
        )
    seconds, _ = timed(lambda: plain_loop(some), 1)
    result["plain_loop_seconds"] = round(seconds * IMAGES / PLAIN, 1)
    return result | {"date": machine.today(), "machine": machine.describe(), "numbers": numbers}


def table(result: dict[str, Any]) -> str:
    """A line for each program."""
    lines = ["| program | seconds of a core | largest difference |", "| --- | ---: | ---: |"]
    for row in result["rows"]:
        gap = row["largest_difference"]
        same = "" if row["program"] == "d2lmini" else "none" if gap == 0 else f"{gap:.0e}"
        lines.append(f"| {row['program']} | {row['seconds']:.1f} | {same} |")
    plain = result["plain_loop_seconds"]
    lines.append(f"| a plain loop, matching alone, all objects of one size | {plain:.0f} | |")
    return "\n".join([*lines, "", f"One thread, {result['machine']['cpu']}, {result['date']}."])


def main() -> int:
    """Measure, print, write `benchmarks/results/evaluation.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument("--readme", action="store_true", help="put the table into benchmarks/README.md")
    options = parser.parse_args()
    result = measure()
    if not math.isfinite(result["numbers"]["ap"]):
        raise RuntimeError("the generated set has no score: nothing is written")
    machine.write_json(PATH, result)
    print(table(result))
    if options.readme:
        report.put_into_readme(table(result), name="evaluation")
    return 0


if __name__ == "__main__":
    sys.exit(main())
