// Focal loss and its gradient over p, and below, for each network, which anchors hold its class loss.
// `loss` and `gradient` hold one row for each γ, for weight 1; `weights` what α makes of it; `shares` every stop.
const KINDS = ["c0", "c1", "c2", "c3"];
/** Height of the measured panels: one below the other where the page is narrow. */
const room = (width, measured) => {
  const panels = Object.values(measured).filter((curves) => curves.length).length;
  return width < 520 ? 240 * panels : panels && 240;
};

export default figure({
  traits: ["gamma", "alpha"],
  height: (width, stage) => (width < 520 ? 470 : 250) + 56 * stage.data.names.length + room(width, stage.data.measured),
  setup(stage) {
    const { p, gammas, alphas, names, parts, loss, gradient, weights, shares, totals, measured } = stage.data;
    const ps = p.values, kinds = ["c0", "c2", "c1"];
    stage.above.append(legend([["c1", "object, weight α"], ["c0 dashed", "background, weight 1 − α"], ["c5 dotted", "cross-entropy"]]));
    stage.below.append(legend(parts.map((name, k) => [kinds[k] + " thick", name])));
    const known = Object.entries(measured).filter(([, curves]) => curves.length);
    for (const [symbol, curves] of known) {
      stage.below.append(legend(curves.map((c, k) => [KINDS[k], `measured over ${symbol}: ${c.name}`])));
    }
    const trained = (at) => known.map(([symbol, curves], k) => {
      const narrow = stage.width < 520, half = stage.width / known.length;
      return measuredPanel({
        left: narrow ? 40 : 40 + k * half, top: (narrow ? 470 : 250) + 56 * names.length + 30 + (narrow ? 240 * k : 0),
        width: (narrow ? stage.width : half) - 56, height: 150, xLabel: `${symbol} in training`,
        yLabel: "COCO AP of the trained detectors", low: 0, high: { γ: 5, α: 1 }[symbol],
      }, curves, at[symbol], KINDS).element;
    });
    const percent = (share) => (share > 0 && share < 0.01 ? "< 1 %" : `${fixed(100 * share, 0)} %`);
    const amount = (value) => (value >= 100 ? fixed(value, 0) : Number(value.toPrecision(2)).toString());
    return () => {
      const g = nearest(gammas, stage.get("gamma")), a = nearest(alphas, stage.get("alpha"));
      const narrow = stage.width < 520, half = stage.width / 2;
      const panel = (first, title, high) => new Axes({
        left: narrow || first ? 34 : half + 34, top: narrow && !first ? 246 : 26,
        width: (narrow ? stage.width : half) - 52, height: narrow ? 153 : 165, x: [0, 1], y: [0, high],
        xLabel: "p of the true class", yLabel: title,
      });
      const left = panel(true, "loss", 3), right = panel(false, "|gradient| by the true class’s logit", 1.2);
      const scaled = (table, part) => table.row(g).map((v) => v * weights.at(a, part));
      for (const [axes, table] of [[left, loss], [right, gradient]]) {
        axes.curve(ps, table.row(0), "c5 dotted").curve(ps, scaled(table, 0), "c0 dashed").curve(ps, scaled(table, 2), "c1");
      }
      const start = narrow ? 470 : 250;
      const bars = names.map((name, n) => {
        const top = start + 56 * n;
        return [
          svg("text", { class: "label", x: 4, y: top }, name),
          svg("text", { x: stage.width - 4, y: top, "text-anchor": "end" }, `class loss ÷ positives: ${amount(totals.at(n, g, a))}`),
          stackedBar({ left: 4, top: top + 7, width: stage.width - 8, parts: parts.map((_, k) => [shares.at(n, g, a, k), kinds[k], percent(shares.at(n, g, a, k))]) }),
        ];
      });
      const at = { γ: gammas[g], α: alphas[a] };
      stage.clear(stage.svg, left.element, right.element, bars.flat(), trained(at));
      const words = known.map(([symbol, curves]) => ` COCO AP where it was trained with, nearest to that: ${measuredWords(symbol, curves, at[symbol])}.`).join("");
      const held = (n) => `${names[n]} ${percent(shares.at(n, g, a, 0))}`;
      return `γ = ${fixed(gammas[g])}, α = ${fixed(alphas[a])}. Share of the class loss that easy negatives hold: ${names.map((_, n) => held(n)).join("; ")}.${words}`;
    };
  },
});
