// An image file as all browsers read it alike: without what describes its colors, and refused where it is cut.
//
// Python and some engines take the numbers in a file as they are, others convert them by the profile that the
// file carries. Without profile and gamma there is nothing to convert. A file that ends early is half an image
// in one engine, an empty one in another and an error in the third and in Python.

const CUT = "the file ends too early, so a part of the image is missing: copy it again";
const COLORS = ["iCCP", "gAMA", "cHRM", "sRGB", "cICP", "mDCV", "cLLI"]; // chunks of PNG
const ICC = "ICC_PROFILE\0";

const text = (bytes, at, length) => String.fromCharCode(...bytes.subarray(at, at + length));
const view = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** The bytes of a file less its color profile; an error where a JPEG, PNG or WebP is cut. Others stay as they are. */
export function plainFile(bytes) {
  if (bytes[0] === 0xff && bytes[1] === 0xd8) return join(plainJpeg(bytes));
  if (text(bytes, 1, 3) === "PNG") return join(plainPng(bytes));
  if (text(bytes, 0, 4) === "RIFF" && text(bytes, 8, 4) === "WEBP") return plainWebp(bytes);
  return bytes;
}

/** Segments up to the scan, which has to come to an end marker. */
function plainJpeg(bytes) {
  const kept = [bytes.subarray(0, 2)], data = view(bytes);
  let at = 2;
  while (at + 4 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda) {
    if (bytes[at + 1] === 0xff) { // a fill byte
      at++;
      continue;
    }
    const end = at + 2 + data.getUint16(at + 2);
    const profile = bytes[at + 1] === 0xe2 && text(bytes, at + 4, ICC.length) === ICC;
    if (!profile) kept.push(bytes.subarray(at, end));
    at = end;
  }
  let last = bytes.length - 2;
  while (last > at && !(bytes[last] === 0xff && bytes[last + 1] === 0xd9)) last--;
  if (last <= at) throw new Error(CUT);
  return [...kept, bytes.subarray(at)];
}

function plainPng(bytes) {
  const kept = [bytes.subarray(0, 8)], data = view(bytes);
  for (let at = 8, name = ""; name !== "IEND";) {
    if (at + 12 > bytes.length) throw new Error(CUT);
    const end = at + 12 + data.getUint32(at);
    if (end > bytes.length) throw new Error(CUT);
    name = text(bytes, at + 4, 4);
    if (!COLORS.includes(name)) kept.push(bytes.subarray(at, end));
    at = end;
  }
  return kept;
}

function plainWebp(bytes) {
  const data = view(bytes), kept = [bytes.slice(0, 12)], size = data.getUint32(4, true) + 8;
  if (size > bytes.length) throw new Error(CUT);
  for (let at = 12; at + 8 <= size;) {
    const length = data.getUint32(at + 4, true), end = at + 8 + length + (length & 1), name = text(bytes, at, 4);
    if (name !== "ICCP") kept.push(bytes.slice(at, end));
    if (name === "VP8X") kept.at(-1)[8] &= ~0x20; // there is no profile any more
    at = end;
  }
  const whole = join(kept);
  view(whole).setUint32(4, whole.length - 8, true);
  return whole;
}

function join(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) whole.set(part, at), at += part.length;
  return whole;
}
