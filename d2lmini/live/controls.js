// The few controls that the page is made of; each is { element, value }.
import { html } from "./dom.js";

/** A slider with its value. */
export function slider(name, [low, high, step], value, changed) {
  const input = html("input", { type: "range", min: low, max: high, step, value });
  const digits = Number.isInteger(step) ? 0 : 2, shown = html("output", {}, value.toFixed(digits));
  input.addEventListener("input", () => {
    shown.textContent = Number(input.value).toFixed(digits);
    changed();
  });
  return { element: html("label", { class: "knob" }, html("span", {}, name), input, shown), get value() { return Number(input.value); } };
}

/** A box to tick. */
export function tick(name, checked, changed) {
  const input = html("input", { type: "checkbox", onchange: changed });
  input.checked = checked;
  return {
    element: html("label", { class: "tick" }, input, html("span", {}, name)),
    get value() { return input.checked; },
    set value(on) { input.checked = on; },
  };
}

/** A list to choose from: [[value, text], …]. */
export function choice(name, options, changed) {
  const select = html("select", { onchange: changed }, options.map(([value, text]) => html("option", { value }, text)));
  return { element: html("label", { class: "knob" }, html("span", {}, name), select), get value() { return select.value; } };
}
