// Files of any kind to the pixels that the network sees, and to a drawing that fits the page.
import { plainFile } from "./file.js";
import { placement, resize, withBands } from "./pixels.js";

const MEGAPIXELS = 89; // what Python refuses too
const UNREADABLE = "your browser cannot read this file as an image: save it as JPEG or PNG (HEIC and TIFF are rarely read)";
const SHOWN = 1600; // pixels of the longer side of what is drawn and saved

/** A blob as { name, width, height, place, rgba, shown }: the network's pixels, and a canvas to look at. */
export async function readImage(blob, name, model) {
  const bitmap = await decodeFile(blob);
  try {
    return { name, ...fromBitmap(bitmap, bitmap.width, bitmap.height, model) };
  } finally {
    bitmap.close();
  }
}

/**
 * The same of anything that a canvas can draw: a bitmap, or a frame of a video. `shown` is the network's square
 * in the image's own shape, with the bands of a letterbox; `place` says where in it the image is.
 */
export function fromBitmap(source, width, height, { size, resize_mode }) {
  const inner = placement(width, height, size, resize_mode);
  const pixels = resize(strips(source, width, height), width, height, inner.width, inner.height);
  const { rgba, band } = withBands(pixels, inner, size);
  const place = { left: inner.left / size[1], top: inner.top / size[0], width: inner.width / size[1], height: inner.height / size[0] };
  const scale = Math.min(1, SHOWN / Math.max(width, height));
  const shown = document.createElement("canvas"), pixel = (v) => Math.max(1, Math.round(v));
  shown.width = pixel((width * scale) / place.width), shown.height = pixel((height * scale) / place.height);
  const context = filled(shown, band), { left, top } = place;
  const at = [left * shown.width, top * shown.height, pixel(place.width * shown.width), pixel(place.height * shown.height)];
  context.fillStyle = "#fff";
  context.fillRect(...at);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, ...at);
  return { width, height, place, rgba, shown };
}

/** Turned as its EXIF orientation says, colours as they are in the file; Pillow does the same. */
async function decodeFile(file) {
  const blob = new Blob([plainFile(new Uint8Array(await file.arrayBuffer()))], { type: file.type });
  const { width, height } = await measure(blob);
  if (width * height > MEGAPIXELS * 1e6) {
    throw new Error(`the image has ${Math.round(width * height / 1e6)} megapixels: make it smaller first (${MEGAPIXELS} at most)`);
  }
  return createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
}

/** Width and height of a file, before all of it is decoded. */
async function measure(blob) {
  const url = URL.createObjectURL(blob), image = new Image();
  try {
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = () => reject(new Error(UNREADABLE));
      image.src = url;
    });
    if (!image.naturalWidth || !image.naturalHeight) throw new Error("this image has no size: save it as JPEG or PNG");
    return { width: image.naturalWidth, height: image.naturalHeight };
  } finally {
    URL.revokeObjectURL(url);
  }
}

/** A function that reads some rows of an image, transparent parts on white. */
function strips(source, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  let context = null;
  return (top, rows) => {
    if (canvas.height !== rows || !context) {
      canvas.height = rows;
      context = filled(canvas, "#fff");
    } else {
      context.fillRect(0, 0, width, rows);
    }
    context.drawImage(source, 0, -top, width, height);
    return context.getImageData(0, 0, width, rows).data;
  };
}

function filled(canvas, color) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = color;
  context.fillRect(0, 0, canvas.width, canvas.height);
  return context;
}
