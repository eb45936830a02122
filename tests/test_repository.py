"""The habits of the repository: layers of the package, pins and bounds, addresses, the Makefile."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "d2lmini"
PYTHON_FOLDERS = ("d2lmini", "tests", "tools", "benchmarks", "experiments", "_ext")

# A room (a module or a folder of the package) imports only from its own layer and those before it.
LAYERS = (
    "boxes anchors live",
    "model mobilenet matching data",
    "checkpoint losses detect compare evaluate errors",
    "engine",
    "train transfer",
    "inspect plots interop widgets",
    "cli __main__",
)
MOST_LINES, MOST_TOP_FILES, MOST_TOP_LINES = 400, 16, 2_900
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def module_name(path: Path) -> str:
    """`d2lmini/data/__init__.py` is d2lmini.data, `d2lmini/boxes.py` is d2lmini.boxes."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf8"), filename=str(path))


def imported(path: Path) -> Iterator[str]:
    """Yield every absolute dotted name that a file imports, wherever in the file it does so."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def own_imports(path: Path, names: set[str]) -> set[str]:
    """Return the modules of the package that a file imports, each by its longest known name."""
    found = set()
    for name in imported(path):
        while name.startswith("d2lmini") and name not in names:
            name = name.rpartition(".")[0]
        if name.startswith("d2lmini"):
            found.add(name)
    return found - {module_name(path)}


def import_graph() -> dict[str, set[str]]:
    names = {module_name(path) for path in MODULES} | {"d2lmini"}
    return {module_name(path): own_imports(path, names) for path in MODULES}


# ---------------------------------------------------------------- the package


def test_imports_only_go_down():
    layer = {room: i for i, rooms in enumerate(LAYERS) for room in rooms.split()}
    wrong = [
        f"{name} imports {target}"
        for name, targets in import_graph().items()
        for target in targets
        if target == "d2lmini" or layer[target.split(".")[1]] > layer[name.split(".")[1]]
    ]
    assert not wrong


def test_the_package_stays_small():
    lines = {path: len(path.read_text("utf8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {str(path): n for path, n in lines.items() if n > MOST_LINES}
    top = [path for path in lines if path.parent == PACKAGE]
    assert len(top) <= MOST_TOP_FILES
    assert sum(lines[path] for path in top) <= MOST_TOP_LINES


def test_no_import_cycle():
    graph = import_graph()
    assert set(TopologicalSorter(graph).static_order()) >= graph.keys()  # raises CycleError


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_module_reads_nothing_that_could_run(path):
    """Weights travel as safetensors, XML is parsed by defusedxml, and torchvision is never needed."""
    names = set(imported(path)) - {"xml.etree.ElementTree.Element", "xml.etree.ElementTree.ParseError"}
    forbidden = {"torchvision", "pickle", "dill", "joblib", "shelve", "marshal", "xml", "lxml"}
    assert not {name.split(".")[0] for name in names} & forbidden
    nodes = list(ast.walk(parsed(path)))
    dotted = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
    assert not dotted & {"torch.load", "torch.save", "np.load", "numpy.load"}
    assert not {"torch.load", "torch.save", "numpy.load"} & names


def test_only_the_package_is_installed():
    """What is installed is d2lmini and nothing beside it."""
    found = importlib.metadata.distribution("d2lmini").read_text("top_level.txt")
    assert found is not None
    assert found.split() == ["d2lmini"]


@pytest.mark.parametrize("folder", PYTHON_FOLDERS)
def test_python_310_can_parse_everything(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        ast.parse(path.read_text("utf8"), filename=str(path), feature_version=(3, 10))


# ---------------------------------------------------------------- pins and bounds


# Extras that the book and its tests can do without: timm would bring torchvision, and that another torch.
NOT_LOCKED = {"timm"}


def locked() -> list[Requirement]:
    lines = (ROOT / "requirements.txt").read_text("utf8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def pins(version: str) -> dict[str, str]:
    """Return the versions that the lock holds for one version of Python on Linux."""
    environment = {
        "python_version": version.rpartition(".")[0],
        "python_full_version": version,
        "sys_platform": "linux",
    }
    chosen = [r for r in locked() if r.marker is None or r.marker.evaluate(environment)]
    names = [canonicalize_name(r.name) for r in chosen]
    assert len(set(names)) == len(names), f"a package is pinned twice for Python {version}"
    return {n: next(iter(r.specifier)).version for n, r in zip(names, chosen, strict=True)}


def bounds() -> list[Requirement]:
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in [*PROJECT["dependencies"], *extras]]


def test_lock_pins_exactly():
    for requirement in locked():
        operators = [specifier.operator for specifier in requirement.specifier]
        assert operators == ["=="], f"{requirement} is not an exact pin"
        assert "+" not in str(requirement.specifier), f"{requirement}: a local version is not on PyPI"


def test_package_has_lower_bounds_only():
    for requirement in bounds():
        operators = [specifier.operator for specifier in requirement.specifier]
        assert operators == [">="], f"{requirement} would replace what Colab has installed"


@pytest.mark.parametrize("version", ["3.10.0", "3.11.0", "3.11.9", "3.12.1", "3.13.0"])
def test_pins_satisfy_the_bounds(version):
    chosen = pins(version)
    for requirement in bounds():
        if canonicalize_name(requirement.name) in NOT_LOCKED:
            continue
        assert requirement.specifier.contains(chosen[canonicalize_name(requirement.name)])


def test_lock_is_closed():
    """Whatever a pinned package needs on this machine is pinned too, but for CUDA's libraries."""
    chosen = {canonicalize_name(r.name) for r in locked()}
    needed = set()
    for requirement in locked():
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        for line in importlib.metadata.requires(requirement.name) or []:
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                needed.add(canonicalize_name(need.name))
    cuda = re.compile(r"nvidia-|cuda-|triton")
    assert not {name for name in needed - chosen if not cuda.match(name)}


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf8"))
    assert citation["version"] == PROJECT["version"]
    source = parsed(PACKAGE / "__init__.py")
    stated = [
        ast.literal_eval(node.value)
        for node in source.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
    ]
    assert stated in ([], [PROJECT["version"]])


