"""What `d2lmini data` says of every folder in a folder, as a table: split all, then train where it differs.

python tools/hard_folders.py FOLDERS
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from pathlib import Path

from d2lmini.cli import main


def said(folder: Path, split: str, out: str) -> tuple[int, str]:
    """The exit code of the command, and its last line of results, or all that it says beside them."""
    results, messages = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(results), contextlib.redirect_stderr(messages):
        try:
            code = main(["data", str(folder), "--split", split, "--size", "64", "--out", out])
        except Exception as error:  # a traceback, where one line was due
            code, results = 99, io.StringIO(f"TRACEBACK {type(error).__name__}: {error}")
    lines = [*results.getvalue().splitlines()[-1:], *messages.getvalue().splitlines()]
    text = " | ".join(lines).replace(f"{folder}/", "").replace(str(folder), ".").replace(f" → {out}", "")
    return code, text


def table(root: Path) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as scratch:
        out = f"{scratch}/sheet.png"
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            (code, text), (training, more) = said(folder, "all", out), said(folder, "train", out)
            print(f"{folder.name} {code} {text:.230}")
            if training != code:
                print(f"{'':{len(folder.name)}} {training} train: {more:.200}")


if __name__ == "__main__":
    table(Path(sys.argv[1]))
