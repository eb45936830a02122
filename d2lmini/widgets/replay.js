// A training run, epoch by epoch: what the network said of one image, and where that lies on the curves.
const NARROW = 560;
export default figure({
  traits: ["epoch", "image"],
  height: (width) => (width < NARROW ? Math.min(width, 320) + 2 * 196 : 384),
  setup(stage) {
    const { epochs, losses, scores, truth, boxes, confidence, iou, over } = stage.data;
    const column = (table, k) => epochs.map((_, e) => table.at(e, k));
    const highest = Math.max(...losses.values.filter(Number.isFinite), 1);
    stage.below.append(legend([["c5", "total loss"], ["c1 dashed", "class loss"], ["c2 dotted", "box loss"], ["c0", "AP50"], ["c3 dashed", "COCO AP"]]));

    const panels = (e) => {
      const narrow = stage.width < NARROW, from = narrow ? Math.min(stage.width, 320) : 0;
      const left = narrow ? 34 : 352, width = stage.width - left - 12, x = [epochs[0], epochs[epochs.length - 1]];
      const every = Math.max(1, Math.ceil((epochs.length - 1) / 6));
      const common = { left, width, height: 120, x, xTicks: epochs.filter((v) => v % every === 0).map((v) => [v, String(v)]) };
      const loss = new Axes({ ...common, top: from + 30, y: [0, Math.ceil(highest)], title: "Loss in training" });
      const score = new Axes({ ...common, top: from + 212, y: [0, 1], title: `AP on the ${over}`, xLabel: "epoch" });
      [["c5", 0], ["c1 dashed", 1], ["c2 dotted", 2]].forEach(([kind, k]) => loss.curve(epochs, column(losses, k), kind));
      [["c0", 0], ["c3 dashed", 1]].forEach(([kind, k]) => score.curve(epochs, column(scores, k), kind));
      for (const [axes, table, kinds] of [[loss, losses, ["c5", "c1", "c2"]], [score, scores, ["c0", "c3"]]]) {
        axes.vertical(epochs[e]);
        kinds.forEach((kind, k) => Number.isFinite(table.at(e, k)) && axes.mark(epochs[e], table.at(e, k), kind));
      }
      return [loss.element, score.element];
    };

    /** The image with its truth in dashes, and its boxes: the best thick and with its score, the others fainter. */
    const detections = (e, p) => {
      const panel = new ImageView({ width: Math.min(stage.width, 320), url: stage.data[`image${p}`] });
      for (let k = confidence.shape[2] - 1; k >= 0; k--) {
        const score = confidence.at(e, p, k);
        if (score <= 0) continue;
        const more = k ? { width: 1.5, opacity: 0.35 + 0.5 * score } : { width: 3, tag: fixed(score) };
        panel.box(boxes.row(e, p, k), more);
      }
      for (let g = 0; g < truth.shape[1]; g++) {
        const box = truth.row(p, g);
        if (box[2] > box[0]) panel.box(box, { color: "#fff", dashed: true, width: 1.5 });
      }
      return panel.element;
    };

    return () => {
      const e = nearest(epochs, stage.get("epoch")), p = stage.get("image");
      stage.clear(stage.svg, detections(e, p), ...panels(e));
      const trained = Number.isFinite(losses.at(e, 0));
      const when = trained ? `After epoch ${epochs[e]}` : "Before training";
      const best = confidence.at(e, p, 0) > 0
        ? `the best box scores ${fixed(confidence.at(e, p, 0))}, its IoU with the truth is ${fixed(iou.at(e, p, 0))}`
        : "nothing is found";
      const loss = trained ? `, loss ${fixed(losses.at(e, 0))}` : "";
      return `${when}: in image ${p + 1} ${best}. AP50 ${fixed(scores.at(e, 0))}, COCO AP ${fixed(scores.at(e, 1))}${loss}.`;
    };
  },
});
