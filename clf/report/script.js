"use strict";
// What a report does in the browser. Every text goes in by textContent, so that no name of a class or
// of a file is ever read as HTML.
const report = JSON.parse(document.getElementById("report-data").textContent);
const PAGE = 50; // rows of a table at a time

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// --- charts ---------------------------------------------------------------------------------------

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const merged = (one, other) => {
  const result = { ...one };
  for (const [key, value] of Object.entries(other)) {
    const both = value && result[key] && typeof value === "object" && !Array.isArray(value);
    result[key] = both ? merged(result[key], value) : value;
  }
  return result;
};

function layoutOf(chart, place) {
  const axis = { gridcolor: colour("--grid"), zerolinecolor: colour("--line"), automargin: true };
  const layout = merged(
    {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--text"), family: "system-ui, sans-serif", size: 12 },
      margin: { l: 48, r: 12, t: 10, b: 40 }, showlegend: false, hovermode: "closest",
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      hoverlabel: { bgcolor: colour("--card"), font: { color: colour("--text") } },
      colorway: [colour("--accent"), "#e08a1e", colour("--good"), "#9b6bd3", "#d2556b"],
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    },
    chart.layout,
  );
  for (const name of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) {
    layout[name] = readable(merged(axis, layout[name]), place);
  }
  return layout;
}

// Words at an axis need 12 pixels each; where there are more, only some are shown.
function readable(axis, place) {
  if (!axis.tickvals) return axis;
  const room = Math.max(1, Math.floor((Math.min(place.clientWidth, place.clientHeight) - 110) / 12));
  const step = Math.ceil(axis.tickvals.length / room);
  const some = (values) => values.filter((_, number) => number % step === 0);
  return { ...axis, tickvals: some(axis.tickvals), ticktext: some(axis.ticktext) };
}

function tracesOf(chart, place) {
  const scale = [[0, colour("--card")], [1, colour("--accent")]];
  return chart.data.map((trace) =>
    trace.type === "heatmap" ? { ...trace, colorscale: scale, showscale: place.clientWidth > 480 }
    : trace.type === "parcoords" ? merged(trace, { line: { colorscale: [[0, "#e08a1e"], [1, colour("--accent")]] } })
    : trace);
}

function draw() {
  for (const [id, chart] of Object.entries(report.charts)) {
    const place = document.getElementById(id);
    if (place) Plotly.react(place, tracesOf(chart, place), layoutOf(chart, place), { responsive: true, displaylogo: false, displayModeBar: false });
  }
}

// --- tables: sorted, filtered, a page at a time -----------------------------------------------------

