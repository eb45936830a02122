"""Whole training steps: D2L's as published beside ours as `fit` runs them.

How glibc hands out memory is a setting of the process, and half of the difference. So each variant
runs in child processes of its own, one child after the other in turn, several rounds of them:
neighbours in time share what else the machine is doing. A child reports the seconds of each step
and the largest memory it ever held, which includes Python, torch and the few images it trains on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks import machine, peer, published
from d2lmini.data import Batch, Synthetic, load
from d2lmini.data.sources import InMemorySource
from d2lmini.interop import d2l as adapters
from d2lmini.train import Run, TrainConfig, fit, start_run

BATCH = published.BATCH_SIZE
# name: (precision, augmented)
OURS = {
    "float32": ("float32", False),
    "bfloat16": ("bfloat16", False),
    "bfloat16, images augmented": ("bfloat16", True),
}
D2L = "d2l"
WANTED = {"float32": 3.4, "bfloat16": 6.0}


def run(d2l: ModuleType, rounds: int, steps: int) -> Iterator[dict[str, Any]]:
    """Check that the networks agree, then a row for each of our variants beside D2L's."""
    check(d2l)
    reports: dict[str, list[dict[str, Any]]] = {name: [] for name in (D2L, *OURS)}
    for _ in range(rounds):
        for name, kept in reports.items():
            kept.append(_child(name, steps))
    own = _summary(reports[D2L])
    for name in OURS:
        yield _row(name, own, _summary(reports[name]))


def _row(name: str, d2l: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    row = {
        "group": "step",
        "variant": name,
        "work": f"training step, batch {BATCH}, {name}",
        "d2l_ms": d2l["seconds"] * 1e3,
        "ours_ms": ours["seconds"] * 1e3,
        "ratio": d2l["seconds"] / ours["seconds"],
        "rounds": ours["steps"],
        "d2l_images_per_second": BATCH / d2l["seconds"],
        "ours_images_per_second": BATCH / ours["seconds"],
        "d2l_peak_memory": d2l["peak_memory"],
        "ours_peak_memory": ours["peak_memory"],
        "note": "d2l: float32, as published; child processes in turn; medians of steps",
    }
    return row | ({"wanted": WANTED[name]} if name in WANTED else {})


def _summary(reports: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [s for report in reports for s in report["seconds"]]
    return {
        "seconds": statistics.median(seconds),
        "steps": len(seconds),
        "peak_memory": max(report["peak_memory"] for report in reports),
    }


def _child(name: str, steps: int) -> dict[str, Any]:
    """Run a variant in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.step", name, "--steps", str(steps)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=peer.ROOT)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr.strip()}")
    return json.loads(result.stdout.splitlines()[-1])


def check(d2l: ModuleType) -> None:
    """Same weights, predictions, targets and loss: the published network beside our adapter."""
    torch.manual_seed(0)
    theirs, ours = published.PublishedSSD(d2l), adapters.TinySSD(num_classes=1)
    copy_weights(theirs, ours)
    batch = random_batch(2)
    images, rows = batch.images.float(), truth(batch)
    expected = theirs(images)
    for a, b in zip(expected, ours(images), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4)
    targets = [f.multibox_target(expected.anchors, rows) for f in (d2l, adapters)]
    losses = [
        published.published_loss(expected.logits, labels, expected.offsets, wanted, mask)
        for wanted, mask, labels in targets
    ]
    torch.testing.assert_close(losses[1], losses[0])


def copy_weights(source: torch.nn.Module, target: torch.nn.Module) -> None:
    """Parameters and statistics, which both networks list in the same order."""
    values = list(source.state_dict().values())
    state = target.state_dict()
    if [v.shape for v in values] != [v.shape for v in state.values()]:
        raise RuntimeError("the two networks do not have the same layers")
    target.load_state_dict(dict(zip(state, values, strict=True)))


def random_batch(count: int) -> Batch:
    """Generated bananas."""
    return load(Synthetic("bananas", count=count), workers=0)


def truth(batch: Batch) -> Tensor:
    """Rows (N, G, 5) of class and corners, as D2L wants them."""
    return torch.cat([batch.labels.unsqueeze(-1).float(), batch.boxes], dim=-1)


def make_run(
    batch: Batch, precision: str = "auto", device: torch.device | str = "cpu", **options: Any
) -> Run:
    """A training run on a batch of one class, as `fit` starts it; `options` are those of TrainConfig."""
    config = TrainConfig(
        epochs=1000, batch_size=len(batch.images), precision=precision, augment=None, **options
    )
    run = start_run(InMemorySource(batch), ("banana",), config, None, torch.device(device))
    run.state.model.train()
    return run


# --- in the child ---------------------------------------------------------------------------------


def time_published(steps: int) -> list[float]:
    """Seconds of D2L's steps, after one to warm up; making the batch is not counted."""
    torch.manual_seed(0)
    net = published.PublishedSSD(peer.load()).train()
    optimizer = published.make_optimizer(net)
    batch = random_batch(BATCH)
    images, rows = batch.images.float(), truth(batch)
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        published.train_step(net, optimizer, images, rows)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def time_ours(name: str, steps: int) -> list[float]:
    """Seconds of the steps of `fit`, one an epoch, after one to warm up; the batch counts too."""
    precision, augmented = OURS[name]
    options = {} if augmented else {"augment": None}
    # Validation would be no part of the step, so there is none.
    config = TrainConfig(epochs=steps + 1, batch_size=BATCH, precision=precision, **options)
    result = fit(random_batch(BATCH), None, ("banana",), config, progress=False)
    return [row["seconds"] for row in result.history][1:]


def main() -> None:
    """What a child does: one variant, a line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=main.__doc__)
    parser.add_argument("variant", choices=(D2L, *OURS))
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    if options.variant == D2L:
        seconds = time_published(options.steps)
    else:
        seconds = time_ours(options.variant, options.steps)
    print(json.dumps({"seconds": seconds, "peak_memory": machine.peak_memory()}))


if __name__ == "__main__":
    main()
