"""Live figures: sliders and drawings that work in a notebook and, without any kernel, in the rendered page.

    from d2lmini import widgets
    widgets.smooth_l1()

Each function here returns a `Live` figure. They are for notebooks: nothing else in the package imports
them, and they need the extra `book` (ipywidgets and anywidget).
"""

from d2lmini.widgets.anchors import anchor_coverage, anchor_grid
from d2lmini.widgets.base import Figure, Live
from d2lmini.widgets.boxes import iou
from d2lmini.widgets.data import augmentation
from d2lmini.widgets.evaluation import precision_recall
from d2lmini.widgets.experiments import experiment
from d2lmini.widgets.front import data_flow, detector_at_work
from d2lmini.widgets.improving import input_size, loss_weights, negatives
from d2lmini.widgets.live import live_detector
from d2lmini.widgets.losses import focal_loss, smooth_l1
from d2lmini.widgets.matching import greedy_rounds, match_inspector
from d2lmini.widgets.multiscale import scale_explorer, scale_owners
from d2lmini.widgets.prediction import nms_stepper
from d2lmini.widgets.speed import loops_against_batched, step_anatomy
from d2lmini.widgets.training import training_replay

__all__ = [
    "Figure",
    "Live",
    "anchor_coverage",
    "anchor_grid",
    "augmentation",
    "data_flow",
    "detector_at_work",
    "experiment",
    "focal_loss",
    "greedy_rounds",
    "input_size",
    "iou",
    "live_detector",
    "loops_against_batched",
    "loss_weights",
    "match_inspector",
    "negatives",
    "nms_stepper",
    "precision_recall",
    "scale_explorer",
    "scale_owners",
    "smooth_l1",
    "step_anatomy",
    "training_replay",
]
