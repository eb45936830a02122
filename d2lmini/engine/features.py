"""A small head on the frozen backbone of "everyday": what that knows of images is computed once and kept."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from d2lmini.anchors import suggest_anchors
from d2lmini.checkpoint import pretrained
from d2lmini.data.augment import AugmentConfig, augment_batch
from d2lmini.data.output import writing
from d2lmini.data.samples import Batch, GroundTruth, concatenate
from d2lmini.data.sources import MEMORY_FRACTION, BatchSource, InMemorySource, free_memory
from d2lmini.engine import devices
from d2lmini.engine.prefetch import generator
from d2lmini.mobilenet import TopDownMobileNetV2
from d2lmini.model import Predictions, TinySSD, flatten_heads, init_class_bias, map_shapes, normalize

FEATURE_BATCH = 4  # images at a time: more do not fit into a CPU's cache


def photograph_model(
    objects: GroundTruth,
    size: tuple[int, int],
    classes: Sequence[str],
    seed: int = 0,
    prior_prob: float | None = 0.01,
) -> TinySSD:
    """An untrained pyramid and heads, anchors suggested from the boxes, on the backbone of "everyday"."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        backbone = TopDownMobileNetV2("tensorflow")
        maps = [shape[1:] for shape in map_shapes(backbone, size)]
        spec = suggest_anchors(objects.boxes[objects.labels >= 0], maps)
        model = TinySSD(len(classes), size, spec, backbone)
        if prior_prob is not None:
            init_class_bias(model, prior_prob)
    backbone.backbone.load_state_dict(pretrained("everyday")[0].backbone.backbone.state_dict())
    return model


def freeze_backbone(model: TinySSD, blocks: int | None = None) -> None:
    """Let the backbone of a `photograph_model` stay as it is, or only its stem and first `blocks`, if any."""
    backbone = model.backbone.backbone
    backbone.requires_grad_(blocks is not None)
    for part in (backbone.stem, *backbone.blocks[:blocks]) if blocks else ():
        part.requires_grad_(False)


class HeadOnFeatures(TinySSD):
    """A detector that is given what its frozen backbone knows of images, (N, 1, 1, F) of `features_of`.

    It has the pyramid and heads of `model`: what it learns, `model` knows.
    """

    def __init__(self, model: TinySSD) -> None:
        super().__init__(model.num_classes, model.image_size, model.anchor_spec, model.backbone)
        self.class_heads, self.box_heads = model.class_heads, model.box_heads
        self.shapes = map_shapes(model.backbone.backbone, model.image_size)

    def forward(self, images: Tensor) -> Predictions:
        """Predictions from features."""
        if not torch.is_autocast_enabled(images.device.type):
            images = images.float()
        parts = images.flatten(1).split([math.prod(shape) for shape in self.shapes], dim=1)
        maps = [  # channels last, as they were kept
            part.view(-1, height, width, channels).permute(0, 3, 1, 2)
            for part, (channels, height, width) in zip(parts, self.shapes, strict=True)
        ]
        maps = self.backbone.pyramid(maps)
        logits = flatten_heads(self.class_heads, maps, self.num_classes + 1)
        return Predictions(logits, flatten_heads(self.box_heads, maps, 4))


@torch.no_grad()
def features_of(model: TinySSD, images: Tensor, precision: str = "auto") -> Tensor:
    """Maps of the frozen backbone (N, F), float16, flattened channels last, of uint8 images (N, 3, H, W)."""
    device = model.anchors.device
    pixels = normalize(images.to(device)).contiguous(memory_format=torch.channels_last)
    with devices.autocast(device, devices.pick_precision(precision, device)):
        maps = model.backbone.backbone(pixels)
    return torch.cat([x.half().permute(0, 2, 3, 1).flatten(1) for x in maps], dim=1).cpu()


def keep_features(
    model: TinySSD,
    source: BatchSource,
    views: int = 1,
    augment: AugmentConfig | None = None,
    seed: int = 0,
    *,
    precision: str = "auto",
    folder: Path | None = None,
    progress: bool = False,
) -> BatchSource:
    """Features of all images and of `views` − 1 augmented views of each, as a source for `HeadOnFeatures`.

    They live in memory or, where they do not fit and there is a `folder`, in a file there that goes with
    the process.
    """
    shapes = map_shapes(model.backbone.backbone, model.image_size)
    rows, length = views * len(source), sum(math.prod(shape) for shape in shapes)
    free = free_memory()
    if folder is None or free is None or 2 * rows * length <= MEMORY_FRACTION * free:
        kept = torch.empty(rows, length, dtype=torch.float16)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with writing(folder), tempfile.NamedTemporaryFile(dir=folder, prefix=".features.") as file:
            if hasattr(
                os, "posix_fallocate"
            ):  # a full disk is told here, where otherwise a write would end us
                os.posix_fallocate(file.fileno(), 0, 2 * rows * length)
            options = {"shared": True, "size": rows * length, "dtype": torch.float16}
            kept = torch.from_file(file.name, **options).view(rows, length)
    truth, done = [], 0
    with tqdm(total=rows, desc="features", unit="", leave=False, disable=not progress) as bar:
        for batch in _views(source, views, augment, seed):
            kept[done : done + len(batch.images)] = features_of(model, batch.images, precision)
            truth.append(batch.ground_truth)
            done += len(batch.images)
            bar.update(len(batch.images))
    features = InMemorySource(Batch(kept[:, None, None], *concatenate(truth)))
    features.origin, features.split_record = source, source.split_record
    return features


def select_images(features: InMemorySource, rows: Tensor, views: int) -> InMemorySource:
    """The features of some images, by their numbers, in all of their views; of all images as they are."""
    count = len(features) // views
    if len(rows) >= count:
        return features
    every = torch.cat([rows + view * count for view in range(views)])
    return InMemorySource(features.batch.select(every))


def _views(source: BatchSource, views: int, augment: AugmentConfig | None, seed: int) -> Iterator[Batch]:
    """All images as they are, then augmented ones, a few at a time."""
    for view in range(views):
        for step, batch in enumerate(source.in_order(FEATURE_BATCH)):
            if view and augment is not None:
                batch = augment_batch(batch, augment, generator(seed, view, step))
            yield batch
