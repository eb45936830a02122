"""What pages say of experiments: tables, drawings and curves are those of the stored rows."""

from __future__ import annotations

import json

import pytest

from d2lmini import plots, widgets
from d2lmini.widgets import losses
from d2lmini.widgets.experiments import Experiment


def score(*values: float) -> dict:
    mean = sum(values) / len(values)
    spread = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5 if len(values) > 1 else None
    return {"mean": mean, "sd": spread, "values": list(values)}


def line(variant: str, *ap: float, change: tuple[float, float, float, bool] | None = None) -> dict:
    found = {"variant": variant, "seeds": list(range(len(ap))), "ap": score(*ap)}
    found |= {"ap50": score(*(2 * v for v in ap)), "class_error": score(*(v / 100 for v in ap))}
    if change:
        found["against"] = {"ap": dict(zip(("difference", "low", "high", "real"), change, strict=True))}
    return found


@pytest.fixture
def made_up() -> Experiment:
    lines = [
        line("σ = 1", 0.2, 0.22, 0.24),
        line("σ = 3", 0.3, 0.32, 0.34, change=(0.1, 0.05, 0.15, True)),
        line("σ = 0.5", 0.1),
        line("σ = 2", 0.2, 0.24, 0.28),
    ]
    question = {
        "baseline": "σ = 1",
        "curves": {"σ": {"": {"0.5": "σ = 0.5", "1": "σ = 1", "2": "σ = 2", "3": "σ = 3"}}},
        "presets": {"bananas": lines, "scenes": []},
    }
    scale = {"scale": "toy", "says": "toys", "rows": {"done": 3, "asked": 8}}
    return Experiment(question, scale | {"where": {"device": ["cpu, float32"], "machine": ["Chip"]}})


def test_the_table_says_mean_spread_change_and_whether_it_is_real(made_up):
    head, base, real, lone, _ = made_up.table("bananas", ("class_error", "ap")).splitlines()
    assert head.startswith("bananas, 1–3 seeds")
    assert head.endswith("change of COCO AP")
    assert base.endswith("0.220 ± 0.020")
    assert real.endswith("0.320 ± 0.020   +0.100 (+0.050 to +0.150) *")
    assert "±" not in lone
    assert "2.20 ± 0.20" in base  # thousandths


def test_a_ladder_says_what_each_step_adds(made_up):
    made_up.presets["bananas"][1]["step"] = {"ap": made_up.presets["bananas"][1]["against"]["ap"]}
    head, base, step, *_ = made_up.table("bananas", change="step").splitlines()
    assert head.endswith("step in COCO AP")
    assert "(" not in base
    assert step.endswith("+0.100 (+0.050 to +0.150) *")


def test_ranks_are_told_with_their_agreement(made_up):
    places = {"class_error": {"places": [3, 1, 4, 2], "correlation": 0.5}}
    made_up.question["ranks"] = {"bananas": places | {"ap": {"places": [3, 1, 4, 2], "correlation": 1.0}}}
    text = made_up.ranks("bananas").splitlines()
    assert [row.split()[-2:] for row in text[1:]] == [*([p, p] for p in "3142"), ["0.50", "1.00"]]


def test_what_has_no_row_is_left_out(made_up):
    assert [one["variant"] for one in made_up.lines("bananas", ["σ = 3", "σ = 4", "σ = 1"])] == [
        "σ = 3",
        "σ = 1",
    ]
    assert made_up.lines("scenes") == []
    assert list(made_up.presets) == ["bananas"]


def test_a_curve_goes_by_value_through_what_was_measured(made_up):
    (name, curve), *others = made_up.curves("σ").items()
    assert (name, others) == ("bananas", [])
    assert curve.x == [1, 2, 3]  # 0.5 has one seed
    assert curve.mean == pytest.approx([0.22, 0.24, 0.32])
    assert curve.spread == pytest.approx([0.02, 0.04, 0.02])
    assert made_up.curves("γ") == {}


def test_the_drawing_has_every_seed_and_the_mean(made_up):
    (axes,) = made_up.draw("ap").axes
    dots = [list(one.get_xdata()) for one in axes.lines if one.get_marker() == "o"]
    means = [one.get_xdata()[0] for one in axes.lines if one.get_marker() == "|"]
    assert dots == [[0.2, 0.22, 0.24], [0.3, 0.32, 0.34], [0.1], [0.2, 0.24, 0.28]]
    assert means == pytest.approx([0.22, 0.32, 0.1, 0.24])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["σ = 1", "σ = 3", "σ = 0.5", "σ = 2"]
    assert axes.get_title(loc="left") == "bananas: COCO AP"


@pytest.mark.parametrize("panels", [{}, {"a": {}}, {"a": {"b": []}}])
def test_nothing_cannot_be_drawn(panels):
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.plot_dots(panels)


def test_where_it_ran_is_said(made_up):
    assert made_up.where() == 'Scale "toy": toys. 3 of 8 rows done. cpu, float32; Chip.'


def test_unknown_questions_and_scales_are_named():
    with pytest.raises(ValueError, match="ladder"):
        widgets.experiment("riddle")
    with pytest.raises(ValueError, match="small"):
        widgets.experiment("ladder", scale="huge")


def test_figures_carry_the_measured_curves(monkeypatch, made_up):
    monkeypatch.setattr(losses, "experiment", lambda question: made_up)
    sent = widgets.smooth_l1().figure.data["measured"]
    expected = {"name": "bananas", "x": [1, 2, 3], "mean": [0.22, 0.24, 0.32], "spread": [0.02, 0.04, 0.02]}
    assert json.loads(json.dumps(sent)) == [expected]


def test_the_stored_tables_have_what_the_figures_ask_for():
    for question, axis in (("box_loss", "σ"), ("focal", "γ"), ("focal", "α")):
        experiment = widgets.experiment(question)
        assert axis in experiment.question["curves"]
        for curve in experiment.curves(axis).values():
            assert len(curve.x) == len(curve.mean) == len(curve.spread) >= 2
            assert curve.x == sorted(curve.x)
