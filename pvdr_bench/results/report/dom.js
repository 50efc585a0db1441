"use strict";
// Elements, numbers and tables. Texts from the data are only ever set as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";
const data = JSON.parse(document.getElementById("data").textContent);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "paint") { // a method's colour; the style sheet makes it lighter in the dark
      node.style.setProperty("--paint", value);
      node.classList.add("paint");
    } else if (name === "on") for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

function el(tag, attributes, ...children) { return fill(document.createElement(tag), attributes, children); }

function svg(tag, attributes, ...children) { return fill(document.createElementNS(SVG, tag), attributes, children); }

// 1234567 -> "1 234 567"; small numbers with four digits.
function plainNumber(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return String(value).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  return Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

// On axes: 80000 -> "80k".
function shortNumber(value) {
  for (const [size, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= size) return Number((value / size).toPrecision(4)) + letter;
  }
  return String(Number(value.toPrecision(4)));
}

// As in the tables: rates in percent with one digit, returns with two.
function metricNumber(value) { return data.rate ? (100 * value).toFixed(1) : value.toFixed(2); }

function ticks(low, high, wanted) {
  const rough = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) found.push(Number((i * step).toPrecision(12)));
  return found;
}

// A table that sorts; cells are texts, numbers or nodes, or {node, key}.
function tableOf(caption, heads, rows) {
  const cell = (value, first) => {
    const known = value && typeof value === "object" && "node" in value;
    const key = known ? value.key : value instanceof Node ? value.textContent : value;
    const shown = known ? value.node : value instanceof Node ? value : typeof value === "number" ? plainNumber(value) : value ?? "–";
    const numeric = typeof key === "number";
    return el(first ? "th" : "td", {scope: first ? "row" : null, "data-key": key ?? null, class: numeric ? "num" : null}, shown);
  };
  const table = el("table", {class: "sortable"},
    el("caption", {class: "hidden"}, caption),
    el("thead", {}, el("tr", {}, heads.map((head, i) => el("th", {scope: "col", class: rows.some((row) => isNumber(row[i])) ? "num" : null},
      el("button", {type: "button", class: "sort"}, head))))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((value, i) => cell(value, i === 0))))));
  makeSortable(table);
  return el("div", {class: "scroll", role: "region", "aria-label": caption, tabindex: "0"}, table);
}

function isNumber(cell) { return typeof (cell && typeof cell === "object" && "key" in cell ? cell.key : cell) === "number"; }

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort((a, b) => compareCells(a.cells[column], b.cells[column], down ? -1 : 1)));
  }));
}

// Numbers as numbers, texts as texts; what has no key stays last in both directions.
function compareCells(a, b, sign) {
  const [x, y] = [a.dataset.key, b.dataset.key];
  if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
  const numbers = [Number(x), Number(y)];
  return sign * (numbers.some(Number.isNaN) ? x.localeCompare(y, "en") : numbers[0] - numbers[1]);
}

// A folded part whose content is made when it is first opened.
function folded(title, make) {
  const part = el("details", {}, el("summary", {}, title));
  part.addEventListener("toggle", () => {
    if (part.open && part.childElementCount === 1) part.append(...[make()].flat());
  });
  return part;
}
