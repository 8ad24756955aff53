// Sliders that localize a video anew.
"use strict";

// The controls of a video whose stored curves and rules are `rule`. `changed(settings)` is called with the moved settings, or
// with null for those of the run.
function sliders(rule, moved, changed) {
  if (!rule) return [make("p", { class: "note" }, "The activations of this video are not in the page.")];
  const usual = usualSettings(rule);
  const now = moved ?? structuredClone(usual);
  const slider = (name, low, high, value, put) => {
    const shown = make("output", {}, asShown(value));
    const input = make("input", { type: "range", "aria-label": name, min: low, max: high, step: (high - low) / 1000, value });
    input.addEventListener("input", () => {
      put(Number(input.value));
      shown.textContent = asShown(Number(input.value));
      changed(now);
    });
    return make("label", {}, make("span", {}, name), shown, input);
  };
  const asShown = (value) => String(Number(value.toPrecision(4)));
  const levels = rule.sweeps.flatMap(({ support }, s) => {
    const of = support === "common" ? "what all classes share" : "activation";
    const [low, high] = [Math.min(0, usual.thresholds[s][0]), Math.max(1, usual.thresholds[s][1])];
    return ["lowest", "highest"].map((end, e) =>
      slider(`${end} threshold of ${of}`, low, high, now.thresholds[s][e], (value) => (now.thresholds[s][e] = value)),
    );
  });
  const box = make(
    "div",
    { class: "sliders" },
    slider("class threshold", 0, Math.max(1, rule.class_th), now.class_th, (value) => (now.class_th = value)),
    levels,
    slider("outer width", 0, Math.max(2, 2 * rule.outer_width), now.outer_width, (value) => (now.outer_width = value)),
    slider("class weight", 0, Math.max(2, 2 * rule.class_weight), now.class_weight, (value) => (now.class_weight = value)),
    slider("NMS threshold", 0.05, 1, now.nms_threshold, (value) => (now.nms_threshold = value)),
  );
  const reset = make("button", { type: "button", id: "reset", onclick: () => changed(null) }, "The run's settings");
  const note =
    `The rules are those of localize.py. The page has the curves of ${rule.classes.length} classes of this video: those ` +
    "annotated, those localized, and the best by score. A lower class threshold finds no others. The thresholds are spread " +
    "evenly from the lowest to the highest.";
  return [box, make("p", { class: "controls" }, reset), make("p", { class: "note" }, note)];
}
