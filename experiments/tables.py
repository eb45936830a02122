"""From rows to what chapters read: means, spread, and which differences are real.

Two settings are compared by a paired bootstrap over images and seeds. One draw takes the held-out
images with repetition (the same for both, by `resample`) and the seeds with repetition (the same for
both), and gives one difference of means. The interval holds 95 % of the draws. A difference is called
real when the interval leaves out 0 and every seed by itself has its sign. Where a single detector is
scored in several ways there is one seed, and what is real is so for this detector.
"""

from __future__ import annotations

import functools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from d2lmini import AnchorSpec, TinyBackbone, TinySSD, checkpoint, inspect
from d2lmini.engine.anchor_errors import ANCHOR_RATES
from d2lmini.mobilenet import TopDownMobileNetV2
from experiments import rows, sweep
from experiments.questions import QUESTIONS
from experiments.rows import ROOT, Row, rounded
from experiments.scales import SCALES
from experiments.setting import Question, Setting, resolve

TABLES = Path(__file__).with_name("tables")
FOR_PAGES = ROOT / "d2lmini" / "widgets" / "results"
SCORES = ("ap50", "ap", "ap75", "ap_small", "ap_medium", "ap_large", "ar100", "voc07", "voc12")
DRAWS, LEAST_SEEDS = 4000, 3
TEST = "paired bootstrap over images and seeds, 95 %"


def write(scale: str, results: Path = rows.RESULTS) -> str:
    """Write a scale's tables, as JSON for the chapters and as text for people; returns what was written."""
    table = build(scale, results)
    TABLES.mkdir(exist_ok=True)
    text = json.dumps(rounded(table, 4), indent=1, ensure_ascii=False) + "\n"
    checkpoint.write_bytes(FOR_PAGES / f"experiments-{scale}.json", text.encode())
    checkpoint.write_bytes(TABLES / f"{scale}.md", as_text(table).encode())
    return f"{table['rows']['done']} of {table['rows']['asked']} rows are in the tables of scale {scale}"


def build(scale: str, results: Path = rows.RESULTS) -> dict[str, Any]:
    """All tables of one scale; rows of another never enter."""
    asked = sweep.rows_of(QUESTIONS.values(), scale)
    kept = {row.name: rows.read(row, results) for row in asked}
    there = [row for row in kept.values() if row is not None]
    return {
        "scale": scale,
        "says": SCALES[scale].says,
        "test": TEST,
        "rows": {"done": len(there), "asked": len(asked), "hours": _hours(there)},
        "where": _where(there),
        "questions": {
            q.name: _question(q, scale, kept)
            for q in QUESTIONS.values()
            if {*q.presets} & {*SCALES[scale].sizes}
        },
    }


def _hours(there: Sequence[Mapping[str, Any]]) -> float:
    return round(sum(row["train_seconds"] for row in there) / 3600, 2)


