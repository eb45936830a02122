// The part of a detector that learns: the pyramid and the heads of `mobilenet.TopDown` and `TinySSD`, forward and
// backward, for a batch of images whose features are known.
//
// A map's channels lie side by side, pixel by pixel, image by image; most maps have a rim of zeros. A 3 × 3
// convolution is then nine products of matrices, one for each tap, of all pixels at once: those of the rim come
// to nonsense that nobody reads. A layer is { forward(), backward() }; backward adds to the gradients of what
// forward has read, so the layers in reverse order are the whole of backpropagation.

import { up } from "./network.js";

const WIDTH = 64, EPSILON = 1e-5, MOMENTUM = 0.1; // of the pyramid; of batch normalization

/**
 * Lay out a head for features { height, width, channels }[], finest first, and `anchors` anchors a place on these
 * and two more maps: { maps, parameters, layers, floats, … }. Its layers compute once `use(kernel)` was called.
 */
export function makeHead({ features, anchors, classes, batch }) {
  let free = 16, k = null, m = null, images = batch, training = true;
  const layers = [], parameters = [], gradients = [];
  const take = (floats) => (free += up(floats, 16)) - up(floats, 16);

  const map = (height, width, channels, { rim = 1, grad = true } = {}) => {
    const stride = width + 2 * rim, plane = stride * (height + 2 * rim);
    const around = (rim * (stride + 1) + 4) * channels; // floats before and behind, for what is read or written too far
    const length = batch * plane * channels, room = () => take(2 * around + length) + around;
    const made = { height, width, channels, rim, stride, plane, length, at: room(), grad: grad ? room() : 0 };
    if (grad) gradients.push([made.grad - around, made.grad + length + around]);
    return made;
  };
  /**
   * Weights that learn: `shape` [outputs, inputs, taps], and how far apart their neighbours lie in each of these ways.
   * `parts` are [name, outputs] of the package's tensors; a vector has no inputs and taps.
   */
  const parameter = (parts, shape, strides, more = {}) => {
    const size = shape.reduce((a, b) => a * b);
    const made = { parts, shape, strides, size, at: take(size), grad: take(size), flipped: more.matrices ? take(size) : 0, ...more };
    parameters.push(made);
    return made;
  };
  const vector = (parts, size, start) => parameter(parts, [size, 1, 1], [1, 0, 0], { start, vector: true });
  /** Call act(at, rowOf) for every row of a map that is no rim: where it begins, and its number. */
  const rows = ({ height, stride, plane, channels, rim }, from, act) => {
    for (let image = 0, row = 0; image < images; image++) {
      for (let y = 0; y < height; y++, row++) act(from + (image * plane + (y + rim) * stride + rim) * channels, row, image, y);
    }
  };

  /** A convolution of 1 × 1, or of 3 × 3 on a map with a rim. */
  const convolution = (parts, from, to, kernel = 1, { shape = null, strides = null } = {}) => {
    const inputs = from.channels, outputs = to.channels, taps = kernel ** 2, size = inputs * outputs;
    const weights = parameter(parts, shape ?? [outputs, inputs, taps], strides ?? [inputs, 1, size], { matrices: { taps, inputs, outputs } });
    const shift = (tap) => (taps === 1 ? 0 : (Math.floor(tap / 3) - 1) * from.stride + (tap % 3) - 1);
    layers.push({
      forward() {
        for (let tap = 0; tap < taps; tap++) {
          const a = { at: from.at + shift(tap) * inputs, row: inputs, column: 1 };
          k.matmul(a, { at: weights.flipped + tap * size, row: outputs }, { at: to.at, row: outputs }, [images * from.plane, outputs, inputs], tap ? 1 : 0);
        }
      },
      backward() {
        for (let tap = 0; tap < taps; tap++) {
          const pixels = images * from.plane, here = weights.at + tap * size;
          const x = { at: from.at + shift(tap) * inputs, row: inputs };
          k.matmul({ at: to.grad, row: 1, column: outputs }, x, { at: weights.grad + tap * size, row: inputs }, [outputs, inputs, pixels]);
          if (!from.grad) continue;
          const dy = { at: to.grad - shift(tap) * outputs, row: outputs, column: 1 };
          k.matmul(dy, { at: here, row: inputs }, { at: from.grad, row: inputs }, [pixels, inputs, outputs], 1);
        }
      },
    });
  };

  /** Batch normalization and ReLU, from a map without a rim to one with. */
  const normalization = (name, from, to) => {
    const { channels, width } = from, many = () => images * from.height * width;
    const gamma = vector([[`${name}.weight`, channels]], channels, 1), beta = vector([[`${name}.bias`, channels]], channels, 0);
    const [scale, shift, by, off, one, two] = Array.from({ length: 6 }, () => take(channels));
    const mean = new Float64Array(channels), inverse = new Float64Array(channels);
    const known = { mean: new Float64Array(channels), variance: new Float64Array(channels).fill(1) }; // of all steps so far
    gamma.known = known, gamma.norm = name;
    /** Call act(x, y) for every row, where it begins in both maps; what each adds to `one` and `two`, in float64. */
    const sums = (start, act) => {
      const first = new Float64Array(channels), second = new Float64Array(channels), targets = [];
      rows(to, start, (at) => targets.push(at));
      rows(from, from.at, (at, row) => {
        m.fill(0, one, one + channels), m.fill(0, two, two + channels);
        act(at, targets[row]);
        for (let c = 0; c < channels; c++) first[c] += m[one + c], second[c] += m[two + c];
      });
      return [first, second];
    };
    layers.push({
      forward() {
        if (training) {
          const [first, second] = sums(to.at, (x) => k.moments(one, two, x, width, channels)), n = many();
          for (let c = 0; c < channels; c++) {
            mean[c] = first[c] / n;
            const variance = Math.max(0, second[c] / n - mean[c] ** 2);
            inverse[c] = 1 / Math.sqrt(variance + EPSILON);
            known.mean[c] += MOMENTUM * (mean[c] - known.mean[c]);
            known.variance[c] += MOMENTUM * (variance * (n / Math.max(1, n - 1)) - known.variance[c]);
          }
        } else {
          mean.set(known.mean);
          known.variance.forEach((v, c) => { inverse[c] = 1 / Math.sqrt(v + EPSILON); });
        }
        for (let c = 0; c < channels; c++) {
          m[scale + c] = m[gamma.at + c] * inverse[c], m[shift + c] = m[beta.at + c] - m[scale + c] * mean[c];
        }
        sums(to.at, (x, y) => k.rectify(y, x, scale, shift, width, channels));
      },
      backward() {
        const [sum, product] = sums(to.grad, (x, dy) => k.close(dy, x, scale, shift, one, two, width, channels)), n = many();
        for (let c = 0; c < channels; c++) {
          const slope = (product[c] - mean[c] * sum[c]) * inverse[c];
          m[gamma.grad + c] = slope, m[beta.grad + c] = sum[c];
          m[by + c] = (m[scale + c] * slope * inverse[c]) / n, m[off + c] = (m[scale + c] * sum[c]) / n - m[by + c] * mean[c];
        }
        sums(to.grad, (x, dy) => k.unscale(x - from.at + from.grad, dy, x, scale, by, off, width, channels));
      },
    });
  };

  /** A 3 × 3 filter for each channel, from a map with a rim to one without. */
  const depthwise = (name, from, to) => {
    const { channels, width } = from, weights = parameter([[name, channels]], [channels, 1, 9], [1, 0, channels]);
    const tap = (at, i) => at + ((Math.floor(i / 3) - 1) * from.stride + (i % 3) - 1) * channels;
    const sources = (start) => {
      const list = [];
      rows(from, start, (at) => list.push(at));
      return list;
    };
    layers.push({
      forward() {
        const x = sources(from.at);
        m.fill(0, to.at, to.at + to.length);
        rows(to, to.at, (at, row) => {
          for (let i = 0; i < 9; i++) k.scale(at, tap(x[row], i), weights.at + i * channels, width, channels);
        });
      },
      backward() {
        const x = sources(from.at), dx = sources(from.grad);
        m.fill(0, weights.grad, weights.grad + weights.size);
        rows(to, to.grad, (at, row) => {
          for (let i = 0; i < 9; i++) {
            k.dots(weights.grad + i * channels, tap(x[row], i), at, width, channels);
            k.scale(tap(dx[row], i), at, weights.at + i * channels, width, channels);
          }
        });
      },
    });
  };

  /** Call act(here, there) for every pixel of the map `to` and the one of `from` that stands for it. */
  const pairs = (from, to, place, act) => {
    for (let image = 0; image < images; image++) {
      for (let y = 0; y < to.height; y++) for (let x = 0; x < to.width; x++) {
        const [row, column] = place(y, x), one = image * from.plane + (row + from.rim) * from.stride + column + from.rim;
        act((image * to.plane + (y + to.rim) * to.stride + x + to.rim) * to.channels, one * from.channels);
      }
    }
  };

  /** Add a coarse map to a finer one, each pixel to all that it covers. */
  const enlargeAndAdd = (coarse, fine) => {
    const place = (y, x) => [Math.floor((y * coarse.height) / fine.height), Math.floor((x * coarse.width) / fine.width)];
    const add = (to, from) => { for (let c = 0; c < WIDTH; c++) m[to + c] += m[from + c]; };
    layers.push({
      forward: () => pairs(coarse, fine, place, (to, from) => add(fine.at + to, coarse.at + from)),
      backward: () => pairs(coarse, fine, place, (to, from) => add(coarse.grad + from, fine.grad + to)),
    });
  };

  /** The nine pixels under a 3 × 3 filter at stride 2, side by side. */
  const spread = (from, to) => {
    const taps = (act) => pairs(from, to, (y, x) => [2 * y, 2 * x], (target, source) => {
      for (let i = 0; i < 9; i++) act(target + i * WIDTH, source + ((Math.floor(i / 3) - 1) * from.stride + (i % 3) - 1) * WIDTH);
    });
    layers.push({
      forward: () => taps((to_, source) => m.copyWithin(to.at + to_, from.at + source, from.at + source + WIDTH)),
      backward: () => taps((to_, source) => { for (let c = 0; c < WIDTH; c++) m[from.grad + source + c] += m[to.grad + to_ + c]; }),
    });
  };

  /** The largest value of each channel; where several are it, they share the gradient. */
  const largest = (from, to) => {
    const every = (image, c, act) => {
      for (let y = 0; y < from.height; y++) for (let x = 0; x < from.width; x++) {
        act((image * from.plane + (y + 1) * from.stride + x + 1) * WIDTH + c);
      }
    };
    const each = (act) => pairs(to, to, (y, x) => [y, x], (target) => {
      const image = Math.floor(target / WIDTH / to.plane);
      for (let c = 0; c < WIDTH; c++) act(image, c, target + c);
    });
    layers.push({
      forward: () => each((image, c, target) => {
        let most = -Infinity;
        every(image, c, (at) => { if (m[from.at + at] > most) most = m[from.at + at]; });
        m[to.at + target] = most;
      }),
      backward: () => each((image, c, target) => {
        let many = 0;
        const same = (at) => m[from.at + at] === m[to.at + target];
        every(image, c, (at) => { many += same(at); });
        every(image, c, (at) => { if (same(at)) m[from.grad + at] += m[to.grad + target] / many; });
      }),
    });
  };

  // ---- the network
  const inputs = features.map(({ height, width, channels }) => map(height, width, channels, { rim: 0, grad: false }));
  const block = (from, name, act) => {
    const raw = map(from.height, from.width, WIDTH, { rim: 0 }), to = map(from.height, from.width, WIDTH);
    act(raw);
    normalization(name, raw, to);
    return to;
  };
  const pyramidPart = (part) => `backbone.pyramid.${part}`, one = (part) => [[`${pyramidPart(part)}.weight`, WIDTH]];
  const lateral = inputs.map((from, i) => block(from, pyramidPart(`lateral.${i}.1`), (raw) => convolution(one(`lateral.${i}.0`), from, raw)));
  for (let i = lateral.length - 2; i >= 0; i--) enlargeAndAdd(lateral[i + 1], lateral[i]);
  const pyramid = lateral.map((from, i) => block(from, pyramidPart(`smooth.${i}.2`), (raw) => {
    const filtered = map(from.height, from.width, WIDTH, { rim: 0 });
    depthwise(`${pyramidPart(`smooth.${i}.0`)}.weight`, from, filtered);
    convolution(one(`smooth.${i}.1`), filtered, raw);
  }));
  const last = pyramid.at(-1), taps = map(Math.ceil(last.height / 2), Math.ceil(last.width / 2), 9 * WIDTH, { rim: 0 });
  spread(last, taps);
  pyramid.push(block(taps, pyramidPart("down.1"), (raw) =>
    convolution(one("down.0"), taps, raw, 1, { shape: [WIDTH, WIDTH, 9], strides: [9 * WIDTH, 1, WIDTH] })));
  pyramid.push(map(1, 1, WIDTH));
  largest(pyramid.at(-2), pyramid.at(-1));
  const values = [classes + 1, 4], outputs = anchors * (values[0] + values[1]);
  const heads = pyramid.map((from, i) => {
    const to = map(from.height, from.width, up(outputs, 8));
    const parts = (kind) => ["class_heads", "box_heads"].map((name, j) => [`${name}.${i}.${kind}`, anchors * values[j]]);
    convolution(parts("weight"), from, to, 3);
    return { to, bias: vector(parts("bias"), outputs, null) };
  });
  const many = pyramid.reduce((sum, { height, width }) => sum + height * width * anchors, 0);

  /** Call act(at, first, map, bias) for every pixel with heads: where its outputs are, and its first anchor in the batch. */
  const answersAt = (start, act) => {
    let before = 0;
    for (const { to, bias } of heads) {
      pairs(to, to, (y, x) => [y, x], (at) => {
        const image = Math.floor(at / to.channels / to.plane), inside = at / to.channels - image * to.plane;
        const y = Math.floor(inside / to.stride) - 1, x = (inside % to.stride) - 1;
        act(to[start] + at, image * many + before + (y * to.width + x) * anchors, bias);
      });
      before += to.height * to.width * anchors;
    }
  };

  return {
    inputs, parameters, anchors: many, floats: free,
    use(kernel) { k = kernel, m = kernel.memory; },
    /** Logits and offsets of all anchors of the first `count` images, whose features are in `inputs`. */
    forward(count, { train = true } = {}) {
      images = count, training = train;
      for (const layer of layers) layer.forward();
      const logits = new Float32Array(count * many * values[0]), offsets = new Float32Array(count * many * 4), split = anchors * values[0];
      answersAt("at", (at, first, { at: bias }) => {
        for (let i = 0; i < split; i++) logits[first * values[0] + i] = m[at + i] + m[bias + i];
        for (let i = 0; i < 4 * anchors; i++) offsets[first * 4 + i] = m[at + split + i] + m[bias + split + i];
      });
      return { logits, offsets };
    },
    /** The gradients of all parameters from those of the answers of the last `forward`. */
    backward({ dLogits, dOffsets }) {
      for (const [start, end] of gradients) m.fill(0, start, end);
      for (const { bias } of heads) m.fill(0, bias.grad, bias.grad + bias.size);
      const split = anchors * values[0];
      answersAt("grad", (at, first, { grad }) => {
        for (let i = 0; i < split; i++) m[grad + i] += m[at + i] = dLogits[first * values[0] + i];
        for (let i = 0; i < 4 * anchors; i++) m[grad + split + i] += m[at + split + i] = dOffsets[first * 4 + i];
      });
      for (const layer of [...layers].reverse()) layer.backward();
    },
  };
}
