// The operations of kernel.wat, where WebAssembly with SIMD is to be had.
import { bytesOf64 } from "./bytes.js";

const KERNEL = "__KERNEL__"; // kernel.wasm in base64, put here when the modules are bundled

/** The kernel and a memory of so many floats, or null where a browser or a page's rules refuse WebAssembly. */
export async function loadKernel(floats, base64 = KERNEL) {
  try {
    const { instance } = await WebAssembly.instantiate(bytesOf64(base64));
    const { memory, convolve, mix, each, pool } = instance.exports;
    memory.grow(Math.ceil((floats * 4) / 65536));
    return {
      memory: new Float32Array(memory.buffer),
      conv: (_, step) => runConvolution(convolve, step),
      mix: (_, step) => runMix(mix, step),
      each: (_, step) => runEach(each, step),
      pool: (_, step) => runPool(pool, step),
    };
  } catch {
    return null;
  }
}

const inBytes = (...places) => places.map((at) => 4 * at);

function runConvolution(convolve, { from, to, filters, floor }) {
  const shape = [from.channels, to.channels, to.height, to.width];
  const addresses = inBytes(from.at, to.at, filters.at, filters.bias);
  convolve(...addresses, ...shape, ...inBytes(from.stride, from.plane), floor);
}

function runMix(mix, { from, to, filters, floor, ceiling }) {
  const addresses = inBytes(from.at + from.stride, to.at + to.stride, filters.at, filters.bias);
  mix(...addresses, from.channels, to.channels, to.height * to.stride, 4 * from.plane, floor, ceiling);
}

/** At stride 1 all rows are one, rims and all: they lie behind each other in both maps. */
function runEach(each, { from, to, filters, stride, before, floor, ceiling }) {
  const first = from.at + (1 - before[0]) * from.stride + 1 - before[1], target = to.at + to.stride + 1;
  const rows = stride === 1 ? [1, to.height * to.stride - 1] : [to.height, to.width];
  const strides = inBytes(from.stride, from.plane, to.stride, to.plane);
  each(...inBytes(first, target, filters.at, filters.bias), to.channels, ...rows, ...strides, stride, floor, ceiling);
}

function runPool(pool, { from, to }) {
  const shape = [to.channels, to.height, to.width];
  pool(...inBytes(from.at, to.at), ...shape, ...inBytes(from.stride, from.plane, to.stride, to.plane));
}
