// The page that teaches: images in, boxes drawn, a detector trained, used and kept; nothing leaves the browser.
import { startApp } from "./app.js";
import { startCamera } from "./camera.js";
import { slider, tick } from "./controls.js";
import { makeCurves } from "./curves.js";
import { anchorShapes, mapShapes } from "./decode.js";
import { html } from "./dom.js";
import { colorOf, inkOn } from "./drawing.js";
import { readImage } from "./image.js";
import { said } from "./layers.js";
import { pageOf } from "./pagefile.js";
import { advise, divide, erase, exportZip, importZip, keep, recall } from "./project.js";
import { checkpoint, makeRecord } from "./record.js";
import { save } from "./saving.js";
import { meanAP } from "./scoring.js";
import { pageEngine } from "./source.js";
import { begin } from "./start.js";
import { callTeacher } from "./teacher.js";
import { makeTruth } from "./truth.js";
import { makeView } from "./view.js";

const VIEWS = 5, SHOWN_SCORE = 0.3, SUGGESTED = 0.3, THUMB = 72;
const plural = (n, one, more = `${one}s`) => `${n} ${n === 1 ? one : more}`;

/**
 * Fill `host`. `everyday` is the record of the network that knows photographs, `template` and `samples`
 * ([{ title, blob }]) are those of widgets/teach.py, `whole` is the function that holds all modules. Returns { end }.
 */
