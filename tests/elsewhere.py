"""Run a notebook with nbval in a folder of its own, on another copy of the package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import nbformat

ROOT = Path(__file__).resolve().parents[1]
SANITIZERS = ROOT / "tests" / "nbval_sanitize.cfg"
IMPORTED_FROM_THERE = """
import d2lmini
from pathlib import Path
assert Path(d2lmini.__file__).is_relative_to({package!r}), d2lmini.__file__
"""


def run_elsewhere(
    notebook: Path, folder: Path, package: Path, timeout: int = 550, **environment: str
) -> dict[str, str]:
    """What nbval and the comparison of live figures say of a copy of a notebook, alone in a new folder.

    `package` is where `import d2lmini` finds it; `environment` is added to the process's own. Returns the
    name of every test with what it complains of, "" when it passes. "Cell 0" is the proof that the copy of
    the package is the one in use, so a notebook's own cells count from 1.
    """
    folder.mkdir()
    copy = folder / notebook.name
    content = nbformat.read(notebook, as_version=4)
    proof = IMPORTED_FROM_THERE.format(package=str(package))
    content.cells.insert(0, nbformat.v4.new_code_cell(proof, id="proof"))
    nbformat.write(content, copy)
    report = folder.with_suffix(".xml")
    command = [sys.executable, "-m", "pytest", copy, f"--junit-xml={report}", f"--rootdir={folder}"]
    command += ["-p", "tests.nbval_figures", "-p", "no:cacheprovider", "--color=no"]
    command += ["--nbval", "--nbval-current-env", f"--nbval-sanitize-with={SANITIZERS}"]
    own = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    own |= {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, timeout=timeout)
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 2 and above: not the tests, but pytest
    return {case.get("name"): _complaint(case) for case in ElementTree.parse(report).iter("testcase")}


def _complaint(case: ElementTree.Element) -> str:
    """The text of a test's failure or error, "" if it has none; a skipped test complains too."""
    bad = (one for one in case if one.tag in ("failure", "error", "skipped"))
    return "\n".join(f"{one.get('message')}\n{one.text}" for one in bad)
