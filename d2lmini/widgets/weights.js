// Which loss the backbone obeys: bars of both gradients' lengths in each stage, and the two as arrows with their sum.
// `shares` and `arrows` hold every stop; two vectors of a million numbers and their sum lie in one plane, drawn here.
export default figure({
  traits: ["weight", "network", "loss"],
  height: (width) => (width < 560 ? 520 : 320),
  setup(stage) {
    const { weights, names, losses, stages, shares, arrows } = stage.data;
    stage.below.append(legend([["c0 thick", "class loss"], ["c1 thick", "box loss, weighted"], ["c2 thick", "the step: their sum"]]));
    const percent = (share) => `${fixed(100 * share, 0)} %`;
    const arrow = (x0, y0, x1, y1, kind, label) => {
      const angle = Math.atan2(y1 - y0, x1 - x0), long = Math.hypot(x1 - x0, y1 - y0);
      const wing = (turn) => `L${x1 - 9 * Math.cos(angle + turn)} ${y1 - 9 * Math.sin(angle + turn)}M${x1} ${y1}`;
      return [svg("path", { class: `curve ${kind}`, d: `M${x0} ${y0}L${x1} ${y1}${long > 12 ? wing(0.4) + wing(-0.4) : ""}` }),
        label ? svg("text", { class: "label", x: x1 + 6, y: y1 + 4 }, label) : []];
    };
    return () => {
      const w = stage.get("weight"), n = stage.get("network"), l = stage.get("loss"), narrow = stage.width < 560;
      const width = (narrow ? stage.width : stage.width * 0.55) - 12;
      const bars = stages.map((name, t) => {
        const y = 14 + 60 * t, share = shares.at(n, l, w, t);
        return [svg("text", { class: "label", x: 4, y }, name),
          stackedBar({ left: 4, top: y + 6, width, parts: [[share, "c0", percent(share)], [1 - share, "c1", percent(1 - share)]] })];
      });
      const [own, x, y, toClass, toBox] = arrows.row(n, l, w);
      const room = (narrow ? stage.width - 150 : stage.width * 0.45 - 90), left = narrow ? 20 : stage.width * 0.55 + 20, low = narrow ? 490 : 270;
      const X = (value) => left + value * room, Y = (value) => low - value * room;
      const lift = X(own + x) - X(own) < 70 && Y(0) - Y(y) < 20 ? 16 : 0; // keep names apart where arrows almost meet
      const plane = [
        svg("path", { class: "curve faint dashed", d: `M${X(own)} ${Y(0)}L${X(own + x)} ${Y(y)}L${X(x)} ${Y(y)}` }),
        ...arrow(X(0), Y(0), X(own), Y(0), "c0"), ...arrow(X(0), Y(0), X(x), Y(y), "c1"), ...arrow(X(0), Y(0), X(own + x), Y(y), "c2"),
        svg("text", { class: "label", x: X(own) - 4, y: Y(0) + 18, "text-anchor": own > 0.25 ? "end" : "start" }, "class"),
        svg("text", { class: "label", x: X(x) - 6, y: Y(y) - 6, "text-anchor": "middle" }, "box"),
        svg("text", { class: "label", x: X(own + x) + 6, y: Y(y) + 4 - lift }, "step"),
      ];
      stage.clear(stage.svg, bars.flat(), plane.flat());
      const whole = shares.at(n, l, w, stages.length - 1);
      return `The ${names[n]} network, ${losses[l]}, box loss × ${weights[w]}: the class loss makes ${percent(whole)} of the backbone’s gradient. The step points ${fixed(toClass, 0)}° away from what the class loss wants, ${fixed(toBox, 0)}° from what the box loss wants.`;
    };
  },
});
