// What was learned, as the detector of a page and as a file of the package: batch normalization folded into the
// convolutions, all weights rounded to float16.
import { bytesOf64 } from "./bytes.js";
import { layOut } from "./network.js";
import { unpack } from "./engine.js";

const single = new Float32Array(1), bits = new Uint32Array(single.buffer);

/** A number as float16, in 16 bits, rounded to the nearest, of two the even one. */
export function toHalf(value) {
  single[0] = value;
  const sign = (bits[0] >>> 16) & 0x8000, exponent = (bits[0] >>> 23) & 255, fraction = bits[0] & 0x7fffff;
  if (exponent > 142) return sign | (exponent === 255 && fraction ? 0x7e00 : 0x7c00);
  const small = exponent < 113, drop = small ? 126 - exponent : 13; // bits that float16 has no room for
  if (drop > 24) return sign;
  const whole = small ? fraction | 0x800000 : fraction, kept = whole >>> drop, rest = whole & ((1 << drop) - 1), half = 1 << (drop - 1);
  const up = rest > half || (rest === half && kept & 1) ? 1 : 0; // it may carry into the exponent, as it should
  return sign | ((small ? 0 : (exponent - 112) << 10) + kept + up);
}

const base64Of = (bytes) => {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
};

/** The convolutions of the backbone, in the order of any plan that begins with it: [{ filters, bias }]. */
function backboneOf(everyday) {
  const layout = layOut(everyday), weights = unpack(everyday, layout);
  return layout.steps.filter(({ filters, read }) => filters && !read).map(({ filters: { read, outputs, taps } }) => ({
    filters: weights.subarray(read, read + outputs * taps), bias: weights.subarray(read + outputs * taps, read + outputs * (taps + 1)),
  }));
}

/** A convolution with what normalizes behind it made part of it, in float64. */
function folded(name, tensors) {
  const { values, shape } = tensors[`${name}.weight`], at = name.lastIndexOf("."), norm = `${name.slice(0, at)}.${Number(name.slice(at + 1)) + 1}`;
  const bias = tensors[`${name}.bias`]?.values;
  if (bias || !tensors[`${norm}.running_var`]) return { filters: values, bias: bias ?? new Float32Array(shape[0]) };
  const [gamma, beta, mean, variance] = ["weight", "bias", "running_mean", "running_var"].map((key) => tensors[`${norm}.${key}`].values);
  const scale = Float64Array.from(gamma, (g, o) => g / Math.sqrt(variance[o] + 1e-5)), each = values.length / shape[0];
  return { filters: values.map((v, i) => v * scale[Math.floor(i / each)]), bias: beta.map((b, o) => b - mean[o] * scale[o]) };
}

/** The record of `export.browser_model` for what was learned; `template` is that of widgets/teach.py. */
export function makeRecord(template, everyday, tensors, classes, notes = {}) {
  const backbone = backboneOf(everyday), parts = [];
  for (const { name } of template.convs) {
    const { filters, bias } = name.startsWith("backbone.backbone") ? backbone.shift() : folded(name, tensors);
    parts.push(filters, bias);
  }
  const halves = new Uint16Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) for (let i = 0; i < part.length; i++) halves[at++] = toHalf(part[i]);
  const weights = base64Of(new Uint8Array(halves.buffer));
  return { ...template.record, classes, notes, weights };
}

/** The same as a checkpoint that `load_model` reads: safetensors with the package's header. */
export async function checkpoint(template, { classes, notes, weights }) {
  if (!globalThis.crypto?.subtle) throw new Error("a browser saves weights only from https, from a file, or from this machine");
  const bytes = bytesOf64(weights), tensors = [];
  let at = 0;
  const take = (name, shape, kept = true) => {
    const start = at;
    at += 2 * shape.reduce((a, b) => a * b, 1);
    if (kept) tensors.push({ name: `model.${name}`, shape, bytes: bytes.subarray(start, at) });
  };
  for (const { name, shape: [one, ...others], bias } of template.convs) { // the template has a single class
    const outputs = name.startsWith("class_heads") ? (one / 2) * (classes.length + 1) : one;
    take(`${name}.weight`, [outputs, ...others]);
    take(`${name}.bias`, [outputs], bias);
  }
  tensors.sort((a, b) => (a.name < b.name ? -1 : 1));
  const text = JSON.stringify({ model: { ...template.description, classes, notes } }), encode = (string) => new TextEncoder().encode(string);
  const shapeText = (shape) => `(${shape.join(", ")}${shape.length === 1 ? "," : ""})`;
  const parts = tensors.flatMap(({ name, shape, bytes }) => [encode(`${name} torch.float16 ${shapeText(shape)}`), bytes]);
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", await new Blob([encode(text), ...parts]).arrayBuffer()));
  const sha256 = Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
  const header = { __metadata__: { d2lmini: "1", record: text, sha256 } };
  let end = 0;
  for (const { name, shape, bytes } of tensors) header[name] = { dtype: "F16", shape, data_offsets: [end, (end += bytes.length)] };
  let head = JSON.stringify(header);
  head += " ".repeat((8 - (encode(head).length % 8)) % 8);
  const size = new DataView(new ArrayBuffer(8));
  size.setUint32(0, encode(head).length, true);
  return new Blob([size, head, ...tensors.map(({ bytes }) => bytes)]);
}
