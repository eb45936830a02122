"""The detector's forward pass in JavaScript, and what bundles it.

Small ES modules, each of which can be imported and tested by itself; `kernel.wat` is the one part that is not
JavaScript. A page gets them as one text, in the order in which they need each other.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

HERE = Path(__file__).parent
FIGURE = ("bytes.js", "dom.js", "drawing.js")  # what the scripts of widgets/ begin with
START = ("bytes.js", "dom.js", "start.js")  # what a page holds before the first click
LIVE = (
    *("bytes.js", "pause.js", "network.js", "simd.js", "engine.js"),
    *("dom.js", "drawing.js", "controls.js", "decode.js", "nms.js", "scoring.js", "file.js", "pixels.js"),
    *("image.js", "view.js", "details.js", "report.js", "layers.js", "truth.js", "camera.js", "saving.js"),
    *("app.js", "source.js"),
)
TRAIN = (  # what learns in a page, on top of LIVE
    *("matching.js", "losses.js", "matrices.js", "head.js", "weights.js", "trainer.js", "augment.js"),
    *("teacher.js", "record.js", "curves.js", "zip.js", "project.js", "start.js", "pagefile.js", "teach.js"),
    "turn.js",
)
OFFERED = ("makeEngine", "serve", "startApp", "pageEngine", "kernelEngine")
TAUGHT = ("startTeach", "startTurn", "serveTeacher", "callTeacher", "makeTeacher", "makeStudy", "makeRecord")
TAUGHT += ("checkpoint", "lookWith")
KERNELS = {"__KERNEL__": "kernel.wasm", "__TRAIN__": "train.wasm", "__STRICT__": "train-strict.wasm"}
PAGE = (HERE / "page.html").read_text("utf8")  # of a page of its own, for string.Template
STYLE = (HERE / "live.css").read_text("utf8")
IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w.]+)";\n', re.M)
EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|class) )", re.M)
REMARKS = re.compile(r"^[ \t]*(?://[^\n]*|/\*\*(?:[^*]|\*(?!/))*\*/)\n", re.M)  # those on lines of their own


def bundle(names: tuple[str, ...]) -> str:
    """The text of these modules as one: without imports of each other, exports and remarks.

    Raises ValueError when one needs a module that is not before it in the list.
    """
    parts = []
    for i, name in enumerate(names):
        text = (HERE / name).read_text("utf8")
        missing = [other for other in IMPORT.findall(text) if other not in names[:i]]
        if missing:
            raise ValueError(f"{name} needs {', '.join(missing)} before it")
        parts.append(EXPORT.sub("", REMARKS.sub("", IMPORT.sub("", text))).strip("\n"))
    text = "\n".join([*parts, ""])
    for mark, name in KERNELS.items():
        text = text.replace(mark, base64.b64encode((HERE / name).read_bytes()).decode())
    if "pagefile.js" in names:
        figures = (HERE.parent / "widgets" / "figures.css").read_text("utf8")
        for mark, part in {
            "__PAGE__": PAGE,
            "__STYLE__": figures + STYLE,
            "__START__": page_script(),
        }.items():
            text = text.replace(mark, json.dumps(part, ensure_ascii=False))
    return text


def widget_module() -> str:
    """The ES module of the notebook's widget, for anywidget: small, since every such page holds it."""
    return bundle((*START, "widget.js"))


def page_script() -> str:
    """The script of a page of its own."""
    return bundle((*START, "page.js"))


def live_script() -> str:
    """A classic script that defines `d2lminiLive`, a function that holds the network and the page around it.

    It is a function so that its own text can be handed to a worker.
    """
    return _script("d2lminiLive", LIVE, OFFERED)


def teach_script() -> str:
    """The same with what trains: `d2lminiTeach`."""
    return _script("d2lminiTeach", (*LIVE, *TRAIN), (*OFFERED, *TAUGHT))


def _script(name: str, modules: tuple[str, ...], offered: tuple[str, ...]) -> str:
    returned = f"return {{ {', '.join(offered)} }};"
    return f"globalThis.{name} = function {name}() {{\n{bundle(modules)}{returned}\n}};\n"
