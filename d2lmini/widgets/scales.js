// One feature map over the image: its grid, and of one cell the anchors, the receptive field, and how strongly each
// pixel moves the cell's answers. Python measured that for the map; here it is only shifted to the chosen cell.
export default figure({
  traits: ["scale", "anchors", "spotlight", "x", "y"],
  height: (width) => (width < 620 ? Math.min(width, 400) + 250 : 400),
  setup(stage) {
    const { photo, side, maps, sees, holds, steps } = stage.data;
    stage.svg.setAttribute("role", "group"); // an image may hold nothing that takes the focus
    const pad = svg("rect", { fill: "transparent" }), ruler = svg("g"), view = svg("g");
    const keys = svg("g", { tabindex: 0, role: "application", "aria-label": "Cell of the feature map. Arrow keys choose its neighbours.", style: "cursor: pointer" }, view, pad);
    stage.svg.append(keys, ruler);
    stage.below.append(legend([["c0 thick", "sizes of the anchors"], ["c1", "half (dot), nine tenths (ring) of the gradient"], ["c3 dotted", "can depend on"]]));

    const cellOf = (n) => ["x", "y"].map((name) => Math.min(Math.floor(stage.get(name) * n), n - 1));
    const goTo = (column, row, n) => {
      const inside = (v) => Math.min(Math.max(v, 0), n - 1);
      stage.set("x", (inside(column) + 0.5) / n);
      stage.set("y", (inside(row) + 0.5) / n);
    };
    keys.addEventListener("click", (event) => {
      const place = stage.svg.getBoundingClientRect(), n = maps[stage.get("scale")];
      goTo(Math.floor(((event.clientX - place.left) / stage.frame) * n), Math.floor(((event.clientY - place.top) / stage.frame) * n), n);
    });
    keys.addEventListener("keydown", (event) => {
      const way = arrow(event);
      if (!way) return;
      const n = maps[stage.get("scale")], [column, row] = cellOf(n);
      goTo(column + way[0], row + way[1], n);
    });

    /** Darkness over the whole image, one point for two pixels, as an image: none where the gradient is strongest. */
    function shade(scale, middle) {
      const field = stage.data[`field${scale}`], points = side / 2, canvas = html("canvas", { width: points, height: points });
      const context = canvas.getContext("2d"), image = context.createImageData(points, points), start = middle.map((m) => m - (field.length * steps[scale]) / 2);
      for (let y = 0, at = 3; y < points; y++) {
        const i = Math.floor((2 * y + 1 - start[1]) / steps[scale]);
        for (let x = 0; x < points; x++, at += 4) {
          const j = Math.floor((2 * x + 1 - start[0]) / steps[scale]);
          const inside = i >= 0 && j >= 0 && i < field.length && j < field.length;
          image.data[at] = 200 * (1 - (inside ? Math.sqrt(field.at(i, j)) : 0));
        }
      }
      context.putImageData(image, 0, 0);
      return canvas.toDataURL();
    }

    return () => {
      const scale = stage.get("scale"), n = maps[scale], set = stage.get("anchors"), lit = stage.get("spotlight");
      const shapes = stage.data[`shapes${set}`], owned = stage.data[`owned${set}`][scale], [column, row] = cellOf(n);
      const narrow = stage.width < 620, frame = (stage.frame = narrow ? Math.min(stage.width, 400) : 400), cell = frame / n;
      const image = new ImageView({ width: frame, url: photo }), middle = [(column + 0.5) / n, (row + 0.5) / n];
      const square = (pixels) => [...middle.map((m) => m - pixels / side / 2), ...middle.map((m) => m + pixels / side / 2)];
      const clip = `clip-${Math.random().toString(36).slice(2)}`;
      image.boxes.setAttribute("clip-path", `url(#${clip})`);
      if (lit) image.boxes.append(svg("image", { href: shade(scale, middle.map((m) => m * side)), width: frame, height: frame, preserveAspectRatio: "none" }));
      let lines = "";
      for (let k = 1; k < n; k++) lines += `M${k * cell} 0V${frame}M0 ${k * cell}H${frame}`;
      image.boxes.append(svg("path", { d: lines, stroke: "#fff", "stroke-opacity": n > 16 ? 0.25 : 0.45, "stroke-width": 1 }),
        ...owned.map((k) => svg("circle", { cx: ((k % n) + 0.5) * cell, cy: (Math.floor(k / n) + 0.5) * cell, r: Math.max(2.5, Math.min(cell / 6, 6)), fill: "#fff", stroke: "#101010" })));
      for (const [w, h] of shapes[scale]) image.box([middle[0] - w / 2, middle[1] - h / 2, middle[0] + w / 2, middle[1] + h / 2], { color: PALETTE[0], width: 1.5 });
      if (lit) image.box(square(holds[scale][0]), { color: PALETTE[1], width: 2 });
      const [x0, y0, x1, y1] = square(sees[scale]).map((v) => v * frame);
      image.boxes.append(...["#101010", "#fff"].map((stroke, k) => svg("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0, fill: "none", stroke, "stroke-width": 4 - 1.5 * k, "stroke-dasharray": k ? "3 4" : null })),
        svg("rect", { x: column * cell, y: row * cell, width: cell, height: cell, fill: n > 1 ? "#fff" : "none", "fill-opacity": 0.35, stroke: "#fff", "stroke-width": 2 }));
      stage.clear(view, svg("clipPath", { id: clip }, svg("rect", { width: frame, height: frame })), image.element);
      fill(pad, { width: frame, height: frame }, []);

      // Every map's sizes on one logarithmic ruler, in pixels.
      const left = narrow ? 60 : 474, top = narrow ? frame + 34 : 60, wide = stage.width - left - 16, high = 34;
      const X = (pixels) => linear(Math.log2(8), Math.log2(512), left, left + wide)(Math.log2(pixels)), bottom = top + high * maps.length;
      const parts = [8, 16, 32, 64, 128, 256, 512].flatMap((v) => [
        svg("line", { class: "grid", x1: X(v), x2: X(v), y1: top, y2: bottom }),
        svg("text", { x: X(v), y: bottom + 15, "text-anchor": "middle" }, String(v))]);
      maps.forEach((m, k) => {
        const y = top + high * (k + 0.5), sizes = shapes[k].map(([w, h]) => Math.sqrt(w * h) * side);
        if (k === scale) parts.unshift(svg("rect", { class: "paper", x: left - 58, y: y - high / 2, width: wide + 70, height: high }));
        parts.push(svg("text", { class: "label", x: left - 6, y: y + 4, "text-anchor": "end" }, `${m} × ${m}`),
          svg("path", { class: "curve c0 thick", d: `M${X(Math.min(...sizes)) - 2} ${y - 6}H${X(Math.max(...sizes)) + 2}` }),
          svg("path", { class: "curve c1", d: `M${X(holds[k][0])} ${y + 7}H${X(holds[k][1])}` }),
          svg("circle", { class: "mark c1", cx: X(holds[k][0]), cy: y + 7, r: 5 }),
          svg("circle", { class: "curve c1", cx: X(holds[k][1]), cy: y + 7, r: 4, style: "fill: var(--paper)" }),
          svg("path", { class: "curve c3 dotted", d: `M${X(sees[k])} ${y - 13}v26`, "stroke-width": 3 }));
      });
      stage.clear(ruler, svg("text", { class: "label", x: left - 46, y: top - 12 }, "sides in pixels, map by map"), parts,
        svg("text", { x: left + wide / 2, y: bottom + 32, "text-anchor": "middle" }, "pixels (each step doubles)"));

      const sizes = shapes[scale].map(([w, h]) => Math.sqrt(w * h) * side), all = sees[scale] >= 2 * side - 8;
      const reach = all ? "the whole image" : `${sees[scale]} × ${sees[scale]} pixels`, mine = owned.includes(row * n + column);
      return `Map ${scale + 1}, ${n} × ${n} cells, row ${row + 1}, column ${column + 1}: its answers can depend on ${reach}; half of the gradient lies within ${holds[scale][0]} × ${holds[scale][0]}. Its ${shapes[scale].length} anchors are sized ${fixed(Math.min(...sizes), 0)} to ${fixed(Math.max(...sizes), 0)} pixels. ${lit ? "" : "Nothing is darkened. "}${owned.length} cell${owned.length === 1 ? "" : "s"} of this map ${owned.length === 1 ? "has" : "have"} a positive${mine ? ", this one too" : ""}.`;
    };
  },
});
