"""Assemble what the page computes with: WebAssembly text to bytes, with wasmtime's assembler.

    python tools/assemble.py [--check]

Writes the .wasm files of `d2lmini/live/` from kernel.wat and train.wat; with --check it only compares them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from wasmtime import Engine, Module, WasmtimeError, wat2wasm

LIVE = Path(__file__).resolve().parents[1] / "d2lmini" / "live"
# (fma a b c) is a · b + c, in one operation where a browser has that, or else in two.
FMA = re.compile(r"\(fma {0} {0} {0}\)".format(r"(\(local\.get \$\w+\))"))
FUSED, STRICT = r"(f32x4.relaxed_madd \1 \2 \3)", r"(f32x4.add (f32x4.mul \1 \2) \3)"
MADE = {  # of each file its source, and what takes the place of fma
    "kernel.wasm": ("kernel.wat", STRICT),
    "train.wasm": ("train.wat", FUSED),
    "train-strict.wasm": ("train.wat", STRICT),
}
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


def make(name: str) -> bytes:
    """The bytes of one of the files of `MADE`."""
    source, fma = MADE[name]
    return assemble(FMA.sub(fma, (LIVE / source).read_text("utf8")))


def main() -> int:
    """Assemble or check; return the exit code."""
    code = 0
    for name, (source, _) in MADE.items():
        target, made = LIVE / name, make(name)
        if "--check" not in sys.argv[1:]:
            target.write_bytes(made)
            print(f"{target}: {len(made)} bytes")
        elif target.read_bytes() != made:
            print(f"{name} is not what {source} says", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
