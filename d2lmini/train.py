"""Training: `TrainConfig` says what to do, `train_step` is one update, `fit` makes a run of them.

`fit` surrounds the step with what `engine/` provides: batches that are on the device when they are needed,
precision, several devices, recorded steps, validation, and checkpoints from which an interrupted run goes on
exactly as if it had not been. Every random choice is derived from (seed, epoch, step).
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from d2lmini.anchors import TINY_SSD_ANCHORS, AnchorSpec
from d2lmini.checkpoint import ModelInfo
from d2lmini.data.augment import AugmentConfig, AugmentParams, augment_batch
from d2lmini.data.images import placement
from d2lmini.data.samples import Batch, Sample
from d2lmini.data.sources import BatchSource, as_source
from d2lmini.engine import devices, distributed, graphs, state
from d2lmini.engine.distributed import Ranks
from d2lmini.engine.network import Network, set_lr
from d2lmini.engine.prefetch import DevicePrefetcher
from d2lmini.engine.state import TrainState
from d2lmini.engine.validation import score_columns, validate
from d2lmini.losses import LossConfig, Losses, ssd_loss
from d2lmini.matching import match
from d2lmini.model import TinySSD, init_class_bias

OPTIMIZERS, SCHEDULES = ("sgd", "adamw"), ("one_cycle", "constant")
LOG_INTERVAL = 50  # steps between two readings of the loss on a GPU, each of which synchronizes


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides how a run goes; `fit` stores it in the checkpoint.

    `epochs` passes over the training images in batches of `batch_size`; learning rate `lr` after a
    warm-up of `warmup` (share of all steps), then down a cosine to 0 (`schedule` "one_cycle"), or all
    the time ("constant"). `optimizer` is "adamw" or "sgd" (Nesterov, `momentum`); gradients are clipped
    to `max_grad_norm` (None: never). `prior_prob`: a new network believes in an object with this probability
    (`init_class_bias`; None: as it comes). All negatives count in the `loss`: with this bias they do better
    than SSD's hard ones (the question class_loss of `experiments/`). `iou_threshold` is that of matching.
    `precision`, `device`: "auto" or a name (see `engine.devices`). `augment` None: images as they are.
    `resize_mode` is how photographs got into the network's square ("stretch" or "letterbox"): training does
    not change with it, but a checkpoint has to tell. `disable_malloc_trim`: see `engine.devices`.
    `eval_every` epochs, and after the last one, the validation set is scored; `patience` scores without a
    better AP in a row end the run (None: it goes to the end, where one-cycle earns most).

    `compile` sends the network through torch.compile; `graph` records a whole step as a CUDA graph; where
    either cannot be had, a warning says so and the run goes on without. `sync_batch_norm` normalizes by the
    batches of all GPUs instead of each one's own. `deterministic` makes two runs on one device bit-equal.
    Raises ValueError naming the option that makes no sense.
    """

    epochs: int = 20
    batch_size: int = 16
    optimizer: str = "adamw"
    lr: float = 2e-3
    weight_decay: float = 5e-4
    momentum: float = 0.9
    warmup: float = 0.15
    schedule: str = "one_cycle"
    max_grad_norm: float | None = 5.0
    prior_prob: float | None = 0.01
    iou_threshold: float = 0.5
    loss: LossConfig = field(default_factory=lambda: LossConfig(negatives=None))
    augment: AugmentConfig | None = field(default_factory=AugmentConfig)
    anchors: AnchorSpec = TINY_SSD_ANCHORS
    resize_mode: str = "stretch"
    precision: str = "auto"
    device: str = "auto"
    channels_last: bool = True
    disable_malloc_trim: bool = True
    eval_every: int = 1
    patience: int | None = None
    seed: int = 0
    compile: bool = False
    graph: bool = False
    sync_batch_norm: bool = False
    deterministic: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "eval_every", "patience", "seed"):
            value, least = getattr(self, name), int(name != "seed")
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}: it must be at least {least}")
        for name in ("lr", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}: it must be > 0")
        for name, top in (("warmup", 1), ("momentum", 1), ("iou_threshold", 1), ("weight_decay", 1e9)):
            if not 0 <= getattr(self, name) <= top:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be from 0 to {top}")
        if self.prior_prob is not None and not 0 < self.prior_prob < 1:
            raise ValueError(f"prior_prob is {self.prior_prob}: give a probability between 0 and 1, or None")
        choices = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "precision": devices.PRECISIONS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose from {allowed}")
        placement((1, 1), (1, 1), self.resize_mode)

    def record(self) -> dict[str, Any]:
        """All options as JSON-able values, as a checkpoint keeps them."""
        return json.loads(json.dumps(asdict(self)))


