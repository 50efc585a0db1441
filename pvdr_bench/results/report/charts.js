// The curves: one panel per task. Means and bands come as numbers; nothing is computed here but where they stand.

const MARGIN = {top: 12, right: 16, bottom: 40, left: 52};

class Panel {
  constructor(panel, chapter) {
    this.panel = panel;
    this.curves = chapter.curves;
    this.state = chapter.state;
    this.cursor = null;
    this.plot = el("div", {class: "plot", tabindex: "0", role: "slider", "aria-label": `Read the curves of ${panel.task}`,
      "aria-orientation": "horizontal", "aria-valuemin": "0"});
    this.readout = el("div", {class: "readout", hidden: true});
    const numbers = folded("Numbers of this plot", () => this.table());
    numbers.className = "numbers";
    chapter.holder.append(el("figure", {class: "panel"}, el("figcaption", {}, el("h3", {}, panel.task)),
      el("div", {class: "stage"}, this.plot, this.readout), numbers));
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => { if (document.activeElement !== this.plot) this.move(null); });
    this.plot.addEventListener("focus", () => { if (this.cursor === null && this.plot.matches(":focus-visible")) this.move(this.stops().length - 1); });
    this.plot.addEventListener("blur", () => this.move(null));
    this.plot.addEventListener("keydown", (event) => this.key(event));
  }

  lines() { return this.panel.lines.filter((line) => this.state.rows.has(line.row)); }

  flats() { return this.panel.flats.filter((flat) => this.state.rows.has(flat.row)); }

  // All x at which a shown line has a point.
  stops() { return [...new Set(this.lines().flatMap((line) => line.x[this.state.axis]))].sort((a, b) => a - b); }

  scales() {
    const width = Math.max(280, this.plot.clientWidth);
    const height = Math.round(Math.min(430, Math.max(250, width * 0.5)));
    const all = this.panel.lines; // also hidden ones, so that a toggle moves no axis
    const right = Math.max(1e-9, ...all.flatMap((line) => line.x[this.state.axis]), ...all.flatMap((line) => line.seeds.flatMap((s) => s.x[this.state.axis])));
    const drawn = (line, bounds) => bounds.filter((_, i) => line.n[i] >= this.curves.bandSeeds);
    const ys = all.flatMap((line) => [...line.y, ...drawn(line, line.low), ...drawn(line, line.high), ...line.seeds.flatMap((s) => s.y)])
      .concat(this.panel.flats.map((flat) => flat.y)).filter((y) => y !== null);
    let [bottom, top] = data.rate || !ys.length ? [0, 1] : [Math.min(...ys), Math.max(...ys)];
    if (bottom === top) [bottom, top] = [bottom - 1, top + 1];
    const inner = {left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top, bottom: height - MARGIN.bottom};
    return {width, height, inner, range: [right * 1.02, bottom, top],
      x: (value) => inner.left + (value / (right * 1.02)) * (inner.right - inner.left),
      y: (value) => inner.bottom - ((value - bottom) / (top - bottom)) * (inner.bottom - inner.top)};
  }

  draw() {
    const s = this.scale = this.scales();
    this.hairline = svg("g", {class: "hairline"});
    const picture = svg("svg", {viewBox: `0 0 ${s.width} ${s.height}`, "aria-hidden": "true", focusable: "false"},
      this.frame(s), this.flats().map((flat) => this.flat(flat, s)), this.lines().map((line) => this.band(line, s)),
      this.lines().map((line) => this.seeds(line, s)), this.lines().map((line) => this.line(line, s)), this.hairline);
    this.plot.replaceChildren(picture);
    this.plot.classList.toggle("many", this.lines().length > data.banded);
    const stops = this.stops();
    this.plot.setAttribute("aria-valuemax", String(Math.max(0, stops.length - 1)));
    this.move(this.cursor === null || !stops.length ? null : Math.min(this.cursor, stops.length - 1));
  }

  frame(s) {
    const [right, bottom, top] = s.range;
    const xs = ticks(0, right, s.width > 520 ? 8 : 4);
    const ys = data.rate ? [0, 0.2, 0.4, 0.6, 0.8, 1] : ticks(bottom, top, 5);
    const label = this.curves.axes.find((axis) => axis.key === this.state.axis).label;
    return svg("g", {class: "frame"},
      ys.map((y) => svg("line", {class: "grid", x1: s.inner.left, x2: s.inner.right, y1: s.y(y), y2: s.y(y)})),
      ys.map((y) => svg("text", {x: s.inner.left - 8, y: s.y(y) + 4, "text-anchor": "end"}, data.rate ? `${Math.round(100 * y)} %` : shortNumber(y))),
      xs.map((x) => svg("line", {class: "tick", x1: s.x(x), x2: s.x(x), y1: s.inner.bottom, y2: s.inner.bottom + 4})),
      xs.map((x) => svg("text", {x: s.x(x), y: s.inner.bottom + 17, "text-anchor": "middle"}, shortNumber(x))),
      svg("line", {class: "axis", x1: s.inner.left, x2: s.inner.right, y1: s.inner.bottom, y2: s.inner.bottom}),
      svg("text", {class: "title", x: (s.inner.left + s.inner.right) / 2, y: s.height - 5, "text-anchor": "middle"}, label));
  }

  flat(flat, s) {
    return svg("line", {class: "flat", "data-row": flat.row, x1: s.inner.left, x2: s.inner.right, y1: s.y(flat.y), y2: s.y(flat.y),
      "stroke-dasharray": dashOf(data.rows[flat.row], 1.3)});
  }

  band(line, s) {
    const xs = line.x[this.state.axis];
    const runs = [];
    line.low.forEach((low, i) => {
      if (low === null || line.high[i] === null || line.n[i] < this.curves.bandSeeds) return;
      const last = runs[runs.length - 1];
      if (last && last[last.length - 1] === i - 1) last.push(i); else runs.push([i]);
    });
    const outline = (run) => "M" + run.map((i) => `${s.x(xs[i])},${s.y(line.high[i])}`).join("L")
      + "L" + [...run].reverse().map((i) => `${s.x(xs[i])},${s.y(line.low[i])}`).join("L") + "Z";
    return svg("path", {class: "band", "data-row": line.row, paint: data.rows[line.row].color, d: runs.map(outline).join("")});
  }

  seeds(line, s) {
    return line.seeds.filter((one) => this.state.seeds.has(one.seed)).map((one) => svg("path", {
      class: "seed", "data-row": line.row, "data-seed": one.seed, paint: data.rows[line.row].color, d: path(one.x[this.state.axis], one.y, s)}));
  }

  line(line, s) {
    const row = data.rows[line.row];
    const xs = line.x[this.state.axis];
    const from = Math.max(0, line.whole - 1);
    const every = Math.max(1, Math.ceil(xs.length / 12));
    return svg("g", {class: "line", "data-row": line.row, paint: row.color},
      svg("path", {"stroke-dasharray": dashOf(row, 2), d: path(xs.slice(0, line.whole), line.y.slice(0, line.whole), s)}),
      line.whole < xs.length ? svg("path", {class: "short", "stroke-dasharray": dashOf(row, 1), d: path(xs.slice(from), line.y.slice(from), s)}) : null,
      xs.map((x, i) => (i % every ? null : markOf(row, `${s.x(x)},${s.y(line.y[i])}`))));
  }

  point(event) {
    const box = this.plot.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * this.scale.width;
    const stops = this.stops();
    if (!stops.length) return;
    const distance = stops.map((x) => Math.abs(this.scale.x(x) - place));
    this.move(distance.indexOf(Math.min(...distance)));
  }

  key(event) {
    const last = this.stops().length - 1;
    const now = this.cursor ?? last;
    const next = {ArrowLeft: now - 1, ArrowDown: now - 1, ArrowRight: now + 1, ArrowUp: now + 1, Home: 0, End: last}[event.key];
    if (event.key === "Escape") this.move(null);
    if (next === undefined || last < 0) return;
    event.preventDefault();
    this.move(Math.min(last, Math.max(0, next)));
  }

  move(index) {
    this.cursor = index;
    const stops = this.stops();
    if (index === null || !stops.length) {
      this.hairline?.replaceChildren();
      this.readout.hidden = true;
      this.plot.setAttribute("aria-valuenow", "0");
      this.plot.setAttribute("aria-valuetext", "no point chosen; arrow keys move along the curves");
      return;
    }
    const x = stops[index];
    const found = this.lines().map((line) => ({line, i: nearest(line.x[this.state.axis], x, stops)})).filter((hit) => hit.i >= 0);
    this.mark(x, found);
    this.tell(x, index, found);
  }

  mark(x, found) {
    const s = this.scale;
    this.hairline.replaceChildren(svg("line", {x1: s.x(x), x2: s.x(x), y1: s.inner.top, y2: s.inner.bottom}),
      ...found.map(({line, i}) => svg("circle", {cx: s.x(line.x[this.state.axis][i]), cy: s.y(line.y[i]), r: 5, paint: data.rows[line.row].color})));
  }

  tell(x, index, found) {
    const unit = this.curves.axes.find((axis) => axis.key === this.state.axis).label;
    const lines = found.map(({line, i}) => {
      const own = line.x[this.state.axis][i];
      const at = own === x ? "" : ` at ${plainNumber(own)}`;
      return {row: line.row, text: `${data.rows[line.row].label} ${cellText(line, i)}${at}`};
    });
    this.flats().forEach((flat) => lines.push({row: flat.row, text: `${data.rows[flat.row].label} ${metricNumber(flat.y)}, n = ${flat.n}`}));
    const head = this.state.axis === "env_steps" ? `${plainNumber(x)} env_steps` : `${unit}: ${plainNumber(x)}`;
    this.readout.hidden = false;
    this.readout.replaceChildren(el("strong", {}, head), ...lines.map(({row, text}) => el("span", {}, swatch(data.rows[row]), text)));
    this.readout.classList.toggle("low", this.crowdedAbove(x));
    this.readout.style.left = `${Math.min(78, Math.max(0, (100 * this.scale.x(x)) / this.scale.width))}%`;
    this.readout.classList.toggle("left", this.scale.x(x) > this.scale.width / 2);
    this.plot.setAttribute("aria-valuenow", String(index));
    this.plot.setAttribute("aria-valuetext", [head, ...lines.map((line) => line.text)].join("; "));
  }

  // Whether the curves beside a cursor, where the reading would stand, run in the upper half.
  crowdedAbove(x) {
    const [right, bottom, top] = this.scale.range;
    const side = x > right / 2 ? [x - 0.45 * right, x] : [x, x + 0.45 * right];
    const ys = this.lines().flatMap((line) => line.y.filter((_, i) => line.x[this.state.axis][i] >= side[0] && line.x[this.state.axis][i] <= side[1]));
    return ys.filter((y) => y > (bottom + top) / 2).length > ys.length / 2;
  }

  table() {
    const rows = this.panel.lines.flatMap((line) => line.y.map((_, i) => [
      data.rows[line.row].label, ...this.curves.axes.map((axis) => line.x[axis.key][i]),
      {node: metricNumber(line.y[i]), key: line.y[i]},
      line.low[i] === null ? "no interval" : {node: `[${metricNumber(line.low[i])}, ${metricNumber(line.high[i])}]`, key: line.low[i]},
      line.n[i], seedTexts(line, i)]));
    const flats = this.panel.flats.map((flat) => [data.rows[flat.row].label, ...this.curves.axes.map(() => null),
      {node: metricNumber(flat.y), key: flat.y}, null, flat.n, ""]);
    const measure = this.curves.label + (data.rate ? ", %" : "");
    return tableOf(`Numbers of ${this.panel.task}`, ["method", ...this.curves.axes.map((axis) => axis.label), measure, "interval", "seeds", "single seeds"], rows.concat(flats));
  }
}

