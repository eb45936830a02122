// Where the answers come from: a worker of this page, this page itself, or the Python of a notebook.
import { bytesOf } from "./bytes.js";
import { makeEngine } from "./engine.js";
import { pause } from "./pause.js";

const SILENT = "no answer from Python, whose kernel may be busy or gone: run the cell again";
const running = new Map(); // one network a page, however many figures use it

/** The network of a page; its weights script has been loaded. `whole` is the function that holds all modules. */
export function pageEngine(name, whole) {
  if (!running.has(name)) {
    const model = globalThis.d2lminiModels[name];
    const started = workerEngine(whole, model).catch(() => ownEngine(model));
    running.set(name, started);
    started.catch(() => running.delete(name));
  }
  return running.get(name);
}

/** In the page itself, a layer at a time: where a worker is refused. */
async function ownEngine(model) {
  const engine = await makeEngine(model, { pause });
  const run = async (rgba) => {
    const start = performance.now();
    return { ...(await engine.run(rgba)), ms: performance.now() - start };
  };
  return { name: engine.name, run: oneByOne(run) };
}

/** In a worker, which is made of the same text as the page's own code: the page stays alive. */
async function workerEngine(whole, model) {
  const url = URL.createObjectURL(new Blob([`(${whole})().serve(self);`], { type: "text/javascript" }));
  const worker = new Worker(url), waiting = new Map();
  let last = 0;
  const run = (rgba) => new Promise((resolve, reject) => {
    waiting.set(++last, { resolve, reject });
    worker.postMessage({ id: last, rgba });
  });
  return new Promise((resolve, reject) => {
    worker.onerror = () => reject(new Error("no worker"));
    worker.onmessage = ({ data }) => {
      if (data.ready) resolve({ name: data.ready, run: oneByOne(run) });
      else if (data.id === undefined) reject(new Error(data.error));
      else settle(waiting, data.id, data);
    };
    worker.postMessage({ model });
  }).finally(() => URL.revokeObjectURL(url));
}

function settle(waiting, id, data) {
  const { resolve, reject } = waiting.get(id) ?? {};
  waiting.delete(id);
  if (data.error) reject?.(new Error(data.error));
  else resolve?.(data);
}

/** A notebook's Python: pixels there, numbers back. `widget` is anywidget's model. */
export function kernelEngine(widget) {
  const waiting = new Map(), mine = Math.random().toString(36).slice(2); // several views share one model
  let last = 0;
  widget.on("msg:custom", (message, buffers) => {
    if (!waiting.has(message.id)) return;
    const [logits, offsets] = (buffers ?? []).map((view) => new Float32Array(bytesOf(view)));
    settle(waiting, message.id, { ...message, logits, offsets });
  });
  const run = (rgba) => new Promise((resolve, reject) => {
    const id = `${mine}-${++last}`;
    waiting.set(id, { resolve, reject });
    setTimeout(() => settle(waiting, id, { error: SILENT }), 30_000);
    widget.send({ id }, undefined, [new Uint8Array(rgba).buffer]);
  });
  return Promise.resolve({ name: "Python", run: oneByOne(run) });
}

/** Images wait for each other: a network has one set of maps. */
function oneByOne(run) {
  let before = Promise.resolve();
  return (rgba) => {
    const mine = before.then(() => run(rgba));
    before = mine.catch(() => {});
    return mine;
  };
}
