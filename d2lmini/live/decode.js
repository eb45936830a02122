// From logits and offsets to scores and boxes, in float32 like PyTorch.
/** What every float32 operation does to its result; JavaScript computes in float64. */
export const f = Math.fround;

/** Height, width and anchors a pixel of the maps that have heads, finest first. */
export function mapShapes({ plan }) {
  const heads = plan.filter(({ op }) => op === "heads");
  return heads.map(({ map: [height, width], anchors }) => ({ height, width, anchors }));
}

/** Width and height of a scale's anchors, as shares of the image: `AnchorSpec.shapes`. */
export function anchorShapes(model, scale) {
  const sizes = model.sizes[scale], [first, ...others] = model.ratios[scale];
  const pairs = model.paired ? sizes.map((size, i) => [size, model.ratios[scale][i]]) : [...sizes.map((size) => [size, first]), ...others.map((ratio) => [sizes[0], ratio])];
  return pairs.map(([size, ratio]) => [size * Math.sqrt(ratio), size / Math.sqrt(ratio)]);
}

/** Corners of all anchors, A × 4, as `anchors.make_anchors` lays them out. */
export function makeAnchors(model) {
  const corners = [];
  mapShapes(model).forEach(({ height, width }, scale) => {
    const halves = anchorShapes(model, scale).map(([w, h]) => [f(f(w) / 2), f(f(h) / 2)]);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const across = f((x + 0.5) / width), down = f((y + 0.5) / height);
        for (const [w, h] of halves) corners.push(f(across - w), f(down - h), f(across + w), f(down + h));
      }
    }
  });
  return Float32Array.from(corners);
}

/** Where an anchor stands: its scale, and row, column and number within that map. */
export function placeOf(model, anchor) {
  let first = 0;
  for (const [scale, { height, width, anchors }] of mapShapes(model).entries()) {
    const here = anchor - first;
    if (here < height * width * anchors) {
      const pixel = Math.floor(here / anchors);
      return { scale, row: Math.floor(pixel / width), column: pixel % width, shape: here % anchors };
    }
    first += height * width * anchors;
  }
  return null;
}

/** Scores of the classes, A × K, background left out: softmax of the logits, A × (K + 1), or sigmoid of each. */
export function foregroundScores(logits, classes, how = "softmax") {
  const width = classes + 1, count = logits.length / width;
  const scores = new Float32Array(count * classes), powers = new Float64Array(width);
  if (how === "sigmoid") return scores.map((_, i) => 1 / (1 + f(Math.exp(-logits[i + Math.floor(i / classes) + 1]))));
  for (let a = 0; a < count; a++) {
    let most = -Infinity, sum = 0;
    for (let k = 0; k < width; k++) most = Math.max(most, logits[a * width + k]);
    for (let k = 0; k < width; k++) sum += powers[k] = f(Math.exp(f(logits[a * width + k] - most)));
    for (let k = 1; k < width; k++) scores[a * classes + k - 1] = f(powers[k] / f(sum));
  }
  return scores;
}

/** Corner boxes, A × 4, not clipped: `boxes.decode`. */
export function decodeBoxes(anchors, offsets, { center, size, most }) {
  const boxes = new Float32Array(anchors.length), variance = f(center), growth = f(size), limit = f(most);
  for (let at = 0; at < anchors.length; at += 4) {
    for (let axis = 0; axis < 2; axis++) {
      const low = anchors[at + axis], high = anchors[at + axis + 2], side = f(high - low);
      const middle = f(f(f(offsets[at + axis] * variance) * side) + f(f(low + high) / 2));
      const log = Math.min(limit, f(offsets[at + axis + 2] * growth));
      const half = f(f(f(Math.exp(log)) * side) / 2);
      boxes[at + axis] = f(middle - half);
      boxes[at + axis + 2] = f(middle + half);
    }
  }
  return boxes;
}
