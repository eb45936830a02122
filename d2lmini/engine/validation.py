"""Prediction batch by batch, and the scores of a detector on annotated images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from d2lmini.data.detections import Detections
from d2lmini.data.samples import Batch, pad_objects
from d2lmini.data.sources import BatchSource, as_source
from d2lmini.detect import detect
from d2lmini.engine import devices
from d2lmini.engine.anchor_errors import ANCHOR_RATES, AnchorMetrics, anchor_metrics
from d2lmini.engine.distributed import Ranks
from d2lmini.evaluate import Metrics, evaluate
from d2lmini.matching import match
from d2lmini.model import Predictions, TinySSD

BATCH_SIZE = 32


@torch.no_grad()
def predict_batched(
    model: TinySSD,
    images: Tensor,
    *,
    batch_size: int = BATCH_SIZE,
    precision: str = "auto",
    training: bool = False,
) -> Predictions:
    """Predictions of all images (N, 3, H, W), `batch_size` at a time, on the model's device.

    The model's mode stays. With `training` batch normalization uses each batch's statistics, and keeps none.
    """
    device = model.anchors.device
    dtype = devices.pick_precision(precision, device)
    modes = [(module, module.training) for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()} if training else {}
    model.train(training)
    parts = []
    try:
        for part in images.split(batch_size):
            part = part.to(device).contiguous(memory_format=torch.channels_last)
            with devices.autocast(device, dtype):
                parts.append(model(part))
    finally:
        for module, mode in modes:
            module.training = mode
        for name, buffer in model.named_buffers():
            if name in buffers:
                buffer.copy_(buffers[name])
    return Predictions(*(torch.cat(part) for part in zip(*parts, strict=True)))


class Validation(NamedTuple):
    """How a detector did on a data set, and its detections on each image."""

    metrics: Metrics
    anchors: AnchorMetrics
    detections: list[Detections]


def validate(
    model: TinySSD,
    data: Batch | BatchSource,
    classes: Sequence[str],
    *,
    match_iou_threshold: float = 0.5,
    precision: str = "auto",
    ranks: Ranks | None = None,
    **options: Any,
) -> Validation:
    """Detections on annotated images and their scores; `options` are those of `detect`.

    `match_iou_threshold` is that of matching, for D2L's two numbers per anchor. Of several `ranks` each
    detects in its share of the images, and all get everything.
    """
    ranks, source = ranks or Ranks(), as_source(data)
    options["score_function"] = model.score_function
    if not len(source):
        raise ValueError("there are no images to score: give at least one")
    share = ranks.share(torch.arange(len(source)))
    chosen = [index for index in share.split(BATCH_SIZE) if len(index)]
    sums: AnchorMetrics | int = 0
    found: list[Detections] = []
    truth: list[tuple[Tensor, Tensor]] = []
    for batch in source.batches(chosen):
        predictions = predict_batched(model, batch.images, precision=precision)
        boxes, labels = batch.ground_truth.to(model.anchors.device)
        targets = match(model.anchors, boxes, labels, match_iou_threshold)
        sums = sums + anchor_metrics(predictions, targets)
        found += detect(*predictions, model.anchors, **options)
        truth += [batch.sample(i)[1:] for i in range(len(batch.images))]
    if ranks.world_size > 1:
        found = ranks.gather_shares([Detections(*(t.cpu() for t in one)) for one in found])
        truth = ranks.gather_shares(truth)
        values = [v.cpu() if isinstance(v, Tensor) else v for v in vars(sums).values()] if sums else None
        sums = sum(AnchorMetrics(*part) for part in ranks.gather_objects(values) if part)
    boxes, labels = pad_objects(*zip(*truth, strict=True))
    metrics = evaluate(found, boxes, labels, classes=classes, image_size=model.image_size)
    return Validation(metrics, sums, found)


def score_columns(result: Validation) -> dict[str, float | None]:
    """The validation columns of a history row: AP, and D2L's two numbers beside their baselines."""
    metrics, anchors = result.metrics.as_dict(), result.anchors.as_dict()
    scores = {name: metrics[name] for name in ("ap", "ap50", "ap75")}
    return scores | {name: anchors[name] for name in ANCHOR_RATES}
