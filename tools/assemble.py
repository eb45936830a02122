"""Assemble the live detector's kernel: WebAssembly text to bytes, with wasmtime's assembler.

    python tools/assemble.py [--check]

Writes `d2lmini/live/kernel.wasm` from `kernel.wat`; with --check it only compares them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from wasmtime import Engine, Module, WasmtimeError, wat2wasm

SOURCE = Path(__file__).resolve().parents[1] / "d2lmini" / "live" / "kernel.wat"
HEADER, CUSTOM = 8, 0  # bytes before the first section; the id of sections such as debug names


def assemble(text: str) -> bytes:
    """The bytes of a module in text form, less its debug names. Raises ValueError for faulty text."""
    try:
        made = bytes(wat2wasm(text))
        Module.validate(Engine(), made)
    except WasmtimeError as error:
        raise ValueError(f"the kernel's source is faulty: {error}") from error
    kept, at = made[:HEADER], HEADER
    while at < len(made):
        start, size, shift = at, 0, 0
        while True:  # LEB128, seven bits a byte
            at += 1
            size, shift = size | (made[at] & 127) << shift, shift + 7
            if made[at] < 128:
                break
        at += 1 + size
        kept += made[start:at] if made[start] != CUSTOM else b""
    return kept


def main() -> int:
    """Assemble or check; return the exit code."""
    target = SOURCE.with_suffix(".wasm")
    made = assemble(SOURCE.read_text("utf8"))
    if "--check" in sys.argv[1:]:
        same = target.read_bytes() == made
        print("the same" if same else f"{target.name} is not what {SOURCE.name} says", file=sys.stderr)
        return 0 if same else 1
    target.write_bytes(made)
    print(f"{target}: {len(made)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
