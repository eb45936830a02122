// The network in the reader's browser: weights from text to floats, and the fastest convolution that is allowed.
import { forward, layOut, placeWeights } from "./network.js";
import { bytesOf64 } from "./bytes.js";
import { loadKernel } from "./simd.js";

/** float16, as whole numbers of 16 bits, to float32. */
export function fromHalf(halves) {
  const every = Float32Array.from({ length: 2 ** 16 }, (_, bits) => {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    return sign * (exponent ? 2 ** (exponent - 25) * (1024 + fraction) : fraction * 2 ** -24);
  });
  const out = new Float32Array(halves.length);
  for (let i = 0; i < out.length; i++) out[i] = every[halves[i]]; // millions: ten times as fast as Float32Array.from
  return out;
}

/**
 * All weights of a model in the order of its plan. Of nine bits, as `plan.flat_weights` writes them, some filters
 * are whole numbers: the upper bits in `high`, the lowest in `low`, with a scale for each output.
 */
export function unpack(model, layout) {
  const halves = fromHalf(new Uint16Array(bytesOf64(model.weights).buffer));
  if (model.bits !== 9) return halves;
  const high = new Int8Array(bytesOf64(model.high).buffer), low = bytesOf64(model.low), out = new Float32Array(layout.weights);
  let at = 0, half = 0, whole = 0;
  for (const { filters } of layout.steps) {
    if (!filters) continue;
    const { outputs, taps, each, inputs } = filters;
    if (each || inputs <= 3) {
      out.set(halves.subarray(half, half + outputs * (taps + 1)), at);
      at += outputs * (taps + 1), half += outputs * (taps + 1);
      continue;
    }
    for (let o = 0; o < outputs; o++) {
      for (let t = 0; t < taps; t++, whole++) {
        out[at++] = (2 * high[whole] + ((low[whole >> 3] >> (whole & 7)) & 1)) * halves[half + o];
      }
    }
    out.set(halves.subarray(half + outputs, half + 2 * outputs), at);
    at += outputs, half += 2 * outputs;
  }
  return out;
}

/** A model, as `export.browser_model` writes it, made ready: { name, run(rgba) → { logits, offsets } }. */
export async function makeEngine(model, { simd = true, pause } = {}) {
  const layout = layOut(model);
  const kernel = simd ? await loadKernel(layout.floats) : null;
  const memory = kernel?.memory ?? new Float32Array(layout.floats);
  placeWeights(memory, layout, unpack(model, layout));
  return {
    name: kernel ? "WASM SIMD" : "plain JavaScript",
    memory,
    layout,
    run: (rgba, steps) => forward(memory, layout, model, rgba, { kernel, pause, steps }),
  };
}

/** What a worker does: the first message is the model, every further one an image. */
export function serve(port) {
  let engine;
  port.onmessage = async ({ data }) => {
    try {
      if (data.model) {
        engine = await makeEngine(data.model, data.options);
        port.postMessage({ ready: engine.name });
        return;
      }
      const start = performance.now();
      const answers = await engine.run(data.rgba);
      const message = { id: data.id, ...answers, ms: performance.now() - start };
      port.postMessage(message, [answers.logits.buffer, answers.offsets.buffer]);
    } catch (error) {
      port.postMessage({ id: data.id, error: error.message });
    }
  };
}
