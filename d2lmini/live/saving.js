// What the reader may take along: the image with its boxes, and the numbers.
import { colorOf, inkOn } from "./drawing.js";
import { said } from "./layers.js";
import { outOfSquare } from "./pixels.js";

/** Hand the reader a file. */
export function save(blob, name) {
  const url = URL.createObjectURL(blob), link = document.createElement("a");
  link.href = url, link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** A canvas with the image, and every box with its class and score; lines and type grow with it. */
export function drawDetections({ shown, place }, found, classes) {
  const canvas = document.createElement("canvas");
  const width = Math.round(place.width * shown.width), height = Math.round(place.height * shown.height);
  canvas.width = width, canvas.height = height;
  const pen = canvas.getContext("2d"), type = Math.max(12, Math.round(Math.max(width, height) / 45));
  pen.drawImage(shown, Math.round(-place.left * shown.width), Math.round(-place.top * shown.height));
  pen.font = `600 ${type}px sans-serif`, pen.lineWidth = Math.max(2, type / 6), pen.textBaseline = "top";
  for (const one of inImage(found, place).reverse()) {
    const { box, label } = one, text = said(one, classes);
    const [left, top, right, bottom] = box.map((v, i) => v * (i % 2 ? height : width));
    pen.strokeStyle = pen.fillStyle = colorOf(label);
    pen.strokeRect(left, top, right - left, bottom - top);
    const y = Math.max(0, top - type * 1.3);
    pen.fillRect(left, y, pen.measureText(text).width + 8, type * 1.3);
    pen.fillStyle = inkOn(label);
    pen.fillText(text, left + 4, y + 2);
  }
  return canvas;
}

/** Detections with boxes as shares of the image, without those in a band beside it. */
const inImage = (found, place) =>
  found.map((one) => ({ ...one, box: outOfSquare(one.box, place) })).filter(({ box }) => box);

/** The same record as `python -m d2lmini detect` writes: boxes in pixels of the image, rounded alike. */
export function recordOf({ name, width, height, place }, found, classes) {
  const detections = inImage(found, place).map(({ box, label, score }) => ({
    class: classes[label],
    score: Number(score.toFixed(4)),
    box: box.map((v, i) => Number((v * (i % 2 ? height : width)).toFixed(1))),
  }));
  return { image: name, width, height, detections };
}
