"""What a measurement ran on, and the files that keep it."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import resource
import sys
from pathlib import Path
from typing import Any

import torch

from d2lmini.engine import devices

RESULTS = Path(__file__).with_name("results")
PACKAGES = ("torch", "numpy", "d2l", "d2lmini")


def today() -> str:
    """The date as 2026-01-31."""
    return datetime.date.today().isoformat()


def describe() -> dict[str, Any]:
    """Machine, threads and versions, as they go into a result file."""
    return {
        **devices.describe(),
        "threads": torch.get_num_threads(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str | None:
    if name == "torch":
        return torch.__version__
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        module = sys.modules.get(name)
        return getattr(module, "__version__", None)


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes.

    Linux counts into `ru_maxrss` what the process was before exec, that is, its parent's memory.
    """
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def minor_faults() -> int:
    """How many pages of memory the kernel has handed to this process so far (on first touch)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Keep a result; the folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_plain(content), indent=2, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    """The same with five digits, which is more than a measurement has, and None for NaN."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
