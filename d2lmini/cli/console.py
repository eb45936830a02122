"""What is said on the terminal: it never ends a run, whatever the terminal can show and whoever reads it."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from d2lmini.data.output import visible
from d2lmini.engine import distributed

# For a terminal or a file that has no such signs; others are escaped.
SIGNS = {"→": "->", "≥": ">=", "≤": "<=", "×": "x", "–": "-", "−": "-", "…": "...", "·": "-"}
SIGNS |= {"σ": "sigma", "γ": "gamma", "α": "alpha"}


def _spell(error: UnicodeError) -> tuple[str | bytes, int]:
    """A codec's error handler: the first sign that cannot be encoded, in other signs."""
    if isinstance(error, UnicodeEncodeError) and (sign := SIGNS.get(error.object[error.start])):
        return sign, error.start + 1
    return codecs.backslashreplace_errors(error)


codecs.register_error("d2lmini.spell", _spell)


@contextlib.contextmanager
def any_terminal() -> Iterator[None]:
    """Let standard output and error take any text, and end without a word if nobody reads them any more."""
    streams = [s for s in (sys.stdout, sys.stderr) if hasattr(s, "reconfigure")]
    for stream in streams:
        stream.reconfigure(errors="d2lmini.spell")
    try:
        yield
    finally:
        for stream in streams:
            _write("", stream)


def tell(text: str) -> None:
    """Results, on standard output."""
    _write(f"{visible(text)}\n", sys.stdout)


def say(text: str) -> None:
    """A line on standard error, from the first process only."""
    if distributed.is_main_process():
        complain(text)


def complain(text: str) -> None:
    """A line on standard error, from whichever process."""
    _write(f"{visible(' '.join(text.split()))}\n", sys.stderr)


def _write(text: str, stream: TextIO) -> None:
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:  # `| head`: the work goes on, for its files
        with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
