// What a page shows before the detector is wanted: images to choose from. The network, and everything else in
// this folder, is fetched with the first of them.
import { html, makeReadout } from "./dom.js";

const LOST = "a part of the detector could not be loaded: try again, or reload the page";

/**
 * Load a classic script; unlike fetch and import, that is allowed in a page opened from a disk. Where fetch is
 * allowed, `progress` hears how many bytes are there, and `signal` can end it.
 */
export async function script(address, { signal, progress } = {}) {
  const source = progress && location.protocol.startsWith("http") ? await fetched(address, signal, progress) : address;
  await new Promise((resolve, reject) => {
    const tag = html("script", { src: source });
    tag.onload = resolve;
    tag.onerror = () => reject(new Error(LOST));
    document.head.append(tag);
  });
  if (source !== address) URL.revokeObjectURL(source);
}

async function fetched(address, signal, progress) {
  const parts = [];
  let bytes = 0;
  try {
    const response = await fetch(address, { signal });
    if (!response.ok) throw new Error(response.statusText);
    for (const reader = response.body.getReader(); ;) {
      const { done, value } = await reader.read();
      if (done) return URL.createObjectURL(new Blob(parts, { type: "text/javascript" }));
      parts.push(value);
      progress(bytes += value.length);
    }
  } catch (error) {
    throw new Error(signal.aborted ? "cancelled" : LOST, { cause: error });
  }
}

/** What a download says and hears: how far it is, and a button in `place` that ends it. */
export function waiting(place, tell) {
  const stop = new AbortController();
  let said = 0;
  place.replaceChildren(html("div", { class: "bar" }, html("button", { type: "button", onclick: () => stop.abort() }, "cancel")));
  const progress = (bytes) => {
    if (bytes < said + 5e5) return; // not so often that nobody could listen
    said = bytes;
    tell(`The detector is on its way: ${(bytes / 1e6).toFixed(1)} MB are here …`);
  };
  return { signal: stop.signal, progress };
}

/**
 * The bar of images, and under it the first of them. `samples` are [{ title, truth, blob }], `about` says where
 * the network is; `load()` resolves to a function that fills the frame with what is alive. Returns a function
 * that ends it all.
 */
export function begin(host, { samples, about, load }) {
  let live = null, loading = null;
  const addresses = samples.map(({ blob }) => URL.createObjectURL(blob));
  const buttons = samples.map((sample, i) => html("button", {
    type: "button", class: "sample", "aria-label": sample.title, "aria-pressed": "false",
    onclick: () => use((app) => app.open(sample), i),
  }, html("img", { src: addresses[i], alt: "", width: 56, height: 56 })));
  const file = html("input", { type: "file", accept: "image/*", onchange: () => own(file.files[0]) });
  const camera = html("button", { type: "button", onclick: () => use((app) => app.camera(camera)) }, "camera");
  const body = html("div", {}, addresses.length ? html("img", { class: "poster", src: addresses[0], alt: samples[0].title }) : "");
  const { element: readout, tell, end } = makeReadout(), after = html("div");
  const root = html("div", {
    class: "d2l-figure d2l-app", role: "group", "aria-label": "The detector, live",
    ondragover: (event) => event.preventDefault(), ondrop: dropped,
  }, html("div", { class: "bar" }, buttons, html("label", { class: "file" }, file, html("span", {}, "your image …")), camera),
  body, readout, after);

  /** Do something with the page that is alive; the first time it has to come alive first. */
  async function use(act, pressed = -1) {
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === pressed)));
    try {
      if (!live) tell("The detector is on its way …");
      loading ??= load(waiting(after, tell)).then((start) => start({ root, body, after, tell }));
      live = await loading;
      await act(live);
    } catch (error) {
      if (!live) loading = null, after.replaceChildren(); // so that the reader can try again
      tell(`That did not work: ${error.message}.`);
    }
  }

  function own(blob, title = blob?.name) {
    if (blob) use((app) => app.open({ blob, title, truth: [] }));
    file.value = ""; // the same file may be chosen again
  }

  function dropped(event) {
    event.preventDefault();
    own(event.dataTransfer.files[0]);
  }

  /** Images from the clipboard go to the figure that the reader is at. */
  function pasted(event) {
    if (!root.matches(":hover") && !root.contains(document.activeElement)) return;
    own([...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/")), "the pasted image");
  }

  document.addEventListener("paste", pasted);
  host.append(root);
  tell(`Choose an image, drop one here, or paste it. ${about}`);
  return () => {
    live?.end();
    end();
    document.removeEventListener("paste", pasted);
    addresses.forEach((address) => URL.revokeObjectURL(address));
  };
}

/** A button that fetches the page that teaches; `load(waiting)` resolves to a function that fills the frame. */
export function beginTeach(host, { about, load }) {
  const { element: readout, tell, end } = makeReadout(), body = html("div"), after = html("div");
  const button = html("button", { type: "button", onclick: start }, "start");
  const root = html("div", { class: "d2l-figure d2l-app teaching", role: "group", "aria-label": "Teach it" }, html("div", { class: "bar" }, button), body, after, readout);
  let live = null;

  async function start() {
    button.disabled = true;
    try {
      tell("The network is on its way …");
      const fill = await load(waiting(after, tell));
      after.replaceChildren();
      live = await fill({ body, tell });
      button.remove();
    } catch (error) {
      button.disabled = false, after.replaceChildren();
      tell(`That did not work: ${error.message}.`);
    }
  }

  host.append(root);
  tell(about);
  return () => {
    live?.end();
    end();
  };
}
