"""D2L's names and signatures over this package: `from d2lmini import d2l` replaces D2L's import.

The cells of D2L's sections 14.3 to 14.7 (PyTorch) run on it unchanged. Nothing is computed here:
each function turns D2L's shapes into this package's, calls the function that does the work, and
turns the answer back. Numbers are D2L's (d2l 1.0.3), except where those are wrong or undefined:

`multibox_target`, `assign_anchor_to_bbox`
    D2L: a padded row (class −1), an empty box and one outside the picture take an anchor; so does
    an object too many; no object at all crashes, as do float64 labels; beyond 2^24 pairs an index
    is rounded. Here: padding, boxes that are empty, reversed or not finite, and objects that
    overlap no free anchor get none; no object means background everywhere; any float type will do.
`offset_boxes`
    D2L: adds eps to every ratio of sides. Here: eps is the smallest ratio, so that an ordinary box
    has its exact offsets, and an empty or reversed one log(eps) / 0.2, never NaN.
`offset_inverse`
    D2L: the exponential overflows to infinity. Here: a side grows 62.5-fold at most.
`multibox_prior`
    D2L: on a map that is not square an anchor is s·√r of the height wide. Here: s·√r of the
    width, as the text says.
`box_iou`
    D2L: two empty boxes have NaN, a reversed one a negative area. Here: 0 for both.
`nms`
    D2L: arbitrary order among equal scores; no boxes give a float tensor. Here: the earlier box
    first; indices are integers.
`multibox_detection`
    D2L: a cat deletes the dog beneath it; a rejected p is reported as 1 − p. Here: only boxes of
    one class compete (`class_aware=False` gives D2L's answer); every row keeps its p; rows of class
    −1 come last, in the order of their anchors.
`TinySSD`
    D2L: makes its anchors in every forward pass. Here: a buffer, for pictures of `image_size`.
`load_data_bananas`, `download_extract`
    D2L: downloads by http and trusts what comes. Here: `load_data_bananas` reads the archive where
    it lies and draws pictures where it does not; `download_extract` takes it by https, checked.
`Timer`
    D2L: `start()` once a batch and `stop()` once at the end time the last batch only, which made 30
    pictures a second 3,956. Here: a clock that runs is not started again, and a warning says so.

Three habits stay, because D2L's cells rely on them: `TinySSD` is fed raw pixels from 0 to 255, a
foreground probability of 0.03 is a detection beside a background of 0.97, and boxes are not clipped
to the picture.
"""

from __future__ import annotations

import math
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
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from d2lmini import boxes as _boxes
from d2lmini import losses as _losses
from d2lmini import model as _model
from d2lmini.anchors import map_anchors
from d2lmini.data import Bananas, Synthetic, bananas, load
from d2lmini.detect import nms as _nms
from d2lmini.detect import suppress
from d2lmini.matching import assign, match

__all__ = [
    "DATA_HUB",
    "DATA_URL",
    "Accumulator",
    "Animator",
    "Image",
    "Timer",
    "TinySSD",
    "assign_anchor_to_bbox",
    "bbox_to_rect",
    "box_center_to_corner",
    "box_corner_to_center",
    "box_iou",
    "concat",
    "download_extract",
    "exp",
    "focal_loss",
    "load_data_bananas",
    "log",
    "multibox_detection",
    "multibox_prior",
    "multibox_target",
    "nms",
    "numpy",
    "offset_boxes",
    "offset_inverse",
    "plt",
    "set_figsize",
    "show_bboxes",
    "show_images",
    "smooth_l1",
    "stack",
    "tensor",
    "try_gpu",
    "use_svg_display",
]

# Names under which D2L's own functions, when a cell defines them again, look for PyTorch's.
tensor, stack, concat, exp, log = torch.tensor, torch.stack, torch.cat, torch.exp, torch.log

# --- boxes and anchors: 14.3 to 14.5 --------------------------------------------------------------


