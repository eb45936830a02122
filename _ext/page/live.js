// On pages with live figures, and before anything else there. A figure starts as a still image; when it has drawn
// itself, both change places. The controls get the names and values that a screen reader needs.
(() => {
  const PATIENCE = 20000; // ms after which the image stays and the page stops keeping room for the figure
  document.documentElement.classList.add("scripts"); // live.css keeps room only where scripts run

  /** Whether every drawing of a figure has said what it shows, which it does when it has drawn. */
  const isAlive = (stage) => {
    const readouts = [...stage.querySelectorAll(".d2l-figure .readout")];
    return readouts.length > 0 && readouts.every((readout) => readout.textContent);
  };

  /** Set an attribute only if it changes: a change calls the observer again. */
  const put = (element, name, value) => {
    if (element.getAttribute(name) !== value) element.setAttribute(name, value);
  };

  /** noUiSlider's handles have no name, and say 3 where the readout says "ratio 2:1". */
  const nameSlider = (slider) => {
    const label = slider.querySelector(".widget-label")?.textContent ?? "";
    const readout = slider.querySelector(".widget-readout");
    for (const handle of slider.querySelectorAll(".noUi-handle")) {
      put(handle, "aria-label", label);
      if (readout?.textContent) put(handle, "aria-valuetext", readout.textContent);
    }
    // What is typed beside a slider of stops stays there, and the figure does not move: let nobody type.
    if (readout?.isContentEditable && slider.matches(".d2l-steps")) readout.contentEditable = "false";
    if (readout?.isContentEditable) {
      put(readout, "role", "textbox");
      put(readout, "aria-label", `${label}, as a number`);
    }
  };

  /** Where Python gave no tooltip, ipywidgets writes one that reads "null". */
  const nameControls = (stage) => {
    stage.querySelectorAll(".widget-slider").forEach(nameSlider);
    stage.querySelectorAll('[title="null"]').forEach((element) => element.removeAttribute("title"));
  };

  const follow = (figure) => {
    const stage = figure.querySelector(".stage");
    const look = () => {
      nameControls(stage);
      if (isAlive(stage)) figure.classList.add("alive");
    };
    // It runs after the drawing and before the screen is painted, so the change takes a single frame.
    const changes = new MutationObserver(look);
    changes.observe(stage, { subtree: true, childList: true, characterData: true, attributeFilter: ["aria-valuetext"] });
    look();
  };

  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll("figure.live").forEach(follow));
  window.addEventListener("load", () => setTimeout(() => document.documentElement.classList.add("waited"), PATIENCE));
})();
