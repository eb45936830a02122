"""Measure d2lmini beside D2L's own package: `python -m benchmarks`, or `make bench`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import floor, machine, micro, peer, report, step
from benchmarks.timing import QUICK, Effort
from d2lmini.engine import devices

GROUPS = (*micro.GROUPS, "step")
FLOOR = "floor"  # has no peer, and a file of its own


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", default=",".join((*GROUPS, FLOOR)), help=f"some of {','.join((*GROUPS, FLOOR))}"
    )
    parser.add_argument("--quick", action="store_true", help="few repetitions, nothing is written")
    parser.add_argument("--readme", action="store_true", help="put the table into benchmarks/README.md")
    parser.add_argument("--rounds", type=int, default=3, help="child processes of each kind of step")
    parser.add_argument("--steps", type=int, default=6, help="steps timed in each of them")
    options = parser.parse_args(arguments)
    options.only = [name.strip() for name in options.only.split(",")]
    unknown = sorted(set(options.only) - {*GROUPS, FLOOR})
    if unknown:
        parser.error(f"--only {','.join(unknown)}: choose from {','.join((*GROUPS, FLOOR))}")
    if min(options.rounds, options.steps) < 1:
        parser.error("--rounds and --steps must be at least 1")
    return options


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows of the groups that were asked for."""
    # As `fit` runs: large buffers stay with the process, for both sides. Without it the kernel faults them in
    # again on every call, and that takes longer than the work. The training steps have their own processes.
    devices.disable_malloc_trim()
    d2l = peer.load()
    yield from micro.run(d2l, set(options.only), QUICK if options.quick else Effort())
    if "step" in options.only:
        rounds, steps = (1, 1) if options.quick else (options.rounds, options.steps)
        yield from step.run(d2l, rounds, steps)


def merged(path: Path, result: dict[str, Any]) -> dict[str, Any]:
    """A result with the groups of the same day and machine that were not measured again."""
    old = json.loads(path.read_text()) if path.exists() else {}
    if old.get("machine") != result["machine"]:
        return result
    new = {row["group"] for row in result["rows"]}
    rows = [row for row in old["rows"] if row["group"] not in new] + result["rows"]
    return {**result, "rows": sorted(rows, key=lambda row: GROUPS.index(row["group"]))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write `benchmarks/results/cpu-DATE.json`."""
    options = parse(arguments)
    if FLOOR in options.only:
        result = floor.run(steps=1 if options.quick else 9)
        if not options.quick:
            machine.write_json(floor.FOLDER / "floor.json", result)
    if not set(options.only) & set(GROUPS):
        return 0
    rows = []
    for row in measure(options):
        rows.append(row)
        wanted = f" (wanted {row['wanted']} ×)" if "wanted" in row else ""
        own, theirs = report.duration(row["ours_ms"]), report.duration(row["d2l_ms"])
        line = f"{row['work']}: {theirs} → {own}, {report.times(row['ratio'])}{wanted}"
        print(line, file=sys.stderr, flush=True)
    result = {"date": machine.today(), "machine": machine.describe(), "rows": rows}
    if not options.quick:
        path = machine.RESULTS / f"cpu-{result['date']}.json"
        result = merged(path, result)
        machine.write_json(path, result)
        print(f"kept in {path}", file=sys.stderr)
    print(report.table(result))
    if options.readme:
        report.put_into_readme(report.table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
