// The drawing layer that every live figure stands on. base.py puts elements, boxes and colours in front of it
// (live/dom.js, live/drawing.js, live/bytes.js), and the figure's own file behind it.
// Numbers come from Python as typed bytes. Nothing here, nor in any figure, computes detection.

// ---- what Python sends ----

const ARRAYS = { "<f4": Float32Array, "<f8": Float64Array, "<i4": Int32Array, "<i2": Int16Array, "|u1": Uint8Array, "|i1": Int8Array };

/** A table of numbers of any number of dimensions, the last one running fastest. */
class Table {
  constructor({ dtype, shape, bytes }) {
    this.shape = shape;
    this.values = new ARRAYS[dtype](bytesOf(bytes));
    this.strides = shape.map((_, i) => shape.slice(i + 1).reduce((a, b) => a * b, 1));
  }
  /** The number at a full index. */
  at(...index) {
    return this.values[index.reduce((sum, i, k) => sum + i * this.strides[k], 0)];
  }
  /** Everything below a partial index, as a flat view: row(i) of (N, 4) is one box. */
  row(...index) {
    const start = index.reduce((sum, i, k) => sum + i * this.strides[k], 0);
    return this.values.subarray(start, start + this.strides[index.length - 1]);
  }
  get length() {
    return this.shape[0];
  }
}

/** What `data` holds under a name: a Table, an image's URL, or plain JSON as it is. */
function unpack(value) {
  if (value?.dtype) return new Table(value);
  if (value?.mime) return URL.createObjectURL(new Blob([bytesOf(value.bytes)], { type: value.mime }));
  return value;
}

// ---- scales and axes ----

/** A function that takes [low, high] of the data to [from, to] on the screen. */
const linear = (low, high, from, to) => (value) => from + ((value - low) / (high - low || 1)) * (to - from);

/** Round numbers between low and high, about `count` of them. */
function ticks(low, high, count = 5) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

const MINUS = "−";
/** A number as people write it: at most `digits` decimals, a true minus sign, no negative zero. */
const number = (value, digits = 2) =>
  Number.isFinite(value) ? String(Number(value.toFixed(digits)) + 0).replace("-", MINUS) : "–";
/** A number with exactly `digits` decimals, for readouts that must not jump about. */
const fixed = (value, digits = 2) =>
  Number.isFinite(value) ? (Number(value.toFixed(digits)) + 0).toFixed(digits).replace("-", MINUS) : "–";

/** Index of the grid point nearest to a value. */
const nearest = (grid, value) =>
  grid.reduce((best, g, i) => (Math.abs(g - value) < Math.abs(grid[best] - value) ? i : best), 0);

/** Axes inside a rectangle of the stage; `x` and `y` are [low, high] of the data. */
class Axes {
  constructor({ left, top, width, height, x, y, xLabel = "", yLabel = "", xTicks, yTicks, title = "" }) {
    Object.assign(this, { left, top, width, height, x, y });
    this.X = linear(...x, left, left + width);
    this.Y = linear(...y, top + height, top);
    const bottom = top + height;
    const marksX = xTicks ?? ticks(...x, Math.max(2, Math.round(width / 80))).map((v) => [v, number(v, 3)]);
    const marksY = yTicks ?? ticks(...y, Math.max(2, Math.round(height / 45))).map((v) => [v, number(v, 3)]);
    this.plot = svg("g");
    this.clip = `clip-${Math.random().toString(36).slice(2)}`;
    this.element = svg("g", { class: "axes" },
      svg("clipPath", { id: this.clip }, svg("rect", { x: left - 1, y: top - 1, width: width + 2, height: height + 2 })),
      marksX.map(([v]) => svg("line", { class: "grid", x1: this.X(v), x2: this.X(v), y1: top, y2: bottom })),
      marksY.map(([v]) => svg("line", { class: "grid", x1: left, x2: left + width, y1: this.Y(v), y2: this.Y(v) })),
      svg("path", { class: "frame", d: `M${left} ${top}V${bottom}H${left + width}` }),
      marksX.map(([v, t]) => svg("text", { x: this.X(v), y: bottom + 16, "text-anchor": "middle" }, t)),
      marksY.map(([v, t]) => svg("text", { x: left - 6, y: this.Y(v) + 4, "text-anchor": "end" }, t)),
      svg("text", { class: "label", x: left + width / 2, y: bottom + 34, "text-anchor": "middle" }, xLabel),
      svg("text", { class: "label", x: left, y: top - 8, "text-anchor": "start" }, title || yLabel),
      svg("g", { "clip-path": `url(#${this.clip})` }, this.plot));
  }
  /** Draw anything in these axes, cut off at their edges. */
  add(...nodes) {
    this.plot.append(...nodes.flat());
    return this;
  }
  /** A line through points; `kind` is a CSS class of figures.css: c0 … c5, faint, dashed. */
  curve(xs, ys, kind = "c0") {
    let d = "";
    for (let i = 0; i < xs.length; i++) {
      const gap = !Number.isFinite(ys[i]);
      d += gap ? "" : `${d && Number.isFinite(ys[i - 1]) ? "L" : "M"}${this.X(xs[i]).toFixed(1)} ${this.Y(ys[i]).toFixed(1)}`;
    }
    return this.add(svg("path", { class: `curve ${kind}`, d }));
  }
  /** A round mark at one point. */
  mark(x, y, kind = "c0", r = 5) {
    return this.add(svg("circle", { class: `mark ${kind}`, cx: this.X(x), cy: this.Y(y), r }));
  }
  /** A vertical line across the plot. */
  vertical(x, kind = "faint dashed") {
    return this.add(svg("path", { class: `curve ${kind}`, d: `M${this.X(x)} ${this.top}v${this.height}` }));
  }
}

