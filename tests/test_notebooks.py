"""The stored notebooks: run in order, without errors, and free of what another run would change."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "chapters").glob("**/*.ipynb"))
RUN_NOTEBOOKS = ROOT / "tools" / "run_notebooks.py"

# /home/ada/clone and C:\Users\ada, but not and/or, a fraction, a closing tag or a URL.
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/<>-])/[A-Za-z_][\w.-]*/[\w.-]+|\b[A-Z]:\\\w")
MOMENTARY = {
    "a progress bar": re.compile(r"\d+%\|"),
    "a rate": re.compile(r"\d ?(it|images|examples|samples)/s"),
    "a timing": re.compile(r"Wall time|CPU times|\d (ms|µs|ns)\b"),
    "an address": re.compile(r"\b0x[0-9a-f]{6,}"),
    "a rewritten line": re.compile(r"\r"),
}
NOT_TO_INSTALL = re.compile(r"(?<![\w/.-])(torch|numpy|ipywidgets|torchvision)(?![\w/.-])")


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def output_texts(notebook: nbformat.NotebookNode) -> list[str]:
    """Return every text that a reader of the outputs sees: prints, representations, HTML."""
    texts = []
    for cell in code_cells(notebook):
        for output in cell.outputs:
            texts.append(output.get("text", ""))
            texts += [v for k, v in output.get("data", {}).items() if k.startswith("text/")]
    return texts


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def notebook(request):
    return read(request.param)


def test_there_are_chapters():
    assert CHAPTERS


def test_ran_in_order_from_the_top(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "run it again: make notebooks"


def test_no_cell_failed_or_complained(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]


def test_no_absolute_path(notebook):
    texts = [*output_texts(notebook), *(cell.source for cell in code_cells(notebook))]
    assert not [match[0] for text in texts for match in ABSOLUTE_PATH.finditer(text)]


@pytest.mark.parametrize("what", MOMENTARY)
def test_nothing_of_the_moment(notebook, what):
    assert not [text for text in output_texts(notebook) if MOMENTARY[what].search(text)]


def test_metadata_is_clean(notebook):
    assert notebook.nbformat_minor == 5
    assert notebook.metadata.keys() <= {"kernelspec", "language_info", "widgets"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert "version" not in notebook.metadata.language_info
    assert all(cell.metadata.keys() <= {"tags", "mystnb"} for cell in notebook.cells)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


def test_every_picture_is_told_in_words(notebook):
    """Whoever cannot see a picture reads its alternative text, `mystnb.image.alt` of its cell."""
    for cell in code_cells(notebook):
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt) > 20, cell.source


def test_first_cell_installs_in_colab_only(notebook):
    """It must leave alone what Colab brings: upgrading torch or numpy there breaks the session."""
    first = code_cells(notebook)[0]
    assert "google.colab" in first.source
    assert not NOT_TO_INSTALL.search(first.source)
    assert not first.outputs


# ---------------------------------------------------------------- the checks themselves


@pytest.mark.parametrize("text", ["in /home/ada/d2lmini", "'/tmp/x.png'", "(/opt/a)", r"C:\Users"])
def test_absolute_path_is_recognised(text):
    assert ABSOLUTE_PATH.search(text)


@pytest.mark.parametrize(
    "text", ["and/or", "1/2", "</div>", "https://d2l.ai/chapter/x", "runs/bananas/best", "a / b/c"]
)
def test_other_slashes_are_left_alone(text):
    assert not ABSOLUTE_PATH.search(text)


# ---------------------------------------------------------------- tools/run_notebooks.py


def write_notebook(path: Path, *sources: str) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.cells[0].metadata["vscode"] = {"languageId": "python"}
    nbformat.write(notebook, path)


def run_notebooks(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RUN_NOTEBOOKS), str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


def test_running_twice_gives_the_same_bytes(tmp_path):
    path = tmp_path / "tiny.ipynb"
    write_notebook(
        path,
        "import ipywidgets\nfor i in range(50):\n    print(i, flush=True)",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2]);",
        "a, b = ipywidgets.IntSlider(), ipywidgets.FloatSlider()\nipywidgets.VBox([a, b])",
    )
    assert run_notebooks(path).returncode == 0
    first = path.read_bytes()
    notebook = read(path)
    assert notebook.cells[0].outputs[0].text == "".join(f"{i}\n" for i in range(50))
    assert "image/png" in notebook.cells[1].outputs[0].data
    assert "widgets" in notebook.metadata
    test_metadata_is_clean(notebook)

    assert run_notebooks(path).returncode == 0
    assert path.read_bytes() == first


def test_failing_notebook_is_left_as_it_was(tmp_path):
    path = tmp_path / "broken.ipynb"
    write_notebook(path, "print('before')", "1 / 0")
    before = path.read_bytes()
    done = run_notebooks(path)
    assert done.returncode == 1
    assert "broken.ipynb" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
