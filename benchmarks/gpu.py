"""On a GPU: training and detection beside D2L's own code and beside what the GPU can do.

`python -m benchmarks.gpu` measures on one GPU, in one run:

- the two floors: arithmetic (the GPU's rate of multiplying bfloat16 matrices) and memory traffic (its rate
  of copying), and from both a lower bound of the time of a training step;
- training steps per second of D2L's own code, of this package step by step, and replayed as a CUDA graph;
- the share of matching and losses in a replayed step;
- images per second through network and detection, D2L's and ours;
- a whole run of the `bananas` recipe, twice: the second one has everything loaded and chosen.

Every time waits for the device before the clock is read.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks import floor, machine, peer, published, report, step
from benchmarks.curve import FOLDER
from benchmarks.growth import wait
from d2lmini.data import Batch, Synthetic, load
from d2lmini.detect import detect
from d2lmini.engine import devices, graphs
from d2lmini.engine.network import Network
from d2lmini.engine.validation import predict_batched
from d2lmini.inspect import multiply_adds
from d2lmini.losses import ssd_loss
from d2lmini.matching import match
from d2lmini.train import Run, fit
from d2lmini.transfer import recipe

BATCHES = (32, 64, 128, 256, 512)
WANTED = {"of_floor": 0.5, "times_d2l": 30, "matching_and_loss": 0.05, "bananas_seconds": 5, "ap50": 0.95}


def seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median seconds of a call, after two to warm up."""
    taken = []
    for _ in range(repeats + 2):
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[2:])


# --------------------------------------------------------------------------------------------------- floors


def rates(device: torch.device, repeats: int, side: int = 8192) -> dict[str, float]:
    """Multiply-adds per second in large bfloat16 products, and bytes per second of a large copy."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = seconds(lambda: a @ b, device, repeats)
    source = torch.empty(side * side * 2, device=device)
    target = torch.empty_like(source)
    copy = seconds(lambda: target.copy_(source), device, repeats)
    size = source.numel() * source.element_size()
    return {"multiply_adds": side**3 / product, "bytes": 2 * size / copy}  # a copy reads and writes


def traffic(network: Network, batch: Batch) -> float:
    """Bytes that a training step moves if everything between two convolutions is one pass.

    Normalising needs the whole output first, so it is a pass of its own. Per convolution with I bytes in
    and O out, of which P are left after pooling and ReLU: forward I + O, O + P; backward twice O + P (sums,
    then gradients) and O, then O + I (to the input) and I + O (to the weights): 3 I + 7 O + 3 P.
    """
    layers = floor.layers_of(network, batch)
    heights = [shape[2] for _, shape in layers]
    numbers = 0.0
    for (layer, given), height, following in zip(layers, heights, [*heights[1:], 0], strict=True):
        out = given[0] * layer.out_channels * math.prod(given[2:])
        left = out / 4 if following * 2 == height else out
        numbers += 3 * math.prod(given) + 7 * out + 3 * left
    return numbers * torch.finfo(network.dtype).bits / 8


def floors(network: Network, batch: Batch, rate: dict[str, float]) -> dict[str, float]:
    """Lower bounds of a training step in seconds, by arithmetic and by memory traffic."""
    # Backward multiplies twice as often as forward: once for the input, once for the weights.
    products = 3 * sum(multiply_adds(network.model).values()) * len(batch.images)
    return {
        "arithmetic": products / rate["multiply_adds"],
        "traffic": traffic(network, batch) / rate["bytes"],
    }


# ------------------------------------------------------------------------------------------------- training


def ours(batch: Batch, device: torch.device, graph: bool) -> tuple[Run, Callable[[], object]]:
    """A training run as `fit` starts it on this device, and its step, recorded already if by `graph`."""
    run, there = step.make_run(batch, device=device, graph=graph), batch.to(device)
    for _ in range(graphs.WARM_UP + 1):
        run.step(there, None)
    return run, lambda: run.step(there, None)


def theirs(d2l: ModuleType, batch: Batch, device: torch.device) -> Callable[[], object]:
    """D2L's step as published, its images on the device already."""
    net = published.PublishedSSD(d2l).to(device).train()
    optimizer = published.make_optimizer(net)
    images, rows = batch.images.float().to(device), step.truth(batch).to(device)
    return lambda: published.train_step(net, optimizer, images, rows)


def matching_and_loss(network: Network, batch: Batch, device: torch.device, repeats: int) -> float:
    """Seconds of targets, losses and their gradients alone, recorded as the step is."""
    there = batch.to(device)
    with torch.no_grad():
        predictions = tuple(t.clone() for t in network(there.images))

    def work(*tensors: Tensor) -> Tensor:
        given = [t.detach().requires_grad_() for t in predictions]
        targets = match(network.anchors, *tensors)
        return torch.autograd.grad(ssd_loss(*given, targets).total, given)[0]

    recorded = graphs.CUDAGraphStep(work)
    return seconds(lambda: recorded(there.boxes, there.labels), device, repeats + graphs.WARM_UP)


