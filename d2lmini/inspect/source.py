"""The source of a function in a page, stored there as an output: a test notices when the package changes."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable


class Source:
    """Source code as a notebook shows it: highlighted where Markdown is, plain elsewhere."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __repr__(self) -> str:
        return self.code

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.code}\n```"


def show_source(*objects: Callable | type) -> Source:
    """The source of functions, methods or classes, one after the other; ValueError names what has none."""
    parts = []
    for each in objects:
        try:
            parts.append(textwrap.dedent(inspect.getsource(inspect.unwrap(each))).rstrip())
        except (TypeError, OSError):
            raise ValueError(f"{each!r} has no Python source to show: give a function or a class") from None
    return Source("\n\n\n".join(parts))
