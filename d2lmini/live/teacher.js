// What a worker does that teaches: features of images and of views of them, training, answers. One request after the
// other: { id, do, … } in, any number of { id, … } out, the last with `done` or `error`.
import { drawColors, drawWindow, objectsIn, renderView } from "./augment.js";
import { bytesOf64 } from "./bytes.js";
import { anchorShapes, decodeBoxes, foregroundScores, makeAnchors } from "./decode.js";
import { makeEngine } from "./engine.js";
import { matchObjects } from "./matching.js";
import { detect } from "./nms.js";
import { pause } from "./pause.js";
import { meanAP } from "./scoring.js";
import { CONFIG, makeRandom, makeTrainer, UNIT } from "./trainer.js";

const WEAKEST = 0.01, SCORE_EVERY = 20; // the lowest score that counts; steps between two scores
/** Steps of a training on examples; `tell` hears of each, and now and then what `score()` says. */
export async function runSteps(trainer, examples, { steps }, { tell, score, stopped }) {
  const batches = trainer.batches(examples.length);
  for (let step = 1; step <= steps && !stopped(); step++) {
    await pause(); // so that a request to stop is heard
    const losses = trainer.step(batches.next().value.map((i) => examples[i]));
    if (!Number.isFinite(losses.cls + losses.box)) throw new Error("the loss is no number any more: a lower learning rate helps");
    tell({ step, ...losses });
    if (step % SCORE_EVERY === 0 || step === steps) tell({ step, ...score() });
  }
}

/** What a head says of examples, as boxes: [{ box, label, score }] for each. */
function foundBy(trainer, examples, classes, anchors, decoding) {
  return trainer.answers(examples).map((answer) => boxesIn(answer, { classes, anchors, decoding }));
}

/** A network's answers as boxes, the best first. */
function boxesIn({ logits, offsets }, { classes, anchors, decoding, scores = "softmax", score = WEAKEST }) {
  return detect({ scores: foregroundScores(logits, classes, scores), boxes: decodeBoxes(anchors, offsets, decoding) }, { score, iou: 0.45 }).found;
}

const withDefaults = (config) => ({ ...CONFIG, ...config, loss: { ...CONFIG.loss, ...config.loss } });

/** A head that learns again and again from a set whose features are known: that of widgets/turn.py. */
export function makeStudy({ record, classes, features, objects, train }) {
  const anchors = makeAnchors(record), bytes = bytesOf64(features), length = bytes.length / objects.length;
  const examples = objects.map((list, i) => ({ features: bytes.subarray(i * length, (i + 1) * length), ...matchObjects(anchors, list, record.decoding) }));
  const truth = objects.slice(train), held = examples.slice(train);
  const shape = { features: record.features, anchors: anchorShapes(record, 0).length, classes };
  let stopped = false;
  return {
    stop() { stopped = true; },
    async train({ config }, tell) {
      const settings = withDefaults(config), trainer = await makeTrainer(shape, settings);
      const score = () => {
        const pairs = foundBy(trainer, held, classes, anchors, record.decoding).map((found, i) => ({ found, truth: truth[i] }));
        return { ap: meanAP(pairs), ap50: meanAP(pairs, [0.5]) };
      };
      stopped = false;
      await runSteps(trainer, examples.slice(0, train), settings, { tell, score, stopped: () => stopped });
      return { stopped };
    },
  };
}

/** The maps that a head learns from: MobileNetV2's before each of its last two halvings, and its last. */
export function featureMaps({ steps }) {
  const halving = steps.filter(({ op, stride }) => op === "each" && stride === 2).slice(-2);
  const widest = steps.find(({ to, op }) => op === "mix" && to.channels === 1280);
  return { maps: [...halving.map(({ from }) => from), widest.to], needed: steps.slice(0, steps.indexOf(widest) + 1).filter(({ read }) => !read) };
}

/** Features of an image as bytes, channels side by side. */
async function featuresOf(engine, { maps, needed }, rgba) {
  await engine.run(rgba, needed);
  const bytes = new Uint8Array(maps.reduce((sum, { channels, height, width }) => sum + channels * height * width, 0));
  let before = 0;
  for (const { at, channels, height, width, stride, plane } of maps) {
    for (let c = 0; c < channels; c++) {
      for (let y = 0, q = before + c; y < height; y++) {
        for (let p = at + c * plane + (y + 1) * stride + 1, end = p + width; p < end; p++, q += channels) bytes[q] = engine.memory[p] / UNIT + 0.5;
      }
    }
    before += channels * height * width;
  }
  return bytes;
}

/** What a detector of a page finds in an image of its size, RGBA. */
export async function lookWith(engine, model, rgba, score = WEAKEST) {
  const { classes, decoding, scores } = model;
  return boxesIn(await engine.run(rgba), { classes: classes.length, anchors: makeAnchors(model), decoding, scores, score });
}

