// The rules of localize.py: activation curves of one video -> runs -> outer-inner scores -> suppression -> detections.
//
// `localize(curves)` takes the fields of localize.Curves. `activation` is a list of K columns and `common` one column, each a
// Float32Array or a Float64Array of T numbers: single precision is rounded where numpy rounds it.
// N fine points, K classes, I thresholds, R runs, D detections.
"use strict";

function localize(curves) {
  const found = { classes: [], scores: [], segments: [] };
  const common = curves.common ? refine(curves.common, curves) : new Float64Array(0);
  curves.classes.forEach((number, k) => {
    const fine = refine(curves.activation[k], curves);
    for (const { score, start, end } of localizeClass(fine, common, k, curves)) {
      found.classes.push(number);
      found.scores.push(score);
      found.segments.push([start, end]);
    }
  });
  return found;
}

function localizeClass(fine, common, k, curves) {
  const proposals = [];
  for (const sweep of curves.sweeps) {
    const byCommon = sweep.support === "common";
    const support = byCommon ? common : fine;
    const maskedShare = !sweep.thresholded ? 0 : byCommon ? sweep.common_share : sweep.activation_share;
    const ownShare = sweep.activation_share - (byCommon ? 0 : maskedShare);
    const commonShare = sweep.common_share - (byCommon ? maskedShare : 0);
    const masked = positiveSums(support, maskedShare);
    const plain = prefixSums(fine, ownShare, common, commonShare);
    for (const runs of findRuns(support, sweep.thresholds, curves.first_point_counts)) {
      const contrast = contrasts(runs, masked, plain, curves.outer_width, curves.right_surroundings_less);
      runs.forEach(([first, end], r) => {
        if (end - first < curves.shortest_run) return;
        const [from, to] = place(first, end, curves);
        proposals.push({ score: contrast[r] + sweep.class_term[k], start: from, end: to });
      });
    }
  }
  if (curves.whole_video_score !== null && proposals.length) {
    proposals.push({ score: curves.whole_video_score, start: 0, end: curves.points * curves.seconds_per_point });
  }
  const order = proposals
    .map((_, p) => p)
    .sort((a, b) => proposals[a].score - proposals[b].score || a - b)
    .reverse();
  return suppress(
    order.map((p) => proposals[p]),
    curves.nms_threshold,
    curves.nms_pad,
    curves.nms_keeps_equal,
  );
}

// ------------------------------------------------------------------------------------------ snippets -> fine points

function refine(sequence, curves) {
  return curves.resize ? resize(sequence, curves.points) : upsample(sequence, Math.floor(curves.points / sequence.length));
}

// Linear interpolation at multiples of 1/scale, extrapolated past the last snippet (quirk B10).
function upsample(sequence, scale) {
  const snippets = sequence.length,
    step = 1 / scale,
    fine = new Float64Array(snippets * scale);
  const round = sequence instanceof Float32Array ? Math.fround : (x) => x;
  for (let j = 0; j < fine.length; j++) {
    const position = j * step;
    const right = Math.min(Math.max(Math.ceil(position), 1), snippets - 1),
      left = right - 1;
    fine[j] = snippets === 1 ? sequence[0] : round(sequence[right] - sequence[left]) * (position - left) + sequence[left];
  }
  return fine;
}

// Linear interpolation in single precision between the middles of snippets, as OpenCV resizes an image.
function resize(sequence, points) {
  const snippets = sequence.length,
    fine = new Float64Array(points);
  const single = Math.fround,
    round = sequence instanceof Float32Array ? Math.fround : (x) => x;
  for (let j = 0; j < points; j++) {
    const position = single((j + 0.5) * (snippets / points) - 0.5);
    const left = Math.min(Math.max(Math.floor(position), 0), snippets - 1);
    const share = position < 0 || left === snippets - 1 ? 0 : single(position - left);
    const next = sequence[Math.min(left + 1, snippets - 1)];
    fine[j] = round(round(sequence[left] * single(1 - share)) + round(next * share));
  }
  return fine;
}

// -------------------------------------------------------------------------------------------- fine points -> proposals

// For each threshold its runs [start, end), in order. A point is inside if it is positive and at least the threshold.
function findRuns(curve, thresholds, firstPointCounts) {
  return thresholds.map((threshold) => {
    const runs = [];
    let open = -1;
    for (let j = 0; j <= curve.length; j++) {
      const inside = j < curve.length && curve[j] > 0 && curve[j] >= threshold;
      if (inside && open < 0) open = j;
      if (!inside && open >= 0) {
        runs.push([open, j]);
        open = -1;
      }
    }
    const onlyFirst = runs.length === 1 && runs[0][0] === 0 && runs[0][1] === 1;
    return onlyFirst && !firstPointCounts ? [] : runs;
  });
}

