"""MobileNetV2, and SSD's coarser maps behind it: the backbone of "everyday".

A 3 × 3 convolution from C to C channels has 9 C² weights. MobileNetV2 widens to t · C channels by 1 × 1,
filters each channel by itself (depthwise), and narrows again: an inverted residual. Batch normalization is
folded into the convolutions, which have biases instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

# Channels, number of blocks, stride of the first (Sandler et al. 2018, table 2).
STAGES = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
WIDEST = 1280  # channels of the last convolution
HALVING = (6, 13)  # blocks, from 0, that go from stride 8 to 16 and from 16 to 32
EXTRA = ((256, 512), (128, 256), (128, 256), (64, 128))  # channels of SSD's maps: after 1 × 1, after 3 × 3
PADDINGS = ("symmetric", "tensorflow")


class Conv(nn.Conv2d):
    """A convolution that keeps the size or, at stride 2, halves it; an odd size is rounded up.

    To halve an even side, 3 × 3 needs one pixel more than there is. Padding "tensorflow" is that pixel, on
    the right and below; "symmetric" is PyTorch's, one on each side, of which the last is not read.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        padding: str = "symmetric",
    ) -> None:
        if padding not in PADDINGS:
            raise ValueError(f"padding is {padding!r}: choose from {PADDINGS}")
        self.right_and_below = padding == "tensorflow" and stride == 2
        around = 0 if self.right_and_below else kernel // 2
        super().__init__(inputs, outputs, kernel, stride, around, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        if self.right_and_below:
            height, width = x.shape[2:]
            x = F.pad(x, (width % 2, 1, height % 2, 1))
        return super().forward(x)


class InvertedResidual(nn.Module):
    """Widen `factor` times, filter each channel, narrow without ReLU; add the input where the shape stays.

    Source: Sandler et al. 2018, section 3.3.
    """

    def __init__(self, inputs: int, outputs: int, factor: int, stride: int, padding: str) -> None:
        super().__init__()
        wide = inputs * factor
        self.expand = nn.Sequential(Conv(inputs, wide), nn.ReLU6()) if factor > 1 else nn.Identity()
        self.depthwise = nn.Sequential(Conv(wide, wide, 3, stride, wide, padding), nn.ReLU6())
        self.project = Conv(wide, outputs)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The block's output, and what it widened its input to."""
        wide = self.expand(x)
        y = self.project(self.depthwise(wide))
        return (x + y if self.adds else y), wide


class MobileNetV2(nn.Module):
    """Feature maps of MobileNetV2: 192, 576 and 1,280 channels at strides 8, 16 and 32.

    The first two are the widened inputs of the blocks that halve the map. An image of 300 pixels gives 38, 19
    and 10 cells a side. `padding` "tensorflow" is for weights that were trained with it (see `Conv`, which
    raises ValueError for any other). Source: Sandler et al. 2018.
    """

    stride = 32
    channels = (192, 576, WIDEST)

    def __init__(self, padding: str = "symmetric") -> None:
        super().__init__()
        self.stem = nn.Sequential(Conv(3, 32, 3, 2, padding=padding), nn.ReLU6())
        self.blocks, channels = nn.ModuleList(), 32
        for stage, (outputs, count, stride) in enumerate(STAGES):
            for n in range(count):
                factor, step = 6 if stage else 1, stride if n == 0 else 1
                block = InvertedResidual(channels, outputs, factor, step, padding)
                self.blocks.append(block)
                channels = outputs
        self.last = nn.Sequential(Conv(channels, WIDEST), nn.ReLU6())

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps [(N, C, H, W)], finest first, of normalized pixels (N, 3, H, W)."""
        x, maps = self.stem(x), []
        for i, block in enumerate(self.blocks):
            x, wide = block(x)
            maps += [wide] if i in HALVING else []
        return [*maps, self.last(x)]


class SSDMobileNetV2(nn.Module):
    """The maps of SSD: the coarser two of MobileNetV2, then four more, each half the size of the one before.

    An image of 300 pixels gives 19, 10, 5, 3, 2 and 1 cells a side. Source: Liu et al. 2016, figure 2.
    """

    def __init__(self, padding: str = "symmetric") -> None:
        super().__init__()
        self.backbone = MobileNetV2(padding)
        self.options = {"name": "ssd_mobilenet_v2", "padding": padding}
        self.stride = self.backbone.stride
        self.extra, channels = nn.ModuleList(), WIDEST
        for narrow, outputs in EXTRA:
            halve = Conv(narrow, outputs, 3, 2, padding=padding)
            self.extra.append(nn.Sequential(Conv(channels, narrow), nn.ReLU6(), halve, nn.ReLU6()))
            channels = outputs

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps [(N, C, H, W)], finest first, of normalized pixels (N, 3, H, W)."""
        maps = self.backbone(x)[1:]
        for block in self.extra:
            maps.append(block(maps[-1]))
        return maps


class TopDown(nn.Module):
    """A pyramid of `width` channels on the maps of a backbone: what the coarse ones know reaches the finer.

    Each map is brought to `width` channels by 1 × 1; from the coarsest on, each is enlarged and added to the
    next finer one; a 3 × 3 then smooths what is not smooth about that. Two coarser maps follow, the last of a
    single cell. Source: Lin et al. 2017 (feature pyramid networks), section 3.
    """

    def __init__(self, channels: Sequence[int], width: int = 64) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(_conv_bn_relu(nn.Conv2d(c, width, 1, bias=False)) for c in channels)
        depthwise = {"kernel_size": 3, "padding": 1, "groups": width, "bias": False}
        pairs = [
            (nn.Conv2d(width, width, **depthwise), nn.Conv2d(width, width, 1, bias=False)) for _ in channels
        ]
        self.smooth = nn.ModuleList(_conv_bn_relu(*pair) for pair in pairs)
        self.down = _conv_bn_relu(nn.Conv2d(width, width, 3, 2, 1, bias=False))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [(N, width, H, W)], finest first, two more than there are of [(N, C, H, W)]."""
        *finer, x = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        pyramid = [x]
        for x in reversed(finer):
            pyramid.insert(0, x + F.interpolate(pyramid[0], size=x.shape[2:]))
        pyramid = [smooth(x) for smooth, x in zip(self.smooth, pyramid, strict=True)]
        x = self.down(pyramid[-1])
        return [*pyramid, x, x.amax(dim=(2, 3), keepdim=True)]


def _conv_bn_relu(*convs: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(*convs, nn.BatchNorm2d(convs[-1].out_channels), nn.ReLU())


class TopDownMobileNetV2(nn.Module):
    """MobileNetV2 with a small `TopDown` pyramid on it: a backbone of which only the pyramid has to learn."""

    def __init__(self, padding: str = "symmetric", width: int = 64) -> None:
        super().__init__()
        self.backbone = MobileNetV2(padding)
        self.pyramid = TopDown(self.backbone.channels, width)
        self.options = {"name": "top_down_mobilenet_v2", "padding": padding, "width": width}
        self.stride = self.backbone.stride

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps [(N, width, H, W)], finest first, of normalized pixels (N, 3, H, W)."""
        return self.pyramid(self.backbone(x))
