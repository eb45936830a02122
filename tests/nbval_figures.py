"""A pytest plugin: one more test beside the cells that nbval runs, for the live figures of a notebook.

It asks the kernel in which nbval has just run the cells, so that no notebook has to run twice.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from nbval.plugin import IPyNbFile

from tests import widget_tables

ASK = """
import json, sys
from pathlib import Path
_state = {{}}
if "ipywidgets" in sys.modules:
    _state = sys.modules["ipywidgets"].Widget.get_manager_state()["state"]
Path({path!r}).write_text(json.dumps(_state), "utf8")
"""
ADVICE = "the notebook is older than the package: run make notebooks, and look at what changed"
MOST = 20  # lines shown


class FiguresDifferError(Exception):
    """The live figures that a notebook holds are not those that it makes now."""


class Figures(pytest.Item):
    """Compares the live figures stored in a notebook with those that its cells have just made."""

    def __init__(self, *, cells: list[pytest.Item], **options: Any) -> None:
        super().__init__(**options)
        self.cells = cells

    def runtest(self) -> None:
        """Raise FiguresDifferError with a line for each difference."""
        if any(cell.test_outputs is None for cell in self.cells):
            raise FiguresDifferError("not every cell has run: select the notebook as a whole")
        outputs = [output for cell in self.cells for output in cell.test_outputs]
        fresh = widget_tables.models(widget_tables.views(outputs), ask(self.parent.kernel))
        found = list(widget_tables.differences(widget_tables.stored(self.parent.nb), fresh))
        if found:
            raise FiguresDifferError("\n".join([*found[:MOST], f"{len(found)} differences: {ADVICE}"]))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: str | None = None) -> Any:
        """Show the lines alone: no reader needs the way through this plugin."""
        if isinstance(excinfo.value, FiguresDifferError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where pytest says that this test is."""
        return self.path, 0, f"{self.path.name}::{self.name}"


def ask(kernel: Any) -> dict[str, Any]:
    """The state of every widget that lives in a kernel of nbval."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.json"
        message = kernel.execute_cell_input(ASK.format(path=str(path)), allow_stdin=False)
        kernel.await_reply(message, timeout=60)
        return json.loads(path.read_text("utf8"))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Put the test of the figures behind the cells of each notebook."""
    report = yield
    if isinstance(collector, IPyNbFile) and report.outcome == "passed":
        report.result.append(Figures.from_parent(collector, name="live figures", cells=list(report.result)))
    return report
