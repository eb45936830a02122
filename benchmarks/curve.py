"""How the time for targets grows with the number of objects: `python -m benchmarks.curve`.

The page on speed draws what this writes, so it goes into the package: `d2lmini/widgets/results/`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import d2lmini
from benchmarks import machine, micro, peer
from d2lmini.anchors import TINY_SSD_ANCHORS, make_anchors
from d2lmini.engine import devices
from d2lmini.matching import match

FOLDER = Path(d2lmini.__file__).parent / "widgets" / "results"
OBJECTS = tuple(range(1, 51))
BATCHES = (1, 8, 32)
ROUNDS = 15


def cases(d2l: ModuleType, objects: int, batch: int) -> dict[str, Callable[[], object]]:
    """Targets of the same images by both; raises RuntimeError when their results differ.

    The first `objects` of the same 50 in each image, so that a row differs from the next by one object.
    """
    anchors = make_anchors(micro.MAPS, TINY_SSD_ANCHORS)
    boxes, labels = (t[:batch, :objects].contiguous() for t in micro.objects(max(OBJECTS)))
    rows = torch.cat([labels.unsqueeze(-1).float(), boxes], dim=-1)  # (N, G, 5)
    micro.check_targets(d2l, anchors, rows)
    return {
        "d2l_ms": lambda: d2l.multibox_target(anchors[None], rows),
        "ours_ms": lambda: match(anchors, boxes, labels),
    }


def measure(
    d2l: ModuleType, objects: Sequence[int], batches: Sequence[int], rounds: int
) -> dict[str, list[list[float]]]:
    """Median milliseconds, a row for each batch size and in it a number for each count of objects.

    Every round goes through all of it: what else the machine does for a while then bends no part of a
    curve.
    """
    grid = [[cases(d2l, count, batch) for count in objects] for batch in batches]
    taken: dict[tuple[str, int, int], list[float]] = {}
    for _ in range(rounds + 1):  # the first warms up
        for i, row in enumerate(grid):
            for j, functions in enumerate(row):
                for name, function in functions.items():
                    start = time.perf_counter()
                    function()
                    taken.setdefault((name, i, j), []).append((time.perf_counter() - start) * 1e3)
    medians = {key: statistics.median(times[1:]) for key, times in taken.items()}
    return {
        name: [[medians[name, i, j] for j in range(len(objects))] for i in range(len(batches))]
        for name in ("d2l_ms", "ours_ms")
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write `targets-curve.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curve", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"calls of each function ({ROUNDS})")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the result")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    devices.disable_malloc_trim()  # as `fit` runs, and for both sides
    result: dict[str, Any] = {"date": machine.today(), "rounds": options.rounds}
    measured = measure(peer.load(), OBJECTS, BATCHES, options.rounds)
    anchors = sum(h * w for h, w in micro.MAPS) * 4
    result |= {"machine": machine.describe(), "anchors": anchors, "objects": OBJECTS, "batches": BATCHES}
    machine.write_json(options.out / "targets-curve.json", result | measured)
    print(f"kept in {options.out / 'targets-curve.json'}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
