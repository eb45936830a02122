"""Do 95 % intervals hold the truth in 95 % of cases? Samples from a large set whose scores are known.

    python -m benchmarks.coverage            # an hour on one core
    python -m benchmarks.coverage --quick    # a minute, nothing is written

A world of 20,000 images with simulated detections has scores that are taken for the truth. 1,000 times, some
of its images are drawn, and `inspect.bootstrap` gives intervals from these alone; counted is how often they
hold the truth. An image's difficulty moves all of its detections at once, as in photographs.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import machine, report
from d2lmini.detect import Detections
from d2lmini.evaluate import Judged, judge
from d2lmini.inspect.intervals import NUMBERS, bootstrap

IMAGES, CLASSES, SIDE = 20_000, 3, 400  # pixels
SAMPLES = (40, 100, 400)
MOST = 5  # objects of an image
PATH = machine.RESULTS / "coverage.json"


def world(images: int, seed: int = 0) -> Judged:
    """Detections of generated objects, judged: small ones, hard images, later classes are found less."""
    rng = np.random.default_rng(seed)
    some = [_image(rng) for _ in range(images)]
    detections, boxes, labels = zip(*some, strict=True)
    return judge(detections, torch.stack(boxes), torch.stack(labels), classes=CLASSES, image_size=SIDE)


def _image(rng: np.random.Generator) -> tuple[Detections, Tensor, Tensor]:
    """Detections, boxes (MOST, 4) and labels (MOST,) of an image: one to five objects in cells."""
    hard, n = rng.normal(), int(rng.integers(1, MOST + 1))
    side, cell = np.exp(rng.uniform(np.log(0.05), np.log(0.3), n)), rng.permutation(9)[:n]
    corner = np.stack([cell % 3, cell // 3], 1) / 3 + 0.01
    boxes, labels = np.concatenate([corner, corner + side[:, None]], 1), rng.integers(0, CLASSES, n)
    found = rng.random(n) < _sigmoid(3.5 - hard - 0.5 * labels + np.log(side))
    spread = side[:, None] * (0.04 + 0.04 * rng.random((n, 1)) + 0.02 * max(hard, 0))
    near = (boxes + rng.normal(0, 1, (n, 4)) * spread)[found]
    near_scores = _sigmoid(1.2 - 0.7 * hard + rng.normal(0, 1.2, n))[found]
    near_labels = np.where(rng.random(n) < 0.93, labels, rng.integers(0, CLASSES, n))[found]
    wrong = rng.poisson(2 * np.exp(0.4 * hard))
    corner = rng.random((wrong, 2)) * 0.7
    far = np.concatenate([corner, corner + rng.uniform(0.05, 0.3, (wrong, 1))], 1)
    corners = np.concatenate([near, far])
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2])
    scores = np.concatenate([near_scores, _sigmoid(rng.normal(-1.5, 1.3, wrong))])
    ids = np.concatenate([near_labels, rng.integers(0, CLASSES, wrong)])
    padded = torch.zeros(MOST, 4), torch.full((MOST,), -1)
    padded[0][:n], padded[1][:n] = torch.from_numpy(boxes), torch.from_numpy(labels)
    return Detections(*(torch.from_numpy(v) for v in (corners, scores, ids))), *padded


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def select(judged: Judged, images: np.ndarray) -> Judged:
    """The same of some images (n,), in rising order: nothing is matched anew."""
    found, place = judged.found, np.full(judged.found.images, -1)
    place[images] = np.arange(len(images))
    rows, objects = place[found.image] >= 0, place[found.true_image] >= 0
    fewer = {name: getattr(found, name)[rows] for name in ("scores", "labels", "boxes")}
    fewer |= {name: getattr(found, name)[objects] for name in ("true_labels", "true_boxes")}
    fewer |= {"image": place[found.image][rows], "true_image": place[found.true_image][objects]}
    kept = {name: getattr(judged, name)[rows] for name in ("coco", "voc")}
    found = found._replace(images=len(images), **fewer)
    return judged._replace(found=found, in_range=judged.in_range[objects], **kept)


def coverage(judged: Judged, truth: dict[str, float], images: int, samples: int) -> dict[str, Any]:
    """How often the intervals of so many images hold each number of the world, and how wide they are."""
    rng, held, width = np.random.default_rng(images), [], []
    for seed in range(samples):
        chosen = np.sort(rng.choice(judged.found.images, images, replace=False))
        made = _flat(bootstrap(select(judged, chosen), seed=seed))
        held.append({name: made[name].low <= value <= made[name].high for name, value in truth.items()})
        width.append(made["ap"].high - made["ap"].low)
    shares = {name: round(float(np.mean([row[name] for row in held])), 4) for name in truth}
    return {"images": images, "samples": samples, "ap_width": round(float(np.mean(width)), 4), **shares}


def _flat(made: Any) -> dict[str, Any]:
    each = {f"ap of class {name}": row["ap"] for name, row in made.per_class.items()}
    return {name: made.overall[name] for name in NUMBERS} | each


def table(result: dict[str, Any]) -> str:
    """A line for each number, a column for each number of images."""
    rows, names = result["rows"], [name for name in result["truth"]]
    head = [f"{row['images']} images" for row in rows]
    lines = [f"| of {rows[0]['samples']:,} intervals, those that hold it | truth | {' | '.join(head)} |"]
    lines.append("| --- | ---: |" + " ---: |" * len(rows))
    for name in names:
        shares = " | ".join(f"{row[name]:.1%}" for row in rows)
        lines.append(f"| {name.replace('_', ', ')} | {result['truth'][name]:.3f} | {shares} |")
    widths = " | ".join(f"{row['ap_width']:.3f}" for row in rows)
    return "\n".join([*lines, f"| mean width of the interval of ap | | {widths} |"])


def main() -> int:
    """Simulate, print, and write `benchmarks/results/coverage.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--readme", action="store_true", help="put the table into benchmarks/README.md")
    parser.add_argument("--quick", action="store_true", help="few samples, nothing is written")
    options = parser.parse_args()
    quick = options.quick
    everything = world(2000 if quick else IMAGES)
    truth = {name: made.value for name, made in _flat(bootstrap(everything, draws=2)).items()}
    rows = []
    for images in SAMPLES[:1] if quick else SAMPLES:
        rows.append(coverage(everything, truth, images, 20 if quick else 1000))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    result = {"date": machine.today(), "truth": {n: round(v, 5) for n, v in truth.items()}, "rows": rows}
    if not quick:
        machine.write_json(PATH, result)
    print(table(result))
    if options.readme:
        report.put_into_readme(table(result), name="coverage")
    return 0


if __name__ == "__main__":
    sys.exit(main())
