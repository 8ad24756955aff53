"""The obvious versions of what the project computes fast: slow, plain, and what the kernels are held against."""

import math


def sample_rows(num_seg, rows, choice):
    """Training sampler, row by row, drawing with `choice` as the official code does."""
    if num_seg == rows:
        return list(range(rows))
    grid = [int(i * num_seg / rows) for i in range(rows)]
    picked = []
    for i in range(rows - 1):
        picked.append(choice(range(grid[i], grid[i + 1] + 1)) if grid[i] != grid[i + 1] else grid[i])
    last = grid[-1]
    picked.append(choice(range(last, num_seg)) if last < num_seg - 1 else last)
    return picked


def upsample(values, scale):
    """Linear interpolation point by point, extrapolated past the end."""
    fine = []
    for j in range(len(values) * scale):
        x = j * (1.0 / scale)
        right = min(max(math.ceil(x), 1), len(values) - 1)
        slope = float(values[right] - values[right - 1])
        fine.append(slope * (x - (right - 1)) + float(values[right - 1]))
    return fine


def propose(curve, thresholds, outer_width):
    """(score, first, last) of every run above every threshold, means taken over plain slices."""
    found = []
    for threshold in thresholds:
        inside = [value >= threshold and value > 0 for value in curve]
        kept = [value if on else 0.0 for value, on in zip(curve, inside, strict=True)]
        start = None
        for index in range(len(curve) + 1):
            on = index < len(curve) and inside[index]
            if on and start is None:
                start = index
            if not on and start is not None:
                first, last, start = start, index - 1, None
                length = last - first + 1
                left = max(0, int(first - outer_width * length))
                right = min(len(curve) - 1, int(last + outer_width * length))
                outer = kept[left:first] + kept[last + 1 : right + 1]
                contrast = math.fsum(kept[first : last + 1]) / length - (math.fsum(outer) / len(outer) if outer else 0.0)
                found.append((contrast, first, last))
    return found


def suppress(segments, scores, threshold, pad):
    """Survivors of hard non-maximum suppression, pair by pair."""
    order = sorted(range(len(scores)), key=lambda i: (scores[i], i), reverse=True)
    kept = []
    for i in order:
        if all(overlap(segments[i], segments[j], pad) < threshold for j in kept):
            kept.append(i)
    return kept


def overlap(a, b, pad=0.0):
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]) + pad)
    return shared / ((a[1] - a[0] + pad) + (b[1] - b[0] + pad) - shared)


def average_precision(truths, found, tiou):
    """AP of one class at one threshold; truths {video: [(s, e)]}, found [(video, s, e, score)] in any order."""
    taken = set()
    hits = []
    for video, start, end, _ in sorted(found, key=lambda row: -row[3]):
        candidates = sorted(((overlap((start, end), t), i) for i, t in enumerate(truths.get(video, []))), reverse=True)
        hit = next(((video, i) for value, i in candidates if value >= tiou and (video, i) not in taken), None)
        hits.append(hit is not None)
        taken.add(hit)
    total = sum(map(len, truths.values()))
    points = [(sum(hits[: n + 1]) / total, sum(hits[: n + 1]) / (n + 1)) for n in range(len(hits))]
    area, previous = 0.0, 0.0
    for recall in sorted({recall for recall, _ in points}):
        area += (recall - previous) * max(p for r, p in points if r >= recall)
        previous = recall
    return area
