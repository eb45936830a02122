// Suppression step by step. Who removes whom, and every score after every step, are tables from Python; a
// score threshold only cuts the list: `among` candidates take part, and those below change nothing above.
const HARD = 0, LINEAR = 1;

export default figure({
  traits: ["image", "method", "step", "score", "iou", "sigma", "aware"],
  height: (width) => (width < 560 ? width + 370 : 0.58 * width),
  setup(stage) {
    const { names, ious, sigmas, boxes, scores, labels, removed_by, order, left, x, factors } = stage.data;
    const total = scores.shape[1], last = left.shape[3] - 1;
    let p = 0; // the image
    stage.below.append(legend([["c1 thick", "taken now"], ["c2 thick", "kept"], ["c0 thick", "waiting"], ["faint", "hollow: removed, or lost score"]]));

    /** What the chosen method has done after the chosen step. */
    function state() {
      const method = stage.get("method"), aware = Number(stage.get("aware"));
      const among = scores.row(p).filter((s) => s >= stage.get("score") - 1e-6).length;
      const at = nearest(ious, stage.get("iou")), row = method === LINEAR ? at : ious.length + nearest(sigmas, stage.get("sigma"));
      const everyone = Array.from({ length: among }, (_, i) => i), wanted = stage.get("step");
      if (method === HARD) {
        const by = removed_by.row(p, aware, at), keeps = everyone.filter((i) => by[i] < 0);
        const end = wanted === last, done = end ? keeps.length : Math.min(wanted, keeps.length), taken = keeps.slice(0, done);
        const now = wanted <= keeps.length && !end ? taken[done - 1] : undefined;
        const value = (i) => (by[i] >= 0 && taken.includes(by[i]) ? 0 : scores.at(p, i));
        return { method, among, everyone, taken, now, end: now === undefined && wanted > 0, value, hit: everyone.filter((i) => now !== undefined && by[i] === now) };
      }
      const k = wanted, before = left.row(p, aware, row, Math.max(0, k - 1)), after = left.row(p, aware, row, k);
      const enough = (i) => after[i] >= stage.get("score") - 1e-6;
      // Soft-NMS ends where the best box left is below the threshold.
      const sequence = [...order.row(p, aware, row)].filter((i) => i < among);
      const taken = (k === last ? sequence : sequence.slice(0, k)).filter(enough);
      const now = k > 0 && k < last && k <= sequence.length && enough(sequence[k - 1]) ? sequence[k - 1] : undefined;
      const hit = now === undefined ? [] : everyone.filter((i) => before[i] - after[i] > 0.005);
      return { method, among, everyone, taken, now, end: now === undefined && k > 0, value: (i) => after[i], before: (i) => before[i], enough, hit };
    }

    const kindOf = (s, i) => (i === s.now ? "c1" : s.taken.includes(i) ? "c2" : "c0");
    const name = (i) => `${names[labels.at(p, i)]} ${fixed(scores.at(p, i))}`;

    function overImage(s, side) {
      const view = new ImageView({ width: side, url: stage.data[`image${p}`] });
      const threshold = stage.get("score") - 1e-6;
      for (const i of [...s.everyone].reverse()) {
        const waits = !s.taken.includes(i), label = labels.at(p, i), value = s.value(i), lost = s.hit.includes(i);
        if (waits && !lost && (s.end || value < threshold)) continue;
        if (lost) view.box(boxes.row(p, i), { color: "#fff", width: 1, fillOpacity: 0.08 });
        else if (waits) view.box(boxes.row(p, i), { color: colorOf(label), width: 1.25, rim: false, opacity: 0.35 + 0.65 * value });
      }
      for (const i of [...s.taken].reverse()) {
        const label = labels.at(p, i), rank = s.taken.indexOf(i) + 1, now = i === s.now;
        view.box(boxes.row(p, i), { color: colorOf(label), ink: inkOn(label), width: now ? 4.5 : 2.5, tag: now ? `${rank}: ${name(i)}` : String(rank) });
      }
      return view.element;
    }

    function overScores(s, place) {
      const axes = new Axes({ ...place, x: [0, total], y: [0, 1], xTicks: [], title: "scores of the candidates, best first" });
      const wide = place.width / total, base = axes.Y(0);
      for (let i = 0; i < total; i++) {
        const X = axes.X(i) + 1, width = Math.max(1, wide - 2), whole = axes.Y(scores.at(p, i));
        axes.add(svg("rect", { x: X, y: whole, width, height: base - whole, fill: "none", stroke: "var(--soft)", "stroke-width": 1, opacity: i < s.among ? 1 : 0.35 }));
        const gone = s.method === HARD ? !(s.value(i) > 0) : s.end && !s.enough(i);
        if (i >= s.among || gone) continue;
        const Y = axes.Y(s.value(i));
        axes.add(svg("rect", { class: `area ${kindOf(s, i)}`, x: X, y: Y, width, height: base - Y }));
        const rank = s.taken.indexOf(i) + 1;
        if (rank) axes.add(svg("text", { x: X + width / 2, y: base - 4, "text-anchor": "middle", class: "on", style: "font-size:9px;letter-spacing:-0.5px" }, String(rank)));
      }
      return axes.add(svg("path", { class: "curve dashed", d: `M${place.left} ${axes.Y(stage.get("score"))}h${place.width}` })).element;
    }

    function overFactors(s, place) {
      const axes = new Axes({ ...place, x: [0, 1], y: [0, 1.05], xLabel: "IoU with the box taken", title: "what a score is multiplied by" });
      const at = nearest(ious, stage.get("iou")), rows = [at, ious.length + at, 2 * ious.length + nearest(sigmas, stage.get("sigma"))];
      rows.forEach((row, k) => k !== s.method && axes.curve(x.values, factors.row(row), `faint ${["", "dashed", "dotted"][k]}`));
      return axes.curve(x.values, factors.row(rows[s.method]), "c1").element;
    }

    function told(s) {
      const rule = s.method === HARD ? `overlap it by an IoU above ${fixed(ious[nearest(ious, stage.get("iou"))])}` : "overlap it";
      const whose = stage.get("aware") ? "of its class" : "of any class", among = stage.get("aware") ? "of the same class" : "of any class";
      const setting = s.method === HARD ? "" : s.method === LINEAR ? ` Factor 1 − IoU above ${fixed(stage.get("iou"))}.` : ` Factor exp(−IoU²/${number(stage.get("sigma"), 1)}).`;
      if (stage.get("step") === 0) return `Before the first step: ${s.among} candidates score at least ${fixed(stage.get("score"))}.${setting}`;
      if (s.now === undefined) {
        const rest = s.taken.length;
        return `The end: ${s.among} candidates, ${rest} box${rest === 1 ? "" : "es"} left (boxes ${among} ${s.method === HARD ? "remove" : "lower"} each other${s.method === HARD ? `, IoU above ${fixed(stage.get("iou"))}` : ""}).${setting}`;
      }
      const done = `Step ${s.taken.indexOf(s.now) + 1}, scores from ${fixed(stage.get("score"))} on: takes ${names[labels.at(p, s.now)]} ${fixed(s.value(s.now))}`;
      const n = s.hit.length, few = n === 1 ? "1 box" : `${n || "no"} boxes`;
      if (s.method === HARD) return `${done} and removes ${few} ${whose} that ${rule}.`;
      const most = s.hit.reduce((best, i) => (best === undefined || s.before(i) - s.value(i) > s.before(best) - s.value(best) ? i : best), undefined);
      return `${done} and lowers ${few} ${whose}${most === undefined ? "" : `, one from ${fixed(s.before(most))} to ${fixed(s.value(most))}`}.${setting}`;
    }

    return () => {
      p = stage.get("image");
      const s = state(), narrow = stage.width < 560, side = narrow ? stage.width : stage.height;
      const start = narrow ? 30 : side + 36, width = stage.width - start - 6, top = narrow ? side + 30 : 22;
      const first = narrow ? 130 : stage.height * 0.42, second = narrow ? 120 : stage.height * 0.32;
      stage.clear(stage.svg, overImage(s, side),
        overScores(s, { left: start, top, width, height: first }),
        overFactors(s, { left: start, top: top + first + 44, width, height: second }));
      return told(s);
    };
  },
});
