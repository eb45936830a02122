"""What experiments found, for the pages: tables, drawings, and curves for figures to move along.

Nothing is trained here. `python -m experiments` trains, several seeds of each setting, and leaves its
tables in `results/`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from d2lmini import plots
from d2lmini.widgets.base import RESULTS

NAMES = {"ap50": "AP50", "ap": "COCO AP", "ap75": "AP75", "class_error": "class error", "box_mae": "box MAE"}
NAMES |= {
    "ap_small": "small",
    "ap_medium": "medium",
    "ap_large": "large",
    "voc07": "VOC 07",
    "voc12": "VOC 12",
    "positive_recall": "positives right",
}
CHANGES = {"against": "change of", "step": "step in"}
PER_THOUSAND = ("class_error", "box_mae")


class MeasuredCurve(NamedTuple):
    """A score measured at some values: `x`, its `mean` over the seeds and their `spread`, equally long."""

    x: list[float]
    mean: list[float]
    spread: list[float]


class Experiment:
    """One question as far as it was answered at one scale: `lines` of each data set, by variant.

    A line has the values of every seed for each score, their mean and standard deviation, and the
    differences to the baseline with a 95 % interval, marked as real or not.
    """

    def __init__(self, question: Mapping[str, Any], scale: Mapping[str, Any]) -> None:
        self.question, self.scale = question, scale
        self.presets = {name: lines for name, lines in question["presets"].items() if lines}

    def lines(self, preset: str, variants: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The lines of a data set, or those of some variants in their order; what has no row is left out."""
        by_name = {line["variant"]: line for line in self.presets.get(preset, [])}
        return [by_name[name] for name in (variants or by_name) if name in by_name]

    def table(
        self,
        preset: str,
        scores: Sequence[str] = ("ap50", "ap"),
        variants: Sequence[str] | None = None,
        change: str = "against",
    ) -> str:
        """Mean ± standard deviation of each score over the seeds, and the change of the last AP in it.

        The change is to the baseline ("against") or, on a ladder, to the line before ("step"), with its
        interval; a star where it is real. Class error and box MAE are in thousandths.
        """
        lines, last = self.lines(preset, variants), [s for s in scores if s in ("ap50", "ap")][-1:]
        seeds = sorted({len(line["seeds"]) for line in lines})
        said = "–".join(map(str, sorted({*seeds[:1], *seeds[-1:]})))
        title = f"{preset}, one detector" if said == "1" else f"{preset}, {said} seeds"
        width = max(len(title), *(len(line["variant"]) for line in lines)) if lines else len(title)
        head = title.ljust(width) + "".join(f"{NAMES[s]:>16}" for s in scores)
        rows = [head + "".join(f"   {CHANGES[change]} {NAMES[s]}" for s in last)]
        for line in lines:
            cells = "".join(f"{_cell(line.get(s), s):>16}" for s in scores)
            moved = "".join(f"   {_change(line.get(change, {}).get(s))}" for s in last)
            rows.append(f"{line['variant']:<{width}}{cells}{moved}".rstrip())
        return "\n".join(rows)

    def ranks(self, preset: str) -> str:
        """The place of each variant by each score, and below how well the order agrees with the last one's.

        1 is best; the agreement is Spearman's rank correlation.
        """
        table, lines = self.question["ranks"][preset], self.lines(preset)
        width = max(len(line["variant"]) for line in lines)
        rows = [preset.ljust(width) + "".join(f"{NAMES[s]:>13}" for s in table)]
        for i, line in enumerate(lines):
            cells = "".join(f"{found['places'][i]:>13}" for found in table.values())
            rows.append(f"{line['variant']:<{width}}{cells}")
        last = "".join(f"{found.get('correlation', float('nan')):>13.2f}" for found in table.values())
        rows.append("agreement".ljust(width) + last)
        return "\n".join(rows)

    def draw(self, score: str = "ap", variants: Sequence[str] | None = None) -> plots.Drawing:
        """Every seed of every variant, and their means, one panel for each data set."""
        panels = {
            preset: {line["variant"]: line[score]["values"] for line in self.lines(preset, variants)}
            for preset in self.presets
        }
        titles = {f"{preset}: {NAMES[score]}": rows for preset, rows in panels.items()}
        return plots.plot_dots(titles, baseline=self.question["baseline"])

    def curves(self, axis: str, score: str = "ap") -> dict[str, MeasuredCurve]:
        """Curves of a score over what varies, for each data set and named curve with two points or more.

        A point needs three seeds: one or two say nothing of their spread.
        """
        found = {}
        for preset in self.presets:
            lines = {one["variant"]: one[score] for one in self.lines(preset) if len(one["seeds"]) >= 3}
            for name, points in self.question["curves"].get(axis, {}).items():
                known = sorted((float(x), lines[v]) for x, v in points.items() if v in lines)
                if len(known) > 1:
                    x, values = zip(*known, strict=True)
                    spread = [v["sd"] for v in values]
                    found[f"{preset}, {name}".removesuffix(", ")] = MeasuredCurve(
                        list(x), [v["mean"] for v in values], spread
                    )
        return found

    def where(self) -> str:
        """Scale, how much of it there is, machine and versions, in a sentence or two."""
        rows, place = self.scale["rows"], self.scale["where"]
        machine = "; ".join((*place["device"], *place["machine"]))
        share = f"{rows['done']} of {rows['asked']} rows done"
        return f'Scale "{self.scale["scale"]}": {self.scale["says"]}. {share}. {machine}.'


def experiment(question: str, scale: str = "small") -> Experiment:
    """What is known about a question, such as "ladder" or "focal".

    Raises ValueError naming the scales or questions there are.
    """
    path = RESULTS / f"experiments-{scale}.json"
    if not path.is_file():
        there = (p.stem.removeprefix("experiments-") for p in RESULTS.glob("experiments-*.json"))
        raise ValueError(
            f"no experiments of scale {scale!r} come with the package: {', '.join(sorted(there))}"
        )
    stored = json.loads(path.read_text("utf8"))
    questions = stored.pop("questions")
    if question not in questions:
        raise ValueError(f"no experiment is called {question!r}: choose from {', '.join(questions)}")
    return Experiment(questions[question], stored)


def _cell(score: Mapping[str, Any] | None, name: str) -> str:
    if score is None:
        return "–"
    times, digits = (1000, 2) if name in PER_THOUSAND else (1, 3)
    spread = "" if score["sd"] is None else f" ± {times * score['sd']:.{digits}f}"
    return f"{times * score['mean']:.{digits}f}{spread}"


def _change(change: Mapping[str, Any] | None) -> str:
    if change is None:
        return ""
    star = " *" if change["real"] else ""
    text = f"{change['difference']:+.3f} ({change['low']:+.3f} to {change['high']:+.3f}){star}"
    return text.replace("-", "−")
