// The live detector as a notebook's widget: in a page of the book it runs in the page, beside a kernel Python answers.
import { bytesOf } from "./bytes.js";
import { begin, beginTeach, script } from "./start.js";

const CODE = { d2lminiLive: "live.js", d2lminiTeach: "teach.js" };
const ALONE = "Python does not answer, and without it only a page of the book can run this: run the cell again";

/** Where the book keeps its files, if this is a page of the book; Sphinx says so in every page. */
function bookFolder() {
  const root = document.documentElement.dataset.content_root;
  return root === undefined ? null : new URL(`${root}_static/live/`, document.baseURI).href;
}

/** The code and the model from beside a page of the book: { whole, model }. */
async function fromBook(folder, kind, name, waiting) {
  if (!globalThis[kind]) await script(`${folder}${CODE[kind]}`);
  if (!globalThis.d2lminiModels?.[name]) await script(folder + name, waiting);
  return { whole: globalThis[kind], model: globalThis.d2lminiModels[name] };
}

/** The same from Python, which later answers for every image. */
async function fromKernel(widget, kind) {
  const { code, model } = await new Promise((resolve, reject) => {
    const listen = (message) => {
      if (!message.code) return;
      widget.off("msg:custom", listen);
      resolve(message);
    };
    widget.on("msg:custom", listen);
    setTimeout(() => reject(new Error(ALONE)), 10_000);
    widget.send({ want: "code" });
  });
  if (!globalThis[kind]) await script(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  return { whole: globalThis[kind], model };
}

export default {
  render({ model: widget, el }) {
    const { name, about, samples, template, study, ...images } = widget.get("data"), folder = bookFolder();
    const fileOf = ({ mime, bytes }) => new Blob([bytesOf(bytes)], { type: mime });
    const given = samples.map((sample, i) => ({ ...sample, blob: fileOf(images[`image${i}`]) }));
    const get = (kind, waiting) => (folder ? fromBook(folder, kind, name, waiting) : fromKernel(widget, kind));
    if (template || study) {
      const load = async (waiting) => {
        const { whole, model } = await get("d2lminiTeach", waiting), { startTeach, startTurn } = whole();
        return (frame) => (study ? startTurn(frame, { set: model, whole }) : startTeach(frame, { everyday: model, template, samples: given, whole }));
      };
      const what = study ? `What it learns from (${about})` : `The network (${about})`;
      return beginTeach(el, { about: `${what} is fetched when you start. All of it runs in this page, and nothing leaves it.`, load });
    }
    const here = `The network (${about}) is fetched then, and runs in this page: your own images never leave it.`;
    const there = `The network (${about}) runs in the kernel of this notebook: your own images go there and no further.`;
    const load = async (waiting) => {
      const { whole, model } = await get("d2lminiLive", waiting), { pageEngine, kernelEngine, startApp } = whole();
      const engine = await (folder ? pageEngine(name, whole) : kernelEngine(widget));
      return (frame) => startApp(frame, model, engine);
    };
    return begin(el, { about: folder ? here : there, samples: given, load });
  },
};
