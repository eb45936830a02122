// Where a training step's time goes: a bar for each variant, as long as its time, split by kind of work.
export default figure({
  traits: ["variant"],
  height: (width, stage) => 46 * stage.data.variants.length + 8,
  setup(stage) {
    const { variants, parts, ms, faults } = stage.data;
    const total = (v) => ms.row(v).reduce((a, b) => a + b, 0);
    const longest = Math.max(...variants.map((_, v) => total(v)));
    const whole = (value) => Math.round(value).toLocaleString("en");
    stage.below.append(legend(parts.map((name, p) => [`thick c${p}`, name])));
    return () => {
      const chosen = stage.get("variant");
      const rows = variants.map((name, v) => {
        const shares = Array.from(ms.row(v), (part) => part / total(v)), top = 46 * v + 18;
        const bars = shares.map((share, p) => [share, `c${p}`, `${Math.round(100 * share)} %`]);
        return svg("g", {},
          svg("text", { class: "label", x: 0, y: top - 5, "font-weight": v === chosen ? 700 : null }, `${v === chosen ? "▸ " : ""}${name}: ${whole(total(v))} ms`),
          stackedBar({ left: 0, top, width: (stage.width * total(v)) / longest, height: 22, parts: bars }));
      });
      stage.clear(stage.svg, rows);
      const split = parts.map((name, p) => `${name} ${whole(ms.at(chosen, p))}`).join(", ");
      const gain = chosen ? ` (${number(total(0) / total(chosen), 1)} times as fast as D2L's)` : "";
      return `${variants[chosen]}: ${whole(total(chosen))} ms${gain}: ${split}. New pages of memory: ${whole(faults.at(chosen))}.`;
    };
  },
});
