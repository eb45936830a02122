// Elements, and the few controls that the page is made of.

/** Give an element attributes, listeners ("onclick") and children; what is null or false is left out. */
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}
export const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const s = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/** The colours of classes and scales, those of show.py, and the ink to write on each. */
const COLOURS = ["#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2"];
export const colourOf = (label) => COLOURS[label % COLOURS.length];
export const inkOn = (label) => (label % COLOURS.length === 6 ? "#fff" : "#000");

/** A slider with its value: { element, value, disabled }. */
export function slider(name, [low, high, step], value, changed) {
  const input = h("input", { type: "range", min: low, max: high, step, value });
  const shown = h("output", {}, value.toFixed(2));
  input.addEventListener("input", () => {
    shown.textContent = Number(input.value).toFixed(2);
    changed();
  });
  return { element: h("label", { class: "knob" }, h("span", {}, name), input, shown), get value() { return Number(input.value); } };
}

/** A box to tick. */
export function tick(name, checked, changed) {
  const input = h("input", { type: "checkbox", onchange: changed });
  input.checked = checked;
  return {
    element: h("label", { class: "tick" }, input, h("span", {}, name)),
    get value() { return input.checked; },
    set value(on) { input.checked = on; },
  };
}

/** A list to choose from: [[value, text], …]. */
export function choice(name, options, changed) {
  const select = h("select", { onchange: changed }, options.map(([value, text]) => h("option", { value }, text)));
  return { element: h("label", { class: "knob" }, h("span", {}, name), select), get value() { return select.value; } };
}
