"""D2L's names and signatures over this package: `from d2lmini.interop import d2l` replaces D2L's import.

The cells of D2L's sections 14.3 to 14.7 (PyTorch) run on it unchanged. Each function converts D2L's shapes
to this package's, calls the function that does the work, and converts the result back. Numbers are those of
d2l 1.0.3, except where those are wrong or undefined: the page "Coming from D2L" lists every difference.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image as Image
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from d2lmini import boxes as _boxes
from d2lmini import losses as _losses
from d2lmini import model as _model
from d2lmini.anchors import map_anchors
from d2lmini.data import Synthetic, bananas, load, open_folder
from d2lmini.detect import DetectConfig, best_first, suppress
from d2lmini.detect import nms as _nms
from d2lmini.matching import assign, match

Device = torch.device | str | None
# Names under which D2L's own functions, when a cell defines them again, look for PyTorch's.
tensor, stack, concat, exp, log = torch.tensor, torch.stack, torch.cat, torch.exp, torch.log

box_corner_to_center, box_center_to_corner = _boxes.xyxy_to_cxcywh, _boxes.cxcywh_to_xyxy
box_iou, offset_inverse = _boxes.box_iou, _boxes.decode
nms = torch.no_grad()(_nms)  # cells call it with predictions that require gradients


def multibox_prior(data: Tensor, sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Anchors (1, A, 4) of a feature map `data` (..., H, W) (D2L 14.4.1): `anchors.map_anchors`."""
    height, width = data.shape[-2:]
    return map_anchors(height, width, sizes, ratios).to(data.device).unsqueeze(0)


def assign_anchor_to_bbox(
    ground_truth: Tensor, anchors: Tensor, device: Device = None, iou_threshold: float = 0.5
) -> Tensor:
    """Index (A,) of the box (G, 4) of each anchor (A, 4), −1 for none (D2L 14.4.3): `matching.assign`."""
    labels = torch.zeros(1, len(ground_truth), dtype=torch.int64, device=ground_truth.device)
    boxes = ground_truth.to(anchors.dtype).unsqueeze(0)  # (1, G, 4)
    return assign(anchors, boxes, labels, iou_threshold)[0].to(device)


def offset_boxes(anchors: Tensor, assigned_bb: Tensor, eps: float = 1e-6) -> Tensor:
    """Offsets (A, 4) of anchors to their boxes, both (A, 4), of a ratio of at least `eps` (D2L 14.4.3)."""
    offsets = _boxes.encode(anchors, assigned_bb)
    least = math.log(eps) / _boxes.VARIANCES.size
    sides = offsets[:, 2:].nan_to_num(nan=least).clamp(min=least)
    return torch.cat([offsets[:, :2], sides], dim=1)


