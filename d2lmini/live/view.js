// The image with boxes over it, and the maps of what every anchor says.
import { html, svg } from "./dom.js";
import { colorOf, outline, placeIn, plate } from "./drawing.js";
import { mapShapes } from "./decode.js";
import { clip } from "./nms.js";

/** A canvas with an SVG of the same size over it: an image, and any number of boxes. */
export function makeView() {
  const canvas = html("canvas", { role: "img" }), over = svg("svg", { "aria-hidden": "true" });
  const element = html("div", { class: "view" }, canvas, over);
  let width = 0, height = 0;
  return {
    element, over,
    /** Show a canvas as wide as there is room, at most `most` pixels high. */
    show(image, most = 460) {
      const room = element.parentElement.clientWidth, ratio = image.height / image.width;
      width = Math.max(80, Math.min(room, most / ratio)), height = width * ratio;
      element.style.width = `${width}px`;
      canvas.width = image.width, canvas.height = image.height;
      canvas.getContext("2d").drawImage(image, 0, 0);
      canvas.style.height = `${height}px`;
      over.setAttribute("viewBox", `0 0 ${width} ${height}`);
    },
    /** Draw boxes, the last on top: [[corners, style], …]; `low` puts the name at the lower edge. */
    boxes(list, text) {
      const frame = { left: 0, top: 0, width, height };
      over.replaceChildren(...list.flatMap(([corners, { tag, low, ...style }]) => {
        const place = placeIn(frame, corners), at = low ? { x: place.x, y: place.y + place.height } : place;
        return tag ? [outline(place, style), plate(tag, at, frame, { ...style, opacity: 1 })] : [outline(place, style)];
      }));
      canvas.setAttribute("aria-label", text);
    },
    /** Where in the image a pointer is, as shares of its sides. */
    at(event) {
      const frame = over.getBoundingClientRect();
      return [clip((event.clientX - frame.left) / frame.width), clip((event.clientY - frame.top) / frame.height)];
    },
  };
}

/** For each scale a small map: the highest score of any class at every place. */
export function makeMaps(model, chosen) {
  const classes = model.classes.length;
  let first = 0;
  const maps = mapShapes(model).map((shape, scale) => {
    const canvas = html("canvas", { width: shape.width, height: shape.height, role: "img" });
    const start = first;
    first += shape.height * shape.width * shape.anchors;
    canvas.style.borderColor = colorOf(scale);
    const name = `scale ${scale + 1}: ${shape.height} × ${shape.width} places, ${shape.anchors} anchors at each`;
    canvas.addEventListener("click", (event) => {
      const frame = canvas.getBoundingClientRect();
      const column = Math.min(shape.width - 1, Math.floor(((event.clientX - frame.left) / frame.width) * shape.width));
      const row = Math.min(shape.height - 1, Math.floor(((event.clientY - frame.top) / frame.height) * shape.height));
      if (best.length) chosen(best[row * shape.width + column]);
    });
    let best = [];
    /** Paint the map; `best` remembers the anchor that has it. */
    const paint = (scores) => {
      const image = new ImageData(shape.width, shape.height), [red, green, blue] = rgb(colorOf(scale));
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
    return { paint, element: html("figure", {}, canvas, html("figcaption", {}, `${shape.height} × ${shape.width}`)) };
  });
  return {
    element: html("div", { class: "maps" }, maps.map(({ element }) => element)),
    paint: (scores) => maps.forEach((map) => map.paint(scores)),
  };
}

const rgb = (color) => [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
