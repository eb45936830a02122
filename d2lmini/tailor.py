"""Training on a folder of your own: how long, with which anchors, and from where to start.

A few hundred photographs are not a generated set: there are no more of them, so each has to be seen often;
nobody knows beforehand how large the objects are; and to learn from nothing what an edge is takes most of
the time. So the passes follow from the number of pictures, the anchors from the boxes, and the trunk starts
from the detector that comes with the package. Each of the three can be turned off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from d2lmini.checkpoint import pretrained
from d2lmini.coverage import Objects, suggest_anchors
from d2lmini.data.samples import Batch
from d2lmini.model import TinyBackbone, TinySSD, map_shapes
from d2lmini.train import TrainConfig

STARTS = ("scenes", "none")
SCORES = 20  # how often a run is scored
EPOCHS, PICTURES = 100, 160  # what the passes are scaled from
LEAST_EPOCHS, MOST_EPOCHS = 20, 150


class Tailored(NamedTuple):
    """A configuration with everything decided, and the network to begin with."""

    config: TrainConfig
    model: TinySSD


def epochs_for(pictures: int) -> int:
    """Passes for so many training pictures: the fewer there are, the more often each is seen.

    Four times the pictures are seen half as often, which makes twice as many steps.

    >>> [epochs_for(n) for n in (40, 100, 160, 640, 1000, 10000)]
    [150, 126, 100, 50, 40, 20]
    """
    return min(MOST_EPOCHS, max(LEAST_EPOCHS, round(EPOCHS * (PICTURES / max(1, pictures)) ** 0.5)))


def tailor(
    config: TrainConfig,
    objects: Objects | Batch,
    size: int | tuple[int, int],
    classes: Sequence[str],
    *,
    start: str = "scenes",
    backbone: nn.Module | None = None,
    suggest: bool = True,
    scale_epochs: bool = True,
) -> Tailored:
    """Fit a configuration to a training set: its epochs and how often to score, its anchors, a network.

    `objects` has the training set's boxes (N, G, 4) and labels (N, G), pictures or not, `size` is a side or
    (height, width) in pixels.
    `start` "scenes" takes the trunk of the detector that comes with the package, "none" random weights; a
    `backbone` of your own starts as it is. `suggest` takes the anchors from the training boxes
    (`coverage.suggest_anchors`), `scale_epochs` the epochs from the number of pictures. Batches are made
    smaller where there are fewer pictures than one holds. The same set and seed give the same answer.
    Raises ValueError for an unknown start and as `suggest_anchors` and TinySSD do.
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
    if start != "none" and backbone is None:
        model.backbone.load_state_dict(pretrained(start)[0].backbone.state_dict())
    if scale_epochs:
        epochs = epochs_for(count)
        config = replace(config, epochs=epochs, eval_every=max(1, round(epochs / SCORES)))
    return Tailored(replace(config, batch_size=max(1, min(config.batch_size, count))), model)
