"""Plugins and order of all tests, notebooks among them; what only tests share is in tests/conftest.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `pytest` as for `python -m pytest`

pytest_plugins = ["tests.nbval_figures"]

LONG = (
    "test_book.py",
    "test_live_page.py",
    "training.ipynb",
    "test_wheel.py",
    "test_mutation.py",
    "test_colab.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take minutes, then the notebooks, so that no worker ends alone.

    `make test` hands whole files to its two workers, in this order (`--no-loadscope-reorder`).
    """

    def rank(item: pytest.Item) -> tuple[int, bool]:
        name = item.path.name
        return LONG.index(name) if name in LONG else len(LONG), item.path.suffix != ".ipynb"

    items.sort(key=rank)
