"""Live figures: sliders and drawings that work in a notebook and, without any kernel, in the rendered page.

    from d2lmini import widgets
    widgets.smooth_l1()

Each function here returns a `Live` figure. They are for notebooks: nothing else in the package imports
them, and they need the extra `book` (ipywidgets and anywidget).
"""

from d2lmini.widgets.base import Figure, Live
from d2lmini.widgets.losses import smooth_l1

__all__ = ["Figure", "Live", "smooth_l1"]
