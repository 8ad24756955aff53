// The sections on errors: what costs how much, classes, videos.
"use strict";

function costs(data, state) {
  const found = diagnosisOf(data, state);
  const gains = pairs(found.gains);
  const most = largest(gains.map(({ value }) => value));
  const ofGains = [
    words("kind", (row) => row.name, toKind),
    figures("detections", (row) => found.kinds[row.name] ?? null),
    figures("instances", (row) => found.states[row.name] ?? null),
    figures(
      "gain in points",
      (row) => row.value,
      (value) => bar(value, most, percent(value)),
    ),
  ];
  const ofOracles = [
    words("oracle", (row) => row.name),
    figures("alone", (row) => row.alone, asShare),
    figures("with those above", (row) => row.together, asShare),
  ];
  const caption = `Gain in mAP if one kind of error were mended, at tIoU ${state.tiou} (mAP ${percent(found.mAP)} %)`;
  return [
    note(
      "A kind is mended by giving each of its detections the instance that it concerns, or by removing it where that instance ",
      "is found already. Gains do not add up, because errors hide one another.",
    ),
    table(caption, ofGains, gains, { file: "gains" }),
    table("Oracles: mAP in % if something were perfect", ofOracles, found.ladder, { file: "oracles" }),
    make("h3", {}, "Boundary errors"),
    note(
      "Medians over the detections that find one instance, well or badly. ",
      "Negative: too early (blue); positive: too late (orange).",
    ),
    boundaries("class", found.shifts.class),
    boundaries("length", found.shifts.length),
    make("h3", {}, "Sensitivity"),
    ...Object.entries(found.sensitivity).map(([name, parts]) => sensitivity(name, parts)),
  ];
}

function boundaries(by, rows) {
  const most = largest(rows.flatMap((row) => [row.start_seconds, row.end_seconds]));
  const shift = (value) => bar(value, most, signed(value), value < 0 ? "var(--early)" : "var(--late)");
  const columns = ["start", "end"].flatMap((end) => [
    figures(`${end} in s`, (row) => row[`${end}_seconds`], shift),
    figures(
      `${end} in lengths`,
      (row) => row[`${end}_share`],
      (value) => signed(value),
    ),
  ]);
  const first = [words(by, (row) => row.name), figures("detections", (row) => row.detections)];
  return table(`Boundary errors by ${by}`, [...first, ...columns], rows, { file: `boundaries_by_${by}` });
}

function sensitivity(name, parts) {
  if (!parts.length) return note(`By ${name}: not known.`);
  const short = (value) => Number(value.toPrecision(3));
  const columns = [
    words(name, ({ low, high }) => `${short(low)} to ${short(high)}`),
    figures("instances", (row) => row.instances),
    figures("recall in %", (row) => row.recall, asShare),
    figures("normalized mAP in %", (row) => row.mAP, asShare),
  ];
  return table(`By ${name}`, columns, parts, { file: `sensitivity_${name.replaceAll(" ", "_")}` });
}

// ------------------------------------------------------------------------------------------------------------ classes

function classes(data, state, open) {
  const found = diagnosisOf(data, state);
  const run = runOf(data, state);
  const detail = make("div", { id: "class-detail", "aria-live": "polite" });
  const show = (place) => detail.replaceChildren(...oneClass(found.classes[place], open));
  const choose = (name, row) => make("button", { type: "button", class: "link", onclick: () => show(row.place) }, name);
  const rows = found.classes.map((row, place) => ({ ...row, place, aps: run.ap[place] }));
  const columns = [
    words("class", (row) => row.name, choose),
    figures("AP in %", (row) => row.ap, asShare),
    figures("instances", (row) => row.instances),
    figures("found", (row) => row.hits),
    figures("detections", (row) => row.detections),
    ...run.tiou.map((tiou) =>
      figures(
        `AP@${tiou}`,
        (row) => row.aps[tiou],
        (value) => percent(value),
      ),
    ),
  ];
  const caption = `Classes at tIoU ${state.tiou}: a name shows its curve, kinds and videos`;
  if (rows.length) show(0);
  return [table(caption, columns, rows, { file: "classes" }), detail, confusion(found)];
}

