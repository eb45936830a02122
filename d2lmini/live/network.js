// The whole forward pass of the detector: pixels in, logits and offsets of every anchor out.
//
// Feature maps lie one behind the other in a single long array of floats. Each has a rim of zeros, one
// pixel wide, which is the padding that the next convolution wants; rows are a multiple of eight pixels
// long, so that the SIMD kernel never needs a remainder. Nothing is overwritten within a pass: after it
// every map can be looked at, and a test compares each with PyTorch's.

const up = (n, step) => Math.ceil(n / step) * step;

/** A map of this shape from `at` on; rows are `stride` floats apart, channels `plane`. */
function mapAt(at, channels, height, width) {
  const stride = up(width, 8) + 2;
  const plane = stride * (height + 2);
  return { at, channels, height, width, stride, plane, end: at + up(channels, 4) * plane };
}

/** Lay out a model's layer plan: its steps, each with the maps that it reads and writes, and the floats that all take. */
export function layOut({ plan, size, classes }) {
  let free = 0, read = 0;
  const map = (...shape) => {
    const made = mapAt(free, ...shape);
    free = made.end;
    return made;
  };
  /** Filters come four outputs together (see `placeWeights`), so that number is filled up. */
  const filters = (inputs, outputs) => {
    const made = { at: free, read, inputs, outputs, bias: free + up(outputs, 4) * inputs * 9 };
    free = made.bias + up(outputs, 4);
    read += outputs * (inputs * 9 + 1);
    return made;
  };
  const image = map(3, ...size);
  const steps = [];
  let from = image, anchors = 0;
  const convolution = (outputs, more) => {
    const to = map(outputs, from.height, from.width);
    steps.push({ op: "conv", from, to, filters: filters(from.channels, outputs), ...more });
    return to;
  };
  for (const layer of plan) {
    if (layer.op === "conv") {
      from = convolution(layer.outputs, { relu: true });
    } else if (layer.op === "heads") { // two convolutions that leave the newest map as it is
      const first = anchors;
      convolution(layer.anchors * (classes.length + 1), { relu: false, read: "logits", values: classes.length + 1, first });
      convolution(layer.anchors * 4, { relu: false, read: "offsets", values: 4, first });
      anchors += from.height * from.width * layer.anchors;
    } else {
      const whole = layer.op === "global";
      const [down, across] = whole ? [from.height, from.width] : [2, 2];
      const to = map(from.channels, Math.floor(from.height / down), Math.floor(from.width / across));
      steps.push({ op: "pool", from, to, down, across });
      from = to;
    }
  }
  return { image, steps, anchors, floats: free, weights: read };
}

/** Copy filters (outputs, inputs, 3, 3) and biases into place: of every weight, four outputs side by side. */
export function placeWeights(memory, layout, weights) {
  if (weights.length !== layout.weights) {
    throw new Error(`the layer plan needs ${layout.weights} weights, the file holds ${weights.length}`);
  }
  for (const { filters } of layout.steps) {
    if (!filters) continue;
    const { at, read, inputs, outputs, bias } = filters;
    const taps = inputs * 9;
    for (let o = 0; o < outputs; o++) {
      const start = at + (o - (o % 4)) * taps + (o % 4);
      for (let t = 0; t < taps; t++) memory[start + 4 * t] = weights[read + o * taps + t];
      memory[bias + o] = weights[read + outputs * taps + o];
    }
  }
}

/** Pixels RGBA, 0 to 255, into the first map, normalised as `model.normalise` does. */
export function writePixels(memory, image, rgba, { mean, std }) {
  const scale = Math.fround(1 / (255 * std)), shift = Math.fround(mean / std);
  const value = Float32Array.from({ length: 256 }, (_, byte) => Math.fround(byte * scale) - shift);
  for (let c = 0; c < 3; c++) {
    for (let y = 0; y < image.height; y++) {
      const row = image.at + c * image.plane + (y + 1) * image.stride + 1;
      const source = y * image.width * 4 + c;
      for (let x = 0; x < image.width; x++) memory[row + x] = value[rgba[source + 4 * x]];
    }
  }
}

