// Boxes with their names over an image, in the figures of the book and in the live detector.
import { svg } from "./dom.js";

/** The colours of classes and of whatever else is told apart: those of d2lmini.plots. */
export const PALETTE = ["#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2"];
export const colorOf = (label) => PALETTE[label % PALETTE.length];
/** The ink to write on that. */
export const inkOn = (label) => (label % PALETTE.length === 6 ? "#fff" : "#000");

/** Corners, as shares of a frame { left, top, width, height }, as a rectangle in its pixels. */
export const placeIn = ({ left, top, width, height }, [x0, y0, x1, y1]) => ({
  x: left + x0 * width, y: top + y0 * height, width: Math.max(0, (x1 - x0) * width), height: Math.max(0, (y1 - y0) * height),
});

/** The outline of a box, with a dark rim; dashed is ground truth, solid is what a network says. */
export function outline(place, { color = PALETTE[0], dashed = false, width = 2.5, rim = true, fillOpacity = 0, opacity = 1 }) {
  const dashes = dashed ? `${2 * width} ${1.6 * width}` : null, fill = fillOpacity ? color : "none";
  return svg("g", { opacity },
    rim ? svg("rect", { ...place, fill: "none", stroke: "#101010", "stroke-width": width + 1.5 }) : null,
    svg("rect", { ...place, fill, "fill-opacity": fillOpacity || null, stroke: color, "stroke-width": width, "stroke-dasharray": dashes }));
}

/** A name plate at the upper edge of a box, kept inside the frame. */
export function plate(text, place, { left, top, width, height }, { color = PALETTE[0], ink = "#000", opacity = 1 }) {
  const wide = 7 * text.length + 8;
  const x = Math.min(Math.max(place.x, left), Math.max(left, left + width - wide));
  const y = Math.min(Math.max(place.y - 17, top), top + height - 17);
  return svg("g", { class: "tag", opacity },
    svg("rect", { x, y, width: wide, height: 17, fill: color }),
    svg("text", { x: x + 4, y: y + 12.5, fill: ink }, text));
}
