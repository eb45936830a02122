// The convolution of kernel.wat, where WebAssembly with SIMD is to be had.
import { bytesOf64 } from "./bytes.js";

const KERNEL = "__KERNEL__"; // kernel.wasm in base64, put here when the modules are bundled

/** The kernel and a memory of so many floats, or null where a browser or a page's rules refuse WebAssembly. */
export async function loadKernel(floats, base64 = KERNEL) {
  try {
    const { instance } = await WebAssembly.instantiate(bytesOf64(base64));
    const { memory, convolve, pool } = instance.exports;
    memory.grow(Math.ceil((floats * 4) / 65536));
    return {
      memory: new Float32Array(memory.buffer),
      convolve: (_, step) => runConvolution(convolve, step),
      pool: (_, step) => runPool(pool, step),
    };
  } catch {
    return null;
  }
}

const inBytes = (...places) => places.map((at) => 4 * at);

function runConvolution(convolve, { from, to, filters, relu }) {
  const shape = [filters.inputs, to.channels, to.height, to.width];
  const addresses = inBytes(from.at, to.at, filters.at, filters.bias);
  convolve(...addresses, ...shape, ...inBytes(from.stride, from.plane), relu ? 0 : -Infinity);
}

function runPool(pool, { from, to }) {
  const shape = [to.channels, to.height, to.width];
  pool(...inBytes(from.at, to.at), ...shape, ...inBytes(from.stride, from.plane, to.stride, to.plane));
}
