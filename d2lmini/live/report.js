// How the boxes fare against the true ones: a small table, and the IoU of every true box.
import { html } from "./dom.js";
import { iou } from "./nms.js";
import { averagePrecision, count, meanAP } from "./scoring.js";

/** The largest IoU of a true box with a box of its class, 0 if there is none. */
export const bestOverlap = (one, found) =>
  Math.max(0, ...found.filter(({ label }) => label === one.label).map(({ box }) => iou(box, one.box)));

/** The table for `found`; `every` are the boxes from the lowest score on, which AP counts. */
export function reportOn(found, every, truth, least) {
  if (!truth.length) return html("p", {}, "Draw a true box: drag over the image, or press “add a true box”.");
  const { right, wrong, missed, precision, recall } = count(found, truth);
  const share = (value) => (Number.isNaN(value) ? "–" : value.toFixed(2));
  const columns = [
    ["true positives", right], ["false positives", wrong], ["missed", missed],
    ["precision", share(precision)], ["recall", share(recall)],
    ["AP50", share(averagePrecision([{ found: every, truth }], 0.5))], ["AP", share(meanAP([{ found: every, truth }]))],
  ];
  const overlaps = truth.map((one) => bestOverlap(one, found).toFixed(2)).join(", ");
  return html("div", {},
    html("table", {}, html("tbody", {},
      html("tr", {}, columns.map(([name]) => html("th", { scope: "col" }, name))),
      html("tr", {}, columns.map(([, value]) => html("td", {}, String(value)))))),
    html("p", {}, `IoU of the true boxes, in order, with the best box of their class: ${overlaps}. `,
      `From 0.50 on a box is right. AP counts every box from a score of ${least} on.`));
}
