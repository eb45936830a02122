"""d2lmini: single-shot object detection you can read, and the package behind an interactive book.

From images to scores, each step a module: `anchors` and `boxes` lay out and measure boxes, `matching`
tells every anchor what it has to learn, `model` predicts, `losses` says how wrong that is, `train`
improves it, `detect` turns predictions into boxes, `evaluate` scores them, `plots` draws all of it.
"""

from d2lmini.engine import interrupts as interrupts  # first: for the seconds that the others take

# isort: split
from d2lmini.anchors import TINY_SSD_ANCHORS, AnchorSpec, make_anchors, map_anchors, suggest_anchors
from d2lmini.boxes import Variances, box_area, box_iou, cxcywh_to_xyxy, decode, encode, xyxy_to_cxcywh
from d2lmini.checkpoint import load_model, pretrained, save_model
from d2lmini.detect import DetectConfig, Detections, detect, nms, soft_nms
from d2lmini.engine.anchor_errors import anchor_metrics
from d2lmini.engine.validation import predict_batched, validate
from d2lmini.errors import error_breakdown
from d2lmini.evaluate import evaluate, precision_recall
from d2lmini.inspect import anchor_report
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
from d2lmini.model import Predictions, TinyBackbone, TinySSD, replace_class_heads
from d2lmini.train import TrainConfig, fit, train_step

__version__ = "0.1.0"

__all__ = ["TINY_SSD_ANCHORS", "AnchorSpec", "make_anchors", "map_anchors", "suggest_anchors"]
__all__ += ["Variances", "box_area", "box_iou", "cxcywh_to_xyxy", "decode", "encode", "xyxy_to_cxcywh"]
__all__ += ["load_model", "pretrained", "save_model"]
__all__ += ["DetectConfig", "Detections", "detect", "nms", "soft_nms"]
__all__ += ["anchor_metrics", "anchor_report", "error_breakdown", "evaluate", "precision_recall"]
__all__ += ["LossConfig", "cross_entropy", "focal_loss", "focal_loss_with_logits"]
__all__ += ["hard_negatives", "smooth_l1", "ssd_loss"]
__all__ += ["Targets", "assign", "match"]
__all__ += ["Predictions", "TinyBackbone", "TinySSD", "replace_class_heads"]
__all__ += ["TrainConfig", "fit", "predict_batched", "train_step", "validate"]
