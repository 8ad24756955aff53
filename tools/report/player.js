// The timeline section: picture, film, keys, sliders, tables of what is shown.
"use strict";

const CLASSES_SHOWN = 4;

class Player {
  // `changed()` is called when what the address says of the view changes.
  constructor(place, data, state, changed) {
    Object.assign(this, { place, data, state, changed, video: null, settings: null, selected: null, cursor: 0, from: 0, to: 1, most: 15, looped: false });
    this.build();
    new ResizeObserver(() => this.video && this.paint()).observe(this.picture);
    place.closest("section").addEventListener("keydown", (event) => this.key(event));
  }

  // ------------------------------------------------------------------------------------------------------- the section

  build() {
    const button = (text, key, act) => make("button", { type: "button", title: `key ${key}`, onclick: act }, text);
    this.name = make("h3", { id: "video-name" });
    this.choice = make("input", { list: "video-names", id: "video-choice", size: 30 });
    this.choice.addEventListener("change", () => this.data.videos.some(({ name }) => name === this.choice.value) && this.state.open(this.choice.value));
    this.picture = make("div", { id: "picture", tabindex: 0, "aria-label": "Timeline; keys are listed below", role: "group" });
    this.picture.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.picture.addEventListener("pointerdown", (event) => this.drag(event));
    this.said = make("p", { id: "said", "aria-live": "polite" });
    this.summary = make("p", { id: "summary", "aria-live": "polite" });
    this.film = make("video", { id: "film", controls: true, hidden: true });
    const frame = () => { this.follow(); if (!this.film.paused) requestAnimationFrame(frame); };
    this.film.addEventListener("play", () => requestAnimationFrame(frame));
    for (const name of ["timeupdate", "seeked"]) this.film.addEventListener(name, () => this.follow());
    this.film.addEventListener("error", () => (this.said.textContent = "This browser cannot play the film."));
    const file = make("input", { type: "file", id: "film-file", accept: "video/*" });
    file.addEventListener("change", () => file.files[0] && this.showFilm(URL.createObjectURL(file.files[0])));
    this.loops = make("button", { type: "button", id: "loop", "aria-pressed": "false", title: "key l", onclick: () => this.loop() }, "Loop");
    const most = make("input", { type: "number", id: "most", min: 1, max: 999, value: this.most });
    most.addEventListener("change", () => { this.most = Math.max(1, Number(most.value) || 15); this.paint(); });
    this.chooser = make("fieldset", { id: "class-choice" });
    this.sliders = make("fieldset", { id: "sliders" });
    this.tables = make("div", { id: "shown" });
    this.place.append(this.name,
      make("p", { class: "controls" }, make("label", {}, "Video ", this.choice),
        make("datalist", { id: "video-names" }, this.data.videos.map(({ name }) => make("option", { value: name }))),
        make("label", {}, "Detections of each class ", most), make("label", {}, "Film ", file)),
      this.film,
      make("p", { class: "controls" }, button("Next error", "n", () => this.nextError(1)), button("Previous error", "p", () => this.nextError(-1)),
        button("Next instance", "i", () => this.nextInstance(1)), button("Previous instance", "u", () => this.nextInstance(-1)),
        button("Zoom in", "+", () => this.zoom(0.5)), button("Zoom out", "−", () => this.zoom(2)), button("Whole video", "0", () => this.whole()),
        button("Earlier", "←", () => this.pan(-0.25)), button("Later", "→", () => this.pan(0.25)), this.loops),
      this.said, this.picture, legend(), this.summary,
      make("p", { class: "controls" }, button("SVG of the picture", "s", () => this.saveSvg()), button("CSV of what is shown", "c", () => this.saveCsv()),
        make("button", { type: "button", id: "link", onclick: () => this.copyLink() }, "Copy link to this view")),
      this.chooser, this.sliders, this.tables, keysText());
  }

  // --------------------------------------------------------------------------------------------------------- one video

  show(video, view = {}) {
    const other = this.video?.name !== video.name;
    this.video = video;
    if (other) Object.assign(this, { selected: null, settings: null, cursor: 0, from: 0, to: video.seconds || 1, classes: null });
    if (view.from !== undefined && view.to > view.from) Object.assign(this, { from: view.from, to: view.to });
    if (view.settings) this.settings = view.settings;
    this.name.textContent = `${video.name}, ${seconds(video.seconds)}${video.assumed ? " or longer (its length is not known)" : ""}`;
    this.choice.value = video.name;
    this.classes ??= this.usualClasses();
    if (other && video.film) this.showFilm(video.film);
    else if (other && this.film.getAttribute("src") && this.filmOf !== video.name) this.hideFilm();
    this.buildChooser();
    this.buildSliders();
    this.update();
  }

