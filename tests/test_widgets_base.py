"""What live figures are made of: numbers as bytes, images, controls, and how a cell shows them."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess

import ipywidgets
import numpy as np
import pytest
import torch
import traitlets
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from d2lmini import plots
from d2lmini.widgets import base
from d2lmini.widgets.base import Figure, Live, driven, jpeg, pack

NODE = shutil.which("node")


class Example(Figure):
    """One trait for each sort of control."""

    script = "smooth_l1.js"
    sigma = traitlets.Float(1.0).tag(sync=True)
    count = traitlets.Int(0).tag(sync=True)
    stop = traitlets.Int(0).tag(sync=True)
    kind = traitlets.Int(0).tag(sync=True)
    on = traitlets.Bool(False).tag(sync=True)


def controls() -> dict[str, ipywidgets.Widget]:
    return {
        "sigma": base.slider("σ", 0.5, 3.0, 0.05, 2.0),
        "count": base.whole("count", 0, 9, 4),
        "stop": base.steps("stop", [0.1, 0.2, 0.4], index=2),
        "kind": base.choice("kind", ["hard", "linear"], index=1),
        "on": base.switch("on", value=True),
    }


def live(**changes) -> Live:
    fallback = plots.plot_panels([0, 1, 2], {"a line": {"y": [0, 1, 4]}})
    options = {"controls": controls(), "caption": "What it says.", "fallback": fallback, **changes}
    return Live(Example(data={"x": pack([1.0, 2.0])}, alt="An example."), **options)


# ---------------------------------------------------------------- numbers


def unpacked(packed: dict) -> np.ndarray:
    return np.frombuffer(packed["bytes"], packed["dtype"]).reshape(packed["shape"])


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (torch.tensor([[0.5, -1.25], [3.0, 1e9]], dtype=torch.float64), "<f4"),
        (np.array([[1.5], [np.inf]], dtype=">f4"), "<f4"),
        (torch.arange(6).reshape(1, 2, 3), "<i4"),
        ([3, -2, 2**31 - 1], "<i4"),
        (torch.arange(3, dtype=torch.uint8), "|u1"),
        (torch.tensor([True, False]), "|u1"),
        (np.arange(12).reshape(3, 4).T, "<i4"),
    ],
    ids=["float64", "big-endian", "int64", "list", "uint8", "bool", "not contiguous"],
)
def test_numbers_travel_whole(values, dtype):
    packed = pack(values)
    assert packed["dtype"] == dtype
    assert packed["shape"] == list(np.shape(values))
    np.testing.assert_array_equal(unpacked(packed), np.asarray(values))


@pytest.mark.parametrize("dtype", base.TYPES)
def test_any_type_that_the_browser_reads_can_be_chosen(dtype):
    packed = pack(torch.tensor([0, 1, 100]), dtype)
    assert packed["dtype"] == dtype
    assert unpacked(packed).tolist() == [0, 1, 100]


def test_a_learning_tensor_and_an_empty_one_travel_too():
    assert unpacked(pack(torch.ones(2, requires_grad=True))).tolist() == [1, 1]
    assert pack(torch.zeros(0, 4)) == {"dtype": "<f4", "shape": [0, 4], "bytes": b""}


@pytest.mark.parametrize("values", [["a"], [None], np.array([1j])], ids=["text", "None", "complex"])
def test_what_is_not_numbers_is_refused(values):
    with pytest.raises(ValueError, match="give numbers"):
        pack(values)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([2**31], None), ([300], "|u1"), ([-1], "|u1"), ([0.5], "<i2"), (np.array([256], np.uint16), None)],
)
def test_numbers_that_do_not_fit_are_refused(values, dtype):
    with pytest.raises(ValueError, match="do not fit into"):
        pack(values, dtype)


@pytest.mark.parametrize("dtype", ["<i8", "<f2", ">f4"])
def test_types_that_the_browser_cannot_read_are_refused(dtype):
    with pytest.raises(ValueError, match="cannot read"):
        pack([1.0], dtype)


def test_the_browser_reads_the_types_that_python_sends():
    (listed,) = re.findall(r"const ARRAYS = \{(.*?)\}", base.LAYER)
    assert set(re.findall(r'"(.+?)":', listed)) == set(base.TYPES)


# ---------------------------------------------------------------- images


def test_an_image_travels_as_jpeg_and_nearly_as_it_was():
    ramp = torch.arange(48 * 64).reshape(48, 64) * 255 // (48 * 64)
    image = torch.stack([ramp, ramp.flip(0), ramp.flip(1)]).to(torch.uint8)
    sent = jpeg(image)
    assert (sent["mime"], sent["width"], sent["height"]) == ("image/jpeg", 64, 48)
    seen = torch.from_numpy(np.array(Image.open(io.BytesIO(sent["bytes"])))).permute(2, 0, 1)
    assert (seen.float() - image.float()).abs().mean() < 4
    assert len(jpeg(image, quality=30)["bytes"]) < len(sent["bytes"])


def test_a_pillow_image_of_any_mode_travels():
    for mode in ("RGB", "RGBA", "L", "P"):
        sent = jpeg(Image.new("RGB", (9, 5), "#336699").convert(mode))
        assert Image.open(io.BytesIO(sent["bytes"])).size == (9, 5)


@pytest.mark.parametrize("image", [torch.zeros(3, 4, 4), torch.zeros(4, 4, 3, dtype=torch.uint8)])
def test_another_tensor_is_no_image(image):
    with pytest.raises(ValueError, match=r"pass uint8 \(3, H, W\)"):
        jpeg(image)


# ---------------------------------------------------------------- the figure


def test_the_script_is_the_layer_and_then_its_own():
    script = Example().get_state()["_esm"]
    assert script.startswith(base.LAYER)
    assert script.endswith((base.HERE / "smooth_l1.js").read_text("utf8"))
    assert script.count("export default") == 1
    assert Example().get_state()["_css"] == base.STYLE


@pytest.mark.parametrize("name", ["layer.js", "figures.css", *sorted(p.name for p in base.HERE.glob("*.js"))])
def test_no_file_of_a_figure_asks_anybody_for_anything(name):
    text = (base.HERE / name).read_text("utf8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|\bfetch\(|\bimport\b\s*[({'\"]|@import|XMLHttp|eval\(", text)


def test_each_script_belongs_to_one_figure():
    scripts = sorted(p.name for p in base.HERE.glob("*.js") if p.name != "layer.js")
    shared = {name for cls in figures() for name in cls.parts}
    assert sorted([*(cls.script for cls in figures()), *shared]) == scripts


def test_shared_parts_stand_between_the_layer_and_the_figures_own_script():
    for cls in figures():
        assert cls._esm.startswith(base.LAYER)
        own = [(base.HERE / name).read_text("utf8") for name in (*cls.parts, cls.script)]
        assert cls._esm == "\n".join((base.LAYER, *own))


def figures() -> list[type[Figure]]:
    """Every kind of figure that the package has (traitlets derives further classes from each)."""
    from d2lmini import widgets

    assert widgets.smooth_l1
    own = [cls for cls in Figure.__subclasses__() if cls.__module__.startswith("d2lmini.")]
    return [cls for cls in own if "script" in vars(cls)]


def test_every_figure_documents_itself_and_syncs_its_traits():
    for cls in figures():
        assert cls.__doc__, cls
        own = {name: trait for name, trait in cls.class_traits().items() if name in vars(cls)}
        assert own, cls
        assert all(trait.metadata.get("sync") for trait in own.values()), cls


# ---------------------------------------------------------------- controls


@pytest.mark.parametrize(("name", "trait"), [("sigma", "value"), ("stop", "index"), ("kind", "index")])
def test_choices_drive_by_index_and_the_others_by_value(name, trait):
    assert driven(controls()[name]) == trait


def test_controls_set_the_figure_up():
    figure = live().figure
    assert (figure.sigma, figure.count, figure.stop, figure.kind, figure.on) == (2.0, 4, 2, 1, True)


@pytest.mark.parametrize(
    ("name", "value"), [("sigma", 0.7), ("count", 9), ("stop", 0), ("kind", 0), ("on", False)]
)
def test_control_and_figure_move_each_other(name, value):
    shown = live()
    control = shown.controls[name]
    setattr(control, driven(control), value)
    assert getattr(shown.figure, name) == value
    shown = live()
    setattr(shown.figure, name, value)
    control = shown.controls[name]
    assert getattr(control, driven(control)) == value


def test_without_a_kernel_the_browser_joins_them():
    shown = live()
    for (name, control), (link, _) in zip(shown.controls.items(), shown.links, strict=True):
        assert link.source == (control, driven(control))
        assert link.target == (shown.figure, name)


def test_a_control_for_a_trait_that_is_not_there_is_refused():
    with pytest.raises((TypeError, traitlets.TraitError)):
        live(controls={"sgima": base.slider("σ", 0.5, 3.0, 0.05, 2.0)})


def test_a_slider_prints_as_many_decimals_as_asked():
    assert base.slider("γ", 0, 5, 0.25, 2.0, form=".1f").readout_format == ".1f"


# ---------------------------------------------------------------- what a cell shows


def test_a_cell_shows_widget_image_and_caption():
    shown = live()
    bundle, metadata = DisplayFormatter().format(shown)
    view = {"version_major": 2, "version_minor": 0, "model_id": shown.widget.model_id}
    assert bundle[base.WIDGET_VIEW] == view
    assert bundle["text/plain"] == "What it says."
    assert Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).size == (520, 440)
    assert metadata == {}


def test_what_colab_is_told_goes_with_it(monkeypatch):
    shown, told = live(), {base.WIDGET_VIEW: {"colab": {"custom_widget_manager": {"url": "x"}}}}
    monkeypatch.setattr(type(shown.figure), "_repr_mimebundle_", lambda self: ({}, told))
    assert DisplayFormatter().format(shown)[1] == told


def test_controls_stand_above_the_drawing():
    shown = live()
    assert shown.widget.children == (*shown.controls.values(), shown.figure)
    assert "d2l-live" in shown.widget._dom_classes


# ---------------------------------------------------------------- layer.js, where node is at hand


def in_node(expression: str) -> object:
    """The value of a JavaScript expression that may use anything that layer.js defines."""
    program = f"{base.LAYER}\nconsole.log(JSON.stringify({expression}));"
    done = subprocess.run([NODE, "-"], input=program, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def view_of(packed: dict, shift: int = 3) -> str:
    """A packed table as JavaScript gets it: a DataView into a longer buffer, at an odd place."""
    data = [0] * shift + list(packed["bytes"]) + [0, 0]
    view = f"new DataView(new Uint8Array({data}).buffer, {shift}, {len(packed['bytes'])})"
    return f'{{dtype: "{packed["dtype"]}", shape: {packed["shape"]}, bytes: {view}}}'


needs_node = pytest.mark.skipif(NODE is None, reason="no node found; on Debian: apt-get install nodejs")


@needs_node
def test_the_browser_has_the_colors_of_python():
    assert in_node("PALETTE") == list(plots.PALETTE)


@needs_node
@pytest.mark.parametrize("dtype", base.TYPES)
def test_javascript_reads_what_python_packed(dtype):
    values = np.arange(24).reshape(2, 3, 4) - (0 if dtype == "|u1" else 5)
    table = f"new Table({view_of(pack(values, dtype))})"
    seen = in_node(
        f"(() => {{ const t = {table}; return [t.at(1, 2, 3), t.at(0, 1, 0), [...t.row(1, 0)], "
        "[...t.row(1)], t.length, t.shape]; })()"
    )
    wanted = [values[1, 2, 3], values[0, 1, 0], values[1, 0], values[1].ravel(), 2, values.shape]
    assert seen == [np.asarray(one).tolist() for one in wanted[:-1]] + [list(values.shape)]


@needs_node
@pytest.mark.parametrize(
    ("low", "high", "count"),
    [(0, 1, 5), (-3, 3, 4), (0, 2.5, 5), (-1.6, 1.6, 5), (0.001, 0.0042, 4), (0, 12345, 3), (7, 107, 9)],
)
def test_ticks_are_few_round_and_inside(low, high, count):
    marks = in_node(f"ticks({low}, {high}, {count})")
    steps = np.diff(marks)
    assert np.allclose(steps, steps[0])
    mantissa = float(f"{steps[0]:.6e}".partition("e")[0])
    assert mantissa in (1, 2, 5)
    assert low - 1e-9 <= marks[0] < low + steps[0]
    assert high - steps[0] < marks[-1] <= high + 1e-9
    assert count / 2.5 <= len(marks) <= count + 1
    assert all(len(repr(mark)) < 9 for mark in marks), "0.30000000000000004 is no label"


@needs_node
def test_numbers_are_written_as_people_write_them():
    seen = in_node("[number(0.5), number(-0.125, 3), number(-0.001), number(2), number(NaN), number(1/0)]")
    assert seen == ["0.5", "−0.125", "0", "2", "–", "–"]
    seen = in_node("[fixed(0.5), fixed(-0.125, 3), fixed(-0.001), fixed(2, 0), fixed(NaN)]")
    assert seen == ["0.50", "−0.125", "0.00", "2", "–"]


@needs_node
def test_the_nearest_stop_is_found():
    grid = "[0.5, 0.55, 0.6, 3]"
    for value, wanted in ((0.5, 0), (0.56, 1), (0.5999999, 2), (99, 3), (-1, 0)):
        assert in_node(f"nearest({grid}, {value})") == wanted
    assert in_node("nearest([3, 1, 0], 1)") == 1
    assert in_node("linear(-3, 3, 40, 340)(0)") == 190
    assert in_node("linear(1, 1, 0, 10)(1)") == 0, "an empty range divides by nothing"
