"""What errors cost in AP, beside the paper's definitions once more with loops over dictionaries."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from d2lmini.detect import Detections
from d2lmini.inspect import error_costs
from d2lmini.inspect.error_costs import COSTS
from tests import references
from tests.test_evaluate import random_case

T_F, T_B = 0.5, 0.1


def slow_costs(case) -> dict[str, float]:
    """Bolya et al. 2020, section 2: name each error, then score again with one kind of them mended."""
    found, objects = [], []
    for image, (boxes, labels) in enumerate(zip(case.boxes.double(), case.labels, strict=True)):
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            if label >= 0:
                objects.append({"image": image, "box": box, "label": label, "used": False, "fixers": []})
        one = case.detections[image]
        rows = zip(one.boxes.double().tolist(), one.scores.tolist(), one.labels.tolist(), strict=True)
        for box, score, label in rows:
            found.append({"image": image, "box": box, "score": score, "label": label, "kind": None})
    found.sort(key=lambda d: -d["score"])
    for d in found:
        d["iou"] = {
            g: references.iou(d["box"], o["box"]) for g, o in enumerate(objects) if o["image"] == d["image"]
        }
        own = {g: v for g, v in d["iou"].items() if objects[g]["label"] == d["label"]}
        free = {g: v for g, v in own.items() if not objects[g]["used"] and v >= T_F}
        if free:
            objects[max(free, key=lambda g: (free[g], g))]["used"] = True
            d["kind"] = "correct"
    for d in found:
        if d["kind"] is None:
            name_error(d, objects)
    before = slow_ap(found, objects)
    costs = {name: slow_ap(mended(found, objects, name), objects) - before for name in COSTS[:-1]}
    left = [o for o in objects if o["used"] or o["fixers"]]
    return costs | {"missed": slow_ap(found, left) - before}


def name_error(d: dict, objects: list[dict]) -> None:
    own = {g: v for g, v in d["iou"].items() if objects[g]["label"] == d["label"]}
    other = {g: v for g, v in d["iou"].items() if g not in own}
    best_own, best_other = max(own.values(), default=0), max(other.values(), default=0)
    target = None
    if T_B <= best_own <= T_F:
        d["kind"], target = "localization", max(own, key=lambda g: (own[g], -g))
    elif best_other >= T_F:
        d["kind"], target = "classification", max(other, key=lambda g: (other[g], -g))
    elif best_own >= T_F:
        d["kind"] = "duplicate"
    elif max(best_own, best_other) <= T_B:
        d["kind"] = "background"
    else:
        d["kind"] = "both"
    if target is not None:
        objects[target]["fixers"].append(d)


def mended(found: list[dict], objects: list[dict], name: str) -> list[dict]:
    out = [d for d in found if d["kind"] != name]
    for o in objects:
        first = next(iter(o["fixers"]), None)  # they came by falling score
        if first is not None and not o["used"] and first["kind"] == name:
            out.append(first | {"kind": "correct", "label": o["label"]})
    return sorted(out, key=lambda d: -d["score"])


def slow_ap(found: list[dict], objects: list[dict]) -> float:
    aps = []
    for label in {o["label"] for o in objects}:
        count = sum(o["label"] == label for o in objects)
        right, points = 0, []
        for n, d in enumerate([d for d in found if d["label"] == label], start=1):
            right += d["kind"] == "correct"
            points.append((right / n, right / count))
        levels = [max((p for p, r in points if r >= k), default=0) for k in np.linspace(0, 1, 101)]
        aps.append(sum(levels) / 101)
    return sum(aps) / len(aps) if aps else math.nan


def test_costs_are_those_of_the_paper():
    seen = dict.fromkeys(COSTS, 0)
    for seed in range(200):
        case, random = random_case(seed), torch.Generator().manual_seed(seed)
        total = sum(len(d.scores) for d in case.detections)
        scores = torch.randperm(total, generator=random).double() / max(total, 1)  # no two are equal
        scores = scores.split([len(d.scores) for d in case.detections])
        unique = [replace(d, scores=s) for d, s in zip(case.detections, scores, strict=True)]
        case = case._replace(detections=unique)
        ours, expected = error_costs(unique, case.boxes, case.labels), slow_costs(case)
        for name in COSTS:
            assert ours[name] == pytest.approx(expected[name], abs=1e-9, nan_ok=True), (seed, name)
            seen[name] += abs(np.nan_to_num(expected[name])) > 1e-6
    assert min(seen.values()) > 2, seen  # each kind did cost something


CAT, DOG = 0, 1
HERE, MOVED, AWAY = [0.0, 0.0, 0.4, 0.4], [0.2, 0.0, 0.6, 0.4], [0.6, 0.6, 0.9, 0.9]


@pytest.mark.parametrize(
    ("box", "label", "kind"),
    [(MOVED, CAT, "localization"), (HERE, DOG, "classification"), (MOVED, DOG, None), (AWAY, CAT, "missed")],
)
def test_one_error_costs_what_mending_it_brings(box, label, kind):
    one = Detections(torch.tensor([box]), torch.tensor([0.9]), torch.tensor([label]))
    costs = error_costs([one], torch.tensor([[HERE]]), torch.tensor([[CAT]]))
    expected = dict.fromkeys(COSTS, 0.0) | ({kind: 1.0} if kind in costs and kind != "missed" else {})
    expected["missed"] = math.nan if kind in (None, "missed") else 0.0  # nothing is left to be found
    assert costs == pytest.approx(expected, nan_ok=True)


def test_nothing_there_costs_nothing_that_is_defined():
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0))
    costs = error_costs([none], torch.zeros(1, 1, 4), torch.tensor([[-1]]))
    assert all(math.isnan(cost) for cost in costs.values())
