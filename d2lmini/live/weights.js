// A head's weights as the package has them: tensors with names, in PyTorch's order.

/** The numbers of a parameter's tensors: act(name, shape, index → place) for each of them. */
function tensorsOf({ parts, shape: [, inputs, taps], strides: [so, si, st], vector }, act) {
  let first = 0;
  for (const [name, outputs] of parts) {
    const start = first, side = Math.sqrt(taps), shape = vector ? [outputs] : [outputs, inputs, side, side];
    act(name, shape, (index) => {
      const tap = index % taps, i = Math.floor(index / taps) % inputs, o = start + Math.floor(index / taps / inputs);
      return o * so + i * si + tap * st;
    });
    first += outputs;
  }
}

const sizeOf = (shape) => shape.reduce((a, b) => a * b, 1);

/** { name: { shape, values } } of all parameters, or of their gradients; with what batch normalization knows. */
export function readWeights({ parameters }, memory, which = "at") {
  const tensors = {};
  for (const one of parameters) {
    tensorsOf(one, (name, shape, place) => {
      tensors[name] = { shape, values: Float32Array.from({ length: sizeOf(shape) }, (_, i) => memory[one[which] + place(i)]) };
    });
    if (!one.known || which !== "at") continue;
    tensors[`${one.norm}.running_mean`] = { shape: [one.size], values: Float32Array.from(one.known.mean) };
    tensors[`${one.norm}.running_var`] = { shape: [one.size], values: Float32Array.from(one.known.variance) };
  }
  return tensors;
}

/** The reverse; every tensor has to be there. */
export function writeWeights({ parameters }, memory, tensors) {
  for (const one of parameters) {
    tensorsOf(one, (name, _, place) => tensors[name].values.forEach((value, i) => { memory[one.at + place(i)] = value; }));
    if (!one.known) continue;
    one.known.mean.set(tensors[`${one.norm}.running_mean`].values);
    one.known.variance.set(tensors[`${one.norm}.running_var`].values);
  }
}

/** Weights to start from, as PyTorch draws them; a class head first believes in `prior`, the share of objects. */
export function drawWeights({ parameters }, memory, random, { classes, prior }) {
  for (const one of parameters) {
    tensorsOf(one, (name, shape, place) => {
      const head = name.endsWith("bias") ? 9 * 64 : sizeOf(shape.slice(1)), bound = 1 / Math.sqrt(head);
      for (let i = 0; i < sizeOf(shape); i++) {
        const drawn = typeof one.start === "number" ? one.start : bound * (2 * random() - 1);
        memory[one.at + place(i)] = drawn;
      }
      if (prior && /^class_heads.*bias$/.test(name)) {
        const rest = Math.log((classes * (1 - prior)) / prior);
        for (let i = 0; i < shape[0]; i++) memory[one.at + place(i)] = i % (classes + 1) ? 0 : rest;
      }
    });
    if (one.known) one.known.mean.fill(0), one.known.variance.fill(1);
  }
}
