"""What to train a kind of data with: recipes for the generated sets, and a detector for images of your own.

Of a folder the epochs follow from the number of images, the anchors from the boxes, and the backbone starts
from a detector that comes with the package. Each of the three can be turned off. Photographs start from
"everyday", whose backbone knows so much that a small head on its frozen features learns in seconds:
`fit_photographs`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from d2lmini.anchors import TINY_SSD_ANCHORS, AnchorSpec, suggest_anchors
from d2lmini.checkpoint import load_tensors, load_weights, pretrained
from d2lmini.data.augment import AugmentConfig
from d2lmini.data.output import write_bytes
from d2lmini.data.samples import Batch, GroundTruth
from d2lmini.data.sources import BatchSource, as_source
from d2lmini.engine import devices
from d2lmini.engine.features import HeadOnFeatures, freeze_backbone, keep_features, photograph_model
from d2lmini.engine.state import BEST, HISTORY, LAST, best_epoch
from d2lmini.losses import LossConfig
from d2lmini.model import TinyBackbone, TinySSD, init_class_bias, map_shapes
from d2lmini.train import FitResult, Images, TrainConfig, fit

STARTS = ("everyday", "scenes", "none")
MILD = AugmentConfig(flip=0.5, color=0.3, expand=0, crop=0)
LONG_RATIOS = ((1, 2, 0.5, 3, 1 / 3),) * 5  # a banana is up to five times as long as wide
# For objects from 4 % to 80 % of the image: each map carries anchors half the size of TinySSD's, so
# that its receptive field sees the whole object and some of what is around it.
FINE_ANCHORS = AnchorSpec(
    sizes=((0.06, 0.1), (0.15, 0.21), (0.29, 0.38), (0.5, 0.61), (0.75, 0.88)), ratios=LONG_RATIOS
)


class Recipe(NamedTuple):
    """The side of the images in pixels, how many to generate for training, and the configuration."""

    image_size: int
    count: int
    config: TrainConfig


RECIPES = {
    # At 128 pixels TinySSD's receptive fields are twice as large beside a banana as at 256, and an image
    # costs a quarter. Drawing more images helps more than seeing the same ones more often.
    "bananas": Recipe(
        128,
        3000,
        TrainConfig(epochs=9, augment=MILD, anchors=AnchorSpec(TINY_SSD_ANCHORS.sizes, LONG_RATIOS)),
    ),
    "scenes": Recipe(256, 3000, TrainConfig(epochs=8, augment=MILD, anchors=FINE_ANCHORS)),
}
# `configure_for_dataset` fits it to a folder. Hard negatives: all of them are not measured on small folders.
FOLDER_RECIPE = Recipe(
    256, 0, TrainConfig(epochs=60, anchors=FINE_ANCHORS, loss=LossConfig(), prior_prob=None)
)
# Of `fit_photographs`, the rate that of fine-tuning. The strong weight decay is measured: a head on frozen
# features learns them by heart.
PHOTOGRAPH_RECIPE = Recipe(300, 0, TrainConfig(lr=5e-4, weight_decay=0.1))


def recipe(data: str = "bananas", start: str | None = None) -> Recipe:
    """The recipe for a data set: one for each preset, one for folders of your own, one for "everyday"."""
    return PHOTOGRAPH_RECIPE if start == "everyday" else RECIPES.get(data, FOLDER_RECIPE)


SCORES = 20  # how often a run is scored
EPOCHS, MIN_EPOCHS, MAX_EPOCHS, IMAGES = 100, 20, 150, 160  # so many epochs for so many images


def epochs_for(images: int) -> int:
    """Epochs for so many training images: the fewer there are, the more often each is seen.

    Four times the images are seen half as often, which makes twice as many steps.

    >>> [epochs_for(n) for n in (40, 100, 160, 640, 1000, 10000)]
    [150, 126, 100, 50, 40, 20]
    """
    return min(MAX_EPOCHS, max(MIN_EPOCHS, round(EPOCHS * (IMAGES / max(1, images)) ** 0.5)))


def configure_for_dataset(
    config: TrainConfig,
    objects: GroundTruth | Batch,
    size: int | tuple[int, int],
    classes: Sequence[str],
    *,
    start: str = "scenes",
    backbone: nn.Module | None = None,
    suggest: bool = True,
    scale_epochs: bool = True,
) -> tuple[TrainConfig, TinySSD]:
    """Fit a configuration to a training set: its epochs and how often to score, its anchors, a network.

    `objects` has the training set's boxes (N, G, 4) and labels (N, G), `size` is a side or (height, width) in
    pixels. `start` "scenes" takes the backbone of the detector that comes with the package, "none" random
    weights; a `backbone` of your own starts as it is. `suggest` takes the anchors from the training boxes
    (`anchors.suggest_anchors`), `scale_epochs` the epochs from the number of images. Batches get no larger
    than the set. The same set and seed give the same answer. Raises ValueError for an unknown start and as
    `suggest_anchors` and TinySSD do.
    """
    if start not in ("scenes", "none"):
        raise ValueError(f"start is {start!r}: choose from scenes, none; everyday is for `fit_photographs`")
    size = (size, size) if isinstance(size, int) else tuple(size)
    count = len(objects.labels)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(config.seed)
        own = TinyBackbone() if backbone is None else backbone
        if suggest:
            maps = [(h, w) for _, h, w in map_shapes(own, size)]
            config = replace(config, anchors=suggest_anchors(objects.boxes[objects.labels >= 0], maps))
        model = TinySSD(len(classes), size, config.anchors, own)
        if config.prior_prob is not None:
            init_class_bias(model, config.prior_prob)
    if start != "none" and backbone is None:
        model.backbone.load_state_dict(pretrained(start)[0].backbone.state_dict())
    if scale_epochs:
        epochs = epochs_for(count)
        config = replace(config, epochs=epochs, eval_every=max(1, round(epochs / SCORES)))
    return replace(config, batch_size=max(1, min(config.batch_size, count))), model


HEAD, FINETUNE = "head", "finetune"  # the two stages of `fit_photographs`
VIEWS, HEAD_EPOCHS, HEAD_STEPS, HEAD_LR = 10, 4, 150, 3e-3  # views of an image, epochs, least steps, rate
# Of the second: most epochs, and first blocks that do not learn. These see the image at half and a quarter of
# its resolution, and are nearly a third of a run's time.
FINETUNE_EPOCHS, FROZEN = 30, 3


def fit_photographs(
    train: Images,
    validation: Images | None,
    classes: Sequence[str],
    config: TrainConfig | None = None,
    *,
    views: int = VIEWS,
    finetune: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, FitResult]:
    """Train a detector for photographs: first a head on frozen features, then, for a while, all of it.

    The backbone is that of "everyday". Its features of all images, and of augmented views of them, `views` in
    all, are computed once. Stage "head": a small pyramid with SSD heads learns from these, in seconds. Stage
    "finetune": all weights but those of the first blocks learn at a small rate, from images augmented anew in
    each of `finetune` epochs (None: 30, of thousands of images `epochs_for` so many; 0 leaves it out).
    Returns the result of each stage. `config` says the rest, also the rate of fine-tuning; its epochs do not
    count.

    Folders: `out`/head has the run of the first stage, `out` that of the second, each as `fit` writes it;
    best.safetensors in `out` is the better one on `validation`. `resume` goes on in the stage that was
    interrupted. Raises ValueError for options that make no sense and as `fit` does.
    """
    config = PHOTOGRAPH_RECIPE.config if config is None else config
    train, validation = as_source(train), None if validation is None else as_source(validation)
    finetune = min(FINETUNE_EPOCHS, epochs_for(len(train))) if finetune is None else finetune
    if views < 1 or finetune < 0:
        raise ValueError(f"views is {views} and finetune {finetune}: give at least 1 and 0")
    out = None if out is None else Path(out)
    if out is not None and (out / LAST).exists() and not resume:
        raise ValueError(f"{out} already holds a run: add --resume to go on, or choose another folder")
    if config.disable_malloc_trim:
        devices.disable_malloc_trim()
    known = classes, config.seed, config.prior_prob
    model = photograph_model(train.ground_truth(), train.image_size, *known)
    config = replace(config, anchors=model.anchor_spec, batch_size=max(1, min(config.batch_size, len(train))))
    options = {"resume": resume, "progress": progress}
    results = {HEAD: _fit_head(model, train, validation, classes, config, views, out, options)}
    if finetune:
        every = max(config.eval_every, round(finetune / SCORES))
        config = replace(config, epochs=finetune, eval_every=every)
        freeze_backbone(model, FROZEN)
        results[FINETUNE] = fit(train, validation, classes, config, out=out, model=model, **options)
    freeze_backbone(model, 0)
    if out is not None and best_stage(results) == HEAD:
        write_bytes(out / BEST, (out / HEAD / BEST).read_bytes())
    return results


def _fit_head(
    model: TinySSD,
    train: BatchSource,
    validation: BatchSource | None,
    classes: Sequence[str],
    config: TrainConfig,
    views: int,
    out: Path | None,
    options: dict[str, bool],
) -> FitResult:
    """The first stage: features, then pyramid and heads; of a run that is complete just its result."""
    augment, config = config.augment, head_config(config, views * len(train))
    folder = None if out is None else out / HEAD
    if folder is not None and options["resume"] and (folder / HISTORY).exists():
        history = json.loads((folder / HISTORY).read_text("utf8"))["epochs"]
        if len(history) == config.epochs:
            load_weights(model, load_tensors(folder / LAST)[0], folder / LAST)
            return FitResult(model, history, best_epoch(history))
    head = HeadOnFeatures(model).to(devices.pick_device(config.device))
    keep = {"precision": config.precision, "folder": folder, "progress": options["progress"]}
    features = keep_features(head, train, views, augment, config.seed, **keep)
    held_out = validation and keep_features(head, validation, **keep)
    freeze_backbone(model)
    result = fit(features, held_out, classes, config, out=folder, model=head, **options)
    return result._replace(model=model)


def head_config(config: TrainConfig, rows: int) -> TrainConfig:
    """The configuration for a head on so many rows of features."""
    batch_size = min(config.batch_size, rows)
    epochs = max(HEAD_EPOCHS, math.ceil(HEAD_STEPS / (rows // batch_size)))
    changes = {"epochs": epochs, "eval_every": max(1, epochs // HEAD_EPOCHS), "batch_size": batch_size}
    return replace(config, lr=HEAD_LR, augment=None, **changes)


def best_stage(results: dict[str, FitResult]) -> str:
    """The stage with the best AP on the held-out images; of equals, or without a score, the last."""
    return max(reversed(results), key=lambda name: best_ap(results[name]))


def best_ap(result: FitResult) -> float:
    """The best AP of a run; −1 without a score."""
    return -1.0 if result.best_epoch is None else result.history[result.best_epoch - 1]["ap"]
