// The anchors of one feature map over an image: the grid of centres, and the boxes at a chosen cell.
// `shapes` (S, R, 2) are width and height by size and ratio; `best` (S, R, M, G) is each object's best IoU with any
// anchor of that shape on map m. Python computed both; here a set of shapes is put together by looking them up.
export default figure({
  traits: ["size", "ratios", "map", "second", "cell"],
  height: (width) => (width < 560 ? Math.min(width, 420) + 30 + 28 * 7 : 446),
  setup(stage) {
    const { photo, pixels, sizes, maps, sets, ratios, shapes, best, boxes, names, further } = stage.data;
    stage.svg.setAttribute("role", "group"); // an image may hold nothing that takes the focus
    const drawing = svg("g"), pad = svg("rect", { fill: "transparent", tabindex: 0, role: "application", style: "cursor: crosshair",
      "aria-label": "The feature map. Arrow keys choose another cell." });
    stage.svg.append(drawing, pad);
    stage.below.append(legend([["c5 dashed", "ground truth"], ["c0", "anchors here, a colour for each shape"], ["c1", "IoU 0.5"]]));
    const where = () => { // `cell` is a place in the image, so that it stays put when the map changes
      const n = maps[stage.get("map")], [x, y] = stage.get("cell");
      return [Math.min(n - 1, Math.floor(x * n)), Math.min(n - 1, Math.floor(y * n)), n];
    };
    const choose = (i, j, n) => stage.set("cell", [i, j].map((v) => (Math.min(Math.max(v, 0), n - 1) + 0.5) / n));
    pad.addEventListener("pointerdown", (event) => {
      const n = maps[stage.get("map")], area = pad.getBoundingClientRect();
      choose(Math.floor(((event.clientX - area.left) / area.width) * n), Math.floor(((event.clientY - area.top) / area.height) * n), n);
    });
    pad.addEventListener("keydown", (event) => {
      const way = arrow(event);
      if (!way) return;
      const [i, j, n] = where();
      choose(i + way[0], j + way[1], n);
    });
    return () => {
      const s = stage.get("size"), m = stage.get("map"), chosen = sets[stage.get("ratios")], [i, j, n] = where();
      // every size with the first ratio, then the first size with the other ratios
      const kinds = [[s, chosen[0]], ...(stage.get("second") ? [[s + further, chosen[0]]] : []), ...chosen.slice(1).map((r) => [s, r])];
      const narrow = stage.width < 560, side = narrow ? Math.min(stage.width, 420) : 420;
      const view = new ImageView({ top: 20, width: side, url: photo });
      let dots = "";
      for (let y = 0; y < n; y++) for (let x = 0; x < n; x++) dots += `M${view.X((x + 0.5) / n)} ${view.Y((y + 0.5) / n)}h0`;
      const thick = n > 16 ? 2.5 : n > 4 ? 4 : 6, dot = { d: dots, fill: "none", "stroke-linecap": "round" };
      view.boxes.append(svg("path", { ...dot, stroke: "#101010", "stroke-width": thick + 1.5 }), svg("path", { ...dot, stroke: "#fff", "stroke-width": thick }));
      const found = names.map((_, g) => Math.max(...kinds.map(([k, r]) => best.at(k, r, m, g))));
      names.forEach((_, g) => view.box(boxes.row(g), { color: "#fff", dashed: true, width: 1.5 }));
      view.box([i / n, j / n, (i + 1) / n, (j + 1) / n], { color: "#fff", fillOpacity: 0.3, width: 1 });
      kinds.forEach(([k, r], at) => {
        const [w, h] = shapes.row(k, r), x = (i + 0.5) / n, y = (j + 0.5) / n;
        view.box([x - w / 2, y - h / 2, x + w / 2, y + h / 2], { color: PALETTE[at], width: 2 });
      });
      // Anchors may reach beyond the image, but not across what stands beside it.
      const clip = `edge-${Math.random().toString(36).slice(2)}`, room = { x: -2, y: 0, width: side + 4, height: side + 22 };
      view.boxes.setAttribute("clip-path", `url(#${clip})`);
      const left = narrow ? 2 : 444, top = narrow ? side + 46 : 44, most = stage.width - left - 52;
      const rows = names.map((name, g) => {
        const y = top + (narrow ? 28 : 54) * g, x = narrow ? left + 64 : left, wide = narrow ? most - 64 : most, below = narrow ? 0 : 10;
        return [svg("text", { class: "label", x: left, y: y + (narrow ? 12 : 4) }, name),
          svg("rect", { class: `bar ${found[g] >= 0.5 ? "c0" : "c5"}`, x, y: y + below, width: found[g] * wide, height: 16, "fill-opacity": found[g] >= 0.5 ? 1 : 0.45 }),
          svg("path", { class: "curve c1", d: `M${x + wide / 2} ${y + below - 3}v22` }),
          svg("text", { x: x + Math.max(found[g], 0.5) * wide + 6, y: y + below + 12 }, `${fixed(found[g])}${found[g] >= 0.5 ? " ✓" : ""}`)];
      });
      stage.clear(drawing, svg("clipPath", { id: clip }, svg("rect", room)),
        svg("text", { class: "label", x: 0, y: 12 }, `${n} × ${n} cells, ${number(pixels / n, 1)} pixels each`),
        svg("text", { class: "label", x: left, y: narrow ? side + 36 : 12 }, "best IoU with any of them"),
        view.element, rows.flat());
      fill(pad, { x: 0, y: 20, width: side, height: side }, []);
      const count = kinds.length, total = n * n * count, ok = found.filter((v) => v >= 0.5).length;
      const sum = `${stage.get("second") ? 2 : 1} + ${chosen.length} − 1 = ${count} anchor${count > 1 ? "s" : ""} per cell`;
      return `Size ${fixed(sizes[s])}, ratios ${chosen.map((r) => ratios[r]).join(", ")}: ${sum}, ${total.toLocaleString("en")} on this map, drawn at column ${i + 1}, row ${j + 1}. ${ok} of ${names.length} objects reach an IoU of 0.5.`;
    };
  },
});
