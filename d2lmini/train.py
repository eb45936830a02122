"""Training: `TrainConfig` says what to do, `fit` does it, and nothing is lost when it stops.

One step, top to bottom: pictures of the batch (augmented), anchors matched with their objects, one
forward pass, two losses, one backward pass, one update. Every random choice is derived from (seed,
epoch, step), so a run that was interrupted anywhere goes on exactly as if it had not been.

The same loop runs on a processor, on a GPU and on several (`distributed`): a batch is the whole run's,
and each rank works on its share. On a GPU no step waits for the device: pictures are there before they
are needed (`delivery`), the learning rate is a number on the device, and losses are looked at now and then.
With `graph` a whole step is recorded and replayed (`capture`).
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from d2lmini import checkpoint, distributed, runtime
from d2lmini.anchors import TINY_SSD_ANCHORS, AnchorSpec
from d2lmini.capture import Compiled, Recorded
from d2lmini.data.augment import AugmentConfig, Lots, augment_batch, draw_lots
from d2lmini.data.feed import Feed, as_feed
from d2lmini.data.images import placement
from d2lmini.data.samples import Batch, Sample, concatenate
from d2lmini.delivery import Delivery
from d2lmini.detect import Detections, detect
from d2lmini.distributed import Ranks
from d2lmini.evaluate import AnchorMetrics, Metrics, anchor_metrics, evaluate
from d2lmini.losses import LossConfig, ssd_loss
from d2lmini.matching import Targets, match
from d2lmini.model import Predictions, TinySSD, set_prior

OPTIMISERS = ("sgd", "adamw")
LOOK = 50  # steps between two looks at the loss on a GPU, where a look is a stop
SCHEDULES = ("one_cycle", "constant")
LAST, BEST, HISTORY, LOCK = "last.safetensors", "best.safetensors", "history.json", ".lock"


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite; the message says where and what usually helps."""


