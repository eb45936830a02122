// How well a set of anchors covers a data set: every object's best IoU over its size, and the share of objects of
// each group that reach a demand, for all demands. `best` (K, F, G): anchor set, factor on its sizes, object.
export default figure({
  traits: ["anchors", "factor", "demand"],
  height: (width) => (width < 560 ? 630 : 308),
  setup(stage) {
    const { sides, best, sets, counts, factors, demands, groups, group } = stage.data;
    const kinds = ["c0", "c1", "c2"], styles = ["c0", "c1 dashed", "c2 dotted"];
    stage.below.append(legend(groups.map((name, k) => [styles[k], name])));
    const members = groups.map((_, k) => Array.from(group.values.keys()).filter((g) => group.values[g] === k));
    const grid = Array.from({ length: 91 }, (_, i) => i / 100 + 0.05);
    return () => {
      const k = stage.get("anchors"), f = stage.get("factor"), demand = demands[stage.get("demand")];
      const values = best.row(k, f), narrow = stage.width < 560;
      const share = (of, line) => of.reduce((n, g) => n + (values[g] >= line), 0) / of.length;
      const left = new Axes({ left: 40, top: 28, width: narrow ? stage.width - 52 : stage.width * 0.54 - 40, height: 240, x: [0, 6.5], y: [0, 1],
        xLabel: "object's side in pixels (√ of its area)", yLabel: "best IoU with any anchor",
        xTicks: [4, 8, 16, 32, 64, 128, 256].map((v) => [Math.log2(v / 4), v]) });
      const start = narrow ? 40 : stage.width * 0.54 + 52;
      const right = new Axes({ left: start, top: narrow ? 348 : 28, width: stage.width - start - 12, height: 240, x: [0, 1], y: [0, 1],
        xLabel: "IoU demanded", yLabel: "share of objects covered" });
      for (let g = 0; g < values.length; g++) {
        const x = left.X(Math.log2(sides.values[g] / 4)), y = left.Y(values[g]), shape = group.values[g];
        const d = ["M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0", "M0-4L3.6 3H-3.6Z", "M-3-3h6v6h-6Z"][shape]; // not by colour alone
        left.add(svg("path", { class: `area ${kinds[shape]}`, d, transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`, style: `fill-opacity: ${values[g] >= demand ? 0.7 : 0.3}` }));
      }
      left.curve([0, 6.5], [demand, demand], "faint dashed");
      right.vertical(demand);
      members.forEach((of, i) => {
        right.curve(grid, grid.map((line) => share(of, line)), styles[i]);
        right.mark(demand, share(of, demand), kinds[i]);
      });
      stage.clear(stage.svg, left.element, right.element);
      const all = Array.from(values.keys()), each = groups.map((name, i) => `${name} ${fixed(100 * share(members[i], demand), 0)} %`);
      return `${sets[k]}, sizes × ${fixed(factors[f])}, ${counts[k].toLocaleString("en")} anchors: at an IoU of ${fixed(demand)} they cover ${fixed(100 * share(all, demand), 0)} % of ${values.length} objects (${each.join(", ")}).`;
    };
  },
});
