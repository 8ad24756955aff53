// What the timeline shows, in words and numbers: tables, lines of a CSV file, colours, keys. `player` is a Player.
"use strict";

const CLASSES_SHOWN = 4;

// The classes shown at first: the annotated ones, and up to CLASSES_SHOWN with the best detections.
function usualClasses(video) {
  const annotated = new Set(video.truth.map(({ label }) => label)),
    best = new Map();
  for (const { label, score } of video.runs.flatMap(({ detections }) => detections)) {
    best.set(label, Math.max(score, best.get(label) ?? -Infinity));
  }
  const others = [...best.keys()].filter((label) => !annotated.has(label)).sort((a, b) => best.get(b) - best.get(a));
  return [...annotated, ...others.slice(0, Math.max(0, CLASSES_SHOWN - annotated.size))];
}

function detectionsTable(player) {
  const { video, rows, data } = player;
  const found = rows.flatMap(({ detections, judged, name }, r) =>
    player.drawnDetections(r).map((p) => {
      const one = { ...detections[p], ...judged.detections[p], row: name, r, p };
      const truth = video.truth[one.instance];
      return { ...one, startError: truth ? one.start - truth.start : null, endError: truth ? one.end - truth.end : null };
    }),
  );
  const choose = (text, { p, r }) => player.chooser(text, { type: "detection", index: p, run: r });
  return table(
    "Detections shown",
    [
      words("class", (one) => data.classes[one.label], choose),
      words("row", (one) => one.row),
      decimals("start", (one) => one.start, 2),
      decimals("end", (one) => one.end, 2),
      decimals("score", (one) => one.score, 4),
      words("kind", (one) => one.kind),
      decimals("tIoU", (one) => one.overlap, 3),
      decimals("start error", (one) => one.startError, 2),
      decimals("end error", (one) => one.endError, 2),
    ],
    found,
    { sort: "score", most: 15 },
  );
}

function instancesTable(player) {
  const rows = player.video.truth.map((one, g) => ({ ...one, g, state: player.rows[0].judged.states[g] }));
  const choose = (text, { g }) => player.chooser(text, { type: "instance", index: g });
  return table(
    "Instances",
    [
      words("class", (one) => player.data.classes[one.label], choose),
      decimals("start", (one) => one.start, 2),
      decimals("end", (one) => one.end, 2),
      words("state", (one) => one.state),
    ],
    rows,
    { most: 15 },
  );
}

// The curves of the chosen run for the classes shown: what is localized, with its thresholds, then what the network gave.
function panelsOf({ video, state, data, rule, settings, classes }) {
  const { lines, times } = video.runs[state.run],
    name = (label) => data.classes[label];
  const now = settings ?? (rule && usualSettings(rule));
  const levels = (support) =>
    rule.sweeps.flatMap((sweep, s) => (sweep.support === support ? thresholdsOf(sweep, now.thresholds[s]) : []));
  const localized = (title, support, values) => ({
    title,
    thresholds: levels(support),
    lines: [{ name: title, values, times: snippetTime(rule, values.length) }],
  });
  const panels = classes
    .filter((label) => rule?.classes.includes(label))
    .map((label) => localized(`activation: ${name(label)}`, "activation", rule.activation[rule.classes.indexOf(label)]));
  if (rule?.common) panels.push(localized("for all classes", "common", rule.common));
  for (const title of new Set(lines.map((line) => line.title))) {
    const own = lines
      .filter((line) => line.title === title && (line.class === null || classes.includes(line.class)))
      .map((line) => ({ name: line.class === null ? title : name(line.class), values: line.values, times }));
    if (own.length) panels.push({ title, thresholds: [], lines: own });
  }
  return panels;
}

// The instances and detections in the picture, as rows of a CSV file.
function shownRows(player) {
  const { video, rows, data, from, to, classes } = player;
  const shows = ({ start, end, label }) => end >= from && start <= to && classes.includes(label);
  const truth = video.truth.map((one, g) => [one, "ground truth", "", rows[0].judged.states[g], ""]);
  const found = rows.flatMap(({ name, detections, judged }, r) =>
    player
      .drawnDetections(r)
      .map((p) => [detections[p], name, detections[p].score, judged.detections[p].kind, judged.detections[p].overlap]),
  );
  return [
    ["row", "class", "start", "end", "score", "kind", "tIoU"],
    ...[...truth, ...found]
      .filter(([one]) => shows(one))
      .map(([one, row, ...others]) => [row, data.classes[one.label], one.start, one.end, ...others]),
  ];
}

function legend() {
  return make(
    "ul",
    { class: "legend kinds", "aria-label": "Colours and marks" },
    [...KINDS, MISSED].map((kind) => make("li", {}, make("i", { class: kindClass(kind) }), `${CODES[kind]} ${kind}`)),
  );
}

function keysText() {
  const keys = {
    n: "next error",
    p: "previous error",
    i: "next instance",
    u: "previous instance",
    "+": "zoom in",
    "−": "zoom out",
    0: "whole video",
    "← →": "earlier, later",
    k: "play or pause",
    l: "loop",
    s: "SVG",
    c: "CSV",
  };
  return make(
    "p",
    { class: "keys note" },
    "Keys, where the timeline has the focus: ",
    Object.entries(keys).flatMap(([key, text]) => [make("kbd", {}, key), ` ${text}; `]),
    "Ctrl and the wheel zoom, Shift and the wheel or dragging move; a click sets the film's time.",
  );
}