  get rule() {
    return this.video.runs[this.state.run].rule;
  }

  usualClasses() {
    const annotated = new Set(this.video.truth.map(({ label }) => label)), best = new Map();
    for (const { label, score } of this.video.runs.flatMap(({ detections }) => detections)) {
      best.set(label, Math.max(score, best.get(label) ?? -Infinity));
    }
    const others = [...best.keys()].filter((label) => !annotated.has(label)).sort((a, b) => best.get(b) - best.get(a));
    return [...annotated, ...others.slice(0, Math.max(0, CLASSES_SHOWN - annotated.size))];
  }

  // The rows of detections: of each run, and localized anew if the sliders were moved.
  update() {
    const { video, state } = this, tiou = Number(state.tiou);
    const rows = video.runs.map(({ detections }, r) => ({ name: video.runs.length > 1 ? `run ${"AB"[r]}` : "detections", detections }));
    if (this.settings && this.rule) rows.unshift({ name: "with the sliders", detections: relocalize(this.rule, this.settings) });
    this.rows = rows.map((row) => ({ ...row, judged: judge(row.detections, video.truth, tiou) }));
    const usual = this.rows[this.settings ? 1 + state.run : state.run];
    const tell = ({ detections, judged }) => `${detections.length} detections, ` +
      `${judged.states.filter((kind) => kind === KINDS[0]).length} of ${video.truth.length} instances found at tIoU ${state.tiou}`;
    this.summary.textContent = this.settings ? `With the sliders: ${tell(this.rows[0])}. The run: ${tell(usual)}.` : `${tell(this.rows[state.run] ?? usual)}.`;
    this.paint();
    this.fillTables();
    this.changed();
  }

  paint() {
    const panels = this.panels();
    const runs = this.rows, view = { video: this.video, from: this.from, to: this.to, cursor: this.cursor, classes: this.classes,
      labels: this.data.classes, most: this.most, selected: this.selected, runs, panels, tiou: this.state.tiou };
    this.view = view;
    this.drawn = drawTimeline(view, Math.max(320, this.picture.clientWidth), (selected) => this.select(selected));
    this.picture.replaceChildren(this.drawn);
  }

  panels() {
    const { lines, times } = this.video.runs[this.state.run], rule = this.rule, panels = [], name = (label) => this.data.classes[label];
    const settings = this.settings ?? (rule && usualSettings(rule));
    const levels = (support) => rule.sweeps.flatMap((sweep, s) => (sweep.support === support ? thresholdsOf(sweep, settings.thresholds[s]) : []));
    for (const label of rule ? this.classes : []) {
      const k = rule.classes.indexOf(label);
      if (k < 0) continue;
      const values = rule.activation[k];
      panels.push({ title: `activation: ${name(label)}`, thresholds: levels("activation"),
        lines: [{ name: name(label), values, times: snippetTime(rule, values.length) }] });
    }
    if (rule?.common) {
      panels.push({ title: "thresholded for all", thresholds: levels("common"),
        lines: [{ name: "all classes", values: rule.common, times: snippetTime(rule, rule.common.length) }] });
    }
    for (const title of new Set(lines.map((line) => line.title))) {
      const own = lines.filter((line) => line.title === title && (line.class === null || this.classes.includes(line.class)));
      if (own.length) panels.push({ title, thresholds: [], lines: own.map((line) => ({ name: line.class === null ? title : name(line.class), values: line.values, times })) });
    }
    return panels;
  }

  buildChooser() {
    const rule = this.rule, known = new Set([...this.video.truth, ...this.video.runs.flatMap(({ detections }) => detections)].map(({ label }) => label));
    for (const label of rule?.classes ?? []) known.add(label);
    this.chooser.replaceChildren(make("legend", {}, "Classes shown"), make("div", { class: "controls" }, [...known].sort((a, b) => a - b).map((label) => {
      const box = make("input", { type: "checkbox", checked: this.classes.includes(label) });
      box.addEventListener("change", () => {
        this.classes = box.checked ? [...this.classes, label] : this.classes.filter((other) => other !== label);
        this.paint();
        this.fillTables();
      });
      return make("label", {}, box, ` ${this.data.classes[label]}`);
    })));
  }