function positiveSums(curve, share) {
  const total = new Float64Array(curve.length + 1);
  if (share !== 0) for (let j = 0; j < curve.length; j++) total[j + 1] = total[j] + (curve[j] > 0 ? share * curve[j] : 0);
  return total;
}

function prefixSums(first, firstShare, second, secondShare) {
  const total = new Float64Array(first.length + 1);
  if (firstShare === 0 && secondShare === 0) return total;
  for (let j = 0; j < first.length; j++) {
    total[j + 1] = total[j] + (firstShare * first[j] + (secondShare !== 0 ? secondShare * second[j] : 0));
  }
  return total;
}

// (R,) mean of the scoring curve over each run minus its mean over the surroundings. The masked part of that curve is zero
// outside the runs of the same threshold; the plain part counts everywhere.
function contrasts(runs, masked, plain, outerWidth, rightLess) {
  const points = plain.length - 1;
  const runsTotal = new Float64Array(runs.length + 1);
  runs.forEach(([start, end], k) => (runsTotal[k + 1] = runsTotal[k] + (masked[end] - masked[start])));
  return runs.map(([start, end], k) => {
    const length = end - start;
    const left = Math.max(0, Math.trunc(start - outerWidth * length));
    const right = Math.max(end, Math.min(points, Math.trunc(end - 1 + outerWidth * length) + 1 - rightLess));
    const earlier = countStarts(runs, 0, k, left),
      later = countStarts(runs, k + 1, runs.length, right);
    let outer = runsTotal[k] - runsTotal[earlier] + runsTotal[later] - runsTotal[k + 1];
    if (earlier > 0 && runs[earlier - 1][1] > left) outer += masked[runs[earlier - 1][1]] - masked[left];
    if (runs[later - 1][1] > right) outer -= masked[runs[later - 1][1]] - masked[right];
    outer += plain[start] - plain[left] + plain[right] - plain[end];
    const inside = runsTotal[k + 1] - runsTotal[k] + plain[end] - plain[start];
    const outside = start - left + (right - end);
    return inside / length - (outside ? outer / outside : 0);
  });
}

// Index of the first of runs[low..high) that does not start before `point`.
function countStarts(runs, low, high, point) {
  while (low < high) {
    const middle = (low + high) >> 1;
    if (runs[middle][0] < point) low = middle + 1;
    else high = middle;
  }
  return low;
}

// ---------------------------------------------------------------------------------------------- proposals -> detections

// Start and end of a run in seconds.
function place(first, last, curves) {
  let start = first * curves.seconds_per_point,
    end = last * curves.seconds_per_point;
  if (curves.warp) {
    const duration = curves.warped_seconds === null ? curves.points * curves.seconds_per_point : curves.warped_seconds;
    const total = curves.warp[curves.warp.length - 1],
      knots = Array.from(curves.warp, (knot) => knot / total);
    start = unwarp(start / duration, knots) * duration;
    end = unwarp(end / duration, knots) * duration;
  }
  const cut = curves.shrink * (end - start);
  return [start + cut, end - cut];
}

// Map a share of the network's time axis to a share of the video, linearly between `knots` (L+1) and beyond them.
function unwarp(share, knots) {
  const snippets = knots.length - 1,
    found = knots.findIndex((knot) => knot >= share);
  const right = Math.min(Math.max(found < 0 ? knots.length : found, 1), snippets);
  const low = knots[right - 1],
    high = knots[right],
    snippet = 1 / snippets;
  const start = (right - 1) * snippet,
    end = right < snippets ? right * snippet : 1;
  return ((end - start) / (high - low)) * (share - low) + start;
}

// Hard non-maximum suppression of proposals in descending order of score.
function suppress(rest, threshold, pad, keepsEqual) {
  const kept = [];
  while (rest.length) {
    const best = rest[0],
      length = best.end - best.start + pad;
    kept.push(best);
    rest = rest.slice(1).filter((other) => {
      const shared = Math.max(0, Math.min(best.end, other.end) - Math.max(best.start, other.start) + pad);
      const otherLength = other.end - other.start + pad;
      const union = keepsEqual ? otherLength - shared + length : length + otherLength - shared;
      const overlap = shared / union;
      return overlap < threshold || (keepsEqual && overlap === threshold);
    });
  }
  return kept;
}

if (typeof module !== "undefined") module.exports = { localize };
