"""The benchmarks: that they notice a wrong answer, time in turn, and write the table where it belongs."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import machine, micro, recipe_d2l, report, step, timing
from d2lmini.anchors import make_anchors
from d2lmini.interop import d2l as adapters
from d2lmini.widgets.speed import measured

ROW = {
    "group": "nms",
    "work": "suppression",
    "d2l_ms": 67.0,
    "ours_ms": 0.0042,
    "ratio": 115.3,
    "rounds": 7,
}
STEP = {
    **ROW,
    "group": "step",
    "work": "training step, batch 32, bfloat16",
    "variant": "bfloat16",
    "ratio": 6.24,
    "d2l_images_per_second": 11.2,
    "ours_images_per_second": 67.4,
    "d2l_peak_memory": 1_840_000_000,
    "ours_peak_memory": 1_500_000_000,
}
RESULT = {
    "date": "2026-01-31",
    "machine": {"cpu": "Chip", "threads": 2, "python": "3.11", "versions": {"d2l": None, "torch": "2"}},
    "rows": [ROW, STEP],
}


def test_functions_take_turns(monkeypatch):
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "ab"}
    now = iter(range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(now)))
    seconds = timing.alternate(functions, timing.Effort(least=3, most=3))
    assert calls == ["a", "b"] * 4  # one warm-up and three rounds
    assert seconds == {"a": [1.0] * 3, "b": [1.0] * 3}


def test_more_rounds_until_the_time_is_up(monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(now)))
    effort = timing.Effort(least=1, most=50, seconds=10)
    assert len(timing.alternate({"a": lambda: None}, effort)["a"]) == 4  # a round takes 3 ticks


def test_ratio_says_how_many_times_as_fast(monkeypatch):
    seconds = {"d2l": [1.0, 8.0, 9.0], "ours": [2.0, 1.0, 4.0]}
    monkeypatch.setattr(timing, "alternate", lambda functions, effort: seconds)
    row = timing.compare(int, int, timing.QUICK)
    assert row == {"d2l_ms": 8000, "ours_ms": 2000, "ratio": 4, "rounds": 3}


def test_a_peer_with_the_same_results_passes_every_check(monkeypatch):
    monkeypatch.setattr(micro, "BATCH", 4)
    # The adapters have d2l's signatures, so they can stand in for it where defects play no part.
    same = SimpleNamespace(**vars(adapters))
    cases = [c for make in (micro.anchor_cases, micro.nms_cases) for c in make(same)]
    across_classes, *_, class_aware = micro.detection_cases(same)
    cases += [next(micro.target_cases(same)), across_classes, class_aware]
    for case in cases:
        case.check()


def test_a_peer_with_other_targets_is_noticed():
    def shifted(anchors, rows):
        offsets, mask, classes = adapters.multibox_target(anchors, rows)
        return offsets, mask, torch.where(classes > 0, classes + 1, 0)

    case = next(micro.target_cases(SimpleNamespace(multibox_target=shifted)))
    with pytest.raises(RuntimeError, match="disagree on classes"):
        case.check()


def test_a_peer_that_keeps_other_boxes_is_noticed():
    wrong = SimpleNamespace(nms=lambda boxes, scores, threshold: adapters.nms(boxes, scores, 0.6))
    with pytest.raises(RuntimeError, match="disagree on kept boxes"):
        next(micro.nms_cases(wrong)).check()
    with pytest.raises(RuntimeError, match="disagree on number of detections"):
        next(micro.detection_cases(wrong)).check()


def test_realistic_scores_are_what_the_note_says():
    anchors = make_anchors(micro.MAPS, micro.TINY_SSD_ANCHORS)
    for classes in (1, 20):
        foreground = micro.realistic(anchors, classes).logits.softmax(-1)[..., 1:].amax(-1)
        assert 0.05 < (foreground >= 0.01).float().mean() < 0.12
        assert 0.005 < (foreground >= 0.5).float().mean() < 0.05


def test_weights_go_from_the_published_network_into_ours():
    peer = SimpleNamespace(multibox_prior=adapters.multibox_prior)
    theirs, ours = step.published.PublishedSSD(peer), adapters.TinySSD(num_classes=1)
    step.copy_weights(theirs, ours)
    images = torch.rand(1, 3, 256, 256) * 255
    with torch.no_grad():
        for a, b in zip(theirs.eval()(images), ours.eval()(images), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_table_has_a_line_for_every_row():
    text = report.table(RESULT)
    assert "| suppression | 67.0 ms | 4.2 µs | 115 × |" in text
    assert "| images a second, bfloat16 | 11 | 67 |" in text
    assert "| largest memory, bfloat16 | 1.8 GB | 1.5 GB |" in text
    assert "Chip, 2 threads, Python 3.11, torch 2; 2026-01-31" in text
    assert report.times(6.24) == "6.2 ×"
    assert report.duration(2880) == "2,880 ms"


def test_readme_and_the_page_on_speed_have_what_the_newest_run_on_a_gpu_measured():
    newest = sorted(machine.RESULTS.glob("gpu-*.json"))[-1]
    result = json.loads(newest.read_text())
    text = report.gpu_table(result)
    _, _, rest = report.README.read_text().partition("<!-- gpu -->\n")
    assert rest.partition("\n<!-- /gpu -->")[0] == text
    assert measured("gpu") == result
    for row in result["training"]:
        assert f"batch {row['batch']} | {report.duration(row['d2l_ms'])} |" in text
    without = report.gpu_table({**result, "detection": [{"batch": 1, "ours_ms": 12.0}]})
    assert "| network and detection, batch 1 |  | 12.0 ms |  |  |" in without


def test_table_goes_between_the_markers_of_the_readme(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n")
    for _ in range(2):
        report.put_into_readme("| new |", readme)
        assert readme.read_text() == "before\n<!-- bench -->\n| new |\n<!-- /bench -->\nafter\n"
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="put both lines"):
        report.put_into_readme("| new |", readme)


def test_groups_measured_again_replace_those_of_the_same_day(tmp_path):
    path = tmp_path / "cpu.json"
    machine.write_json(path, RESULT)
    again = {**RESULT, "rows": [{**ROW, "ratio": 9.0}]}
    rows = command.merged(path, again)["rows"]
    assert [(r["group"], r["ratio"]) for r in rows] == [("nms", 9.0), ("step", 6.24)]
    elsewhere = {**again, "machine": {**RESULT["machine"], "threads": 1}}
    assert command.merged(path, elsewhere) == elsewhere
    assert command.merged(tmp_path / "none.json", again) == again


def test_numbers_are_kept_with_five_digits_and_no_nan(tmp_path):
    path = tmp_path / "new" / "x.json"
    machine.write_json(path, {"a": float("nan"), "b": [1.23456789, 3], "c": {"d": True}})
    assert json.loads(path.read_text()) == {"a": None, "b": [1.2346, 3], "c": {"d": True}}


@pytest.mark.parametrize(
    ("parse", "arguments"),
    [
        (command.parse, ["--only", "nms,speed"]),
        (command.parse, ["--rounds", "0"]),
        (recipe_d2l.parse, ["--epochs", "0"]),
    ],
)
def test_options_that_make_no_sense_are_refused(parse, arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(arguments)
    assert stopped.value.code == 2
    assert arguments[0] in capsys.readouterr().err
