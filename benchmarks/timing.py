"""Timing that survives a busy machine: alternate, many times, and take medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """How long a comparison may take: `least` rounds, then more for `seconds`, up to `most`."""

    least: int = 5
    most: int = 200
    seconds: float = 8.0


QUICK = Effort(least=2, most=5, seconds=0.5)


def alternate(
    functions: Mapping[str, Callable[[], object]],
    effort: Effort,
    clock: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Seconds of every call of each function: one warm-up, then one call of each in turn.

    Neighbours in time share what else the machine is doing, so that a ratio holds where a single
    number does not. `clock` reads seconds: by default those that pass.
    """
    clock = time.perf_counter if clock is None else clock
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    begin = time.perf_counter()
    for done in range(effort.most):
        if done >= effort.least and time.perf_counter() - begin > effort.seconds:
            break
        for name, function in functions.items():
            start = clock()
            function()
            seconds[name].append(clock() - start)
    return seconds


def compare(peer: Callable[[], object], ours: Callable[[], object], effort: Effort) -> dict[str, float | int]:
    """Median milliseconds of both, their quotient, and how many rounds there were."""
    seconds = alternate({"d2l": peer, "ours": ours}, effort)
    d2l, own = (statistics.median(seconds[name]) * 1e3 for name in ("d2l", "ours"))
    return {"d2l_ms": d2l, "ours_ms": own, "ratio": d2l / own, "rounds": len(seconds["ours"])}
