"""D2L's recipe of section 14.7 as published: network, loss and settings, on D2L's own functions.

The network and the loss are not part of the `d2l` package, so they are written here from what the
section describes. Everything that the package has (anchors, targets) is called in the package.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2lmini.anchors import TINY_SSD_ANCHORS

BATCH_SIZE, EPOCHS, LEARNING_RATE, WEIGHT_DECAY = 32, 20, 0.2, 5e-4
MAP_CHANNELS = (64, 128, 128, 128, 128)


class Output(NamedTuple):
    """What the network gives: anchors (1, A, 4), logits (N, A, K + 1), offsets (N, A * 4)."""

    anchors: Tensor
    logits: Tensor
    offsets: Tensor


def _halve(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two times convolution, batch normalisation, ReLU; then pooling, in the published order."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [nn.Conv2d(channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels)]
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2))


class PublishedSSD(nn.Module):
    """The network of section 14.7.1, which makes its anchors anew in every forward pass."""

    def __init__(self, peer: ModuleType, num_classes: int = 1) -> None:
        super().__init__()
        self.peer, self.num_classes = peer, num_classes
        base = nn.Sequential(_halve(3, 16), _halve(16, 32), _halve(32, 64))
        blocks = [base, _halve(64, 128), _halve(128, 128), _halve(128, 128)]
        self.blocks = nn.ModuleList([*blocks, nn.AdaptiveMaxPool2d((1, 1))])
        per_map = list(zip(MAP_CHANNELS, TINY_SSD_ANCHORS.num_anchors_per_location, strict=True))
        self.class_heads = nn.ModuleList(
            nn.Conv2d(c, k * (num_classes + 1), 3, padding=1) for c, k in per_map
        )
        self.box_heads = nn.ModuleList(nn.Conv2d(c, k * 4, 3, padding=1) for c, k in per_map)

    def forward(self, x: Tensor) -> Output:
        """Anchors and predictions of images (N, 3, H, W): floats from 0 to 255, as in D2L."""
        anchors, logits, offsets = [], [], []
        for i, block in enumerate(self.blocks):
            x = block(x)
            sizes, ratios = TINY_SSD_ANCHORS.sizes[i], TINY_SSD_ANCHORS.ratios[i]
            anchors.append(self.peer.multibox_prior(x, list(sizes), list(ratios)))
            logits.append(_flat(self.class_heads[i](x)))
            offsets.append(_flat(self.box_heads[i](x)))
        scores = torch.cat(logits, dim=1).reshape(x.shape[0], -1, self.num_classes + 1)
        return Output(torch.cat(anchors, dim=1), scores, torch.cat(offsets, dim=1))


def _flat(prediction: Tensor) -> Tensor:
    return prediction.permute(0, 2, 3, 1).flatten(start_dim=1)


def published_loss(logits: Tensor, labels: Tensor, offsets: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Loss (N,) of each image: cross-entropy plus L1, both averaged over all anchors."""
    cls = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    box = (offsets * mask - wanted * mask).abs().mean(dim=1)
    return cls.reshape(labels.shape).mean(dim=1) + box


def make_optimizer(net: nn.Module) -> torch.optim.Optimizer:
    """Plain SGD with the published settings."""
    return torch.optim.SGD(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)


def train_step(net: PublishedSSD, optimizer: torch.optim.Optimizer, images: Tensor, truth: Tensor) -> Tensor:
    """One step on images (N, 3, H, W) and truth (N, G, 5), class and corners; returns the loss."""
    optimizer.zero_grad()
    out = net(images)
    wanted, mask, labels = net.peer.multibox_target(out.anchors, truth)
    loss = published_loss(out.logits, labels, out.offsets, wanted, mask).mean()
    loss.backward()
    optimizer.step()
    return loss.detach()
