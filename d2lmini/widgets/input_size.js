// A small object as the network gets it at each image size, and what anchors and detector make of all objects.
// `rates` holds, for size, kind of anchors and bin of objects: the share covered by an anchor, the share found.
export default figure({
  traits: ["size", "kind"],
  height: (width) => (width < 560 ? 620 : 330),
  setup(stage) {
    const { sizes, start, bins, counts, kinds, rates, anchors, costs, boxes, window: [left, top, side], cell } = stage.data;
    stage.below.append(legend([["c5 thick", "has an anchor with IoU ≥ 0.5"], ["c0 thick", "found by the detector"], ["c1", `with images of ${sizes[start]}`]]));
    const percent = (share) => `${fixed(100 * share, 0)} %`;
    const grid = (view, cells) => {
      const lines = [];
      for (let k = 0; k <= cells; k++) {
        for (const [at, horizontal] of [[(k / cells - left) / side, false], [(k / cells - top) / side, true]]) {
          if (at < 0 || at > 1) continue;
          lines.push(horizontal ? `M${view.left} ${view.Y(at)}h${view.width}` : `M${view.X(at)} ${view.top}v${view.height}`);
        }
      }
      return svg("path", { d: lines.join(""), stroke: "#fff", "stroke-opacity": 0.55, "stroke-width": 1, fill: "none" });
    };
    return () => {
      const s = stage.get("size"), k = stage.get("kind"), narrow = stage.width < 560;
      const view = new ImageView({ left: narrow ? (stage.width - 260) / 2 : 0, top: 22, width: narrow ? 260 : 290, url: stage.data[`crop${s}`] });
      view.element.querySelector("image").style.imageRendering = "pixelated";
      view.boxes.append(grid(view, sizes[s] / cell));
      view.box(boxes.row(s), { color: "#fff", dashed: true });
      const [x0, y0, x1, y1] = boxes.row(s), wide = Math.sqrt((x1 - x0) * (y1 - y0)) * side * sizes[s];
      const x = narrow ? 4 : 316, room = stage.width - x - 52, first = narrow ? 316 : 22;
      const line = (share, before, y, kind) => [
        svg("rect", { class: `bar ${kind}`, x, y, width: share * room, height: 16 }),
        svg("path", { class: "curve c1", d: `M${x + before * room} ${y - 2}v20` }),
        svg("text", { x: x + Math.max(share, before) * room + 8, y: y + 12 }, percent(share)),
      ];
      const groups = bins.map((name, b) => {
        const y = first + 68 * b;
        return [svg("text", { class: "label", x, y: y + 4 }, `${name} objects (${counts[b]})`),
          ...[0, 1].map((i) => line(rates.at(s, k, b, i), rates.at(start, k, b, i), y + 12 + 21 * i, i ? "c0" : "c5"))];
      });
      const y = first + 68 * bins.length, most = Math.max(...costs), times = costs[s] / costs[start];
      const cost = [svg("text", { class: "label", x, y: y + 4 }, `multiply-adds: ${fixed(costs[s])} billion`),
        svg("rect", { class: "bar c2", x, y: y + 12, width: (costs[s] / most) * room, height: 16 }),
        svg("path", { class: "curve c1", d: `M${x + (costs[start] / most) * room} ${y + 10}v20` }),
        svg("text", { x: x + Math.max(costs[s], costs[start]) / most * room + 8, y: y + 24 }, `× ${fixed(times, times < 1 ? 2 : 1)}`)];
      const title = svg("text", { class: "label", x: view.left, y: 12 }, `${fixed(wide, 0)} px, ${fixed(wide / cell, 1)} cells of the finest map`);
      stage.clear(stage.svg, title, view.element, groups.flat(3), cost);
      const found = bins.map((name, b) => `${name} ${percent(rates.at(s, k, b, 1))}`).join(", ");
      return `${sizes[s]} pixels, anchors ${kinds[k]}: ${anchors[s].toLocaleString("en")} anchors, ${fixed(costs[s])} billion multiply-adds. Found: ${found}.`;
    };
  },
});
