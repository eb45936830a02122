"""The machine underneath: device, precision, memory and determinism."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

PRECISIONS = ("auto", "float32", "bfloat16")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # numbers of glibc's malloc.h


def pick_device(name: str = "auto") -> torch.device:
    """The named device; "auto" takes CUDA, then MPS, then the CPU.

    Raises ValueError for an unknown name and for a device this machine does not have.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(d for d in ("cuda", "mps", "cpu") if present[d]))
    kind = name.split(":")[0]
    if kind not in present:
        raise ValueError(f"device is {name!r}: choose from auto, {', '.join(present)}")
    if not present[kind]:
        raise ValueError(f"device {name!r} was asked for, but this machine has none: use auto or cpu")
    return torch.device(name)


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The type convolutions are computed in; "auto" takes bfloat16 where the hardware multiplies it."""
    if name not in PRECISIONS:
        raise ValueError(f"precision is {name!r}: choose from {PRECISIONS}")
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        multiplies = torch.cuda.get_device_capability(device)[0] >= 8
    else:  # a CPU without such instructions is slower in bfloat16 than in float32
        known = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
        multiplies = known.get("avx512_bf16") or known.get("amx_bf16")
    return torch.bfloat16 if multiplies else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Mixed precision for the convolutions, or nothing for float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def disable_malloc_trim() -> bool:
    """Let glibc keep large buffers instead of giving them back to the kernel after every step.

    Faulting the same memory in again takes about as long as all the rest of a training step on a CPU.
    The price: memory once used stays with the process. Does nothing (False) where the C library is not
    glibc. Call it before the first large tensor.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return False
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


@contextmanager
def deterministic(wanted: bool = True) -> Iterator[None]:
    """Within, equal work on one device gives equal bits; an operator that cannot do so raises.

    On a CPU that is so anyway, for one number of threads. On a GPU it takes slower algorithms, and no search
    for the fastest convolution. Other devices, versions, threads or ranks add in another order, and differ.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    torch.use_deterministic_algorithms(wanted or before[0], warn_only=not wanted and warn_only)
    torch.backends.cudnn.benchmark = not (wanted or before[0])
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=warn_only)
        torch.backends.cudnn.benchmark = before[1]


def describe() -> dict[str, str | int]:
    """The machine in a few words, for the record beside every measured number."""
    cpu = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            cpu = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), cpu)
    except OSError:
        pass
    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 1,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
    }
