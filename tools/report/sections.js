// The sections with numbers: overview, what costs how much, classes, videos, comparison.
//
// `data` are the numbers of the page; `state` = {run, tiou} chooses among them; `open(name)` shows a video.
"use strict";

const runOf = (data, state) => data.runs[state.run];
const diagnosisOf = (data, state) => runOf(data, state).diagnoses[state.tiou];
const toVideo = (name, open) => make("button", { type: "button", class: "link", onclick: () => open(name) }, name);
const largest = (values) => Math.max(1e-12, ...values.map(Math.abs));
const pairs = (object) => Object.entries(object).map(([name, value]) => ({ name, value }));

function overview(data, state) {
  const run = runOf(data, state), tious = run.tiou;
  const averages = [...new Set(run.scores.flatMap(({ averages: known }) => Object.keys(known)))];
  const rows = [...run.scores, ...run.published.rows.map((row) => ({ ...row, name: `${row.name} (published)`, percent: true }))];
  const share = (row, value) => (value === null || value === undefined ? null : row.percent ? value / 100 : value);
  const cell = (name, of) => ({ name, number: true, of, show: (value) => percent(value) });
  const scores = table("mAP in % by tIoU", [{ name: "", of: (row) => row.name },
    ...tious.map((tiou) => cell(tiou, (row) => share(row, row.mAP[tiou]))),
    ...averages.map((name) => cell(`avg ${name}`, (row) => share(row, row.averages?.[name])))], rows, { file: "scores" });
  const facts = make("table", {}, make("caption", {}, "The run"), make("tbody", {}, run.facts.map(([name, value]) =>
    make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value)))));
  const settings = pairs(run.settings).map(({ name, value }) => ({ name, value: typeof value === "object" ? JSON.stringify(value) : String(value) }));
  return [
    ...run.missing.map((sentence) => make("p", { class: "missing" }, sentence)),
    scores,
    make("p", { class: "note" }, run.published.sentence, run.published.source ? ` Source: ${run.published.source}.` : ""),
    ...(run.learning.iteration ? [learning(run.learning, run.tiou)] : []),
    make("div", { class: "table" }, facts),
    settings.length ? make("details", {}, make("summary", {}, `All ${settings.length} settings`), table("Settings", [
      { name: "setting", of: (row) => row.name }, { name: "value", of: (row) => row.value }], settings, { file: "settings" })) : null,
  ];
}

function learning(curves, tious) {
  const x = curves.iteration, lines = (named) => Object.entries(named).map(([name, y]) => ({ name, x, y }));
  const chosen = tious.filter((tiou) => [0.1, 0.3, 0.5, 0.7, 0.75, 0.95].includes(Number(tiou)));
  const maps = Object.fromEntries((chosen.length ? chosen : tious).map((tiou) => [`mAP@${tiou}`, curves.mAP[tiou].map((v) => v && 100 * v)]));
  const losses = Object.values(curves.losses).flat(), log = Math.min(...losses) > 0 && Math.max(...losses) > 30 * Math.min(...losses);
  return make("div", { class: "pair" },
    lineChart("mAP of the evaluations", "iteration", "mAP in %", lines(maps), { file: "learning_mAP" }),
    lineChart(log ? "Losses, logarithmic" : "Losses", "iteration", "loss", lines(curves.losses), { log, file: "learning_losses" }));
}

// ------------------------------------------------------------------------------------------------ what costs how much

function costs(data, state) {
  const found = diagnosisOf(data, state);
  const gains = pairs(found.gains), most = largest(gains.map(({ value }) => value));
  const kinds = table(`Gain in mAP if one kind of error were mended, at tIoU ${state.tiou} (mAP ${percent(found.mAP)} %)`, [
    { name: "kind", of: (row) => row.name, show: (name) => make("span", { class: "kinds" }, make("i", { class: kindClass(name) }), name) },
    { name: "detections", number: true, of: (row) => found.kinds[row.name] ?? null },
    { name: "instances", number: true, of: (row) => found.states[row.name] ?? null },
    { name: "gain in points", number: true, of: (row) => row.value, show: (value) => bar(value, most, percent(value)) },
  ], gains, { file: "gains", sort: null });
  const ladder = table("Oracles: mAP in % if something were perfect", [
    { name: "oracle", of: (row) => row.name },
    { name: "alone", number: true, of: (row) => row.alone, show: (value) => bar(value, 1, percent(value)) },
    { name: "with those above", number: true, of: (row) => row.together, show: (value) => bar(value, 1, percent(value)) },
  ], found.ladder, { file: "oracles" });
  return [make("p", { class: "note" }, "A kind is mended by giving each of its detections the instance that it concerns, or by removing it " +
    "where that instance is found already. Gains do not add up, because errors hide one another."),
  kinds, ladder, make("h3", {}, "Boundary errors"), shifts(found), make("h3", {}, "Sensitivity"), ...sensitivity(found)];
}

