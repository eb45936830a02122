"""The stored notebooks: run in order, without errors, and free of what another run would change."""

from __future__ import annotations

import ast
import base64
import importlib
import io
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from nbval.plugin import get_sanitize_patterns
from PIL import Image

from d2lmini.widgets import Figure

from . import widget_tables

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
LARGEST = 1_000_000  # bytes of a stored notebook: a page has to load on a phone
WIDEST = 88  # characters of a line of code: beyond, it scrolls sideways in the page
WITHOUT_EXERCISE = {"index", "d2l"}  # the front page, and a table
COLAB_CELL = """\
import importlib.util
import sys

if "google.colab" in sys.modules and importlib.util.find_spec("d2lmini") is None:
    %pip install --quiet git+https://github.com/d2lmini/d2lmini"""
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
SOLUTION = re.compile(r"<details>\s*<summary>[^\n]+</summary>\n\n.+?\n\n</details>", re.S)
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


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem, scope="module")
def chapter(request) -> Path:
    return request.param


@pytest.fixture(scope="module")
def notebook(chapter) -> nbformat.NotebookNode:
    return read(chapter)


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


def private_names(code: str) -> list[str]:
    """Names of the package's own inside that a cell uses: `_x` imported, or read off anything."""
    tree = ast.parse("\n".join(line for line in code.splitlines() if not line.lstrip().startswith("%")))
    names = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names += [part for alias in node.names for part in alias.name.split(".")]
    public = {"_replace", "_asdict", "_fields"}  # a NamedTuple's
    return [name for name in names if re.match(r"_(?!_)", name) and name not in public]


def test_only_public_names_are_used(notebook):
    # A cell that is nothing but a magic command under an `if` would not parse: only the one for Colab is.
    cells = [cell.source for cell in code_cells(notebook) if cell.source != COLAB_CELL]
    assert not [name for source in cells for name in private_names(source)]


def test_private_names_are_noticed():
    assert private_names("from d2lmini.detect import _settle, nms\nmatching._greedy(x)._replace(a=1)") == [
        "_greedy",
        "_settle",
    ]


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


def test_every_image_is_told_in_words(notebook):
    """Whoever cannot see an image reads its alternative text, `mystnb.image.alt` of its cell."""
    for cell in code_cells(notebook):
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt) > 20, cell.source


def test_first_cell_installs_in_colab_only(notebook):
    """It must leave alone what Colab brings: upgrading torch or numpy there breaks the session."""
    first = code_cells(notebook)[0]
    assert first.source == COLAB_CELL
    assert first.metadata.tags == ["hide-input"]
    assert not NOT_TO_INSTALL.search(first.source)
    assert not first.outputs


def test_it_imports_the_package(notebook):
    assert re.search(r"^(from|import) d2lmini\b", "\n".join(c.source for c in code_cells(notebook)), re.M)


def test_no_line_of_code_scrolls_sideways(notebook):
    lines = [line for cell in code_cells(notebook)[1:] for line in cell.source.splitlines()]
    assert not [line for line in lines if len(line) > WIDEST]


def test_it_loads_quickly(chapter):
    assert chapter.stat().st_size <= LARGEST


def test_it_has_an_exercise_with_a_folded_solution(chapter, notebook):
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert text.count("<details") == len(SOLUTION.findall(text)), "leave blank lines around a solution"
    assert SOLUTION.search(text) or chapter.stem in WITHOUT_EXERCISE


def test_links_to_other_chapters_lead_there(chapter, notebook):
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for address in LINK.findall(text):
        parts = urlsplit(address)
        if not parts.scheme and parts.path:
            assert (chapter.parent / unquote(parts.path)).is_file(), address


# ---------------------------------------------------------------- live figures


def live_outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return [output.data for output in outputs if widget_tables.VIEW in output.get("data", {})]


def figure_models(notebook: nbformat.NotebookNode) -> list[dict]:
    """What the drawings of a notebook hold; sliders and their like are other models."""
    models = widget_tables.stored(notebook).values()  # ValueError where the state of one is missing
    return [model for model in models if "_anywidget_id" in model]


def test_live_figures_have_a_image_and_a_caption_where_no_script_runs(notebook):
    for data in live_outputs(notebook):
        assert "image/png" in data
        assert len(data["text/plain"]) > 20


