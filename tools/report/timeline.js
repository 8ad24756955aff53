// The timeline of a video as one SVG picture: ground truth, detections by kind, curves and thresholds.
"use strict";

const GUTTER = 150,
  MARGIN = 12,
  LANE = 11,
  PANEL = 76; // pixels: row names, right edge, one lane of detections, one panel of curves
const CODES = {
  "true positive": "ok",
  duplicate: "du",
  merge: "me",
  fragment: "fr",
  "starts early": "s−",
  "starts late": "s+",
  "ends early": "e−",
  "ends late": "e+",
  "wrong class": "cl",
  background: "bg",
  missed: "mi",
};
const kindClass = (kind) => `kind-${kind.replaceAll(" ", "-")}`;

// view: {video, from, to, cursor, classes, labels, most, selected, runs: [{name, detections, judged}], panels, tiou}
function drawTimeline(view, width, onSelect) {
  const rows = view.classes.flatMap((label) => [
    truthRow(view, label, onSelect),
    ...view.runs.map((run, r) => foundRow(view, run, r, label, onSelect)),
  ]);
  rows.push(...view.panels.map((panel) => panelRow(view, panel)));
  const scale = (time) => GUTTER + ((time - view.from) / (view.to - view.from)) * (width - GUTTER - MARGIN);
  const height = rows.reduce((sum, row) => sum + row.height + 6, 26) + 4;
  const clip = draw("clipPath", { id: "inside" }, draw("rect", { x: GUTTER, y: 0, width: width - GUTTER - MARGIN, height }));
  const picture = draw(
    "svg",
    { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": describe(view) },
    clip,
    axis(view, scale, height),
  );
  let top = 26;
  for (const row of rows) {
    const name = row.name.length > 21 ? `${row.name.slice(0, 20)}…` : row.name;
    picture.append(
      draw(
        "text",
        { x: GUTTER - 8, y: top + Math.min(row.height, 22) / 2 + 4, "text-anchor": "end", class: row.strong ? "strong" : null },
        draw("title", {}, row.name),
        name,
      ),
    );
    const group = draw("g", { "clip-path": "url(#inside)", transform: `translate(0 ${top})` });
    row.paint(group, scale);
    picture.append(group);
    top += row.height + 6;
  }
  const x = scale(view.cursor);
  picture.append(draw("line", { class: "cursor", x1: x, x2: x, y1: 18, y2: height }));
  picture.timeAt = (px) => view.from + ((px - GUTTER) / (width - GUTTER - MARGIN)) * (view.to - view.from);
  picture.moveCursor = (time) => {
    const line = picture.querySelector(".cursor");
    line.setAttribute("x1", scale(time));
    line.setAttribute("x2", scale(time));
    line.style.display = time < view.from || time > view.to ? "none" : "";
  };
  picture.moveCursor(view.cursor);
  return picture;
}

function describe(view) {
  const { video, runs, tiou } = view;
  const said = runs.map(
    ({ name, detections, judged }) =>
      `${name}: ${detections.length} detections, ` +
      `${judged.states.filter((state) => state === KINDS[0]).length} of ${video.truth.length} instances found at tIoU ${tiou}`,
  );
  return (
    `Timeline of ${video.name} from ${seconds(view.from)} to ${seconds(view.to)}. ${said.join("; ")}. ` +
    "The table below lists the same."
  );
}

function axis(view, scale, height) {
  const group = draw("g", { class: "axis" });
  for (const time of ticks(view.from, view.to, 8)) {
    group.append(
      draw("line", { class: "grid", x1: scale(time), x2: scale(time), y1: 18, y2: height }),
      draw("text", { x: scale(time), y: 13, "text-anchor": "middle" }, `${time} s`),
    );
  }
  return group;
}

function segment(scale, { start, end }, y, height, attributes, title, code) {
  const x = scale(start),
    width = Math.max(1.5, scale(end) - x);
  const group = draw("g", attributes, draw("title", {}, title), draw("rect", { x, y, width, height, rx: 1.5 }));
  if (width > 16) group.append(draw("text", { class: "code", x: x + 3, y: y + height - 2 }, code));
  return group;
}

function truthRow(view, label, onSelect) {
  const missed = view.runs[0]?.judged.states ?? [];
  return {
    name: view.labels[label],
    strong: true,
    height: 16,
    paint(group, scale) {
      view.video.truth.forEach((truth, g) => {
        if (truth.label !== label) return;
        const state = missed[g] ?? "";
        const chosen = view.selected?.type === "instance" && view.selected.index === g;
        group.append(
          segment(
            scale,
            truth,
            1,
            14,
            {
              class: `truth ${state === MISSED ? "lost" : ""} ${chosen ? "chosen" : ""}`,
              onclick: () => onSelect({ type: "instance", index: g }),
            },
            `${view.labels[label]} ${seconds(truth.start)} to ${seconds(truth.end)}: ${state}`,
            state === KINDS[0] ? "" : (CODES[state] ?? ""),
          ),
        );
      });
    },
  };
}

function foundRow(view, run, r, label, onSelect) {
  const own = run.detections
    .map((found, p) => ({ found, p }))
    .filter(({ found }) => found.label === label)
    .sort((a, b) => b.found.score - a.found.score)
    .slice(0, view.most)
    .filter(({ found }) => found.end >= view.from && found.start <= view.to);
  const lanes = [];
  for (const one of own) {
    // each in the first lane where it overlaps nothing
    let lane = lanes.findIndex((taken) => taken.every((other) => other.end <= one.found.start || other.start >= one.found.end));
    if (lane < 0) lane = lanes.push([]) - 1;
    lanes[lane].push(one.found);
    one.lane = lane;
  }
  return {
    name: run.name,
    height: Math.max(1, lanes.length) * LANE,
    paint(group, scale) {
      for (const { found, p, lane } of own) {
        const judged = run.judged.detections[p];
        const chosen = view.selected?.type === "detection" && view.selected.index === p && view.selected.run === r;
        group.append(
          segment(
            scale,
            found,
            lane * LANE,
            LANE - 1.5,
            {
              class: `found ${kindClass(judged.kind)} ${chosen ? "chosen" : ""}`,
              onclick: () => onSelect({ type: "detection", index: p, run: r }),
            },
            sentence(view, found, judged),
            CODES[judged.kind],
          ),
        );
      }
    },
  };
}

function sentence(view, found, judged) {
  const truth = judged.instance >= 0 ? view.video.truth[judged.instance] : null;
  const concerns = truth
    ? `; tIoU ${judged.overlap.toFixed(3)} with ${view.labels[truth.label]} ${seconds(truth.start)} to ` +
      `${seconds(truth.end)}; starts ${signed(found.start - truth.start)} s, ends ${signed(found.end - truth.end)} s`
    : "";
  return (
    `${judged.kind}: ${view.labels[found.label]} ${seconds(found.start)} to ${seconds(found.end)}, ` +
    `score ${found.score.toFixed(4)}${concerns}`
  );
}

// panel: {title, lines: [{times: (i) => seconds, values, name}], thresholds}
function panelRow(view, panel) {
  const shown = panel.lines.flatMap(({ values }) => [Math.min(...values), Math.max(...values)]);
  const low = Math.min(0, ...shown),
    high = Math.max(1e-6, ...shown, ...panel.thresholds);
  const y = (value) => PANEL - ((value - low) / (high - low)) * PANEL;
  return {
    name: panel.title,
    height: PANEL,
    paint(group, scale) {
      group.append(draw("rect", { class: "panel", x: GUTTER, y: 0, width: 1e5, height: PANEL }));
      for (const truth of view.video.truth) {
        if (view.classes.includes(truth.label)) {
          group.append(
            draw("rect", {
              class: "shade",
              x: scale(truth.start),
              y: 0,
              height: PANEL,
              width: Math.max(1, scale(truth.end) - scale(truth.start)),
            }),
          );
        }
      }
      for (const threshold of panel.thresholds) {
        group.append(
          draw(
            "line",
            { class: "threshold", x1: GUTTER, x2: 1e5, y1: y(threshold), y2: y(threshold) },
            draw("title", {}, `threshold ${threshold.toFixed(4)}`),
          ),
        );
      }
      panel.lines.forEach(({ times, values, name }, number) => {
        const points = Array.from(values, (value, i) => `${scale(times(i)).toFixed(1)},${y(value).toFixed(1)}`);
        group.append(
          draw(
            "polyline",
            { class: "curve", points: points.join(" "), stroke: LINES[number % 6], "stroke-dasharray": DASHES[number % 6] },
            draw("title", {}, name),
          ),
        );
      });
      if (panel.lines.length > 1) {
        group.append(
          draw(
            "text",
            { class: "code", x: GUTTER + 44, y: 10 },
            panel.lines.map(({ name }, number) =>
              draw("tspan", { style: `fill: ${LINES[number % 6]}` }, `${number ? ", " : ""}${name}`),
            ),
          ),
        );
      }
      group.append(
        draw("text", { class: "code", x: GUTTER + 3, y: 10 }, high.toPrecision(3)),
        draw("text", { class: "code", x: GUTTER + 3, y: PANEL - 3 }, low.toPrecision(3)),
      );
    },
  };
}

// The picture as a file of its own: with the colours and fonts that the page's style gives it.
function asFile(picture) {
  const copy = picture.cloneNode(true),
    originals = [picture, ...picture.querySelectorAll("*")];
  [copy, ...copy.querySelectorAll("*")].forEach((element, i) => {
    const style = getComputedStyle(originals[i]);
    for (const name of [
      "fill",
      "fill-opacity",
      "stroke",
      "stroke-width",
      "stroke-dasharray",
      "opacity",
      "font-size",
      "font-family",
      "font-weight",
    ]) {
      element.style.setProperty(name, style.getPropertyValue(name));
    }
  });
  copy.style.background = getComputedStyle(document.body).backgroundColor;
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  return new XMLSerializer().serializeToString(copy);
}
