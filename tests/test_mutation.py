"""The regression does its work: a formula that is wrong by 1 % is seen in the chapter that shows it."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest

from .elsewhere import ROOT, run_elsewhere

CHAPTER = ROOT / "chapters" / "losses.ipynb"
FORMULA, WRONG = "0.5 * (sigma * x) ** 2", "0.505 * (sigma * x) ** 2"


def mutated_package(folder: Path) -> Path:
    """A copy of the package in which the parabola of smooth L1 is 1 % too steep."""
    shutil.copytree(ROOT / "d2lmini", folder / "d2lmini", ignore=shutil.ignore_patterns("__pycache__"))
    module = folder / "d2lmini" / "losses.py"
    source = module.read_text("utf8")
    assert source.count(FORMULA) == 1, "the formula has been rewritten: mutate it as it is now"
    module.write_text(source.replace(FORMULA, WRONG), "utf8")
    return folder


@pytest.fixture(scope="module")
def chapter(tmp_path_factory) -> Path:
    """The chapter on losses up to the cell that shows the formula, to be quick."""
    notebook = nbformat.read(CHAPTER, as_version=4)
    shown = [FORMULA in str(cell.get("outputs")) for cell in notebook.cells]
    del notebook.cells[shown.index(True) + 1 :]
    path = tmp_path_factory.mktemp("cut") / CHAPTER.name
    nbformat.write(notebook, path)
    return path


@pytest.fixture(scope="module")
def complaints(chapter, tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("mutation")
    return run_elsewhere(chapter, folder / "chapter", mutated_package(folder / "package"))


def test_the_mutated_package_imports(complaints):
    """Else everything fails, and proves nothing: the first cells are a proof, Colab's, and the imports."""
    assert not any(complaints[f"Cell {i}"] for i in range(3))


def test_the_tables_of_the_figure_are_seen_to_differ(complaints):
    assert ".data.loss: " in complaints["live figures"]
    assert ".data.gradient: " in complaints["live figures"]
    assert "make notebooks" in complaints["live figures"]


def test_the_source_in_the_page_is_seen_to_differ(complaints):
    last = f"Cell {len(complaints) - 2}"  # of the cells and "live figures", counted from 0
    assert "Cell outputs differ" in complaints[last]
    assert WRONG in complaints[last]
