// The training loop: batches of features, one update after the other, AdamW with one cycle of its learning rate.
import { makeHead } from "./head.js";
import { LOSS, ssdLoss } from "./losses.js";
import { loadMatrices } from "./matrices.js";
import { drawWeights, readWeights, writeWeights } from "./weights.js";

export const UNIT = 6 / 255; // features lie between 0 and 6 (ReLU6) and are kept as bytes
/** What can be chosen; the names are those of the package's `TrainConfig`. */
export const CONFIG = {
  steps: 100, batch_size: 16, lr: 3e-3, weight_decay: 0.1, warmup: 0.15, max_grad_norm: 5, prior_prob: 0.01, seed: 0, loss: LOSS,
};
const BETAS = [0.9, 0.999], TINY = 1e-8;

/** A generator of numbers from 0 to 1 (mulberry32): the same seed gives the same ones in every browser. */
export function makeRandom(seed) {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let x = Math.imul(state ^ (state >>> 15), 1 | state);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) / 4294967296;
  };
}

/** The learning rate of a step, from 0: a straight rise, then a cosine down to about 0. */
export function oneCycle(step, steps, peak, warmup) {
  const rise = Math.max(1, Math.round(warmup * steps));
  if (step < rise) return peak * (1 / 25 + ((1 - 1 / 25) * (step + 1)) / rise);
  return peak * 0.5 * (1 + Math.cos((Math.PI * (step + 1 - rise)) / Math.max(1, steps - rise)));
}

/** Whole numbers below `count`, shuffled anew whenever all have been drawn, `size` at a time. */
function* shuffled(count, size, random) {
  for (;;) {
    const order = Array.from({ length: count }, (_, i) => i);
    for (let i = count - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [order[i], order[j]] = [order[j], order[i]];
    }
    for (let at = 0; at + size <= count; at += size) yield order.slice(at, at + size);
  }
}

/**
 * A head that learns: `shape` is what `makeHead` wants. An example is { features, labels, offsets }: the bytes of
 * each map, one map behind the other, and the targets of `matchObjects`.
 */
export async function makeTrainer(shape, config = CONFIG, options = {}) {
  const head = makeHead({ ...shape, batch: config.batch_size }), kernel = await loadMatrices(head.floats, options);
  const m = kernel.memory, random = makeRandom(config.seed);
  const moments = head.parameters.map(({ size }) => [new Float32Array(size), new Float32Array(size)]);
  let step = 0;
  head.use(kernel);
  drawWeights(head, m, random, { classes: shape.classes, prior: config.prior_prob });
  transpose();

  /** What `forward` reads: each matrix the other way round. */
  function transpose() {
    for (const { matrices, at, flipped } of head.parameters) {
      if (!matrices) continue;
      const { taps, inputs, outputs } = matrices;
      for (let tap = 0, from = at; tap < taps; tap++) for (let o = 0; o < outputs; o++) {
        for (let i = 0, to = flipped + tap * inputs * outputs + o; i < inputs; i++, to += outputs) m[to] = m[from++];
      }
    }
  }

  /** Features of some examples into the first maps. */
  function load(examples) {
    examples.forEach(({ features }, image) => {
      let at = 0;
      for (const { at: to, height, width, channels } of head.inputs) {
        const length = height * width * channels;
        kernel.widen(to + image * length, features.subarray(at, at + length), UNIT);
        at += length;
      }
    });
  }

  /** AdamW, after all gradients were made shorter if together they are too long. */
  function update(lr) {
    let square = 0;
    for (const { grad, size } of head.parameters) for (let i = grad; i < grad + size; i++) square += m[i] * m[i];
    const shorter = Math.min(1, config.max_grad_norm / (Math.sqrt(square) + 1e-6));
    const [one, two] = BETAS.map((beta) => 1 - beta ** step);
    head.parameters.forEach(({ at, grad, size, vector }, p) => {
      const [mean, variance] = moments[p], keep = 1 - (vector ? 0 : lr * config.weight_decay);
      for (let i = 0; i < size; i++) {
        const slope = m[grad + i] * shorter;
        mean[i] += (1 - BETAS[0]) * (slope - mean[i]);
        variance[i] += (1 - BETAS[1]) * (slope * slope - variance[i]);
        m[at + i] = m[at + i] * keep - (lr / one) * (mean[i] / (Math.sqrt(variance[i] / two) + TINY));
      }
    });
    transpose();
  }

  return {
    name: kernel.name, head, anchors: head.anchors,
    /** One update; returns both losses. */
    step(examples) {
      load(examples);
      const { logits, offsets } = head.forward(examples.length);
      const labels = new Uint8Array(examples.length * head.anchors), wanted = new Float32Array(4 * labels.length);
      examples.forEach((one, i) => { labels.set(one.labels, i * head.anchors), wanted.set(one.offsets, 4 * i * head.anchors); });
      const losses = ssdLoss(logits, offsets, { labels, offsets: wanted }, head.anchors, config.loss, random);
      head.backward(losses);
      update(oneCycle(step++, config.steps, config.lr, config.warmup));
      return { cls: losses.cls, box: losses.box };
    },
    /** Logits and offsets of each example, with what batch normalization knows. */
    answers(examples) {
      const all = [];
      for (let at = 0; at < examples.length; at += config.batch_size) {
        const some = examples.slice(at, at + config.batch_size);
        load(some);
        const { logits, offsets } = head.forward(some.length, { train: false });
        const [long, short] = [logits.length / some.length, 4 * head.anchors];
        some.forEach((_, i) => all.push({ logits: logits.slice(i * long, (i + 1) * long), offsets: offsets.slice(i * short, (i + 1) * short) }));
      }
      return all;
    },
    batches: (count) => shuffled(count, Math.min(config.batch_size, count), random),
    weights: (which) => readWeights(head, m, which),
    set(tensors) {
      writeWeights(head, m, tensors);
      transpose();
    },
  };
}