def train_step(
    model: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer, config: TrainConfig
) -> Losses:
    """One update of a detector; returns its class and box loss, on the device.

    `model` has `anchors` (A, 4) and turns images into `Predictions`; `batch` is on the same device.
    Nothing here waits for a GPU.
    """
    targets = match(model.anchors, batch.boxes, batch.labels, config.iou_threshold)
    predictions = model(batch.images)
    losses = ssd_loss(*predictions, targets, config.loss)
    optimizer.zero_grad(set_to_none=True)
    losses.total.backward()
    if config.max_grad_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    optimizer.step()
    return Losses(*(loss.detach() for loss in losses))


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW or SGD; weight decay for convolutions only, not for biases and batch normalization.

    On CUDA one kernel updates everything (`fused`), and the learning rate is a tensor there.
    """
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    options: dict[str, Any] = {"lr": config.lr}
    if weights[0].device.type == "cuda":
        options = {"lr": torch.full((), config.lr, device=weights[0].device), "fused": True}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, **options)
    momentum = config.momentum
    return torch.optim.SGD(groups, momentum=momentum, nesterov=momentum > 0, **options)


def one_cycle(step: int, steps: int, peak: float, warmup: float = 0.15) -> float:
    """Learning rate of a step (from 0): linear from peak / 25 up, then a cosine down to about 0.

    Source: Smith and Topin 2017 (super-convergence), with a cosine for the second half.

    >>> [round(one_cycle(s, 100, 1.0, 0.2), 2) for s in (0, 19, 60, 99)]
    [0.09, 1.0, 0.48, 0.0]
    """
    rise = max(1, round(warmup * steps))
    if step < rise:
        return peak * (1 / 25 + (1 - 1 / 25) * (step + 1) / rise)
    return peak * 0.5 * (1 + math.cos(math.pi * (step + 1 - rise) / max(1, steps - rise)))


Images = Batch | Dataset[Sample] | BatchSource  # annotated images, in memory or as they are read


class FitResult(NamedTuple):
    """The trained `model` (evaluation mode), `history` (a dict per epoch) and the epoch with the best AP."""

    model: TinySSD
    history: list[dict[str, Any]]
    best_epoch: int | None


def fit(
    train: Images,
    validation: Images | None,
    classes: Sequence[str],
    config: TrainConfig | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    model: TinySSD | None = None,
    progress: bool = True,
    on_epoch: Callable[[TinySSD, dict[str, Any]], None] | None = None,
) -> FitResult:
    """Train a detector on annotated images and score it on others after every epoch.

    `train` and `validation` are whole data sets, in memory (`data.load`) or left on disk (`data.sources`),
    with the same result. `model`, a network of your own, is trained in place. The folder `out` receives
    last.safetensors, best.safetensors and history.json after every epoch; `resume` continues what is there,
    bit for bit on one CPU, and starts anew where nothing is. Raises ValueError for data or options that do
    not fit, TrainingDiverged when the loss is not finite, and Interrupted, after saving, for Ctrl-C.

    Started by torchrun, every process calls this with the same data and options; `batch_size` is the sum
    over all ranks. Rank 0 writes and shows. Raises RankLost when another rank is gone.

    `on_epoch(model, row)` is called after every epoch, scored and saved, with the network and the epoch's
    row of the history. It may use both and draw random numbers: training goes on as if it had not.
    """
    config = TrainConfig() if config is None else config
    train, validation = as_source(train), None if validation is None else as_source(validation)
    state.check_data(train, validation, classes)
    if config.disable_malloc_trim:
        devices.disable_malloc_trim()
    device = devices.pick_device(distributed.local_device(config.device))
    folder = None if out is None else Path(out)
    with contextlib.ExitStack() as stack:
        ranks = stack.enter_context(distributed.process_group(device))
        stack.enter_context(devices.deterministic(config.deterministic))
        stack.enter_context(state.run_lock(folder, ranks))
        stack.enter_context(state.seeded(config.seed))
        run = start_run(train, classes, config, model, device, ranks)
        if folder is not None:
            run.state.open_folder(folder, resume, TrainConfig().record(), ranks)
        state.seed_rank(config.seed, run.state, ranks)
        stop = stack.enter_context(state.stop_on_interrupt())
        folder, progress = (folder, progress) if ranks.is_main else (None, False)
        while run.state.epoch < config.epochs and not run.state.stalled(config.patience):
            row = _train_epoch(run, stop, progress)
            if stop.agreed:
                raise run.state.interrupted(folder, ranks, run.steps_per_epoch)
            distributed.broadcast_buffers(run.state.model, ranks)
            last = run.state.epoch + 1 == config.epochs
            if validation is not None and (last or (run.state.epoch + 1) % config.eval_every == 0):
                options = {"match_iou_threshold": config.iou_threshold, "precision": config.precision}
                row |= score_columns(validate(run.state.model, validation, classes, ranks=ranks, **options))
            run.state.end_epoch(ranks.broadcast_object(lambda row=row: row))
            if folder is not None:
                run.state.save_epoch(folder)
            if progress:
                tqdm.write(state.format_row(run.state.history[-1]))
            if on_epoch is not None and ranks.is_main:
                with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                    on_epoch(run.state.model.eval(), dict(run.state.history[-1]))
    return FitResult(run.state.model.eval(), run.state.history, run.state.best_epoch)


class Run(NamedTuple):
    """What a run works with: its options, its state, and a step that augments, computes and updates."""

    config: TrainConfig
    state: TrainState
    network: Network
    prefetcher: DevicePrefetcher
    step: Callable[[Batch, AugmentParams | None], Tensor]
    ranks: Ranks
    steps_per_epoch: int


def start_run(
    train: BatchSource,
    classes: Sequence[str],
    config: TrainConfig,
    model: TinySSD | None,
    device: torch.device,
    ranks: Ranks | None = None,
) -> Run:
    """A run at its first step: network and optimizer on the device, and batches on their way to it."""
    ranks, count = ranks or Ranks(), len(train)
    for number, what in ((config.batch_size, "a batch"), (count, "the training set")):
        if number < ranks.world_size:
            raise ValueError(
                f"{what} has {number} images for {ranks.world_size} ranks: start fewer, or raise batch_size "
                "(it is the sum over all ranks)"
            )
    if model is not None and model.num_classes != len(classes):
        raise ValueError(f"the model has {model.num_classes} classes, but {len(classes)} are named")
    if model is not None and model.score_function != "softmax":
        raise ValueError("the model's scores are sigmoids, the losses a softmax's: call replace_class_heads")
    if model is None:
        model = TinySSD(len(classes), train.image_size, config.anchors)
        if config.prior_prob is not None:
            init_class_bias(model, config.prior_prob)
    network = Network(
        model.to(device),
        devices.pick_precision(config.precision, device),
        channels_last=config.channels_last,
        compile=config.compile,
        ranks=ranks,
        sync_batch_norm=config.sync_batch_norm,
    )
    optimizer = make_optimizer(model, config)
    info = ModelInfo(tuple(classes), resize_mode=config.resize_mode, split=train.split_record)
    run_state = TrainState(model, optimizer, info, config.record(), state.fingerprint(train))
    run_state.totals = torch.zeros(2, device=device)
    prefetcher = DevicePrefetcher(train, device, config.batch_size, config.augment, config.seed)

    def step(batch: Batch, params: AugmentParams | None) -> Tensor:
        if params is not None:
            batch = augment_batch(batch, config.augment, params)
        return torch.stack(train_step(network, batch, optimizer, config))

    step = graphs.record_steps(step, optimizer, device, ranks) if config.graph else step
    return Run(config, run_state, network, prefetcher, step, ranks, max(1, count // config.batch_size))


def _train_epoch(run: Run, stop: SimpleNamespace, progress: bool) -> dict[str, Any]:
    """The steps of one epoch that are still to be done; returns its row of the history."""
    config, now, steps = run.config, run.state, run.steps_per_epoch
    now.model.train()
    start = time.perf_counter() - now.seconds
    title = f"epoch {now.epoch + 1}/{config.epochs}"
    bar = tqdm(range(now.step, steps), desc=title, unit="batch", leave=False, disable=not progress)
    batches = run.prefetcher.epoch(now.epoch, now.step, steps, run.ranks)
    for step, (batch, params) in zip(bar, batches, strict=True):
        if config.schedule == "one_cycle":
            done, total = now.epoch * steps + step, config.epochs * steps
            set_lr(now.optimizer, one_cycle(done, total, config.lr, config.warmup))
        now.totals = now.totals + run.step(batch, params)
        now.step, now.seconds = step + 1, time.perf_counter() - start
        if now.totals.device.type == "cpu" or now.step == steps or now.step % LOG_INTERVAL == 0:
            loss = _sync_losses(run, stop)
            rate = now.step * config.batch_size / now.seconds
            bar.set_postfix_str(f"loss {loss:.3f}, {rate:.0f} images/s")
            if stop.agreed:
                break
    now.seconds = time.perf_counter() - start
    return now.row(run.ranks, steps, min(config.batch_size, len(run.prefetcher.source)))


def _sync_losses(run: Run, stop: SimpleNamespace) -> float:
    """The mean loss of the epoch so far; all ranks synchronize and stop at the same step."""
    totals = run.ranks.mean(run.state.totals)
    stop.agreed = run.ranks.any(stop.asked, totals.device)
    run.state.check_finite(totals)
    return float(totals.sum()) / run.state.step
