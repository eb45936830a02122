// The detector in the reader's hands: an image in, boxes out, and every step between them to be seen.
import { choice, slider, tick } from "./controls.js";
import { html } from "./dom.js";
import { colorOf } from "./drawing.js";
import { decodeBoxes, foregroundScores, makeAnchors, placeOf } from "./decode.js";
import { detect } from "./nms.js";
import { fromBitmap, readImage } from "./image.js";
import { makeMaps, makeView } from "./view.js";
import { describe } from "./details.js";
import { layersOf, said } from "./layers.js";
import { reportOn } from "./report.js";
import { makeTruth } from "./truth.js";
import { startCamera } from "./camera.js";
import { drawDetections, recordOf, save } from "./saving.js";

const LEAST = 0.01; // where the score slider begins; AP counts from here on
const METHODS = [["hard", "is removed (NMS)"], ["linear", "loses score (soft, linear)"], ["gaussian", "loses score (soft, Gaussian)"]];

const many = (n, one, more) => `${n.toLocaleString("en")} ${n === 1 ? one : more}`;

/**
 * Fill the frame that start.js made: { root, body, after, tell }. `model` is what `export.browser_model` writes
 * (its weights are not needed here), `engine` answers for its images. Returns { open, camera, end }.
 */
export function startApp({ root, body, after, tell }, model, engine) {
  const { classes } = model, anchors = makeAnchors(model), view = makeView();
  let image = null, answers = null, result = null, chosen = null; // what is shown
  let request = 0, stopCamera = null, frame = 0; // what is under way

  // ---- what the reader can set
  const score = slider("score at least", [LEAST, 0.99, 0.01], 0.5, later);
  const overlap = slider("overlap: IoU above", [0.05, 0.95, 0.05], 0.45, later);
  const method = choice("then a worse box", METHODS, later);
  const aware = tick("only boxes of the same class", true, later);
  const everything = tick("show all candidates, coloured by scale", false, later);
  const marking = tick("mark the true boxes", false, () => { truth.on = marking.value; later(); });
  const truth = makeTruth(view, classes, later);
  const maps = makeMaps(model, choose);
  const last = anchors.length / 4 - 1;
  const number = html("input", { type: "number", min: 0, max: last, step: 1, onchange: () => choose(Number(number.value)) });

  const list = html("ul", { class: "found" }), details = html("div", { class: "details" }), report = html("div", { class: "report" });
  const button = (text, act) => html("button", { type: "button", onclick: act }, text);
  body.replaceChildren(
    html("div", { class: "look" }, html("div", { class: "main" }, view.element),
      html("div", { class: "side" }, html("p", {}, "The highest score at every place, scale by scale:"), maps.element,
        html("label", { class: "knob" }, html("span", {}, "anchor"), number))),
    html("div", { class: "controls" }, [score, overlap, method, aware, everything, marking].map(({ element }) => element)));
  const bar = [button("add a true box", addTrueBox), button("save as PNG", saveImage), button("save as JSON", saveNumbers)];
  after.replaceChildren(list, details, report, truth.element, html("div", { class: "bar" }, bar));

  // ---- an image in

  /** Show what the network says of a file; a later image overtakes an earlier one. */
  async function open({ blob, title, truth: boxes }) {
    stopCamera?.();
    const mine = ++request;
    tell(`${title}: looking …`);
    try {
      const read = await readImage(blob, title, model);
      if (mine === request) await look(read, mine);
      if (mine === request) truth.set(boxes);
    } catch (error) {
      if (mine === request) tell(`${title}: ${error.message}.`);
    }
  }

  /** Ask the network, and keep what it says if no newer image has come. */
  async function look(read, mine) {
    const given = await engine.run(read.rgba);
    if (mine !== request) return;
    image = read, chosen = null;
    const boxes = decodeBoxes(anchors, given.offsets, model.decoding);
    answers = { ...given, anchors, boxes, scores: foregroundScores(given.logits, classes.length, model.scores) };
    maps.paint(answers.scores);
    view.show(image.shown);
    draw();
  }

  /** Start the camera, or stop it; `button` says which comes next. */
  async function camera(button) {
    if (stopCamera) {
      stopCamera();
      return;
    }
    const before = request; // until the first frame is there, an image on its way keeps its place
    let last = performance.now(), mine = 0;
    tell("The camera is starting …");
    const stop = await startCamera(async (video) => {
      mine ||= ++request;
      await look({ name: "camera", ...fromBitmap(video, video.videoWidth, video.videoHeight, model) }, mine);
      const now = performance.now();
      if (stopCamera) root.dataset.rate = (1000 / (now - last)).toFixed(1); // not of a frame that outlived it
      last = now;
    }, () => {
      stopCamera = null, button.textContent = "camera";
      delete root.dataset.rate;
    });
    if (!mine && request !== before) return void stop(); // an image was chosen meanwhile
    stopCamera = stop, button.textContent = "stop the camera";
    truth.set([]);
  }

  // ---- boxes out

  function later() {
    frame ||= requestAnimationFrame(() => { frame = 0; draw(); });
  }

  const options = (least = score.value) => ({ score: least, iou: overlap.value, method: method.value, aware: aware.value });

  /** Everything anew from the answers; that takes a few milliseconds. */
  function draw() {
    body.dataset.settings = JSON.stringify([options(), everything.value, marking.value]);
    if (!answers) return;
    result = detect(answers, options());
    const { above, found } = result, same = ({ anchor, label }) => anchor === chosen.anchor && label === chosen.label;
    if (chosen) chosen = all().find(same) ?? outside(chosen.anchor);
    tell(summary());
    view.boxes(layers(), `${image.name}: ${found.map((one) => said(one, classes)).join(", ") || "nothing found"}`);
    showList(found);
    details.replaceChildren(...(chosen ? [describe(chosen, above, answers, model)] : []));
    report.replaceChildren(...(marking.value ? [reportOn(found, detect(answers, options(LEAST)).found, truth.boxes, LEAST)] : []));
    truth.element.hidden = !marking.value;
    if (chosen) number.value = chosen.anchor;
  }

  const all = () => [...result.found, ...result.above];

  function summary() {
    const { above, found } = result;
    const steps = [
      many(anchors.length / 4, "anchor", "anchors"),
      `${many(above.length, "score", "scores")} from ${score.value.toFixed(2)} on`,
      `${many(found.length, "box", "boxes")} after ${method.value === "hard" ? "NMS" : "Soft-NMS"}`,
    ];
    return `${image.name}: ${steps.join(", ")}. ${engine.name}, ${Math.round(answers.ms)} ms.`;
  }

  /** A button for each box; the keyboard stays where it was. */
  function showList(found) {
    const at = [...list.querySelectorAll("button")].indexOf(document.activeElement);
    list.replaceChildren(...found.map((one) => html("li", {}, html("button", {
      type: "button", "aria-pressed": String(one === chosen), style: `border-color:${colorOf(one.label)}`, onclick: () => pick(one),
    }, said(one, classes)))));
    list.querySelectorAll("button")[at]?.focus();
  }

  const layers = () => layersOf(
    { ...result, chosen, everything: everything.value, truth: marking.value ? truth.boxes : [], drawn: truth.drawn },
    { anchors, classes, scaleOf },
  );

  const scaleOf = ({ anchor }) => placeOf(model, anchor).scale;

  // ---- one box, one anchor

  const pick = (one) => { chosen = one === chosen ? null : one; draw(); };

  /** Any anchor: as the candidate that it is, or as what it would have been. */
  function choose(anchor) {
    if (!answers || !(anchor >= 0 && anchor < anchors.length / 4)) return;
    chosen = all().find((one) => one.anchor === anchor) ?? outside(anchor);
    draw();
  }

  function outside(anchor) {
    const row = answers.scores.subarray(anchor * classes.length, (anchor + 1) * classes.length);
    const label = row.indexOf(Math.max(...row));
    const box = Array.from(answers.boxes.subarray(4 * anchor, 4 * anchor + 4));
    return { anchor, label, score: row[label], box, outside: row[label] < Math.fround(score.value) };
  }

  /** A click chooses the smallest box under the pointer; another click at the same place the next larger one. */
  view.over.addEventListener("click", (event) => {
    if (!result || marking.value) return;
    const [x, y] = view.at(event), size = ({ box }) => (box[2] - box[0]) * (box[3] - box[1]);
    const under = (everything.value ? [...new Set(all())] : result.found)
      .filter(({ box }) => x >= box[0] && x <= box[2] && y >= box[1] && y <= box[3]).sort((a, b) => size(a) - size(b));
    chosen = under.length ? under[(under.indexOf(chosen) + 1) % under.length] : null;
    draw();
  });

  // ---- against the truth

  function addTrueBox() {
    if (!answers) return void tell("Choose an image first.");
    marking.value = true, truth.on = true;
    truth.add();
    draw();
    truth.focusLast();
  }

  // ---- out of the page

  function saveImage() {
    if (!answers) return void tell("Choose an image first.");
    drawDetections(image, result.found, classes).toBlob((blob) => save(blob, "detections.png"), "image/png");
    tell(`Saved as detections.png: ${many(result.found.length, "box", "boxes")}.`);
  }

  function saveNumbers() {
    if (!answers) return void tell("Choose an image first.");
    const made = { settings: options(), engine: engine.name, model: model.sha256 };
    const record = { ...recordOf(image, result.found, classes), ...made };
    save(new Blob([JSON.stringify(record, null, 1)], { type: "application/json" }), "detections.json");
    tell(`Saved as detections.json: ${many(result.found.length, "box", "boxes")}.`);
  }

  const watch = new ResizeObserver(() => { if (image) { view.show(image.shown); later(); } });
  watch.observe(root);
  root.state = () => ({ image: image, answers, result, engine: engine.name, truth: truth.boxes }); // for tests, and for the curious
  return {
    open, camera,
    end() {
      request++;
      stopCamera?.();
      watch.disconnect();
      cancelAnimationFrame(frame);
    },
  };
}