  // ---------------------------------------------------------------------------------------------------------- sliders

  buildSliders() {
    const rule = this.rule;
    this.sliders.replaceChildren(make("legend", {}, "Localize this video anew"));
    if (!rule) return this.sliders.append(make("p", { class: "note" }, "The activations of this video are not in the page."));
    const usual = usualSettings(rule), now = this.settings ?? usual, box = make("div", { class: "sliders" });
    const slider = (name, low, high, value, put) => {
      const shown = make("output", {}, String(Number(value.toPrecision(4))));
      const input = make("input", { type: "range", min: low, max: high, step: (high - low) / 1000, value });
      input.addEventListener("input", () => {
        this.settings ??= structuredClone(usual);
        put(this.settings, Number(input.value));
        shown.textContent = String(Number(Number(input.value).toPrecision(4)));
        this.update();
      });
      box.append(make("label", {}, make("span", {}, name), shown, input));
    };
    slider("class threshold", 0, Math.max(1, rule.class_th), now.class_th, (to, value) => (to.class_th = value));
    rule.sweeps.forEach((sweep, s) => {
      const of = sweep.support === "common" ? "what all classes share" : "activation", [low, high] = usual.thresholds[s];
      slider(`lowest threshold of ${of}`, Math.min(0, low), Math.max(1, high), now.thresholds[s][0], (to, value) => (to.thresholds[s][0] = value));
      slider(`highest threshold of ${of}`, Math.min(0, low), Math.max(1, high), now.thresholds[s][1], (to, value) => (to.thresholds[s][1] = value));
    });
    slider("outer width", 0, Math.max(2, 2 * rule.outer_width), now.outer_width, (to, value) => (to.outer_width = value));
    slider("class weight", 0, Math.max(2, 2 * rule.class_weight), now.class_weight, (to, value) => (to.class_weight = value));
    slider("NMS threshold", 0.05, 1, now.nms_threshold, (to, value) => (to.nms_threshold = value));
    this.sliders.append(box, make("p", { class: "controls" }, make("button", { type: "button", id: "reset", onclick: () => {
      this.settings = null;
      this.selected = null;
      this.buildSliders();
      this.update();
    } }, "The run's settings")), make("p", { class: "note" }, `The rules are those of localize.py. Of each video the page has the ${rule.classes.length} or more best ` +
      "classes; a lower class threshold adds none beyond them. Thresholds between the lowest and the highest are spread evenly."));
  }

  // ----------------------------------------------------------------------------------------------------- moving about

  move(from, to) {
    const length = Math.min(this.video.seconds, Math.max(0.2, to - from));
    this.from = Math.max(0, Math.min(from, this.video.seconds - length));
    this.to = this.from + length;
    this.paint();
    this.changed();
  }

  zoom(factor, around = null) {
    const middle = around ?? (this.cursor >= this.from && this.cursor <= this.to ? this.cursor : (this.from + this.to) / 2);
    this.move(middle - (middle - this.from) * factor, middle + (this.to - middle) * factor);
  }

  pan(share) {
    const shift = share * (this.to - this.from);
    this.move(this.from + shift, this.to + shift);
  }

  whole() {
    this.move(0, this.video.seconds);
  }

  wheel(event) {
    if (!event.ctrlKey && !event.shiftKey) return;
    event.preventDefault();
    if (event.ctrlKey) this.zoom(event.deltaY > 0 ? 1.25 : 0.8, this.drawn.timeAt(event.offsetX));
    else this.pan((event.deltaY || event.deltaX) > 0 ? 0.1 : -0.1);
  }

  // A click moves the cursor and the film; a drag pans.
  drag(event) {
    const box = this.picture.getBoundingClientRect(), start = event.clientX, { from, to } = this;
    const time = this.drawn.timeAt(start - box.left), perPixel = this.drawn.timeAt(1) - this.drawn.timeAt(0);
    let moved = false;
    const move = (next) => {
      moved ||= Math.abs(next.clientX - start) > 4;
      if (moved) this.move(from - (next.clientX - start) * perPixel, to - (next.clientX - start) * perPixel);
    };
    const end = () => {
      window.removeEventListener("pointermove", move);
      if (!moved && time >= this.from) this.seek(time);
    };
    window.addEventListener("pointermove", move);
    window.addEventListener("pointerup", end, { once: true });
  }