export async function startTeach({ body, tell }, { everyday, template, samples, whole }) {
  const teacher = callTeacher(whole), { record } = template, undoes = [], runs = [];
  const anchors = mapShapes(record).flatMap((_, scale) => anchorShapes(record, scale));
  let project = { classes: ["object"], images: [] }, current = null, serial = 0, tensors = null, busy = false, stopCamera = null, used = null, last = "", shown = null;
  await teacher.ask("start", { everyday, template: record });

  // ---- the page
  const safely = (act) => (...given) => Promise.resolve().then(() => act(...given)).catch((error) => tell(`That did not work: ${error.message}.`));
  const button = (text, act, more = {}) => html("button", { type: "button", onclick: safely(() => act()), ...more }, text);
  const chooser = (text, accept, act) => {
    const input = html("input", { type: "file", accept, multiple: true, onchange: () => { safely(act)([...input.files]); input.value = ""; } });
    return html("label", { class: "file" }, input, html("span", {}, text));
  };
  const view = makeView(), sheet = html("ul", { class: "sheet" }), names = html("div", { class: "bar" }), place = html("div", { class: "main" }, view.element);
  const truth = makeTruth(view, project.classes, changed);
  const none = tick("this image has no object", false, () => { current.labelled = none.value || truth.boxes.length > 0; changed(); });
  const steps = slider("steps", [20, 300, 20], 100, () => {}), results = html("div"), words = html("ul"), pairs = html("div", { class: "pair" });
  const charts = [makeCurves("class loss", 100), makeCurves("box loss", 100), makeCurves("AP50 of held-out images", 100, 1)];
  const cameraButton = button("camera", camera), shot = button("take this picture", shoot, { hidden: true });
  const trainButton = button("train", () => train(false)), further = button("train further", () => train(true)), stopButton = button("stop", () => teacher.stop(), { disabled: true });
  const section = (title, ...children) => html("section", {}, html("h3", {}, title), ...children);
  const usePlace = html("div");
  body.replaceChildren(
    section("1 · Images", html("div", { class: "bar" },
      chooser("add images …", "image/*", (files) => addImages(files)), samples.length ? button(`add ${samples.length} samples`, () => addSamples()) : null, cameraButton, shot,
      chooser("open a zip …", ".zip", ([file]) => file && openZip(file))), sheet),
    section("2 · Boxes", names, html("div", { class: "look" }, place), truth.element,
      html("div", { class: "bar" }, none.element, button("add a box", () => { need(); truth.add(); truth.focusLast(); }), button("boxes of the image before", copyBefore), button("suggest boxes", suggest),
        button("undo", undo), button("remove this image", removeImage))),
    section("3 · Train", html("div", { class: "controls" }, steps.element), html("div", { class: "bar" }, trainButton, further, stopButton),
      html("div", { class: "charts" }, charts.map(({ element }) => element)), words, pairs, results),
    section("4 · Use", html("div", { class: "bar" }, button("use what was learned", use)), usePlace),
    section("5 · Keep", html("div", { class: "bar" }, button("save images and boxes", async () => save(await exportZip(project), "d2lmini-images.zip")), button("save the weights", saveWeights),
      button("save a page that detects", savePage), button("delete all of it here", deleteAll)),
    html("p", {}, "What you do is kept in this browser's own store on this device, and nowhere else, until you delete it.")));

  const need = () => { if (!current) throw new Error("choose an image first"); };
  const snapshot = () => JSON.stringify(project.images.map(({ key, objects, labelled }) => ({ key, objects, labelled })));

  /** After every change: remember for “undo”, keep, draw. */
  function changed() {
    if (!current) return;
    current.objects = truth.boxes.map(({ box, label }) => ({ box: [...box], label }));
    if (current.objects.length) current.labelled = true;
    const now = snapshot();
    if (now !== last && !truth.drawing) {
      undoes.push(last);
      last = now;
      later();
      drawSheet();
    }
    draw();
  }

  let waiting = 0;
  function later() {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      const images = project.images.map(({ name, blob, objects, labelled, width, height }) => ({ name, blob, objects, labelled, width, height }));
      keep({ classes: [...project.classes], images, tensors }).catch(() => tell("This browser keeps nothing: save images and boxes before you leave."));
    }, 400);
  }

  function draw() {
    view.element.hidden = !current;
    if (!current) return;
    none.value = current.labelled && !current.objects.length;
    const layers = current.objects.map(({ box, label }) => [box, { color: colorOf(label), ink: inkOn(label), tag: project.classes[label] }]);
    if (truth.drawn) layers.push([truth.drawn, { color: "#fff", dashed: true, width: 2 }]);
    view.boxes(layers, `${current.name}: ${current.objects.map(({ label }) => project.classes[label]).join(", ") || "no box"}`);
  }

  function drawSheet() {
    const { heldOut } = divide(project.images);
    sheet.replaceChildren(...project.images.map((one) => {
      const state = heldOut.includes(one) ? "held out" : one.labelled ? plural(one.objects.length, "box", "boxes") : "not labelled";
      const boxes = one.objects.map(({ box: [x0, y0, x1, y1], label }) => html("i", { style: `left:${100 * x0}%;top:${100 * y0}%;width:${100 * (x1 - x0)}%;height:${100 * (y1 - y0)}%;border-color:${colorOf(label)}` }));
      return html("li", {}, button(html("span", { class: "thumb" }, html("img", { src: one.thumb, alt: "", width: THUMB, height: THUMB }), boxes), () => show(one), { "aria-pressed": String(one === current), "aria-label": `${one.name}, ${state}` }), html("small", {}, state));
    }));
    const labelled = project.images.filter((one) => one.labelled).length;
    trainButton.disabled = busy || !labelled, further.disabled = busy || !tensors || !labelled;
    if (!busy) tell(project.images.length ? `${plural(project.images.length, "image")}, ${labelled} labelled, ${plural(heldOut.length, "held out", "held out")}; ${plural(project.images.reduce((sum, { objects }) => sum + objects.length, 0), "box", "boxes")}.` : "Add images: drop them here, paste them, choose files, or use the camera.");
  }

  function drawNames() {
    names.replaceChildren(html("span", {}, "classes:"), ...project.classes.map((name, k) => html("input", {
      type: "text", value: name, "aria-label": `name of class ${k + 1}`, style: `border-color:${colorOf(k)}`,
      onchange: (event) => { project.classes[k] = event.target.value.trim() || `class ${k + 1}`; truth.set(truth.boxes); later(); },
    })), button("one more class", () => { project.classes.push(`class ${project.classes.length + 1}`); drawNames(); truth.set(truth.boxes); later(); }));
  }

  // ---- images

  /** Read a file, and remember what the network and the sheet need of it. */
  async function take({ name, blob, objects = [], labelled = false }) {
    const { rgba, shown, width, height } = await readImage(blob, name, record), small = html("canvas", { width: THUMB, height: THUMB });
    small.getContext("2d").drawImage(shown, 0, 0, THUMB, THUMB);
    project.images.push({ key: ++serial, name, blob, objects, labelled, width, height, rgba, thumb: small.toDataURL("image/jpeg"), seen: 0 });
  }

  async function addAll(list) {
    const refused = [];
    for (const one of list) {
      await take(one).catch((error) => refused.push(`${one.name}: ${error.message}`));
      if (list.length > 3) tell(`Reading images: ${plural(project.images.length, "is here", "are here")} …`);
    }
    last = snapshot(), later();
    if (!current && project.images.length) await show(project.images[0]);
    drawSheet();
    if (refused.length) tell(`${refused.join(". ")}.`);
  }

  const addImages = (files) => addAll(files.map((blob) => ({ name: blob.name || "pasted image", blob })));
  const addSamples = () => addAll(samples.map(({ title, blob }) => ({ name: title, blob })));

  async function show(one) {
    current = one;
    const read = await readImage(one.blob, one.name, record);
    if (current !== one) return;
    shown = read.shown;
    view.show(shown);
    truth.on = true, truth.set(one.objects);
    drawSheet();
  }

  function removeImage() {
    need();
    const at = project.images.indexOf(current);
    teacher.ask("forget", { key: current.key });
    project.images.splice(at, 1);
    current = null, last = snapshot();
    const next = project.images[Math.min(at, project.images.length - 1)];
    later();
    return next ? show(next) : (truth.set([]), draw(), drawSheet());
  }

  function copyBefore() {
    need();
    const before = project.images[project.images.indexOf(current) - 1];
    if (!before) throw new Error("this is the first image");
    truth.set(before.objects);
  }

  function undo() {
    const state = undoes.pop();
    if (!state) return void tell("There is nothing to undo.");
    for (const { key, objects, labelled } of JSON.parse(state)) {
      const one = project.images.find((image) => image.key === key);
      if (one) one.objects = objects, one.labelled = labelled;
    }
    last = state;
    if (current) truth.set(current.objects);
    drawSheet();
  }

  /** Let the network draw boxes into this image, to be corrected. */
  async function suggest() {
    need();
    if (!tensors) throw new Error("train first: then the network suggests boxes");
    const one = current;
    await look(one, 1);
    const { found } = await teacher.ask("score", { images: [{ key: one.key, objects: [] }] });
    if (current === one) truth.set(found[0].filter(({ score }) => score >= SUGGESTED).map(({ box, label }) => ({ box, label })));
    tell(`${plural(truth.boxes.length, "box", "boxes")} suggested: correct what is wrong.`);
  }

  async function camera() {
    if (stopCamera) return void stopCamera();
    current = null;
    const end = await startCamera(async (video) => {
      const frame = html("canvas", { width: video.videoWidth, height: video.videoHeight });
      frame.getContext("2d").drawImage(video, 0, 0);
      view.element.hidden = false, view.show(frame), view.boxes([], "camera");
      shot.frame = frame;
    }, () => { stopCamera = null, cameraButton.textContent = "camera", shot.hidden = true; draw(); });
    stopCamera = end, cameraButton.textContent = "stop the camera", shot.hidden = false;
  }

  async function shoot() {
    const blob = await new Promise((resolve) => shot.frame.toBlob(resolve, "image/jpeg", 0.92));
    await take({ name: `shot-${serial + 1}.jpg`, blob });
    last = snapshot(), later(), drawSheet();
  }

  async function openZip(file) {
    const { classes, images } = await importZip(file).catch((error) => { throw new Error(`${file.name}: ${error.message}`); });
    await restart(classes, images);
  }

  async function restart(classes, images) {
    project.images.forEach(({ key }) => teacher.ask("forget", { key }));
    project.classes.splice(0, Infinity, ...classes), project.images = [], current = null, undoes.length = 0;
    drawNames();
    await addAll(images);
  }

  // ---- training

  /** Features of an image, once. */
  async function look(one, views) {
    if (one.seen >= views) return;
    await teacher.ask("see", { key: one.key, rgba: one.rgba, objects: one.objects, views, seed: one.key });
    one.seen = views;
  }

  async function train(go) {
    const { training, heldOut } = divide(project.images), wanted = ({ key, objects }) => ({ key, objects }), total = steps.value;
    if (!training.length) throw new Error("label an image first");
    const mine = { cls: [], box: [], ap50: [], found: null };
    busy = true, stopButton.disabled = false, drawSheet();
    try {
      const start = performance.now();
      for (const [i, one] of [...training, ...heldOut].entries()) {
        tell(`What the backbone knows of the images: ${i + 1} of ${training.length + heldOut.length} …`);
        await look(one, i < training.length ? VIEWS : 1);
      }
      const hear = (news) => {
        for (const name of ["cls", "box", "ap50"]) if (name in news) mine[name].push([news.step, news[name]]);
        if (news.found) mine.found = news.found, mine.ap = news.ap, drawPairs(heldOut, news.found);
        drawCurves(mine, total);
        tell(`Step ${news.step} of ${total} …`);
      };
      const request = { images: training.map(wanted), heldOut: heldOut.map(wanted), classes: project.classes.length, config: { steps: total }, go };
      const { stopped } = await teacher.ask("train", request, hear);
      ({ tensors } = await teacher.ask("weights"));
      runs.push({ images: training.length, steps: mine.cls.length, seconds: (performance.now() - start) / 1000, ...mine });
      drawRuns(heldOut), drawWords(mine.found), later();
      tell(`${stopped ? "Stopped" : "Trained"} after ${plural(mine.cls.length, "step")}: ${scored(runs.at(-1), heldOut)}.`);
    } finally {
      busy = false, stopButton.disabled = true;
      const text = body.parentElement?.dataset.state;
      drawSheet();
      if (text) tell(text);
    }
  }

  const scored = ({ ap50, ap }, heldOut) => (ap50.length ? `AP50 ${ap50.at(-1)[1].toFixed(2)}, AP ${ap.toFixed(2)} on ${plural(heldOut.length, "held-out image")}` : "no image is held out yet");

  function drawCurves(mine, total) {
    const before = runs.at(-1);
    ["cls", "box", "ap50"].forEach((name, i) => charts[i].show([
      { name: before ? "now" : "", points: mine[name] }, ...(before ? [{ name: "before", points: before[name], color: colorOf(1), dashed: true }] : []),
    ], total));
  }

  function drawRuns(heldOut) {
    const rows = runs.map((run, i) => [i + 1, run.images, run.steps, run.cls.at(-1)?.[1].toFixed(2), run.box.at(-1)?.[1].toFixed(2), run.ap50.at(-1)?.[1].toFixed(2) ?? "–", run.ap?.toFixed(2) ?? "–", `${run.seconds.toFixed(0)} s`]);
    const heads = ["run", "images", "steps", "class loss", "box loss", "AP50", "AP", "time"];
    const few = heldOut.length && heldOut.length < 20 ? `AP on ${plural(heldOut.length, "image")} jumps: a difference of 0.1 between two runs may be chance.` : "";
    results.replaceChildren(html("table", {}, html("tbody", {}, html("tr", {}, heads.map((name) => html("th", { scope: "col" }, name))), rows.map((row) => html("tr", {}, row.map((value) => html("td", {}, String(value))))))), html("p", {}, few));
  }

  function drawWords(found) {
    words.replaceChildren(...advise(project, anchors, found).map((text) => html("li", {}, text)));
  }

  /** The held-out images with the lowest and the highest AP50, as they are found now. */
  function drawPairs(heldOut, found) {
    const score = (i) => (heldOut[i].objects.length ? meanAP([{ found: found[i], truth: heldOut[i].objects }], [0.5]) : found[i].some(({ score: s }) => s >= SHOWN_SCORE) ? 0 : 1);
    const order = heldOut.map((_, i) => i).sort((a, b) => score(a) - score(b)), chosen = [...new Set([order[0], order.at(-1)])];
    pairs.replaceChildren(...chosen.map((i, n) => {
      const { name, rgba, objects } = heldOut[i], [height, width] = record.size, canvas = html("canvas", { width, height, role: "img" }), pen = canvas.getContext("2d");
      pen.putImageData(new ImageData(new Uint8ClampedArray(rgba), width, height), 0, 0);
      const stroke = ([x0, y0, x1, y1], color, dash) => { pen.setLineDash(dash), pen.strokeStyle = color, pen.lineWidth = 3, pen.strokeRect(x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height); };
      objects.forEach(({ box }) => stroke(box, "#fff", [6, 4]));
      const shown = found[i].filter((one) => one.score >= SHOWN_SCORE);
      shown.forEach(({ box, label }) => stroke(box, colorOf(label), []));
      canvas.setAttribute("aria-label", `${name}: ${shown.map((one) => said(one, project.classes)).join(", ") || "nothing found"}`);
      return html("figure", {}, canvas, html("figcaption", {}, `${chosen.length === 1 ? "held out" : n ? "the best" : "the worst"}: ${name}, AP50 ${score(i).toFixed(2)}`));
    }));
  }

  // ---- what was learned

  const learned = () => {
    if (!tensors) throw new Error("train first");
    const known = tensors["class_heads.0.bias"].shape[0] / anchorShapes(record, 0).length - 1;
    if (known !== project.classes.length) throw new Error(`there are ${project.classes.length} classes, and ${known} when it was trained: train again`);
    return makeRecord(template, everyday, tensors, [...project.classes], { recipe: "taught in the page" });
  };
  const about = () => `${plural(project.classes.length, "class", "classes")}, taught with ${plural(runs.at(-1)?.images ?? divide(project.images).training.length, "image")}`;

  async function use() {
    const made = learned(), name = `yours-${Date.now()}`;
    (globalThis.d2lminiModels ??= {})[name] = made;
    const engine = await pageEngine(name, whole);
    used?.();
    usePlace.replaceChildren();
    const shown = await Promise.all(project.images.slice(0, 4).map(async ({ name: title, blob, objects }) => ({ title, blob, truth: objects })));
    used = begin(usePlace, { samples: shown, about: `It is yours: ${about()}.`, load: async () => (frame) => startApp(frame, made, engine) });
  }

  async function saveWeights() {
    save(await checkpoint(template, learned()), "mine.safetensors");
    tell("Saved as mine.safetensors: “python -m d2lmini detect photo.jpg --model mine.safetensors” reads it.");
  }

  function savePage() {
    save(new Blob([pageOf(whole, learned(), about())], { type: "text/html" }), "my-detector.html");
    tell("Saved as my-detector.html: one file that detects, offline, in any browser.");
  }

  async function deleteAll() {
    await erase().catch(() => {});
    tensors = null, runs.length = 0;
    clearTimeout(waiting);
    [words, pairs, results, usePlace].forEach((part) => part.replaceChildren());
    await restart(["object"], []);
    truth.set([]), draw(), drawSheet(), clearTimeout(waiting);
    tell("Deleted: nothing of it is left in this browser.");
  }

  // ---- begin
  const dropped = (event) => {
    event.preventDefault();
    safely(addImages)([...event.dataTransfer.files]);
  };
  const pasted = (event) => {
    const files = [...(event.clipboardData?.files ?? [])].filter(({ type }) => type.startsWith("image/"));
    if (files.length && (body.matches(":hover") || body.contains(document.activeElement))) safely(addImages)(files);
  };
  body.addEventListener("dragover", (event) => event.preventDefault());
  body.addEventListener("drop", dropped);
  document.addEventListener("paste", pasted);
  const watch = new ResizeObserver(() => { if (current && shown) view.show(shown), draw(); });
  watch.observe(body);
  const before = await recall();
  drawNames();
  if (before) {
    tensors = before.tensors;
    if (tensors) await teacher.ask("load", { tensors, classes: before.classes.length });
    await restart(before.classes, before.images);
  }
  draw(), drawSheet();
  body.state = () => ({ project, tensors, runs, teacher }); // for tests, and for the curious
  return {
    end() {
      teacher.end();
      stopCamera?.(), used?.();
      watch.disconnect();
      document.removeEventListener("paste", pasted);
      clearTimeout(waiting);
    },
  };
}
