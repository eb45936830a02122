// An image's pixels as Pillow would resize them, to the byte: the network was trained on Pillow's, and a
// canvas resizes by other rules, which moves boxes.
import { clip } from "./nms.js";

const BITS = 22; // of the fixed-point weights

/** For every target sample the first source sample, and the weights from there on: a triangle, as wide as the step. */
export function triangle(from, to) {
  const scale = from / to, reach = Math.max(scale, 1);
  return Array.from({ length: to }, (_, i) => {
    const center = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - reach + 0.5)), end = Math.min(from, Math.trunc(center + reach + 0.5));
    const raw = Array.from({ length: end - first }, (_, j) => Math.max(0, 1 - Math.abs((j + first - center + 0.5) * (1 / reach))));
    const sum = raw.reduce((a, b) => a + b, 0);
    return { first, weights: Int32Array.from(raw, (w) => Math.trunc(0.5 + (w / sum) * 2 ** BITS)) };
  });
}

/** One direction of a resize: `lines` lines, samples `step` bytes apart, lines `line` bytes apart; RGBA. */
function along(source, target, taps, lines, { step, line, targetStep, targetLine }) {
  const half = 2 ** (BITS - 1);
  taps.forEach(({ first, weights }, i) => {
    for (let l = 0; l < lines; l++) {
      let r = half, g = half, b = half;
      for (let j = 0, p = l * line + first * step; j < weights.length; j++, p += step) {
        r += source[p] * weights[j], g += source[p + 1] * weights[j], b += source[p + 2] * weights[j];
      }
      const q = l * targetLine + i * targetStep;
      target[q] = r >> BITS, target[q + 1] = g >> BITS, target[q + 2] = b >> BITS, target[q + 3] = 255;
    }
  });
}

/**
 * Resize an image of any size to width × height. `strip(top, rows)` gives its pixels, RGBA, a few rows at
 * a time, so that a photograph of many megapixels never lies in memory twice.
 */
export function resize(strip, fromWidth, fromHeight, width, height) {
  const narrow = new Uint8ClampedArray(width * fromHeight * 4), taps = triangle(fromWidth, width);
  const rows = Math.max(1, Math.floor(2 ** 20 / fromWidth));
  for (let top = 0; top < fromHeight; top += rows) {
    const count = Math.min(rows, fromHeight - top), source = strip(top, count);
    const target = narrow.subarray(top * width * 4, (top + count) * width * 4);
    if (fromWidth === width) target.set(source);
    else along(source, target, taps, count, { step: 4, line: 4 * fromWidth, targetStep: 4, targetLine: 4 * width });
  }
  if (fromHeight === height) return narrow;
  const small = new Uint8ClampedArray(width * height * 4);
  const places = { step: 4 * width, line: 4, targetStep: 4 * width, targetLine: 4 };
  along(narrow, small, triangle(fromHeight, height), width, places);
  return small;
}

/** Python's round: a half goes to the even neighbour. */
function rounded(value) {
  const low = Math.floor(value), over = value - low;
  return over > 0.5 || (over === 0.5 && low % 2) ? low + 1 : low;
}

/** Where an image goes in the network's square, in its pixels: "stretch" fills it, "letterbox" keeps the shape. */
export function placement(fromWidth, fromHeight, [height, width], resizeMode) {
  if (resizeMode !== "letterbox") return { left: 0, top: 0, width, height };
  const scale = Math.min(width / fromWidth, height / fromHeight);
  const [wide, high] = [fromWidth, fromHeight].map((side) => Math.max(1, rounded(scale * side)));
  return { left: Math.floor((width - wide) / 2), top: Math.floor((height - high) / 2), width: wide, height: high };
}

/** A resized image in its place, and bands of its mean colour around it: { rgba, band }. */
export function withBands(pixels, place, [height, width]) {
  if (place.width === width && place.height === height) return { rgba: pixels, band: "#fff" };
  const mean = [0, 1, 2].map((channel) => {
    let sum = 0;
    for (let p = channel; p < pixels.length; p += 4) sum += pixels[p];
    return rounded(sum / (place.width * place.height));
  });
  const rgba = new Uint8ClampedArray(4 * width * height);
  for (let p = 0; p < rgba.length; p += 4) rgba.set(mean, p), rgba[p + 3] = 255;
  for (let row = 0; row < place.height; row++) {
    const line = pixels.subarray(4 * place.width * row, 4 * place.width * (row + 1));
    rgba.set(line, 4 * (width * (place.top + row) + place.left));
  }
  return { rgba, band: `rgb(${mean.join(" ")})` };
}

/** A box in the square as shares of the image alone; null where nothing of it is in the image. */
export function outOfSquare([x0, y0, x1, y1], { left, top, width, height }) {
  const box = [clip((x0 - left) / width), clip((y0 - top) / height), clip((x1 - left) / width), clip((y1 - top) / height)];
  return box[2] > box[0] && box[3] > box[1] ? box : null;
}
