// Detections of one image: those whose score reaches the threshold as boxes, all of them as bars.
export default figure({
  traits: ["image", "score", "truth"],
  height: (width, stage) => (width < 560 ? width + 32 + 17 * stage.data.labels.row(stage.get("image")).filter((label) => label >= 0).length : 0.6 * width),
  setup(stage) {
    const { names, boxes, scores, labels, right, truth_boxes: objects, truth_labels: kinds } = stage.data;
    const count = (row) => row.reduce((n, label) => n + (label >= 0), 0);

    /** All scores, best first, with the threshold across them; what is below it is hollow. */
    function bars(p, threshold, { left, top, width, height }) {
      const rows = count(labels.row(p)), plates = 84, step = Math.min(17, (height - 22) / rows);
      const X = linear(0, 1, left + plates, left + width - 34), group = svg("g");
      for (let d = 0; d < rows; d++) {
        const label = labels.at(p, d), score = scores.at(p, d), y = top + 18 + d * step, shown = score >= threshold;
        group.append(
          svg("text", { x: left + plates - 6, y: y + step - 5, "text-anchor": "end" }, names[label]),
          svg("rect", { x: X(0), y: y + 1, width: X(score) - X(0), height: Math.max(2, step - 3), fill: shown ? colorOf(label) : "none", stroke: "var(--soft)", "stroke-width": 1 }),
          svg("text", { x: X(score) + 4, y: y + step - 5 }, fixed(score)));
      }
      const at = X(threshold);
      group.append(
        svg("path", { class: "curve", d: `M${at} ${top + 14}V${top + 20 + step * rows}` }),
        svg("text", { class: "label", x: Math.min(Math.max(at, left + 44), left + width - 44), y: top + 10, "text-anchor": "middle" }, `shown from ${fixed(threshold)}`));
      return group;
    }

    return () => {
      const p = stage.get("image"), threshold = stage.get("score") - 1e-6, narrow = stage.width < 560;
      const side = narrow ? stage.width : stage.height;
      const view = new ImageView({ width: side, url: stage.data[`image${p}`] });
      const total = count(kinds.row(p)), all = count(labels.row(p));
      let shown = 0, correct = 0;
      while (shown < all && scores.at(p, shown) >= threshold) correct += right.at(p, shown++);
      // The best box is drawn last, so that it lies on top.
      for (let d = shown - 1; d >= 0; d--) {
        const label = labels.at(p, d);
        view.box(boxes.row(p, d), { color: colorOf(label), ink: inkOn(label), tag: `${names[label]} ${fixed(scores.at(p, d))}` });
      }
      if (stage.get("truth")) for (let g = 0; g < total; g++) view.box(objects.row(p, g), { color: "#fff", dashed: true, width: 1.5 });
      const place = narrow ? { left: 0, top: side + 8, width: side, height: stage.height - side - 8 } : { left: side + 14, top: 0, width: stage.width - side - 14, height: side };
      stage.clear(stage.svg, view.element, bars(p, stage.get("score"), place));
      const truth = stage.get("truth") ? ` Dashed: the ${total} true boxes.` : "";
      const boxesShown = shown === 1 ? "1 box is" : `${shown} boxes are`;
      return `From a score of ${fixed(stage.get("score"))} on, ${boxesShown} shown: ${correct} right, ${shown - correct} wrong. ` +
        (total ? `${correct} of ${total} objects found.` : "There is no object in this image.") + truth;
    };
  },
});
