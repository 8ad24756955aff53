// Begins the page: reads its numbers, fills the sections, opens videos, keeps the address in step with the view.
"use strict";

const received = new Map(); // number of a shard -> its videos
const waiting = new Map();

function receiveVideos(number, videos) {
  // called by the files of shards
  received.set(number, videos);
  waiting.get(number)?.();
}

function loadShard(data, number) {
  if (received.has(number)) return Promise.resolve(received.get(number));
  const inside = document.getElementById(`videos-${number}`);
  if (inside) {
    receiveVideos(number, JSON.parse(inside.textContent));
    return Promise.resolve(received.get(number));
  }
  return new Promise((resolve, reject) => {
    waiting.set(number, () => resolve(received.get(number)));
    document.head.append(
      make("script", {
        src: data.shards[number],
        onerror: () => reject(new Error(`${data.shards[number]} is missing; keep it beside this page.`)),
      }),
    );
  });
}

// "#timeline?video=...&run=0&tiou=0.5&from=1&to=9&live={...}" -> its values; null for the address of a section. With `alone`
// the page shows nothing but the timeline, for a picture or a print.
function readAddress() {
  const [, query] = location.hash.split("?");
  return query ? new URLSearchParams(query) : null;
}

function begin() {
  const data = JSON.parse(document.getElementById("numbers").textContent);
  const part = (name) => document.querySelector(`#${name} > div`);
  const tious = Object.keys(data.runs[0].diagnoses),
    state = { run: 0, tiou: tious.includes("0.5") ? "0.5" : tious[0], open };
  const runChoice = document.getElementById("run"),
    tiouChoice = document.getElementById("tiou");
  runChoice.append(...data.runs.map((run, r) => make("option", { value: r }, `${"AB"[r]}: ${run.title}`)));
  tiouChoice.append(...tious.map((tiou) => make("option", { value: tiou }, tiou)));
  document.getElementById("run-choice").hidden = data.runs.length < 2;
  for (const id of ["compare", "to-compare"]) document.getElementById(id).hidden = !data.comparison;
  let touched = false;
  let resting = 0;
  for (const name of ["pointerdown", "keydown"])
    document.getElementById("timeline").addEventListener(name, () => (touched = true), true);
  const player = new Player(part("timeline"), data, state, remember);

  function fillSections() {
    part("overview").replaceChildren(...overview(data, state).filter(Boolean));
    part("costs").replaceChildren(...costs(data, state));
    part("classes").replaceChildren(...classes(data, state, open));
    part("videos").replaceChildren(...videos(data, state, open));
    if (data.comparison) part("compare").replaceChildren(...comparison(data, state, open));
    [runChoice.value, tiouChoice.value] = [state.run, state.tiou];
  }

  async function show(name, view, jump) {
    const entry = data.videos.find((video) => video.name === name);
    if (!entry) return (player.said.textContent = `No video is called ${name}.`);
    try {
      const shard = await loadShard(data, entry.shard);
      player.show(
        prepared(
          shard.find((video) => video.name === name),
          data.rules,
        ),
        view,
      );
      if (jump) document.getElementById("timeline").scrollIntoView();
      if (jump) player.picture.focus({ preventScroll: true });
    } catch (error) {
      player.said.textContent = error.message;
    }
  }

  function open(name) {
    touched = true;
    show(name, {}, true);
  }

  // The address follows when the view rests: browsers ignore an address that changes too often.
  function remember() {
    clearTimeout(resting);
    resting = setTimeout(writeAddress, 150);
  }

  function writeAddress() {
    if (!touched) return; // it stays that of the page until the reader uses the timeline
    history.replaceState(null, "", player.address);
  }

  function fromAddress() {
    const values = readAddress();
    if (!values) return false;
    state.run = data.runs[Number(values.get("run"))] ? Number(values.get("run")) : 0;
    state.tiou = tious.includes(values.get("tiou")) ? values.get("tiou") : state.tiou;
    fillSections();
    document.body.classList.toggle("alone", values.has("alone"));
    const [from, to] = ["from", "to"].map((name) => Number(values.get(name)));
    show(values.get("video"), { ...(to > from ? { from, to } : {}), settings: liveSettings(values.get("live")) }, true);
    return true;
  }

  function change() {
    Object.assign(state, { run: Number(runChoice.value), tiou: tiouChoice.value });
    fillSections();
    if (player.video) player.show(player.video, {});
  }

  runChoice.addEventListener("change", () => {
    player.settings = null;
    change();
  });
  tiouChoice.addEventListener("change", change);
  document
    .getElementById("save-json")
    .addEventListener("click", () =>
      download(
        `${data.name}.json`,
        "application/json",
        JSON.stringify({ ...data, rules: undefined, shards: undefined }, null, 1),
      ),
    );
  window.addEventListener("hashchange", fromAddress);
  if (!fromAddress()) {
    fillSections();
    const first = data.runs[0].diagnoses[state.tiou].videos[0];
    if (first) show(first.name, {}, false);
  }
  document.documentElement.dataset.ready = "yes";
}

function liveSettings(text) {
  try {
    const settings = JSON.parse(text ?? "null"),
      numbers = settings && Object.values(settings).flat(2);
    return numbers?.every(Number.isFinite) ? settings : null;
  } catch {
    return null;
  }
}

begin();