  seek(time) {
    this.cursor = Math.max(0, Math.min(time, this.video.seconds));
    if (!this.film.hidden) this.film.currentTime = this.cursor;
    this.drawn.moveCursor(this.cursor);
  }

  select(selected) {
    this.selected = selected;
    const row = this.rows[selected.run ?? 0];
    const one = selected.type === "instance" ? this.video.truth[selected.index] : row.detections[selected.index];
    const says = selected.type === "instance" ? `instance of ${this.data.classes[one.label]} ${seconds(one.start)} to ${seconds(one.end)}: ` +
      `${row.judged.states[selected.index]}` : sentence(this.view, one, row.judged.detections[selected.index]);
    if (!this.classes.includes(one.label)) this.classes = [...this.classes, one.label];
    const length = Math.max(1, one.end - one.start);
    this.cursor = one.start;
    if (!this.film.hidden) this.film.currentTime = one.start;
    if (one.start < this.from || one.end > this.to || length < (this.to - this.from) / 20) this.move(one.start - 2 * length, one.end + 2 * length);
    else this.paint();
    this.said.textContent = says;
  }

  step(stops, direction) {
    if (!stops.length) return (this.said.textContent = "There is none in this video.");
    const now = stops.findIndex(({ type, index }) => type === this.selected?.type && index === this.selected?.index);
    this.select(stops[now < 0 ? (direction > 0 ? 0 : stops.length - 1) : (now + direction + stops.length) % stops.length]);
  }

  // Errors of the first row in the order of time: wrong detections among those drawn, and missed instances.
  nextError(direction) {
    const { detections, judged } = this.rows[0];
    const wrong = this.drawnDetections(0).filter((p) => judged.detections[p].kind !== KINDS[0])
      .map((index) => ({ type: "detection", index, run: 0, start: detections[index].start }));
    const missed = this.video.truth.flatMap(({ start }, index) => (judged.states[index] === MISSED ? [{ type: "instance", index, start }] : []));
    this.step([...wrong, ...missed].sort((a, b) => a.start - b.start), direction);
  }

  nextInstance(direction) {
    const stops = this.video.truth.map(({ start }, index) => ({ type: "instance", index, start }));
    this.step(stops.sort((a, b) => a.start - b.start), direction);
  }

  // Numbers of the detections of a row that the picture has: the best of each class shown.
  drawnDetections(row) {
    const { detections } = this.rows[row];
    return this.classes.flatMap((label) => detections.map((_, p) => p).filter((p) => detections[p].label === label)
      .sort((a, b) => detections[b].score - detections[a].score).slice(0, this.most));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea, video")) return;
    const acts = { n: () => this.nextError(1), p: () => this.nextError(-1), i: () => this.nextInstance(1), u: () => this.nextInstance(-1),
      "+": () => this.zoom(0.5), "=": () => this.zoom(0.5), "-": () => this.zoom(2), 0: () => this.whole(), ArrowLeft: () => this.pan(-0.25),
      ArrowRight: () => this.pan(0.25), l: () => this.loop(), s: () => this.saveSvg(), c: () => this.saveCsv(), k: () => this.playOrPause() };
    if (this.video && Object.hasOwn(acts, event.key)) {
      event.preventDefault();
      acts[event.key]();
    }
  }

  // -------------------------------------------------------------------------------------------------------------- film

  showFilm(address) {
    this.filmOf = this.video.name;
    this.film.src = address;
    this.film.hidden = false;
    this.film.currentTime = this.cursor;
  }

  hideFilm() {
    this.film.pause();
    this.film.removeAttribute("src");
    this.film.hidden = true;
  }

  playOrPause() {
    if (this.film.hidden) this.said.textContent = "Choose a film first.";
    else if (this.film.paused) this.film.play();
    else this.film.pause();
  }

  // Repeat what is chosen, or what the picture shows.
  loop() {
    this.looped = !this.looped;
    this.loops.setAttribute("aria-pressed", String(this.looped));
  }

