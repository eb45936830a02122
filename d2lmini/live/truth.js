// True boxes: those of a sample, or those that the reader draws, by pointer or by keyboard.
import { arrow, html } from "./dom.js";

const STEP = 0.01, SMALLEST = 0.02; // of the image's sides: a key's move, the smallest box

/** The list of true boxes with its controls. `view` is where they are drawn, `changed` is called after every change. */
export function makeTruth(view, classes, changed) {
  let boxes = [], on = false, start = null, drawn = null;
  const list = html("ul", { class: "truths" });
  const update = () => {
    list.replaceChildren(...boxes.map(entry));
    changed();
  };
  const entry = (one, i) => html("li", {},
    html("button", {
      type: "button", "aria-label": `true box ${i + 1}: arrow keys move it, with Shift they resize it`,
      onkeydown: (event) => nudge(event, one),
    }, `${i + 1}`),
    html("select", {
      "aria-label": `class of true box ${i + 1}`,
      onchange: (event) => { one.label = event.target.selectedIndex; changed(); },
    }, classes.map((name, k) => html("option", { selected: k === one.label }, name))),
    html("button", { type: "button", "aria-label": `remove true box ${i + 1}`, onclick: () => remove(one) }, "remove"));

  function remove(one) {
    boxes = boxes.filter((other) => other !== one);
    update();
  }

  function nudge(event, one) {
    const way = arrow(event);
    if (!way) return;
    const [left, top, right, bottom] = one.box, [x, y] = way.map((v) => v * STEP);
    const moved = event.shiftKey ? [left, top, right + x, bottom + y] : [left + x, top + y, right + x, bottom + y];
    if (moved.every((v) => v >= 0 && v <= 1) && moved[2] - moved[0] >= SMALLEST && moved[3] - moved[1] >= SMALLEST) one.box = moved;
    changed();
  }

  const { over } = view;
  over.addEventListener("pointerdown", (event) => {
    if (!on || event.button) return;
    start = view.at(event);
    over.setPointerCapture(event.pointerId);
  });
  over.addEventListener("pointermove", (event) => {
    if (!start) return;
    const [x, y] = view.at(event), [x0, y0] = start;
    drawn = [Math.min(x, x0), Math.min(y, y0), Math.max(x, x0), Math.max(y, y0)];
    changed();
  });
  over.addEventListener("pointerup", () => {
    const done = drawn;
    start = drawn = null;
    if (done && done[2] - done[0] >= SMALLEST && done[3] - done[1] >= SMALLEST) add(done);
    else changed();
  });
  over.addEventListener("pointercancel", () => { start = drawn = null; changed(); });

  function add(box, label = boxes.at(-1)?.label ?? 0) {
    boxes.push({ box, label });
    update();
  }
  return {
    element: list,
    get boxes() { return boxes; },
    get drawn() { return drawn; },
    get drawing() { return on && Boolean(start); },
    set on(value) {
      on = value;
      over.classList.toggle("marking", on);
    },
    /** Replace all boxes, those of a sample for instance. */
    set(fresh) {
      boxes = fresh.map((one) => ({ ...one }));
      update();
    },
    add: () => add([0.3, 0.3, 0.7, 0.7]),
    focusLast: () => list.querySelector("li:last-child button")?.focus(),
  };
}
