// What the network pays for a wrong class and for a box in the wrong place, and how that changes with its answers:
// `losses.ssd_loss` of the package, with the derivatives that PyTorch finds by itself.

/** The book's choice for photographs; the names are those of `LossConfig`. */
export const LOSS = {
  cls: "cross_entropy", gamma: 2, alpha: null, box: "smooth_l1", sigma: 1, cls_weight: 1, box_weight: 1,
  negatives: null, mining: "hard", minimum_negatives: 3, cls_normalizer: "positives", box_normalizer: "positives",
};

/** Class loss of one anchor from log p of its true class: its value, and its derivative by log p. */
function classLoss(logP, label, { cls, gamma, alpha }) {
  if (cls !== "focal") return [-logP, -1];
  const p = Math.exp(logP), miss = gamma < 1 ? Math.max(-Math.expm1(logP), 2 ** -23) : -Math.expm1(logP);
  const weight = alpha === null ? 1 : label > 0 ? alpha : 1 - alpha;
  const power = miss ** gamma, slope = gamma ? gamma * p * logP * miss ** (gamma - 1) : 0;
  return [-weight * power * logP, weight * (slope - power)];
}

/** Box loss of one number from how far off it is: its value and its derivative. */
function boxLoss(x, { box, sigma }) {
  const size = Math.abs(x), sign = Math.sign(x);
  if (box === "l2") return [0.5 * x * x, x];
  if (box === "l1") return [size, sign];
  if (size < sigma ** -2) return [0.5 * (sigma * x) ** 2, sigma ** 2 * x];
  return [size - 0.5 * sigma ** -2, sign];
}

/** Which anchors of an image count as negatives: the `count` of largest `rank`; among equals the earlier ones. */
function pickNegatives(rank, labels, start, anchors, count) {
  const negatives = [];
  for (let a = start; a < start + anchors; a++) if (!labels[a]) negatives.push(a);
  return negatives.sort((a, b) => rank[b] - rank[a]).slice(0, Math.ceil(count));
}

/**
 * Both losses of a batch and their derivatives: logits (N · A × (K + 1)), offsets and `targets.offsets` (N · A × 4),
 * `targets.labels` (N · A). Returns { cls, box, dLogits, dOffsets }; `random()` draws for random negatives.
 */
export function ssdLoss(logits, offsets, targets, anchors, config = LOSS, random = Math.random) {
  const { labels } = targets, many = labels.length, width = logits.length / many;
  const dLogits = new Float32Array(logits.length), dOffsets = new Float32Array(offsets.length);
  const logSums = new Float64Array(many), losses = new Float32Array(many), slopes = new Float32Array(many);
  let positives = 0;
  for (let a = 0, at = 0; a < many; a++, at += width) {
    let most = -Infinity, sum = 0;
    for (let k = 0; k < width; k++) if (logits[at + k] > most) most = logits[at + k];
    for (let k = 0; k < width; k++) sum += Math.exp(logits[at + k] - most);
    logSums[a] = most + Math.log(sum);
    [losses[a], slopes[a]] = classLoss(Math.min(0, logits[at + labels[a]] - logSums[a]), labels[a], config);
    positives += labels[a] > 0;
  }
  const counts = new Uint8Array(many).fill(config.negatives === null ? 1 : 0);
  for (let start = 0; config.negatives !== null && start < many; start += anchors) {
    let here = 0;
    for (let a = start; a < start + anchors; a++) here += counts[a] = labels[a] > 0 ? 1 : 0;
    const rank = config.mining === "hard" ? losses : Float32Array.from(losses, random);
    const wanted = here ? here * config.negatives : config.minimum_negatives;
    for (const a of pickNegatives(rank, labels, start, anchors, wanted)) counts[a] = 1;
  }
  const count = Math.max(1, positives);
  const clsScale = config.cls_weight / (config.cls_normalizer === "positives" ? count : many);
  const boxScale = config.box_weight / (config.box_normalizer === "positives" ? count : 4 * many);
  let cls = 0, box = 0;
  for (let a = 0, at = 0; a < many; a++, at += width) {
    if (counts[a]) {
      cls += losses[a];
      const scale = clsScale * slopes[a]; // by log p; log p changes with a logit by (its own: 1) − its probability
      for (let k = 0; k < width; k++) dLogits[at + k] = -scale * Math.exp(logits[at + k] - logSums[a]);
      dLogits[at + labels[a]] += scale;
    }
    for (let i = 4 * a; labels[a] && i < 4 * a + 4; i++) {
      const [value, slope] = boxLoss(offsets[i] - targets.offsets[i], config);
      box += value, dOffsets[i] = boxScale * slope;
    }
  }
  return { cls: clsScale * cls, box: boxScale * box, dLogits, dOffsets };
}
