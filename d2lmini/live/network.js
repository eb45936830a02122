// The whole forward pass of a detector: pixels in, logits and offsets of every anchor out.
//
// Feature maps lie one behind the other in a single long array of floats. Each has a rim of zeros, one pixel
// wide, which is the padding that a 3 × 3 convolution wants. Steps work on two, four or eight pixels at a time
// and may write over the rim and a little behind the map: there is room for that, and `mendRim` zeroes it.
// Nothing else is overwritten within a pass: after it every map can be looked at, and a test compares each with
// PyTorch's.

/** A number of things, filled up to whole steps. */
export const up = (n, step) => Math.ceil(n / step) * step;
const ROOM = 8; // floats behind a channel, for what is written too far

/** A map of this shape from `at` on; rows are `stride` floats apart, channels `plane`. */
function mapAt(at, channels, height, width) {
  const stride = width + 2, plane = stride * (height + 2) + ROOM;
  return { at, channels, height, width, stride, plane, end: at + up(channels, 4) * plane };
}

/** Lay out a model's layer plan: its steps, each with the maps that it reads and writes, and the floats that all take. */
export function layOut({ plan, size, classes }) {
  let free = 0, read = 0, anchors = 0;
  const map = (...shape) => {
    const made = mapAt(free, ...shape);
    free = made.end;
    return made;
  };
  /** `taps` weights for each output: four outputs together (see `placeWeights`), so that number is filled up. */
  const filters = (inputs, outputs, taps, each) => {
    const rows = up(outputs, 4), made = { at: free, read, inputs, outputs, taps, each, bias: free + rows * taps };
    free = made.bias + rows;
    read += outputs * (taps + 1);
    return made;
  };
  const steps = [], maps = [map(3, ...size)];
  /** The steps of a convolution: at stride 2 every pixel's taps are laid side by side first, and then mixed. */
  const convolution = (from, { outputs, kernel = 3, stride = 1, before = [1, 1], each = false, relu = true, most = Infinity }, more = {}) => {
    const taps = kernel * kernel * (each ? 1 : from.channels), shape = [Math.ceil(from.height / stride), Math.ceil(from.width / stride)];
    let op = each ? "each" : kernel === 1 ? "mix" : "conv", source = from;
    if (op === "conv" && stride === 2) {
      source = map(9 * from.channels, ...shape);
      steps.push({ op: "spread", from, to: source, before });
      op = "mix";
    }
    const to = map(outputs, ...shape);
    steps.push({ op, from: source, to, stride, before, filters: filters(from.channels, outputs, taps, each), floor: relu ? 0 : -Infinity, ceiling: most, ...more });
    return to;
  };
  for (const layer of plan) {
    const from = maps[layer.from ?? maps.length - 1];
    if (layer.op === "heads") { // two convolutions that leave their map as it is
      const head = (values, name) => convolution(
        from, { outputs: layer.anchors * values, kernel: layer.kernel, relu: false }, { read: name, values, first: anchors });
      head(classes.length + 1, "logits");
      head(4, "offsets");
      anchors += from.height * from.width * layer.anchors;
    } else if (layer.op === "conv") {
      maps.push(convolution(from, layer));
    } else {
      const whole = layer.op === "global", [down, across] = whole ? [from.height, from.width] : [2, 2];
      const same = layer.op === "enlarge" ? [layer.height, layer.width] : [from.height, from.width];
      const pooled = [Math.floor(from.height / down), Math.floor(from.width / across)];
      const pools = whole || layer.op === "pool";
      const to = map(from.channels, ...(pools ? pooled : same));
      steps.push({ op: pools ? "pool" : layer.op, from, to, down, across, and: maps[layer.and] });
      maps.push(to);
    }
  }
  return { image: maps[0], maps, steps, anchors, floats: free, weights: read };
}

