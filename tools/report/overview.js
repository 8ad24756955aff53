// The sections on runs as wholes: overview and comparison, and what all sections with numbers use.
//
// `data` are the numbers of the page; `state` = {run, tiou} chooses among them; `open(name)` shows a video.
"use strict";

const runOf = (data, state) => data.runs[state.run];
const diagnosisOf = (data, state) => runOf(data, state).diagnoses[state.tiou];
const toVideo = (name, open) => make("button", { type: "button", class: "link", onclick: () => open(name) }, name);
const toKind = (name) => make("span", { class: "kinds" }, make("i", { class: kindClass(name) }), name);
const largest = (values) => Math.max(1e-12, ...values.map(Math.abs));
const pairs = (object) => Object.entries(object).map(([name, value]) => ({ name, value }));
const note = (...text) => make("p", { class: "note" }, ...text);
const asShare = (value) => bar(value, 1, percent(value));

function overview(data, state) {
  const run = runOf(data, state);
  const facts = run.facts.map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value)));
  const asText = (value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : String(value));
  const settings = pairs(run.settings).map(({ name, value }) => ({ name, value: asText(value) }));
  const columns = [words("setting", (row) => row.name), words("value", (row) => row.value)];
  const { sentence, source } = run.published;
  return [
    ...run.missing.map((text) => make("p", { class: "missing" }, text)),
    scores(run),
    note(sentence, source && ` Source: ${source}.`),
    run.learning.iteration ? learning(run.learning, run.tiou) : null,
    make("div", { class: "table" }, make("table", {}, make("caption", {}, "The run"), make("tbody", {}, facts))),
    settings.length
      ? details(`All ${settings.length} settings`, table("Settings", columns, settings, { file: "settings" }))
      : null,
  ];
}

const details = (summary, ...content) => make("details", {}, make("summary", {}, summary), ...content);

// mAP by tIoU of the run and, below, of papers, which are in percent.
function scores(run) {
  const papers = run.published.rows.map((row) => ({ ...row, name: `${row.name} (published)`, percent: true }));
  const share = (row, value) => (value === null || value === undefined ? null : row.percent ? value / 100 : value);
  const averages = [...new Set(run.scores.flatMap((row) => Object.keys(row.averages)))];
  const columns = [
    words("model", (row) => row.name),
    ...run.tiou.map((tiou) =>
      figures(
        tiou,
        (row) => share(row, row.mAP[tiou]),
        (value) => percent(value),
      ),
    ),
    ...averages.map((name) =>
      figures(
        `avg ${name}`,
        (row) => share(row, row.averages?.[name]),
        (value) => percent(value),
      ),
    ),
  ];
  return table("mAP in % by tIoU", columns, [...run.scores, ...papers], { file: "scores" });
}

function learning(curves, tious) {
  const lines = (named) => Object.entries(named).map(([name, y]) => ({ name, x: curves.iteration, y }));
  const usual = tious.filter((tiou) => [0.1, 0.3, 0.5, 0.7, 0.75, 0.95].includes(Number(tiou)));
  const shown = usual.length ? usual : tious;
  const maps = Object.fromEntries(shown.map((tiou) => [`mAP@${tiou}`, curves.mAP[tiou].map((value) => value && 100 * value)]));
  const losses = Object.values(curves.losses).flat();
  const log = Math.min(...losses) > 0 && Math.max(...losses) > 30 * Math.min(...losses);
  const title = log ? "Losses, logarithmic" : "Losses";
  return make(
    "div",
    { class: "pair" },
    lineChart("mAP of the evaluations", "iteration", "mAP in %", lines(maps), { file: "learning_mAP" }),
    lineChart(title, "iteration", "loss", lines(curves.losses), { log, file: "learning_losses" }),
  );
}

// --------------------------------------------------------------------------------------------------------- comparison

function comparison(data, state, open) {
  const { settings, intervals, resamples, confidence } = data.comparison;
  const [first, second] = data.runs.map((run, r) => `${"AB"[r]}: ${run.title}`);
  const better = (value) => (value === null ? "–" : `${percent(value, 1)} %`);
  const ofSettings = [
    words("setting", (row) => row.name),
    words(first, (row) => row.first),
    words(second, (row) => row.second),
  ];
  return [
    make("p", {}, `A is ${data.runs[0].source}. B is ${data.runs[1].source}. Differences are B minus A.`),
    note(`Intervals are of ${resamples} paired resamples of the test videos. They say nothing about other seeds.`),
    table(
      "Difference in mAP by tIoU",
      [
        words("tIoU", (row) => row.tiou),
        ...differences(intervals, confidence),
        figures("resamples with B better", (row) => row.above, better),
      ],
      intervals,
      { file: "difference" },
    ),
    settings.length
      ? table("Settings that differ", ofSettings, settings, { file: "settings_that_differ" })
      : make("p", {}, "No setting differs, or none is known."),
    classesCompared(data.comparison),
    videosCompared(data.comparison.videos[state.tiou], state, open),
  ];
}

function differences(rows, confidence) {
  const most = largest(rows.map((row) => row.value));
  const change = (value) => bar(value, most, signed(100 * value), value < 0 ? "var(--late)" : "var(--hit)");
  const interval = (row) => (row.low === null ? "not known" : `${signed(100 * row.low)} to ${signed(100 * row.high)}`);
  return [figures("difference in points", (row) => row.value, change), figures(`${100 * confidence} % interval`, interval)];
}

function classesCompared({ classes: rows, confidence }) {
  const columns = [
    words("class", (row) => row.name),
    figures(
      "A",
      (row) => row.first,
      (value) => percent(value),
    ),
    figures(
      "B",
      (row) => row.second,
      (value) => percent(value),
    ),
    ...differences(rows, confidence),
  ];
  return table("AP by class, mean over tIoU, in %", columns, rows, { file: "classes_compared", sort: "difference in points" });
}

function videosCompared(rows, state, open) {
  const most = largest(rows.map((row) => row.change));
  const change = (value) => bar(value, most, signed(100 * value, 3), value > 0 ? "var(--late)" : "var(--hit)");
  const columns = [
    words(
      "video",
      (row) => row.name,
      (name) => toVideo(name, open),
    ),
    figures(
      "A costs",
      (row) => row.costs[0],
      (value) => percent(value, 3),
    ),
    figures(
      "B costs",
      (row) => row.costs[1],
      (value) => percent(value, 3),
    ),
    figures("B less A", (row) => row.change, change),
    words("found", (row) => `${row.hits[0]} → ${row.hits[1]} of ${row.instances}`),
  ];
  const caption = `Videos by change of what their errors cost, at tIoU ${state.tiou}`;
  return table(caption, columns, rows, { file: "videos_compared", most: 20 });
}