def box_corner_to_center(boxes: Tensor) -> Tensor:
    """Corners to centre, width and height, (..., 4) (D2L 14.3.1): `boxes.corner_to_centre`."""
    return _boxes.corner_to_centre(boxes)


def box_center_to_corner(boxes: Tensor) -> Tensor:
    """Centre, width and height to corners, (..., 4) (D2L 14.3.1): `boxes.centre_to_corner`."""
    return _boxes.centre_to_corner(boxes)


def multibox_prior(data: Tensor, sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Anchors (1, A, 4) of a feature map `data` (..., H, W) (D2L 14.4.1): `anchors.map_anchors`.

    >>> multibox_prior(torch.zeros(1, 3, 2, 2), sizes=[0.75, 0.5], ratios=[1, 2]).shape
    torch.Size([1, 12, 4])
    """
    height, width = data.shape[-2:]
    return map_anchors(height, width, sizes, ratios).to(data.device).unsqueeze(0)


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU (M, N) of boxes (M, 4) and (N, 4), corners (D2L 14.4.2): `boxes.box_iou`."""
    return _boxes.box_iou(boxes1, boxes2)


def assign_anchor_to_bbox(
    ground_truth: Tensor,
    anchors: Tensor,
    device: torch.device | str | None = None,
    iou_threshold: float = 0.5,
) -> Tensor:
    """Index (A,) of the box (G, 4) of each anchor (A, 4), −1 for none (D2L 14.4.3): `assign`."""
    classes = torch.zeros(1, len(ground_truth), dtype=torch.int64, device=ground_truth.device)
    truth = ground_truth.to(anchors.dtype).unsqueeze(0)  # (1, G, 4)
    return assign(anchors, truth, classes, iou_threshold)[0].to(device)


def offset_boxes(anchors: Tensor, assigned_bb: Tensor, eps: float = 1e-6) -> Tensor:
    """Offsets (A, 4) from anchors to their boxes, both (A, 4) (D2L 14.4.3): `boxes.encode`.

    A box whose side is less than `eps` of its anchor's counts as having that much.

    >>> offset_boxes(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[0.5, 0, 1.5, 1]]))
    tensor([[5., 0., 0., 0.]])
    """
    offsets = _boxes.encode(anchors, assigned_bb)
    least = math.log(eps) / _boxes.VARIANCES.size
    sides = offsets[:, 2:].nan_to_num(nan=least).clamp(min=least)
    return torch.cat([offsets[:, :2], sides], dim=1)


def multibox_target(anchors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What anchors (1, A, 4) learn from labels (N, G, 5) (D2L 14.4.3): `matching.match`.

    A row of `labels` is class, then corners; class −1 is padding. Returns the offsets (N, 4A), a
    mask of the same shape that is 1 for positives, and the classes (N, A) with 0 for background.
    """
    flat = anchors.reshape(-1, 4)  # (A, 4)
    targets = match(flat, labels[..., 1:].to(flat.dtype), labels[..., 0].long())
    mask = (targets.labels > 0).to(flat.dtype).repeat_interleave(4, dim=1)  # (N, 4A)
    return targets.offsets.flatten(1), mask, targets.labels


def offset_inverse(anchors: Tensor, offset_preds: Tensor) -> Tensor:
    """Boxes (..., A, 4) of anchors (A, 4) moved by (..., A, 4) (D2L 14.4.3): `boxes.decode`."""
    return _boxes.decode(anchors, offset_preds)


@torch.no_grad()  # as cells call it with what a network has just said
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes (M, 4) that suppression keeps, best first (D2L 14.4.4): `detect.nms`."""
    return _nms(boxes, scores, iou_threshold)


@torch.no_grad()
def multibox_detection(
    cls_probs: Tensor,
    offset_preds: Tensor,
    anchors: Tensor,
    nms_threshold: float = 0.5,
    pos_threshold: float = 0.009999999,
    *,
    class_aware: bool = True,
) -> Tensor:
    """Rows (N, A, 6): class, confidence, corners; detections first (D2L 14.4.4): `detect.suppress`.

    Shapes: cls_probs (N, K + 1, A), background first; offset_preds (N, 4A), anchors (1, A, 4).
    Classes count from 0; −1 marks a row that is no detection, with the confidence that it had.
    """
    conf, class_id = cls_probs[:, 1:].max(dim=1)  # (N, A), (N, A)
    flat = anchors.reshape(-1, 4)
    boxes = offset_inverse(flat, offset_preds.unflatten(1, (-1, 4)).to(flat.dtype))  # (N, A, 4)
    good = (conf >= pos_threshold) & boxes.isfinite().all(-1)
    # Best first, and no further than the picture with the most candidates.
    order = conf.masked_fill(~good, -torch.inf).argsort(dim=1, descending=True, stable=True)
    order = order[:, : int(good.sum(1).max()) if len(good) else 0]
    ranked = boxes.take_along_dim(order.unsqueeze(-1), 1), good.gather(1, order)
    groups = class_id.gather(1, order) if class_aware else None
    kept = torch.zeros_like(good).scatter_(1, order, suppress(*ranked, nms_threshold, groups))
    rows = [class_id.masked_fill(~kept, -1).unsqueeze(-1), conf.unsqueeze(-1), boxes]
    # Kept rows by falling confidence; a stable sort leaves the others in their anchors' order.
    final = conf.masked_fill(~kept, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return torch.cat(rows, dim=-1).take_along_dim(final.unsqueeze(-1), 1)


# --- network and losses: 14.7 ---------------------------------------------------------------------


class TinySSD(_model.TinySSD):
    """D2L's network (14.7.1) with D2L's inputs and outputs: `model.TinySSD`.

    Takes pictures (N, 3, H, W) as floats from 0 to 255, of `image_size` (256 unless told), and
    returns anchors (1, A, 4), class scores (N, A, K + 1) and offsets (N, 4A).

    >>> anchors, scores, offsets = TinySSD(num_classes=1)(torch.zeros(2, 3, 256, 256))
    >>> anchors.shape, scores.shape, offsets.shape
    (torch.Size([1, 5444, 4]), torch.Size([2, 5444, 2]), torch.Size([2, 21776]))
    """

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Anchors, class scores and offsets of pictures."""
        # D2L's network sees raw pixels: undo the normalisation that the model is about to do.
        raw = images.float() * _model.PIXEL_STD + _model.PIXEL_MEAN
        predictions = super().forward(raw)
        return self.anchors.unsqueeze(0), predictions.logits, predictions.offsets.flatten(1)


def smooth_l1(data: Tensor, scalar: float) -> Tensor:
    """Smooth L1 with σ = `scalar`, elementwise (D2L 14.7, exercise 1): `losses.smooth_l1`."""
    return _losses.smooth_l1(data, sigma=scalar)


def focal_loss(gamma: float, x: Tensor) -> Tensor:
    """Focal loss of the true class's probability (D2L 14.7, exercise 1): `losses.focal_loss`."""
    return _losses.focal_loss(x, gamma=gamma)


# --- data: 14.6 -----------------------------------------------------------------------------------

# Cells of 14.6 put the archive's address here, where `download_extract` looks for it.
DATA_URL = bananas.URL.removesuffix("banana-detection.zip")
DATA_HUB = {"banana-detection": (bananas.URL, bananas.SHA1)}

DRAWN = {"train": 1000, "val": 100}  # as many as the real set has


def load_data_bananas(batch_size: int) -> tuple[DataLoader, DataLoader]:
    """Training batches, shuffled, and validation batches of the banana set (D2L 14.6.3).

    A batch is pictures (N, 3, 256, 256), floats from 0 to 255, and labels (N, 1, 5) of class and
    corners. Reads the real set where it lies unpacked (`data.bananas`, or D2L's own ../data) and
    draws one like it otherwise; says which.
    """
    roots = (Path("../data"), bananas.default_root())
    root = next((r for r in roots if bananas.find_archive(r)), None)
    train, validation = (_InMemory(root, split) for split in ("train", "val"))
    return DataLoader(train, batch_size, shuffle=True), DataLoader(validation, batch_size)


def download_extract(name: str, folder: str | None = None) -> str:
    """The unpacked banana set, fetched if need be (D2L 14.6.1): `data.bananas.download`.

    Raises ValueError for any other archive, and where it cannot be fetched or is not what it was.
    """
    if name != "banana-detection":
        raise ValueError(f"only banana-detection can be fetched, not {name}")
    url, sha1 = DATA_HUB[name]
    found = bananas.download(url=url, sha1=sha1)
    return str(found / folder if folder else found)


class _InMemory(Dataset[tuple[Tensor, Tensor]]):
    """Pixels (3, H, W) as floats from 0 to 255 and rows (1, 5) of class and corners."""

    def __init__(self, root: Path | None, split: str) -> None:
        if root is None:
            samples = Synthetic("bananas", count=DRAWN[split], split=split)
            origin = "drawn (download_extract('banana-detection') fetches the real ones)"
        else:
            samples, origin = Bananas(root, split), f"read from {root}"
        self.images, boxes, labels = load(samples)
        self.labels = torch.cat([labels.unsqueeze(-1).float(), boxes], dim=-1)  # (N, 1, 5)
        print(f"{len(self)} pictures for {split}, {origin}")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index].float(), self.labels[index]


# --- drawing: all sections ------------------------------------------------------------------------


def numpy(x: Tensor) -> np.ndarray:
    """The values of a tensor, wherever it is."""
    return x.detach().cpu().numpy()


def use_svg_display() -> None:
    """Ask a notebook for sharp figures; does nothing outside one."""
    try:
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    if get_ipython() is not None:
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
    axes: Axes,
    bboxes: Sequence[Tensor] | Tensor,
    labels: str | Sequence[str] | None = None,
    colors: str | Sequence[str] | None = None,
) -> None:
    """Draw corner boxes (M, 4), in units of the axes, each with its label (D2L 14.4.1)."""
    labels = [labels] if isinstance(labels, str) else labels or []
    colors = [colors] if isinstance(colors, str) else colors or ["b", "g", "r", "m", "c"]
    for i, bbox in enumerate(bboxes):
        color = colors[i % len(colors)]
        rectangle = axes.add_patch(bbox_to_rect(bbox, color))
        if i < len(labels):
            ink = "k" if color == "w" else "w"
            place = {"va": "center", "ha": "center", "fontsize": 9}
            axes.text(*rectangle.xy, labels[i], color=ink, bbox={"fc": color, "lw": 0}, **place)


def show_images(
    imgs: Sequence[Any],
    num_rows: int,
    num_cols: int,
    titles: Sequence[str] | None = None,
    scale: float = 1.5,
) -> np.ndarray:
    """Pictures (H, W[, 3]), tensors or arrays, in a grid; returns its axes (rows * columns,)."""
    size = (num_cols * scale, num_rows * scale)
    axes = plt.subplots(num_rows, num_cols, figsize=size, squeeze=False)[1].flatten()
    for i, (panel, picture) in enumerate(zip(axes, imgs, strict=False)):
        panel.imshow(numpy(picture) if isinstance(picture, Tensor) else picture)
        panel.set_xticks([])
        panel.set_yticks([])
        if titles:
            panel.set_title(titles[i])
    return axes


# --- what the training cell of 14.7 uses ----------------------------------------------------------


def try_gpu(i: int = 0) -> torch.device:
    """The i-th CUDA device if there is one, else the CPU."""
    return torch.device(f"cuda:{i}" if i < torch.cuda.device_count() else "cpu")


class Accumulator:
    """Running sums of `n` numbers.

    >>> sums = Accumulator(2)
    >>> sums.add(1, torch.tensor(2.5)); sums.add(1, 1)
    >>> sums[0], sums[1]
    (2.0, 3.5)
    """

    def __init__(self, n: int) -> None:
        self.data = [0.0] * n

    def add(self, *args: float | Tensor) -> None:
        """Add one number to each sum; raises ValueError unless there are `n` of them."""
        self.data = [a + float(b) for a, b in zip(self.data, args, strict=True)]

    def reset(self) -> None:
        """Back to zero."""
        self.data = [0.0] * len(self.data)

    def __getitem__(self, idx: int) -> float:
        return self.data[idx]


class Timer:
    """A stopwatch in seconds that runs from its making, or from the first `start()`.

    `start()` while it runs since an earlier `start()` changes nothing but warns: in D2L's training
    cell `stop()` then gives the time of the whole run. That cell still divides the pictures of one
    epoch by it; the true rate is num_epochs times what it prints.
    """

    def __init__(self) -> None:
        self.times: list[float] = []
        self.running = False
        self.tik = time.perf_counter()

    def start(self) -> None:
        """Begin a measurement, unless one is running."""
        if self.running:
            message = "this timer is running already and goes on: call stop() before start()"
            warnings.warn(message, stacklevel=2)
            return
        self.running, self.tik = True, time.perf_counter()

    def stop(self) -> float:
        """End the measurement; returns its seconds and keeps them in `times`."""
        self.times.append(time.perf_counter() - self.tik)
        self.running = False
        return self.times[-1]

    def sum(self) -> float:
        """All measurements together."""
        return sum(self.times)

    def avg(self) -> float:
        """Their mean; NaN before the first."""
        return self.sum() / len(self.times) if self.times else math.nan

    def cumsum(self) -> list[float]:
        """The sum after each."""
        return np.cumsum(self.times).tolist()


class Animator:
    """A line chart that grows while a cell runs: `add` a point per line, and it is drawn again."""

    def __init__(
        self,
        xlabel: str | None = None,
        ylabel: str | None = None,
        legend: Sequence[str] | None = None,
        xlim: Sequence[float] | None = None,
        ylim: Sequence[float] | None = None,
        xscale: str = "linear",
        yscale: str = "linear",
        fmts: Sequence[str] = ("-", "m--", "g-.", "r:"),
        nrows: int = 1,
        ncols: int = 1,
        figsize: tuple[float, float] = (3.5, 2.5),
    ) -> None:
        use_svg_display()
        self.fig, axes = plt.subplots(nrows, ncols, figsize=figsize, squeeze=False)
        self.axes, self.fmts, self.legend = axes.flatten(), fmts, legend
        limits = {"xlim": xlim, "ylim": ylim}
        self.settings = {"xlabel": xlabel, "ylabel": ylabel, "xscale": xscale, "yscale": yscale}
        self.settings |= {name: value for name, value in limits.items() if value is not None}
        self.lines: list[list[tuple[float, float]]] = []

    def add(self, x: float | Sequence[float], y: float | Sequence[float | None]) -> None:
        """One point of every line, at its x or at an x of all; None leaves a line as it is."""
        values = y if hasattr(y, "__len__") else [y]
        places = x if hasattr(x, "__len__") else [x] * len(values)
        self.lines += [[] for _ in range(len(values) - len(self.lines))]
        for line, point in zip(self.lines, zip(places, values, strict=True), strict=False):
            if None not in point:
                line.append((float(point[0]), float(point[1])))
        self._draw()

    def _draw(self) -> None:
        axes = self.axes[0]
        axes.cla()
        for i, line in enumerate(self.lines):
            axes.plot(*zip(*line, strict=True) if line else ((), ()), self.fmts[i % len(self.fmts)])
        axes.set(**{name: value for name, value in self.settings.items() if value is not None})
        if self.legend:
            axes.legend(self.legend)
        axes.grid()
        _show(self.fig)


def _show(figure: Any) -> None:
    """Replace what the cell shows by the figure as it is now; does nothing outside a notebook."""
    try:
        from IPython import display, get_ipython
    except ImportError:
        return
    if get_ipython() is not None:
        display.display(figure)
        display.clear_output(wait=True)
