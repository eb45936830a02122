"""How time and memory grow with every size there is: `python -m benchmarks.growth`.

One size at a time grows, from what a laptop is given to what a large data set asks for, and all else stays.
On a CPU each point is measured in a process of its own, forked, so that the largest memory it ever held is
the point's, on one thread, and what is counted is CPU time, so that a busy machine does not count; on a GPU
the device keeps account of its memory. A curve ends early where a point takes longer
than `--limit` seconds or the next would not fit into the memory that is free.

A step in a curve that is steeper than the work it does is a cliff: `steepest` says how many times more than
the work the time grew between two neighbours (1: with it; below: the fixed cost is shared by more).

The page on speed shows the result, so it goes into the package: `d2lmini/widgets/results/`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import machine, step
from benchmarks.curve import FOLDER
from d2lmini.data import Batch
from d2lmini.detect import detect
from d2lmini.engine import devices
from d2lmini.losses import ssd_loss
from d2lmini.matching import Targets, match

LIMIT, REPEATS = 6.0, 3
ANCHORS = 5444  # TinySSD's at 256 pixels
Work = Callable[[], object]


@dataclass(frozen=True)
class Curve:
    """What grows, through which sizes, what is done at each, and how much work that is."""

    name: str
    what: str
    sizes: tuple[int, ...]
    prepare: Callable[[int, torch.device], Work]
    work: Callable[[int], float] = float


def random_boxes(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Boxes (*shape, 4) with sides from 2 % to 22 % of the image."""
    draw = torch.Generator().manual_seed(seed)
    center = torch.rand(*shape, 2, generator=draw)
    half = torch.rand(*shape, 2, generator=draw) * 0.1 + 0.01
    return torch.cat([center - half, center + half], dim=-1).clamp(0, 1)


def training(batch: int, size: int, device: torch.device) -> Work:
    """A training step on noise: what is in an image does not change how long it takes."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=draw)
    data = Batch(images, random_boxes((batch, 3)), torch.zeros(batch, 3, dtype=torch.int64))
    run, there = step.make_run(data, device=device), data.to(device)
    return lambda: run.step(there, None)


def targets(batch: int, anchors: int, objects: int, device: torch.device) -> Work:
    """Targets of a batch."""
    boxes, layout = random_boxes((batch, objects)).to(device), random_boxes((anchors,), 1).to(device)
    labels = torch.zeros(batch, objects, dtype=torch.int64, device=device)
    return lambda: match(layout, boxes, labels)


def predictions(batch: int, anchors: int, classes: int, device: torch.device) -> list[Tensor]:
    """Logits as of a trained network (one anchor in a hundred sees an object), offsets and anchors."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, anchors, classes + 1, generator=draw)
    logits[..., 0] += 9
    logits[:, ::100, 1] += 10
    offsets = torch.randn(batch, anchors, 4, generator=draw)
    return [t.to(device) for t in (logits, offsets, random_boxes((anchors,), 1))]


def detection(batch: int, anchors: int, classes: int, device: torch.device) -> Work:
    """Detections from the predictions for a batch."""
    given = predictions(batch, anchors, classes, device)
    return lambda: detect(*given)


def loss(batch: int, anchors: int, classes: int, device: torch.device) -> Work:
    """Both losses and their gradients."""
    logits, offsets, _ = predictions(batch, anchors, classes, device)
    labels = torch.zeros(batch, anchors, dtype=torch.int64, device=device)
    labels[:, ::100] = 1
    wanted = Targets(labels, torch.zeros_like(offsets))
    logits, offsets = logits.requires_grad_(), offsets.requires_grad_()
    return lambda: torch.autograd.grad(ssd_loss(logits, offsets, wanted).total, (logits, offsets))


