"""Sphinx extension: what the live detector fetches at its first click, as files of the book.

`_static/live/` gets the code (`live.js`, `teach.js`) and the weights scripts of the detectors that the
package ships.
Both are classic scripts, which load from a disk too; pages fetch them only when a reader wants to use it.
"""

from __future__ import annotations

from pathlib import Path

from sphinx.application import Sphinx

from d2lmini.checkpoint import pretrained
from d2lmini.interop.export import save_weights_script
from d2lmini.live import live_script, teach_script
from d2lmini.widgets.live import BITS
from d2lmini.widgets.turn import set_script


def write_scripts(app: Sphinx, error: Exception | None) -> None:
    """Called by Sphinx when the pages are written."""
    if error or app.builder.format != "html":
        return
    folder = Path(app.outdir, "_static", "live")
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*-*.js"):
        stale.unlink()
    (folder / "live.js").write_text(live_script(), "utf8")
    (folder / "teach.js").write_text(teach_script(), "utf8")
    name, text = set_script()
    (folder / name).write_text(text, "utf8")
    for name, bits in BITS.items():
        save_weights_script(folder, *pretrained(name), name, bits)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("build-finished", write_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
