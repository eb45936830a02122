// Loops against batched code: milliseconds an image by number of objects (both scales logarithmic), and the ratio.
export default figure({
  traits: ["objects", "batch"],
  height: (width) => (width < 520 ? 560 : 300),
  setup(stage) {
    const { counts, batches, loops, batched } = stage.data;
    const log = Math.log10, xs = counts.map(log);
    const marks = (values) => values.map((v) => [log(v), number(v)]);
    const each = (table, b) => Array.from(table.row(b), (ms) => ms / batches[b]);
    const ratio = (b) => Array.from(loops.row(b), (ms, i) => ms / batched.at(b, i));
    const all = batches.flatMap((_, b) => [...each(loops, b), ...each(batched, b)]);
    const low = log(Math.min(...all)) - 0.08, high = log(Math.max(...all)) + 0.08;
    const scale = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50].filter((v) => log(v) > low && log(v) < high);
    const most = Math.max(...batches.flatMap((_, b) => ratio(b)));
    stage.below.append(legend([["c1 dashed", "loops (D2L)"], ["c0", "batched (match)"], ["faint dotted", "other batch sizes"]]));
    const panel = (first, options) => {
      const narrow = stage.width < 520;
      const left = narrow || first ? 44 : stage.width / 2 + 36;
      const top = narrow && !first ? 306 : 26, width = narrow ? stage.width - 56 : stage.width / 2 - 56;
      const axes = { left, top, width, height: narrow ? 205 : 222, x: [0, xs[xs.length - 1]], xTicks: marks([1, 2, 5, 10, 20, 50]) };
      return new Axes({ ...axes, xLabel: "objects in each image", ...options });
    };
    return () => {
      const b = stage.get("batch"), i = Math.max(0, counts.indexOf(stage.get("objects")));
      const time = panel(true, { y: [low, high], yTicks: marks(scale), title: "milliseconds an image" });
      const gain = panel(false, { y: [0, most * 1.05], title: "times as fast" });
      const others = batches.map((_, k) => k).filter((k) => k !== b);
      for (const k of others) {
        time.curve(xs, each(batched, k).map(log), "faint dotted");
        gain.curve(xs, ratio(k), "faint dotted");
      }
      time.vertical(xs[i]).curve(xs, each(loops, b).map(log), "c1 dashed").curve(xs, each(batched, b).map(log), "c0");
      time.mark(xs[i], log(loops.at(b, i) / batches[b]), "c1").mark(xs[i], log(batched.at(b, i) / batches[b]), "c0");
      gain.vertical(xs[i]).curve(xs, ratio(b), "c0").mark(xs[i], ratio(b)[i], "c0");
      stage.clear(stage.svg, time.element, gain.element);
      const ms = (value) => `${number(value, value < 10 ? 2 : value < 100 ? 1 : 0)} ms`;
      const what = `${counts[i]} object${counts[i] > 1 ? "s" : ""} in ${batches[b] > 1 ? `each of ${batches[b]} images` : "one image"}`;
      return `${what}: loops ${ms(loops.at(b, i))}, batched ${ms(batched.at(b, i))}: ${number(ratio(b)[i], 1)} times as fast.`;
    };
  },
});
