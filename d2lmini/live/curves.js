// Curves over the steps of a training, drawn as it goes.
import { svg } from "./dom.js";
import { colorOf } from "./drawing.js";

const SIZE = { width: 320, height: 130, left: 34, bottom: 18, top: 16 };

/**
 * A chart of `steps` steps: { element, show }. `show(runs)` draws curves [{ name, points: [[step, value], …], color, dashed }];
 * the largest value seen, or `most`, is at its top.
 */
export function makeCurves(title, steps, most = null) {
  const plot = svg("g"), label = svg("text", { x: SIZE.left, y: 11 }, title);
  const element = svg("svg", { viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, class: "curves", role: "img", "aria-label": title }, label, plot);
  return {
    element,
    show(runs, last = steps) {
      const values = runs.flatMap(({ points }) => points.map(([, value]) => value)), top = most ?? Math.max(1e-6, ...values);
      const x = (step) => SIZE.left + (step / last) * (SIZE.width - SIZE.left - 6), y = (value) => SIZE.height - SIZE.bottom - (Math.min(value, top) / top) * (SIZE.height - SIZE.bottom - SIZE.top);
      const ticks = [0, top / 2, top].flatMap((value) => [
        svg("line", { x1: SIZE.left, x2: SIZE.width - 6, y1: y(value), y2: y(value), class: "grid" }),
        svg("text", { x: SIZE.left - 4, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(top >= 10 ? 0 : 1)),
      ]);
      const names = runs.map(({ name, color = colorOf(0) }, i) => svg("text", { x: SIZE.width - 8, y: 11 + 12 * i, "text-anchor": "end", fill: color }, name ?? ""));
      const lines = runs.map(({ points, color = colorOf(0), dashed }) => svg("polyline", {
        points: points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" "),
        fill: "none", stroke: color, "stroke-width": 2, "stroke-dasharray": dashed ? "5 3" : null,
      }));
      const tips = runs.filter(({ points }) => points.length).map(({ points, color = colorOf(0) }) => svg("circle", { cx: x(points.at(-1)[0]), cy: y(points.at(-1)[1]), r: 3, fill: color }));
      plot.replaceChildren(...ticks, svg("text", { x: SIZE.width - 6, y: SIZE.height - 4, "text-anchor": "end" }, `step ${last}`), ...lines, ...tips, ...names);
      const ends = runs.map(({ name, points }) => `${name ? `${name}: ` : ""}${points.length ? points.at(-1)[1].toFixed(2) : "nothing yet"}`);
      element.setAttribute("aria-label", `${title}: ${ends.join(", ")}`);
    },
  };
}