function shifts(found) {
  const columns = (rows) => [{ name: "part", of: (row) => row.name }, { name: "detections", number: true, of: (row) => row.detections },
    ...["start", "end"].flatMap((end) => [
      { name: `${end} in s`, number: true, of: (row) => row[`${end}_seconds`], show: (value) => bar(value, largest(rows.flatMap((row) =>
        [row.start_seconds, row.end_seconds])), signed(value), value < 0 ? "var(--early)" : "var(--late)") },
      { name: `${end} in lengths`, number: true, of: (row) => row[`${end}_share`], show: (value) => signed(value) }])];
  return make("div", {}, make("p", { class: "note" }, "Medians over the detections that find one instance, well or badly. " +
    "Negative: too early (blue); positive: too late (orange)."),
  ...["class", "length"].map((by) => table(`Boundary errors by ${by}`, columns(found.shifts[by]), found.shifts[by], { file: `boundaries_by_${by}` })));
}

function sensitivity(found) {
  return Object.entries(found.sensitivity).map(([name, parts]) => (parts.length ? table(`By ${name}`, [
    { name, of: (row) => `${Number(row.low.toPrecision(3))} to ${Number(row.high.toPrecision(3))}` },
    { name: "instances", number: true, of: (row) => row.instances },
    { name: "recall in %", number: true, of: (row) => row.recall, show: (value) => bar(value, 1, percent(value)) },
    { name: "normalized mAP in %", number: true, of: (row) => row.mAP, show: (value) => bar(value, 1, percent(value)) },
  ], parts, { file: `sensitivity_${name.replaceAll(" ", "_")}` }) : make("p", { class: "note" }, `By ${name}: not known.`)));
}

// ------------------------------------------------------------------------------------------------------------ classes

function classes(data, state, open) {
  const found = diagnosisOf(data, state), run = runOf(data, state);
  const detail = make("div", { id: "class-detail", "aria-live": "polite" });
  const show = (number) => detail.replaceChildren(...oneClass(found, number, open));
  const rows = found.classes.map((row, number) => ({ ...row, number, aps: run.ap[number] }));
  const shown = table(`Classes at tIoU ${state.tiou}: a name shows its curve, confusion and videos`, [
    { name: "class", of: (row) => row.name, show: (name, row) => make("button", { type: "button", class: "link", onclick: () => show(row.number) }, name) },
    { name: "AP in %", number: true, of: (row) => row.ap, show: (value) => bar(value, 1, percent(value)) },
    { name: "instances", number: true, of: (row) => row.instances }, { name: "found", number: true, of: (row) => row.hits },
    { name: "detections", number: true, of: (row) => row.detections },
    ...run.tiou.map((tiou) => ({ name: `AP@${tiou}`, number: true, of: (row) => row.aps[tiou], show: (value) => percent(value) })),
  ], rows, { file: "classes" });
  if (rows.length) show(0);
  return [shown, detail, confusion(found)];
}

function oneClass(found, number, open) {
  const row = found.classes[number], kinds = pairs(row.kinds);
  const videos = (name, parts) => table(`${name} videos of ${row.name}`, [
    { name: "video", of: (part) => part.video, show: (video) => toVideo(video, open) },
    { name: "found", number: true, of: (part) => `${part.hits} of ${part.instances}` },
    { name: "errors", number: true, of: (part) => part.wrong }], parts);
  return [make("h3", {}, row.name), make("div", { class: "pair" },
    row.recall.length ? lineChart(`Precision and recall of ${row.name}`, "recall", "precision",
      [{ name: "precision, interpolated", x: row.recall, y: row.precision }], { low: 0, high: 1, file: "precision_recall" })
      : make("p", { class: "note" }, "No instance is found."),
    make("div", {}, table(`Detections of ${row.name} by kind`, [
      { name: "kind", of: (part) => part.name, show: (name) => make("span", { class: "kinds" }, make("i", { class: kindClass(name) }), name) },
      { name: "detections", number: true, of: (part) => part.value, show: (value) => bar(value, row.detections, String(value)) }], kinds),
    videos("Best", row.best), videos("Worst", row.worst)))];
}

