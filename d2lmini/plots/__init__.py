"""Every drawing: images with boxes, contact sheets, learning curves, precision over recall.

What comes back is a `Drawing`, a figure that a notebook shows by itself, or a Pillow image.
"""

from d2lmini.plots.boxes import Boxes, View, contact_sheet, draw_image, plot_views
from d2lmini.plots.charts import (
    plot_coverage,
    plot_dots,
    plot_history,
    plot_panels,
    plot_precision_recall,
)
from d2lmini.plots.files import annotate, save
from d2lmini.plots.style import PALETTE, TRUTH, Drawing, class_color

__all__ = [
    "PALETTE",
    "TRUTH",
    "Boxes",
    "Drawing",
    "View",
    "annotate",
    "class_color",
    "contact_sheet",
    "draw_image",
    "plot_coverage",
    "plot_dots",
    "plot_history",
    "plot_panels",
    "plot_precision_recall",
    "plot_views",
    "save",
]
