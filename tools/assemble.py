"""Assemble the live detector's kernel: WebAssembly text to bytes, for the part of the language that it uses.

    python tools/assemble.py [--check]

Writes `d2lmini/live/kernel.wasm` from `kernel.wat`; with --check it only compares them. Any WebAssembly
assembler gives the same bytes (wabt's wat2wasm does); this one is here so that the kernel can be changed, and
its source held to what is shipped, with nothing but Python.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "d2lmini" / "live" / "kernel.wat"
TOKEN = re.compile(r'\s+|;;[^\n]*|(\(|\)|"[^"]*"|[^\s()";]+)')
TYPES = {"i32": 0x7F, "f32": 0x7D, "v128": 0x7B}
PLAIN = {
    "select": 0x1B,
    "i32.lt_u": 0x49,
    "i32.gt_s": 0x4A,
    "i32.add": 0x6A,
    "i32.sub": 0x6B,
    "i32.mul": 0x6C,
}
PLAIN |= {"i32.shl": 0x74}
LOCAL = {"local.get": 0x20, "local.set": 0x21, "local.tee": 0x22}
SIMD = {"f32x4.splat": 0x13, "f32x4.add": 0xE4, "f32x4.mul": 0xE6, "f32x4.pmax": 0xEB}
MEMORY = {
    "v128.load": (0x00, 16),
    "v128.load32_splat": (0x09, 4),
    "v128.store": (0x0B, 16),
}  # natural alignment
SHUFFLE, CONSTANT = 0x0D, 0x0C
BLOCK_WITHOUT_RESULT = 0x40

Tree = list  # of strings and trees


def parse(text: str) -> Tree:
    """The one expression of a file, as nested lists of words."""
    stack: list[Tree] = [[]]
    for match in TOKEN.finditer(text):
        word = match[1]
        if word == "(":
            stack.append([])
        elif word == ")":
            done = stack.pop()
            stack[-1].append(done)
        elif word:
            stack[-1].append(word)
    ((tree,),) = stack
    return tree


def unsigned(value: int) -> bytes:
    """A whole number in LEB128, seven bits a byte."""
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def signed(value: int) -> bytes:
    """The same for numbers of either sign."""
    out = b""
    while not -64 <= value < 64:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value & 127])


def vector(items: Sequence[bytes]) -> bytes:
    """How many, then one behind the other."""
    return unsigned(len(items)) + b"".join(items)


def sized(content: bytes) -> bytes:
    return unsigned(len(content)) + content


class Function:
    """One function: its signature, name for exports, and code."""

    def __init__(self, tree: Tree, functions: dict[str, int]) -> None:
        fields = [one for one in tree[1:] if isinstance(one, list)]
        named = {kind: [f[1:] for f in fields if f[0] == kind] for kind in ("param", "local")}
        self.exported = next((f[1].strip('"') for f in fields if f[0] == "export"), None)
        self.params = [TYPES[kind] for _, kind in named["param"]]
        self.locals = [TYPES[kind] for _, kind in named["local"]]
        self.names = {name: i for i, (name, _) in enumerate(named["param"] + named["local"])}
        self.functions, self.labels = functions, []
        body = [f for f in fields if f[0] not in ("export", "param", "local")]
        self.code = b"".join(map(self.assemble, body))

    @property
    def signature(self) -> bytes:
        return b"\x60" + sized(bytes(self.params)) + vector([])

    @property
    def body(self) -> bytes:
        """Its locals, neighbours of one type together, then its code."""
        groups: list[list[int]] = []
        for kind in self.locals:
            if groups and groups[-1][1] == kind:
                groups[-1][0] += 1
            else:
                groups.append([1, kind])
        return sized(vector([unsigned(n) + bytes([kind]) for n, kind in groups]) + self.code + b"\x0b")

    def assemble(self, tree: Tree) -> bytes:
        """A folded instruction: what it takes first, then itself."""
        name, *rest = tree
        words = [one for one in rest if isinstance(one, str)]
        if name == "loop":
            self.labels.append(words[0])
            inner = b"".join(self.assemble(one) for one in rest if isinstance(one, list))
            self.labels.pop()
            return bytes([0x03, BLOCK_WITHOUT_RESULT]) + inner + b"\x0b"
        taken = b"".join(self.assemble(one) for one in rest if isinstance(one, list))
        return taken + self.instruction(name, words)

    def instruction(self, name: str, words: list[str]) -> bytes:
        """An instruction without what it takes."""
        if name in PLAIN:
            return bytes([PLAIN[name]])
        if name in LOCAL:
            return bytes([LOCAL[name]]) + unsigned(self.names[words[0]])
        if name == "i32.const":
            return b"\x41" + signed(int(words[0]))
        if name == "br_if":
            return b"\x0d" + unsigned(self.labels[::-1].index(words[0]))
        if name == "call":
            return b"\x10" + unsigned(self.functions[words[0]])
        return b"\xfd" + self.simd(name, words)

    def simd(self, name: str, words: list[str]) -> bytes:
        """An instruction on 128 bits, less the prefix that all of them have."""
        if name in SIMD:
            return unsigned(SIMD[name])
        if name in MEMORY:
            code, natural = MEMORY[name]
            given = dict(word.split("=") for word in words)
            power = int(given.get("align", natural)).bit_length() - 1
            return unsigned(code) + unsigned(power) + unsigned(int(given.get("offset", 0)))
        if name == "i8x16.shuffle":
            return unsigned(SHUFFLE) + bytes(map(int, words))
        if name == "v128.const" and words[0] == "i32x4":
            return unsigned(CONSTANT) + struct.pack("<4i", *map(int, words[1:]))
        raise ValueError(f"the assembler does not know {name}: add it to tools/assemble.py")


def sections(module: Tree) -> Iterator[tuple[int, bytes]]:
    """Number and content of the module's sections: types, functions, memory, exports, code."""
    trees = [one for one in module[1:] if one[0] == "func"]
    names = {tree[1]: i for i, tree in enumerate(trees) if isinstance(tree[1], str)}
    functions = [Function(tree, names) for tree in trees]
    types = list(dict.fromkeys(f.signature for f in functions))
    ((_, (_, memory), pages),) = (one for one in module[1:] if one[0] == "memory")
    exports = [(memory.strip('"'), b"\x02\x00")]
    exports += [(f.exported, b"\x00" + unsigned(i)) for i, f in enumerate(functions) if f.exported]
    yield 1, vector(types)
    yield 3, vector([unsigned(types.index(f.signature)) for f in functions])
    yield 5, vector([b"\x00" + unsigned(int(pages))])
    yield 7, vector([sized(name.encode()) + what for name, what in exports])
    yield 10, vector([f.body for f in functions])


def assemble(text: str) -> bytes:
    """The bytes of a module in text form. Raises ValueError for an instruction that is not known here."""
    body = b"".join(bytes([number]) + sized(content) for number, content in sections(parse(text)))
    return b"\0asm" + struct.pack("<I", 1) + body


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