def training(
    size: int, d2l: ModuleType | None, device: torch.device, rate: dict[str, float], repeats: int
) -> dict[str, Any]:
    """One batch size: D2L, step by step, as a graph, and the floors."""
    batch = step.random_batch(size)
    run, one = ours(batch, device, graph=False)
    row: dict[str, Any] = {"batch": size, "eager_ms": seconds(one, device, repeats) * 1e3}
    run, one = ours(batch, device, graph=device.type == "cuda")
    best = seconds(one, device, repeats)
    least = floors(run.network, batch, rate)
    row |= {"graph_ms": best * 1e3, "images_per_second": size / best}
    row |= {f"{name}_floor_ms": s * 1e3 for name, s in least.items()}
    row["of_floor"] = max(least.values()) / best
    row["convolutions_ms"] = seconds(floor.convolutions(run.network, batch), device, repeats) * 1e3
    row["matching_and_loss"] = matching_and_loss(run.network, batch, device, repeats) / best
    if d2l is not None:
        row["d2l_ms"] = seconds(theirs(d2l, batch, device), device, max(3, repeats // 4)) * 1e3
        row["times_d2l"] = row["d2l_ms"] / row["graph_ms"]
    return row


# ------------------------------------------------------------------------------------------------ detection


def detection(size: int, d2l: ModuleType | None, device: torch.device, repeats: int) -> dict[str, Any]:
    """Images per second through network and detection, ours and D2L's, both with an untrained network."""
    batch = step.random_batch(size)
    model = step.make_run(batch, device=device).state.model.eval()
    images = batch.images.to(device)

    def ours() -> object:
        predictions = predict_batched(model, images, batch_size=size)
        return detect(*predictions, model.anchors)

    best = seconds(ours, device, repeats)
    row: dict[str, Any] = {"batch": size, "ours_ms": best * 1e3, "images_per_second": size / best}
    if d2l is None:
        return row
    net, pixels = published.PublishedSSD(d2l).to(device).eval(), images.float()

    @torch.no_grad()
    def other() -> object:
        out = net(pixels)
        return d2l.multibox_detection(out.logits.softmax(-1).permute(0, 2, 1), out.offsets, out.anchors)

    row["d2l_ms"] = seconds(other, device, 1) * 1e3
    return row | {"times_d2l": row["d2l_ms"] / row["ours_ms"]}


# ---------------------------------------------------------------------------------------------- a whole run


def whole_run(device: torch.device, graph: bool, count: int | None = None, **changes: Any) -> dict[str, Any]:
    """The `bananas` recipe from drawn images to the last score."""
    known = recipe("bananas")
    options = {"device": device.type, "graph": graph, "eval_every": known.config.epochs} | changes
    config = replace(known.config, **options)
    train_set, held_out = (
        load(Synthetic("bananas", count=n, size=known.image_size, split=split))
        for split, n in (("train", count or known.count), ("val", min(200, count or 200)))
    )
    start = time.perf_counter()
    result = fit(train_set, held_out, ("banana",), config, progress=False)
    wait(device)
    row = result.history[-1]
    return {"seconds": time.perf_counter() - start, "ap50": row["ap50"], "ap": row["ap"]}


def measure(
    device: torch.device, batches: Sequence[int], repeats: int, d2l: ModuleType | None
) -> dict[str, Any]:
    """Everything; each line is printed as it comes."""
    rate = rates(device, repeats)
    result: dict[str, Any] = {"rates": rate, "wanted": WANTED, "training": [], "detection": [], "runs": []}
    for size in batches:
        result["training"].append(training(size, d2l, device, rate, repeats))
        _log(f"training, {result['training'][-1]}")
    for size in (1, 32):
        result["detection"].append(detection(size, d2l, device, repeats))
        _log(f"detection, {result['detection'][-1]}")
    for _ in range(2):
        result["runs"].append(whole_run(device, graph=device.type == "cuda"))
        _log(f"bananas, {result['runs'][-1]}")
    return result


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write `benchmarks/results/gpu-DATE.json`, the page on speed's copy and the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES), help="images a step")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls of each kind (20)")
    parser.add_argument("--readme", action="store_true", help="put the table into benchmarks/README.md")
    parser.add_argument("--no-d2l", action="store_true", help="leave D2L's own code out")
    options = parser.parse_args(arguments)
    if min(options.repeats, *options.batches) < 1:
        parser.error("--repeats and --batches must be at least 1")
    if not torch.cuda.is_available():
        _log("benchmarks.gpu needs a CUDA device, and this machine has none; `make bench` measures the CPU")
        return 2
    d2l = None if options.no_d2l else peer.load()
    device = torch.device("cuda")
    with devices.deterministic(False):  # convolutions of fixed shapes are searched, as in `fit`
        result = measure(device, options.batches, options.repeats, d2l)
    result = {"date": machine.today(), "machine": machine.describe()} | result
    path = machine.RESULTS / f"gpu-{result['date']}.json"
    for place in (path, FOLDER / "gpu.json"):
        machine.write_json(place, result)
    text = report.gpu_table(result)
    if options.readme:
        report.put_into_readme(text, name="gpu")
    _log(f"{text}\nkept in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
