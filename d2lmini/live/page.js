// The live detector as a page of its own: everything that it needs is in the same file.
import { bytesOf64 } from "./bytes.js";
import { begin } from "./start.js";

const fileOf = ({ mime, base64 }) => new Blob([bytesOf64(base64)], { type: mime });

async function load() {
  const { pageEngine, startApp } = globalThis.d2lminiLive(), [[name, model]] = Object.entries(globalThis.d2lminiModels);
  const engine = await pageEngine(name, globalThis.d2lminiLive);
  return (frame) => startApp(frame, model, engine);
}

const { about, samples } = globalThis.d2lminiPage, given = samples.map((sample) => ({ ...sample, blob: fileOf(sample) }));
const told = `The network (${about}) is in this file and runs in this page: your images never leave it.`;
begin(document.querySelector("main"), { about: told, load, samples: given });
