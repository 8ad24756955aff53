// The timeline section: picture, film, keys, sliders, tables of what is shown.
"use strict";

const button = (text, key, act) => make("button", { type: "button", title: `key ${key}`, onclick: act }, text);

class Player {
  // `changed()` is called when what the address says of the view changes.
  constructor(place, data, state, changed) {
    Object.assign(this, {
      place,
      data,
      state,
      changed,
      video: null,
      settings: null,
      selected: null,
      cursor: 0,
      from: 0,
      to: 1,
      most: 15,
    });
    this.build();
    new ResizeObserver(() => this.video && this.paint()).observe(this.picture);
    place.closest("section").addEventListener("keydown", (event) => this.key(event));
  }

  // ------------------------------------------------------------------------------------------------------- the section

  build() {
    this.name = make("h3", { id: "video-name" });
    this.choice = make("input", { list: "video-names", id: "video-choice", size: 30 });
    this.choice.addEventListener(
      "change",
      () => this.data.videos.some(({ name }) => name === this.choice.value) && this.state.open(this.choice.value),
    );
    this.picture = make("div", { id: "picture", tabindex: 0, "aria-label": "Timeline; keys are listed below", role: "group" });
    this.picture.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.picture.addEventListener("pointerdown", (event) => this.drag(event));
    this.said = make("p", { id: "said", "aria-live": "polite" });
    this.summary = make("p", { id: "summary", "aria-live": "polite" });
    this.film = new Film(
      (time) => this.follow(time),
      (text) => (this.said.textContent = text),
      () => this.looped(),
    );
    const most = make("input", { type: "number", id: "most", min: 1, max: 999, value: this.most });
    most.addEventListener("change", () => {
      this.most = Math.max(1, Number(most.value) || 15);
      this.paint();
    });
    this.boxes = make("fieldset", { id: "class-choice" });
    this.sliders = make("fieldset", { id: "sliders" });
    this.tables = make("div", { id: "shown" });
    const names = this.data.videos.map(({ name }) => make("option", { value: name }));
    const choices = [
      make("label", {}, "Video ", this.choice),
      make("datalist", { id: "video-names" }, names),
      make("label", {}, "Detections of each class ", most),
      make("label", {}, "Film ", this.film.file),
    ];
    this.place.append(this.name, make("p", { class: "controls" }, choices), this.film.element, this.moves());
    this.place.append(this.said, this.picture, legend(), this.summary, this.saves());
    this.place.append(this.boxes, this.sliders, this.tables, keysText());
  }

  moves() {
    const buttons = [
      button("Next error", "n", () => this.nextError(1)),
      button("Previous error", "p", () => this.nextError(-1)),
      button("Next instance", "i", () => this.nextInstance(1)),
      button("Previous instance", "u", () => this.nextInstance(-1)),
      button("Zoom in", "+", () => this.zoom(0.5)),
      button("Zoom out", "−", () => this.zoom(2)),
      button("Whole video", "0", () => this.whole()),
      button("Earlier", "←", () => this.pan(-0.25)),
      button("Later", "→", () => this.pan(0.25)),
    ];
    return make("p", { class: "controls" }, buttons, this.film.loops);
  }

  saves() {
    const link = make("button", { type: "button", id: "link", onclick: () => this.copyLink() }, "Copy link to this view");
    const svg = button("SVG of the picture", "s", () => this.saveSvg());
    return make(
      "p",
      { class: "controls" },
      svg,
      button("CSV of what is shown", "c", () => this.saveCsv()),
      link,
    );
  }

  // --------------------------------------------------------------------------------------------------------- one video

  show(video, view = {}) {
    const other = this.video?.name !== video.name;
    this.video = video;
    if (other)
      Object.assign(this, { selected: null, settings: null, cursor: 0, from: 0, to: video.seconds || 1, classes: null });
    if (view.from !== undefined && view.to > view.from) Object.assign(this, { from: view.from, to: view.to });
    if (view.settings) this.settings = view.settings;
    const longer = video.assumed ? " or longer (its length is not known)" : "";
    this.name.textContent = `${video.name}, ${seconds(video.seconds)}${longer}`;
    this.choice.value = video.name;
    this.classes ??= usualClasses(this.video);
    if (other) this.film.use(video.film);
    this.buildChooser();
    this.buildSliders();
    this.update();
  }