/** Teach a head for the anchors of `template`, a detector's record, on the backbone of `everyday`. */
export async function makeTeacher(everyday, template) {
  const engine = await makeEngine(everyday), source = featureMaps(engine.layout), anchors = makeAnchors(template);
  const known = new Map(); // of each image its views: { window, features }
  const shape = { features: source.maps.map(({ height, width, channels }) => ({ height, width, channels })), anchors: anchorShapes(template, 0).length };
  let trainer = null, classes = 0, stopped = false;

  const example = ({ window, features }, objects) => ({ features, ...matchObjects(anchors, objectsIn(objects, window), template.decoding) });
  const start = async (many, config) => {
    classes = many;
    trainer = await makeTrainer({ ...shape, classes }, config);
  };

  return {
    stop() { stopped = true; },
    /** Features of an image and of `views` − 1 random views of it. */
    async see({ key, rgba, objects, views = 1, seed = 0 }) {
      const random = makeRandom(seed), list = [{ window: [0, 0, 1, 1], features: await featuresOf(engine, source, rgba) }];
      for (stopped = false; list.length < views && !stopped;) {
        await pause();
        const window = drawWindow(objects, random);
        list.push({ window, features: await featuresOf(engine, source, renderView(rgba, template.size, window, drawColors(random))) });
      }
      known.set(key, list);
      return { views: list.length };
    },
    forget: ({ key }) => ({ known: known.delete(key) }),
    /** Train on images that were seen: [{ key, objects }]; `tell` hears of every step, and of every score. */
    async train({ images, heldOut, classes: many, config = {}, go = false }, tell) {
      const settings = withDefaults(config);
      const examples = images.flatMap(({ key, objects }) => known.get(key).map((view) => example(view, objects)));
      const before = go && trainer && classes === many ? trainer.weights() : null;
      await start(many, { ...settings, batch_size: Math.min(settings.batch_size, examples.length) });
      if (before) trainer.set(before);
      stopped = false;
      const score = () => (heldOut.length ? this.score({ images: heldOut }) : {});
      await runSteps(trainer, examples, settings, { tell, score, stopped: () => stopped });
      return { steps: settings.steps, stopped };
    },
    /** What is found in images that were seen, and AP over all of them. */
    score({ images }) {
      const answers = foundBy(trainer, images.map(({ key }) => known.get(key)[0]), classes, anchors, template.decoding);
      const pairs = images.map(({ objects }, i) => ({ found: answers[i], truth: objects }));
      return { ap: meanAP(pairs), ap50: meanAP(pairs, [0.5]), found: answers.map((list) => list.slice(0, 100)) };
    },
    weights: () => ({ tensors: trainer.weights() }),
    async load({ tensors, classes: many }) {
      await start(many, { ...CONFIG, batch_size: 1 });
      trainer.set(tensors);
      return {};
    },
  };
}

/** Requests of a page; `stop` is heard while another one is under way. */
export function serveTeacher(port) {
  let teacher = null, last = Promise.resolve();
  port.onmessage = ({ data }) => {
    if (data.do === "stop") return void teacher?.stop();
    last = last.then(async () => {
      const tell = (more) => port.postMessage({ id: data.id, ...more });
      try {
        if (data.do === "start") teacher = data.set ? makeStudy(data.set) : await makeTeacher(data.everyday, data.template);
        tell({ ...(data.do === "start" ? {} : await teacher[data.do](data, tell)), done: true });
      } catch (error) {
        tell({ error: error.message });
      }
    });
  };
}

/** The page's side: `ask(what, given, hear)` resolves to the last answer; `end` stops it all. */
export function callTeacher(whole) {
  const url = URL.createObjectURL(new Blob([`(${whole})().serveTeacher(self);`], { type: "text/javascript" }));
  const worker = new Worker(url), waiting = new Map();
  let count = 0;
  worker.onmessage = ({ data }) => {
    const { resolve, reject, hear } = waiting.get(data.id) ?? {};
    if (!data.done && !data.error) return void hear?.(data);
    waiting.delete(data.id);
    if (data.error) reject?.(new Error(data.error));
    else resolve?.(data);
  };
  worker.onerror = () => waiting.forEach(({ reject }) => reject(new Error("this browser does not let the page train: it refuses a worker")));
  return {
    ask: (what, given = {}, hear = null) => new Promise((resolve, reject) => {
      waiting.set(++count, { resolve, reject, hear });
      worker.postMessage({ id: count, do: what, ...given });
    }),
    stop: () => worker.postMessage({ do: "stop" }),
    end() {
      worker.terminate();
      URL.revokeObjectURL(url);
    },
  };
}
