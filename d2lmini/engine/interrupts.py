"""Ctrl-C in a command's first seconds, while it imports: it just ends, with no traceback out of torch."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any


def _leave(number: int, frame: Any) -> None:
    os._exit(130)


def leave_quietly() -> None:
    """If this process is a command of ours, let Ctrl-C end it at once, until `as_usual`."""
    module = sys.argv[:1] == ["-m"] and "d2lmini" in sys.orig_argv  # argv[0] while `python -m` imports
    script = sys.argv and Path(sys.argv[0]).stem == "d2lmini"
    if (module or script) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def as_usual() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


leave_quietly()
