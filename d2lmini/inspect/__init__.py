"""Tools for looking into a detector: how its anchors fit, what it can see, gradients, costs, its source."""

from d2lmini.inspect.coverage import AnchorReport, anchor_report, read_objects
from d2lmini.inspect.gradients import backbone_gradients, backbone_stages, flat_gradients
from d2lmini.inspect.input_size import SizeStudy, by_input_size, multiply_adds
from d2lmini.inspect.receptive import ReceptiveField, effective_field, receptive_fields, side_that_holds
from d2lmini.inspect.source import show_source

__all__ = [
    "AnchorReport",
    "ReceptiveField",
    "SizeStudy",
    "anchor_report",
    "backbone_gradients",
    "backbone_stages",
    "by_input_size",
    "effective_field",
    "flat_gradients",
    "multiply_adds",
    "read_objects",
    "receptive_fields",
    "show_source",
    "side_that_holds",
]
