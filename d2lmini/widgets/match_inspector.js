// One object's positive anchors at a threshold. Python sorted the candidates (the forced one first, then by falling
// IoU), so that the positives are always the first few; which of them is chosen is the trait `pick`.
export default figure({
  traits: ["object", "threshold", "pick"],
  height: (width) => (width < 600 ? Math.min(width, 400) + 330 : 400),
  setup(stage) {
    const { photo, size, names, labels, objects, total, start, anchors, iou, offsets, forced } = stage.data;
    stage.svg.setAttribute("role", "group"); // an image may hold nothing that takes the focus
    const view = svg("g", { style: "cursor: pointer" }), bars = svg("g"), panel = svg("g");
    const strip = svg("g", { tabindex: 0, role: "slider", "aria-label": "Positive anchor", style: "cursor: pointer" }, bars);
    stage.svg.append(view, panel, strip);

    const state = () => {
      const g = stage.get("object"), first = start[g], size = start[g + 1] - first;
      const good = (e) => forced.at(first + e) || iou.at(first + e) >= stage.get("threshold") - 1e-6;
      let count = 0;
      while (count < size && good(count)) count++;
      return { g, first, size, count, pick: Math.min(stage.get("pick"), count - 1) };
    };
    const choose = (pick) => {
      const { count } = state();
      if (count) stage.set("pick", Math.min(Math.max(pick, 0), count - 1));
    };
    const turn = (label, way) => { // for fingers, which are wider than a bar; from the last it goes on with the first
      const button = html("button", { type: "button" }, label);
      button.addEventListener("click", () => {
        const { pick, count } = state();
        if (count) choose((pick + way + count) % count);
      });
      return button;
    };
    stage.below.append(html("p", { class: "legend" }, turn("◂ anchor before", -1), turn("next anchor ▸", 1)));
    strip.addEventListener("keydown", (event) => {
      const { pick, count } = state();
      const to = { ArrowRight: pick + 1, ArrowUp: pick + 1, ArrowLeft: pick - 1, ArrowDown: pick - 1, Home: 0, End: count - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      choose(to);
    });

    /** A click takes the positive whose outline is nearest; far from all, the smallest object there is. */
    view.addEventListener("click", (event) => {
      const { first, count } = state(), place = stage.svg.getBoundingClientRect(), { width, height } = stage.frame;
      const x = (event.clientX - place.left) / width, y = (event.clientY - place.top) / height;
      const away = ([x0, y0, x1, y1]) => {
        const dx = Math.max(x0 - x, x - x1, 0) * width, dy = Math.max(y0 - y, y - y1, 0) * height;
        return dx || dy ? Math.hypot(dx, dy) : Math.min((x - x0) * width, (x1 - x) * width, (y - y0) * height, (y1 - y) * height);
      };
      const gaps = Array.from({ length: count }, (_, e) => away(anchors.row(first + e)));
      const least = Math.min(...gaps);
      if (least <= 12) return choose(gaps.indexOf(least));
      const there = names.map((_, g) => objects.row(g)).map(([x0, y0, x1, y1]) => (x0 <= x && x <= x1 && y0 <= y && y <= y1 ? (x1 - x0) * (y1 - y0) : Infinity));
      if (Math.min(...there) < Infinity) stage.set("object", there.indexOf(Math.min(...there)));
    });

    return () => {
      const { g, first, size: all, count, pick } = state(), chosen = first + pick, threshold = stage.get("threshold");
      const narrow = stage.width < 600, side = narrow ? Math.min(stage.width, 400) : 400;
      const image = (stage.frame = new ImageView({ width: side, height: (side * size[1]) / size[0], url: photo }));
      const color = colorOf(labels[g]), ink = inkOn(labels[g]);
      for (let k = 0; k < names.length; k++) if (k !== g) image.box(objects.row(k), { color: "#fff", dashed: true, width: 1, opacity: 0.6 });
      for (let e = count - 1; e >= 0; e--) if (e !== pick) image.box(anchors.row(first + e), { color, width: 1.5 });
      image.box(objects.row(g), { color: "#fff", dashed: true, width: 2.5 });
      const box = objects.row(g), center = ([x0, y0, x1, y1]) => [image.X((x0 + x1) / 2), image.Y((y0 + y1) / 2)];
      if (count) {
        image.box(anchors.row(chosen), { color, ink, width: 3.5, tag: `IoU ${fixed(iou.at(chosen))}` });
        const [[ax, ay], [bx, by]] = [center(anchors.row(chosen)), center(box)];
        for (const [stroke, width] of [["#101010", 5], ["#fff", 2]]) image.boxes.append(svg("path", { d: `M${ax} ${ay}L${bx} ${by}`, stroke, "stroke-width": width }));
        image.boxes.append(svg("circle", { cx: ax, cy: ay, r: 5, fill: color, stroke: "#101010" }), svg("circle", { cx: bx, cy: by, r: 4, fill: "#fff", stroke: "#101010" }));
      }
      stage.clear(view, image.element);

      // The candidates' IoUs as a row of bars: those above the line, and the forced one, are positives.
      const left = narrow ? 34 : 452, top = narrow ? image.height + 34 : 34, wide = stage.width - left - 8, tall = 130;
      const axes = new Axes({ left, top, width: wide, height: tall, x: [0, Math.max(all, 8)], y: [0, 1], xTicks: [], title: "IoU of its best anchors" });
      const step = wide / Math.max(all, 8);
      stage.clear(bars, svg("rect", { x: left, y: top - 4, width: wide, height: tall + 26, fill: "transparent" }),
        Array.from({ length: all }, (_, e) => e).flatMap((e) => {
          const y = axes.Y(iou.at(first + e)), kind = e === pick ? "c1" : e < count ? "c0" : "c5";
          const bar = svg("rect", { class: `bar ${kind}`, opacity: e < count ? null : 0.35, x: left + e * step, y, width: Math.max(step - 1, 1), height: top + tall - y });
          return e === pick ? [bar, svg("text", { class: "label", x: left + (e + 0.5) * step, y: top + tall + 16, "text-anchor": "middle" }, "▲")] : [bar];
        }));
      bars.onclick = (event) => choose(Math.floor((event.clientX - stage.svg.getBoundingClientRect().left - left) / step));
      axes.curve([0, Math.max(all, 8)], [threshold, threshold], "c3 dashed");
      for (const [name, value] of [["valuemin", 1], ["valuemax", Math.max(count, 1)], ["valuenow", pick + 1]]) strip.setAttribute(`aria-${name}`, value);
      strip.setAttribute("aria-valuetext", count ? `${pick + 1} of ${count}, IoU ${fixed(iou.at(chosen))}` : "none");

      // Four offsets, from −5 to 5: beyond that no positive by threshold ever is, but a forced one may be.
      const under = top + tall + 64, middle = left + wide / 2 + 14, scale = linear(-5, 5, left + 40, left + wide - 12);
      const rows = count ? ["x", "y", "w", "h"].flatMap((name, k) => {
        const value = offsets.at(chosen, k), end = scale(Math.min(Math.max(value, -5), 5)), y = under + 28 * k;
        return [
          svg("text", { class: "label", x: left, y: y + 13 }, name),
          svg("rect", { class: "bar c1", x: Math.min(middle, end), y, width: Math.abs(end - middle), height: 18 }),
          svg("text", { class: "label", x: value < 0 ? middle + 6 : middle - 6, y: y + 13, "text-anchor": value < 0 ? "start" : "end" }, fixed(value))];
      }) : [];
      stage.clear(panel, axes.element,
        svg("text", { class: "label", x: left, y: under - 14 }, "offsets of the chosen anchor"),
        svg("path", { class: "curve faint", d: `M${middle} ${under - 4}v114` }), rows);
      if (!count) return `${names[g]}: no anchor overlaps it, so nothing answers for it.`;
      const [x0, y0, x1, y1] = anchors.row(chosen), pixels = `${fixed((x1 - x0) * size[0], 0)} × ${fixed((y1 - y0) * size[1], 0)}`;
      const list = Array.from(offsets.row(chosen), (v) => fixed(v)).join(", ");
      const why = forced.at(chosen) ? (iou.at(chosen) >= threshold ? "given by the greedy rule" : "below the threshold, but given by the greedy rule") : "by threshold";
      return `${names[g]} at threshold ${fixed(threshold)}: ${count} positive${count > 1 ? "s" : ""} of ${total.toLocaleString("en")} anchors. Number ${pick + 1}, ${pixels} pixels, IoU ${fixed(iou.at(chosen))}, ${why}: offsets ${list}.`;
    };
  },
});
