// Files in one: a zip without compression out, any zip in. Photographs are compressed already.

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function checksum(bytes) {
  let sum = 0xffffffff;
  for (let i = 0; i < bytes.length; i++) sum = TABLE[(sum ^ bytes[i]) & 255] ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}

/** A record of a zip: numbers of two or four bytes, [[value, bytes], …]. */
function fields(list) {
  const view = new DataView(new ArrayBuffer(list.reduce((sum, [, size]) => sum + size, 0)));
  list.reduce((at, [value, size]) => (size === 2 ? view.setUint16(at, value, true) : view.setUint32(at, value, true), at + size), 0);
  return new Uint8Array(view.buffer);
}

/** A zip of files { name: Uint8Array }, as a Blob. */
export function makeZip(files) {
  const parts = [], entries = [];
  let at = 0;
  for (const [name, bytes] of Object.entries(files)) {
    const title = new TextEncoder().encode(name), size = bytes.length;
    const common = [[20, 2], [0x0800, 2], [0, 2], [0, 2], [0x21, 2], [checksum(bytes), 4], [size, 4], [size, 4], [title.length, 2], [0, 2]]; // names are UTF-8
    parts.push(fields([[0x04034b50, 4], ...common]), title, bytes);
    entries.push(fields([[0x02014b50, 4], [20, 2], ...common, [0, 2], [0, 2], [0, 2], [0, 4], [at, 4]]), title);
    at += 30 + title.length + size;
  }
  const length = entries.reduce((sum, part) => sum + part.length, 0), count = entries.length / 2;
  return new Blob([...parts, ...entries, fields([[0x06054b50, 4], [0, 2], [0, 2], [count, 2], [count, 2], [length, 4], [at, 4], [0, 2]])], { type: "application/zip" });
}

/** The files of a zip: { name: Uint8Array }, folders left out. */
export async function readZip(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer()), view = new DataView(bytes.buffer), files = {};
  let end = bytes.length - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end--;
  if (end < 0) throw new Error("this is no zip file, or its end is missing");
  let at = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    if (at + 46 > bytes.length || view.getUint32(at, true) !== 0x02014b50) throw new Error("the list of this zip's files is damaged");
    const method = view.getUint16(at + 10, true), size = view.getUint32(at + 20, true), long = view.getUint16(at + 28, true);
    const name = new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + long)), local = view.getUint32(at + 42, true);
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true), packed = bytes.slice(start, start + size);
    if (!name.endsWith("/")) files[name] = method === 0 ? packed : await inflate(packed, name);
    at += 46 + long + view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
  }
  return files;
}

async function inflate(packed, name) {
  try {
    return new Uint8Array(await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"))).arrayBuffer());
  } catch {
    throw new Error(`${name} cannot be unpacked: pack the zip again`);
  }
}
