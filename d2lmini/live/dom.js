// Elements, arrow keys, and the line under a figure that says what is to be seen.

/** Give an element attributes, listeners ("onclick") and children; what is null or false is left out. */
export function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}
export const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/** Where an arrow key points, as steps to the right and down; undefined for other keys, which keep what they do. */
export function arrow(event) {
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (way) event.preventDefault();
  return way;
}

/**
 * The line of a figure that tells its state: { element, tell, end }. A screen reader hears where a movement ends,
 * not every step of it. The state also stands in the data-state of the figure, the element around the line.
 */
export function makeReadout() {
  const element = html("p", { class: "readout", "aria-live": "polite" });
  let spoken = 0;
  return {
    element,
    tell(text) {
      element.setAttribute("aria-busy", "true");
      element.textContent = text;
      element.parentElement.dataset.state = text;
      clearTimeout(spoken);
      spoken = setTimeout(() => element.removeAttribute("aria-busy"), 400);
    },
    end: () => clearTimeout(spoken),
  };
}
