"""Run notebooks and store their outputs in place, so that running twice gives the same bytes.

    python tools/run_notebooks.py chapters/*.ipynb

A notebook whose code fails is left as it was, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import sys
import tempfile
import uuid
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from PIL import Image

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
CELL_KEYS = ("tags", "mystnb")  # the latter holds the alternative text of images
LARGE = 100_000  # characters of an image from which on it is stored with 256 colours
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
MODEL_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")


def run(path: Path, timeout: int) -> None:
    """Execute one notebook and replace its file when every cell has succeeded."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = NotebookNode({"kernelspec": KERNEL})  # forget what an editor left there
    client = NotebookClient(
        notebook,
        timeout=timeout,
        extra_arguments=["--log-level=ERROR"],
        record_timing=False,
        store_widget_state=True,
        coalesce_streams=True,  # how prints are cut into messages depends on the moment
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    replace(path, nbformat.writes(normalized(notebook, path.stem)) + "\n")


def normalized(notebook: NotebookNode, name: str) -> NotebookNode:
    """Return the executed notebook without anything that another run would write differently."""
    notebook.nbformat_minor = 5
    notebook.metadata.get("language_info", {}).pop("version", None)
    for number, cell in enumerate(notebook.cells):
        cell.setdefault("id", f"cell-{number}")
        cell.metadata = NotebookNode({k: v for k, v in cell.metadata.items() if k in CELL_KEYS})
        shrink_images(cell)
    return renumber_widgets(notebook, name)


def shrink_images(cell: NotebookNode) -> None:
    """Store large images (of photographs, mostly) with 256 colours: a quarter of the bytes."""
    for output in cell.get("outputs", []):
        text = output.get("data", {}).get("image/png", "")
        if len(text) < LARGE:
            continue
        image = Image.open(io.BytesIO(base64.b64decode(text)))
        if image.mode == "P":
            continue
        buffer = io.BytesIO()
        few = image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(buffer, "PNG", optimize=True, dpi=image.info.get("dpi"))
        small = base64.b64encode(buffer.getvalue()).decode()
        output["data"]["image/png"] = min(small, text.rstrip("\n"), key=len)


def renumber_widgets(notebook: NotebookNode, name: str) -> NotebookNode:
    """Replace the random ids of widget models by ids that follow from their order."""
    state = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    if not state:
        notebook.metadata.pop("widgets", None)
        return notebook
    order = widgets_in_order(notebook, state)
    new = {old: uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/{i}").hex for i, old in enumerate(order)}
    text = MODEL_ID.sub(lambda match: new.get(match[0], match[0]), json.dumps(notebook))
    return nbformat.from_dict(json.loads(text))


def widgets_in_order(notebook: NotebookNode, state: dict) -> list[str]:
    """List model ids as a reader meets them: what cells show, what that refers to, the rest."""
    order: dict[str, None] = {}

    def visit(model_id: str) -> None:
        if model_id in state and model_id not in order:
            order[model_id] = None
            for reference in MODEL_ID.findall(json.dumps(state[model_id]["state"])):
                visit(reference)

    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            visit(output.get("data", {}).get(WIDGET_VIEW, {}).get("model_id", ""))
    for model_id in state:
        visit(model_id)
    return list(order)


def replace(path: Path, text: str) -> None:
    """Write the file in one step: whoever reads it sees the old or the new one, whole."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", newline="\n", dir=path.parent, suffix=".tmp", delete=False
    ) as file:
        file.write(text)
    Path(file.name).chmod(path.stat().st_mode)
    os.replace(file.name, path)


def main() -> int:
    """Run the notebooks named on the command line; return the exit code."""
    os.environ["OMP_NUM_THREADS"] = "1"  # as in `make test`: the last digits depend on how many share a sum
    parser = argparse.ArgumentParser(description="Run notebooks and store their outputs in place.")
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    parser.add_argument("--timeout", type=int, default=600, help="seconds for one cell (600)")
    arguments = parser.parse_args()
    failed = 0
    for path in arguments.notebooks:
        try:
            run(path, arguments.timeout)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            print(f"{path}: left as it was, because a cell failed\n{error}", file=sys.stderr)
            failed += 1
        else:
            print(f"{path}: done", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