function table(place, { columns, rows }) {
  let order = { column: place.dataset.sort ? Number(place.dataset.sort) : null, down: false };
  let filter = "", page = 0, all = false;
  const head = make("tr"), body = make("tbody");
  const headings = columns.map((column, number) => {
    const button = make("button", { type: "button", textContent: column.name });
    const cell = make("th", { scope: "col" }, button);
    button.addEventListener("click", () => {
      order = { column: number, down: order.column === number ? !order.down : false };
      page = 0;
      fill();
    });
    head.append(cell);
    return cell;
  });
  const field = make("input", { type: "search", placeholder: "filter by name" });
  field.setAttribute("aria-label", `filter the rows of ${place.getAttribute("aria-label")}`);
  field.addEventListener("input", () => { filter = field.value.toLowerCase(); page = 0; fill(); });
  const count = make("span", { className: "dim" });
  count.setAttribute("aria-live", "polite");
  const back = make("button", { type: "button", textContent: "‹ back" });
  const next = make("button", { type: "button", textContent: "next ›" });
  back.addEventListener("click", () => { page -= 1; fill(); });
  next.addEventListener("click", () => { page += 1; fill(); });
  const pager = make("span", { className: "pager" }, back, " ", next);

  function compare(one, other) {
    const [a, b] = [one[order.column], other[order.column]];
    if (a === null || b === null) return (a === null) - (b === null); // what is not known comes last
    const sign = order.down ? -1 : 1;
    return sign * (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
  }
  function cell(value, column) {
    if (value === null) return make("td", { className: "dim", textContent: "n/a" });
    if (!column.share) return make("td", { textContent: typeof value === "number" ? value.toLocaleString("en") : value });
    const text = `${column.signed && value > 0 ? "+" : ""}${(100 * value).toFixed(1)} %`;
    if (!column.bar) return make("td", { textContent: text });
    const bar = make("i");
    bar.style.width = `${100 * Math.max(0, value)}%`;
    const whole = make("span", { className: "bar" }, bar);
    whole.setAttribute("aria-hidden", "true");
    return make("td", {}, text, whole);
  }
  function fill() {
    let shown = rows.filter((row) => String(row[0]).toLowerCase().includes(filter));
    if (order.column !== null) shown = [...shown].sort(compare);
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    const first = page * PAGE;
    const here = all ? shown : shown.slice(first, first + PAGE);
    body.replaceChildren(...here.map((row) => make("tr", {}, ...row.map((value, number) => cell(value, columns[number])))));
    headings.forEach((heading, number) => {
      if (number === order.column) heading.setAttribute("aria-sort", order.down ? "descending" : "ascending");
      else heading.removeAttribute("aria-sort");
    });
    back.disabled = page === 0;
    next.disabled = page >= pages - 1;
    pager.hidden = pages === 1;
    count.textContent = pages === 1 ? `${shown.length} rows` : `rows ${first + 1} to ${first + here.length} of ${shown.length}`;
  }
  addEventListener("beforeprint", () => { all = true; fill(); });
  addEventListener("afterprint", () => { all = false; fill(); });
  place.append(
    make("div", { className: "tools" }, field, pager, count),
    make("div", { className: "scroll", tabIndex: 0 }, make("table", {}, make("thead", {}, head), body)),
  );
  fill();
}

// --- pictures -------------------------------------------------------------------------------------

function picture(number) {
  const one = report.images[number];
  const image = one.picture
    ? make("img", { src: `data:image/jpeg;base64,${one.picture}`, alt: `${one.label}, taken for ${one.predicted}` })
    : make("div", { className: "none", textContent: "no picture kept" });
  const right = one.label === one.predicted;
  return make("figure", {}, image, make("figcaption", {},
    make("div", {}, make("b", { textContent: one.label || "?" }), right ? " ✓" : " → ", right ? "" : make("b", { className: "bad", textContent: one.predicted })),
    make("div", { textContent: `${(100 * one.confidence).toFixed(1)} % sure` }),
    make("small", { textContent: one.path, title: one.path })));
}

// --- confusions -----------------------------------------------------------------------------------

function confusions() {
  const list = document.getElementById("confusion-list");
  const panel = document.getElementById("confusion-pictures");
  if (!list) return;
  const buttons = report.confusions.map((pair) => {
    const button = make("button", { type: "button" },
      make("span", { textContent: `${report.names[pair.label]} → ${report.names[pair.predicted]}` }),
      make("span", { className: "dim", textContent: `${pair.count} of ${pair.support}` }));
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => show([pair]));
    list.append(make("li", {}, button));
    return button;
  });
  function show(pairs, words) {
    buttons.forEach((button, number) => button.setAttribute("aria-pressed", String(pairs.includes(report.confusions[number]))));
    const parts = pairs.flatMap((pair) => {
      const kept = pair.images.length;
      const more = pair.count > kept ? `; the ${kept} most confident of them are here` : "";
      const images = `${pair.count} ${pair.count === 1 ? "image" : "images"} of ${pair.support}`;
      return [
        make("h3", { textContent: `${report.names[pair.label]}, taken for ${report.names[pair.predicted]}` }),
        make("p", { className: "dim", textContent: `${images}${more}` }),
        make("div", { className: "pictures" }, ...pair.images.map(picture)),
      ];
    });
    panel.replaceChildren(...(parts.length ? parts : [make("p", { className: "dim", textContent: words })]));
  }
  const place = document.getElementById("confusion");
  place.on("plotly_click", (event) => {
    const [row, column] = event.points[0].pointNumber ?? event.points[0].pointIndex;
    const inside = (label, [first, end]) => first <= label && label < end;
    const pairs = report.confusions.filter((pair) =>
      inside(pair.label, report.spans[row]) && inside(pair.predicted, report.spans[column]));
    const images = event.points[0].customdata;
    show(pairs, row === column && report.spans[row][1] - report.spans[row][0] === 1
      ? `${images} images of this class are right.`
      : `${images} images; not among the largest confusions, whose images are kept.`);
    panel.scrollIntoView({ block: "nearest" });
  });
  if (report.confusions.length) show([report.confusions[0]]);
}

// --- start ----------------------------------------------------------------------------------------

for (const place of document.querySelectorAll("[data-table]")) table(place, report.tables[place.dataset.table]);
for (const place of document.querySelectorAll("[data-pictures]")) {
  place.append(...report.lists[place.dataset.pictures].map(picture));
}
draw();
confusions();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
matchMedia("(max-width: 760px)").addEventListener("change", draw);
addEventListener("beforeprint", draw);
addEventListener("afterprint", draw);
document.documentElement.dataset.ready = "yes";
