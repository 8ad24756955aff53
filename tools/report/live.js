// Numbers of the page as arrays, and localization of a stored video with settings of the reader.
"use strict";

const ARRAYS = { f4: Float32Array, f8: Float64Array, u1: Uint8Array, u2: Uint16Array };

// Little-endian numbers in base64, {"f4": "..."}; half precision becomes single precision.
function unpack(packed) {
  const [[kind, text]] = Object.entries(packed);
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return kind === "f2" ? Float32Array.from(new Uint16Array(bytes.buffer), fromHalf) : new ARRAYS[kind](bytes.buffer);
}

function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1,
    exponent = (bits >> 10) & 31,
    fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// The run's own settings, in the form that the sliders change.
function usualSettings(rule) {
  return {
    class_th: rule.class_th,
    class_weight: rule.class_weight,
    outer_width: rule.outer_width,
    nms_threshold: rule.nms_threshold,
    thresholds: rule.sweeps.map(({ thresholds }) => [thresholds[0], thresholds[thresholds.length - 1]]),
  };
}

// Places among rule.classes of those that are localized at this class threshold.
function chosenClasses(rule, threshold) {
  const single = Math.fround(threshold),
    scores = rule.class_scores,
    places = scores.map((_, k) => k);
  const above = places.filter((k) => (rule.strict ? scores[k] > single : scores[k] >= single));
  if (!above.length) return rule.best_if_none ? [scores.indexOf(Math.max(...scores))] : [];
  const onlyFirst = above.length === 1 && rule.classes[above[0]] === rule.first_class;
  return onlyFirst && rule.loses_first_alone ? [] : above;
}

function thresholdsOf(sweep, [low, high]) {
  const usual = sweep.thresholds,
    count = usual.length;
  if (low === usual[0] && high === usual[count - 1]) return usual;
  return usual.map((_, i) => (count > 1 ? low + (i * (Math.max(low, high) - low)) / (count - 1) : low));
}

// Detections [{label, start, end, score}] of a video with these settings.
function relocalize(rule, settings) {
  const chosen = chosenClasses(rule, settings.class_th);
  const sweeps = rule.sweeps.map((sweep, s) => ({
    ...sweep,
    thresholds: thresholdsOf(sweep, settings.thresholds[s]),
    class_term: chosen.map((k) => {
      const { unit, usual } = rule.terms[s];
      return settings.class_weight === rule.class_weight && usual[k] !== null ? usual[k] : settings.class_weight * unit[k];
    }),
  }));
  const found = localize({
    ...rule,
    ...settings,
    sweeps,
    classes: chosen.map((k) => rule.classes[k]),
    activation: chosen.map((k) => rule.activation[k]),
  });
  return found.classes.map((label, d) => ({
    label,
    start: found.segments[d][0],
    end: found.segments[d][1],
    score: found.scores[d],
  }));
}

// A stored video with arrays in place of text; `rules` are the settings that all videos of a run share.
function prepared(video, rules) {
  const truth = video.truth.map(([label, start, end]) => ({ label, start, end }));
  const runs = video.runs.map(({ found, drawn, localize: own }, r) => {
    const label = unpack(found.label),
      ends = unpack(found.segments),
      score = unpack(found.score);
    const detections = Array.from(label, (number, d) => ({
      label: number,
      start: ends[2 * d],
      end: ends[2 * d + 1],
      score: score[d],
    }));
    const lines = (drawn?.lines ?? []).map((line) => ({ ...line, values: unpack(line.values) }));
    const places = drawn && (typeof drawn.times === "number" ? null : unpack(drawn.times));
    const rule = own && { ...rules[r], ...own };
    if (rule) {
      rule.activation = rule.activation.map(unpack);
      rule.common = rule.common && unpack(rule.common);
    }
    return { detections, lines, times: places ? (i) => places[i] : (i) => i * (drawn?.times ?? 0), rule };
  });
  return { ...video, truth, runs };
}

// The time of snippet i of the curves that are localized.
function snippetTime(rule, snippets) {
  const step = (rule.points / snippets) * rule.seconds_per_point;
  if (rule.resize) return (i) => (i + 0.5) * step;
  return (i) => place(i * (rule.points / snippets), 0, { ...rule, shrink: 0 })[0];
}

if (typeof module !== "undefined") module.exports = { prepared, relocalize, usualSettings };
