"""Floors, growth and the GPU's benchmark: what they count is right, on any machine."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import anatomy, floor, gpu, growth, step
from d2lmini.engine import graphs
from d2lmini.engine.network import Network
from d2lmini.inspect import multiply_adds
from d2lmini.interop import d2l as adapters

from . import replay
from .test_train import small_model

CPU = torch.device("cpu")
QUICK = growth.Curve("n", "nothing", (1, 2, 4), lambda n, device: lambda: torch.zeros(n))


@pytest.fixture(scope="module")
def batch():
    return step.random_batch(1)


# --------------------------------------------------------------------------------------------------- floor


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_floor_has_the_convolutions_of_the_step_and_nothing_else(batch, precision):
    network = step.make_run(batch, precision).network
    once = floor.convolutions(network, batch)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        once()
    counts = {e.key: e.count for e in profiler.key_averages()}
    layers = sum(isinstance(m, torch.nn.Conv2d) for m in network.modules())
    assert counts["aten::convolution"] == layers
    assert counts["aten::convolution_backward"] == layers
    assert not any("norm" in name or "relu" in name or "pool" in name for name in counts)


def test_every_convolution_is_found_with_what_it_is_given(batch):
    network = step.make_run(batch, "float32").network
    layers = floor.layers_of(network, batch)
    assert layers[0][1] == (1, 3, 256, 256)
    products = sum(
        math.prod(layer.weight.shape) * shape[0] * math.prod(shape[2:]) for layer, shape in layers
    )  # stride 1 and padding 1: as many pixels come out as go in
    assert products == sum(multiply_adds(network.model).values())


def test_a_floor_is_measured_with_its_parts(batch, monkeypatch):
    monkeypatch.setattr(step, "random_batch", lambda count: batch)
    row = floor.measure("float32", steps=1, size=1)
    assert row["share"] == pytest.approx(row["floor_ms"] / row["step_ms"])
    assert sum(row["parts_ms"].values()) == pytest.approx(row["step_ms"])
    assert tuple(row["parts_ms"]) == anatomy.PARTS
    assert all(ms > 0 for ms in row["parts_ms"].values())


def test_make_bench_keeps_the_floor_in_its_own_file(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(floor, "FOLDER", tmp_path)
    monkeypatch.setattr(floor, "run", lambda steps: {"rows": [], "steps": steps})
    assert command.main(["--only", "floor"]) == 0
    assert json.loads((tmp_path / "floor.json").read_text()) == {"rows": [], "steps": 9}
    assert capsys.readouterr().out == ""


# -------------------------------------------------------------------------------------------------- growth


def test_a_curve_has_a_point_for_every_size(monkeypatch):
    result = growth.measure(QUICK, CPU, repeats=1, limit=60)
    assert result["sizes"] == [1, 2, 4]
    assert len(result["ms"]) == len(result["bytes"]) == 3
    assert not result["ended_early"]
    assert "nothing, n 1 to 4" in growth.line(result)


def test_a_curve_ends_before_what_would_take_too_long_or_not_fit(monkeypatch):
    points = {"seconds": 1.0, "bytes": 100.0}
    monkeypatch.setattr(growth, "apart", lambda *a: points)
    monkeypatch.setattr(growth, "free", lambda device: 1000.0)
    assert growth.measure(QUICK, CPU, 1, limit=1.5)["sizes"] == [1]
    points["seconds"] = 0.1
    assert growth.measure(QUICK, CPU, 1, limit=1.5)["sizes"] == [1, 2, 4]
    points["bytes"] = 500.0
    short = growth.measure(QUICK, CPU, 1, limit=1.5)
    assert short["sizes"] == [1]
    assert short["ended_early"]


def test_the_memory_of_a_point_is_its_own():
    def prepare(size, device):
        return lambda: torch.zeros(size * 2**18).add_(1)  # size MB

    curve = growth.Curve("MB", "a buffer", (1, 200), prepare)
    little, much = growth.measure(curve, CPU, repeats=1, limit=60)["bytes"]
    # About: what was free already costs nothing. Kept, and the next call may lie beside it.
    assert 180 * 2**20 <= much < 500 * 2**20
    assert little < 60 * 2**20


def test_a_point_that_dies_is_said():
    def prepare(size, device):
        raise SystemExit(3)

    with pytest.raises(RuntimeError, match=r"doomed, n 7: .*ended"):
        growth.apart(growth.Curve("n", "doomed", (7,), prepare), 7, CPU, 1)


@pytest.mark.parametrize("curve", growth.CURVES, ids=lambda c: f"{c.name}: {c.what}")
def test_every_curve_can_be_computed(curve):
    assert list(curve.sizes) == sorted(set(curve.sizes))
    curve.prepare(curve.sizes[0], CPU)()


# ----------------------------------------------------------------------------------------------------- gpu


def test_without_a_gpu_the_benchmark_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err


def test_floors_follow_from_what_a_step_has_to_do(batch):
    network = Network(small_model(), torch.bfloat16)
    given = batch._replace(images=batch.images[..., :32, :32])
    one = gpu.floors(network, given, {"multiply_adds": 1.0, "bytes": 1.0})
    assert one["arithmetic"] == 3 * sum(multiply_adds(network.model).values())
    # The first layer: 3 and 8 channels of 32 × 32, then pooling only after the second.
    first = 2 * 32 * 32 * (3 * 3 + 7 * 8 + 3 * 8)
    second = 2 * 32 * 32 * (3 * 8 + 7 * 8 + 3 * 8 / 4)
    assert first + second < one["traffic"] < 3 * (first + second)
    half = gpu.floors(network, given, {"multiply_adds": 2.0, "bytes": 4.0})
    assert half == {"arithmetic": one["arithmetic"] / 2, "traffic": one["traffic"] / 4}


def test_the_gpu_benchmark_runs_on_a_cpu_in_small(monkeypatch, batch):
    """With D2L's functions played by the adapters, and the recorder by its stand-in."""
    monkeypatch.setattr(graphs, "record", replay.record)
    monkeypatch.setattr(step, "random_batch", lambda count: batch)
    same = SimpleNamespace(**vars(adapters))
    rate = gpu.rates(CPU, 1, side=64)
    assert all(value > 0 for value in rate.values())
    row = gpu.training(1, same, CPU, rate, repeats=1)
    assert row["times_d2l"] == pytest.approx(row["d2l_ms"] / row["graph_ms"])
    assert row["matching_and_loss"] > 0
    assert row["of_floor"] == pytest.approx(
        max(row["arithmetic_floor_ms"], row["traffic_floor_ms"]) / row["graph_ms"]
    )
    found = gpu.detection(1, same, CPU, repeats=1)
    assert found["images_per_second"] == pytest.approx(1e3 / found["ours_ms"])
    result = gpu.whole_run(CPU, graph=False, count=8, epochs=1, batch_size=4)
    assert {"seconds", "ap50", "ap"} == result.keys()


@pytest.mark.parametrize(
    ("module", "arguments"),
    [(floor, ["--steps", "0"]), (growth, ["--repeats", "0"]), (gpu, ["--repeats", "0"])],
)
def test_options_that_make_no_sense_are_refused(module, arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        module.main(arguments)
    assert stopped.value.code == 2
    assert arguments[0] in capsys.readouterr().err
