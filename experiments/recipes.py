"""D2L's recipe as changes to ours, and the steps that lead from the one to the other.

As published (D2L 14.7): plain SGD at 0.2 all the time, batches twice as large as ours, no augmentation, D2L's
anchors, both losses averaged over all anchors. Two things are ours throughout: detection, and pixels
scaled to [-2, 2] instead of [0, 255], which batch normalisation cancels.
"""

from __future__ import annotations

from experiments.setting import Changes

AUGMENTATION: Changes = {"augment": None}
ANCHORS: Changes = {"anchors": "D2L's"}
BOX_LOSS: Changes = {"loss.box": "l1"}
CLASS_LOSS: Changes = {"loss.negatives": None, "loss.cls_normalizer": "anchors"}
BOX_MEAN: Changes = {"loss.box_normalizer": "anchors"}
UPDATES: Changes = {
    "optimizer": "sgd",
    "lr": 0.2,
    "momentum": 0.0,
    "schedule": "constant",
    "max_grad_norm": None,
    "batch_times": 2,
}
PRIOR_BIAS: Changes = {"prior_prob": 0.01}
ALL_NEGATIVES: Changes = {"loss.negatives": None, **PRIOR_BIAS}  # what this book settled on
D2L: Changes = {**AUGMENTATION, **ANCHORS, **BOX_LOSS, **CLASS_LOSS, **BOX_MEAN, **UPDATES}


def without(changes: Changes, *steps: Changes) -> Changes:
    """The changes that are left when some are taken back."""
    gone = {key for step in steps for key in step}
    return {key: value for key, value in changes.items() if key not in gone}
