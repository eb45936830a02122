"""The peer: D2L's own package, installed beside the project and imported on its own.

It goes into a folder of its own, without its dependencies, because its exact pins would replace the
project's torch and numpy. What is missing then (torchvision, pandas, scipy) is touched only by
parts of d2l that nothing here calls; empty modules stand in for it while d2l is imported.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".bench"
REQUIREMENTS = Path(__file__).with_name("peer-requirements.txt")
STAND_INS = {
    "torchvision": ("transforms",),
    "torchvision.transforms": (),
    "pandas": (),
    "requests": (),
    "scipy": ("spatial",),
    "scipy.spatial": ("distance_matrix",),
    "IPython": ("display",),
    "IPython.display": (),
    "matplotlib_inline": ("backend_inline",),
    "matplotlib_inline.backend_inline": (),
}


def load() -> ModuleType:
    """D2L's PyTorch module, `d2l.torch`, installed into `.bench/` first if it is nowhere.

    The first time needs the network: raises RuntimeError saying what to do when that fails.
    """
    if not installed():
        _install()
    with _importable():
        return importlib.import_module("d2l.torch")


def installed() -> bool:
    """Whether `load` would find d2l without the network."""
    return (FOLDER / "d2l").is_dir() or importlib.util.find_spec("d2l") is not None


def _install() -> None:
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n")
    print(f"Installing d2l into {FOLDER} (once) ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--disable-pip-version-check", "--target", str(FOLDER), "-r", str(REQUIREMENTS)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(
            f"cannot install d2l ({result.stderr.strip()}): check the network, or run "
            f"{' '.join(command)} yourself"
        )


@contextlib.contextmanager
def _importable() -> Iterator[None]:
    """The folder on the path and empty modules for what is missing, both only for a moment."""
    missing = [name for name in STAND_INS if not _there(name)]
    for name in missing:
        module = sys.modules[name] = ModuleType(name)
        module.__path__ = []
        for attribute in STAND_INS[name]:
            setattr(module, attribute, None)
    sys.path.append(str(FOLDER))
    try:
        yield
    finally:
        sys.path.remove(str(FOLDER))
        for name in missing:
            del sys.modules[name]


def _there(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True
