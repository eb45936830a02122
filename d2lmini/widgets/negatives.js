// Which negatives count: as dots over a scene, and as shares of the class loss and of its gradient in bars.
// The scene's negatives of largest `loss`, or of largest `random`, count first; `table` holds what many scenes add up to.
export default figure({
  traits: ["ratio", "kind", "network"],
  height: (width) => (width < 560 ? width + 210 : 310),
  setup(stage) {
    const { ratios, choices, names, table, photo, points, positives, loss: losses, random, shown } = stage.data;
    stage.below.append(legend([["c1 thick", "positives (squares)"], ["c0 thick", "negatives that count (dots)"]]));
    const holds = new Set(positives.values), order = new Map(); // sorted once for each network and choice
    const chosen = (n, k, count) => {
      const key = `${n} ${k}`, score = k ? random.values : losses.row(n);
      if (!order.has(key)) order.set(key, Array.from(score.keys()).filter((i) => !holds.has(i)).sort((i, j) => score[j] - score[i]));
      return order.get(key).slice(0, count);
    };
    const percent = (share) => `${fixed(100 * share, share < 0.1 || share > 0.9 ? 1 : 0)} %`;
    // One path of round dots: thousands of them are drawn as fast as one.
    const dots = (view, indices, color, size, cap) => {
      let d = "";
      for (const i of indices) {
        const [x, y] = points.row(i);
        d += `M${view.X(x / 1e4).toFixed(1)} ${view.Y(y / 1e4).toFixed(1)}h0.01`;
      }
      const look = { d, fill: "none", "stroke-linecap": cap };
      return [svg("path", { ...look, stroke: "#101010", "stroke-width": size + 2 }), svg("path", { ...look, stroke: color, "stroke-width": size })];
    };
    return () => {
      const r = stage.get("ratio"), k = stage.get("kind"), n = stage.get("network"), narrow = stage.width < 560;
      const view = new ImageView({ top: 0, width: narrow ? stage.width : 310, url: photo });
      view.boxes.append(...dots(view, chosen(n, k, shown[r]), PALETTE[0], 3, "round"), ...dots(view, positives.values, PALETTE[1], 5, "square"));
      const [loss, gradient, total, each, background] = table.row(n, k, r);
      const left = narrow ? 4 : 336, width = stage.width - left - 4, top = narrow ? stage.width + 22 : 18;
      const bar = (y, label, share) => [
        svg("text", { class: "label", x: left, y }, label),
        stackedBar({ left, top: y + 8, width, parts: [[share, "c1", percent(share)], [1 - share, "c0", percent(1 - share)]] }),
      ];
      const words = [`class loss ÷ positives: ${fixed(total, total < 100 ? 2 : 0)}`, `chosen negatives ÷ positives: ${fixed(each, 1)}`,
        `their mean probability of background: ${fixed(background)}`];
      stage.clear(stage.svg, view.element, bar(top, "share of the class loss", loss), bar(top + 70, "share of its gradient on the logits", gradient),
        words.map((text, i) => svg("text", { class: "label", x: left, y: top + 142 + 20 * i }, text)));
      return `The ${names[n]} network, ${choices[k].split(":")[0]} negatives, ${ratios[r]}: positives hold ${percent(loss)} of the class loss and ${percent(gradient)} of its gradient on the logits.`;
    };
  },
});
