// Precision over recall with the point of one score threshold, and what that threshold shows of an image.
export default figure({
  traits: ["class_id", "demand", "score", "image"],
  height: (width) => (width < 560 ? 1.9 * width + 84 : width / 2 + 10),
  setup(stage) {
    const { names, stops, demands, kinds, curves, counts, ap, which, boxes, scores, labels, verdicts, truth_boxes: objects, truth_labels: classes, found_at } = stage.data;
    const RIGHT = kinds.indexOf("correct"), WRONG = PALETTE[5], GOOD = PALETTE[0];
    stage.below.append(legend([["c0", "best precision from here on"], ["faint", "as measured"]]));
    stage.below.append(html("p", { class: "legend" }, "TP: right (blue). FP: wrong, with the reason (orange). FN: missed (yellow, dashed). White, dashed: found."));

    function overCurve(k, i, s, place) {
      const points = curves.row(k, i), n = points.length / 3;
      const column = (c) => Array.from({ length: n }, (_, p) => points[3 * p + c]).filter(Number.isFinite);
      const [recall, precision, best] = [0, 1, 2].map(column);
      const axes = new Axes({ ...place, x: [0, 1], y: [0, 1.02], xLabel: "recall", title: `precision: ${names[k]}, IoU ≥ ${fixed(demands[i])}` });
      // The envelope is a staircase: up to each recall holds the best precision that is still to come.
      const stairs = recall.flatMap((r, p) => [[p ? recall[p - 1] : 0, best[p]], [r, best[p]]]);
      if (recall.length) stairs.push([recall[recall.length - 1], 0]);
      axes.curve(recall, precision, "faint").curve(stairs.map((p) => p[0]), stairs.map((p) => p[1]), "c0");
      const [tp, fp, fn] = counts.row(k, i, s);
      if (tp + fp) {
        const x = tp / (tp + fn), y = tp / (tp + fp);
        axes.add(svg("path", { class: "curve faint dotted", d: `M${axes.X(0)} ${axes.Y(y)}H${axes.X(x)}V${axes.Y(0)}` })).mark(x, y, "c1", 7);
      }
      return axes.element;
    }

    function overImage(k, i, p, threshold, place) {
      const view = new ImageView({ ...place, url: stage.data[`image${p}`] });
      for (let g = 0; g < classes.shape[1]; g++) {
        if (classes.at(p, g) !== k) continue;
        const missed = found_at.at(p, i, g) < threshold;
        view.box(objects.row(p, g), { color: missed ? PALETTE[4] : "#fff", dashed: true, width: missed ? 2.5 : 1.25, tag: missed ? "FN" : "" });
      }
      let wrong = 0, right = 0;
      for (let d = scores.shape[1] - 1; d >= 0; d--) {
        if (labels.at(p, d) !== k || scores.at(p, d) < threshold) continue;
        const verdict = verdicts.at(p, i, d), good = verdict === RIGHT, score = fixed(scores.at(p, d));
        good ? right++ : wrong++;
        view.box(boxes.row(p, d), { color: good ? GOOD : WRONG, width: good ? 3 : 2, tag: good ? `TP ${score}` : `FP ${score} ${kinds[verdict]}` });
      }
      return [view.element, right, wrong];
    }

    return () => {
      const k = stage.get("class_id"), i = stage.get("demand"), s = nearest(stops, stage.get("score")), p = which.at(k, stage.get("image"));
      const narrow = stage.width < 560, side = narrow ? stage.width : stage.width / 2 - 8;
      const plot = narrow ? { left: 36, top: 24, width: stage.width - 44, height: 0.9 * stage.width } : { left: 36, top: 24, width: side - 44, height: side - 66 };
      const place = narrow ? { left: 0, top: 0.9 * stage.width + 84, width: side } : { left: stage.width - side, top: 2, width: side };
      const [view, right, wrong] = overImage(k, i, p, stops[s] - 1e-6, place);
      stage.clear(stage.svg, overCurve(k, i, s, plot), view);
      const [tp, fp, fn] = counts.row(k, i, s);
      return `${names[k]}, IoU from ${fixed(demands[i])}, score from ${fixed(stops[s])}: ${tp} right, ${fp} wrong, ${fn} missed. ` +
        `Precision ${fixed(tp / (tp + fp))}, recall ${fixed(tp / (tp + fn))}; AP of the whole curve ${fixed(ap.at(k, i))}. ` +
        `In image ${stage.get("image") + 1}: ${right} right, ${wrong} wrong.`;
    };
  },
});
