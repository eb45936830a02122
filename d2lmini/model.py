"""TinySSD: a small base network, ever coarser feature maps, and two 3 × 3 heads on each of them.

The network is D2L's (14.7.1), to the parameter: five scales, 5,444 anchors for a 256 × 256 image. But
anchors are a buffer that is made once, pooling comes before ReLU (the same numbers), and pixels are
normalized inside.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from d2lmini.anchors import TINY_SSD_ANCHORS, AnchorSpec, make_anchors

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
SCORE_FUNCTIONS = ("softmax", "sigmoid")
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25  # pixels in [0, 1] to about zero mean and unit variance


class Predictions(NamedTuple):
    """What the network says of every anchor: `logits` (N, A, K + 1), background first, and `offsets`
    (N, A, 4) in the units of `boxes.encode`."""

    logits: Tensor
    offsets: Tensor


def conv_bn_relu(in_channels: int, out_channels: int, pool: bool = False) -> nn.Sequential:
    """3 × 3 convolution, batch normalisation, (2 × 2 max pooling,) ReLU."""
    layers = [nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels)]
    if pool:  # max and ReLU commute; a quarter of the values is a quarter of the work
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.ReLU())


def downsample(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two convolutions, then half the height and width: (N, C, H, W) to (N, C', H / 2, W / 2)."""
    return nn.Sequential(
        conv_bn_relu(in_channels, out_channels), conv_bn_relu(out_channels, out_channels, pool=True)
    )


