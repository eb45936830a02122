// Which anchor is responsible for which object, and what it has to learn: `matching.match` of the package.
import { f } from "./decode.js";
import { iou } from "./nms.js";

/**
 * The index of each anchor's object, or −1 (A,): the largest IoU of the whole table takes an anchor for its object,
 * until each object has one of its own; then every other anchor takes the object that it overlaps most, from
 * `threshold` on. Among equals the lower anchor wins, then the lower object. `boxes` are [[x0, y0, x1, y1], …].
 */
export function assignObjects(anchors, boxes, threshold = 0.5) {
  const count = anchors.length / 4, owner = new Int32Array(count).fill(-1), best = new Float32Array(count);
  const table = boxes.map((box) => {
    const row = new Float32Array(count), real = box.every(Number.isFinite);
    for (let a = 0; real && a < count; a++) row[a] = iou(box, anchors.subarray(4 * a, 4 * a + 4));
    return row;
  });
  table.forEach((row, object) => row.forEach((overlap, a) => {
    if (overlap > best[a] && overlap >= f(threshold)) best[a] = overlap, owner[a] = object;
  }));
  const open = new Set(boxes.keys()), taken = new Set();
  while (open.size) {
    let most = 0, at = -1, whose = -1;
    for (const object of open) {
      table[object].forEach((overlap, a) => {
        const wins = overlap > most || (overlap === most && overlap > 0 && a < at);
        if (wins && !taken.has(a)) [most, at, whose] = [overlap, a, object];
      });
    }
    if (at < 0) break; // objects that overlap no free anchor stay without one
    owner[at] = whose;
    open.delete(whose), taken.add(at);
  }
  return owner;
}

/** Targets of one image: labels (A,), 0 is background, and offsets (A × 4), 0 where there is no object. */
export function matchObjects(anchors, objects, { center, size }, threshold = 0.5) {
  const owner = assignObjects(anchors, objects.map(({ box }) => box.map(f)), threshold);
  const labels = new Uint8Array(owner.length), offsets = new Float32Array(4 * owner.length);
  owner.forEach((object, a) => {
    if (object < 0) return;
    labels[a] = objects[object].label + 1;
    for (let axis = 0; axis < 2; axis++) {
      const low = anchors[4 * a + axis], high = anchors[4 * a + axis + 2], side = high - low;
      const { box } = objects[object], first = f(box[axis]), last = f(box[axis + 2]);
      offsets[4 * a + axis] = ((first + last) / 2 - (low + high) / 2) / side / center;
      offsets[4 * a + axis + 2] = Math.log((last - first) / side) / size;
    }
  });
  return { labels, offsets };
}
