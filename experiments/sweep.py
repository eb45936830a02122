"""Many rows, by as many processes as one likes: none is computed twice, and none that is there again.

A process claims a row by a lock on a file, which ends with the process however that ends. So a claim is
never stale: a process that finds the lock free and the row missing takes over, after the last whole epoch of
the process before it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock

from experiments import rows
from experiments.questions import QUESTIONS
from experiments.rows import Row
from experiments.scales import SCALES
from experiments.setting import Question, of_training, resolve


def rows_of(
    questions: Iterable[Question],
    scale: str,
    seeds: Sequence[int] = (),
    presets: Sequence[str] = (),
    parts: Sequence[str] = ("variants", "more"),
) -> list[Row]:
    """The rows that questions ask for, each once: first what is urgent, question by question.

    Without `seeds` they are the scale's. Where nothing is trained, these are one row for each variant of the
    questions that need no training. Of photographs only what is urgent is asked, one seed after the other, so
    that features are computed once.
    """
    found: dict[str, Row] = {}
    questions, seeds = list(questions), seeds or SCALES[scale].seeds
    if SCALES[scale].photographs:
        parts = parts[:1]
    if SCALES[scale].shipped:
        seeds = (0,)
        questions = [q for q in questions if not any(of_training(c) for c in q.every.values())]
    for part in parts:
        for question in questions:
            for changes in getattr(question, part).values():
                for seed in seeds:
                    for preset in question.presets:
                        if preset not in (presets or SCALES[scale].sizes):
                            continue
                        row = Row(scale, preset, changes, seed)
                        if resolve(SCALES[scale], preset, changes) is not None:
                            found.setdefault(row.name, row)
    order = (lambda row: (row.preset, row.seed)) if SCALES[scale].photographs else lambda row: ()
    return sorted(found.values(), key=order)


def find(name: str) -> Row:
    """The row of a name such as `small/bananas/base-s0`. Raises ValueError when no question has it."""
    parts = name.split("/")
    seed = name.rpartition("-s")[2]
    if len(parts) == 3 and parts[0] in SCALES and seed.isdigit():
        for row in rows_of(QUESTIONS.values(), parts[0], (int(seed),)):
            if row.name == name:
                return row
    raise ValueError(f"no question has a row {name!r}: python -m experiments list shows the names")


@contextlib.contextmanager
def claim(row: Row) -> Iterator[bool]:
    """Whether this process may compute a row (and all that share its training) until the block ends."""
    lock = rows.lock(rows.WORK / "locks" / row.trained_as.name.replace("/", "--"))
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


class Sweep:
    """Works through rows and prints how far it is."""

    def __init__(self, todo: Sequence[Row], results: Path = rows.RESULTS, device: str = "auto") -> None:
        self.todo, self.results, self.device = list(todo), results, device
        self.computed, self.seconds = 0, 0.0

    def run(self, limit: int | None = None, minutes: float | None = None) -> int:
        """Compute the rows that are missing and claimed by no other process; returns how many.

        No new row begins after `limit` of them or so many `minutes`.
        """
        start = time.monotonic()
        for row in self.todo:
            spent = (time.monotonic() - start) / 60
            if self.computed == limit or (minutes is not None and spent >= minutes):
                break
            if rows.read(row, self.results) is None:
                self._one(row)
        print(f"{self.done} of {len(self.todo)} rows are there, {self.computed} of them new", flush=True)
        return self.computed

    def _one(self, row: Row) -> None:
        with claim(row) as claimed:
            if not claimed or rows.read(row, self.results) is not None:
                return
            start = time.monotonic()
            result = rows.compute(row, self.device, log=lambda text: print(f"  {text}", flush=True))
            rows.write(row.path(self.results), result)
        self.computed += 1
        self.seconds += time.monotonic() - start
        self._report(row, result)

    def _report(self, row: Row, result: dict[str, Any]) -> None:
        left = len(self.todo) - self.done
        hours = left * self.seconds / self.computed / 3600
        final = result["final"]
        print(
            f"{row.name}  AP50 {final['ap50']:.3f}  AP {final['ap']:.3f}  {result['train_seconds']:.0f} s; "
            f"{left} left, about {hours:.1f} h of one process",
            flush=True,
        )

    @property
    def done(self) -> int:
        """How many rows are kept."""
        return sum(row.path(self.results).exists() for row in self.todo)
