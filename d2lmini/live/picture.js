// Files of any kind to the pixels that the network sees, and to a drawing that fits the page.
import { resize } from "./pixels.js";

const MEGAPIXELS = 89; // what Python refuses too
const UNREADABLE = "your browser cannot read this file as a picture: save it as JPEG or PNG (HEIC and TIFF are rarely read)";
const SHOWN = 1600; // pixels of the longer side of what is drawn and saved

/** A blob as { name, width, height, rgba, shown }: the network's pixels, and a canvas to look at. */
export async function readPicture(blob, name, size) {
  const bitmap = await decodeFile(blob);
  try {
    return { name, ...fromBitmap(bitmap, bitmap.width, bitmap.height, size) };
  } finally {
    bitmap.close();
  }
}

/** The same of anything that a canvas can draw: a bitmap, or a frame of a video. */
export function fromBitmap(source, width, height, size) {
  const rgba = resize(strips(source, width, height), width, height, size[1], size[0]);
  const scale = Math.min(1, SHOWN / Math.max(width, height));
  const shown = document.createElement("canvas");
  shown.width = Math.max(1, Math.round(width * scale)), shown.height = Math.max(1, Math.round(height * scale));
  const context = onWhite(shown);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, shown.width, shown.height);
  return { width, height, rgba, shown };
}

/** Turned as its EXIF orientation says, colours as they are in the file; Pillow does the same. */
async function decodeFile(blob) {
  const { width, height } = await measure(blob);
  if (width * height > MEGAPIXELS * 1e6) {
    throw new Error(`the picture has ${Math.round(width * height / 1e6)} megapixels: make it smaller first (${MEGAPIXELS} at most)`);
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
    if (!image.naturalWidth || !image.naturalHeight) throw new Error("this picture has no size: save it as JPEG or PNG");
    return { width: image.naturalWidth, height: image.naturalHeight };
  } finally {
    URL.revokeObjectURL(url);
  }
}

/** A function that reads some rows of a picture, transparent parts on white. */
function strips(source, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  let context = null;
  return (top, rows) => {
    if (canvas.height !== rows || !context) {
      canvas.height = rows;
      context = onWhite(canvas);
    } else {
      context.fillRect(0, 0, width, rows);
    }
    context.drawImage(source, 0, -top, width, height);
    return context.getImageData(0, 0, width, rows).data;
  };
}

function onWhite(canvas) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  return context;
}
