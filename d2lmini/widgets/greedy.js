// The greedy rule in two ways, side by side: each column holds the image with the pairs settled so far, and the
// table of IoUs (anchors are rows a, b, c …, objects are columns 1, 2, 3 …) with their rows and columns struck out.
export default figure({
  traits: ["step"],
  height: (width, stage) => {
    const rows = stage.data.anchors.length, side = Math.min((width - 24) / 2, 300);
    return 24 + side + 30 + 24 * (rows + 1);
  },
  setup(stage) {
    const { photo, names, labels, objects, anchors, iou, walk, rounds } = stage.data;
    const letters = Array.from({ length: anchors.length }, (_, a) => String.fromCharCode(97 + a));
    const color = (g) => colorOf(labels[g]), ink = (g) => inkOn(labels[g]);
    const low = Math.min(0, ...anchors.values), high = Math.max(1, ...anchors.values);
    const order = names.map((name, g) => html("span", { class: "entry" }, `${g + 1} ${name}`));
    stage.below.append(html("p", { class: "legend" }, order));

    /** One way at one moment: `before` are the pairs of earlier steps, `now` those of this one. */
    function column(left, wide, title, before, now) {
      const settled = [...before, ...now], side = Math.min(wide, 300), top = 24;
      const photoSide = side / (high - low); // smaller than its place, so that anchors may reach beyond it
      const view = new ImageView({ left: left - low * photoSide, top: top - low * photoSide, width: photoSide, url: photo });
      for (let g = 0; g < names.length; g++) {
        const pair = settled.find(([, object]) => object === g);
        if (pair) view.box(anchors.row(pair[0]), { color: color(g), width: now.includes(pair) ? 3 : 1.75 });
        view.box(objects.row(g), { color: pair ? color(g) : "#fff", dashed: true, width: 1.5, tag: String(g + 1), ink: pair ? ink(g) : "#000" });
      }
      for (let a = 0; a < anchors.length; a++) { // each anchor by its letter, at its centre
        const [x0, y0, x1, y1] = anchors.row(a), x = view.X((x0 + x1) / 2), y = view.Y((y0 + y1) / 2);
        const taken = settled.some(([anchor]) => anchor === a);
        view.plates.append(svg("circle", { cx: x, cy: y, r: 8, fill: taken ? "#101010" : "#fff", stroke: taken ? "#fff" : "#101010" }),
          svg("text", { x, y: y + 4, "text-anchor": "middle", style: `fill: ${taken ? "#fff" : "#101010"}; font-weight: 600` }, letters[a]));
      }
      const start = top + side + 30, first = left + 20, cell = (wide - 21) / names.length, row = 24;
      const parts = names.map((_, g) => svg("text", { class: "label", x: first + (g + 0.5) * cell, y: start + 4, "text-anchor": "middle" }, String(g + 1)));
      for (let a = 0; a < anchors.length; a++) {
        const y = start + 10 + row * a;
        parts.push(svg("text", { class: "label", x: left + 4, y: y + 17 }, letters[a]));
        for (let g = 0; g < names.length; g++) {
          const is = ([anchor, object]) => anchor === a && object === g, gone = ([anchor, object]) => anchor === a || object === g;
          const mine = settled.some(is), struck = !mine && settled.some(gone), value = iou.at(a, g);
          const text = value >= 0.995 ? "1.0" : value ? value.toFixed(2).slice(1) : "0";
          parts.push(
            svg("rect", { x: first + g * cell, y, width: cell, height: row, fill: mine ? color(g) : "none", stroke: now.some(is) ? "var(--ink)" : "var(--grid)", "stroke-width": now.some(is) ? 3 : 1 }),
            svg("text", { x: first + (g + 0.5) * cell, y: y + 16, "text-anchor": "middle", opacity: struck || !value ? 0.75 : null,
              style: mine ? `fill: ${ink(g)}; font-weight: 700` : value && !struck ? "fill: var(--ink)" : null, "text-decoration": struck ? "line-through" : null }, text));
        }
      }
      return svg("g", {}, svg("text", { class: "label", x: left, y: 14 }, title), view.element, parts);
    }
    const word = ([anchor, object]) => `${letters[anchor]}–${object + 1} (${fixed(iou.at(anchor, object))})`;
    return () => {
      const step = stage.get("step"), round = Math.min(step, rounds.length), half = (stage.width - 24) / 2;
      const ahead = step > rounds.length; // the rounds are over while the walk goes on
      const slow = walk.slice(0, Math.max(step - 1, 0)), fast = rounds.slice(0, Math.max(ahead ? round : round - 1, 0)).flat();
      const taken = walk.slice(step - 1, step), together = ahead || !step ? [] : rounds[round - 1];
      const [single, mutual] = stage.width < 520 ? ["one by one", "mutual"] : ["one pair at a time", "mutual pairs"];
      stage.clear(stage.svg,
        column(0, half, `${single}: ${step} of ${walk.length}`, slow, step ? taken : []),
        column(half + 24, half, ahead ? `${mutual}: done after ${round}` : `${mutual}: round ${round} of ${rounds.length}`, fast, together));
      if (!step) return "Nothing is settled yet. Find the largest number of the table; then find every number that is the largest of its row and of its column.";
      const right = ahead ? `the rounds were done after ${rounds.length}` : `round ${round} settles ${together.map(word).join(", ")}`;
      return `Step ${step}: the walk takes ${taken.map(word).join()}, the largest number left; ${right}.${step === walk.length ? " Both have the same pairs." : ""}`;
    };
  },
});
