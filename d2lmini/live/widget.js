// The live detector as a notebook's widget: in a page of the book it runs in the page, beside a kernel Python answers.
import { bytesOf } from "./bytes.js";
import { begin, script } from "./start.js";

const ALONE = "Python does not answer, and without it only a page of the book can run this: run the cell again";

/** Where the book keeps its files, if this is a page of the book; Sphinx says so in every page. */
function bookFolder() {
  const root = document.documentElement.dataset.content_root;
  return root === undefined ? null : new URL(`${root}_static/live/`, document.baseURI).href;
}

async function fromBook(folder, name, waiting) {
  if (!globalThis.d2lminiLive) await script(`${folder}live.js`);
  if (!globalThis.d2lminiModels?.[name]) await script(folder + name, waiting);
  const { pageEngine, startApp } = globalThis.d2lminiLive();
  const model = globalThis.d2lminiModels[name], engine = await pageEngine(name, globalThis.d2lminiLive);
  return (frame) => startApp(frame, model, engine);
}

/** Python hands over the code, and later answers for every image. */
async function fromKernel(widget) {
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
  if (!globalThis.d2lminiLive) await script(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  const { kernelEngine, startApp } = globalThis.d2lminiLive(), engine = await kernelEngine(widget);
  return (frame) => startApp(frame, model, engine);
}

export default {
  render({ model, el }) {
    const { name, about, samples, ...images } = model.get("data"), folder = bookFolder();
    const fileOf = ({ mime, bytes }) => new Blob([bytesOf(bytes)], { type: mime });
    const given = samples.map((sample, i) => ({ ...sample, blob: fileOf(images[`image${i}`]) }));
    const here = `The network (${about}) is fetched then, and runs in this page: your own images never leave it.`;
    const there = `The network (${about}) runs in the kernel of this notebook: your own images go there and no further.`;
    const load = (waiting) => (folder ? fromBook(folder, name, waiting) : fromKernel(model));
    return begin(el, { about: folder ? here : there, samples: given, load });
  },
};
