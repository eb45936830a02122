"""d2lmini: single-shot object detection you can read, and the package behind an interactive book.

From pictures to scores, each step a module: `anchors` and `boxes` lay out and measure boxes, `matching`
tells every anchor what to learn, `model` predicts, `losses` says how wrong that is, `train` improves it,
`detect` turns answers into boxes, `evaluate` scores them, `show` draws all of it.
"""

from d2lmini.anchors import TINY_SSD_ANCHORS, AnchorSpec, make_anchors, map_anchors
from d2lmini.boxes import (
    Variances,
    box_area,
    box_iou,
    centre_to_corner,
    corner_to_centre,
    decode,
    encode,
)
from d2lmini.checkpoint import load_model, pretrained, save_model
from d2lmini.coverage import anchor_report, suggest_anchors
from d2lmini.detect import Detections, detect, nms, soft_nms
from d2lmini.evaluate import anchor_metrics, error_breakdown, evaluate, precision_recall
from d2lmini.losses import (
    LossConfig,
    cross_entropy,
    focal_loss,
    focal_loss_with_logits,
    hard_negatives,
    smooth_l1,
    ssd_loss,
)
from d2lmini.matching import Targets, assign, match
from d2lmini.model import Predictions, TinyBackbone, TinySSD, adapt
from d2lmini.train import TrainConfig, fit, predict, validate

__version__ = "0.1.0"

__all__ = [
    "TINY_SSD_ANCHORS",
    "AnchorSpec",
    "Detections",
    "LossConfig",
    "Predictions",
    "Targets",
    "TinyBackbone",
    "TinySSD",
    "TrainConfig",
    "Variances",
    "adapt",
    "anchor_metrics",
    "anchor_report",
    "assign",
    "box_area",
    "box_iou",
    "centre_to_corner",
    "corner_to_centre",
    "cross_entropy",
    "decode",
    "detect",
    "encode",
    "error_breakdown",
    "evaluate",
    "fit",
    "focal_loss",
    "focal_loss_with_logits",
    "hard_negatives",
    "load_model",
    "make_anchors",
    "map_anchors",
    "match",
    "nms",
    "precision_recall",
    "predict",
    "pretrained",
    "save_model",
    "smooth_l1",
    "soft_nms",
    "ssd_loss",
    "suggest_anchors",
    "validate",
]