/** 3 × 3 convolution (and ReLU) in plain JavaScript: four outputs and two neighbouring pixels at a time. */
export function convolve(memory, { from, to, filters, relu }) {
  const { inputs, at: weightsAt, bias } = filters, floor = relu ? 0 : -Infinity, m = memory;
  for (let o = 0; o < to.channels; o += 4) {
    for (let y = 0; y < to.height; y++) {
      for (let x = 0; x < to.width; x += 2) {
        let a = m[bias + o], b = m[bias + o + 1], c = m[bias + o + 2], d = m[bias + o + 3];
        let e = a, f = b, g = c, h = d; // the same for the pixel to the right
        let w = weightsAt + o * inputs * 9;
        for (let i = 0; i < inputs; i++) {
          let p = from.at + i * from.plane + y * from.stride + x;
          for (let row = 0; row < 3; row++, p += from.stride, w += 12) {
            const p0 = m[p], p1 = m[p + 1], p2 = m[p + 2], p3 = m[p + 3];
            let u = m[w], v = m[w + 4], z = m[w + 8];
            a += u * p0 + v * p1 + z * p2;
            e += u * p1 + v * p2 + z * p3;
            u = m[w + 1], v = m[w + 5], z = m[w + 9];
            b += u * p0 + v * p1 + z * p2;
            f += u * p1 + v * p2 + z * p3;
            u = m[w + 2], v = m[w + 6], z = m[w + 10];
            c += u * p0 + v * p1 + z * p2;
            g += u * p1 + v * p2 + z * p3;
            u = m[w + 3], v = m[w + 7], z = m[w + 11];
            d += u * p0 + v * p1 + z * p2;
            h += u * p1 + v * p2 + z * p3;
          }
        }
        const q = to.at + o * to.plane + (y + 1) * to.stride + x + 1;
        m[q] = Math.max(a, floor), m[q + 1] = Math.max(e, floor);
        m[q + to.plane] = Math.max(b, floor), m[q + to.plane + 1] = Math.max(f, floor);
        m[q + 2 * to.plane] = Math.max(c, floor), m[q + 2 * to.plane + 1] = Math.max(g, floor);
        m[q + 3 * to.plane] = Math.max(d, floor), m[q + 3 * to.plane + 1] = Math.max(h, floor);
      }
    }
  }
}

/** Zero what was written to the right of a map: a step works on two, four or eight pixels at a time. */
export function mendRim(memory, { at, channels, height, width, stride, plane }) {
  if (width % 8 === 0) return;
  for (let c = 0; c < up(channels, 4); c++) {
    for (let y = 1; y <= height; y++) {
      const row = at + c * plane + y * stride;
      memory.fill(0, row + width + 1, row + stride);
    }
  }
}

/** The largest value of every `down` × `across` pixels; an odd row or column at the end is left out. */
export function pool(memory, { from, to, down, across }) {
  for (let c = 0; c < to.channels; c++) {
    for (let y = 0; y < to.height; y++) {
      for (let x = 0; x < to.width; x++) {
        let largest = -Infinity;
        for (let j = 0; j < down; j++) {
          const row = from.at + c * from.plane + (y * down + j + 1) * from.stride + x * across + 1;
          for (let i = 0; i < across; i++) {
            const value = memory[row + i];
            if (value > largest) largest = value; // Math.max, which minds NaN and −0, takes four times as long
          }
        }
        memory[to.at + c * to.plane + (y + 1) * to.stride + x + 1] = largest;
      }
    }
  }
}

/** A head's map, one row of `values` for each anchor: pixel by pixel, then the anchors of a pixel. */
function readHead(memory, map, values, target, first) {
  let at = first * values;
  for (let y = 0; y < map.height; y++) {
    for (let x = 0; x < map.width; x++) {
      const pixel = map.at + (y + 1) * map.stride + x + 1;
      for (let c = 0; c < map.channels; c++) target[at++] = memory[pixel + c * map.plane];
    }
  }
}

/**
 * One image through the network: rgba, as many bytes as `size` asks for, to { logits, offsets }.
 *
 * `kernel` may bring faster versions of `convolve` and `pool` (simd.js); `pause` is awaited between layers
 * where the page has to stay alive, and is left out in a worker.
 */
export async function forward(memory, layout, model, rgba, { kernel, pause } = {}) {
  const answers = {
    logits: new Float32Array(layout.anchors * (model.classes.length + 1)),
    offsets: new Float32Array(layout.anchors * 4),
  };
  writePixels(memory, layout.image, rgba, model.pixels);
  for (const step of layout.steps) {
    if (pause) await pause();
    if (step.op === "conv") (kernel?.convolve ?? convolve)(memory, step);
    else if (step.down === 2 && step.across === 2) (kernel?.pool ?? pool)(memory, step);
    else pool(memory, step); // the whole map, once
    mendRim(memory, step.to);
    if (step.read) readHead(memory, step.to, step.values, answers[step.read], step.first);
  }
  return answers;
}
