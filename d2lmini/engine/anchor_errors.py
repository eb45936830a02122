"""D2L's two numbers, class error and box MAE over all anchors, beside their baselines."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from d2lmini.evaluate import nan_to_none
from d2lmini.matching import Targets
from d2lmini.model import Predictions

ANCHOR_RATES = ("class_error", "background_class_error", "box_mae", "background_box_mae", "positive_recall")


@dataclass(frozen=True)
class AnchorMetrics:
    """Sums over anchors, from which D2L's two numbers follow, each beside what "background" scores.

    Add two of them, or `sum` a list, to get those of all batches. The sums stay tensors on their device:
    only reading a property waits for it. All properties are NaN without anchors.
    """

    anchors: int
    positives: Tensor
    wrong: Tensor
    positives_right: Tensor
    box_error: Tensor
    no_box_error: Tensor

    @property
    def class_error(self) -> float:
        """Share of all anchors whose class is wrong: 1 - accuracy."""
        return _ratio(self.wrong, self.anchors)

    @property
    def box_mae(self) -> float:
        """Mean error of an offset's four numbers over all anchors, with 0 for the negatives."""
        return _ratio(self.box_error, 4 * self.anchors)

    @property
    def background_class_error(self) -> float:
        """The class error of a detector that calls every anchor background."""
        return _ratio(self.positives, self.anchors)

    @property
    def background_box_mae(self) -> float:
        """The box error of a detector that predicts no offset anywhere."""
        return _ratio(self.no_box_error, 4 * self.anchors)

    @property
    def positive_recall(self) -> float:
        """Share of the anchors that hold an object whose class is right; NaN if none holds one."""
        return _ratio(self.positives_right, self.positives)

    def as_dict(self) -> dict[str, float | int | None]:
        """All numbers for JSON; None where one is undefined."""
        numbers = {name: getattr(self, name) for name in ANCHOR_RATES}
        return nan_to_none({**numbers, "positives": int(self.positives), "anchors": self.anchors})

    def __add__(self, other: AnchorMetrics) -> AnchorMetrics:
        if not isinstance(other, AnchorMetrics):
            return NotImplemented
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return AnchorMetrics(*(one + another for one, another in pairs))

    def __radd__(self, other: int) -> AnchorMetrics:
        return self if other == 0 else NotImplemented  # what `sum` starts from


@torch.no_grad()
def anchor_metrics(predictions: Predictions, targets: Targets) -> AnchorMetrics:
    """D2L's class error and box MAE of a batch, with the baselines that show how little they say.

    Shapes: `predictions.logits` (N, A, K + 1), `.offsets` (N, A, 4); `targets.labels` (N, A), 0 for
    background, `.offsets` (N, A, 4). An anchor with NaN among its logits is wrong. Nothing waits for the
    device. Raises ValueError where shapes disagree.

    Source: D2L, section 14.7.2.2 (evaluation functions).
    """
    logits, labels = predictions.logits, targets.labels
    shapes = [tuple(t.shape) for t in (logits, predictions.offsets, labels, targets.offsets)]
    if shapes[0][:-1] != shapes[2] or not shapes[1] == shapes[3] == (*shapes[2], 4):
        raise ValueError(
            "expected logits (N, A, K + 1), offsets (N, A, 4), labels (N, A), offsets (N, A, 4), "
            f"got {', '.join(map(str, shapes))}"
        )
    positive = labels > 0  # (N, A)
    right = (logits.argmax(-1) == labels) & ~logits.isnan().any(-1)  # argmax takes NaN for the best
    error = (predictions.offsets.float() - targets.offsets.float()).abs().sum(-1)  # (N, A)
    extent = targets.offsets.float().abs().sum(-1)  # (N, A)
    return AnchorMetrics(
        anchors=labels.numel(),
        positives=positive.sum(),
        wrong=(~right).sum(),
        positives_right=(right & positive).sum(),
        box_error=torch.where(positive, error, 0).sum(),
        no_box_error=torch.where(positive, extent, 0).sum(),
    )


def _ratio(part: Tensor | float, whole: Tensor | float) -> float:
    return float(part) / float(whole) if whole else math.nan