function oneClass(row, open) {
  const ofVideos = [
    words(
      "video",
      (part) => part.video,
      (video) => toVideo(video, open),
    ),
    words("found", (part) => `${part.hits} of ${part.instances}`),
    figures("errors", (part) => part.wrong),
  ];
  const ofKinds = [
    words("kind", (part) => part.name, toKind),
    figures(
      "detections",
      (part) => part.value,
      (value) => bar(value, row.detections, String(value)),
    ),
  ];
  const line = { name: "precision, interpolated", x: row.recall, y: row.precision };
  const range = { low: 0, high: 1, file: "precision_recall" };
  const curve = row.recall.length
    ? lineChart(`Precision and recall of ${row.name}`, "recall", "precision", [line], range)
    : note("No instance is found.");
  const tables = [
    table(`Detections of ${row.name} by kind`, ofKinds, pairs(row.kinds)),
    table(`Best videos of ${row.name}`, ofVideos, row.best),
    table(`Worst videos of ${row.name}`, ofVideos, row.worst),
  ];
  return [make("h3", {}, row.name), make("div", { class: "pair" }, curve, make("div", {}, tables))];
}

const MOST_CLASSES = 40; // of a confusion matrix that is shown as a whole

function confusion(found) {
  const names = [...found.labels, "background"];
  const rows = found.confusion.flatMap((counts, c) =>
    counts.map((count, o) => ({ name: found.labels[c], other: names[o], count })),
  );
  const confused = rows.filter(({ name, other, count }) => count && name !== other && other !== "background");
  const columns = [
    words("detected", (row) => row.name),
    words("annotated", (row) => row.other),
    figures("detections", (row) => row.count),
  ];
  const list = table("Most confused classes", columns, confused, { file: "confused", sort: "detections", most: 10 });
  if (found.labels.length > MOST_CLASSES) return list;
  const high = largest(found.confusion.flat());
  const cell = (count) => {
    const shade = (45 * Math.sqrt(count / high)).toFixed(0);
    const style = `background: color-mix(in srgb, var(--accent) ${shade}%, transparent)`;
    return make("td", { class: "number", style }, count ? String(count) : "");
  };
  const head = make(
    "tr",
    {},
    make("td"),
    names.map((name) => make("th", { scope: "col" }, name)),
  );
  const body = found.confusion.map((counts, c) =>
    make("tr", {}, make("th", { scope: "row" }, found.labels[c]), counts.map(cell)),
  );
  const caption = make("caption", {}, "Detections by their class (rows) and that of the instance that they concern");
  const matrix = make("table", {}, caption, make("thead", {}, head), make("tbody", {}, body));
  return make("div", {}, list, details("Confusion matrix", make("div", { class: "table" }, matrix)));
}

// ------------------------------------------------------------------------------------------------------------- videos

function videos(data, state, open) {
  const found = diagnosisOf(data, state);
  const labels = Object.fromEntries(data.videos.map((video) => [video.name, video.labels]));
  const most = largest(found.videos.map(({ gain }) => gain));
  const wrong = (kinds) => pairs(kinds).reduce((sum, { name, value }) => sum + (name === KINDS[0] ? 0 : value), 0);
  const rows = found.videos.map((row) => ({
    ...row,
    classes: (labels[row.name] ?? []).map((label) => data.classes[label]).join(", "),
  }));
  const columns = [
    words(
      "video",
      (row) => row.name,
      (name) => toVideo(name, open),
    ),
    words("classes", (row) => row.classes),
    figures(
      "gain in points",
      (row) => row.gain,
      (value) => bar(value, most, percent(value, 3)),
    ),
    figures("instances", (row) => row.instances),
    figures("found", (row) => row.hits),
    figures("errors", (row) => wrong(row.kinds)),
    figures("missed", (row) => row.states[MISSED] ?? 0),
  ];
  const place = make("div");
  const caption = `Videos by what mending them would gain at tIoU ${state.tiou}`;
  const list = (text) => {
    const chosen = rows.filter((row) => `${row.name} ${row.classes}`.toLowerCase().includes(text.toLowerCase()));
    place.replaceChildren(table(caption, columns, chosen, { file: "videos", sort: "gain in points", most: 20 }));
  };
  list("");
  const filter = make("input", { type: "search", id: "filter", oninput: (event) => list(event.target.value) });
  return [make("p", { class: "controls" }, make("label", {}, "Name or class contains ", filter)), place];
}
