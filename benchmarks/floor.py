"""A training step beside its convolutions alone: `python -m benchmarks.floor`, and part of `make bench`.

The convolutions are the floor, a lower bound of the step's time: the same layers on the same shapes, forward
and backward, in the same precision and layout, with everything between them left out. Both take turns in one
process, which keeps its large buffers as `fit` does. Then torch's profiler says where the rest of the step
goes. It runs on one thread and counts CPU time, so that a busy machine does not count (see
`benchmarks.anatomy`).

The page on speed shows the result, so it goes into the package: `d2lmini/widgets/results/`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks import anatomy, machine, step
from benchmarks.curve import FOLDER
from benchmarks.timing import Effort, alternate
from d2lmini import train
from d2lmini.data import Batch
from d2lmini.engine import devices
from d2lmini.engine.network import Network

PRECISIONS = ("float32", "bfloat16")
AIM = 0.85  # of the step's time should be convolutions


def layers_of(network: Network, batch: Batch) -> list[tuple[nn.Conv2d, torch.Size]]:
    """Every convolution of a network, with the shape of what it gets from a batch."""
    seen: list[tuple[nn.Conv2d, torch.Size]] = []
    hooks = [
        module.register_forward_hook(lambda module, given, _: seen.append((module, given[0].shape)))
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.no_grad():
        network(batch.images.to(network.device))
    for hook in hooks:
        hook.remove()
    return seen


def convolutions(network: Network, batch: Batch) -> Callable[[], object]:
    """A function that does the convolutions of a step and their gradients, and nothing else."""
    work = []
    for number, (layer, shape) in enumerate(layers_of(network, batch)):
        x = _like(network, torch.randn(shape), needed=number > 0)  # the images need no gradient
        weight, bias = (_like(network, p.detach(), needed=True) for p in (layer.weight, layer.bias))
        with torch.no_grad():
            slope = torch.randn_like(F.conv2d(x, weight, bias, padding=layer.padding))
        work.append((x, weight, bias, layer.padding, slope))

    def once() -> None:
        for x, weight, bias, padding, slope in work:
            wanted = [t for t in (x, weight, bias) if t.requires_grad]
            torch.autograd.grad(F.conv2d(x, weight, bias, padding=padding), wanted, slope)

    return once


def _like(network: Network, tensor: Tensor, needed: bool) -> Tensor:
    """A copy in the network's device, precision and layout that requires a gradient if one is `needed`."""
    tensor = tensor.to(network.device, network.dtype)
    tensor = tensor.contiguous(memory_format=network.layout) if tensor.ndim == 4 else tensor
    return tensor.requires_grad_(needed)


def parts(one: Callable[[], object], steps: int) -> dict[str, float]:
    """The share of each part (`anatomy.PARTS`) in a step, by the profiler."""
    ranges = {
        "match": anatomy.in_range(train.match, "matching"),
        "ssd_loss": anatomy.in_range(train.ssd_loss, "losses"),
    }
    with mock.patch.multiple(train, **ranges):
        one()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(steps):
                one()
    return dict(zip(anatomy.PARTS, anatomy.shares(profiler.events()), strict=True))


def measure(precision: str, steps: int, size: int = step.BATCH) -> dict[str, Any]:
    """A step and its floor in milliseconds (medians), what share the floor has, and the parts."""
    torch.manual_seed(0)
    batch = step.random_batch(size)
    run = step.make_run(batch, precision)
    one = partial(run.step, batch, None)
    both = {"step": one, "floor": convolutions(run.network, batch)}
    taken = alternate(both, Effort(least=steps, most=steps), time.process_time)
    whole, floor = (statistics.median(taken[name]) * 1e3 for name in ("step", "floor"))
    share = parts(one, max(1, steps // 2))
    return {
        "precision": precision,
        "step_ms": whole,
        "floor_ms": floor,
        "share": floor / whole,
        "parts_ms": {name: part * whole for name, part in share.items()},
        "rounds": steps,
    }


def run(steps: int, batch: int = step.BATCH) -> dict[str, Any]:
    """The whole result, with the machine it is from."""
    devices.disable_malloc_trim()
    threads, rows = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for precision in PRECISIONS:
            rows.append(measure(precision, steps, batch))
            print(line(rows[-1]), file=sys.stderr, flush=True)
        start = {"date": machine.today(), "machine": machine.describe()}
        return start | {"batch": batch, "aim": AIM, "rows": rows}
    finally:
        torch.set_num_threads(threads)


def line(row: dict[str, Any]) -> str:
    """A row as one line of text.

    >>> line({"precision": "float32", "step_ms": 900.0, "floor_ms": 540.0, "share": 0.6})
    'training step, float32: 900 ms, its convolutions alone 540 ms (60 %, aim 85 %)'
    """
    return (
        f"training step, {row['precision']}: {row['step_ms']:.0f} ms, its convolutions alone "
        f"{row['floor_ms']:.0f} ms ({row['share']:.0%}, aim {AIM:.0%})".replace("%", " %")
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write `floor.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floor", description=__doc__)
    parser.add_argument("--steps", type=int, default=9, help="steps, and floors, timed (9)")
    parser.add_argument("--batch", type=int, default=step.BATCH, help=f"images a step ({step.BATCH})")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the result")
    options = parser.parse_args(arguments)
    if min(options.steps, options.batch) < 1:
        parser.error("--steps and --batch must be at least 1")
    machine.write_json(options.out / "floor.json", run(options.steps, options.batch))
    print(f"kept in {options.out / 'floor.json'}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