function confusion(found) {
  const names = [...found.labels, "background"], most = found.labels.length > 40;
  const rows = found.confusion.flatMap((counts, c) => counts.map((count, other) => ({ name: found.labels[c], other: names[other], count })))
    .filter(({ name, other, count }) => count && name !== other && other !== "background");
  const pairsTable = table("Most confused classes", [{ name: "detected", of: (row) => row.name }, { name: "annotated", of: (row) => row.other },
    { name: "detections", number: true, of: (row) => row.count }], rows, { file: "confused", sort: "detections", most: 10 });
  if (most) return pairsTable;
  const high = largest(found.confusion.flat());
  const matrix = make("table", { class: "matrix" }, make("caption", {}, "Detections by their class (rows) and that of the instance that they concern"),
    make("thead", {}, make("tr", {}, make("td", {}), names.map((name) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, found.confusion.map((counts, c) => make("tr", {}, make("th", { scope: "row" }, found.labels[c]), counts.map((count) => {
      const cell = make("td", { class: "number" }, count ? String(count) : "");
      cell.style.background = `color-mix(in srgb, var(--accent) ${(45 * Math.sqrt(count / high)).toFixed(0)}%, transparent)`;
      return cell;
    })))));
  return make("div", {}, pairsTable, make("details", {}, make("summary", {}, "Confusion matrix"), make("div", { class: "table" }, matrix)));
}

// ------------------------------------------------------------------------------------------------------------- videos

function videos(data, state, open) {
  const found = diagnosisOf(data, state), labels = Object.fromEntries(data.videos.map((video) => [video.name, video.labels]));
  const most = largest(found.videos.map(({ gain }) => gain));
  const rows = found.videos.map((row) => ({ ...row, classes: (labels[row.name] ?? []).map((label) => data.classes[label]).join(", "),
    wrong: Object.entries(row.kinds).reduce((sum, [kind, count]) => sum + (kind === KINDS[0] ? 0 : count), 0) }));
  const place = make("div");
  const list = (text) => place.replaceChildren(table(`Videos by what mending them would gain at tIoU ${state.tiou}`, [
    { name: "video", of: (row) => row.name, show: (name) => toVideo(name, open) }, { name: "classes", of: (row) => row.classes },
    { name: "gain in points", number: true, of: (row) => row.gain, show: (value) => bar(value, most, percent(value, 3)) },
    { name: "instances", number: true, of: (row) => row.instances }, { name: "found", number: true, of: (row) => row.hits },
    { name: "errors", number: true, of: (row) => row.wrong },
    { name: "missed", number: true, of: (row) => row.states[MISSED] ?? 0 },
  ], rows.filter((row) => `${row.name} ${row.classes}`.toLowerCase().includes(text.toLowerCase())), { file: "videos", sort: "gain in points", most: 20 }));
  list("");
  const filter = make("input", { type: "search", id: "filter", oninput: (event) => list(event.target.value) });
  return [make("p", { class: "controls" }, make("label", {}, "Name or class contains ", filter)), place];
}

// --------------------------------------------------------------------------------------------------------- comparison

function comparison(data, state, open) {
  const { settings, intervals, classes: byClass, videos: byVideo, resamples, confidence } = data.comparison;
  const interval = (row) => (row.low === null ? "not known" : `${signed(100 * row.low)} to ${signed(100 * row.high)}`);
  const change = (value, most, digits = 2) => bar(value, most, signed(100 * value, digits), value < 0 ? "var(--late)" : "var(--hit)");
  const difference = (rows) => ({ name: "difference in points", number: true, of: (row) => row.value, show: (value) =>
    change(value, largest(rows.map((row) => row.value))) });
  const between = { name: `${100 * confidence} % interval`, number: true, of: interval };
  const [first, second] = data.runs.map((run, r) => `${"AB"[r]}: ${run.title}`);
  const rows = byVideo[state.tiou];
  return [make("p", {}, `A is ${data.runs[0].source}. B is ${data.runs[1].source}. Differences are B minus A. Intervals are of ${resamples} paired ` +
    "resamples of the test videos; they say nothing about other seeds."),
  table("Difference in mAP by tIoU", [{ name: "tIoU", of: (row) => row.tiou }, difference(intervals), between,
    { name: "resamples with B better", number: true, of: (row) => row.above, show: (value) => `${percent(value, 1)} %` }], intervals, { file: "difference" }),
  settings.length ? table("Settings that differ", [{ name: "setting", of: (row) => row.name }, { name: first, of: (row) => row.first },
    { name: second, of: (row) => row.second }], settings, { file: "settings_that_differ" }) : make("p", {}, "No setting differs, or none is known."),
  table("AP by class, mean over tIoU, in %", [{ name: "class", of: (row) => row.name },
    { name: "A", number: true, of: (row) => row.first, show: (value) => percent(value) },
    { name: "B", number: true, of: (row) => row.second, show: (value) => percent(value) }, difference(byClass), between],
  byClass, { file: "classes_compared", sort: "difference in points" }),
  table(`Videos by change of what their errors cost, at tIoU ${state.tiou}`, [
    { name: "video", of: (row) => row.name, show: (name) => toVideo(name, open) },
    { name: "A costs", number: true, of: (row) => row.costs[0], show: (value) => percent(value, 3) },
    { name: "B costs", number: true, of: (row) => row.costs[1], show: (value) => percent(value, 3) },
    { name: "B less A", number: true, of: (row) => row.change, show: (value) => bar(value, largest(rows.map((row) => row.change)),
      signed(100 * value, 3), value > 0 ? "var(--late)" : "var(--hit)") },
    { name: "found", of: (row) => `${row.hits[0]} → ${row.hits[1]} of ${row.instances}` }], rows, { file: "videos_compared", most: 20 })];
}