  follow() {
    this.cursor = this.film.currentTime;
    if (this.looped) {
      const { selected } = this;
      const one = !selected ? { start: this.from, end: this.to } : selected.type === "instance" ? this.video.truth[selected.index]
        : this.rows[selected.run].detections[selected.index];
      if (this.cursor > one.end || this.cursor < one.start - 0.5) this.film.currentTime = this.cursor = one.start;
    }
    this.drawn?.moveCursor(this.cursor);
  }

  // ------------------------------------------------------------------------------------------------------------- files

  get fileName() {
    return `${this.video.name.replaceAll(/[^\w.-]/g, "_")}_${this.from.toFixed(1)}_${this.to.toFixed(1)}`;
  }

  saveSvg() {
    download(`${this.fileName}.svg`, "image/svg+xml", asFile(this.drawn));
  }

  saveCsv() {
    const shows = ({ start, end }) => end >= this.from && start <= this.to, rows = [["row", "class", "start", "end", "score", "kind", "tIoU"]];
    const { truth } = this.video, name = (label) => this.data.classes[label];
    truth.forEach((one, g) => shows(one) && this.classes.includes(one.label) &&
      rows.push(["ground truth", name(one.label), one.start, one.end, "", this.rows[0].judged.states[g], ""]));
    this.rows.forEach((row, r) => this.drawnDetections(r).forEach((p) => {
      const one = row.detections[p], { kind, overlap } = row.judged.detections[p];
      if (shows(one)) rows.push([row.name, name(one.label), one.start, one.end, one.score, kind, overlap]);
    }));
    download(`${this.fileName}.csv`, "text/csv", asCsv(rows));
  }

  copyLink() {
    this.changed();
    const copied = navigator.clipboard?.writeText(location.href) ?? Promise.reject(new Error("no clipboard"));
    copied.then(() => (this.said.textContent = "The link is copied."), () => (this.said.textContent = "The link is in the address bar."));
  }

  fillTables() {
    const name = (label) => this.data.classes[label], number = (text, of, digits) => ({ name: text, number: true, of, show: (value) => value?.toFixed(digits) });
    const found = this.rows.flatMap((row, r) => this.drawnDetections(r).map((p) => ({ ...row.detections[p], ...row.judged.detections[p], row: row.name, r, p })));
    const choose = (text, selected) => make("button", { type: "button", class: "link", onclick: () => this.select(selected) }, text);
    const offset = (end) => ({ detected }) => detected[end];
    const rows = found.map((one) => {
      const truth = this.video.truth[one.instance];
      return { ...one, detected: truth ? { start: one.start - truth.start, end: one.end - truth.end } : { start: null, end: null } };
    });
    this.tables.replaceChildren(
      table("Detections shown", [{ name: "class", of: (one) => name(one.label), show: (text, one) => choose(text, { type: "detection", index: one.p, run: one.r }) },
        { name: "row", of: (one) => one.row }, number("start", (one) => one.start, 2), number("end", (one) => one.end, 2),
        number("score", (one) => one.score, 4), { name: "kind", of: (one) => one.kind }, number("tIoU", (one) => one.overlap, 3),
        number("start error", offset("start"), 2), number("end error", offset("end"), 2)], rows, { sort: "score", most: 15 }),
      table("Instances", [{ name: "class", of: (one) => name(one.label), show: (text, one) => choose(text, { type: "instance", index: one.g }) },
        number("start", (one) => one.start, 2), number("end", (one) => one.end, 2), { name: "state", of: (one) => one.state }],
      this.video.truth.map((one, g) => ({ ...one, g, state: this.rows[0].judged.states[g] })), { most: 15 }));
  }
}

function legend() {
  return make("ul", { class: "legend kinds", "aria-label": "Colours and marks" }, [...KINDS, MISSED].map((kind) =>
    make("li", {}, make("i", { class: kindClass(kind) }), `${CODES[kind]} ${kind}`)));
}

function keysText() {
  const keys = { n: "next error", p: "previous error", i: "next instance", u: "previous instance", "+": "zoom in", "−": "zoom out", 0: "whole video",
    "← →": "earlier, later", k: "play or pause", l: "loop", s: "SVG", c: "CSV" };
  return make("p", { class: "keys note" }, "Keys, where the timeline has the focus: ", Object.entries(keys).flatMap(([key, text]) => [make("kbd", {}, key), ` ${text}; `]),
    "Ctrl and the wheel zoom, Shift and the wheel or dragging move; a click sets the film's time.");
}
