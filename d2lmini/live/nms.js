// From scores and boxes of every anchor to a short list, step for step what `detect.detect` does, in float32.
import { f } from "./decode.js";

/** Intersection over union of two corner boxes; 0 where one has no area. */
export function iou(a, b) {
  const width = f(Math.min(a[2], b[2]) - Math.max(a[0], b[0])), height = f(Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const shared = f(Math.max(0, width) * Math.max(0, height));
  return shared > 0 ? f(shared / f(f(area(a) + area(b)) - shared)) : 0;
}
const area = (box) => f(f(box[2] - box[0]) * f(box[3] - box[1]));

export const clip = (value) => Math.min(1, Math.max(0, value));

/**
 * The pairs of an anchor and a class that score at least `score`, best first, at most `topK` of them:
 * [{ anchor, label, score, box }]. Boxes are clipped to the image; those with nothing left are dropped.
 */
export function candidates({ scores, boxes }, { score, topK = 400 }) {
  const least = f(score), classes = scores.length / (boxes.length / 4), found = [];
  for (let i = 0; i < scores.length; i++) if (scores[i] >= least) found.push(i);
  found.sort((a, b) => scores[b] - scores[a]); // stable: among equals the earlier one stays first
  return found.slice(0, topK).map((pair) => {
    const anchor = Math.floor(pair / classes);
    const box = Array.from(boxes.subarray(4 * anchor, 4 * anchor + 4), clip);
    return { anchor, label: pair % classes, score: scores[pair], box };
  }).filter(({ box }) => box[2] > box[0] && box[3] > box[1]);
}

/**
 * Greedy non-maximum suppression: `list` is sorted, best first. Each entry learns `by`, the kept one that
 * removed it, or null. Among boxes of one class only, unless `aware` is false.
 */
export function suppress(list, { iou: threshold, aware = true }) {
  const most = f(threshold), kept = [];
  for (const one of list) {
    const by = kept.find((better) => (!aware || better.label === one.label) && iou(better.box, one.box) > most);
    one.by = by ?? null;
    if (!by) kept.push(one);
  }
  return kept;
}

/**
 * Soft-NMS: overlapping boxes lose score instead of their place. Returns copies with the score that each
 * had when it was taken (`was` keeps the first), at most `most` of them, none below `score`.
 */
export function soften(list, { method, iou: threshold, sigma = 0.5, aware = true, score, most = 100 }) {
  const least = f(score), left = list.map((one) => ({ ...one, was: one.score, by: null })), taken = [];
  while (left.length && taken.length < most) {
    let best = 0;
    left.forEach((one, i) => { if (one.score > left[best].score) best = i; });
    const [chosen] = left.splice(best, 1);
    if (!(chosen.score > 0) || chosen.score < least) break;
    taken.push(chosen);
    for (const other of left) {
      if (aware && other.label !== chosen.label) continue;
      other.score = f(other.score * factor(iou(chosen.box, other.box), method, threshold, sigma));
    }
  }
  return taken;
}

/** What a score is multiplied by, from the IoU with the box just taken: `detect.soft_factor`. */
function factor(overlap, method, threshold, sigma) {
  if (method === "gaussian") return f(Math.exp(f(-f(overlap * overlap) / f(sigma))));
  return overlap > f(threshold) ? f(1 - overlap) : 1;
}

/** All of it: candidates and what is left of them by the chosen method, "hard", "linear" or "gaussian". */
export function detect(answers, { method = "hard", most = 100, ...options }) {
  const above = candidates(answers, options);
  const found = method === "hard" ? suppress(above, options).slice(0, most) : soften(above, { method, most, ...options });
  return { above, found };
}