# ---------------------------------------------------------------- addresses


def repository() -> str:
    """Return owner/name as _config.yml, the one place to change it, says."""
    url = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))["repository"]["url"]
    return url.removeprefix("https://github.com/")


def texts() -> list[Path]:
    chapters = [p for p in (ROOT / "chapters").rglob("*") if p.suffix in (".md", ".ipynb")]
    return [ROOT / "pyproject.toml", *sorted(ROOT.glob("*.md")), *chapters, ROOT / "CITATION.cff"]


@pytest.mark.parametrize("name", ["README.md", "CITATION.cff", "pyproject.toml"])
def test_address_is_given(name):
    assert f"https://github.com/{repository()}" in (ROOT / name).read_text("utf8")


@pytest.mark.parametrize("path", texts(), ids=lambda path: path.name)
def test_address_is_the_same_everywhere(path):
    name = repository().split("/")[1]
    seen = re.findall(rf"github(?:\.com)?[/:]([\w.-]+/{name})(?![\w-])", path.read_text("utf8"))
    assert {one.removesuffix(".git") for one in seen} <= {repository()}


# ---------------------------------------------------------------- make


@pytest.fixture
def clone(tmp_path):
    """A folder with what make needs to set up .venv, and nothing else."""
    (tmp_path / "tools").mkdir()
    for name in ("Makefile", "requirements.txt", "pyproject.toml", "tools/setup_venv"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, timeout=60)


def test_make_lists_every_target(clone):
    makefile = (ROOT / "Makefile").read_text("utf8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split()
    shown = make(clone)
    assert shown.returncode == 0
    listed = re.findall(r"^  (\w+) +\S", shown.stdout, re.M)
    assert sorted(listed) == sorted(set(phony) - {"venv"})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("case $* in *version_info*) exit 1;; --version) echo Python 3.8.1;; esac", "Python 3.8.1"),
        ("case $* in *ensurepip*) exit 1;; esac", "python3-venv"),
    ],
    ids=["too old", "no venv"],
)
def test_make_explains_an_unfit_python(clone, body, message):
    python = clone / "python-of-the-test"
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)
    done = make(clone, "book", f"PYTHON={python}")
    assert done.returncode != 0
    assert message in done.stderr
    assert not (clone / ".venv").exists()


def test_make_explains_a_missing_python(clone):
    done = make(clone, "book", "PYTHON=python-that-is-not-there")
    assert done.returncode != 0
    assert "PYTHON=" in done.stderr