def multibox_target(anchors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Training targets of anchors (1, A, 4) for labels (N, G, 5) (D2L 14.4.3): `matching.match`.

    A row of `labels` is class, then corners; class −1 is padding. Returns the offsets (N, 4A), a
    mask of the same shape that is 1 for positives, and the classes (N, A) with 0 for background.
    """
    flat = anchors.reshape(-1, 4)  # (A, 4)
    targets = match(flat, labels[..., 1:].to(flat.dtype), labels[..., 0].long())
    mask = (targets.labels > 0).to(flat.dtype).repeat_interleave(4, dim=1)  # (N, 4A)
    return targets.offsets.flatten(1), mask, targets.labels


@torch.no_grad()
def multibox_detection(
    cls_probs: Tensor,  # (N, K + 1, A), background first
    offset_preds: Tensor,  # (N, 4A)
    anchors: Tensor,  # (1, A, 4)
    nms_threshold: float = 0.5,
    pos_threshold: float = 0.009999999,
    *,
    class_aware: bool = True,
) -> Tensor:
    """Rows (N, A, 6): class, confidence, corners; detections first (D2L 14.4.4): `detect.nms`.

    Classes count from 0; −1 marks a row that is no detection, with the confidence that it had. Only boxes of
    one class compete; `class_aware=False` gives D2L's result.
    """
    conf, class_id = cls_probs[:, 1:].max(dim=1)  # (N, A), (N, A)
    flat = anchors.reshape(-1, 4)
    boxes = offset_inverse(flat, offset_preds.unflatten(1, (-1, 4)).to(flat.dtype))  # (N, A, 4)
    row = ((conf >= pos_threshold) & boxes.isfinite().all(-1)).flatten().nonzero().squeeze(1)  # (M,)
    row = row[best_first(row // len(flat), conf.flatten()[row], len(conf), None)]
    groups = row // len(flat)
    groups = groups * cls_probs.shape[1] + class_id.flatten()[row] if class_aware else groups
    kept = torch.zeros_like(conf, dtype=torch.bool)
    candidates, config = boxes.flatten(0, 1)[row], DetectConfig(iou_threshold=nms_threshold)
    kept.view(-1)[row] = suppress(candidates, conf.new_ones(len(row)), groups, config) > 0
    rows = [class_id.masked_fill(~kept, -1).unsqueeze(-1), conf.unsqueeze(-1), boxes]
    # Kept rows by falling confidence; a stable sort leaves the others in their anchors' order.
    order = conf.masked_fill(~kept, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return torch.cat(rows, dim=-1).take_along_dim(order.unsqueeze(-1), 1)


class TinySSD(_model.TinySSD):
    """`model.TinySSD` as D2L's network (14.7.1): images (N, 3, H, W) of floats from 0 to 255 go in.

    Out come anchors (1, A, 4), class scores (N, A, K + 1) and offsets (N, 4A).
    """

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        # D2L's network sees raw pixels: undo the normalization that the model is about to do.
        predictions = super().forward(images.float() * _model.PIXEL_STD + _model.PIXEL_MEAN)
        return self.anchors.unsqueeze(0), predictions.logits, predictions.offsets.flatten(1)


def smooth_l1(data: Tensor, scalar: float) -> Tensor:
    """Smooth L1 with σ = `scalar`, elementwise (D2L 14.7, exercise 1): `losses.smooth_l1`."""
    return _losses.smooth_l1(data, sigma=scalar)


def focal_loss(gamma: float, x: Tensor) -> Tensor:
    """Focal loss of the true class's probability (D2L 14.7, exercise 1): `losses.focal_loss`."""
    return _losses.focal_loss(x, gamma=gamma)


# Cells of 14.6 put the archive's address here, where `download_extract` looks for it.
DATA_URL = bananas.URL.removesuffix("banana-detection.zip")
DATA_HUB = {"banana-detection": (bananas.URL, bananas.SHA1)}
DRAWN = {"train": 1000, "val": 100}  # as many as the real set has


def load_data_bananas(batch_size: int) -> tuple[DataLoader, DataLoader]:
    """Training batches, shuffled, and validation batches of the banana set (D2L 14.6.3).

    A batch is images (N, 3, 256, 256), floats from 0 to 255, and labels (N, 1, 5) of class and corners.
    Prints whether the real set was read (from the folder for data or D2L's ../data), or one like it drawn.
    """
    root = next((r for r in (Path("../data"), bananas.default_root()) if bananas.find_archive(r)), None)
    loaders = []
    for split, count in DRAWN.items():
        if root is None:
            samples = Synthetic("bananas", count=count, split=split)
            origin = "drawn (download_extract('banana-detection') fetches the real ones)"
        else:
            samples, origin = open_folder(root, split), f"read from {root}"
        images, boxes, labels = load(samples)
        print(f"{len(images)} images for {split}, {origin}")
        data = TensorDataset(images, torch.cat([labels.unsqueeze(-1).float(), boxes], dim=-1))  # (N, 1, 5)
        loaders.append(DataLoader(data, batch_size, shuffle=split == "train", collate_fn=_collate))
    return loaders[0], loaders[1]


def _collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, rows = (torch.stack(parts) for parts in zip(*samples, strict=True))
    return images.float(), rows


def download_extract(name: str, folder: str | None = None) -> str:
    """The unpacked banana set, fetched if need be (D2L 14.6.1); ValueError for another or a changed one."""
    if name != "banana-detection":
        raise ValueError(f"only banana-detection can be fetched, not {name}")
    url, sha1 = DATA_HUB[name]
    return str(bananas.download(url=url, sha1=sha1) / (folder or ""))


def numpy(x: Tensor) -> np.ndarray:
    """The values of a tensor on any device."""
    return x.detach().cpu().numpy()


def _in_notebook() -> bool:
    return "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None


def use_svg_display() -> None:
    """Show a notebook's figures as SVG; does nothing outside one."""
    if _in_notebook():
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg")


def set_figsize(figsize: tuple[float, float] = (3.5, 2.5)) -> None:
    """Width and height in inches of the figures to come."""
    use_svg_display()
    plt.rcParams["figure.figsize"] = figsize


def bbox_to_rect(bbox: Tensor | Sequence[float], color: str) -> Rectangle:
    """The outline of a corner box (4,) as matplotlib draws it (D2L 14.3.1)."""
    x, y, right, bottom = numpy(torch.as_tensor(bbox)).tolist()
    return Rectangle((x, y), right - x, bottom - y, fill=False, edgecolor=color, linewidth=2)


def show_bboxes(
    axes: Axes, bboxes: Sequence[Tensor] | Tensor, labels: Any = None, colors: Any = None
) -> None:
    """Draw corner boxes (M, 4), in units of the axes, with labels and colors, one or many (D2L 14.4.1)."""
    labels = [labels] if isinstance(labels, str) else labels or []
    colors = [colors] if isinstance(colors, str) else colors or ["b", "g", "r", "m", "c"]
    for i, bbox in enumerate(bboxes):
        color = colors[i % len(colors)]
        rectangle = axes.add_patch(bbox_to_rect(bbox, color))
        if i < len(labels):
            style = {"va": "center", "ha": "center", "fontsize": 9, "color": "k" if color == "w" else "w"}
            axes.text(*rectangle.xy, labels[i], bbox={"fc": color, "lw": 0}, **style)


def show_images(
    imgs: Sequence[Any], num_rows: int, num_cols: int, titles: Sequence[str] | None = None, scale: float = 1.5
) -> np.ndarray:
    """Images (H, W[, 3]), tensors or arrays, in a grid; returns its axes (rows * columns,)."""
    size = (num_cols * scale, num_rows * scale)
    axes = plt.subplots(num_rows, num_cols, figsize=size, squeeze=False)[1].flatten()
    for i, (panel, image) in enumerate(zip(axes, imgs, strict=False)):
        panel.imshow(numpy(image) if isinstance(image, Tensor) else image)
        panel.set(xticks=[], yticks=[], title=titles[i] if titles else "")
    return axes


def try_gpu(i: int = 0) -> torch.device:
    """The i-th CUDA device if there is one, else the CPU."""
    return torch.device(f"cuda:{i}" if i < torch.cuda.device_count() else "cpu")


class Accumulator:
    """Running sums of `n` numbers, each under its index."""

    def __init__(self, n: int) -> None:
        self.data = [0.0] * n

    def add(self, *args: float | Tensor) -> None:
        """Add one number to each sum; raises ValueError unless there are `n` of them."""
        self.data = [a + float(b) for a, b in zip(self.data, args, strict=True)]

    def reset(self) -> None:
        self.data = [0.0] * len(self.data)

    def __getitem__(self, idx: int) -> float:
        return self.data[idx]


class Timer:
    """A stopwatch in seconds that runs from its making, or from the first `start()`.

    `start()` on a running clock only warns: `stop()` in D2L's training cell gives the time of the whole run.
    """

    def __init__(self) -> None:
        self.times: list[float] = []
        self.running, self.tik = False, time.perf_counter()

    def start(self) -> None:
        """Begin a measurement, unless one is running."""
        if not self.running:
            self.running, self.tik = True, time.perf_counter()
            return
        warnings.warn("this timer is running already and goes on: call stop() before start()", stacklevel=2)

    def stop(self) -> float:
        """End the measurement; returns its seconds and keeps them in `times`."""
        self.times.append(time.perf_counter() - self.tik)
        self.running = False
        return self.times[-1]

    def sum(self) -> float:
        return sum(self.times)

    def avg(self) -> float:
        """The mean of all measurements; NaN before the first."""
        return self.sum() / len(self.times) if self.times else math.nan

    def cumsum(self) -> list[float]:
        """The sum after each measurement."""
        return np.cumsum(self.times).tolist()


class Animator:
    """A line chart that grows while a cell runs: `add` a point per line, and it is drawn again.

    `settings` are those of matplotlib's axes: xlabel, ylabel, xlim, ylim, xscale, yscale.
    """

    def __init__(
        self,
        *,
        legend: Sequence[str] = (),
        fmts: Sequence[str] = ("-", "m--", "g-.", "r:"),
        figsize: tuple[float, float] = (3.5, 2.5),
        **settings: Any,
    ) -> None:
        use_svg_display()
        self.fig, axes = plt.subplots(figsize=figsize)
        self.axes, self.fmts, self.legend, self.settings = [axes], fmts, legend, settings
        self.lines: list[tuple[list[float], list[float]]] = []  # x and y of each

    def add(self, x: float | Sequence[float], y: float | Sequence[float | None]) -> None:
        """One point of every line, at its x or at an x of all; None leaves a line as it is."""
        values = y if hasattr(y, "__len__") else [y]
        places = x if hasattr(x, "__len__") else [x] * len(values)
        self.lines = self.lines or [([], []) for _ in values]
        for (xs, ys), place, value in zip(self.lines, places, values, strict=True):
            if value is not None:
                xs.append(float(place))
                ys.append(float(value))
        axes = self.axes[0]
        axes.cla()
        for i, line in enumerate(self.lines):
            axes.plot(*line, self.fmts[i % len(self.fmts)])
        axes.set(**self.settings)
        if self.legend:
            axes.legend(self.legend)
        axes.grid()
        if _in_notebook():
            from IPython import display

            display.display(self.fig)
            display.clear_output(wait=True)
