"""The Python side of live figures with the versions that Colab ships, in an environment of its own.

What Colab's page then draws cannot be tried here. Everything up to it can: that the package imports with
these old versions, what a cell sends, and that moving a slider is seen in Python.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from . import widget_tables

ROOT = Path(__file__).resolve().parents[1]
PINS = {"ipywidgets": "7.7.1", "anywidget": "0.9.21"}  # of Colab, 2026; they are not ours to upgrade
BESIDE = ("ipython_genutils==0.2.0", "psygnal")  # what the pins need and ours do not have

PROBE = """
import inspect, json, sys, types
colab, calls = types.ModuleType("google.colab.output"), []
colab.enable_custom_widget_manager = lambda: calls.append("enabled")
colab._widgets = types.SimpleNamespace(_installed_url="https://colab.example/manager.js")
sys.modules["google.colab.output"] = colab

import anywidget, ipywidgets
from d2lmini import widgets

def needs_nothing(thing):
    parameters = inspect.signature(thing).parameters.values()
    return not inspect.isclass(thing) and all(p.default is not p.empty for p in parameters)

def told(live):
    bundle, metadata = live._repr_mimebundle_(include=None, exclude=None)
    manager = ipywidgets.Widget.get_manager_state(widgets=[live.figure])["state"]
    (model,) = manager.values()
    return {
        "bundle": bundle, "metadata": metadata, "widget": live.widget.model_id,
        "keys": sorted(model["state"]), "buffers": [b["path"] for b in model.get("buffers", [])],
    }

public = {name: getattr(widgets, name) for name in widgets.__all__}
made = {name: make() for name, make in public.items() if needs_nothing(make)}
result = {name: told(live) for name, live in made.items() if isinstance(live, widgets.Live)}
live = widgets.smooth_l1(sigma=1.0)
live.controls["sigma"].value = 2.0
seen = [live.figure.sigma]
live.figure.sigma = 0.5
seen.append(live.controls["sigma"].value)
versions = {m.__name__: m.__version__ for m in (ipywidgets, anywidget)}
print(json.dumps({"versions": versions, "figures": result, "seen": seen, "calls": calls}))
"""


@pytest.fixture(scope="module")
def colab(tmp_path_factory) -> Path:
    """A folder that puts Colab's versions in front of ours; everything else stays as it is."""
    folder = tmp_path_factory.mktemp("colab") / "packages"
    wanted = [*(f"{name}=={version}" for name, version in PINS.items()), *BESIDE]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
    command += ["--retries", "0", "--timeout", "20", "--disable-pip-version-check", *wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    if done.returncode:
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        pytest.skip(f"Colab's versions need a package index, once: {(reasons or [done.stderr])[0]}")
    return folder


def with_packages(folder: Path | None, *arguments: str | Path) -> str:
    """Run this Python with a folder in front of its own packages; return what it prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder or "")}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def there(colab) -> dict:
    """What the figures say of themselves in Colab."""
    return json.loads(with_packages(colab, "-c", PROBE))


@pytest.fixture(scope="module")
def here() -> dict:
    """The same with our own versions."""
    return json.loads(with_packages(None, "-c", PROBE))


def test_these_are_the_versions(there, here):
    assert there["versions"] == PINS
    assert here["versions"] != PINS


def test_a_figure_shows_itself(there):
    assert "smooth_l1" in there["figures"]
    for name, figure in there["figures"].items():
        assert figure["bundle"].keys() == {widget_tables.VIEW, "image/png", "text/plain"}, name
        assert figure["bundle"][widget_tables.VIEW]["model_id"] == figure["widget"], name
        assert len(figure["bundle"]["text/plain"]) > 20, name


def test_colab_is_asked_to_allow_the_figure_and_told_where_its_code_is(there):
    assert there["calls"] == ["enabled"]
    url = {"colab": {"custom_widget_manager": {"url": "https://colab.example/manager.js"}}}
    for name, figure in there["figures"].items():
        assert figure["metadata"] == {widget_tables.VIEW: url}, name


def test_the_figure_sends_the_same_as_here(there, here):
    ours_alone = {"tabbable", "tooltip"}  # of every widget since ipywidgets 8
    for name, figure in there["figures"].items():
        assert set(figure["keys"]) == set(here["figures"][name]["keys"]) - ours_alone, name
        assert figure["buffers"] == here["figures"][name]["buffers"], name
    assert ["data", "loss", "bytes"] in there["figures"]["smooth_l1"]["buffers"]


def test_slider_and_figure_move_each_other(there):
    assert there["seen"] == [2.0, 0.5]


def test_a_kernel_with_these_versions_runs_a_live_cell(colab, tmp_path):
    path = tmp_path / "live.ipynb"
    cells = [
        "import ipywidgets\nprint(ipywidgets.__version__)",
        "from d2lmini import widgets\nwidgets.smooth_l1()",
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells]), path)
    with_packages(colab, ROOT / "tools" / "run_notebooks.py", path)
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].outputs[0].text == "7.7.1\n"
    found = widget_tables.stored(notebook)
    assert found["figure 1.children[1]"]["data"]["loss"].shape[0] > 10
    assert found["links"]["all"] == ["figure 1.children[0].value to figure 1.children[1].sigma"]
