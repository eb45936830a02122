"""Backbones from elsewhere, for example timm's: any module that gives a list of feature maps, finest first.

`Pyramid` adds what networks that were trained elsewhere lack for a detector: pixels normalized as in their
training, and coarser maps down to a single cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from d2lmini.model import PIXEL_MEAN, PIXEL_STD, downsample, map_shapes

FINEST_STRIDE = 8  # pixels to a cell of the finest map that carries anchors, as in TinyBackbone


class Pyramid(nn.Module):
    """A network's feature maps, then coarser ones of `width` channels, then one of a single cell.

    `features` is run once on an image of `image_size` pixels a side. For `maps` in all, its coarsest map is
    halved repeatedly, and the last is the maximum of the one before. `mean` and `std` of pixels in [0, 1]
    are those that it was trained with. Raises ValueError when it gives no list of maps, or not fewer.
    """

    def __init__(
        self,
        features: nn.Module,
        maps: int = 5,
        width: int = 128,
        mean: Sequence[float] = (PIXEL_MEAN,) * 3,
        std: Sequence[float] = (PIXEL_STD,) * 3,
        image_size: int = 256,
    ) -> None:
        super().__init__()
        self.features = features
        # timm says so of networks whose maps have their channels last, as transformers' do
        self.channels_last = "NHWC" in str(getattr(features, "output_fmt", ""))
        given = map_shapes(features, (image_size, image_size))
        if maps <= len(given):
            raise ValueError(f"maps is {maps}, but the network gives {len(given)}: ask for at least one more")
        channels = [given[-1][2 if self.channels_last else 0], *[width] * (maps - 1 - len(given))]
        self.blocks = nn.ModuleList(downsample(i, o) for i, o in pairwise(channels))
        # TinySSD's pixels are (p - PIXEL_MEAN) / PIXEL_STD; these make them (p - mean) / std.
        mean, std = (torch.tensor(tuple(v)).reshape(1, 3, 1, 1) for v in (mean, std))
        self.register_buffer("gain", PIXEL_STD / std, persistent=False)
        self.register_buffer("shift", (PIXEL_MEAN - mean) / std, persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps [(N, C, H, W)], finest first, of pixels (N, 3, H, W) as TinySSD normalizes them."""
        maps = list(self.features(x * self.gain + self.shift))
        if self.channels_last:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return [*maps, maps[-1].amax(dim=(2, 3), keepdim=True)]


def timm_backbone(
    name: str,
    *,
    weights: str | Path | None = None,
    pretrained: bool = False,
    maps: int = 5,
    width: int = 128,
    image_size: int = 256,
) -> Pyramid:
    """One of timm's networks as a backbone: its maps from stride 8 on, coarser ones, and a single cell.

    The weights are random, or from a safetensors file of the classifier (`weights`), or downloaded by timm
    (`pretrained`). Raises ValueError when timm is missing (`pip install d2lmini[timm]`), has no such network
    or cannot read the file, or when the network has no map of stride 8.
    """
    features = _timm_features(name, weights, pretrained, image_size)
    config = getattr(features, "pretrained_cfg", None) or {}
    pixels = {key: config[key] for key in ("mean", "std") if config.get(key)}
    options = {"maps": maps, "width": width, "image_size": image_size}
    backbone = Pyramid(features, **options, **pixels)
    backbone.options = {"timm": name, **options}
    return backbone


def _timm_features(name: str, weights: str | Path | None, pretrained: bool, image_size: int) -> nn.Module:
    """`timm.create_model` with its maps from `FINEST_STRIDE` on; what can go wrong as a ValueError."""
    try:
        import timm
    except ImportError as error:
        raise ValueError("backbones of timm need the package timm: pip install 'd2lmini[timm]'") from error
    if ":" in name or not timm.is_model(name):  # with a colon it would be an address to download from
        near = timm.list_models(f"*{name.split('.')[0].split(':')[-1][:6]}*")[:5]
        raise ValueError(f"timm has no network {name!r}" + (f": perhaps {', '.join(near)}" if near else ""))
    options: dict[str, Any] = {"features_only": True}
    if timm.get_pretrained_cfg(name).fixed_input_size:  # transformers with windows or positions
        options["img_size"] = image_size
    source: dict[str, Any] = {"pretrained": pretrained}
    if weights is not None:
        if Path(weights).suffix != ".safetensors" or not Path(weights).is_file():
            raise ValueError(f"no safetensors file at {weights}: give timm's weights in that form")
        source = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(weights)}}
    try:
        strides = timm.create_model(name, **options).feature_info.reduction()
        if FINEST_STRIDE not in strides:
            raise ValueError(f"its maps have the strides {strides}, of which none is {FINEST_STRIDE}")
        use = [i for i, stride in enumerate(strides) if stride >= FINEST_STRIDE]
        return timm.create_model(name, **options, **source, out_indices=use)
    except Exception as error:
        raise ValueError(f"timm's {name!r} cannot be a backbone: {error}") from error