COUNTS = (5_000, 16_000, 50_000, 160_000, 500_000)
CURVES = (
    Curve("batch", "training step, 128 pixels", (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
          lambda n, d: training(n, 128, d)),
    Curve("input", "training step, batch 4", (128, 192, 256, 384, 512, 768, 1024),
          lambda n, d: training(4, n, d), lambda n: float(n * n)),
    Curve("objects", f"targets, batch 8 × {ANCHORS:,} anchors", (1, 2, 5, 10, 20, 50, 100, 200, 500),
          lambda n, d: targets(8, ANCHORS, n, d)),
    Curve("classes", f"losses and gradients, batch 8 × {ANCHORS:,} anchors", (1, 3, 10, 30, 100),
          lambda n, d: loss(8, ANCHORS, n, d), lambda n: n + 1.0),
    Curve("classes", f"detection, batch 8 × {ANCHORS:,} anchors", (1, 3, 10, 30, 100),
          lambda n, d: detection(8, ANCHORS, n, d), lambda n: n + 1.0),
    Curve("anchors", "targets, 1 image, 20 objects", COUNTS, lambda n, d: targets(1, n, 20, d)),
    Curve("anchors", "targets, 1 image, 500 objects", COUNTS, lambda n, d: targets(1, n, 500, d)),
    Curve("anchors", "losses and gradients, 1 image, 20 classes", COUNTS, lambda n, d: loss(1, n, 20, d)),
    Curve("anchors", "detection, 1 image, 20 classes", COUNTS, lambda n, d: detection(1, n, 20, d)),
)  # fmt: skip


def point(curve: Curve, size: int, device: torch.device, repeats: int) -> dict[str, float]:
    """Median seconds of a size, after one call to warm up, and the bytes it needed beyond the start."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    devices.disable_malloc_trim()
    start = held(device)
    work = curve.prepare(size, device)
    taken = []
    for _ in range(repeats + 1):
        begin = clock()
        work()
        wait(device)
        taken.append(clock() - begin)
    return {"seconds": statistics.median(taken[1:]), "bytes": held(device) - start}


def held(device: torch.device) -> int:
    """The most memory held so far, in bytes."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else machine.peak_memory()


def wait(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def apart(curve: Curve, size: int, device: torch.device, repeats: int) -> dict[str, float]:
    """`point`, on a CPU in a forked process; raises RuntimeError when that ends without a result."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return point(curve, size, device, repeats)
    context = get_context("fork")  # nothing is computed here, so there are no threads to lose
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(point(curve, size, device, repeats)))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError(f"{curve.what}, {curve.name} {size}: the process ended without a result") from None
    finally:
        child.join()


def free(device: torch.device) -> float:
    """Bytes of memory that can still be had."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    return float(next(line.split()[1] for line in lines if line.startswith("MemAvailable"))) * 1024


def measure(curve: Curve, device: torch.device, repeats: int, limit: float) -> dict[str, Any]:
    """One curve: sizes, milliseconds, bytes, and the steepest step beside the work."""
    rows: list[tuple[int, float, float]] = []
    for size in curve.sizes:
        if rows:
            growth = curve.work(size) / curve.work(rows[-1][0])
            if growth * rows[-1][1] > limit or 1.2 * growth * rows[-1][2] > free(device):
                break
        got = apart(curve, size, device, repeats)
        rows.append((size, got["seconds"], got["bytes"]))
    result = {"name": curve.name, "what": curve.what, "sizes": [r[0] for r in rows]}
    result |= {"ms": [r[1] * 1e3 for r in rows], "bytes": [r[2] for r in rows]}
    return result | {"steepest": steepest(curve, rows), "ended_early": len(rows) < len(curve.sizes)}


def steepest(curve: Curve, rows: Sequence[tuple[int, float, float]]) -> float:
    """How many times more than the work the time grew, at most, from one size to the next.

    >>> curve = Curve("n", "squares", (1, 2, 4), lambda n, d: None)
    >>> steepest(curve, [(1, 1.0, 0), (2, 2.0, 0), (4, 12.0, 0)])
    3.0
    """
    steps = pairwise(rows)
    return max((b[1] / a[1] / (curve.work(b[0]) / curve.work(a[0])) for a, b in steps), default=1.0)


def line(result: dict[str, Any]) -> str:
    """A curve as one line of text."""
    ends = [f"{result[key][i]:,.1f}" for key, i in (("ms", 0), ("ms", -1))]
    sizes = f"{result['name']} {result['sizes'][0]:,} to {result['sizes'][-1]:,}"
    memory = max(result["bytes"]) / 2**20
    early = " (ended early)" if result["ended_early"] else ""
    return (
        f"{result['what']}, {sizes}{early}: {ends[0]} to {ends[1]} ms, up to {memory:,.0f} MB, steepest step "
        f"{result['steepest']:.1f} × the work"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write `growth-DEVICE.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"calls of each size ({REPEATS})")
    parser.add_argument("--limit", type=float, default=LIMIT, help=f"seconds a call may take ({LIMIT:g})")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the result")
    options = parser.parse_args(arguments)
    if options.repeats < 1 or not options.limit > 0:
        parser.error("--repeats must be at least 1, and --limit above 0")
    device = devices.pick_device(options.device)
    torch.set_num_threads(1)
    curves = []
    for curve in CURVES:
        curves.append(measure(curve, device, options.repeats, options.limit))
        print(line(curves[-1]), file=sys.stderr, flush=True)
    result = {"date": machine.today(), "machine": machine.describe(), "device": device.type, "curves": curves}
    path = options.out / f"growth-{device.type}.json"
    machine.write_json(path, result)
    print(f"kept in {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
