// σ, γ, α and the negatives, trained for real: the reader's choice beside the book's, run after run.
import { choice, slider, tick } from "./controls.js";
import { makeCurves } from "./curves.js";
import { html } from "./dom.js";
import { colorOf } from "./drawing.js";
import { callTeacher } from "./teacher.js";

const NEGATIVES = { all: {}, "3 hard ones": { negatives: 3 }, "1 hard one": { negatives: 1 }, "3 random ones": { negatives: 3, mining: "random" }, "10 hard ones": { negatives: 10 } };
const twice = (text) => [text, text], average = (list) => list.reduce((a, b) => a + b, 0) / list.length;
const deviation = (list) => Math.sqrt(list.reduce((sum, v) => sum + (v - average(list)) ** 2, 0) / Math.max(1, list.length - 1));

/** Fill the frame; `set` is that of widgets/turn.py, `whole` the function that holds all modules. Returns { end }. */
export async function startTurn({ body, tell }, { set, whole }) {
  const worker = callTeacher(whole), runs = [], total = set.steps;
  await worker.ask("start", { set });
  let busy = false;
  const nothing = () => {};
  const sigma = slider("σ of smooth L1", [0.2, 5, 0.1], 1, nothing), gamma = slider("γ of focal loss", [0, 5, 0.25], 2, nothing);
  const cls = choice("class loss", [["cross_entropy", "cross-entropy"], ["focal", "focal loss"]], nothing), alpha = choice("α of focal loss", ["none", "0.1", "0.25", "0.5", "0.75"].map(twice), nothing);
  const negatives = choice("negatives for each positive", Object.keys(NEGATIVES).map(twice), nothing);
  const box = slider("weight of the box loss", [0, 5, 0.25], 1, nothing), rate = choice("learning rate", ["0.003", "0.0003", "0.001", "0.01", "0.03"].map(twice), nothing);
  const bias = tick("start with the bias that objects are rare", true, nothing), seed = slider("seed", [0, 9, 1], 0, nothing);
  const controls = [cls, gamma, alpha, negatives, sigma, box, rate, bias, seed];
  const charts = [makeCurves("class loss", total), makeCurves("box loss", total), makeCurves("AP50 of held-out images", total, 1)];
  const table = html("div"), verdict = html("p");
  const trainButton = html("button", { type: "button", onclick: () => both().catch((error) => tell(`That did not work: ${error.message}.`)) }, "train both");
  const stopButton = html("button", { type: "button", disabled: true, onclick: () => worker.stop() }, "stop");
  body.replaceChildren(html("div", { class: "controls" }, controls.map(({ element }) => element)), html("div", { class: "bar" }, trainButton, stopButton),
    html("div", { class: "charts" }, charts.map(({ element }) => element)), table, verdict);
  tell("Choose, then train: your setting and the book's, with the same seed.");

  /** What is set, as the package's options, and in words: what differs from the book. */
  function setting() {
    const focal = cls.value === "focal", loss = { sigma: sigma.value, box_weight: box.value, cls: cls.value, ...NEGATIVES[negatives.value] };
    if (focal) Object.assign(loss, { gamma: gamma.value, alpha: alpha.value === "none" ? null : Number(alpha.value) });
    const words = [
      focal ? `focal γ ${gamma.value}${loss.alpha === null ? "" : ` α ${loss.alpha}`}` : "", negatives.value === "all" ? "" : negatives.value, sigma.value === 1 ? "" : `σ ${sigma.value}`,
      box.value === 1 ? "" : `box × ${box.value}`, rate.value === "0.003" ? "" : `rate ${rate.value}`, bias.value ? "" : "no bias",
    ].filter(Boolean);
    return { name: words.join(", ") || "the book's", config: { loss, lr: Number(rate.value), prior_prob: bias.value ? 0.01 : null } };
  }

  async function both() {
    const mine = setting(), which = [{ name: "the book's", config: {} }, ...(mine.name === "the book's" ? [] : [mine])], shown = [];
    busy = true, trainButton.disabled = true, stopButton.disabled = false;
    try {
      for (const { name, config } of which) {
        const before = runs.find((run) => run.name === name && run.seed === seed.value);
        const run = before ?? { name, seed: seed.value, cls: [], box: [], ap50: [] };
        shown.push(run);
        if (before) continue; // it would be the same, to the last digit
        const start = performance.now();
        const hear = (news) => {
          for (const key of ["cls", "box", "ap50"]) if (key in news) run[key].push([news.step, news[key]]);
          run.ap = news.ap ?? run.ap;
          tell(`${name}: step ${news.step} of ${total} …`);
          draw(shown);
        };
        const { stopped } = await worker.ask("train", { config: { ...config, steps: total, seed: seed.value } }, hear);
        if (stopped) return void tell("Stopped: this run does not count.");
        run.seconds = (performance.now() - start) / 1000;
        runs.push(run);
      }
      draw(shown), drawTable();
      tell(shown.map((run) => `${run.name}: AP50 ${run.ap50.at(-1)[1].toFixed(2)}, AP ${run.ap.toFixed(2)}`).join("; ") + ".");
    } finally {
      busy = false, trainButton.disabled = false, stopButton.disabled = true;
    }
  }

  function draw(shown) {
    ["cls", "box", "ap50"].forEach((key, i) => charts[i].show(shown.map((run, n) => ({ name: run.name, points: run[key], color: colorOf(n), dashed: n === 1 }))));
  }

  /** A row for each setting of this visit, with the spread over its seeds; and whether it differs from the book's. */
  function drawTable() {
    const names = [...new Set(runs.map(({ name }) => name))], of = (name) => runs.filter((run) => run.name === name);
    const spread = (values) => `${average(values).toFixed(3)}${values.length > 1 ? ` ± ${deviation(values).toFixed(3)}` : ""}`;
    const rows = names.map((name) => [name, of(name).map((run) => run.seed).join(", "), spread(of(name).map((run) => run.ap50.at(-1)[1])), spread(of(name).map((run) => run.ap)), `${average(of(name).map((run) => run.seconds)).toFixed(0)} s`]);
    table.replaceChildren(html("table", {}, html("tbody", {}, html("tr", {}, ["setting", "seeds", "AP50", "AP", "time"].map((name) => html("th", { scope: "col" }, name))), rows.map((row) => html("tr", {}, row.map((value) => html("td", {}, value)))))));
    verdict.textContent = names.filter((name) => name !== "the book's").map((name) => compared(name, of(name), of("the book's"))).join(" ");
  }

  function compared(name, mine, theirs) {
    const seeds = mine.map((run) => [run.ap, theirs.find((one) => one.seed === run.seed)?.ap]).filter(([, other]) => other !== undefined);
    const gains = seeds.map(([a, b]) => a - b), change = average(gains), error = deviation(gains) / Math.sqrt(gains.length);
    if (gains.length < 3) return `${name}: ${gains.length === 1 ? "one seed says" : "two seeds say"} nothing yet; take ${3 - gains.length} more.`;
    const sure = Math.abs(change) > 2.5 * error;
    return `${name} changes AP by ${change >= 0 ? "+" : "−"}${Math.abs(change).toFixed(3)} over ${gains.length} seeds: ${sure ? "more than the seeds differ among themselves" : "smaller than what the seeds differ among themselves, so perhaps nothing"}.`;
  }

  body.state = () => ({ runs, busy }); // for tests, and for the curious
  return { end: worker.end };
}
