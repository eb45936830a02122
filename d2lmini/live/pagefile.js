// A detector as one HTML file, made in a page: what `export.save_page` writes in Python.
const PAGE = __PAGE__, STYLE = __STYLE__, START = __START__; // texts, put here when the modules are bundled

/** The file's text: `whole` is the function that holds all modules, `record` the detector. */
export function pageOf(whole, record, about) {
  const scripts = {
    style: STYLE,
    live: `globalThis.d2lminiLive = ${whole};\n`,
    weights: `globalThis.d2lminiModels = ${JSON.stringify({ detector: record })};\n`,
    page: `globalThis.d2lminiPage = ${JSON.stringify({ about, samples: [] })};\n`,
    start: START,
  };
  const safe = (text) => text.replace(/<(?=\/|!--|script)/gi, "<\\"); // these three would end the script that holds them
  const escape = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
  const title = escape(`A detector for ${record.classes.join(", ")}`);
  return PAGE.replace(/\$(\w+)/g, (mark, name) => (name === "title" ? title : name in scripts ? safe(scripts[name]) : mark));
}