function cellText(line, i) {
  const span = line.low[i] === null ? "no interval" : `[${metricNumber(line.low[i])}, ${metricNumber(line.high[i])}]`;
  return `${metricNumber(line.y[i])} ${span}, n = ${line.n[i]}`;
}

// Every seed's number at the line's point: "0: 45.0, 1: 60.0".
function seedTexts(line, i) {
  const known = line.seeds.map((one) => ({seed: one.seed, y: one.y[one.x.env_steps.indexOf(line.x.env_steps[i])]}));
  return known.filter((one) => one.y !== undefined).map((one) => `${one.seed}:\u00a0${metricNumber(one.y)}`).join(", ");
}

function path(xs, ys, s) { return xs.length ? "M" + xs.map((x, i) => `${s.x(x).toFixed(2)},${s.y(ys[i]).toFixed(2)}`).join("L") : "M0,0"; }

// The line's point that belongs to a cursor at x, or -1 where the line does not reach so far.
function nearest(xs, x, stops) {
  const slack = stops.length > 1 ? (stops[stops.length - 1] - stops[0]) / (stops.length - 1) / 2 : 0;
  if (!xs.length || x < xs[0] - slack || x > xs[xs.length - 1] + slack) return -1;
  const distance = xs.map((value) => Math.abs(value - x));
  return distance.indexOf(Math.min(...distance));
}
