"""Sphinx extension: the reference of the package, read from its docstrings, so that it never goes stale.

    ```{api}
    d2lmini.boxes
    d2lmini.anchors
    ```

writes a section for each module with its docstring, and in it one for each public function and class
that is defined there. The package's docstrings are plain text: paragraphs, lists, examples, `code` in
backticks. autodoc would read them as reStructuredText and stumble over |x| and single backticks. Here
a backticked name that the reference explains becomes a link to where it does.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Collection, Iterator, Mapping
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

CODE = re.compile(r"`([^`]+)`")
WIDEST = 84  # characters of a signature on one line


class Entry:
    """A function or class: its full name, the object, and the parsed definition."""

    def __init__(self, module: ModuleType, name: str, thing: Any) -> None:
        self.name, self.thing = name, thing
        kind = "-class" if inspect.isclass(thing) else ""  # an identifier is all lower case
        self.id = nodes.make_id(f"api-{module.__name__}-{name}{kind}")
        self.definition = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]


def entries(module: ModuleType, listed: Collection[str] = ()) -> list[Entry]:
    """The functions and classes that a module offers, in the order of its source, or of its `__all__`.

    Its own; and what it gathers from modules below it, unless those are `listed` themselves.
    """
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    found = [(name, getattr(module, name)) for name in names]
    found = [(name, thing) for name, thing in found if inspect.isfunction(thing) or inspect.isclass(thing)]
    below = f"{module.__name__}."
    own = [pair for pair in found if pair[1].__module__ == module.__name__]
    own.sort(key=lambda pair: inspect.getsourcelines(pair[1])[1])
    gathered = [p for p in found if p[1].__module__.startswith(below) and p[1].__module__ not in listed]
    return [Entry(module, name, thing) for name, thing in own + gathered]


# ---- signatures, as the source writes them ----


def signature(definition: ast.stmt) -> str:
    """How something is called: a function's parameters, or a class's `__init__` or fields.

    Of a class without either, such as an exception, what it is derived from.
    """
    if isinstance(definition, ast.ClassDef):
        methods = {node.name: node for node in definition.body if isinstance(node, ast.FunctionDef)}
        if "__init__" in methods:
            return _call(definition.name, parameters(methods["__init__"])[1:])
        if own := fields(definition):
            return _call(definition.name, own)
        above = ", ".join(ast.unparse(base) for base in definition.bases)
        return f"class {definition.name}({above})" if above else f"class {definition.name}"
    assert isinstance(definition, ast.FunctionDef)
    if any(ast.unparse(mark) == "property" for mark in definition.decorator_list):
        return f"{definition.name}{_returns(definition)}"
    kept = parameters(definition)
    if kept and kept[0] in ("self", "cls"):
        kept = kept[1:]
    return _call(definition.name, kept, _returns(definition))


def _returns(definition: ast.FunctionDef) -> str:
    return f" -> {ast.unparse(definition.returns)}" if definition.returns else ""


def parameters(definition: ast.FunctionDef) -> list[str]:
    """Each parameter with annotation and default, and the bare * before those that need a name."""
    given = definition.args
    ordered = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(ordered) - len(given.defaults)) + list(given.defaults)
    parts = [_parameter(a, d) for a, d in zip(ordered, defaults, strict=True)]
    if given.vararg:
        parts.append(f"*{ast.unparse(given.vararg)}")
    elif given.kwonlyargs:
        parts.append("*")
    parts += [_parameter(a, d) for a, d in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    return parts + ([f"**{ast.unparse(given.kwarg)}"] if given.kwarg else [])


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(argument) + (f" = {ast.unparse(default)}" if default is not None else "")


def fields(definition: ast.ClassDef) -> list[str]:
    """The fields of a dataclass or a named tuple; none of any other class."""
    marks = [ast.unparse(mark) for mark in (*definition.decorator_list, *definition.bases)]
    if not any(mark.startswith(("dataclass", "NamedTuple")) for mark in marks):
        return []
    return [ast.unparse(node) for node in definition.body if isinstance(node, ast.AnnAssign)]


def _call(name: str, parts: list[str], after: str = "") -> str:
    line = f"{name}({', '.join(parts)}){after}"
    if len(line) <= WIDEST:
        return line
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){after}"


# ---- docstrings ----


def paragraphs(text: str, links: Mapping[str, str]) -> list[nodes.Node]:
    """A docstring as nodes: paragraphs, lists, terms with what they mean, examples, code."""
    return [_block(block.splitlines(), links) for block in re.split(r"\n\s*\n", text.strip("\n")) if block]


def _block(lines: list[str], links: Mapping[str, str]) -> nodes.Node:
    if lines[0].startswith(">>>") or all(line.startswith("    ") for line in lines):
        return code("\n".join(lines) if lines[0].startswith(">>>") else textwrap.dedent("\n".join(lines)))
    if lines[0].startswith("- "):
        items = re.split(r"^- ", "\n".join(lines), flags=re.M)[1:]
        return nodes.bullet_list("", *(nodes.list_item("", _paragraph(item, links)) for item in items))
    if any(line.startswith("    ") for line in lines[1:]):
        return _terms(lines, links)
    return _paragraph("\n".join(lines), links)


def _terms(lines: list[str], links: Mapping[str, str]) -> nodes.Node:
    """Lines at the margin are terms, the indented lines below each say what it means."""
    found = nodes.definition_list()
    term: list[str] = []
    meaning: list[str] = []
    for line in [*lines, "end"]:
        if meaning and not line.startswith("    "):
            body = nodes.definition("", _paragraph("\n".join(meaning), links))
            head = nodes.term("", "", *inline(" ".join(term), links))
            found += nodes.definition_list_item("", head, body)
            term, meaning = [], []
        (meaning if line.startswith("    ") else term).append(line.strip())
    return found


def _paragraph(text: str, links: Mapping[str, str]) -> nodes.Node:
    return nodes.paragraph("", "", *inline(" ".join(text.split()), links))


def inline(text: str, links: Mapping[str, str]) -> Iterator[nodes.Node]:
    """Text in which what stands in backticks is code, and a link where it names an entry."""
    for i, part in enumerate(CODE.split(text)):
        if i % 2 == 0:
            yield nodes.Text(part)
        elif part in links:
            yield nodes.reference("", "", nodes.literal("", part), internal=True, refid=links[part])
        else:
            yield nodes.literal("", part)


def code(text: str) -> nodes.Node:
    """A block of Python, or of something else (a sketch, a command), which then has no colours."""
    try:
        ast.parse(text)
        language = "python"
    except SyntaxError:
        language = "python" if ">>>" in text else "text"
    return nodes.literal_block(text, text, language=language)


# ---- the directive ----


def own_names(definition: ast.stmt) -> set[str]:
    """Names of parameters and fields within a definition: in its docstring they mean just that."""
    parameters = {node.arg for node in ast.walk(definition) if isinstance(node, ast.arg)}
    fields = {
        node.target.id
        for node in getattr(definition, "body", ())
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return parameters | fields


def members(entry: Entry, links: Mapping[str, str]) -> list[nodes.Node]:
    """Public methods and properties of a class that have a docstring, each with its signature."""
    if not inspect.isclass(entry.thing):
        return []
    found = nodes.definition_list()
    for node in entry.definition.body:
        text = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
        if text and not node.name.startswith("_"):
            term = nodes.term("", "", nodes.literal("", " ".join(signature(node).split())))
            found += nodes.definition_list_item("", term, nodes.definition("", *paragraphs(text, links)))
    return [found] if len(found) else []


class ApiDirective(SphinxDirective):
    """The reference of the modules named in its lines."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """A section for each module, and in it one for each entry."""
        modules = [importlib.import_module(line.strip()) for line in self.content if line.strip()]
        listed = [module.__name__ for module in modules]
        known = {module.__name__: entries(module, listed) for module in modules}
        links: dict[str, str] = {}
        for name, found in known.items():
            short = name.rpartition(".")[2]
            own = {f"{short}.{entry.name}": entry.id for entry in found}
            # D2L's adapters carry D2L's names: the bare name means the one that does the work.
            links = own | {entry.name: entry.id for entry in found} | links
            links.setdefault(short, nodes.make_id(f"api-{name}"))
        for module in modules:
            self.env.note_dependency(inspect.getsourcefile(module))
        return [self.section(module, known[module.__name__], links) for module in modules]

    def section(self, module: ModuleType, found: list[Entry], links: Mapping[str, str]) -> nodes.Node:
        """A module: its name, its docstring, its entries."""
        name = module.__name__
        here = nodes.section(ids=[nodes.make_id(f"api-{name}")], names=[name])
        here += nodes.title("", "", nodes.literal("", name))
        here += paragraphs(inspect.getdoc(module) or "", links)
        for entry in found:
            part = nodes.section(ids=[entry.id], names=[f"{name}.{entry.name}"])
            part += nodes.title("", "", nodes.literal("", entry.name))
            part += code(signature(entry.definition))
            own = own_names(entry.definition)
            others = {word: to for word, to in links.items() if word not in own}
            part += paragraphs(ast.get_docstring(entry.definition) or "", others)
            part += members(entry, others)
            here += part
        return here


def setup(app: Sphinx) -> dict[str, object]:
    """Register the directive."""
    app.add_directive("api", ApiDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