class TinyBackbone(nn.Module):
    """D2L's base network and downsampling blocks: five feature maps, finest first.

    `channels` are those of the base network's blocks, each of which halves the image; the last is the
    first map. Then come `extra` more halvings of `width` channels, and one map of a single pixel. With
    the defaults an image of 256 gives maps of 32, 16, 8, 4 and 1 pixels. `finer` blocks of the base
    network before its last give a map, too: 1 puts one of 64 pixels in front.
    """

    def __init__(
        self, channels: Sequence[int] = (16, 32, 64), width: int = 128, extra: int = 3, finer: int = 0
    ) -> None:
        super().__init__()
        if not 0 <= finer < len(channels):
            raise ValueError(
                f"finer is {finer}: the base network can give 0 to {len(channels) - 1} more maps"
            )
        self.options = {"channels": list(channels), "width": width, "extra": extra, "finer": finer}
        pairs = zip((3, *channels[:-1]), channels, strict=True)
        self.base = nn.Sequential(*(downsample(i, o) for i, o in pairs))
        sizes = [channels[-1], *[width] * extra]
        self.blocks = nn.ModuleList(downsample(i, o) for i, o in pairwise(sizes))
        self.stride = 2 ** (len(channels) + extra)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps [(N, C, H, W)], finest first, of normalised pixels (N, 3, H, W)."""
        first = len(self.base) - 1 - self.options["finer"]
        maps = []
        for i, block in enumerate((*self.base, *self.blocks)):
            x = block(x)
            maps += [x] if i >= first else []
        # amax instead of AdaptiveMaxPool2d(1): the same number, and it exports for any size
        return [*maps, maps[-1].amax(dim=(2, 3), keepdim=True)]


class TinySSD(nn.Module):
    """A single-shot detector: images in, class logits and box offsets of every anchor out.

    `num_classes` does not count background. `image_size` is one side or (height, width) in pixels; the
    anchors are a buffer made for it (`set_image_size` makes others). `anchor_spec` has one row per map.
    `backbone` is any module that turns (N, 3, H, W) into a list of feature maps, finest first; its maps'
    sizes and channels are found by running it once. `head_kernel` is the side of the heads' filters. Scores
    are the `score_function` of the logits: "softmax", or "sigmoid" of each class for itself, where background
    has no say. Raises ValueError naming the option. Source: Liu et al. 2016 (SSD); D2L 14.7.

    >>> model = TinySSD(num_classes=1)
    >>> predictions = model(torch.zeros(2, 3, 256, 256))
    >>> predictions.logits.shape, predictions.offsets.shape, model.anchors.shape
    (torch.Size([2, 5444, 2]), torch.Size([2, 5444, 4]), torch.Size([5444, 4]))
    """

    anchors: Tensor

    def __init__(
        self,
        num_classes: int,
        image_size: int | tuple[int, int] = 256,
        anchor_spec: AnchorSpec = TINY_SSD_ANCHORS,
        backbone: nn.Module | None = None,
        head_kernel: int = 3,
        score_function: str = "softmax",
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}: give at least one class")
        if score_function not in SCORE_FUNCTIONS:
            raise ValueError(f"score_function is {score_function!r}: choose from {SCORE_FUNCTIONS}")
        if head_kernel < 1 or head_kernel % 2 == 0:
            raise ValueError(
                f"head_kernel is {head_kernel}: give an odd number, so that a cell is its middle"
            )
        self.head_kernel, self.score_function = head_kernel, score_function
        self.num_classes, self.anchor_spec = num_classes, anchor_spec
        self.backbone = TinyBackbone() if backbone is None else backbone
        channels = [c for c, _, _ in self.set_image_size(image_size)]
        per_map = list(zip(channels, anchor_spec.num_anchors_per_location, strict=True))
        kernel = {"kernel_size": head_kernel, "padding": head_kernel // 2}
        self.class_heads = nn.ModuleList(nn.Conv2d(c, k * (num_classes + 1), **kernel) for c, k in per_map)
        self.box_heads = nn.ModuleList(nn.Conv2d(c, k * 4, **kernel) for c, k in per_map)

    def set_image_size(self, image_size: int | tuple[int, int]) -> list[tuple[int, int, int]]:
        """New anchors for images of another size, the same weights; (channels, height, width) of the maps.

        Raises ValueError when the size is too small for the backbone.
        """
        image_size = (image_size,) * 2 if isinstance(image_size, Integral) else image_size
        image_size = tuple(int(side) for side in image_size)
        shapes = map_shapes(self.backbone, image_size)
        anchors = make_anchors([(h, w) for _, h, w in shapes], self.anchor_spec)  # (A, 4)
        device = next(self.backbone.parameters(), anchors).device
        self.register_buffer("anchors", anchors.to(device), persistent=False)
        self.image_size = image_size
        return shapes

    def forward(self, images: Tensor) -> Predictions:
        """Predictions for images (N, 3, H, W), uint8 or floats in [0, 1]; ValueError for another size."""
        if tuple(images.shape[1:]) != (3, *self.image_size):
            raise ValueError(
                f"images have shape {tuple(images.shape)}, the model was built for "
                f"(N, 3, {self.image_size[0]}, {self.image_size[1]}): resize them, or call set_image_size"
            )
        maps = self.backbone(normalize(images, self.class_heads[0].weight.dtype))
        logits = flatten_heads(self.class_heads, maps, self.num_classes + 1)
        return Predictions(logits, flatten_heads(self.box_heads, maps, 4))


@torch.no_grad()
def init_class_bias(model: TinySSD, foreground: float = 0.01) -> None:
    """Start the class heads from the belief that an anchor holds an object with probability `foreground`.

    Only biases change: background's becomes log(K (1 − π) / π), the classes' 0. Meant for a network that
    is not trained yet and for losses that count every anchor. Raises ValueError unless 0 < π < 1. Source:
    Lin et al. 2017 (focal loss), section 3.3, for a softmax.
    """
    if not 0 < foreground < 1:
        raise ValueError(f"foreground is {foreground}: give a probability between 0 and 1")
    for head in model.class_heads:
        bias = head.bias.view(-1, model.num_classes + 1)  # a row for each anchor shape
        bias.zero_()
        bias[:, 0] = math.log(model.num_classes * (1 - foreground) / foreground)


@torch.no_grad()
def replace_class_heads(model: TinySSD, sources: Sequence[int | None]) -> TinySSD:
    """A copy of a detector for classes of your own, to be trained further.

    Backbone and box heads come along, and so does what the class heads know of background. Your class k
    starts from what they know of the model's class `sources[k]`, or anew where that is None. Scores are a
    softmax; where they were sigmoids, background starts from a logit of 0, with which a class alone has the
    score that it had. Raises ValueError without classes and for a class that the model does not have.
    """
    wrong = [s for s in sources if s is not None and not 0 <= s < model.num_classes]
    if wrong or not len(sources):
        raise ValueError(
            f"sources are {list(sources)}: give a class from 0 to {model.num_classes - 1}, or None, for "
            "each of your classes"
        )
    other = copy.deepcopy(model)
    for i, head in enumerate(model.class_heads):
        other.class_heads[i] = _class_head(head, model.num_classes, sources)
        if model.score_function == "sigmoid":
            for parameter in other.class_heads[i].parameters():
                parameter.unflatten(0, (-1, len(sources) + 1))[:, 0] = 0
    other.num_classes, other.score_function = len(sources), "softmax"
    return other


def _class_head(head: nn.Conv2d, classes: int, sources: Sequence[int | None]) -> nn.Conv2d:
    anchors = head.out_channels // (classes + 1)
    channels = anchors * (len(sources) + 1)
    new = nn.Conv2d(head.in_channels, channels, head.kernel_size, padding=head.padding).to(head.weight)
    pairs = [(0, 0), *((k, s + 1) for k, s in enumerate(sources, 1) if s is not None)]  # background first
    for name in ("weight", "bias"):
        known = getattr(head, name).unflatten(0, (anchors, -1))  # (k, K + 1, ...)
        rows = getattr(new, name).unflatten(0, (anchors, -1))  # a view: writing to it writes the head
        for k, source in pairs:
            rows[:, k] = known[:, source]
    return new


@torch.no_grad()
def fuse_conv_bn(model: TinySSD) -> TinySSD:
    """A copy for inference in which every batch normalization has become part of the convolution before it.

    In evaluation mode both are linear, so together they are one convolution: its filters times
    γ / √(variance + ε), its bias changed to match. Predictions are the same up to rounding. Computed in
    float64: every machine gets the same weights.
    """
    fused = copy.deepcopy(model).eval()
    for block in [module for module in fused.backbone.modules() if isinstance(module, nn.Sequential)]:
        for i, (conv, norm) in enumerate(pairwise(list(block))):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, NORMS):
                dtype = conv.weight.dtype
                block[i] = fuse_conv_bn_eval(conv.double(), norm.double()).to(dtype)
                block[i + 1] = nn.Identity()
    return fused


def normalize(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Pixels, uint8 or floats in [0, 1], to about zero mean and unit variance; shape unchanged.

    Raises ValueError for other whole numbers, whose range nobody can know.
    """
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}: give uint8 (0 to 255), or floats from 0 to 1")
    scale = 255.0 if images.dtype == torch.uint8 else 1.0
    return images.to(dtype).mul(1 / (scale * PIXEL_STD)).sub(PIXEL_MEAN / PIXEL_STD)


