// The rules of eval/kinds.py for one video: what each detection is, which instance it concerns, what each instance lacks.
//
// `detections` and `instances` are lists of {label, start, end}, detections with a score. P detections, G instances.
"use strict";

const KINDS = [
  "true positive",
  "duplicate",
  "merge",
  "fragment",
  "starts early",
  "starts late",
  "ends early",
  "ends late",
  "wrong class",
  "background",
];
const MISSED = "missed";
const TOUCHES = 0.1; // tIoU from which a detection concerns an instance
const INSIDE = 0.5; // share of a detection in an instance, from which it concerns it, and of an instance that a merge covers

// {detections: [{kind, instance, overlap}], states: [kind of the best detection of each instance]}, in the order given.
function judge(detections, instances, tiou) {
  const order = detections
    .map((_, p) => p)
    .sort((a, b) => detections[a].label - detections[b].label || detections[b].score - detections[a].score || a - b);
  const ranked = order.map((p) => detections[p]),
    taken = assign(ranked, instances, tiou);
  const claims = [],
    pieces = instances.map(() => ({ firstEnd: Infinity, lastStart: -Infinity })),
    isPiece = [];
  const judged = ranked.map((found, p) => {
    const own = nearest(found, instances, tiou, true),
      other = nearest(found, instances, tiou, false);
    const covered = instances.flatMap((truth, g) => (truth.label === found.label && isInside(truth, found) ? [g] : []));
    let kind = "background",
      instance = -1;
    if (taken[p] >= 0) [kind, instance] = ["true positive", taken[p]];
    else if (own >= 0 && iou(found, instances[own]) >= tiou) [kind, instance] = ["duplicate", own];
    else if (covered.length > 1) {
      [kind, instance] = ["merge", own < 0 ? covered[0] : own];
      covered.forEach((g) => claims.push([p, g]));
    } else if (own >= 0) {
      [kind, instance] = [boundary(found, instances[own]), own];
      claims.push([p, own]);
      if (isInside(found, instances[own])) {
        isPiece[p] = true;
        pieces[own].firstEnd = Math.min(pieces[own].firstEnd, found.end);
        pieces[own].lastStart = Math.max(pieces[own].lastStart, found.start);
      }
    } else if (other >= 0) {
      [kind, instance] = ["wrong class", other];
      if (iou(found, instances[other]) >= tiou) claims.push([p, other]);
    }
    return { kind, instance, overlap: instance >= 0 ? iou(found, instances[instance]) : 0 };
  });
  judged.forEach((one, p) => {
    // a piece of an instance is a fragment if another piece is apart from it
    const piece = pieces[one.instance];
    if (isPiece[p] && (piece.firstEnd <= ranked[p].start || piece.lastStart >= ranked[p].end)) one.kind = "fragment";
  });
  const result = { detections: [], states: instances.map((_, g) => (taken.includes(g) ? KINDS[0] : MISSED)) };
  claims.sort(([a], [b]) => ranked[b].score - ranked[a].score || a - b);
  for (const [p, g] of claims) if (result.states[g] === MISSED) result.states[g] = judged[p].kind;
  order.forEach((p, place) => (result.detections[p] = judged[place]));
  return result;
}

// The instance that each of the ranked detections takes, or -1: the best unmatched one of its class; of equal ones the later.
function assign(ranked, instances, tiou) {
  const free = instances.map(() => true);
  return ranked.map((found) => {
    let best = -1;
    instances.forEach((truth, g) => {
      if (truth.label !== found.label || !free[g] || iou(found, truth) < tiou) return;
      if (best < 0 || iou(found, truth) >= iou(found, instances[best])) best = g;
    });
    if (best >= 0) free[best] = false;
    return best;
  });
}

// tIoU; two empty segments overlap, as in scoring.
function iou(a, b) {
  const shared = Math.max(0, Math.min(a.end, b.end) - Math.max(a.start, b.start));
  const overlap = shared / (b.end - b.start + (a.end - a.start) - shared);
  return Number.isNaN(overlap) ? 1 : overlap;
}

// True if most of `inner` lies in `outer`.
function isInside(inner, outer) {
  const shared = Math.min(inner.end, outer.end) - Math.max(inner.start, outer.start);
  return shared > 0 && shared >= INSIDE * (inner.end - inner.start);
}

// The instance of the detection's class, or of the others, that it touches with the largest tIoU; -1 if it touches none.
function nearest(found, instances, tiou, ownClass) {
  let best = -1,
    chosen = -1;
  instances.forEach((truth, g) => {
    const overlap = iou(found, truth);
    if ((truth.label === found.label) !== ownClass || overlap <= best) return;
    if (overlap >= Math.min(TOUCHES, tiou) || isInside(found, truth)) [best, chosen] = [overlap, g];
  });
  return chosen;
}

// The kind of a detection by the larger of its two boundary errors.
function boundary(found, truth) {
  const byStart = found.start - truth.start,
    byEnd = found.end - truth.end;
  if (Math.abs(byStart) >= Math.abs(byEnd)) return byStart < 0 ? "starts early" : "starts late";
  return byEnd < 0 ? "ends early" : "ends late";
}

if (typeof module !== "undefined") module.exports = { judge };
