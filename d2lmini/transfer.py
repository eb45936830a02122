"""What to train a kind of data with: recipes for the generated sets, and a detector for images of your own.

Of a folder the epochs follow from the number of images, the anchors from the boxes, and the backbone starts
from the detector that comes with the package. Each of the three can be turned off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from d2lmini.anchors import TINY_SSD_ANCHORS, AnchorSpec, suggest_anchors
from d2lmini.checkpoint import pretrained
from d2lmini.data.augment import AugmentConfig
from d2lmini.data.samples import Batch, GroundTruth
from d2lmini.losses import LossConfig
from d2lmini.model import TinyBackbone, TinySSD, init_class_bias, map_shapes
from d2lmini.train import TrainConfig

STARTS = ("scenes", "none")
MILD = AugmentConfig(flip=0.5, color=0.3, expand=0, crop=0)
LONG_RATIOS = ((1, 2, 0.5, 3, 1 / 3),) * 5  # a banana is up to five times as long as wide
# For objects from 4 % to 80 % of the image: each map carries anchors half the size of TinySSD's, so
# that its receptive field sees the whole object and some of what is around it.
FINE_ANCHORS = AnchorSpec(
    sizes=((0.06, 0.1), (0.15, 0.21), (0.29, 0.38), (0.5, 0.61), (0.75, 0.88)),
    ratios=LONG_RATIOS,
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


def recipe(data: str = "bananas") -> Recipe:
    """The recipe for a data set: one for each preset, and one for folders of your own."""
    return RECIPES.get(data, FOLDER_RECIPE)


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
    if start not in STARTS:
        raise ValueError(f"start is {start!r}: choose from {', '.join(STARTS)}")
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