def _where(there: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """What all rows ran on, with which code."""
    return {
        "device": sorted({f"{row['device']}, {row['precision']}" for row in there}),
        "machine": sorted({row["machine"]["gpu" if row["device"] == "cuda" else "cpu"] for row in there}),
        "commit": sorted({row["commit"] or "unknown" for row in there}),
        "torch": sorted({row["versions"]["torch"] for row in there}),
    }


def _question(question: Question, scale: str, kept: Mapping[str, Any]) -> dict[str, Any]:
    words = ("title", "chapter", "asks", "expected", "baseline", "curves")
    there = [preset for preset in question.presets if preset in SCALES[scale].sizes]
    presets = {preset: _variants(question, scale, preset, kept) for preset in there}
    return {
        **{word: getattr(question, word) for word in words},
        "presets": presets,
        "ranks": {preset: ranks(lines, question.ranked) for preset, lines in presets.items()},
    }


def _variants(question: Question, scale: str, preset: str, kept: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line for each variant that has rows, in the order of the question."""
    found = {
        name: [
            row
            for seed in SCALES[scale].seeds
            if (row := kept.get(Row(scale, preset, changes, seed).name)) is not None
        ]
        for name, changes in question.every.items()
        if resolve(SCALES[scale], preset, changes) is not None
    }
    lines, before = [], found[question.baseline]
    least = 1 if SCALES[scale].shipped else LEAST_SEEDS
    for name, runs in found.items():
        if not runs:
            before = []  # no step is taken over a missing rung
            continue
        line = {"variant": name, "changes": dict(question.every[name]), **summary(runs)}
        setting = resolve(SCALES[scale], preset, question.every[name])
        line["multiply_adds"] = multiply_adds(setting)
        if name != question.baseline:
            line["against"] = against(runs, found[question.baseline], least)
        if question.ladder and name.startswith("+"):
            line["step"] = against(runs, before, least)
        before = runs
        lines.append(line)
    return lines


def multiply_adds(setting: Setting) -> int:
    """Millions of multiplications of one forward pass for one image."""
    classes = 1  # heads for more classes change the sum by little, and not the order
    key = (setting.image_size, setting.channels, setting.width, setting.finer, setting.config.anchors)
    return _multiply_adds(*key, classes)


@functools.cache
def _multiply_adds(
    size: int, channels: tuple[int, ...], width: int, finer: int, anchors: AnchorSpec, classes: int
) -> int:
    backbone = TinyBackbone(channels, width, finer=finer) if channels else TopDownMobileNetV2()
    model = TinySSD(classes, size, anchors, backbone)
    return round(sum(inspect.multiply_adds(model).values()) / 1e6)


def ranks(lines: Sequence[Mapping[str, Any]], scores: Sequence[str]) -> dict[str, Any]:
    """For each score: place of each variant (1 is best), and the rank correlation with the last score.

    The correlation is Spearman's, over the variants' means.
    """
    table: dict[str, Any] = {}
    for score in scores:
        sign = 1 if score in ANCHOR_RATES else -1  # of errors the smallest is best
        order = np.argsort([sign * line[score]["mean"] for line in lines], kind="stable")
        table[score] = {"places": (np.argsort(order) + 1).tolist()}
    for found in table.values() if len(lines) > 2 else ():
        places = np.array([found["places"], table[scores[-1]]["places"]])
        found["correlation"] = float(np.corrcoef(places)[0, 1])
    return table


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean, standard deviation and the values of every seed, for each score that is defined."""
    line: dict[str, Any] = {"seeds": [row["seed"] for row in runs]}
    for name in (*SCORES, *ANCHOR_RATES):
        values = [row["final"][name] for row in runs]
        if all(value is not None for value in values):
            spread = statistics.stdev(values) if len(values) > 1 else None
            line[name] = {"mean": statistics.fmean(values), "sd": spread, "values": values}
    line["seconds"] = statistics.median(row["train_seconds"] for row in runs)
    line["anchors"] = runs[0]["cost"]["anchors"]
    line["diverged"] = sum(row["diverged"] is not None for row in runs)
    return line


def against(
    runs: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], least: int = LEAST_SEEDS
) -> dict[str, Any]:
    """The difference of AP50 and AP to the baseline over the seeds that both have: see the module."""
    other = {row["seed"]: row for row in base}
    pairs = [(row, other[row["seed"]]) for row in runs if row["seed"] in other]
    if not pairs:
        return {}
    return {score: compare(pairs, score, least) for score in ("ap50", "ap")} | {"pairs": len(pairs)}


def compare(
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], score: str, least: int = LEAST_SEEDS
) -> dict[str, Any]:
    """Mean difference of pairs of rows, its 95 % interval, and whether it is real."""
    each = np.array([a["final"][score] - b["final"][score] for a, b in pairs])  # (S,)
    draws = np.array([np.subtract(a["draws"][score], b["draws"][score]) for a, b in pairs])  # (S, D)
    generator = np.random.default_rng(0)
    image = generator.integers(draws.shape[1], size=DRAWS)
    seeds = generator.integers(len(pairs), size=(DRAWS, len(pairs)))
    low, high = np.quantile(draws[seeds, image[:, None]].mean(1), (0.025, 0.975))
    sure = len(pairs) >= least and bool((np.sign(each) == np.sign(each[0])).all())
    return {
        "difference": float(each.mean()),
        "low": float(low),
        "high": float(high),
        "real": bool(sure and (low > 0 or high < 0)),
    }


# ---------------------------------------------------------------------------------------- for people


def as_text(table: Mapping[str, Any]) -> str:
    """All tables as Markdown."""
    done, asked = table["rows"]["done"], table["rows"]["asked"]
    says = table["says"][0].upper() + table["says"][1:]
    parts = [
        f"# Scale {table['scale']}",
        f"{says}. {done} of {asked} rows, {table['rows']['hours']} hours of training.",
        f"Mean ± standard deviation over the seeds. The last two columns: {table['test']}; bold where real.",
    ]
    for question in table["questions"].values():
        for preset, lines in question["presets"].items():
            if lines:
                parts.append(f"## {question['title']}: {preset}\n\n{question['asks']}\n\n{_markdown(lines)}")
    return "\n\n".join(parts) + "\n"


def _markdown(lines: Sequence[Mapping[str, Any]]) -> str:
    head = (
        "",
        "seeds",
        "AP50",
        "AP",
        "class error",
        "box MAE",
        "seconds",
        "AP50 against base",
        "AP against base",
    )
    body = [
        (
            line["variant"],
            str(len(line["seeds"])),
            plus_minus(line["ap50"]),
            plus_minus(line["ap"]),
            *(f"{1000 * line[name]['mean']:.2f} ‰" for name in ("class_error", "box_mae")),
            f"{line['seconds']:.0f}",
            *(interval(line.get("against", {}).get(score)) for score in ("ap50", "ap")),
        )
        for line in lines
    ]
    rule = ("---", *["---:"] * (len(head) - 1))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *body))


def plus_minus(score: Mapping[str, Any], digits: int = 3) -> str:
    """Mean ± standard deviation, or the mean alone where there is one seed."""
    spread = "" if score["sd"] is None else f" ± {score['sd']:.{digits}f}"
    return f"{score['mean']:.{digits}f}{spread}"


def interval(difference: Mapping[str, Any] | None) -> str:
    """A difference with its interval, in bold where it is real; a dash for the baseline."""
    if difference is None:
        return "–"
    mark = "**" if difference["real"] else ""
    return (
        f"{mark}{difference['difference']:+.3f}{mark} ({difference['low']:+.3f} to {difference['high']:+.3f})"
    )