/** Copy filters (outputs, taps) and biases into place: of every weight, four outputs side by side. */
export function placeWeights(memory, layout, weights) {
  if (weights.length !== layout.weights) {
    throw new Error(`the layer plan needs ${layout.weights} weights, the file holds ${weights.length}`);
  }
  for (const { filters } of layout.steps) {
    if (!filters) continue;
    const { at, read, outputs, taps, each, bias } = filters;
    for (let o = 0; o < outputs; o++) {
      const [start, apart] = each ? [at + o * taps, 1] : [at + (o - (o % 4)) * taps + (o % 4), 4];
      for (let t = 0; t < taps; t++) memory[start + apart * t] = weights[read + o * taps + t];
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

/** 3 × 3 convolution in plain JavaScript: four outputs and two neighbouring pixels at a time. */
export function convolve(memory, { from, to, filters, floor }) {
  const { at: weightsAt, bias } = filters, inputs = from.channels, m = memory;
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

/** 1 × 1 convolution: a matrix product, all pixels (rims too) in a row; four outputs and two pixels at a time. */
export function mix(memory, { from, to, filters, floor, ceiling }) {
  const { at: weightsAt, bias, taps } = filters, m = memory, last = to.stride * (to.height + 1);
  const bound = (value) => Math.min(Math.max(value, floor), ceiling);
  for (let o = 0; o < to.channels; o += 4) {
    for (let x = to.stride; x < last; x += 2) {
      let a = m[bias + o], b = m[bias + o + 1], c = m[bias + o + 2], d = m[bias + o + 3];
      let e = a, f = b, g = c, h = d;
      let w = weightsAt + o * taps, p = from.at + x;
      for (let i = 0; i < taps; i++, p += from.plane, w += 4) {
        const p0 = m[p], p1 = m[p + 1];
        a += m[w] * p0, e += m[w] * p1;
        b += m[w + 1] * p0, f += m[w + 1] * p1;
        c += m[w + 2] * p0, g += m[w + 2] * p1;
        d += m[w + 3] * p0, h += m[w + 3] * p1;
      }
      const q = to.at + o * to.plane + x;
      m[q] = bound(a), m[q + 1] = bound(e);
      m[q + to.plane] = bound(b), m[q + to.plane + 1] = bound(f);
      m[q + 2 * to.plane] = bound(c), m[q + 2 * to.plane + 1] = bound(g);
      m[q + 3 * to.plane] = bound(d), m[q + 3 * to.plane + 1] = bound(h);
    }
  }
}

/** 3 × 3 convolution of each channel by a filter of its own, at stride 1 or 2. */
export function filterEach(memory, { from, to, filters, stride, before, floor, ceiling }) {
  const m = memory;
  for (let c = 0; c < to.channels; c++) {
    const w = filters.at + 9 * c, bias = m[filters.bias + c];
    for (let y = 0; y < to.height; y++) {
      const row = from.at + c * from.plane + (y * stride + 1 - before[0]) * from.stride + 1 - before[1];
      const target = to.at + c * to.plane + (y + 1) * to.stride + 1;
      for (let x = 0; x < to.width; x++) {
        let sum = bias;
        for (let j = 0, p = row + x * stride; j < 9; j += 3, p += from.stride) {
          sum += m[w + j] * m[p] + m[w + j + 1] * m[p + 1] + m[w + j + 2] * m[p + 2];
        }
        m[target + x] = Math.min(Math.max(sum, floor), ceiling);
      }
    }
  }
}

/** The nine pixels under a filter that goes two pixels at a time, each in a map of its own. */
function spread(memory, { from, to, before }) {
  for (let c = 0; c < from.channels; c++) {
    for (let tap = 0; tap < 9; tap++) {
      for (let y = 0; y < to.height; y++) {
        const row = 2 * y + Math.floor(tap / 3) + 1 - before[0];
        const p = from.at + c * from.plane + row * from.stride + (tap % 3) + 1 - before[1];
        const q = to.at + (9 * c + tap) * to.plane + (y + 1) * to.stride + 1;
        for (let x = 0; x < to.width; x++) memory[q + x] = memory[p + 2 * x];
      }
    }
  }
}

/** Zero what was written around a map, but for the row above, where nothing is. */
export function mendRim(memory, { at, channels, height, stride, plane, width }) {
  for (let c = 0; c < up(channels, 4); c++) {
    const top = at + c * plane;
    for (let row = top + stride, y = 0; y < height; y++, row += stride) memory[row] = memory[row + width + 1] = 0;
    memory.fill(0, top + (height + 1) * stride, top + plane);
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

/** A map made as large as another by repeating pixels: PyTorch's "nearest". */
function enlarge(memory, { from, to }) {
  for (let c = 0; c < to.channels; c++) {
    for (let y = 0; y < to.height; y++) {
      const p = from.at + c * from.plane + (Math.floor((y * from.height) / to.height) + 1) * from.stride + 1;
      const q = to.at + c * to.plane + (y + 1) * to.stride + 1;
      for (let x = 0; x < to.width; x++) memory[q + x] = memory[p + Math.floor((x * from.width) / to.width)];
    }
  }
}

/** The sum of two maps of one shape. */
function add(memory, { from, and, to }) {
  const many = to.channels * to.plane, { at } = to, one = from.at, two = and.at;
  for (let i = 0; i < many; i++) memory[at + i] = memory[one + i] + memory[two + i];
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

const OPERATIONS = { conv: convolve, mix, each: filterEach, spread, pool, enlarge, add };

/**
 * One image through the network: rgba, as many bytes as `size` asks for, to { logits, offsets }.
 *
 * `kernel` may bring faster versions of some operations (simd.js); `pause` is awaited between steps where the
 * page has to stay alive, and is left out in a worker. `steps` are those that are wanted, all if not said.
 */
export async function forward(memory, layout, model, rgba, { kernel, pause, steps = layout.steps } = {}) {
  const answers = {
    logits: new Float32Array(layout.anchors * (model.classes.length + 1)),
    offsets: new Float32Array(layout.anchors * 4),
  };
  writePixels(memory, layout.image, rgba, model.pixels);
  for (const step of steps) {
    if (pause) await pause();
    const whole = step.op === "pool" && (step.down !== 2 || step.across !== 2); // once, at the end
    (whole ? pool : kernel?.[step.op] ?? OPERATIONS[step.op])(memory, step);
    mendRim(memory, step.to);
    if (step.read) readHead(memory, step.to, step.values, answers[step.read], step.first);
  }
  return answers;
}
