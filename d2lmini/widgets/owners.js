// Which feature map an object's positives come from: a bar for each size of objects, as high as the mean number of
// positives and split by map; under it the chosen size's share of each map.
export default figure({
  traits: ["size", "threshold", "anchors"],
  height: (width) => (width < 520 ? 400 : 390),
  setup(stage) {
    const { maps, sets, edges, thresholds, objects, positives } = stage.data, kinds = ["c0", "c1", "c2", "c3", "c4"];
    stage.below.append(legend(maps.map((name, k) => [`${kinds[k]} thick`, `map ${k + 1}: ${name}`])));
    const bars = svg("g");
    stage.svg.append(bars);
    return () => {
      const size = stage.get("size"), t = stage.get("threshold"), set = stage.get("anchors"), wide = stage.width - 46;
      const mean = (b, s) => positives.at(set, t, b, s) / Math.max(objects[b], 1), total = (b) => maps.reduce((sum, _, s) => sum + mean(b, s), 0);
      const top = Math.max(1, ...objects.map((_, b) => total(b))) * 1.1; // each choice has its own scale: 3 positives or 40
      const step = stage.width < 520 ? 2 : 1;
      const axes = new Axes({ left: 34, top: 26, width: wide, height: 230, x: [0, objects.length], y: [0, top], yLabel: "positives of an object, mean", xLabel: "size of the object, pixels",
        xTicks: edges.map((e, i) => [i, String(e)]).filter((_, i) => i % step === 0) });
      objects.forEach((_, b) => {
        let under = 0;
        if (b === size) axes.add(svg("rect", { class: "paper", x: axes.X(b), y: 26, width: axes.X(1) - axes.X(0), height: 230 }));
        maps.forEach((_, s) => {
          const value = mean(b, s);
          axes.add(svg("rect", { class: `bar ${kinds[s]}`, x: axes.X(b + 0.12), width: axes.X(0.76) - axes.X(0), y: axes.Y(under + value), height: Math.max(0, axes.Y(under) - axes.Y(under + value)) }));
          under += value;
        });
      });
      const sum = total(size) || 1, shares = maps.map((_, s) => mean(size, s) / sum);
      const bar = stackedBar({ left: 34, top: 336, width: wide, height: 30, parts: shares.map((share, s) => [share, kinds[s], `${maps[s]}: ${fixed(100 * share, 0)} %`]) });
      stage.clear(bars, axes.element, svg("text", { class: "label", x: 34, y: 328 }, `of ${edges[size]} to ${edges[size + 1]} pixels: on which map?`), bar);
      const list = maps.map((name, s) => [shares[s], name]).filter(([share]) => share >= 0.005).sort((a, b) => b[0] - a[0]).map(([share, name]) => `${fixed(100 * share, 0)} % on ${name}`).join(", ");
      return `${objects[size]} objects of ${edges[size]} to ${edges[size + 1]} pixels with ${sets[set]}, threshold ${fixed(thresholds[t])}: ${fixed(total(size), 1)} positives each, ${list}.`;
    };
  },
});