class Interrupted(RuntimeError):
    """The user stopped the run; everything up to the last step is saved."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides how a run goes; `fit` stores it in the checkpoint.

    `epochs` passes over the training pictures in batches of `batch_size`; learning rate `lr` after a
    warm-up of `warmup` (share of all steps), then down a cosine to 0 (`schedule` "one_cycle"), or all
    the time ("constant"). `optimiser` is "adamw" or "sgd" (Nesterov, `momentum`); gradients are clipped
    to the norm `clip` (None: never). `prior`: a new network believes in an object with this probability
    (`set_prior`; None: as it comes). All negatives count in the `loss`: after such a start they do better
    than SSD's hard ones (the question class_loss of `experiments/`). `iou_threshold` is that of matching.
    `precision`, `device`: "auto" or a name (see `runtime`). `augment` None: pictures as they are. `fit` is
    how photographs got into the network's square ("stretch" or "letterbox", see `data.annotated`); training
    does not change with it, but a checkpoint has to tell. `keep_allocations` see `runtime.keep_allocations`.
    `eval_every` epochs, and after the last one, the validation set is scored; `patience` scores without a
    better AP in a row end the run (None: it goes to the end, where one-cycle earns most).

    `compile` sends the network through torch.compile; `graph` records a whole step as a CUDA graph; where
    either cannot be had, a warning says so and the run goes on without. `sync_batch_norm` normalises by the
    batches of all ranks instead of each rank's own. `deterministic` makes two runs on one device bit-equal
    (`runtime.deterministic`). Raises ValueError naming the option that makes no sense.
    """

    epochs: int = 20
    batch_size: int = 16
    optimiser: str = "adamw"
    lr: float = 2e-3
    weight_decay: float = 5e-4
    momentum: float = 0.9
    warmup: float = 0.15
    schedule: str = "one_cycle"
    clip: float | None = 5.0
    prior: float | None = 0.01
    iou_threshold: float = 0.5
    loss: LossConfig = field(default_factory=lambda: LossConfig(negatives=None))
    augment: AugmentConfig | None = field(default_factory=AugmentConfig)
    anchors: AnchorSpec = TINY_SSD_ANCHORS
    fit: str = "stretch"
    precision: str = "auto"
    device: str = "auto"
    channels_last: bool = True
    keep_allocations: bool = True
    eval_every: int = 1
    patience: int | None = None
    seed: int = 0
    compile: bool = False
    graph: bool = False
    sync_batch_norm: bool = False
    deterministic: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "eval_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience is {self.patience}: it must be at least 1, or None")
        for name in ("lr", "clip"):
            value = getattr(self, name)
            if not (name == "clip" and value is None) and not value > 0:
                raise ValueError(f"{name} is {value}: it must be > 0")
        for name, top in (("warmup", 1), ("momentum", 1), ("iou_threshold", 1), ("weight_decay", 1e9)):
            if not 0 <= getattr(self, name) <= top:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be from 0 to {top}")
        if self.prior is not None and not 0 < self.prior < 1:
            raise ValueError(f"prior is {self.prior}: give a probability between 0 and 1, or None")
        choices = {"optimiser": OPTIMISERS, "schedule": SCHEDULES, "precision": runtime.PRECISIONS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose from {allowed}")
        placement((1, 1), (1, 1), self.fit)


class Recipe(NamedTuple):
    """What to train a kind of data with: the side of its pictures in pixels, how many to generate for
    training, and the configuration."""

    image_size: int
    count: int
    config: TrainConfig


MILD = AugmentConfig(flip=0.5, colour=0.3, expand=0, crop=0)
LONG_RATIOS = ((1, 2, 0.5, 3, 1 / 3),) * 5  # a banana is up to five times as long as wide
# For objects from 4 % to 80 % of the picture: each map carries anchors half the size of TinySSD's, so
# that its receptive field sees the whole object and some of what is around it.
FINE_ANCHORS = AnchorSpec(
    sizes=((0.06, 0.1), (0.15, 0.21), (0.29, 0.38), (0.5, 0.61), (0.75, 0.88)),
    ratios=LONG_RATIOS,
)
RECIPES = {
    # At 128 pixels TinySSD's receptive fields are twice as large beside a banana as at 256, and a picture
    # costs a quarter. Drawing more pictures helps more than seeing the same ones more often.
    "bananas": Recipe(
        128,
        3000,
        TrainConfig(epochs=9, augment=MILD, anchors=AnchorSpec(TINY_SSD_ANCHORS.sizes, LONG_RATIOS)),
    ),
    "scenes": Recipe(256, 3000, TrainConfig(epochs=8, augment=MILD, anchors=FINE_ANCHORS)),
}
# `tailor` fits it to a folder. Hard negatives: what all of them do to a few hundred pictures is not measured.
FOLDER_RECIPE = Recipe(256, 0, TrainConfig(epochs=60, anchors=FINE_ANCHORS, loss=LossConfig(), prior=None))


def recipe(data: str = "bananas") -> Recipe:
    """The recipe for a data set: one for each preset, and one for folders of your own."""
    return RECIPES.get(data, FOLDER_RECIPE)


Pictures = Batch | Dataset[Sample] | Feed  # annotated pictures as they are held, or as they are read
OnEpoch = Callable[[TinySSD, dict[str, Any]], None]


class FitResult(NamedTuple):
    """The trained `model` (evaluation mode), `history` (a dict per epoch) and the epoch with the best
    AP."""

    model: TinySSD
    history: list[dict[str, Any]]
    best_epoch: int | None


def fit(
    train: Pictures,
    validation: Pictures | None,
    classes: Sequence[str],
    config: TrainConfig | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    model: TinySSD | None = None,
    progress: bool = True,
    on_epoch: OnEpoch | None = None,
) -> FitResult:
    """Train a detector on annotated pictures and score it on others after every epoch.

    `train` and `validation` are whole data sets: in memory (see `data.load`), or left on disk for other
    processes to read ahead (see `data.feed`), with the same result. `model` starts from a network of your
    own instead of a new TinySSD. With `out`, that folder receives last.safetensors and best.safetensors
    (by COCO AP) and history.json after every epoch; `resume` continues what is there, bit for bit on one
    CPU, and starts anew where nothing is. Raises ValueError for data or options that do not fit (a folder
    that holds another run, too), TrainingDiverged when the loss is no longer a number, and Interrupted
    after saving when the user pressed Ctrl-C.

    Started by torchrun, every process calls this with the same data and options; `batch_size` is the sum
    over all ranks. Each gets the same history; rank 0 writes and shows. Raises RankLost when another rank
    is gone.

    `on_epoch(model, row)` is called after every epoch, scored and saved, with the network and the epoch's
    row of the history. It may use both and draw random numbers: training goes on as if it had not.
    """
    config = TrainConfig() if config is None else config
    train, validation = as_feed(train), None if validation is None else as_feed(validation)
    _check_data(train, validation, classes)
    if config.keep_allocations:
        runtime.keep_allocations()
    device = runtime.pick_device(distributed.device_name(config.device))
    with distributed.joined(device) as ranks, runtime.deterministic(config.deterministic):
        folder = None if out is None else Path(out)
        with _claimed(folder, ranks, device), _seeded(config.seed):
            run = _Run(train, classes, config, model, device, ranks)
            if folder is not None:
                _open_folder(run, folder, resume)
            _own_numbers(run)
            folder, progress = (folder, progress) if ranks.first else (None, False)
            with _stop_on_request() as stop:
                _train(run, validation, folder, stop, progress, on_epoch)
    return FitResult(run.model.eval(), run.history, run.best_epoch)


class _Run:
    """Everything that changes while training, and so everything that a checkpoint has to hold."""

    def __init__(
        self,
        train: Pictures,
        classes: Sequence[str],
        config: TrainConfig,
        model: TinySSD | None,
        device: torch.device | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        train = as_feed(train)
        self.config, self.classes = config, tuple(classes)
        self.ranks = Ranks() if ranks is None else ranks
        self.device = runtime.pick_device(config.device) if device is None else device
        self.dtype = runtime.pick_precision(config.precision, self.device)
        self.count = len(train)
        _check_shares(self)
        self.model = TinySSD(len(classes), train.image_size, config.anchors) if model is None else model
        if model is None and config.prior is not None:
            set_prior(self.model, config.prior)
        self.layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.model.to(self.device, memory_format=self.layout)
        self.network = _network(self)
        self.optimiser = make_optimiser(self.model, config)
        self.delivery = Delivery(train, self.device)
        self.epoch = self.step = 0  # epochs done; steps done of the present one
        self.steps_per_epoch = max(1, self.count // config.batch_size)
        self.totals = torch.zeros(2, device=self.device)  # class and box loss of this epoch so far
        self.seconds = 0.0  # of this epoch so far
        self.history: list[dict[str, Any]] = []

    @property
    def best_epoch(self) -> int | None:
        """The epoch with the highest COCO AP so far (from 1); None before the first score."""
        scored = [row for row in self.history if row.get("ap") is not None]
        return max(scored, key=lambda row: (row["ap"], row["epoch"]))["epoch"] if scored else None

    @property
    def finished(self) -> bool:
        return self.epoch >= self.config.epochs or self._stalled

    @property
    def _stalled(self) -> bool:
        """Whether the last `patience` scores were all below an earlier one."""
        if self.config.patience is None or self.best_epoch is None:
            return False
        scored = [row["epoch"] for row in self.history if row.get("ap") is not None]
        return sum(epoch > self.best_epoch for epoch in scored) >= self.config.patience


def _network(run: _Run) -> nn.Module:
    """The model as a step calls it: with gradients of all ranks, compiled if that is asked for."""
    if run.config.sync_batch_norm and not run.ranks.alone:
        distributed.synchronise_batch_norm(run.model)
    network = distributed.wrap(run.model, run.ranks, run.device)
    return Compiled(network) if run.config.compile else network


def _step_function(run: _Run) -> Callable[[Batch, Lots | None], Tensor]:
    """`train_step` of this run; with `graph`, recorded and replayed where that can be done."""
    if not run.config.graph:
        return lambda batch, lots: train_step(run, batch, lots)
    if run.device.type != "cuda" or not run.ranks.alone:
        warnings.warn("graph needs one CUDA device: the steps run unrecorded", stacklevel=4)
        return lambda batch, lots: train_step(run, batch, lots)

    def step(*tensors: Tensor) -> Tensor:
        for group in run.optimiser.param_groups:
            if "capturable" in group:  # AdamW wants to be told when it is recorded, and only then
                group["capturable"] = torch.cuda.is_current_stream_capturing()
        return train_step(run, Batch(*tensors[:3]), Lots(*tensors[3:]) if tensors[3:] else None)

    recorded = Recorded(step)
    return lambda batch, lots: recorded(*batch, *(lots or ()))


def _train(
    run: _Run,
    validation: Feed | None,
    out: Path | None,
    stop: _Stop,
    progress: bool,
    on_epoch: OnEpoch | None,
) -> None:
    """Epoch after epoch, each followed by its score and its checkpoint."""
    advance = _step_function(run)
    while not run.finished:
        _train_epoch(run, advance, stop, progress)
        if stop.asked:
            totals = run.ranks.total(run.totals)
            if out is not None:
                save_state(run, out, totals)
            where = f"epoch {run.epoch + 1}, step {run.step} of {run.steps_per_epoch}"
            saved = f"saved to {out}; add --resume to go on" if out else "nothing was saved (no folder)"
            raise Interrupted(f"stopped on request in {where}: {saved}")
        distributed.same_buffers(run.model, run.ranks)
        row = _epoch_row(run)
        last = run.epoch + 1 == run.config.epochs
        if validation is not None and (last or (run.epoch + 1) % run.config.eval_every == 0):
            row |= score(run.model, validation, run.classes, run.config, run.ranks)
        run.history.append(run.ranks.agree(lambda row=row: row, run.device))
        run.epoch, run.step, run.seconds = run.epoch + 1, 0, 0.0
        run.totals = torch.zeros_like(run.totals)
        if out is not None:
            _save_epoch(run, out)
        if progress:
            tqdm.write(format_row(run.history[-1]))
        if on_epoch is not None and run.ranks.first:
            _call(on_epoch, run)


def _call(on_epoch: OnEpoch, run: _Run) -> None:
    """Show the caller the network in evaluation mode, on random numbers of its own (`_train_epoch` sets
    the mode back, and what a caller does to its copy of the row stays there)."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        on_epoch(run.model.eval(), dict(run.history[-1]))


def _train_epoch(
    run: _Run, advance: Callable[[Batch, Lots | None], Tensor], stop: _Stop, progress: bool
) -> None:
    """The steps of one epoch that are still to be done."""
    run.model.train()
    start = time.perf_counter() - run.seconds
    bar = tqdm(
        range(run.step, run.steps_per_epoch),
        desc=f"epoch {run.epoch + 1}/{run.config.epochs}",
        unit="batch",
        leave=False,
        disable=not progress,
    )
    for step, (batch, lots) in zip(bar, _batches(run), strict=True):
        _set_rate(run)
        run.totals = run.totals + advance(batch, lots)
        run.step, run.seconds = step + 1, time.perf_counter() - start
        if run.device.type == "cpu" or run.step == run.steps_per_epoch or run.step % LOOK == 0:
            loss = _look(run, stop)
            rate = run.step * run.config.batch_size / run.seconds
            bar.set_postfix_str(f"loss {loss:.3f}, {rate:.0f} images/s")
            if stop.asked:
                return
    run.seconds = time.perf_counter() - start


def _batches(run: _Run) -> Iterator[tuple[Batch, Lots | None]]:
    """What this rank works on in every step of the epoch that is still to be done.

    Order and lots are those of the whole batch, whatever the number of ranks.
    """
    order = torch.randperm(run.count, generator=_generator(run.config.seed, run.epoch))
    chosen = order.split(run.config.batch_size)[run.step : run.steps_per_epoch]
    return run.delivery.batches([run.ranks.share(index) for index in chosen], _lots(run, chosen))


def _lots(run: _Run, chosen: Sequence[Tensor]) -> Iterator[Lots | None]:
    """This rank's part of the lots of each of the whole batches."""
    config = run.config
    for step, index in enumerate(chosen, start=run.step):
        if config.augment is None:
            yield None
        else:
            generator = _generator(config.seed, run.epoch, step)
            lots = draw_lots(len(index), config.augment, generator)
            yield Lots(*map(run.ranks.share, lots))


def _set_rate(run: _Run) -> None:
    """The learning rate of the coming step."""
    config = run.config
    if config.schedule == "one_cycle":
        step, steps = (run.steps_per_epoch * n for n in (run.epoch, config.epochs))
        _put_rate(run.optimiser, one_cycle(step + run.step, steps, config.lr, config.warmup))


def _put_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):  # the device's own number: overwritten in place, without a wait
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _look(run: _Run, stop: _Stop) -> float:
    """The mean loss of the epoch so far; all ranks look at the same step, and stop at the same one."""
    totals = run.ranks.total(run.totals)
    stop.asked = run.ranks.any(stop.asked, run.device)
    _check_finite(run, totals)
    return float(totals.sum()) / run.step


def train_step(run: _Run, batch: Batch, lots: Lots | None = None) -> Tensor:
    """One update of the network; returns its class and box loss (2,), on the device.

    `lots` decide how the pictures are varied. Nothing here waits for the device. Of several ranks each
    gets its part of the two losses; they sum to those of the whole batch.
    """
    config = run.config
    if lots is not None and config.augment is not None:
        batch = augment_batch(batch, config.augment, lots)
    targets = match(run.model.anchors, batch.boxes, batch.labels, config.iou_threshold)
    predictions = _forward(run.network, batch.images, run.device, run.dtype, run.layout)
    losses = ssd_loss(*predictions, targets, config.loss, None if run.ranks.alone else run.ranks.total)
    run.optimiser.zero_grad(set_to_none=True)
    (losses.total * run.ranks.world).backward()  # what the ranks average is then a sum
    if config.clip is not None:
        nn.utils.clip_grad_norm_(run.model.parameters(), config.clip)
    run.optimiser.step()
    return torch.stack(losses).detach()


def _forward(
    model: nn.Module, images: Tensor, device: torch.device, dtype: torch.dtype, layout: Any
) -> Predictions:
    images = images.to(device, non_blocking=True).contiguous(memory_format=layout)
    with runtime.autocast(device, dtype):
        return model(images)


def make_optimiser(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW or SGD; weight decay for convolutions only, not for biases and batch normalisation.

    On CUDA one kernel updates everything (`fused`), and the learning rate is a tensor there.
    """
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    options: dict[str, Any] = {"lr": config.lr}
    device = others[0].device if others else weights[0].device
    if device.type == "cuda":
        options = {"lr": torch.full((), config.lr, device=device), "fused": True}
    if config.optimiser == "adamw":
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


@torch.no_grad()
def predict(
    model: TinySSD,
    images: Tensor,
    *,
    batch_size: int = 32,
    precision: str = "auto",
    channels_last: bool = True,
) -> Iterator[tuple[int, Predictions]]:
    """(first index, predictions) for pictures (N, 3, H, W), batch by batch, in evaluation mode."""
    device = model.anchors.device
    dtype = runtime.pick_precision(precision, device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(images), batch_size):
            part = images[start : start + batch_size]
            yield start, _forward(model, part, device, dtype, layout)
    finally:
        model.train(was_training)


def validate(
    model: TinySSD,
    validation: Pictures,
    classes: Sequence[str],
    *,
    iou_threshold: float = 0.5,
    precision: str = "auto",
    ranks: Ranks | None = None,
    **options: Any,
) -> tuple[Metrics, AnchorMetrics, list[Detections]]:
    """Detections on annotated pictures and their scores; `options` go to `detect`.

    `iou_threshold` is that of matching, for D2L's two numbers per anchor. Of several `ranks` each detects
    in its share of the pictures, and all get everything.
    """
    ranks = Ranks() if ranks is None else ranks
    feed = as_feed(validation)
    chosen = ranks.share(torch.arange(len(feed))).split(32)
    found: list[Detections] = []
    truth: list[Batch] = []
    anchors: AnchorMetrics | int = 0
    for batch in feed.batches([index for index in chosen if len(index)]):
        ((_, predictions),) = predict(model, batch.images, precision=precision)
        truth.append(batch._replace(images=batch.images[:0]))
        part = truth[-1].to(model.anchors.device)
        targets: Targets = match(model.anchors, part.boxes, part.labels, iou_threshold)
        anchors = anchors + anchor_metrics(predictions, targets)
        found += detect(predictions.logits, predictions.offsets, model.anchors, **options)
    if not ranks.alone:
        anchors, found, truth = _gathered(anchors, found, truth, model.anchors.device, ranks)
    _, boxes, labels = concatenate(truth)
    metrics = evaluate(found, boxes, labels, classes=classes, image_size=model.image_size)
    return metrics, anchors, found


def _gathered(
    anchors: AnchorMetrics | int,
    found: list[Detections],
    truth: list[Batch],
    device: torch.device,
    ranks: Ranks,
) -> tuple[AnchorMetrics, list[Detections], list[Batch]]:
    """What every rank measured and found, and the truth, in the order of the pictures.

    A rank may have had no picture at all.
    """

    def whole(part: Tensor) -> Tensor:  # (n, w, C), w differs between ranks
        width = ranks.gather(torch.tensor([part.shape[1]], device=device)).max()
        padding = (0, 0, 0, int(width) - part.shape[1])
        return ranks.gather(nn.functional.pad(part.to(device), padding, value=-1.0)).cpu()

    sums = torch.zeros(len(fields(AnchorMetrics)), dtype=torch.float64, device=device)
    if isinstance(anchors, AnchorMetrics):
        sums = torch.stack([torch.as_tensor(v, device=device).double() for v in vars(anchors).values()])
    count, *others = ranks.total(sums).cpu()
    rows = [torch.cat([d.boxes, d.scores[:, None], d.labels[:, None]], dim=1) for d in found]
    rows = whole(nn.utils.rnn.pad_sequence(rows, True, -1.0) if rows else torch.zeros(0, 0, 6))
    found = [Detections(r[:, :4], r[:, 4], r[:, 5].long()) for r in (r[r[:, 5] >= 0] for r in rows)]
    objects = torch.zeros(0, 0, 5)
    if truth:
        _, boxes, labels = concatenate(truth)
        objects = torch.cat([boxes, labels[..., None]], dim=2)
    objects = whole(objects)
    batch = Batch(torch.zeros(len(objects), 0), objects[..., :4], objects[..., 4].long())
    return AnchorMetrics(int(count), *others), found, [batch]


def score(
    model: TinySSD,
    validation: Pictures,
    classes: Sequence[str],
    config: TrainConfig,
    ranks: Ranks | None = None,
) -> dict[str, float | None]:
    """The validation columns of a history row: AP, and D2L's two numbers beside their baselines."""
    metrics, anchors, _ = validate(
        model,
        validation,
        classes,
        iou_threshold=config.iou_threshold,
        precision=config.precision,
        ranks=ranks,
    )
    summary = metrics.as_dict()
    row = {name: summary[name] for name in ("ap", "ap50", "ap75")}
    per_anchor = anchors.as_dict()
    names = ("class_error", "background_class_error", "box_mae", "background_box_mae")
    return row | {name: per_anchor[name] for name in (*names, "positive_recall")}


def _epoch_row(run: _Run) -> dict[str, Any]:
    cls, box = (run.ranks.total(run.totals) / run.steps_per_epoch).tolist()
    pictures = run.steps_per_epoch * run.config.batch_size
    return {
        "epoch": run.epoch + 1,
        "loss": cls + box,
        "cls_loss": cls,
        "box_loss": box,
        "lr": float(run.optimiser.param_groups[0]["lr"]),
        "seconds": run.seconds,
        "images_per_second": pictures / run.seconds,
    }


def format_row(row: dict[str, Any]) -> str:
    """A history row as one line of text.

    >>> format_row({"epoch": 1, "loss": 2.5, "images_per_second": 61.2, "ap50": 0.5, "ap": 0.2})
    'epoch   1  loss 2.500  AP50 0.500  AP 0.200  61 images/s'
    """
    scores = [
        f"  {label} {row[name]:.3f}"
        for label, name in (("AP50", "ap50"), ("AP", "ap"))
        if row.get(name) is not None
    ]
    rate = f"  {row['images_per_second']:.0f} images/s"
    return f"epoch {row['epoch']:3d}  loss {row['loss']:.3f}{''.join(scores)}{rate}"


# ------------------------------------------------------------------------------------- safe and repeatable


def _generator(*key: int) -> torch.Generator:
    """A random stream of its own for (seed, epoch, step), whatever ran before."""
    state = np.random.SeedSequence(key).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Initial weights (and a backbone's dropout) from the seed, the caller's own stream untouched."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def _check_finite(run: _Run, totals: Tensor) -> None:
    if bool(torch.isfinite(totals).all()):
        return
    rate = float(run.optimiser.param_groups[0]["lr"])
    raise TrainingDiverged(
        f"the loss is no longer a finite number in epoch {run.epoch + 1}, step {run.step} (learning rate "
        f"{rate:.2g}, {str(run.dtype).removeprefix('torch.')}): try a learning rate three times smaller, "
        "--precision float32, or a longer warm-up. Checkpoints of earlier epochs are as they were"
    )


class _Stop:
    """Whether the user asked to stop; set by the first Ctrl-C."""

    asked = False


@contextlib.contextmanager
def _stop_on_request() -> Iterator[_Stop]:
    """Turn the first Ctrl-C into a request, so that a step is never cut in half; the second one raises."""
    stop = _Stop()

    def handler(number: int, frame: Any) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    try:
        previous = signal.signal(signal.SIGINT, handler)
    except ValueError:  # not the main thread: whoever owns it handles signals
        yield stop
        return
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)


def _own_numbers(run: _Run) -> None:
    """Other random numbers (a backbone's dropout) for every rank but the first, which keeps the run's."""
    if not run.ranks.first:
        torch.manual_seed(_generator(run.config.seed, run.epoch, run.step, run.ranks.rank).initial_seed())


@contextlib.contextmanager
def _claimed(
    out: str | Path | None, ranks: Ranks | None = None, device: torch.device | str = "cpu"
) -> Iterator[None]:
    """Make the folder and hold its lock, so that two runs never write into the same one; rank 0 does."""
    with contextlib.ExitStack() as held:
        (Ranks() if ranks is None else ranks).agree(lambda: held.enter_context(_locked(out)), device)
        yield


@contextlib.contextmanager
def _locked(out: str | Path | None) -> Iterator[None]:
    if out is None:
        yield
        return
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "w")  # noqa: SIM115
    except OSError as error:
        raise ValueError(f"cannot write to the folder {folder}: {error.strerror}") from error
    with file:
        if not _lock(file):
            raise ValueError(f"another run is writing to {folder}: wait for it, or choose another folder")
        try:
            yield
        finally:
            _lock(file, free=True)  # processes that read pictures inherit the file, and may outlive the run


def _lock(file: Any, free: bool = False) -> bool:
    """Take an exclusive lock that ends with the process, or give it back; True where the system has none."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_UN if free else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _open_folder(run: _Run, out: Path, resume: bool) -> None:
    """Continue the run in the folder, or make sure that there is none to be overwritten."""
    if not run.ranks.agree((out / LAST).exists, run.device):
        return
    if not resume:
        raise ValueError(
            f"{out} already holds a run: add --resume to go on with it, or choose another folder"
        )
    load_state(run, out)


def save_state(run: _Run, out: Path, totals: Tensor | None = None) -> None:
    """Write last.safetensors: weights, optimiser, position and history, in one atomic file.

    `totals` are the losses of the epoch so far, of all ranks; None takes this rank's own.
    """
    totals = run.totals if totals is None else totals
    state = run.optimiser.state_dict()
    tensors = checkpoint.model_tensors(run.model)
    tensors |= {
        f"optimiser.{index}.{name}": torch.as_tensor(value)
        for index, values in state["state"].items()
        for name, value in values.items()
        if value is not None
    }
    tensors |= {"totals": totals, "rng": torch.get_rng_state()}
    info = checkpoint.ModelInfo(run.classes, notes(run), run.config.fit)
    record = {
        "model": checkpoint.describe_model(run.model, info),
        "groups": [group | {"lr": float(group["lr"])} for group in state["param_groups"]],
        "config": config_record(run.config),
        "position": [run.epoch, run.step, run.seconds],
        "history": run.history,
    }
    checkpoint.save_tensors(out / LAST, tensors, record)


def load_state(run: _Run, out: Path) -> None:
    """Put a run into the state that `save_state` wrote; raises ValueError when its options differ."""
    tensors: dict[str, Tensor] = {}

    def read() -> dict[str, Any]:
        found, record = _read_state(run, out / LAST)
        tensors.update(found)
        return record

    record = run.ranks.agree(read, run.device)  # the folder need not be there on other machines
    tensors = run.ranks.same(tensors, run.device)
    checkpoint.load_weights(run.model, tensors, out / LAST)
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, index, name = key.split(".", 2)
            states.setdefault(int(index), {})[name] = value
    # The groups stay this device's own: the options are the run's, how they are computed is not.
    run.optimiser.load_state_dict(run.optimiser.state_dict() | {"state": states})
    _put_rate(run.optimiser, record["groups"][0]["lr"])
    run.epoch, run.step, run.seconds = record["position"]
    # Each rank has its part of the totals; whose part is whose does not matter.
    run.totals = tensors["totals"].to(run.device) if run.ranks.first else torch.zeros_like(run.totals)
    run.history = record["history"]
    torch.set_rng_state(tensors["rng"])


def _read_state(run: _Run, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and record of a run's file, if it is one and fits this run."""
    tensors, record = checkpoint.load_tensors(path)
    if "groups" not in record:
        raise checkpoint.CheckpointError(f"{path} is a model, not a training run that can be resumed")
    saved = config_record(config_from_record(record["config"]))  # with the defaults of newer options
    _check_same(saved, config_record(run.config), path)
    if tuple(record["model"]["classes"]) != run.classes:
        raise ValueError(f"{path} was trained for the classes {record['model']['classes']}")
    return tensors, record


def _save_epoch(run: _Run, out: Path) -> None:
    """After an epoch: the history, the state, and the best model if this epoch made it."""
    if run.best_epoch in (None, run.epoch):  # without any score the newest is the best
        info = checkpoint.ModelInfo(run.classes, notes(run), run.config.fit)
        checkpoint.save_model(out / BEST, run.model, info)
    save_state(run, out)
    text = json.dumps({"config": config_record(run.config), "epochs": run.history}, indent=1)
    checkpoint.write_bytes(out / HISTORY, text.encode())


def notes(run: _Run) -> dict[str, Any]:
    """What a checkpoint says about itself: recipe, score, machine."""
    scored = [row for row in run.history if row.get("ap") is not None]
    last = {k: scored[-1][k] for k in ("epoch", "ap", "ap50")} if scored else {}
    return {"config": config_record(run.config), "score": last, "machine": runtime.describe()}


def config_record(config: TrainConfig) -> dict[str, Any]:
    """A configuration as JSON-able values; `config_from_record` is its inverse."""
    return json.loads(json.dumps(asdict(config)))


def config_from_record(record: dict[str, Any]) -> TrainConfig:
    """The configuration that `config_record` described."""
    known = {f.name for f in fields(TrainConfig)}
    values = {name: value for name, value in record.items() if name in known}
    values["loss"] = LossConfig(**values["loss"])
    if values["augment"] is not None:
        values["augment"] = AugmentConfig(**values["augment"])
    values["anchors"] = AnchorSpec(**values["anchors"])
    return replace(TrainConfig(prior=None), **values)  # None: of runs older than the option


def _check_same(saved: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    """Refuse to go on with other options than a run began with; where it runs may change."""
    free = {"device", "keep_allocations", "channels_last", "compile", "graph", "deterministic"}
    for name in wanted:
        if name not in free and saved.get(name) != wanted[name]:
            raise ValueError(
                f"{path} was trained with {name}={saved.get(name)}, now it is {wanted[name]}: resume with "
                "the same options, or choose another folder"
            )


def _check_shares(run: _Run) -> None:
    """Every rank needs a picture in every batch."""
    world = run.ranks.world
    for count, what in ((run.config.batch_size, "a batch"), (run.count, "the training set")):
        if count < world:
            raise ValueError(
                f"{what} has {count} pictures for {world} ranks: start fewer, or raise batch_size (it is "
                "the sum over all ranks)"
            )


def _check_data(train: Feed, validation: Feed | None, classes: Sequence[str]) -> None:
    if not classes:
        raise ValueError("there are no classes: give at least one name")
    for name, data in (("training", train), ("validation", validation)):
        if data is None:
            continue
        if len(data) == 0:
            raise ValueError(f"the {name} set has no pictures")
        if data.top_label >= len(classes):
            raise ValueError(
                f"the {name} set has label {data.top_label}, but only {len(classes)} classes are named"
            )
    if validation is not None and validation.image_size != train.image_size:
        raise ValueError(
            f"training pictures are {train.image_size}, validation pictures {validation.image_size}: load "
            "both at one size"
        )
