// Looks of rows, and what a reader chooses in each chapter: methods, single seeds, the axis.

const MARKS = {
  circle: (r) => `M${-r},0A${r},${r} 0 1 0 ${r},0A${r},${r} 0 1 0 ${-r},0Z`,
  square: (r) => `M${-r},${-r}H${r}V${r}H${-r}Z`,
  diamond: (r) => `M0,${-1.35 * r}L${1.35 * r},0L0,${1.35 * r}L${-1.35 * r},0Z`,
  up: (r) => `M${-1.2 * r},${r}H${1.2 * r}L0,${-1.2 * r}Z`,
  down: (r) => `M${-1.2 * r},${-r}H${1.2 * r}L0,${1.2 * r}Z`,
  left: (r) => `M${r},${-1.2 * r}V${1.2 * r}L${-1.2 * r},0Z`,
  right: (r) => `M${-r},${-1.2 * r}V${1.2 * r}L${1.2 * r},0Z`,
  plus: (r) => polygon(r, [[-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4], [0.4, 1.2], [-0.4, 1.2], [-0.4, 0.4], [-1.2, 0.4], [-1.2, -0.4], [-0.4, -0.4]]),
  cross: (r) => polygon(r, [[0, -0.5], [0.6, -1.15], [1.15, -0.6], [0.5, 0], [1.15, 0.6], [0.6, 1.15], [0, 0.5], [-0.6, 1.15], [-1.15, 0.6], [-0.5, 0], [-1.15, -0.6], [-0.6, -1.15]]),
  star: (r) => polygon(r, [...Array(10).keys()].map((k) => [Math.sin((k * Math.PI) / 5), -Math.cos((k * Math.PI) / 5)].map((v) => v * (k % 2 ? 0.6 : 1.5)))),
};

function polygon(r, points) { return `M${points.map(([x, y]) => `${(x * r).toFixed(2)},${(y * r).toFixed(2)}`).join("L")}Z`; }

// A row's dash for a line so wide; null: solid.
function dashOf(row, width) { return row.dash.length ? row.dash.map((part) => part * width).join(" ") : null; }

function markOf(row, place) {
  return svg("path", {class: row.filled ? "mark" : "mark open", d: MARKS[row.mark](row.filled ? 3.4 : 3), transform: `translate(${place})`});
}

function swatch(row) {
  const parts = [svg("line", {x1: 1, x2: 31, y1: 7, y2: 7, class: row.reference ? "flat" : null, stroke: row.reference ? null : "currentColor", "stroke-width": row.reference ? null : 2, "stroke-dasharray": dashOf(row, row.reference ? 1.3 : 2)})];
  if (!row.reference) parts.push(markOf(row, "16,7"));
  return svg("svg", {width: 32, height: 14, "aria-hidden": "true", class: "swatch", paint: row.color}, parts);
}

function toggleOf(set, value, label, ...content) {
  const box = el("input", {type: "checkbox", "data-value": value});
  box.checked = set.has(value);
  box.addEventListener("change", () => { if (box.checked) set.add(value); else set.delete(value); });
  return el("label", {}, box, content, label);
}

// The curves of one protocol with their controls.
class Chapter {
  constructor(curves) {
    this.curves = curves;
    this.lit = null;
    const rows = data.rows.map((row, index) => ({row, index})).slice(curves.first, curves.first + curves.rows);
    this.state = {axis: "env_steps", rows: new Set(rows.map(({index}) => index)), seeds: new Set()};
    const seeds = [...new Set(curves.panels.flatMap((panel) => panel.lines.flatMap((line) => line.seeds.map((s) => s.seed))))].sort((a, b) => a - b);
    if (rows.filter(({row}) => !row.reference).length <= 4) seeds.forEach((seed) => this.state.seeds.add(seed));
    const controls = this.part("controls");
    this.holder = this.part("panels");
    controls.append(this.methods(rows), this.seeds(seeds), this.axes());
    if (curves.panels.length === 1) this.holder.classList.add("single");
    if (!curves.panels.length) this.holder.append(el("p", {}, "No run has an evaluation yet."));
    this.drawn = curves.panels.map((panel) => new Panel(panel, this));
    controls.addEventListener("change", () => { this.draw(); this.sayAxis(); });
    new ResizeObserver(() => this.draw()).observe(this.holder);
    this.draw();
    this.sayAxis();
  }

  part(name) { return document.getElementById(name + this.curves.suffix); }

  axis() { return this.curves.axes.find((axis) => axis.key === this.state.axis); }

  draw() {
    this.drawn.forEach((panel) => panel.draw());
    this.light(this.lit);
  }

  sayAxis() { this.part("axis-note").textContent = this.axis().note; }

  // Bring one row's lines before the others; null: all alike.
  light(index) {
    this.lit = index;
    this.holder.querySelectorAll("[data-row]").forEach((node) => {
      node.classList.toggle("lit", Number(node.dataset.row) === index);
      node.classList.toggle("dim", index !== null && Number(node.dataset.row) !== index);
    });
  }

  methods(rows) {
    const boxes = rows.map(({row, index}) => {
      const box = toggleOf(this.state.rows, index, row.label, swatch(row));
      for (const name of ["pointerenter", "focusin"]) box.addEventListener(name, () => this.light(index));
      for (const name of ["pointerleave", "focusout"]) box.addEventListener(name, () => this.light(null));
      return box;
    });
    return el("fieldset", {class: "methods"}, el("legend", {}, "Methods"), boxes);
  }

  seeds(seeds) {
    const boxes = seeds.map((seed) => toggleOf(this.state.seeds, seed, String(seed)));
    const setAll = (on) => () => {
      boxes.forEach((box) => { box.firstChild.checked = on; box.firstChild.dispatchEvent(new Event("change", {bubbles: true})); });
    };
    return el("fieldset", {class: "seeds"}, el("legend", {}, "Single seeds"), boxes,
      el("button", {type: "button", on: {click: setAll(true)}}, "all"), el("button", {type: "button", on: {click: setAll(false)}}, "none"));
  }

  axes() {
    const choices = this.curves.axes.map((axis) => {
      const radio = el("input", {type: "radio", name: `axis${this.curves.suffix}`, value: axis.key});
      radio.checked = axis.key === this.state.axis;
      radio.addEventListener("change", () => { this.state.axis = axis.key; });
      return el("label", {}, radio, axis.label);
    });
    return el("fieldset", {class: "axis"}, el("legend", {}, "Horizontal axis"), choices);
  }
}
