// A score that was measured at some values: points with their spread over the seeds, and where a slider stands.

/** Axes with measured curves, [{name, x, mean, spread}, …], and a vertical line at `at`; a dot at the nearest point. */
function measuredPanel(place, curves, at, kinds = ["c0", "c1", "c2", "c3"]) {
  const xs = curves.flatMap((c) => c.x), top = Math.max(...curves.flatMap((c) => c.mean.map((m, i) => m + c.spread[i])));
  const low = Math.min(...xs, place.low ?? Infinity), high = Math.max(...xs, place.high ?? -Infinity);
  const axes = new Axes({ ...place, x: [low, high], y: [0, top * 1.1] });
  curves.forEach((curve, k) => {
    axes.curve(curve.x, curve.mean, kinds[k]);
    curve.x.forEach((x, i) => {
      const from = axes.Y(curve.mean[i] - curve.spread[i]), to = axes.Y(curve.mean[i] + curve.spread[i]);
      axes.add(svg("path", { class: `curve ${kinds[k]}`, d: `M${axes.X(x)} ${from}V${to}` }));
      axes.mark(x, curve.mean[i], kinds[k], i === nearest(curve.x, at) ? 6 : 3);
    });
  });
  return axes.vertical(at);
}

/** The measured values nearest to `at`, in words. */
const measuredWords = (symbol, curves, at) =>
  curves.map((c) => {
    const i = nearest(c.x, at);
    return `${c.name}, ${symbol} = ${number(c.x[i])}: ${fixed(c.mean[i], 3)} ± ${fixed(c.spread[i], 3)}`;
  }).join("; ");
