"""Prediction batch by batch, and the scores of a detector on annotated images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from d2lmini.data.samples import Batch, pad_objects
from d2lmini.data.sources import BatchSource, as_source
from d2lmini.detect import Detections, detect
from d2lmini.engine import devices
from d2lmini.engine.distributed import Ranks
from d2lmini.errors import AnchorMetrics, anchor_metrics
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

    The model stays in the mode that it was in. With `training` batch normalization uses the statistics of
    each batch and remembers none of them: an untrained network has gathered no statistics yet.
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


class _Part(NamedTuple):
    """What one rank found in its share of the images, and the ground truth of these, image by image."""

    anchors: AnchorMetrics | int
    detections: list[Detections]
    boxes: list[Tensor]
    labels: list[Tensor]


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
    share = ranks.share(torch.arange(len(source)))
    chosen = [index for index in share.split(BATCH_SIZE) if len(index)]
    part = _Part(0, [], [], [])
    for batch in source.batches(chosen):
        predictions = predict_batched(model, batch.images, precision=precision)
        truth = batch.ground_truth.to(model.anchors.device)
        targets = match(model.anchors, *truth, match_iou_threshold)
        part = part._replace(anchors=part.anchors + anchor_metrics(predictions, targets))
        part.detections.extend(detect(*predictions, model.anchors, **options))
        samples = [batch.sample(i) for i in range(len(batch.images))]
        part.boxes.extend(sample.boxes for sample in samples)
        part.labels.extend(sample.labels for sample in samples)
    anchors, found, boxes, labels = _gather(part, len(source), ranks)
    truth = pad_objects(boxes, labels)
    metrics = evaluate(found, *truth, classes=classes, image_size=model.image_size)
    return Validation(metrics, anchors, found)


def _gather(part: _Part, count: int, ranks: Ranks) -> _Part:
    """The parts of all ranks as one, in the order of the images; a rank may have had no image at all."""
    if ranks.world_size == 1:
        return part
    anchors = part.anchors
    if isinstance(anchors, AnchorMetrics):
        values = vars(anchors).values()
        anchors = AnchorMetrics(*(v.cpu() if isinstance(v, Tensor) else v for v in values))
    found = [Detections(*(t.cpu() for t in one)) for one in part.detections]
    parts = ranks.gather_objects(part._replace(anchors=anchors, detections=found))
    lists: list[list[Any]] = []
    for name in ("detections", "boxes", "labels"):
        whole: list[Any] = [None] * count
        for rank, one in enumerate(parts):
            whole[rank :: ranks.world_size] = getattr(one, name)  # as `Ranks.share` took them apart
        lists.append(whole)
    return _Part(sum((one.anchors for one in parts if one.anchors), 0), *lists)


def score_columns(result: Validation) -> dict[str, float | None]:
    """The validation columns of a history row: AP, and D2L's two numbers beside their baselines."""
    metrics, anchors = result.metrics.as_dict(), result.anchors.as_dict()
    names = ("class_error", "background_class_error", "box_mae", "background_box_mae", "positive_recall")
    return {name: metrics[name] for name in ("ap", "ap50", "ap75")} | {name: anchors[name] for name in names}
