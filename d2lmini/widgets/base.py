"""What live figures are made of: a drawing in the browser, its controls, an image where neither runs.

Python computes; the browser draws. A `Figure` sends its numbers once, as typed bytes, and its JavaScript
(`layer.js`, then the figure's own file) draws the part of them that the sliders point at. Sliders and
drawing are joined twice: by `jslink`, which works in a rendered page without any Python, and by `link`,
so that a kernel, where there is one, knows the values too.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets
import numpy as np
import torch
import traitlets
from PIL import Image
from torch import Tensor

from d2lmini import live

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from d2lmini.plots import Drawing

HERE = Path(__file__).parent
LAYER = live.bundle(live.FIGURE) + (HERE / "layer.js").read_text("utf8")
STYLE = (HERE / "figures.css").read_text("utf8")
RESULTS = HERE / "results"  # what benchmarks and experiments left for the pages
DTYPES = {"f": "<f4", "i": "<i4", "u": "|u1", "b": "|u1"}  # by kind, unless told otherwise
TYPES = ("<f4", "<f8", "<i4", "<i2", "|u1", "|i1")  # those that layer.js can read
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def pack(values: ArrayLike | Tensor, dtype: str | None = None) -> dict[str, Any]:
    """Numbers for the browser: dtype, shape and little-endian bytes.

    Floats travel as float32 and integers as int32 unless `dtype` says otherwise, one of `TYPES`. Raises
    ValueError for what is not numbers, for another dtype, and for whole numbers that do not fit into it.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in DTYPES:
        raise ValueError(f"cannot send an array of {array.dtype} to a figure: give numbers")
    wanted = np.dtype(dtype or DTYPES[array.dtype.kind])
    if wanted.str not in TYPES:
        raise ValueError(f"a figure cannot read {wanted.str}: choose from {', '.join(TYPES)}")
    sent = np.ascontiguousarray(array.astype(wanted))
    if wanted.kind != "f" and not (sent == array).all():
        raise ValueError(f"these numbers do not fit into {wanted.str}: pass another dtype")
    return {"dtype": sent.dtype.str, "shape": list(sent.shape), "bytes": sent.tobytes()}


def jpeg(image: Tensor | Image.Image, quality: int = 85) -> dict[str, Any]:
    """An image for the browser, as JPEG: a uint8 tensor (3, H, W), or a Pillow image.

    Raises ValueError for any other tensor.
    """
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
            raise ValueError(
                f"the image is {image.dtype} of shape {tuple(image.shape)}: pass uint8 (3, H, W)"
            )
        image = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality, optimize=True)
    return {"mime": "image/jpeg", "width": image.width, "height": image.height, "bytes": buffer.getvalue()}


class Figure(anywidget.AnyWidget):
    """A drawing in the browser: a subclass names its `script`, and `parts` that stand before it, and adds a
    synced trait for each control.

    `data` is what Python computed: `pack`ed numbers, `jpeg`s, JSON. `alt` tells in a sentence what is
    to be seen. `reproducible` is False where the numbers come from training in the page, which another
    processor repeats only roughly; the regression then compares only their shapes.
    """

    script = ""
    parts: tuple[str, ...] = ()
    data = traitlets.Dict().tag(sync=True)
    alt = traitlets.Unicode().tag(sync=True)
    reproducible = traitlets.Bool(True).tag(sync=True)

    def __init_subclass__(cls, **options: Any) -> None:
        if "script" in vars(cls):  # not in the classes that traitlets derives to add a trait
            own = ((HERE / name).read_text("utf8") for name in (*cls.parts, cls.script))
            cls._esm = "\n".join((LAYER, *own))
            cls._css = STYLE
        super().__init_subclass__(**options)


# ---- controls ----


def _common(label: str) -> dict[str, Any]:
    """How every control is laid out."""
    layout = ipywidgets.Layout(width="100%", max_width="560px")
    return {"description": label, "layout": layout, "style": {"description_width": "9.5em"}}


def slider(
    label: str, low: float, high: float, step: float, value: float, form: str = ".2f"
) -> ipywidgets.FloatSlider:
    """A slider for a real number; `form` is how its value is printed."""
    return ipywidgets.FloatSlider(
        value=value,
        min=low,
        max=high,
        step=step,
        readout_format=form,
        **_common(label),
    )


def whole(label: str, low: int, high: int, value: int) -> ipywidgets.IntSlider:
    """A slider for a whole number."""
    return ipywidgets.IntSlider(value=value, min=low, max=high, **_common(label))


def steps(label: str, options: Sequence[Any], index: int = 0) -> ipywidgets.SelectionSlider:
    """A slider over named stops; what it drives is the stop's index."""
    names = [str(option) for option in options]
    slider = ipywidgets.SelectionSlider(options=names, index=index, **_common(label))
    slider.add_class("d2l-steps")  # its readout is no field to type into: see _ext/page/live.js
    return slider


def choice(label: str, options: Sequence[str], index: int = 0) -> ipywidgets.Dropdown:
    """A list to choose from; what it drives is the index of the choice."""
    return ipywidgets.Dropdown(options=list(options), index=index, **_common(label))


def switch(label: str, value: bool = False) -> ipywidgets.Checkbox:
    """A box to tick."""
    layout = ipywidgets.Layout(width="100%", max_width="560px")
    return ipywidgets.Checkbox(value=value, description=label, indent=False, layout=layout)


def driven(control: ipywidgets.Widget) -> str:
    """Which trait of a control tells its state to JavaScript: choices have an index, the others a value."""
    return "index" if hasattr(control, "index") else "value"


class Live:
    """A figure with its controls, as a cell shows it.

    `controls` maps a trait of the figure to the control that drives it. `fallback` is a `Drawing` that
    makes the same point where no script runs: in print, on GitHub, in a viewer without widgets; `caption`
    is the sentence or two under both.

    The parts stay reachable: `live.figure.sigma`, `live.controls["sigma"].value`.
    """

    def __init__(
        self,
        figure: Figure,
        controls: Mapping[str, ipywidgets.Widget],
        *,
        caption: str,
        fallback: Drawing,
    ) -> None:
        self.figure, self.controls = figure, dict(controls)
        self.caption, self.fallback = caption, fallback
        self.links = [self._join(name, control) for name, control in self.controls.items()]
        self.widget = ipywidgets.VBox([*self.controls.values(), figure])
        self.widget.add_class("d2l-live")

    def _join(self, name: str, control: ipywidgets.Widget) -> tuple[Any, Any]:
        ends = (control, driven(control)), (self.figure, name)
        setattr(self.figure, name, getattr(*ends[0]))
        return ipywidgets.jslink(*ends), traitlets.link(*ends)

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        # Here anywidget asks Colab to allow widgets that it did not ship, and says where their code is.
        _, metadata = self.figure._repr_mimebundle_()
        bundle = {
            WIDGET_VIEW: {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id},
            "image/png": base64.b64encode(self.fallback._repr_png_()).decode(),
            "text/plain": self.caption,
        }
        return bundle, metadata
