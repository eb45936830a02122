"""Where the time of one training step goes, by kind of work: `python -m benchmarks.anatomy`.

From D2L's step as published to ours, one change at a time. Each variant runs in child processes of its
own, in turn, because how glibc hands out memory is a setting of the process. A child times its steps
first, then runs some under torch's profiler; a part's milliseconds are its share there of the time here,
since the profiler itself slows a step down.

It runs on one thread and counts CPU time, the kernel's for this process included: on a machine of its own
that is the time of a step, and on a busy one the wait for others is left out. The page on speed draws the
result.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks import machine, peer, published, step
from benchmarks.curve import FOLDER
from d2lmini import train
from d2lmini.engine import devices

PARTS = (
    "convolutions",
    "batch normalisation",
    "pooling and ReLU",
    "anchors and matching",
    "losses",
    "everything else",
)
OPERATORS = {
    "convolutions": ("conv",),
    "batch normalisation": ("batch_norm",),
    "pooling and ReLU": ("max_pool", "relu", "threshold", "clamp_min", "amax"),
    "losses": ("log_softmax", "nll_loss"),
}
RANGES = {"anchors": PARTS[3], "matching": PARTS[3], "losses": PARTS[4]}
# name: (malloc trim disabled, channels last, precision); None is D2L's own step
VARIANTS: dict[str, tuple[bool, bool, str] | None] = {
    "D2L's step, as published": None,
    "this package": (False, False, "float32"),
    "+ memory kept": (True, False, "float32"),
    "+ channels last": (True, True, "float32"),
    "+ bfloat16": (True, True, "bfloat16"),
}


def steps_of(name: str) -> Callable[[], object]:
    """A function that does one training step of a variant."""
    torch.manual_seed(0)
    batch = step.random_batch(step.BATCH)
    settings = VARIANTS[name]
    if settings is None:
        d2l = peer.load()
        d2l.multibox_prior = in_range(d2l.multibox_prior, "anchors")
        d2l.multibox_target = in_range(d2l.multibox_target, "matching")
        published.published_loss = in_range(published.published_loss, "losses")
        net = published.PublishedSSD(d2l).train()
        optimizer = published.make_optimizer(net)
        images, rows = batch.images.float(), step.truth(batch)
        return lambda: published.train_step(net, optimizer, images, rows)
    keep, last, precision = settings
    if keep:
        devices.disable_malloc_trim()
    train.match = in_range(train.match, "matching")
    train.ssd_loss = in_range(train.ssd_loss, "losses")
    run = step.make_run(batch, precision, channels_last=last)
    return lambda: run.step(batch, None)


def in_range(function: Callable[..., Any], title: str) -> Callable[..., Any]:
    """The same function, whose time the profiler reports under `title`."""

    def named(*arguments: Any) -> Any:
        with record_function(title):
            return function(*arguments)

    return named


def part_of(event: Any) -> str:
    """The part of a step that an event of the profiler belongs to: its range's, else its operator's."""
    above = event
    while above is not None:
        if above.name in RANGES:
            return RANGES[above.name]
        above = above.cpu_parent
    names = OPERATORS.items()
    return next((part for part, words in names if any(w in event.name for w in words)), PARTS[-1])


def shares(events: Sequence[Any]) -> list[float]:
    """The share of the CPU time that went to each of `PARTS`."""
    spent = dict.fromkeys(PARTS, 0.0)
    for event in events:
        spent[part_of(event)] += event.self_cpu_time_total
    return [spent[part] / sum(spent.values()) for part in PARTS]


def child(name: str, steps: int) -> dict[str, Any]:
    """Seconds of some steps, then the shares of as many others, and the page faults of a step."""
    torch.set_num_threads(1)
    one = steps_of(name)
    for _ in range(2):
        one()
    seconds, faults = [], machine.minor_faults()
    for _ in range(steps):
        start = time.process_time()
        one()
        seconds.append(time.process_time() - start)
    faults = (machine.minor_faults() - faults) / steps
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            one()
    peak = machine.peak_memory()
    return {"seconds": seconds, "shares": shares(profiler.events()), "faults": faults, "peak": peak}


def summary(name: str, reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A variant's row: median milliseconds, split by the mean share of each part."""
    total = statistics.median(s for report in reports for s in report["seconds"]) * 1e3
    mean = [statistics.mean(part) for part in zip(*(r["shares"] for r in reports), strict=True)]
    return {
        "variant": name,
        "ms": total,
        "parts_ms": [share * total for share in mean],
        "page_faults": statistics.median(r["faults"] for r in reports),
        "peak_memory": max(r["peak"] for r in reports),
    }


def measure(rounds: int, steps: int) -> list[dict[str, Any]]:
    """A row for each variant; the children of all take turns."""
    reports: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for number, name in enumerate(VARIANTS):
            command = [sys.executable, "-m", "benchmarks.anatomy", "--child", str(number)]
            command += ["--steps", str(steps)]
            done = subprocess.run(command, capture_output=True, text=True, cwd=peer.ROOT)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
            reports[name].append(json.loads(done.stdout.splitlines()[-1]))
    return [summary(name, kept) for name, kept in reports.items()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write `step-anatomy.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.anatomy", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="child processes of each variant (3)")
    parser.add_argument("--steps", type=int, default=4, help="steps timed and profiled in each (4)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the result")
    parser.add_argument("--child", type=int, choices=range(len(VARIANTS)), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if min(options.rounds, options.steps) < 1:
        parser.error("--rounds and --steps must be at least 1")
    if options.child is not None:
        print(json.dumps(child(list(VARIANTS)[options.child], options.steps)))
        return 0
    rows = measure(options.rounds, options.steps)
    torch.set_num_threads(1)  # as the children did, for the record
    result = {"date": machine.today(), "machine": machine.describe(), "batch": step.BATCH, "parts": PARTS}
    machine.write_json(options.out / "step-anatomy.json", {**result, "variants": rows})
    print(f"kept in {options.out / 'step-anatomy.json'}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
