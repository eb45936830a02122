"""Results as Markdown tables, and their places in `benchmarks/README.md` and on the front page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

README = Path(__file__).resolve().parent / "README.md"
FRONT_PAGE = README.parents[1] / "README.md"


def table(result: dict[str, Any]) -> str:
    """The rows of a result file, and below them where, when and with what they were measured."""
    lines = ["| work | D2L | here | times as fast |", "| --- | ---: | ---: | ---: |"]
    lines += [_line(row) for row in result["rows"]]
    memory = [row for row in result["rows"] if "d2l_peak_memory" in row]
    if memory:
        lines += ["", "| training, batch 32 | D2L | here |", "| --- | ---: | ---: |"]
        lines += [_rate(row) for row in memory]
        lines += [_memory(row) for row in memory]
    return "\n".join([*lines, "", _footer(result)])


def _line(row: dict[str, Any]) -> str:
    cells = (row["work"], duration(row["d2l_ms"]), duration(row["ours_ms"]), times(row["ratio"]))
    return f"| {' | '.join(cells)} |"


def _rate(row: dict[str, Any]) -> str:
    cells = (f"{row[f'{who}_images_per_second']:.0f}" for who in ("d2l", "ours"))
    return f"| images a second, {row['variant']} | {' | '.join(cells)} |"


def _memory(row: dict[str, Any]) -> str:
    cells = (f"{row[f'{who}_peak_memory'] / 1e9:.1f} GB" for who in ("d2l", "ours"))
    return f"| largest memory, {row['variant']} | {' | '.join(cells)} |"


def _footer(result: dict[str, Any]) -> str:
    machine = result["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in machine["versions"].items() if v)
    return (
        f"Medians, D2L's functions (float32, as published) and this package's in turn, in a process that "
        f"keeps its large buffers, as `fit` does (D2L's training step: as published): "
        f"{machine['cpu']}, {machine['threads']} threads, Python {machine['python']}, {versions}; "
        f"{result['date']}. `make bench` measures them anew."
    )


def duration(milliseconds: float) -> str:
    """A time with two or three digits and a unit that suits it.

    >>> duration(0.0042), duration(1.234), duration(56.7), duration(2880)
    ('4.2 µs', '1.23 ms', '56.7 ms', '2,880 ms')
    """
    if milliseconds < 0.01:
        return f"{milliseconds * 1e3:.1f} µs"
    digits = 2 if milliseconds < 10 else 1 if milliseconds < 100 else 0
    return f"{milliseconds:,.{digits}f} ms"


def times(ratio: float) -> str:
    """A quotient with two digits, or whole from 10 on.

    >>> times(2.54), times(115.3)
    ('2.5 ×', '115 ×')
    """
    return f"{ratio:.1f} ×" if ratio < 10 else f"{ratio:,.0f} ×"


def put_into_readme(text: str, readme: Path = README, name: str = "bench") -> None:
    """Replace what stands between two markers; raises ValueError if they are not there."""
    start, stop = f"<!-- {name} -->", f"<!-- /{name} -->"
    content = readme.read_text()
    before, begin, rest = content.partition(start)
    _, end, after = rest.partition(stop)
    if not begin or not end:
        raise ValueError(f"{readme} has no {start} … {stop}: put both lines where the table belongs")
    readme.write_text(f"{before}{start}\n{text}\n{stop}{after}")


def recipe_table(rows: list[dict[str, Any]], d2l: dict[str, Any]) -> str:
    """Whole training runs: one line for each preset (means over the seeds), and D2L's recipe."""
    lines = [
        "| training run | AP50 | COCO AP | class error (background) | box MAE (background) | minutes |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        _run_line("bananas, D2L's recipe as published, 1 seed", [d2l], d2l["minutes"]),
    ]
    for preset in dict.fromkeys(row["recipe"].split(", ")[1] for row in rows):
        runs = [row for row in rows if row["recipe"].endswith(preset)]
        minutes = sum(row["drawing_seconds"] + row["fit_seconds"] for row in runs) / len(runs) / 60
        seeds = f"mean of {len(runs)} seeds" if len(runs) > 1 else "1 seed"
        name = f"{preset}, this package, {seeds}"
        lines.append(_run_line(name, runs, minutes))
    return "\n".join(lines)


def _run_line(name: str, rows: list[dict[str, Any]], minutes: float) -> str:
    def mean(key: str) -> float:
        return sum(row["final"][key] for row in rows) / len(rows)

    def spread(key: str) -> str:
        values = [row["final"][key] for row in rows]
        span = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
        return f"{mean(key):.3f}{span}"

    pairs = [f"{mean(key):.2e} ({mean(f'background_{key}'):.2e})" for key in ("class_error", "box_mae")]
    return f"| {' | '.join([name, spread('ap50'), spread('ap'), *pairs, f'{minutes:.1f}'])} |"


def gpu_table(result: dict[str, Any]) -> str:
    """What `benchmarks.gpu` measured on one GPU: steps, detection, and the `bananas` recipe as a whole."""
    gpu, versions = result["machine"], result["machine"]["versions"]
    lines = [
        "| work | D2L | ours, step by step | ours, as a graph | faster |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in result["training"]:
        ours = (duration(row["eager_ms"]), duration(row["graph_ms"]))
        lines.append(_gpu_line(f"training step, batch {row['batch']}", row, *ours))
    for row in result["detection"]:
        lines.append(
            _gpu_line(f"network and detection, batch {row['batch']}", row, duration(row["ours_ms"]), "")
        )
    run = result["runs"][-1]
    seconds = f"{run['seconds']:.1f} s to AP50 {run['ap50']:.3f}"
    lines.append(f"| the recipe `bananas` from start to scores | | | {seconds} | |")
    share = max(row["of_floor"] for row in result["training"])
    note = (
        f"{gpu['gpu']}, torch {gpu['torch']}, d2l {versions['d2l'] or 'not measured'}; {result['date']}. "
        f"A recorded step reaches up to {share:.0%} of what the GPU's memory bandwidth would allow."
    )
    return "\n".join([*lines, "", note])


def _gpu_line(name: str, row: dict[str, Any], eager: str, graph: str) -> str:
    d2l = duration(row["d2l_ms"]) if "d2l_ms" in row else ""
    ratio = times(row["times_d2l"]) if "times_d2l" in row else ""
    return f"| {name} | {d2l} | {eager} | {graph} | {ratio} |"
