"""No figure of an experiment stands in prose that is not in its table.

A markdown cell that quotes results carries a tag such as `results:ladder`, or `results:suppression:shipped`
for another scale than small. Every number in it with a decimal point must be a value of that question's
table (of one of them, where a cell has several tags), rounded to as many digits as are quoted; what is not
a result (γ = 0.5) has to be the value of some option of the question's variants, or of its curves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import pytest

from d2lmini.widgets.experiments import RESULTS

ROOT = Path(__file__).resolve().parents[1]
NUMBER = re.compile(r"(?<![\w.])[+−-]?\d+\.\d+(?![\w.]*\d)")
TAG = re.compile(r"results:(\w+)(?::(\w+))?$")


def quoting() -> Iterator[tuple[str, int, list[tuple[str, str]], str]]:
    """Notebook, cell, its (question, scale) pairs and text, of every cell that quotes results."""
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        for i, cell in enumerate(nbformat.read(path, as_version=4).cells):
            found = [match for tag in cell.metadata.get("tags", []) if (match := TAG.match(tag))]
            if found:
                yield path.stem, i, [(match[1], match[2] or "small") for match in found], cell.source


def quoted(text: str) -> list[str]:
    """The decimal numbers of a text, without code in it."""
    return NUMBER.findall(re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S))


# Not quoted: single seeds, scores that no page shows, and what is not a result at all.
LEFT_OUT = ("values", "seeds", "ar100", "voc07", "voc12", "seconds", "chapter", "asks", "expected", "places")


def numbers(value: Any) -> Iterator[float]:
    """The numbers of a table that may be quoted, also those in names of variants and of curves' points."""
    if isinstance(value, Mapping):
        yield from numbers(list(value))
        yield from numbers([item for key, item in value.items() if key not in LEFT_OUT])
    elif isinstance(value, str):
        yield from map(float, re.findall(r"\d+\.\d+|\d+", value))
    elif isinstance(value, Sequence):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield float(value)


def is_there(figure: str, known: Sequence[float]) -> bool:
    """Whether a figure is a known number rounded, as it is or in thousandths (of anchors)."""
    digits = len(figure.rpartition(".")[2])
    value = float(figure.replace("−", "-").replace("+", ""))
    half = 0.5 * 10**-digits * 1.0001 + 1e-12  # known numbers have four digits, too
    signed = figure[0] in "+−-"
    return any(
        abs((n if signed else abs(n)) * times - value) <= half * (1 + (times > 1) * 1e-3)
        for n in known
        for times in (1, 1000)
    )


def known_numbers(question: str, scale: str) -> list[float]:
    stored = json.loads((RESULTS / f"experiments-{scale}.json").read_text("utf8"))
    return [n for n in numbers(stored["questions"][question])]


CELLS = list(quoting())


NAMES = [f"{page}-{cell}-{'-'.join(results[0])}" for page, cell, results, _ in CELLS]


@pytest.mark.parametrize(("page", "cell", "results", "text"), CELLS, ids=NAMES)
def test_every_quoted_figure_is_in_the_table(page, cell, results, text):
    known = [n for result in results for n in known_numbers(*result)]
    missing = [figure for figure in quoted(text) if not is_there(figure, known)]
    assert not missing, f"{page}, cell {cell}: not in the tables of {results}: {missing}"


def test_results_are_quoted_in_the_chapters_they_belong_to():
    pages = {(page, result) for page, _, results, _ in CELLS for result in results}
    for path in RESULTS.glob("experiments-*.json"):
        table = json.loads(path.read_text("utf8"))
        for name, question in table["questions"].items():
            if any(len(lines) > 2 for lines in question["presets"].values()):  # base, D2L, and one more
                here = (question["chapter"], (name, table["scale"]))
                assert here in pages, f"{name} has results, but {question['chapter']} is silent"


def test_a_wrong_figure_is_noticed():
    known = [0.2174, 0.00516, -0.0321]
    for right in ("0.217", "0.22", "5.16", "−0.032", "0.03"):
        assert is_there(right, known), right
    for wrong in ("0.218", "0.21", "5.17", "+0.032", "0.5"):
        assert not is_there(wrong, known), wrong
    assert quoted("rises from 0.21 to **0.35**, `lr=0.5`, by −0.14; page 14.7.2, 3 : 1") == [
        "0.21",
        "0.35",
        "−0.14",
    ]
