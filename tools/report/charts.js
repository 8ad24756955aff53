// Elements, numbers, tables and line charts. Text is set as text, never as HTML, so names may hold any character.
"use strict";

function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const percent = (value, digits = 2) => (value === null || value === undefined ? "–" : (100 * value).toFixed(digits));
const seconds = (value) => `${value.toFixed(2)} s`;
const signed = (value, digits = 2) => (value > 0 ? "+" : "") + value.toFixed(digits);

// ----------------------------------------------------------------------------------------------------------------- files

function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = make("a", { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

// A text that a spreadsheet would compute begins with an apostrophe.
function csvCell(value) {
  const text = value === null || value === undefined ? "" : String(value);
  const safe = typeof value !== "number" && /^[=+\-@\t\r\n]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

const asCsv = (rows) => rows.map((row) => row.map(csvCell).join(",") + "\r\n").join("");

// ---------------------------------------------------------------------------------------------------------------- tables

// columns: [{name, of: row => value, show?: (value, row) => text or element, number?}]. A click on a heading sorts.
function table(caption, columns, rows, { file = null, sort = null, most = Infinity, down = true } = {}) {
  let sorted = sort,
    descending = down,
    shown = most;
  const body = make("tbody"),
    headings = columns.map((column) => {
      const button = make(
        "button",
        {
          type: "button",
          class: "sort",
          onclick: () => {
            descending = sorted === column.name ? !descending : true;
            sorted = column.name;
            refresh();
          },
        },
        column.name,
      );
      return make("th", { scope: "col", class: column.number ? "number" : null }, button);
    });
  const more = make(
    "button",
    {
      type: "button",
      onclick: () => {
        shown += 10 * most;
        refresh();
      },
    },
    "Show more",
  );
  const ordered = () => {
    const column = columns.find(({ name }) => name === sorted);
    if (!column) return rows;
    const compare = (a, b) =>
      typeof a === "number" || typeof b === "number" ? (a ?? -Infinity) - (b ?? -Infinity) : String(a).localeCompare(String(b));
    return [...rows].sort((a, b) => (descending ? -1 : 1) * compare(column.of(a), column.of(b)));
  };
  function refresh() {
    columns.forEach(({ name }, c) =>
      headings[c].setAttribute("aria-sort", name !== sorted ? "none" : descending ? "descending" : "ascending"),
    );
    body.replaceChildren(
      ...ordered()
        .slice(0, shown)
        .map((row) =>
          make(
            "tr",
            {},
            columns.map((column, c) => {
              const value = column.of(row),
                content = column.show ? column.show(value, row) : value;
              const attributes = { class: column.number ? "number" : null };
              return make(c ? "td" : "th", c ? attributes : { ...attributes, scope: "row" }, content ?? "–");
            }),
          ),
        ),
    );
    more.hidden = rows.length <= shown;
  }
  refresh();
  const save =
    file &&
    make(
      "button",
      {
        type: "button",
        class: "save",
        onclick: () =>
          download(
            `${file}.csv`,
            "text/csv",
            asCsv([columns.map(({ name }) => name), ...ordered().map((row) => columns.map(({ of }) => of(row)))]),
          ),
      },
      "CSV",
    );
  save?.setAttribute("aria-label", `CSV of “${caption}”`);
  const whole = make("table", {}, make("caption", {}, caption), make("thead", {}, make("tr", {}, headings)), body);
  return make("div", { class: "table" }, whole, make("p", { class: "below" }, save, more));
}

const words = (name, of, show) => ({ name, of, show });
const figures = (name, of, show) => ({ name, of, show, number: true });
const decimals = (name, of, digits) => figures(name, of, (value) => value?.toFixed(digits));

// A bar beside a number, for a cell of a table; `largest` is the length of the whole cell.
function bar(value, largest, text, colour = "var(--accent)") {
  const share = largest ? Math.min(100, (100 * Math.abs(value)) / largest) : 0;
  const inner = make("span", { class: value < 0 ? "bar negative" : "bar", "aria-hidden": "true" });
  inner.style.width = `${share}%`;
  inner.style.background = colour;
  return make("span", { class: "barred" }, make("span", { class: "track" }, inner), make("span", {}, text));
}

// ----------------------------------------------------------------------------------------------------------- line charts

const LINES = ["var(--line-1)", "var(--line-2)", "var(--line-3)", "var(--line-4)", "var(--line-5)", "var(--line-6)"];
const DASHES = ["", "6 3", "2 3", "8 3 2 3", "12 4", "1 4"];

function ticks(low, high, about) {
  const rough = (high - low || 1) / about,
    power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((size) => size >= rough);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++)
    found.push(Number((k * step).toPrecision(12)));
  return found;
}

// lines: [{name, x, y}]. The numbers follow in a table for who does not see the picture.
function lineChart(title, xName, yName, lines, { low = null, high = null, file = null, log = false } = {}) {
  const width = 520,
    height = 260,
    left = 58,
    bottom = 40,
    right = 18,
    top = 10;
  const xs = lines.flatMap(({ x }) => x),
    ys = lines.flatMap(({ y }) => y).filter((value) => value !== null);
  const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  const level = log ? Math.log10 : (y) => y;
  const [y0, y1] = log
    ? [Math.floor(level(Math.min(...ys))), Math.ceil(level(Math.max(...ys)))]
    : [low ?? Math.min(0, ...ys), high ?? Math.max(...ys, 1e-9)];
  const px = (x) => left + ((x - x0) / (x1 - x0 || 1)) * (width - left - right);
  const py = (y) => height - bottom - ((level(y) - y0) / (y1 - y0 || 1)) * (height - bottom - top);
  const picture = draw("svg", {
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": `${title}: ${yName} by ${xName}`,
  });
  for (const y of log
    ? ticks(y0, y1, 5)
        .filter(Number.isInteger)
        .map((power) => Number(`1e${power}`))
    : ticks(y0, y1, 5)) {
    picture.append(
      draw("line", { x1: left, x2: width - right, y1: py(y), y2: py(y), class: "grid" }),
      draw("text", { x: left - 6, y: py(y) + 4, "text-anchor": "end" }, String(y)),
    );
  }
  for (const x of ticks(x0, x1, 6)) {
    picture.append(draw("text", { x: px(x), y: height - bottom + 16, "text-anchor": "middle" }, String(x)));
  }
  picture.append(
    draw("text", { x: (left + width) / 2, y: height - 6, "text-anchor": "middle" }, xName),
    draw("text", { x: 12, y: height / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${height / 2})` }, yName),
  );
  lines.forEach(({ x, y }, number) => {
    const path = y.map((value, i) => (value === null ? "" : `${i && y[i - 1] !== null ? "L" : "M"}${px(x[i])} ${py(value)}`));
    picture.append(
      draw("path", {
        d: path.join(""),
        fill: "none",
        stroke: LINES[number % 6],
        "stroke-width": 2,
        "stroke-dasharray": DASHES[number % 6],
      }),
    );
  });
  const legend = make(
    "ul",
    { class: "legend" },
    lines.map(({ name }, number) => {
      const line = draw("line", {
        x1: 0,
        x2: 28,
        y1: 6,
        y2: 6,
        stroke: LINES[number % 6],
        "stroke-width": 2,
        "stroke-dasharray": DASHES[number % 6],
      });
      return make("li", {}, draw("svg", { width: 28, height: 12, "aria-hidden": "true" }, line), name);
    }),
  );
  const rows = lines.flatMap(({ name, x, y }) => x.map((value, i) => ({ name, x: value, y: y[i] })));
  const numbers = make(
    "details",
    {},
    make("summary", {}, `Numbers of “${title}”`),
    table(
      title,
      [
        { name: "line", of: (row) => row.name },
        { name: xName, of: (row) => row.x, number: true },
        { name: yName, of: (row) => row.y, number: true },
      ],
      rows,
      { file, most: 50 },
    ),
  );
  return make("figure", {}, make("figcaption", {}, title), picture, legend, numbers);
}
