"""A recorder of operators on the processor, in the place of CUDA graphs, which need a card.

What it replays are the recorded operators on the recorded tensors, as a graph does: whatever Python decided
in between (a branch, a number read from a tensor or computed anew in each step) is decided for good.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class Tape(TorchDispatchMode):
    """Runs operators, and keeps each with its arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        """Do everything again, with each result in its old place."""
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            if any(value.alias_info is not None for value in func._schema.returns):
                continue  # a view of an old place, or written into one
            for old, new in zip(*(tree_flatten(r)[0] for r in (result, again)), strict=True):
                if isinstance(old, Tensor):
                    old.copy_(new)


def record(step: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    """In the place of `capture.record`. It cannot record without doing, so the first replay is done."""
    tape, first = Tape(), [True]
    with tape:
        output = step()

    def replay() -> None:
        if not first:
            with torch.no_grad():
                tape.replay()
        first.clear()

    return replay, output
