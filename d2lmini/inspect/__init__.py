"""Tools for looking into a detector: how its anchors fit, what it sees, how far its scores can be trusted."""

from d2lmini.inspect.coverage import anchor_report, best_iou, read_objects
from d2lmini.inspect.doctor import examine
from d2lmini.inspect.error_costs import error_costs
from d2lmini.inspect.gradients import backbone_gradients, backbone_stages, flat_gradients
from d2lmini.inspect.input_size import by_input_size, multiply_adds
from d2lmini.inspect.intervals import bootstrap, compare_models
from d2lmini.inspect.learning import LearningCurve, learning_curve
from d2lmini.inspect.receptive import ReceptiveField, effective_field, receptive_fields, side_that_holds
from d2lmini.inspect.source import show_source
from d2lmini.inspect.suspects import out_of_fold, rank_suspects
from d2lmini.inspect.thresholds import best_f1, calibration, confusion_matrix

__all__ = ["anchor_report", "backbone_gradients", "backbone_stages", "best_iou", "by_input_size", "examine"]
__all__ += ["ReceptiveField", "effective_field", "flat_gradients", "receptive_fields", "side_that_holds"]
__all__ += ["best_f1", "bootstrap", "calibration", "compare_models", "confusion_matrix", "error_costs"]
__all__ += ["out_of_fold", "rank_suspects"]
__all__ += ["LearningCurve", "learning_curve", "multiply_adds", "read_objects", "show_source"]