  get rule() {
    return this.video.runs[this.state.run].rule;
  }

  // The rows of detections: of each run, and localized anew if the sliders were moved.
  update() {
    const { video, state } = this,
      tiou = Number(state.tiou);
    const rows = video.runs.map(({ detections }, r) => ({
      name: video.runs.length > 1 ? `run ${"AB"[r]}` : "detections",
      detections,
    }));
    if (this.settings && this.rule)
      rows.unshift({ name: "with the sliders", detections: relocalize(this.rule, this.settings) });
    this.rows = rows.map((row) => ({ ...row, judged: judge(row.detections, video.truth, tiou) }));
    const usual = this.rows[this.settings ? 1 + state.run : state.run];
    const tell = ({ detections, judged }) => {
      const hits = judged.states.filter((kind) => kind === KINDS[0]).length;
      return `${detections.length} detections, ${hits} of ${video.truth.length} instances found at tIoU ${state.tiou}`;
    };
    this.summary.textContent = this.settings
      ? `With the sliders: ${tell(this.rows[0])}. The run: ${tell(usual)}.`
      : `${tell(this.rows[state.run] ?? usual)}.`;
    this.paint();
    this.fillTables();
    this.changed();
  }

  paint() {
    const runs = this.rows,
      panels = panelsOf(this),
      view = {
        video: this.video,
        from: this.from,
        to: this.to,
        cursor: this.cursor,
        classes: this.classes,
        labels: this.data.classes,
        most: this.most,
        selected: this.selected,
        runs,
        panels,
        tiou: this.state.tiou,
      };
    this.view = view;
    this.drawn = drawTimeline(view, Math.max(320, this.picture.clientWidth), (selected) => this.select(selected));
    this.picture.replaceChildren(this.drawn);
  }

  buildChooser() {
    const rule = this.rule,
      known = new Set(
        [...this.video.truth, ...this.video.runs.flatMap(({ detections }) => detections)].map(({ label }) => label),
      );
    for (const label of rule?.classes ?? []) known.add(label);
    this.boxes.replaceChildren(
      make("legend", {}, "Classes shown"),
      make(
        "div",
        { class: "controls" },
        [...known]
          .sort((a, b) => a - b)
          .map((label) => {
            const box = make("input", { type: "checkbox", checked: this.classes.includes(label) });
            box.addEventListener("change", () => {
              this.classes = box.checked ? [...this.classes, label] : this.classes.filter((other) => other !== label);
              this.paint();
              this.fillTables();
            });
            return make("label", {}, box, ` ${this.data.classes[label]}`);
          }),
      ),
    );
  }

  buildSliders() {
    const changed = (settings) => {
      if (!settings !== !this.settings) this.selected = null; // the rows are others
      this.settings = settings;
      if (!settings) this.buildSliders();
      this.update();
    };
    this.sliders.replaceChildren(make("legend", {}, "Localize this video anew"), ...sliders(this.rule, this.settings, changed));
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
    const box = this.picture.getBoundingClientRect(),
      start = event.clientX,
      { from, to } = this;
    const time = this.drawn.timeAt(start - box.left),
      perPixel = this.drawn.timeAt(1) - this.drawn.timeAt(0);
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
    this.film.seek(this.cursor);
    this.drawn.moveCursor(this.cursor);
  }

