// A random view of an image and its objects: mirrored, zoomed out, cropped, in other colors. `data.augment` of the
// package with its usual strengths, number for number when `random` draws the same.
import { f } from "./decode.js";
import { iou } from "./nms.js";

const FLIP = 0.5, COLOR = 0.5, EXPAND = 0.25, CROP = 0.5, MAX_EXPAND = 2, MIN_SCALE = 0.3, MAX_RATIO = 2, MIN_VISIBLE = 0.25;
const MIN_IOUS = [0, 0.1, 0.3, 0.5, 0.7, 0.9], TRIALS = 50;

/** A box in the coordinates of a window [x0, y0, x1, y1]; one with x0 > x1 mirrors. */
function relative(box, [x0, y0, x1, y1]) {
  const across = [(box[0] - x0) / (x1 - x0), (box[2] - x0) / (x1 - x0)], down = [(box[1] - y0) / (y1 - y0), (box[3] - y0) / (y1 - y0)];
  return [Math.min(...across), Math.min(...down), Math.max(...across), Math.max(...down)].map(f);
}

/** The objects that a window shows: those whose center, and a quarter of whose area, are in it; cut off at its edges. */
export function objectsIn(objects, window) {
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return objects.map(({ box, label }) => ({ seen: relative(box, window), label })).filter(({ seen }) => {
    const cut = seen.map((v) => Math.min(1, Math.max(0, v))), middle = [(seen[0] + seen[2]) / 2, (seen[1] + seen[3]) / 2];
    return middle.every((v) => v >= 0 && v <= 1) && area(cut) > 0 && area(cut) >= MIN_VISIBLE * area(seen);
  }).map(({ seen, label }) => ({ box: seen.map((v) => Math.min(1, Math.max(0, v))), label }));
}

/** A crop that still shows an object, and overlaps one by a random least IoU; the whole where none does. */
function drawCrop(objects, random) {
  const trials = Array.from({ length: TRIALS }, () => {
    const [size, ratio, x, y] = [MIN_SCALE + random() * (1 - MIN_SCALE), random(), random(), random()];
    const widest = Math.min(-2 * Math.log(size), Math.log(MAX_RATIO)), stretch = Math.exp(((2 * ratio - 1) * widest) / 2);
    const [wide, high] = [Math.min(1, size * stretch), Math.min(1, size / stretch)], left = x * (1 - wide), top = y * (1 - high);
    return [left, top, left + wide, top + high];
  });
  const weights = MIN_IOUS.map(() => random()), wanted = random() < CROP;
  const best = trials.map((trial) => Math.max(0, ...objects.map(({ box }) => iou(trial, box))));
  const legal = trials.map((trial) => !objects.length || objectsIn(objects, trial).length > 0);
  let chosen = null, most = -1;
  MIN_IOUS.forEach((least, i) => {
    const first = trials.find((_, t) => legal[t] && best[t] >= least);
    if (first && weights[i] > most) most = weights[i], chosen = first;
  });
  return wanted && chosen ? chosen : [0, 0, 1, 1];
}

/** A random window onto an image with these objects. */
export function drawWindow(objects, random) {
  const [chance, ratio, x, y] = [random(), random(), random(), random()];
  const side = chance < EXPAND ? 1 + ratio * (MAX_EXPAND - 1) : 1, left = x * (1 - side), top = y * (1 - side);
  const canvas = [left, top, left + side, top + side];
  const [x0, y0, x1, y1] = drawCrop(objects.map(({ box, label }) => ({ box: relative(box, canvas), label })), random);
  const window = [left + x0 * side, top + y0 * side, left + x1 * side, top + y1 * side];
  return random() < FLIP ? [window[2], window[1], window[0], window[3]] : window;
}

/** New colors as a matrix, row by row, and a shift: brightness, contrast, saturation and hue are all affine. */
export function drawColors(random) {
  const draws = [random(), random(), random(), random()], chances = [random(), random(), random(), random()];
  const [brightness, contrast, saturation, hue] = draws.map((draw, i) => (chances[i] < 0.5 ? (2 * draw - 1) * COLOR : 0));
  const angle = (hue * Math.PI) / 10, turn = Math.sin(angle) / Math.sqrt(3), gain = 1 + contrast / 2, more = 1 + saturation / 2;
  const matrix = Array.from({ length: 9 }, (_, i) => {
    const step = ((i % 3) - Math.floor(i / 3) + 3) % 3; // 0 on the diagonal
    const chroma = Math.cos(angle) * ((step === 0 ? 1 : 0) - 1 / 3) + turn * ((step === 2 ? 1 : 0) - (step === 1 ? 1 : 0));
    return gain * (1 / 3 + more * chroma);
  });
  return { matrix, shift: 32 * brightness + 127.5 * (1 - gain) };
}

/** An image, RGBA, through a window and in new colors; what lies outside of it has its mean color. */
export function renderView(rgba, [height, width], [x0, y0, x1, y1], { matrix, shift }) {
  const mean = [0, 0, 0], out = new Uint8ClampedArray(rgba.length), pixel = [0, 0, 0];
  for (let p = 0; p < rgba.length; p += 4) for (let c = 0; c < 3; c++) mean[c] += rgba[p + c] / (height * width);
  for (let y = 0, q = 0; y < height; y++) {
    const v = (y0 + ((y + 0.5) / height) * (y1 - y0)) * height - 0.5, top = Math.floor(v), down = v - top;
    for (let x = 0; x < width; x++, q += 4) {
      const u = (x0 + ((x + 0.5) / width) * (x1 - x0)) * width - 0.5, left = Math.floor(u), across = u - left;
      pixel[0] = mean[0], pixel[1] = mean[1], pixel[2] = mean[2];
      for (let corner = 0; corner < 4; corner++) {
        const row = top + (corner >> 1), column = left + (corner & 1);
        if (row < 0 || row >= height || column < 0 || column >= width) continue;
        const share = (corner >> 1 ? down : 1 - down) * (corner & 1 ? across : 1 - across), at = 4 * (row * width + column);
        for (let c = 0; c < 3; c++) pixel[c] += share * (rgba[at + c] - mean[c]);
      }
      for (let c = 0; c < 3; c++) out[q + c] = matrix[3 * c] * pixel[0] + matrix[3 * c + 1] * pixel[1] + matrix[3 * c + 2] * pixel[2] + shift;
      out[q + 3] = 255;
    }
  }
  return out;
}
