"""Live figures of speed: that they draw what was measured, and that the measurement is what it says."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import anatomy, curve
from d2lmini import widgets
from d2lmini.interop import d2l as adapters
from d2lmini.widgets import speed

SAME = SimpleNamespace(multibox_target=adapters.multibox_target)


def table(packed: dict) -> np.ndarray:
    return np.frombuffer(packed["bytes"], packed["dtype"]).reshape(packed["shape"])


# ---------------------------------------------------------------- what was measured


@pytest.mark.parametrize("name", ["targets-curve", "step-anatomy"])
def test_measurements_name_machine_versions_and_date(name):
    result = speed.measured(name)
    line = speed.where_and_when(result)
    assert result["machine"]["cpu"] in line
    assert f"torch {result['machine']['versions']['torch']}" in line
    assert result["date"] in line


def test_one_thread_is_not_called_threads():
    machine = {"cpu": "Chip", "threads": 1, "python": "3.11", "versions": {"torch": "2", "d2l": None}}
    result = {"machine": machine, "date": "2026-01-31"}
    assert speed.where_and_when(result) == "Chip, 1 thread; 2026-01-31\nPython 3.11, torch 2"
    machine["threads"] = 2
    assert "2 threads" in speed.where_and_when(result)


def test_a_measurement_that_there_is_not():
    with pytest.raises(ValueError, match="step-anatomy, targets-curve"):
        speed.measured("nothing")


# ---------------------------------------------------------------- loops against batched code


@pytest.fixture(scope="module")
def loops() -> widgets.Live:
    return widgets.loops_against_batched(objects=3, batch=8)


def test_the_curves_are_the_measurement(loops):
    result, data = speed.measured("targets-curve"), loops.figure.data
    assert data["counts"] == list(range(1, 51))
    for name, key in (("loops", "d2l_ms"), ("batched", "ours_ms")):
        np.testing.assert_allclose(table(data[name]), result[key], rtol=1e-6)
        assert table(data[name]).shape == (len(data["batches"]), 50)
        assert (table(data[name]) > 0).all()


def test_its_controls_reach_every_number(loops):
    slider, batch = loops.controls["objects"], loops.controls["batch"]
    assert (slider.min, slider.max, slider.value, loops.figure.objects) == (1, 50, 3, 3)
    assert (batch.index, loops.figure.batch) == (1, 1)
    assert batch.options == ("1 image", "8 images", "32 images")
    slider.value = 7
    assert loops.figure.objects == 7


def test_the_caption_is_true(loops):
    """Alone, an image with one object gains nothing; a batch does, and most with many objects."""
    ratio = table(loops.figure.data["loops"]) / table(loops.figure.data["batched"])  # (B, O)
    assert ratio[0, 0] < 1.5
    assert ratio[-1].min() > 5
    assert ratio[-1, -5:].mean() > ratio[-1, :5].mean()


@pytest.mark.parametrize(("option", "value"), [("objects", 0), ("objects", 51), ("batch", 2)])
def test_a_number_that_was_not_measured(option, value):
    with pytest.raises(ValueError, match=f"{option} is {value}"):
        widgets.loops_against_batched(**{option: value})


def test_the_fallback_has_both_panels(loops):
    left, right = loops.fallback.axes
    assert [line.get_label() for line in left.lines] == ["loops", "batched"]
    assert [line.get_label() for line in right.lines] == ["1 image", "8 images", "32 images"]


# ---------------------------------------------------------------- where the time goes


@pytest.fixture(scope="module")
def step() -> widgets.Live:
    return widgets.step_anatomy(variant=2)


def test_parts_of_a_step_add_up(step):
    result, data = speed.measured("step-anatomy"), step.figure.data
    assert data["variants"] == list(anatomy.VARIANTS)
    assert data["parts"] == list(anatomy.PARTS)
    assert table(data["ms"]).shape == (len(data["variants"]), len(data["parts"]))
    totals = [row["ms"] for row in result["variants"]]
    np.testing.assert_allclose(table(data["ms"]).sum(1), totals, rtol=1e-3)
    assert table(data["faults"])[1] > 1e5 > table(data["faults"])[2], "memory kept: few new pages"


def test_its_control_names_the_variants(step):
    control = step.controls["variant"]
    assert control.options == tuple(anatomy.VARIANTS)
    assert (control.index, step.figure.variant) == (2, 2)
    assert [t.get_text() for t in step.fallback.axes[0].get_xticklabels()] == list("12345")


def test_a_variant_that_there_is_not():
    with pytest.raises(ValueError, match="from 0 to 4"):
        widgets.step_anatomy(5)


# ---------------------------------------------------------------- the measuring itself


def test_a_curve_has_a_row_for_each_batch_and_a_number_for_each_count():
    found = curve.measure(SAME, [1, 2], [1, 2], rounds=1)
    assert found.keys() == {"d2l_ms", "ours_ms"}
    assert all(np.array(rows).shape == (2, 2) and np.array(rows).min() > 0 for rows in found.values())


def test_a_curve_is_not_drawn_of_other_answers():
    def shifted(anchors, rows):
        offsets, mask, classes = adapters.multibox_target(anchors, rows)
        return offsets, mask, torch.where(classes > 0, classes + 1, 0)

    with pytest.raises(RuntimeError, match="disagree on classes"):
        curve.cases(SimpleNamespace(multibox_target=shifted), 2, 2)


def test_the_curve_is_kept_with_its_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(curve.peer, "load", lambda: SAME)
    monkeypatch.setattr(curve.devices, "disable_malloc_trim", lambda: False)
    monkeypatch.setattr(curve, "OBJECTS", (1, 2))
    monkeypatch.setattr(curve, "BATCHES", (1,))
    assert curve.main(["--rounds", "1", "--out", str(tmp_path)]) == 0
    kept = json.loads((tmp_path / "targets-curve.json").read_text())
    assert kept["anchors"] == 5444
    assert (kept["objects"], kept["batches"], kept["rounds"]) == ([1, 2], [1], 1)
    assert kept["machine"]["threads"] == torch.get_num_threads()


def event(name: str, microseconds: float, above: SimpleNamespace | None = None) -> SimpleNamespace:
    return SimpleNamespace(name=name, self_cpu_time_total=microseconds, cpu_parent=above)


def test_an_operator_belongs_to_the_range_around_it():
    matching, backward = event("matching", 1.0), event("ConvolutionBackward0", 0.0)
    assert anatomy.part_of(event("aten::clamp_min", 5.0, event("aten::clamp", 0.0, matching))) == (
        "anchors and matching"
    )
    assert anatomy.part_of(event("aten::clamp_min", 5.0)) == "pooling and ReLU"
    assert anatomy.part_of(event("aten::convolution_backward", 5.0, backward)) == "convolutions"
    assert anatomy.part_of(event("aten::native_batch_norm_backward", 5.0)) == "batch normalisation"
    assert anatomy.part_of(event("aten::add_", 5.0)) == "everything else"


def test_shares_are_of_the_processors_time():
    events = [event("aten::mkldnn_convolution", 30.0), event("losses", 10.0), event("aten::sum", 60.0)]
    assert anatomy.shares(events) == pytest.approx([0.3, 0, 0, 0, 0.1, 0.6])


def test_a_row_is_a_median_split_by_mean_shares():
    one = {"seconds": [1.0, 3.0], "shares": [0.5, 0.5, 0, 0, 0, 0], "faults": 4.0, "peak": 10}
    two = {"seconds": [2.0, 2.0], "shares": [0.7, 0.3, 0, 0, 0, 0], "faults": 2.0, "peak": 20}
    row = anatomy.summary("x", [one, two])
    assert (row["ms"], row["page_faults"], row["peak_memory"]) == (2000, 3, 20)
    assert row["parts_ms"] == pytest.approx([1200, 800, 0, 0, 0, 0])


@pytest.mark.parametrize("module", [curve, anatomy])
def test_measuring_nothing_is_refused(module, capsys):
    with pytest.raises(SystemExit):
        module.main(["--rounds", "0"])
    assert "--rounds" in capsys.readouterr().err


def test_the_caption_of_the_steps_is_true(step):
    """Other algorithms change little; keeping memory halves the step, the rest more than halves it again."""
    d2l, ours, kept, last, bfloat16 = table(step.figure.data["ms"]).sum(1)
    assert 0.9 < d2l / ours < 1.2
    assert 1.8 < ours / kept < 2.5
    assert kept / bfloat16 > 2
    assert kept > last > bfloat16
