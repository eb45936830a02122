"""The comparison of live figures: what counts as the same, and that everything else is told."""

from __future__ import annotations

import io

import ipywidgets
import nbformat
import numpy as np
import pytest
import traitlets
from PIL import Image

from d2lmini.widgets.base import Figure, Live, jpeg, pack, slider

from . import widget_tables
from .widget_tables import differences


class Example(Figure):
    """A figure with one control and no drawing of its own."""

    script = "smooth_l1.js"
    sigma = traitlets.Float(1.0).tag(sync=True)


class Blank:
    """Stands for a Drawing."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (2, 2)).save(file, "PNG")
        return file.getvalue()


def photo(size: int = 64, lighter: int = 0) -> Image.Image:
    ramp = np.add.outer(np.arange(size), 2 * np.arange(size)) % 200 + lighter
    return Image.fromarray(np.stack([ramp, ramp[::-1], ramp.T], -1).astype(np.uint8))


TABLE = np.linspace(0, 1, 12).reshape(3, 4)
DATA = {
    "table": pack(TABLE),
    "counts": pack(np.arange(6)),
    "photo": jpeg(photo()),
    "stops": [0.5, 1.0, 1.5],
    "names": ["apple", "mug"],
    "best": {"ap": 0.5157, "epoch": 7, "whole": True},
}


def live(data: dict | None = None, high: float = 3.0, **traits) -> Live:
    """A live figure with a bit of everything."""
    figure = Example(**{"data": DATA | (data or {}), "alt": "An example.", **traits})
    controls = {"sigma": slider("σ", 0.5, high, 0.05, traits.get("sigma", 1.0))}
    return Live(figure, controls, caption="A caption.", fallback=Blank())


def notebook(*shown: Live) -> nbformat.NotebookNode:
    """A notebook as it is stored when its cells have shown these (and other widgets live unseen)."""
    bundles = [{widget_tables.VIEW: one._repr_mimebundle_()[0][widget_tables.VIEW]} for one in shown]
    outputs = [nbformat.v4.new_output("display_data", bundle) for bundle in bundles]
    cells = [nbformat.v4.new_code_cell("show", outputs=[output]) for output in outputs]
    state = nbformat.from_dict(ipywidgets.Widget.get_manager_state())
    return nbformat.v4.new_notebook(cells=cells, metadata={"widgets": {widget_tables.STATE: state}})


def compare(old: Live, new: Live) -> list[str]:
    return list(differences(*(widget_tables.stored(notebook(one)) for one in (old, new))))


# ---------------------------------------------------------------- what counts as the same


def test_two_runs_have_other_ids_and_no_difference():
    first, second = live(), live()
    assert first.figure.model_id != second.figure.model_id
    assert compare(first, second) == []


@pytest.mark.parametrize(
    "change",
    [
        {"table": pack(TABLE * (1 + 5e-4))},
        {"table": pack(TABLE + 1e-4)},
        {"photo": jpeg(photo(), quality=80)},
        {"stops": [0.5001, 1.0, 1.5]},
        {"best": {"ap": 0.5158, "epoch": 7, "whole": True}},
    ],
    ids=["in ratio", "in amount", "image", "list", "record"],
)
def test_what_another_processor_changes_is_let_through(change):
    assert compare(live(), live(change)) == []


def test_not_a_number_equals_itself():
    broken = {"table": pack(np.full(3, np.nan))}
    assert compare(live(broken), live(broken)) == []
    assert compare(live(broken), live({"table": pack(np.zeros(3))}))


# ---------------------------------------------------------------- what is told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"table": pack(TABLE * 1.05)},
            "table: 11 of 12 numbers differ, first at [0, 1]: was 0.0909091, is ",
        ),
        ({"table": pack(TABLE.reshape(4, 3))}, "table was <f4 [3, 4], is <f4 [4, 3]"),
        ({"table": pack(TABLE, "<f8")}, "table was <f4 [3, 4], is <f8 [3, 4]"),
        ({"counts": pack([0, 1, 2, 3, 5, 5])}, "counts: 1 of 6 numbers differ, first at [4]: was 4, is 5"),
        ({"photo": jpeg(photo(lighter=5))}, "photo: the images differ by"),
        ({"photo": jpeg(photo(size=65))}, "photo was an image of (64, 64), is one of (65, 65)"),
        ({"stops": [0.5, 1.0, 1.51]}, "stops[2] was 1.5, is 1.51"),
        ({"stops": [0.5, 1.0]}, "stops was [0.5, 1.0, 1.5], is [0.5, 1.0]"),
        ({"names": ["apple", "cup"]}, "names[1] was 'mug', is 'cup'"),
        ({"best": {"ap": 0.5157, "epoch": 8, "whole": True}}, "best.epoch was 7, is 8"),
        ({"best": {"ap": 0.5157, "epoch": 7, "whole": 1}}, "best.whole was True, is 1"),
        ({"best": {"ap": 0.5157, "epoch": 7}}, "best.whole is gone"),
        ({"more": 1}, "more is new"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_other_data_is_told(change, told):
    (line,) = compare(live(), live(change))
    assert line.startswith(f"figure 1.children[1].data.{told}")


def test_other_traits_and_controls_are_told():
    assert compare(live(), live(alt="Another.")) == [
        "figure 1.children[1].alt was 'An example.', is 'Another.'"
    ]
    assert compare(live(), live(high=2.0)) == ["figure 1.children[0].max was 3.0, is 2.0"]
    assert compare(live(), live(sigma=2.0)) == [
        "figure 1.children[0].value was 1.0, is 2.0",
        "figure 1.children[1].sigma was 1.0, is 2.0",
    ]


def test_a_missing_link_is_told():
    old, new = (widget_tables.stored(notebook(live())) for _ in range(2))
    assert new["links"]["all"] == ["figure 1.children[0].value to figure 1.children[1].sigma"]
    new["links"]["all"].clear()
    assert [line[:14] for line in differences(old, new)] == ["links.all was "]


@pytest.mark.parametrize("script", ["_esm", "_css"])
def test_an_older_script_is_told_in_one_short_line(script):
    old, new = (widget_tables.stored(notebook(live())) for _ in range(2))
    assert len(old["figure 1.children[1]"][script]) > 1000
    old["figure 1.children[1]"][script] += " "
    assert list(differences(old, new)) == [f"figure 1.children[1].{script} is an older version"]


def test_figures_are_counted():
    one, two = notebook(live()), notebook(live(), live())
    lines = list(differences(*map(widget_tables.stored, (one, two))))
    assert "figure 2.children[1] is new" in lines
    assert list(differences(*[widget_tables.stored(nbformat.v4.new_notebook())] * 2)) == []


def test_a_figure_without_its_state_is_refused():
    empty = notebook(live())
    del empty.metadata["widgets"]
    with pytest.raises(ValueError, match="figure 1 is shown, but its state is not stored"):
        widget_tables.stored(empty)


# ---------------------------------------------------------------- numbers from training in the page


def test_trained_numbers_are_compared_by_shape_and_name():
    old = live(reproducible=False)
    other = {"table": pack(TABLE * 9), "photo": jpeg(photo(lighter=50)), "stops": [7.0, 8.0, 9.0]}
    assert compare(old, live(other, reproducible=False)) == []
    for change in ({"table": pack(TABLE[:2])}, {"more": 1}, {"best": {"ap": 0.5}}, {"stops": {}}):
        assert compare(old, live(change, reproducible=False)), change
    assert compare(old, live(other)), "a figure cannot become reproducible unseen"