def test_every_live_figure_is_stored_and_told_in_words(notebook):
    figures = figure_models(notebook)
    assert len(figures) >= len(live_outputs(notebook))
    for figure in figures:
        assert len(figure["alt"]) > 20
        assert figure["data"]


def test_live_figures_run_the_scripts_of_the_package(notebook):
    """A page keeps a copy of a figure's script: after a change the old one would go on drawing."""
    for figure in figure_models(notebook):
        module, _, name = figure["_anywidget_id"].rpartition(".")
        cls = getattr(importlib.import_module(module), name)
        assert issubclass(cls, Figure)
        for key in ("_esm", "_css"):
            assert figure[key] == getattr(cls, key), f"{name} has changed: run make notebooks"


# ---------------------------------------------------------------- the checks themselves


@pytest.mark.parametrize("text", ["in /home/ada/d2lmini", "'/tmp/x.png'", "(/opt/a)", r"C:\Users"])
def test_absolute_path_is_recognised(text):
    assert ABSOLUTE_PATH.search(text)


@pytest.mark.parametrize(
    "text", ["and/or", "1/2", "</div>", "https://d2l.ai/chapter/x", "runs/bananas/best", "a / b/c"]
)
def test_other_slashes_are_left_alone(text):
    assert not ABSOLUTE_PATH.search(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("as [anchors](anchors.ipynb) do", ["anchors.ipynb"]),
        ("[a](b.ipynb#c-d), [e](https://x.org/y)", ["b.ipynb#c-d", "https://x.org/y"]),
        ("![an image](attachment:x.png) and f[0](1.0)", ["1.0"]),
    ],
)
def test_links_are_recognised(text, found):
    assert LINK.findall(text) == found


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("<details>\n<summary>Solution</summary>\n\nText with *stars*.\n\n</details>", True),
        ("<details>\n<summary>Solution</summary>\nIn one breath.\n</details>", False),
        ("<details>\n\nNo summary.\n\n</details>", False),
    ],
)
def test_a_folded_solution_is_recognised(text, whole):
    assert bool(SOLUTION.fullmatch(text)) == whole


def sanitised(text: str) -> str:
    """What nbval compares instead of a text."""
    for pattern, replacement in get_sanitize_patterns(
        (ROOT / "tests" / "nbval_sanitize.cfg").read_text("utf8")
    ):
        text = re.sub(pattern, replacement, text)
    return text


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("<Line2D at 0x7f0511b06f70>", "<Line2D at 0x7ffe0000beef>"),
        ("Wall time: 1.5 s", "Wall time: 12 ms"),
        ("took 3.25 s", "took 14 s"),
        ("12 µs a box", "9.5 µs a box"),
        ("torch 2.13.0+cpu", "torch 2.12.1"),
        ("100%|#####| 20/20 [00:07<00:00, 2.8it/s]", "100%|#####| 20/20 [00:09<00:00, 2.1it/s]"),
        ("/tmp/ipykernel_17/99.py: x", "/tmp/ipykernel_4242/1.py: x"),
    ],
)
def test_what_depends_on_the_moment_is_not_compared(first, second):
    assert sanitised(first) == sanitised(second)


@pytest.mark.parametrize(
    "text",
    ["σ = 0.5", "8,166 anchors", "6 stars", "IoU 0.50, 3 steps", "(3, 256, 256)", "14 small, 2 medium"],
)
def test_what_a_chapter_says_is_compared(text):
    assert sanitised(text) == text


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


def test_a_large_image_is_stored_with_256_colors(tmp_path):
    path = tmp_path / "large.ipynb"
    write_notebook(
        path,
        "import random\nfrom PIL import Image\n"
        "noise = Image.frombytes('RGB', (200, 200), random.Random(0).randbytes(120000))\nnoise",
        "noise.resize((50, 50))",
    )
    assert run_notebooks(path).returncode == 0
    large, small = (cell.outputs[0].data["image/png"] for cell in read(path).cells)
    images = [Image.open(io.BytesIO(base64.b64decode(text))) for text in (large, small)]
    assert [image.mode for image in images] == ["P", "RGB"]
    assert [image.size for image in images] == [(200, 200), (50, 50)]
    assert len(large) < 60_000


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
