"""Everything that changes while a run goes on, the files that keep it, and how a run begins and ends.

A run's folder holds last.safetensors (from which it resumes, bit for bit), best.safetensors (by COCO AP)
and history.json, each written atomically, and a lock while a run writes there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import torch
from torch import Tensor

from d2lmini import checkpoint
from d2lmini.data.output import write_bytes, writing
from d2lmini.data.sources import BatchSource, InMemorySource
from d2lmini.engine import devices
from d2lmini.engine.distributed import Ranks, handle_signal
from d2lmini.engine.network import set_lr
from d2lmini.engine.prefetch import generator
from d2lmini.model import TinySSD

LAST, BEST, HISTORY, LOCK = "last.safetensors", "best.safetensors", "history.json", ".lock"
SAMPLED = 64  # images that stand for a data set in its fingerprint
# Options that say where and how fast a run goes, and not what it learns.
FREE = {"device", "disable_malloc_trim", "channels_last", "compile", "graph", "deterministic"}
FREE |= {"eval_every", "patience"}


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite; the message says where and what usually helps."""


class Interrupted(RuntimeError):
    """The user stopped the run; everything up to the last step is saved."""


@dataclass
class TrainState:
    """A run: the network and the optimizer, where the run is, and its options.

    `epoch` epochs and `step` steps of the next are done, which took `seconds` so far and whose class and box
    losses (2,) sum to `totals`. `config` and `data` (`fingerprint`) are JSON-able records.
    """

    model: TinySSD
    optimizer: torch.optim.Optimizer
    info: checkpoint.ModelInfo
    config: dict[str, Any]
    data: dict[str, Any]
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    totals: Tensor = field(default_factory=lambda: torch.zeros(2))
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def best_epoch(self) -> int | None:
        """The epoch with the highest COCO AP so far (from 1); None before the first score."""
        return best_epoch(self.history)

    def stalled(self, patience: int | None) -> bool:
        """Whether the last `patience` scores were no better than an earlier one."""
        scores = [row["ap"] for row in self.history if row.get("ap") is not None]
        return (
            patience is not None and bool(scores) and len(scores) - 1 - scores.index(max(scores)) >= patience
        )

    def check_finite(self, totals: Tensor) -> None:
        """Raise TrainingDiverged if the losses of the epoch so far are not finite."""
        if not bool(torch.isfinite(totals).all()):
            lr = float(self.optimizer.param_groups[0]["lr"])
            raise TrainingDiverged(
                f"the loss is no longer a finite number in epoch {self.epoch + 1}, step {self.step} "
                f"(learning rate {lr:.2g}): try a learning rate three times smaller, --precision float32, or "
                "a longer warm-up. Checkpoints of earlier epochs are as they were"
            )

    def row(self, ranks: Ranks, steps: int, batch_size: int) -> dict[str, Any]:
        """The row of the history of an epoch of so many steps, before it is scored."""
        cls, box = (ranks.mean(self.totals) / steps).tolist()
        return {
            "epoch": self.epoch + 1,
            "loss": cls + box,
            "cls_loss": cls,
            "box_loss": box,
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            "seconds": self.seconds,
            "images_per_second": steps * batch_size / self.seconds,
        }

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Add a row to the history and go to the start of the next epoch."""
        self.history.append(row)
        self.epoch, self.step, self.seconds = self.epoch + 1, 0, 0.0
        self.totals = torch.zeros_like(self.totals)

    def interrupted(self, out: Path | None, ranks: Ranks, steps: int) -> Interrupted:
        """Save where the run is, if there is a folder; what to raise."""
        self.totals = ranks.mean(self.totals)
        if out is not None:
            self.save(out)
        saved = f"saved to {out}; add --resume to go on" if out else "nothing was saved (no folder)"
        where = f"epoch {self.epoch + 1}, step {self.step} of {steps}"
        return Interrupted(f"stopped on request in {where}: {saved}")

    def save(self, out: Path) -> None:
        """Write last.safetensors: weights, optimizer, position and history, in one atomic file."""
        state = self.optimizer.state_dict()
        tensors = checkpoint.model_tensors(self.model)
        tensors |= {
            f"optimizer.{index}.{name}": torch.as_tensor(value)
            for index, values in state["state"].items()
            for name, value in values.items()
            if value is not None
        }
        tensors |= {"totals": self.totals, "rng": torch.get_rng_state()}
        record = {
            "model": checkpoint.describe_model(self.model, self._described()),
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            "config": self.config,
            "data": self.data,
            "position": [self.epoch, self.step, self.seconds],
            "history": self.history,
        }
        checkpoint.save_tensors(out / LAST, tensors, record)

    def save_epoch(self, out: Path) -> None:
        """After an epoch: the history, the state, and the best model if this epoch made it."""
        if self.best_epoch in (None, self.epoch):  # without any score the newest is the best
            checkpoint.save_model(out / BEST, self.model, self._described())
        self.save(out)
        text = json.dumps({"config": self.config, "epochs": self.history}, indent=1)
        write_bytes(out / HISTORY, text.encode())

    def _described(self) -> checkpoint.ModelInfo:
        """What a checkpoint says about itself: options, score, machine."""
        scored = [row for row in self.history if row.get("ap") is not None]
        last = {k: scored[-1][k] for k in ("epoch", "ap", "ap50")} if scored else {}
        notes = {"config": self.config, "score": last, "machine": devices.describe()}
        return replace(self.info, notes=notes)

    def open_folder(self, out: Path, resume: bool, defaults: dict[str, Any], ranks: Ranks) -> None:
        """Continue the run in the folder, or make sure that there is none to be overwritten.

        `defaults` are of options unknown to an older run. Raises ValueError where data or options differ.
        """
        path = out / LAST
        found = ranks.broadcast_object(  # the folder need not be there on other machines
            lambda: self._read(path, resume, defaults) if path.exists() else None
        )
        if found is not None:
            self._load(*found, path)

    def _read(
        self, path: Path, resume: bool, defaults: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and record of a run's file, if it is one and fits this run."""
        if not resume:
            raise ValueError(
                f"{path.parent} already holds a run: add --resume to go on with it, or choose another folder"
            )
        tensors, record = checkpoint.load_tensors(path)
        if "position" not in record:
            raise checkpoint.CheckpointError(f"{path} is a model, not a training run that can be resumed")
        if tuple(record["model"]["classes"]) != self.info.classes:
            raise ValueError(f"{path} was trained for the classes {record['model']['classes']}")
        known = record.get("data", {})
        if any(known[key] != self.data[key] for key in known.keys() & self.data.keys()):
            raise ValueError(
                f"the training data changed since {path} was written: resume with the same images and "
                "annotations, or choose another folder to train anew"
            )
        saved = _over(defaults, record["config"])
        for name, value in self.config.items():
            if name not in FREE and saved[name] != value:
                was = saved[name]
                differ = f"{name}={was}, now it is {value}" if name != "anchors" else "other anchors"
                raise ValueError(
                    f"{path} was trained with {differ}: resume with the same options, or choose another "
                    "folder"
                )
        return tensors, record

    def _load(self, tensors: dict[str, Tensor], record: dict[str, Any], path: Path) -> None:
        checkpoint.load_weights(self.model, tensors, path)
        states: dict[int, dict[str, Tensor]] = {}
        weights = [p for group in self.optimizer.param_groups for p in group["params"]]
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                weight = weights[int(index)]
                if value.shape == weight.shape:  # in the weight's memory layout, as fused optimizers insist
                    value = torch.empty_like(weight, dtype=value.dtype, device="cpu").copy_(value)
                states.setdefault(int(index), {})[name] = value
        # The groups stay this device's own: the options are the run's, how they are computed is not.
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": states})
        set_lr(self.optimizer, record["lr"])
        self.epoch, self.step, self.seconds = record["position"]
        self.totals = tensors["totals"].to(self.totals.device)
        self.history = record["history"]
        torch.set_rng_state(tensors["rng"])


