// What a reader teaches with: classes, images, boxes. It lives in the browser's own store until it is deleted.
import { iou } from "./nms.js";
import { makeZip, readZip } from "./zip.js";

const NAME = "d2lmini-teach", HELD_OUT = 5; // every fifth labelled image is held out
const IMAGE = /\.(jpe?g|png|webp|bmp|gif|avif)$/i;

/** Do something with the browser's store: a promise of the request's result. */
function stored(mode, act) {
  return new Promise((resolve, reject) => {
    const open = indexedDB.open(NAME, 1);
    open.onupgradeneeded = () => open.result.createObjectStore("project");
    open.onerror = () => reject(open.error);
    open.onsuccess = () => {
      const request = act(open.result.transaction("project", mode).objectStore("project"));
      request.onsuccess = () => { open.result.close(); resolve(request.result); };
      request.onerror = () => { open.result.close(); reject(request.error); };
    };
  });
}
/** What was left here the last time, or null; keep, and delete. */
export const recall = () => stored("readonly", (store) => store.get(NAME)).catch(() => null);
export const keep = (project) => stored("readwrite", (store) => store.put(project, NAME));
export const erase = () => stored("readwrite", (store) => store.delete(NAME));

/** Labelled images: those to train with and those to hold out. */
export function divide(images) {
  const labelled = images.filter(({ labelled }) => labelled), out = (_, i) => i % HELD_OUT === HELD_OUT - 1;
  return { training: labelled.filter((one, i) => !out(one, i)), heldOut: labelled.filter(out) };
}

/** Images and boxes as a zip that `train --data` reads when it is unpacked: COCO's form. */
export async function exportZip({ classes, images }) {
  const files = {}, annotations = [], records = [];
  for (const [i, { name, blob, width, height, objects, labelled }] of images.entries()) {
    const title = `${String(i + 1).padStart(3, "0")}-${name.replace(/[^\w.-]+/g, "_")}`, file_name = IMAGE.test(title) ? title : `${title}.${blob.type === "image/png" ? "png" : "jpg"}`;
    files[`${labelled ? "train" : "unlabelled"}/${file_name}`] = new Uint8Array(await blob.arrayBuffer());
    if (!labelled) continue;
    records.push({ id: i + 1, file_name, width, height });
    for (const { box: [x0, y0, x1, y1], label } of objects) {
      const bbox = [x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height];
      annotations.push({ id: annotations.length + 1, image_id: i + 1, category_id: label + 1, bbox, area: bbox[2] * bbox[3], iscrowd: 0 });
    }
  }
  const categories = classes.map((name, k) => ({ id: k + 1, name }));
  files["train/_annotations.coco.json"] = new TextEncoder().encode(JSON.stringify({ images: records, annotations, categories }, null, 1));
  return makeZip(files);
}

/** The reverse: { classes, images: [{ name, blob, objects, labelled }] }. */
export async function importZip(blob) {
  const files = await readZip(blob), json = Object.keys(files).find((name) => name.endsWith(".json"));
  if (!json) throw new Error("this zip has no JSON file with boxes: open one that this page has saved");
  let coco;
  try {
    coco = JSON.parse(new TextDecoder().decode(files[json]));
  } catch {
    throw new Error(`${json} in this zip is no JSON`);
  }
  const classes = (coco.categories ?? []).map(({ name }) => String(name)), number = new Map((coco.categories ?? []).map(({ id }, k) => [id, k]));
  const images = Object.entries(files).filter(([name]) => IMAGE.test(name)).map(([path, bytes]) => {
    const file = path.split("/").at(-1), name = file.replace(/^\d{3}-/, "");
    const record = (coco.images ?? []).find(({ file_name }) => file_name.split("/").at(-1) === file);
    const objects = (coco.annotations ?? []).filter(({ image_id }) => record && image_id === record.id).map(({ bbox: [x, y, w, h], category_id }) => ({
      box: [x / record.width, y / record.height, (x + w) / record.width, (y + h) / record.height].map((v) => Math.min(1, Math.max(0, v))), label: number.get(category_id) ?? 0,
    }));
    return { name, blob: new Blob([bytes]), objects, labelled: Boolean(record) };
  });
  if (!classes.length || !images.length) throw new Error("this zip has no classes or no images: open one that this page has saved");
  return { classes, images };
}

/** What may go wrong, in words: from the labels alone, and from what the network found in held-out images. */
export function advise({ classes, images }, anchors, found) {
  const { training, heldOut } = divide(images), said = [], boxes = training.flatMap(({ objects }) => objects);
  if (training.length < 5) said.push(`${training.length} labelled images are few: from about twenty on it gets good.`);
  if (!heldOut.length) said.push("No image is held out yet, so there is no AP: every fifth labelled image will be.");
  classes.forEach((name, k) => {
    const count = boxes.filter(({ label }) => label === k).length;
    if (count < 8) said.push(`“${name}” has ${count} ${count === 1 ? "box" : "boxes"} to learn from: that is few.`);
  });
  const side = ({ box }) => Math.min(box[2] - box[0], box[3] - box[1]), tiny = boxes.filter((one) => side(one) < 1 / 38).length;
  if (tiny) said.push(`${tiny} ${tiny === 1 ? "box is" : "boxes are"} narrower than a cell of the finest map (1/38 of the image): crop the images closer.`);
  const fits = ({ box }) => Math.max(...anchors.map(([w, h]) => {
    const inter = Math.min(w, box[2] - box[0]) * Math.min(h, box[3] - box[1]);
    return inter / (w * h + (box[2] - box[0]) * (box[3] - box[1]) - inter);
  }));
  const odd = boxes.filter((one) => fits(one) < 0.35).length;
  if (odd) said.push(`${odd} ${odd === 1 ? "box has" : "boxes have"} a shape that no anchor comes near (IoU below 0.35): very long or very small.`);
  return [...said, ...confusions(classes, heldOut, found)];
}

/** Classes of which half of the held-out objects are taken for another one. */
function confusions(classes, heldOut, found) {
  const taken = new Map(), total = new Map();
  heldOut.forEach(({ objects }, i) => objects.forEach(({ box, label }) => {
    total.set(label, (total.get(label) ?? 0) + 1);
    const near = (found?.[i] ?? []).find((one) => one.score >= 0.3 && iou(one.box, box) >= 0.5);
    if (near && near.label !== label) taken.set(`${label},${near.label}`, (taken.get(`${label},${near.label}`) ?? 0) + 1);
  }));
  return [...taken].filter(([pair, count]) => count >= 2 && 2 * count >= total.get(Number(pair.split(",")[0])))
    .map(([pair]) => pair.split(",").map((k) => classes[k])).map(([one, other]) => `“${other}” swallows “${one}”: more images with both in them help.`);
}