/** A row of coloured strokes with names, as HTML under or above a drawing: [["c0", "smooth L1"], …]. */
const legend = (entries) =>
  html("p", { class: "legend" }, entries.map(([kind, name]) =>
    html("span", { class: "entry" },
      fill(svg("svg", { width: 26, height: 10, "aria-hidden": "true" }), {}, [svg("path", { class: `curve ${kind}`, d: "M2 5H24" })]), name)));

/** A bar of parts side by side, whose shares sum to 1: [[share, "c0", text], …]; text is left out where it has no room. */
function stackedBar({ left, top, width, height = 26, parts }) {
  let x = left;
  return svg("g", {}, parts.flatMap(([share, kind, text]) => {
    const wide = Math.max(0, share) * width, at = x;
    x += wide;
    const bar = svg("rect", { class: `bar ${kind}`, x: at, y: top, width: wide, height });
    if (!text || wide < 6.8 * text.length + 6) return [bar];
    return [bar, svg("text", { class: "on", x: at + wide / 2, y: top + height / 2 + 4, "text-anchor": "middle" }, text)];
  }));
}

// ---- images with boxes ----

/** An image on the stage and the boxes over it; boxes are normalised corners, as everywhere in d2lmini. */
class ImageView {
  constructor({ left = 0, top = 0, width, height = width, url }) {
    Object.assign(this, { left, top, width, height });
    this.boxes = svg("g");
    this.plates = svg("g"); // over all boxes: no line crosses a name
    this.element = svg("g", {},
      svg("image", { href: url, x: left, y: top, width, height, preserveAspectRatio: "none" }), this.boxes, this.plates);
  }
  X(x) { return this.left + x * this.width; }
  Y(y) { return this.top + y * this.height; }
  /** Add a box, styled as in drawing.js, with a name plate if there is a `tag`. */
  box(corners, { tag, ...style }) {
    const place = placeIn(this, corners);
    this.boxes.append(outline(place, style));
    if (tag) this.plates.append(plate(tag, place, this, style));
  }
}

// ---- the figure itself ----

const WIDEST = 720; // CSS pixels

/**
 * Make a figure of a function `setup(stage)`, which builds what stays and returns `draw()`, which redraws
 * what changes and returns the sentence that tells its state (shown under the drawing, and read aloud).
 *
 * `traits` are the names whose change redraws; `height(width, stage)` is the drawing's height in CSS pixels.
 * The stage has: model, svg (as wide as the page allows; one unit is one CSS pixel, so type keeps its
 * size on a phone), width, height, root, data (unpacked), get(trait), set(trait, value), clear(group, …new).
 */
function figure({ traits, height, setup }) {
  return {
    render({ model, el }) {
      const root = html("div", { class: "d2l-figure", role: "group", "aria-label": model.get("alt") });
      const drawing = svg("svg", { role: "img", "aria-label": model.get("alt") });
      const readout = makeReadout();
      const above = html("div", { class: "above" }), below = html("div", { class: "below" });
      root.style.maxWidth = `${WIDEST}px`;
      root.append(above, drawing, below, readout.element);
      el.append(root);
      const packed = model.get("data");
      const data = Object.fromEntries(Object.entries(packed).map(([name, value]) => [name, unpack(value)]));
      const stage = {
        model, root, svg: drawing, above, below, data, width: 0, height: 0,
        get: (name) => model.get(name),
        set(name, value) {
          if (model.get(name) === value) return;
          model.set(name, value);
          model.save_changes();
        },
        clear(group, ...nodes) {
          group.replaceChildren(...nodes.flat());
        },
      };
      let draw = null, frame = 0;
      const paint = () => {
        frame = 0;
        const width = Math.min(WIDEST, Math.round(root.clientWidth));
        if (!width) return;
        stage.width = width;
        stage.height = Math.round(height(width, stage));
        fill(drawing, { viewBox: `0 0 ${stage.width} ${stage.height}`, width: stage.width, height: stage.height }, []);
        draw ??= setup(stage);
        readout.tell(draw() ?? "");
      };
      const later = () => { frame ||= requestAnimationFrame(paint); };
      for (const name of traits) model.on(`change:${name}`, later);
      const watch = new ResizeObserver(later);
      watch.observe(root);
      later();
      return () => {
        watch.disconnect();
        cancelAnimationFrame(frame);
        readout.end();
        for (const name of traits) model.off(`change:${name}`, later);
        for (const value of Object.values(data)) if (typeof value === "string" && value.startsWith("blob:")) URL.revokeObjectURL(value);
      };
    },
  };
}
