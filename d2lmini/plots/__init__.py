"""Images with boxes, and charts: each a `Drawing`, a figure that a notebook shows by itself, or Pillow's."""

from d2lmini.plots.boxes import Boxes, View, contact_sheet, draw_image, plot_views
from d2lmini.plots.charts import (
    plot_coverage,
    plot_dots,
    plot_history,
    plot_learning_curve,
    plot_panels,
    plot_precision_recall,
)
from d2lmini.plots.files import annotate, save
from d2lmini.plots.scores import plot_calibration, plot_confusion, plot_suspects
from d2lmini.plots.style import PALETTE, TRUTH, Drawing, class_color

__all__ = ["Boxes", "View", "annotate", "contact_sheet", "draw_image", "plot_views", "save"]
__all__ += [
    "plot_calibration",
    "plot_confusion",
    "plot_coverage",
    "plot_dots",
    "plot_history",
    "plot_learning_curve",
    "plot_panels",
    "plot_precision_recall",
    "plot_suspects",
]
__all__ += ["PALETTE", "TRUTH", "Drawing", "class_color"]
