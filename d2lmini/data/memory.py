"""How much memory is left: decides whether a data set is loaded or read from disk again and again."""

from __future__ import annotations

import os


def free_memory() -> int | None:
    """Bytes that this process may still use: the system's, or what its container leaves; None: unknown."""
    room = [_system_memory(), _container_memory()]
    return min((value for value in room if value is not None), default=None)


def _system_memory() -> int | None:
    try:
        with open("/proc/meminfo") as file:
            rows = dict(line.split(":", 1) for line in file)
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _container_memory(root: str = "/sys/fs/cgroup") -> int | None:
    """What a control group (version 2, or 1) leaves; None where there is none or it sets no limit."""
    for most, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            with open(f"{root}/{most}") as a, open(f"{root}/{used}") as b:
                return max(0, int(a.read()) - int(b.read()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return None
