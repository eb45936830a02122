"""The reference of the package: signatures and docstrings come out as they were written, and all of them."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import textwrap
from pathlib import Path
from types import ModuleType

import pytest
from docutils import nodes

import d2lmini

ROOT = Path(__file__).resolve().parents[1]
LINKS = {"encode": "api-d2lmini-boxes-encode"}


def extension() -> ModuleType:
    spec = importlib.util.spec_from_file_location("api_pages", ROOT / "_ext" / "api_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


api = extension()
LISTED = re.search(r"```\{api\}\n(.*?)```", (ROOT / "chapters" / "api.md").read_text("utf8"), re.S)[1].split()


def test_every_public_module_is_in_the_reference():
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "d2lmini").rglob("*.py")
    }
    inner = {name for name in modules if name.startswith(("d2lmini.widgets.", "d2lmini.plots."))}
    drawn = {f"d2lmini.data.{n}" for n in ("backdrops", "drawing", "shapes")}
    assert modules - inner - drawn - {
        "d2lmini",
        "d2lmini.cli",
        "d2lmini.cli.console",
        "d2lmini.cli.doctor",
        "d2lmini.cli.options",
        "d2lmini.cli.scoring",
        "d2lmini.cli.shared",
        "d2lmini.cli.training",
        "d2lmini.__main__",
    } == set(LISTED)


def test_everything_that_the_package_offers_is_explained():
    found = {entry.name for name in LISTED for entry in api.entries(importlib.import_module(name), LISTED)}
    own = {n for n in d2lmini.__all__ if callable(getattr(d2lmini, n))}
    assert own <= found
    widgets = importlib.import_module("d2lmini.widgets")
    assert set(widgets.__all__) <= found


def test_no_two_entries_have_one_id():
    ids = [entry.id for name in LISTED for entry in api.entries(importlib.import_module(name), LISTED)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (
            "def f(a: int, b: str = 'x', *, c=None) -> bool: ...",
            "f(a: int, b: str = 'x', *, c = None) -> bool",
        ),
        ("def f(a, /, *rest, **more): ...", "f(a, *rest, **more)"),
        ("class A(NamedTuple):\n    x: int\n    y: float = 1.0", "A(x: int, y: float = 1.0)"),
        ("@dataclass(frozen=True)\nclass A:\n    x: int", "A(x: int)"),
        ("class A(Base):\n    def __init__(self, n: int) -> None: ...", "A(n: int)"),
        ("class Bad(ValueError): ...", "class Bad(ValueError)"),
        ("class Plain:\n    done = False", "class Plain"),
        ("@property\ndef total(self) -> Tensor: ...", "total -> Tensor"),
        ("def to(self, device: str) -> Batch: ...", "to(device: str) -> Batch"),
    ],
)
def test_signatures_are_written_as_in_the_source(source, wanted):
    assert api.signature(ast.parse(source).body[0]) == wanted


def test_a_long_signature_has_a_line_for_each_parameter():
    names = [f"parameter_{i}: int = {i}" for i in range(5)]
    text = api.signature(ast.parse(f"def f({', '.join(names)}) -> None: ...").body[0])
    assert text.splitlines() == ["f(", *(f"    {name}," for name in names), ") -> None"]


def test_backticks_are_code_or_a_link_to_what_they_name():
    parts = list(api.inline("|x| of `encode` and `x_`, 1 < 2*3", LINKS))
    assert [part.astext() for part in parts] == ["|x| of ", "encode", " and ", "x_", ", 1 < 2*3"]
    assert isinstance(parts[1], nodes.reference)
    assert parts[1]["refid"] == LINKS["encode"]
    assert isinstance(parts[3], nodes.literal)


DOCSTRING = """\
A sentence that
goes on.

- `one`: first;
- two, which
  goes on.

`term`, `other`
    What it means.
`third`
    Another meaning
    in two lines.

    from d2lmini import widgets

>>> 1 + 1
2
"""


def test_blocks_of_a_docstring():
    paragraph, bullets, terms, listing, example = api.paragraphs(DOCSTRING, LINKS)
    assert paragraph.astext() == "A sentence that goes on."
    assert [item.astext() for item in bullets] == ["one: first;", "two, which goes on."]
    assert [item[0].astext() for item in terms] == ["term, other", "third"]
    assert terms[1][1].astext() == "Another meaning in two lines."
    assert listing.astext() == "from d2lmini import widgets"
    assert example.astext() == ">>> 1 + 1\n2"


def test_no_docstring_loses_a_word():
    for name in LISTED:
        for entry in api.entries(importlib.import_module(name), LISTED):
            text = ast.get_docstring(entry.definition) or ""
            shown = " ".join(node.astext() for node in api.paragraphs(text, {}))
            written = textwrap.dedent(text).replace("`", "")
            written = re.sub(r"^- ", "", written, flags=re.M)
            assert shown.split() == written.split(), entry.name
