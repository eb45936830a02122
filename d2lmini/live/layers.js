// Everything that is drawn over the image, from the back to the front.
import { colorOf, inkOn } from "./drawing.js";
import { bestOverlap } from "./report.js";

const WHITE = { color: "#fff", dashed: true, width: 2 };

/** What a box says: its class and its score. */
export const said = ({ label, score }, classes) => `${classes[label]} ${score.toFixed(2)}`;

/**
 * Boxes and their looks, [[corners, style], …], as `view.boxes` takes them. `above` are the candidates and
 * `found` those that are left, the best first; `chosen` is one of them or none. With `everything` the candidates
 * are drawn too, coloured by `scaleOf` them, and `truth` are the true boxes where they are to be seen, else none.
 */
export function layersOf({ above, found, chosen, everything, truth, drawn }, { anchors, classes, scaleOf }) {
  const candidates = everything ? above.map((one) => [one.box, { color: colorOf(scaleOf(one)), width: 1.25, rim: false }]) : [];
  const own = (one) => ({ color: colorOf(one.label), ink: inkOn(one.label), tag: said(one, classes) });
  const detections = found.map((one) => [one.box, { ...own(one), opacity: chosen && one !== chosen ? 0.45 : 1 }]);
  const layers = [...candidates.reverse(), ...detections.reverse()];
  if (chosen) {
    for (const one of above) if (one.by === chosen) layers.push([one.box, { color: "#fff", width: 1, rim: false }]);
    const anchor = anchors.subarray(4 * chosen.anchor, 4 * chosen.anchor + 4);
    layers.push([anchor, WHITE], [chosen.box, { ...own(chosen), width: 4 }]);
  }
  for (const [i, one] of truth.entries()) {
    const tag = `${i + 1}: ${classes[one.label]} ${bestOverlap(one, found).toFixed(2)}`;
    layers.push([one.box, { ...WHITE, tag, low: true }]);
  }
  if (drawn) layers.push([drawn, WHITE]);
  return layers;
}
