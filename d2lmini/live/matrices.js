// Products of matrices, and passes over maps with their channels side by side: train.wat, or the same in JavaScript.
import { bytesOf64 } from "./bytes.js";

const FUSED = "__TRAIN__", STRICT = "__STRICT__"; // train.wasm and train-strict.wasm in base64, put here when bundled

/**
 * A memory of so many floats and what computes in it. Addresses count floats:
 * `matmul(a, b, c, [m, n, k], add)` is C (m × n) = or += A · B with a = { at, row, column }, b and c = { at, row };
 * n is a multiple of 8, and up to three rows behind C's last are written. `scale` and `dots`: see train.wat.
 * `widen(to, bytes, unit)` makes floats of a Uint8Array.
 */
export async function loadMatrices(floats, { simd = true, binaries = [FUSED, STRICT] } = {}) {
  const room = floats, staging = floats + 2048; // for eight columns of B; for bytes to widen
  for (const binary of simd ? binaries : []) {
    try {
      const pages = Math.ceil(((staging + 2 ** 19) * 4) / 65536), memory = new WebAssembly.Memory({ initial: pages });
      const { instance } = await WebAssembly.instantiate(bytesOf64(binary), { page: { memory } });
      return { name: "WASM SIMD", ...inWasm(instance.exports, memory, 4 * room, 4 * staging) };
    } catch { /* no fused product and sum, no SIMD, or no WebAssembly: the next one */ }
  }
  return { name: "plain JavaScript", ...inScript(new Float32Array(staging)) };
}

const PASSES = ["scale", "dots", "moments", "rectify", "close", "unscale"]; // their last two arguments are counts

function inWasm({ matmul, widen, ...passes }, memory, room, staging) {
  const bytes = new Uint8Array(memory.buffer, staging);
  const inBytes = (pass) => (...given) => {
    for (let i = given.length - 3; i >= 0; i--) given[i] *= 4;
    pass(...given);
  };
  return {
    ...Object.fromEntries(PASSES.map((name) => [name, inBytes(passes[name])])),
    memory: new Float32Array(memory.buffer),
    matmul: (a, b, c, [m, n, k], add = 0) => matmul(
      4 * a.at, 4 * a.row, 4 * a.column, 4 * b.at, 4 * b.row, 4 * c.at, 4 * c.row, m, n, k, add, room),
    widen(to, given, unit) {
      for (let at = 0; at < given.length; at += bytes.length) {
        const piece = given.subarray(at, at + bytes.length);
        bytes.set(piece);
        widen(4 * (to + at), staging, piece.length, unit);
      }
    },
  };
}

function inScript(m) {
  /** Call act(i, c, …addresses) for every number of some pixels, the i-th of all, the c-th of its pixel. */
  const over = (act) => (...given) => {
    const channels = given.pop(), pixels = given.pop();
    for (let i = 0; i < pixels * channels; i++) act(i, i % channels, ...given);
  };
  return {
    memory: m,
    matmul(a, b, c, [rows, columns, depth], add = 0) {
      for (let i = 0; i < rows; i++) {
        const to = m.subarray(c.at + i * c.row, c.at + i * c.row + columns);
        if (!add) to.fill(0);
        for (let k = 0, from = a.at + i * a.row, at = b.at; k < depth; k++, from += a.column, at += b.row) {
          const x = m[from];
          if (x) for (let j = 0; j < columns; j++) to[j] += x * m[at + j];
        }
      }
    },
    scale: over((i, c, to, x, w) => { m[to + i] += m[w + c] * m[x + i]; }),
    dots: over((i, c, sums, x, y) => { m[sums + c] += m[x + i] * m[y + i]; }),
    moments: over((i, c, sums, squares, x) => { m[sums + c] += m[x + i], m[squares + c] += m[x + i] ** 2; }),
    rectify: over((i, c, to, x, by, off) => { m[to + i] = Math.max(0, m[by + c] * m[x + i] + m[off + c]); }),
    close: over((i, c, dy, x, by, off, sums, products) => {
      if (!(m[by + c] * m[x + i] + m[off + c] > 0)) m[dy + i] = 0;
      m[sums + c] += m[dy + i], m[products + c] += m[dy + i] * m[x + i];
    }),
    unscale: over((i, c, dx, dy, x, by, one, off) => { m[dx + i] = m[by + c] * m[dy + i] - m[one + c] * m[x + i] - m[off + c]; }),
    widen(to, given, unit) {
      for (let i = 0; i < given.length; i++) m[to + i] = given[i] * unit;
    },
  };
}
