"""The command line of the experiments.

    python -m experiments run --scale small                 every row that is missing
    python -m experiments run ladder focal --workers 4      of two questions, by four processes
    python -m experiments row small/bananas/base-s0 --again one row, from its beginning
    python -m experiments list --scale small                names of all rows, and which are there
    python -m experiments tables --scale small              what the chapters read, from the kept rows

Any number of processes may run at once, started when you like; Ctrl-C loses at most an epoch.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from d2lmini.engine import state
from experiments import rows, sweep, tables
from experiments.questions import QUESTIONS
from experiments.scales import SCALES
from experiments.setting import EVERY


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--scale", choices=SCALES, default="small")
    shared.add_argument("--results", type=Path, default=rows.RESULTS, help="folder of the kept rows")
    many = argparse.ArgumentParser(add_help=False)
    many.add_argument("questions", nargs="*", metavar="question", help=f"all of {', '.join(QUESTIONS)}")
    many.add_argument("--seeds", type=int, nargs="+", default=[], help="those of the scale")
    many.add_argument("--presets", nargs="+", choices=EVERY, default=[])
    many.add_argument("--urgent", action="store_true", help="leave out what may come last")
    device = argparse.ArgumentParser(add_help=False)
    device.add_argument("--device", default="auto")
    device.add_argument("--threads", type=int, default=1, help="of each process (default 1)")

    run = commands.add_parser("run", parents=[many, shared, device], help="compute what is missing")
    run.add_argument("--limit", type=int, help="begin at most so many rows")
    run.add_argument("--minutes", type=float, help="begin no row later than that")
    run.add_argument("--workers", type=int, default=1, help="processes")
    row = commands.add_parser("row", parents=[shared, device], help="compute one row")
    row.add_argument("name")
    row.add_argument("--again", action="store_true", help="although it is there")
    commands.add_parser("list", parents=[many, shared], help="names of rows")
    commands.add_parser("tables", parents=[shared], help="write the tables that chapters read")
    options = parser.parse_args(arguments)
    unknown = set(getattr(options, "questions", ())) - QUESTIONS.keys()
    if unknown:
        parser.error(
            f"no question is called {', '.join(sorted(unknown))}: choose from {', '.join(QUESTIONS)}"
        )
    return options


def chosen(options: argparse.Namespace) -> list[rows.Row]:
    """The rows that the options name."""
    questions = [QUESTIONS[name] for name in options.questions or QUESTIONS]
    parts = ("variants",) if options.urgent else ("variants", "more")
    return sweep.rows_of(questions, options.scale, options.seeds, options.presets, parts)


def run(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """`run`: this process, and further ones with the same arguments."""
    torch.set_num_threads(options.threads)
    command = [sys.executable, "-m", "experiments", *arguments, "--workers", "1"]
    others = [subprocess.Popen(command) for _ in range(options.workers - 1)]
    try:
        sweep.Sweep(chosen(options), options.results, options.device).run(options.limit, options.minutes)
    finally:
        for other in others:
            other.wait()


def one(options: argparse.Namespace) -> None:
    """`row`: compute or read one row, and print its scores."""
    torch.set_num_threads(options.threads)
    row = sweep.find(options.name)
    with sweep.claim(row) as claimed:
        if not claimed:
            raise ValueError(f"another process is computing {row.trained_as.name}: wait for it")
        if options.again:
            rows.forget(row)
        if options.again or rows.read(row, options.results) is None:
            result = rows.compute(row, options.device, log=lambda text: print(f"  {text}", flush=True))
            rows.write(row.path(options.results), result)
    kept = rows.read(row, options.results)
    print(f"{row.name}  AP50 {kept['final']['ap50']:.3f}  AP {kept['final']['ap']:.3f}")


def show(options: argparse.Namespace) -> None:
    """`list`: a line for each row."""
    todo = chosen(options)
    for row in todo:
        print(f"{'x' if row.path(options.results).exists() else '.'} {row.name}")
    print(f"{sum(row.path(options.results).exists() for row in todo)} of {len(todo)} rows are there")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; a user's error is one line."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parse(arguments)
    try:
        if options.command == "run":
            run(options, arguments)
        elif options.command == "row":
            one(options)
        elif options.command == "list":
            show(options)
        else:
            print(tables.write(options.scale, options.results))
    except (ValueError, state.Interrupted) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
