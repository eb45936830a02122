"""What a reader installs is enough: every notebook runs on a wheel, alone in a folder, as if elsewhere.

The outputs were stored with one thread and all of this processor's vector instructions. Here two threads use
few of them, so that sums come out in another order, as they do on another machine, and what is not rounded
enough differs.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .elsewhere import ROOT, run_elsewhere

CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
ELSEWHERE = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "2"}
ELSEWHERE["OMP_WAIT_POLICY"] = "passive"  # threads that spin take the cores from the tests beside this one
TRAINS = {"training", "own_pictures"}  # minutes each without the processor's fast formats


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build a wheel of the package, without a network, from a copy: building leaves things behind."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "d2lmini", source / "d2lmini", ignore=shutil.ignore_patterns("__pycache__"))
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, source)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder that holds the installed wheel and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--target", folder, wheel)
    return folder


def pip(command: str, *arguments: str | Path) -> None:
    """Run pip without its own choices: no dependencies, no index."""
    line = [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", "--no-index", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


def test_wheel_holds_the_package_and_all_of_it(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (p for p in (ROOT / "d2lmini").rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    assert names == {p.relative_to(ROOT).as_posix() for p in files}
    kinds = {".py", ".js", ".css", ".json", ".safetensors", ".txt", ".wasm", ".wat", ".html"}
    assert {Path(name).suffix for name in names} == kinds


@pytest.mark.parametrize("notebook", [c for c in CHAPTERS if c.stem not in TRAINS], ids=lambda p: p.stem)
def test_notebook_runs_on_the_wheel_alone_in_a_folder(notebook, installed, tmp_path):
    complaints = run_elsewhere(notebook, tmp_path / "empty", installed, **ELSEWHERE)
    assert len(complaints) > 2
    failed = [f"{name}: {text}" for name, text in complaints.items() if text]
    assert not failed, "\n\n".join(failed)
