// The picture with boxes over it, and the maps of what every anchor says.
import { colourOf, h, inkOn, s } from "./dom.js";
import { mapShapes } from "./decode.js";
import { clip } from "./nms.js";

/** A canvas with an SVG of the same size over it; `draw` shows a picture and any number of boxes. */
export function makeView() {
  const canvas = h("canvas", { role: "img" }), over = s("svg", { "aria-hidden": "true" });
  const element = h("div", { class: "view" }, canvas, over);
  let width = 0, height = 0;
  /** Corners, as shares of the picture, as a rectangle in pixels of the page. */
  const place = ([left, top, right, bottom]) => ({
    x: left * width, y: top * height, width: Math.max(0, (right - left) * width), height: Math.max(0, (bottom - top) * height),
  });
  const box = (corners, { colour, dashed, thick = 2.5, tag, low, label = 0, faint = 1 }) => {
    const at = place(corners), line = { ...at, fill: "none", "stroke-dasharray": dashed ? "5 4" : null, opacity: faint };
    return [
      thick > 1.5 ? s("rect", { ...line, stroke: "#101010", "stroke-width": thick + 1.5 }) : null,
      s("rect", { ...line, stroke: colour, "stroke-width": thick }),
      ...(tag ? plate(tag, low ? { x: at.x, y: at.y + at.height } : at, colour, inkOn(label)) : []),
    ];
  };
  const plate = (text, at, colour, ink) => {
    const wide = 7 * text.length + 8, x = Math.min(Math.max(at.x, 0), Math.max(0, width - wide));
    const y = Math.min(Math.max(at.y - 17, 0), height - 17);
    return [s("rect", { x, y, width: wide, height: 17, fill: colour }), s("text", { x: x + 4, y: y + 12.5, fill: ink }, text)];
  };
  return {
    element, over,
    /** Show a canvas as wide as there is room, at most `most` pixels high. */
    show(picture, most = 460) {
      const room = element.parentElement.clientWidth, ratio = picture.height / picture.width;
      width = Math.max(80, Math.min(room, most / ratio)), height = width * ratio;
      element.style.width = `${width}px`;
      canvas.width = picture.width, canvas.height = picture.height;
      canvas.getContext("2d").drawImage(picture, 0, 0);
      canvas.style.height = `${height}px`;
      over.setAttribute("viewBox", `0 0 ${width} ${height}`);
    },
    /** Draw boxes, the last on top: [[corners, style], …]. */
    boxes(list, text) {
      over.replaceChildren(...list.flatMap(([corners, style]) => box(corners, style)).filter(Boolean));
      canvas.setAttribute("aria-label", text);
    },
    /** Where in the picture a pointer is, as shares of its sides. */
    at(event) {
      const frame = over.getBoundingClientRect();
      return [clip((event.clientX - frame.left) / frame.width), clip((event.clientY - frame.top) / frame.height)];
    },
  };
}

/** For each scale a small map: how sure its surest anchor at every place is of any class. */
export function makeMaps(model, chosen) {
  const classes = model.classes.length;
  let first = 0;
  const maps = mapShapes(model).map((shape, scale) => {
    const canvas = h("canvas", { width: shape.width, height: shape.height, role: "img" });
    const start = first;
    first += shape.height * shape.width * shape.anchors;
    canvas.style.borderColor = colourOf(scale);
    const name = `scale ${scale + 1}: ${shape.height} × ${shape.width} places, ${shape.anchors} anchors at each`;
    canvas.addEventListener("click", (event) => {
      const frame = canvas.getBoundingClientRect();
      const column = Math.min(shape.width - 1, Math.floor(((event.clientX - frame.left) / frame.width) * shape.width));
      const row = Math.min(shape.height - 1, Math.floor(((event.clientY - frame.top) / frame.height) * shape.height));
      if (best.length) chosen(best[row * shape.width + column]);
    });
    let best = [];
    /** Paint the map; `best` remembers the surest anchor of every place. */
    const paint = (scores) => {
      const image = new ImageData(shape.width, shape.height), [red, green, blue] = rgb(colourOf(scale));
      best = [];
      let most = 0;
      for (let place = 0; place < shape.width * shape.height; place++) {
        let top = 0, anchor = start + place * shape.anchors;
        for (let pair = anchor * classes; pair < (start + (place + 1) * shape.anchors) * classes; pair++) {
          if (scores[pair] > top) [top, anchor] = [scores[pair], Math.floor(pair / classes)];
        }
        best.push(anchor);
        most = Math.max(most, top);
        image.data.set([red, green, blue, Math.round(255 * Math.sqrt(top))], 4 * place);
      }
      canvas.getContext("2d").putImageData(image, 0, 0);
      canvas.setAttribute("aria-label", `${name}; the highest score is ${most.toFixed(2)}`);
    };
    canvas.setAttribute("aria-label", name);
    return { paint, element: h("figure", {}, canvas, h("figcaption", {}, `${shape.height} × ${shape.width}`)) };
  });
  return {
    element: h("div", { class: "maps" }, maps.map(({ element }) => element)),
    paint: (scores) => maps.forEach((map) => map.paint(scores)),
  };
}

const rgb = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
