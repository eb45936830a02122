// One random view: on the left the image and the window that the view looks through, on the right what it
// sees. All windows, boxes and images were drawn in Python; here the chosen ones are put side by side.
const NARROW = 480, LOST = 0, CUT = 2;
export default figure({
  traits: ["seed", "strength"],
  height: (width) => (width < NARROW ? 2 * Math.min(width, 300) + 64 : (width - 16) / 2 + 26),
  setup(stage) {
    const { image, ground, boxes, labels, classes, strengths, windows, views, states, which } = stage.data;
    const title = (text, x, y) => svg("text", { class: "label", x, y }, text);

    /** The image on a canvas that holds the window too, all of it darkened but the window. */
    const source = (left, top, side, s, n) => {
      const [x0, y0, x1, y1] = windows.row(s, n);
      const seen = [Math.min(x0, x1), y0, Math.max(x0, x1), y1];
      const low = Math.min(0, seen[0], seen[1]), high = Math.max(1, seen[2], seen[3]), zoom = side / (high - low);
      const inner = new ImageView({ left: left - low * zoom, top: top - low * zoom, width: zoom, url: image });
      const at = (x, y) => `${inner.X(x).toFixed(1)} ${inner.Y(y).toFixed(1)}`;
      const ring = ([a, b, c, d]) => `M${at(a, b)}L${at(c, b)}L${at(c, d)}L${at(a, d)}Z`;
      inner.boxes.append(svg("path", { d: ring([low, low, high, high]) + ring(seen), "fill-rule": "evenodd", fill: "#000", "fill-opacity": 0.5 }));
      for (let g = 0; g < boxes.length; g++) {
        const lost = states.at(s, n, g) === LOST;
        inner.box(boxes.row(g), { color: lost ? "#fff" : colorOf(labels[g]), ink: lost ? "#000" : inkOn(labels[g]), dashed: true, width: 2, tag: lost ? "lost" : "" });
      }
      inner.box(seen, { color: "#fff", width: 2.5 });
      // What lies outside the image is filled with its mean colour.
      return svg("g", {}, svg("rect", { x: left, y: top, width: side, height: side, fill: ground }), inner.element);
    };

    /** The view itself, as a network in training gets it. */
    const view = (left, top, side, s, n) => {
      const panel = new ImageView({ left, top, width: side, url: stage.data[`view${which.at(s, n)}`] });
      for (let g = 0; g < boxes.length; g++) {
        const state = states.at(s, n, g), name = classes[labels[g]];
        if (state === LOST) continue;
        panel.box(views.row(s, n, g), { color: colorOf(labels[g]), ink: inkOn(labels[g]), dashed: true, tag: state === CUT ? `${name}, cut` : name });
      }
      return panel.element;
    };

    return () => {
      const s = stage.get("strength"), n = stage.get("seed"), narrow = stage.width < NARROW;
      const side = narrow ? Math.min(stage.width, 300) : (stage.width - 16) / 2;
      // On a phone the result stays in sight beside the sliders, and the explanation comes below it.
      const [left, top] = narrow ? [0, side + 58] : [0, 22], [right, head] = narrow ? [0, 22] : [side + 16, 22];
      stage.clear(stage.svg,
        title("The image, and what the view takes of it", left, top - 8), source(left, top, side, s, n),
        title("The view, as the network gets it", right, head - 8), view(right, head, side, s, n));
      const [x0, y0, x1, y1] = windows.row(s, n), row = Array.from(states.row(s, n));
      const count = (state) => row.filter((v) => v === state).length;
      const size = `${fixed(Math.abs(x1 - x0))} × ${fixed(y1 - y0)} of the image's sides`;
      return `Strength “${strengths[s]}”, seed ${n}: the window is ${size}${x0 > x1 ? ", mirrored" : ""}. `
        + `Of ${row.length} objects ${row.length - count(LOST)} stay, ${count(CUT)} of them cut; ${count(LOST)} lost.`;
    };
  },
});
