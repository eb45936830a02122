// How good is a list of boxes, given the true ones? As `evaluate.evaluate` counts, for one image.
import { iou } from "./nms.js";

/**
 * Give each detection, best first, the free true box of its class that it overlaps most, if by `enough`.
 * Returns for each detection the index of its true box, or −1.
 */
export function assign(found, truth, enough) {
  const taken = new Set();
  return found.map((one) => {
    let best = -1, most = enough;
    truth.forEach((true_, i) => {
      const overlap = true_.label === one.label && !taken.has(i) ? iou(one.box, true_.box) : -1;
      if (overlap >= most) [best, most] = [i, overlap];
    });
    if (best >= 0) taken.add(best);
    return best;
  });
}

/** True and false positives and missed objects of a list, with precision and recall. */
export function count(found, truth, enough = 0.5) {
  const matches = assign(found, truth, enough), right = matches.filter((i) => i >= 0).length;
  return {
    matches, right, wrong: found.length - right, missed: truth.length - right,
    precision: found.length ? right / found.length : NaN,
    recall: truth.length ? right / truth.length : NaN,
  };
}

/**
 * COCO's AP at one IoU over images [{ found, truth }]: precision at 101 levels of recall, mean over the classes that
 * are there.
 */
export function averagePrecision(images, enough) {
  const labels = [...new Set(images.flatMap(({ truth }) => truth.map(({ label }) => label)))];
  const values = labels.map((label) => {
    const of = (list) => list.filter((one) => one.label === label), objects = images.reduce((sum, { truth }) => sum + of(truth).length, 0);
    const ranked = images.flatMap(({ found, truth }) => {
      const mine = of(found);
      return assign(mine, of(truth), enough).map((match, i) => ({ score: mine[i].score, right: match >= 0 }));
    }).sort((a, b) => b.score - a.score);
    let hits = 0;
    const curve = ranked.map(({ right }, i) => {
      hits += right;
      return { recall: hits / objects, precision: hits / (i + 1) };
    });
    for (let i = curve.length - 2; i >= 0; i--) curve[i].precision = Math.max(curve[i].precision, curve[i + 1].precision);
    const levels = Array.from({ length: 101 }, (_, i) => i / 100);
    return mean(levels.map((level) => curve.find(({ recall }) => recall >= level)?.precision ?? 0));
  });
  return mean(values);
}

/** AP as COCO reports it: the mean over IoUs, ten from 0.50 to 0.95. */
export const meanAP = (images, ious = Array.from({ length: 10 }, (_, i) => 0.5 + 0.05 * i)) =>
  mean(ious.map((enough) => averagePrecision(images, enough)));

const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