  select(selected) {
    this.selected = selected;
    const row = this.rows[selected.run ?? 0];
    const one = selected.type === "instance" ? this.video.truth[selected.index] : row.detections[selected.index];
    const says =
      selected.type === "instance"
        ? `instance of ${this.data.classes[one.label]} ${seconds(one.start)} to ${seconds(one.end)}: ` +
          `${row.judged.states[selected.index]}`
        : sentence(this.view, one, row.judged.detections[selected.index]);
    if (!this.classes.includes(one.label)) this.classes = [...this.classes, one.label];
    const length = Math.max(3, one.end - one.start);
    this.cursor = one.start;
    this.film.seek(one.start);
    if (one.start < this.from || one.end > this.to || length < (this.to - this.from) / 20)
      this.move(one.start - 2 * length, one.end + 2 * length);
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
    const wrong = this.drawnDetections(0)
      .filter((p) => judged.detections[p].kind !== KINDS[0])
      .map((index) => ({ type: "detection", index, run: 0, start: detections[index].start }));
    const missed = this.video.truth.flatMap(({ start }, index) =>
      judged.states[index] === MISSED ? [{ type: "instance", index, start }] : [],
    );
    this.step(
      [...wrong, ...missed].sort((a, b) => a.start - b.start),
      direction,
    );
  }

  nextInstance(direction) {
    const stops = this.video.truth.map(({ start }, index) => ({ type: "instance", index, start }));
    this.step(
      stops.sort((a, b) => a.start - b.start),
      direction,
    );
  }

  // A button that selects a detection or an instance.
  chooser(text, selected) {
    return make("button", { type: "button", class: "link", onclick: () => this.select(selected) }, text);
  }

  // Numbers of the detections of a row that the picture has: the best of each class shown.
  drawnDetections(row) {
    const { detections } = this.rows[row];
    return this.classes.flatMap((label) =>
      detections
        .map((_, p) => p)
        .filter((p) => detections[p].label === label)
        .sort((a, b) => detections[b].score - detections[a].score)
        .slice(0, this.most),
    );
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea, video")) return;
    const acts = {
      n: () => this.nextError(1),
      p: () => this.nextError(-1),
      i: () => this.nextInstance(1),
      u: () => this.nextInstance(-1),
      "+": () => this.zoom(0.5),
      "=": () => this.zoom(0.5),
      "-": () => this.zoom(2),
      0: () => this.whole(),
      ArrowLeft: () => this.pan(-0.25),
      ArrowRight: () => this.pan(0.25),
      l: () => this.film.loop(),
      s: () => this.saveSvg(),
      c: () => this.saveCsv(),
      k: () => this.film.playOrPause(),
    };
    if (this.video && Object.hasOwn(acts, event.key)) {
      event.preventDefault();
      acts[event.key]();
    }
  }

  // The film is at `time`.
  follow(time) {
    this.cursor = time;
    this.drawn?.moveCursor(time);
  }

  // What a loop repeats: what is selected, or what the picture shows.
  looped() {
    const { selected } = this;
    if (!selected) return { start: this.from, end: this.to };
    return selected.type === "instance" ? this.video.truth[selected.index] : this.rows[selected.run].detections[selected.index];
  }

  // ------------------------------------------------------------------------------------------------------------- files

  get fileName() {
    return `${this.video.name.replaceAll(/[^\w.-]/g, "_")}_${this.from.toFixed(1)}_${this.to.toFixed(1)}`;
  }

  saveSvg() {
    download(`${this.fileName}.svg`, "image/svg+xml", asFile(this.drawn));
  }

  saveCsv() {
    download(`${this.fileName}.csv`, "text/csv", asCsv(shownRows(this)));
  }

  // The part of the page's address that says what the timeline shows.
  get address() {
    const { video, from, to, settings, state } = this;
    const range = { from: from.toFixed(3), to: to.toFixed(3) };
    const values = new URLSearchParams({ video: video.name, run: state.run, tiou: state.tiou, ...range });
    if (settings) values.set("live", JSON.stringify(settings));
    return `#timeline?${values}`;
  }

  copyLink() {
    this.changed();
    const link = location.href.split("#")[0] + this.address;
    const copied = navigator.clipboard?.writeText(link) ?? Promise.reject(new Error("no clipboard"));
    copied.then(
      () => (this.said.textContent = "The link is copied."),
      () => (this.said.textContent = "The link is in the address bar."),
    );
  }

  fillTables() {
    this.tables.replaceChildren(detectionsTable(this), instancesTable(this));
  }
}
