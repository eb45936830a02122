// Runs after require.js and before embed-amd.js, on pages with live figures only.
(() => {
  const here = new URL("./", document.currentScript.src).href; // .../_static/widgets/
  const paths = { anywidget: `${here}anywidget` };
  // embed-amd.js defines these by name; the path only tells where their style sheets find fonts.
  for (const name of ["base", "controls", "base7", "controls7", "html-manager", "html-manager/dist/libembed-amd"]) {
    paths[`@jupyter-widgets/${name}`] = `${here}embed-amd`;
  }
  window.requirejs.config({ paths });

  // ipywidgets speaks MathJax 2 (Hub.Queue); the page has MathJax 3.
  const Hub = {
    Queue: ([, , element]) =>
      window.MathJax?.startup?.promise?.then(() => window.MathJax.typesetPromise([element])),
  };
  const withHub = (mathjax) => {
    if (mathjax && !mathjax.Hub) Object.defineProperty(mathjax, "Hub", { value: Hub, enumerable: false });
    return mathjax;
  };
  let mathjax = window.MathJax;
  Object.defineProperty(window, "MathJax", {
    configurable: true,
    get: () => withHub(mathjax),
    set: (value) => {
      mathjax = value;
    },
  });
})();
