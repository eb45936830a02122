// Smooth L1 and its gradient, beside |x| and x²/2: `loss` and `gradient` hold one row for each σ. Below, where
// there is any, the AP that detectors reached which were trained with some of these σ.
export default figure({
  traits: ["sigma"],
  height: (width, stage) => (width < 520 ? 500 : 290) + (stage.data.measured.length ? 240 : 0),
  setup(stage) {
    const { x, sigmas, loss, gradient, measured } = stage.data;
    const xs = x.values, size = xs.map(Math.abs), half = xs.map((v) => (v * v) / 2);
    stage.below.append(legend([["c0", "smooth L1"], ["c1 dashed", "L1, |x|"], ["c2 dotted", "L2, x²/2"]]));
    if (measured.length) stage.below.append(legend(measured.map((c, k) => [["c0", "c1", "c2", "c3"][k], `measured: ${c.name}`])));
    const panel = (first, title, low, high) => {
      const narrow = stage.width < 520, top = narrow && !first ? 276 : 26;
      const left = narrow || first ? 40 : stage.width / 2 + 40;
      const width = narrow ? stage.width - 52 : stage.width / 2 - 56;
      return new Axes({ left, top, width, height: narrow ? 180 : 215, x: [xs[0], xs[xs.length - 1]], y: [low, high], xLabel: "error x", yLabel: title });
    };
    const trained = (sigma) => {
      const top = (stage.width < 520 ? 500 : 290) + 36;
      return measuredPanel({ left: 40, top, width: stage.width - 56, height: 150, xLabel: "σ in training", yLabel: "COCO AP of the trained detectors", low: sigmas[0], high: sigmas[sigmas.length - 1] }, measured, sigma);
    };
    return () => {
      const i = nearest(sigmas, stage.get("sigma")), edge = 1 / sigmas[i] ** 2;
      const left = panel(true, "loss", 0, 2.5), right = panel(false, "gradient", -1.6, 1.6);
      for (const axes of [left, right]) if (edge < xs[xs.length - 1]) axes.vertical(edge).vertical(-edge);
      left.curve(xs, half, "c2 dotted").curve(xs, size, "c1 dashed").curve(xs, loss.row(i), "c0");
      right.curve(xs, xs, "c2 dotted").curve(xs, xs.map(Math.sign), "c1 dashed").curve(xs, gradient.row(i), "c0");
      const below = measured.length ? [trained(sigmas[i]).element] : [];
      stage.clear(stage.svg, left.element, right.element, ...below);
      const words = measured.length ? ` COCO AP where it was trained with, nearest to that: ${measuredWords("σ", measured, sigmas[i])}.` : "";
      return `σ = ${fixed(sigmas[i])}: a parabola while |x| < 1/σ² = ${fixed(edge)}, straight with slope ±1 beyond.${words}`;
    };
  },
});
