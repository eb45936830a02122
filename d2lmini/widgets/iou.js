// Two boxes to drag and resize over an image, and their IoU. A mouse cannot wait for Python, so this is the one
// place where JavaScript computes something: a browser test compares `iou` with d2lmini's box_iou, by data-iou.
const COLORS = [PALETTE[0], PALETTE[1]]; // box A, box B
const LEAST = 12; // pixels: no side may be shorter
const area = ([x0, y0, x1, y1]) => Math.max(0, x1 - x0) * Math.max(0, y1 - y0);
const meet = (a, b) => [Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])];
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** A box of whole pixels after a pull by (dx, dy) at its body, its first corner or its last one. */
function pulled([x0, y0, x1, y1], part, dx, dy, [wide, high]) {
  if (part === "body") {
    const [x, y] = [clamp(dx, -x0, wide - x1), clamp(dy, -y0, high - y1)];
    return [x0 + x, y0 + y, x1 + x, y1 + y];
  }
  if (part === "first") return [clamp(x0 + dx, 0, x1 - LEAST), clamp(y0 + dy, 0, y1 - LEAST), x1, y1];
  return [x0, y0, clamp(x1 + dx, x0 + LEAST, wide), clamp(y1 + dy, y0 + LEAST, high)];
}

export default figure({
  traits: ["a", "b", "object_a", "object_b"],
  height: (width) => (width < 560 ? Math.min(width, 400) + 248 : 400),
  setup(stage) {
    const { photo, objects, size } = stage.data, names = ["A", "B"], traits = ["a", "b"];
    const pixels = (box) => Array.from(box, (v, i) => Math.round(v * size[i % 2]));
    const store = (k, box) => stage.set(traits[k], box.map((v, i) => v / size[i % 2]));
    stage.svg.setAttribute("role", "group"); // an image may hold nothing that takes the focus
    const image = svg("g"), bodies = svg("g"), handles = svg("g"), panel = svg("g"), formats = html("div");
    const hatch = `hatch-${Math.random().toString(36).slice(2)}`;
    const pattern = svg("pattern", { id: hatch, width: 9, height: 9, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      svg("rect", { width: 9, height: 9, fill: "#fff", "fill-opacity": 0.6 }), svg("path", { d: "M1 0V9", stroke: "#101010", "stroke-width": 1.5 }));
    stage.svg.append(svg("defs", {}, pattern), image, bodies, handles, panel);
    stage.below.append(formats);

    /** Something to pull with a pointer or the arrow keys; it is made once, so that it keeps the focus. */
    function grip(k, part, label, ...children) {
      const node = svg("g", { class: "touch", tabindex: 0, role: "application", "aria-label": label }, children);
      const pull = (from, dx, dy) => {
        stage.set(`object_${traits[k]}`, 0);
        store(k, pulled(from, part, dx, dy, size));
      };
      node.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        node.focus();
        node.setPointerCapture(event.pointerId);
        const from = pixels(stage.get(traits[k])), scale = size[0] / stage.side;
        const move = (e) => pull(from, Math.round((e.clientX - event.clientX) * scale), Math.round((e.clientY - event.clientY) * scale));
        const end = () => node.removeEventListener("pointermove", move);
        node.addEventListener("pointermove", move);
        for (const over of ["pointerup", "pointercancel"]) node.addEventListener(over, end, { once: true });
      });
      node.addEventListener("keydown", (event) => {
        const way = arrow(event);
        if (!way) return;
        const step = event.shiftKey ? 8 : 1;
        pull(pixels(stage.get(traits[k])), way[0] * step, way[1] * step);
      });
      return node;
    }
    const keys = "Arrow keys move it by a pixel, with Shift by eight.";
    const bodyOf = names.map((name, k) => grip(k, "body", `Box ${name}. ${keys}`, svg("rect", { fill: "transparent" })));
    const cornersOf = names.map((name, k) => ["first", "last"].map((part) => grip(k, part,
      `${part === "first" ? "Upper left" : "Lower right"} corner of box ${name}. ${keys}`,
      svg("circle", { cx: part === "first" ? -6 : 6, cy: part === "first" ? -6 : 6, r: 15, fill: "transparent" }), svg("rect", { x: -5, y: -5, width: 10, height: 10, fill: COLORS[k], stroke: "#101010" }))));
    handles.append(...cornersOf.flat());
    bodies.append(...bodyOf);

    const chosen = [0, 0];
    return () => {
      traits.forEach((name, k) => { // a choice in a list puts its box there
        const object = stage.get(`object_${name}`);
        if (object && object !== chosen[k]) store(k, pixels(objects.row(object - 1)));
        chosen[k] = object;
      });
      const narrow = stage.width < 560, side = (stage.side = narrow ? Math.min(stage.width, 400) : 400);
      const [a, b] = traits.map((name) => pixels(stage.get(name))), both = meet(a, b);
      const shared = area(both), union = area(a) + area(b) - shared, iou = shared / union;
      const view = new ImageView({ width: side, height: (side * size[1]) / size[0], url: photo });
      const unit = (box) => box.map((v, i) => v / size[i % 2]);
      for (let i = 0; i < objects.length; i++) view.box(objects.row(i), { color: "#fff", dashed: true, width: 1.25 });
      if (shared) view.box(unit(both), { color: `url(#${hatch})`, fillOpacity: 1, width: 0, rim: false });
      [a, b].forEach((box, k) => {
        const [x0, y0, x1, y1] = unit(box), place = k ? { x: view.X(x0), y: view.Y(y1) + 17 } : { x: view.X(x1) - 16, y: view.Y(y0) };
        view.box(unit(box), { color: COLORS[k] });
        view.boxes.append(plate(names[k], place, view, { color: COLORS[k] })); // A's above, B's below: never one on the other
      });
      stage.clear(image, view.element);

      [a, b].forEach((box, k) => {
        const [x0, y0, x1, y1] = unit(box).map((v, i) => (i % 2 ? v * view.height : v * view.width));
        fill(bodyOf[k].firstChild, { x: x0, y: y0, width: x1 - x0, height: y1 - y0 }, []);
        [[x0, y0], [x1, y1]].forEach(([x, y], i) => cornersOf[k][i].setAttribute("transform", `translate(${x} ${y})`));
      });
      const small = area(a) < area(b) ? 0 : 1; // the smaller box lies on top; what has the focus is not moved
      if (bodies.lastChild !== bodyOf[small]) {
        if (bodyOf[small].contains(document.activeElement)) bodies.prepend(bodyOf[1 - small]);
        else bodies.append(bodyOf[small]);
      }

      // A from the left and B from the right of a bar as long as their union: they meet in what they share.
      const left = narrow ? 2 : 424, top = narrow ? side + 62 : 110, gap = narrow ? 48 : 64, room = stage.width - left - 4, at = (v) => (v / union) * room;
      const row = (k, title, from, length, color) => [
        svg("text", { class: "label", x: left, y: top + gap * k }, title),
        svg("rect", { x: left + at(from), y: top + gap * k + 7, width: at(length), height: 18, fill: color, stroke: "#5c5c5c" })];
      const words = (v) => `${v.toLocaleString("en")} pixels`;
      stage.clear(panel,
        svg("text", { class: "label", x: left, y: top - 36, style: "font-size: 26px; font-weight: 600" }, `IoU ${fixed(iou)}`),
        row(0, `A: ${words(area(a))}`, 0, area(a), COLORS[0]),
        row(1, `B: ${words(area(b))}`, union - area(b), area(b), COLORS[1]),
        row(2, `both, the intersection: ${words(shared)}`, area(a) - shared, shared, `url(#${hatch})`),
        row(3, `together, the union: ${words(union)}`, 0, union, "transparent"));
      const list = (values) => `(${values.map((v) => number(v, 1)).join(", ")})`;
      const center = ([x0, y0, x1, y1]) => [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0];
      stage.clear(formats, [a, b].map((box, k) => html("p", { class: "legend" },
        html("strong", {}, names[k]), html("span", {}, `corners ${list(box)}`), html("span", {}, `centre and sides ${list(center(box))}`))));
      Object.assign(stage.root.dataset, { a: unit(a).join(), b: unit(b).join(), iou: iou.toPrecision(9) });
      return `IoU = ${shared.toLocaleString("en")} / ${union.toLocaleString("en")} = ${fixed(iou)}: ${iou >= 0.5 ? "at 0.5 or above, B would count as a find of A." : shared ? "below 0.5, B would not count as a find of A." : "the boxes do not touch."}`;
    };
  },
});