def best_epoch(history: Sequence[dict[str, Any]]) -> int | None:
    """The epoch (from 1) of the row with the highest COCO AP, of equals the last; None without a score."""
    scored = [row for row in history if row.get("ap") is not None]
    return max(scored, key=lambda row: (row["ap"], row["epoch"]))["epoch"] if scored else None


def _over(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What is given, and the defaults of the rest, at any depth."""
    nested = {k: _over(v, given[k]) for k, v in defaults.items() if isinstance(v, dict) and given.get(k)}
    return defaults | given | nested


def fingerprint(source: BatchSource) -> dict[str, Any]:
    """What tells one training set from another: numbers and hashes of images and annotations.

    The images are `SAMPLED` ones, evenly spread; of a set in memory all annotations count. What was computed
    from images has their fingerprint: it may differ in the last bit from one processor to the next.
    """
    source = source.origin or source
    count = len(source)
    index = torch.linspace(0, count - 1, min(count, SAMPLED), dtype=torch.float64).round().long()
    (batch,) = source.batches([index])
    samples = [batch.sample(i) for i in range(len(index))]
    record = {"images": count, "samples": _sha256([t for sample in samples for t in sample])}
    if isinstance(source, InMemorySource):
        boxes, labels = source.ground_truth()
        record["annotations"] = _sha256([boxes[labels >= 0], labels])
    return record


def _sha256(tensors: Sequence[Tensor]) -> str:
    return hashlib.sha256(b"".join(t.cpu().numpy().tobytes() for t in tensors)).hexdigest()


def format_row(row: dict[str, Any]) -> str:
    """A history row as one line of text: 'epoch   1  loss 2.500  AP50 0.500  AP 0.200  61 images/s'."""
    scores = [f"  {k.upper()} {row[k]:.3f}" for k in ("ap50", "ap") if row.get(k) is not None]
    rate = f"  {row['images_per_second']:.0f} images/s"
    return f"epoch {row['epoch']:3d}  loss {row['loss']:.3f}{''.join(scores)}{rate}"


def check_data(train: BatchSource, validation: BatchSource | None, classes: Sequence[str]) -> None:
    """Raise ValueError for a set without images, labels without a class, or two sizes of images."""
    if not classes:
        raise ValueError("there are no classes: give at least one name")
    for name, data in (("training", train), ("validation", train if validation is None else validation)):
        if len(data) == 0:
            raise ValueError(f"the {name} set has no images")
        if data.top_label >= len(classes):
            raise ValueError(
                f"the {name} set has label {data.top_label}, but only {len(classes)} classes are named"
            )
    if validation is not None and validation.image_size != train.image_size:
        raise ValueError(
            f"training images are {train.image_size}, validation images {validation.image_size}: load "
            "both at one size"
        )


@contextlib.contextmanager
def run_lock(out: Path | None, ranks: Ranks) -> Iterator[None]:
    """Make the folder and hold its lock, so that two runs never write into the same one; rank 0 does.

    Raises ValueError when another run holds it, or the folder cannot be written to.
    """
    if out is None:
        yield
        return
    lock = filelock.FileLock(out / LOCK, blocking=False)

    def acquire() -> None:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
            except filelock.Timeout as error:
                raise ValueError(
                    f"another run is writing to {out}: wait for it, or choose another folder"
                ) from error

    ranks.broadcast_object(acquire)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initial weights (and a backbone's dropout) from the seed, the caller's own stream untouched."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def seed_rank(seed: int, state: TrainState, ranks: Ranks) -> None:
    """Other random numbers (a backbone's dropout) for every rank but the first, which keeps the run's."""
    if not ranks.is_main:
        torch.manual_seed(generator(seed, state.epoch, state.step, ranks.rank).initial_seed())


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[SimpleNamespace]:
    """The first Ctrl-C sets `asked`, and no step is cut in half; the second one raises."""
    stop = SimpleNamespace(asked=False, agreed=False)

    def handler(number: int, frame: Any) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    with handle_signal(signal.SIGINT, handler):
        yield stop
