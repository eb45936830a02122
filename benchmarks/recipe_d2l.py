"""What D2L's published recipe reaches: train it, score it with `d2lmini.evaluate`, keep the row.

    python -m benchmarks.recipe_d2l --fast

trains D2L's network with D2L's functions, loss and settings on generated bananas and scores it on
200 held-out images. `--fast` changes how memory is handled (buffers kept, channels last), not
what is computed: still float32, still every operation of the recipe. The speed of the recipe as
published is measured by `python -m benchmarks --only step`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks import machine, peer, published
from d2lmini.data import Batch, Synthetic, load
from d2lmini.detect import detect
from d2lmini.engine import devices
from d2lmini.engine.anchor_errors import anchor_metrics
from d2lmini.evaluate import evaluate
from d2lmini.matching import match
from d2lmini.model import Predictions

HELD_OUT = 200
DETECTION = {"score_threshold": 0.01, "iou_threshold": 0.5, "top_k": None}  # as D2L detects


class Images(Dataset[tuple[Tensor, Tensor]]):
    """Floats from 0 to 255 and rows (G, 5) of class and corners, as D2L's loader yields them."""

    def __init__(self, batch: Batch) -> None:
        self.images = batch.images
        self.truth = torch.cat([batch.labels.unsqueeze(-1).float(), batch.boxes], dim=-1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index].float(), self.truth[index]


def draw(count: int, split: str) -> Batch:
    """Generated bananas, in memory."""
    return load(Synthetic("bananas", count=count, split=split))


def train_epoch(
    net: published.PublishedSSD,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader[tuple[Tensor, Tensor]],
    layout: torch.memory_format,
) -> float:
    """One pass over the data; returns the mean loss."""
    net.train()
    losses = [
        published.train_step(net, optimizer, images.contiguous(memory_format=layout), truth)
        for images, truth in loader
    ]
    return float(torch.stack(losses).mean())


@torch.no_grad()
def score(
    net: published.PublishedSSD, held_out: Batch, classes: Sequence[str] = ("banana",)
) -> dict[str, Any]:
    """AP and D2L's two numbers, with the always-background baseline, on held-out images."""
    net.eval()
    found, sums, candidates = [], 0, []
    for start in range(0, len(held_out.images), published.BATCH_SIZE):
        batch = held_out.select(slice(start, start + published.BATCH_SIZE))
        out = net(batch.images.float())
        predictions = Predictions(out.logits, out.offsets.unflatten(1, (-1, 4)))
        anchors = out.anchors[0]
        candidates.append(out.logits.softmax(-1)[..., 1:].amax(-1) >= DETECTION["score_threshold"])
        found += detect(*predictions, anchors, **DETECTION)
        sums = sums + anchor_metrics(predictions, match(anchors, batch.boxes, batch.labels))
    metrics = evaluate(found, held_out.boxes, held_out.labels, classes=classes)
    keys = ("ap50", "ap75", "ap", "ar100")
    share = torch.cat(candidates).float().mean().item()  # what detection has to look at
    scores = {key: getattr(metrics, key) for key in keys}
    return {**scores, **sums.as_dict(), "anchors_above_threshold": share}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train and score; returns the row that is kept."""
    kept = devices.disable_malloc_trim() if options.fast else False
    torch.manual_seed(options.seed)
    layout = torch.channels_last if options.fast else torch.contiguous_format
    net = published.PublishedSSD(peer.load()).to(memory_format=layout)
    optimizer = published.make_optimizer(net)
    print(f"drawing {options.count} + {options.held_out} images ...", flush=True)
    images, held_out = Images(draw(options.count, "train")), draw(options.held_out, "val")
    loader = DataLoader(images, published.BATCH_SIZE, shuffle=True)
    seconds, scores = 0.0, []
    for epoch in range(1, options.epochs + 1):
        start = time.perf_counter()
        loss = train_epoch(net, optimizer, loader, layout)
        seconds += time.perf_counter() - start
        line = f"epoch {epoch:2d}/{options.epochs}  loss {loss:.5f}  {seconds:.0f} s"
        if epoch == options.epochs or epoch % options.every == 0:
            scores.append({"epoch": epoch, "loss": loss, **score(net, held_out)})
            line += f"  AP50 {scores[-1]['ap50']:.3f}  AP {scores[-1]['ap']:.3f}"
        print(line, flush=True)
    return {
        **_settings(options, kept),
        "train_seconds": round(seconds, 1),
        "images_per_second": round(options.count * options.epochs / seconds, 1),
        "peak_memory": machine.peak_memory(),
        "final": scores[-1],
        "scores": scores,
    }


def _settings(options: argparse.Namespace, kept: bool) -> dict[str, Any]:
    fast = "channels_last" + (", allocations kept" if kept else "")
    return {
        "recipe": "D2L 14.7 as published (d2l 1.0.3)",
        "date": machine.today(),
        "seed": options.seed,
        "epochs": options.epochs,
        "train_images": options.count,
        "held_out_images": options.held_out,
        "batch_size": published.BATCH_SIZE,
        "memory": fast if options.fast else "as published",
        "detection": DETECTION,
        "machine": machine.describe(),
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recipe_d2l", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("--fast", action="store_true", help="keep buffers, channels last")
    parser.add_argument("--epochs", type=int, default=published.EPOCHS)
    parser.add_argument("--seed", type=int, default=0, help="of weights and order, not of the data")
    parser.add_argument("--count", type=int, default=1000, help="training images")
    parser.add_argument("--held-out", type=int, default=HELD_OUT, help="images to score on")
    parser.add_argument("--every", type=int, default=5, help="score after every so many epochs")
    options = parser.parse_args(arguments)
    for name in ("epochs", "count", "held_out", "every"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print, and write `benchmarks/results/recipe-d2l-…json`."""
    options = parse(arguments)
    row = run(options)
    short = f"-{options.epochs}x{options.count}" if (options.epochs, options.count) != (20, 1000) else ""
    path = machine.RESULTS / f"recipe-d2l-seed{options.seed}{short}.json"
    machine.write_json(path, row)
    print({k: round(v, 4) if isinstance(v, float) else v for k, v in row["final"].items()})
    print(f"kept in {path}")


if __name__ == "__main__":
    main()
