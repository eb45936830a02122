// What is behind one box: its anchor, how far it was moved, what it scored, what it removed.
import { html } from "./dom.js";
import { colorOf } from "./drawing.js";
import { placeOf } from "./decode.js";
import { iou } from "./nms.js";

const MOST_ROWS = 8; // of many classes, those with the highest scores

/** What an anchor says of the classes, [[name, value, color], …]: shares with background first, or a score of each. */
function rowsOf(answers, anchor, { classes, scores }) {
  const own = (value, k) => [classes[k], value, colorOf(k)];
  if (scores === "sigmoid") {
    const row = Array.from(answers.scores.subarray(anchor * classes.length, (anchor + 1) * classes.length), own);
    return row.sort((a, b) => b[1] - a[1]).slice(0, MOST_ROWS);
  }
  const [background, ...others] = shares(answers.logits, anchor, classes.length);
  return [["background", background, "var(--soft)"], ...others.map(own)];
}

/** Shares of all classes of one anchor, background first. */
export function shares(logits, anchor, classes) {
  const row = Array.from(logits.subarray(anchor * (classes + 1), (anchor + 1) * (classes + 1)));
  const top = Math.max(...row), powers = row.map((value) => Math.exp(value - top));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

/** The panel for `one`, a candidate or any anchor, among all candidates `above`. */
export function describe(one, above, answers, model) {
  const { scale, row, column } = placeOf(model, one.anchor);
  const at = one.anchor * 4, corners = Array.from(answers.anchors.subarray(at, at + 4));
  const [left, top, right, bottom] = corners.map((v) => v.toFixed(2));
  const moves = Array.from(answers.offsets.subarray(at, at + 4), (v) => String(Number(v.toFixed(1)) + 0).replace("-", "−"));
  return html("div", {},
    html("p", {}, html("strong", {}, `Anchor ${one.anchor}`), ` of scale ${scale + 1}, row ${row + 1}, column ${column + 1}: `,
      `from (${left}, ${top}) to (${right}, ${bottom}). `,
      `Offsets ${moves.join(", ")}: it keeps an IoU of ${iou(corners, one.box).toFixed(2)} with its box.`),
    bars(rowsOf(answers, one.anchor, model)),
    html("p", {}, fate(one, above, model)));
}

/** The class scores as bars with their numbers. */
function bars(rows) {
  return html("table", { class: "bars" }, html("tbody", {}, rows.map(([name, value, color]) => html("tr", {},
    html("th", { scope: "row" }, name),
    html("td", {}, html("i", { style: `width:${(100 * value).toFixed(1)}%;background:${color}` })),
    html("td", {}, value.toFixed(3))))));
}

/** What suppression did to it, or it to others, in a sentence. */
function fate(one, above, model) {
  const name = (other) => `${model.classes[other.label]} ${other.score.toFixed(2)}`;
  if (one.outside) return "None of its scores reaches the threshold, so it was no candidate.";
  if (one.by) return `Removed by ${name(one.by)}, which it overlaps by an IoU of ${iou(one.box, one.by.box).toFixed(2)}.`;
  if (one.was > one.score) return `Its score was ${one.was.toFixed(2)} before better boxes that it overlaps lowered it.`;
  const gone = above.filter(({ by }) => by === one);
  if (!gone.length) return "Kept; it removed no other box.";
  const some = gone.slice(0, 6).map(name).join(", ") + (gone.length > 6 ? ", …" : "");
  return `Kept; it removed ${gone.length} box${gone.length === 1 ? "" : "es"}: ${some}.`;
}