def flatten_heads(heads: nn.ModuleList, maps: Sequence[Tensor], values: int) -> Tensor:
    """One head per map, all anchors of all maps behind each other: float32 (N, A, values)."""
    out = [
        head(x).permute(0, 2, 3, 1).unflatten(-1, (-1, values)).flatten(1, 3)  # (N, H * W * k, values)
        for head, x in zip(heads, maps, strict=True)
    ]
    out = torch.cat(out, dim=1)
    # Half precision is for the convolutions: boxes and losses want float32.
    return out.float() if out.dtype in (torch.float16, torch.bfloat16) else out


@torch.no_grad()
def map_shapes(backbone: nn.Module, image_size: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """(channels, height, width) of the backbone's maps, by running it once in evaluation mode."""
    stride = getattr(backbone, "stride", 1)
    if len(image_size) != 2 or min(image_size) < stride:
        raise ValueError(
            f"image_size {image_size} is too small for this backbone, which halves an image "
            f"{int(math.log2(stride))} times: give at least {stride} pixels a side"
        )
    modes = [(module, module.training) for module in backbone.modules()]  # some may be frozen
    blank = next(backbone.parameters(), torch.zeros(())).new_zeros(1, 3, *image_size)
    maps = backbone.eval()(blank)
    for module, training in modes:
        module.training = training
    if not isinstance(maps, (list, tuple)) or not maps or any(m.ndim != 4 for m in maps):
        raise ValueError("the backbone must return a list of feature maps (N, C, H, W), finest first")
    return [tuple(m.shape[1:]) for m in maps]
