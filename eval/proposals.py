"""Average recall at an average number of proposals (AR@AN), as in ActivityNet's proposal task; labels are ignored.

Shapes: I tIoU thresholds, G ground truths, V annotated videos, P proposals by video and descending score.
"""

from dataclasses import dataclass

import numpy as np

from eval.compiled import compiled
from eval.table import Codes, Doubles, InputError, Table, video_places

TIOU = np.linspace(0.5, 0.95, 10)
STEPS = 100  # average numbers of proposals at which recall is computed


@dataclass(frozen=True)
class ProposalScore:
    """Recall by average number of proposals per video."""

    numbers: Doubles  # (100,) average numbers of proposals per video, evenly spaced
    recall: Doubles  # (I, 100)

    @property
    def average_recall(self) -> Doubles:
        return self.recall.mean(axis=0)

    @property
    def area(self) -> float:
        """Area under the average recall between the first and the last number, divided by the last."""
        height, width = self.average_recall, np.diff(self.numbers)
        return float(((height[1:] + height[:-1]) / 2 * width).sum() / self.numbers[-1])

    def at(self, number: float) -> float:
        """Average recall at `number` proposals per video, interpolated linearly; 0 at none, constant beyond the last."""
        return float(np.interp(number, [0.0, *self.numbers], [0.0, *self.average_recall]))


def average_recall(truth: Table, found: Table, tiou: Doubles = TIOU, most: int = 100) -> ProposalScore:
    """AR@AN of `found` in the videos that `truth` annotates; proposals in other videos are ignored.

    If these V videos have more than `most` proposals on average, each keeps the same share of its best ones, so that `most`
    remain on average. Then at 1%, 2%, ..., 100% of `most`, each video contributes the share of its best proposals that makes
    this average, rounded down, and at most all it kept. A ground truth is recalled if one of them overlaps it by at least
    the tIoU. One proposal may recall several ground truths.

    Choices of this implementation: on equal scores the earlier proposal is first; shares are rounded down in integer
    arithmetic, where a product of floats may be one lower; two empty segments do not overlap.
    """
    annotated, group = np.unique(truth.video, return_inverse=True)
    if not len(annotated):
        raise InputError("the ground truth has no annotation; expected segments to score against.")
    video = video_places(found.videos, [truth.videos[code] for code in annotated])[found.video]

    order = np.lexsort((-found.scores, video))
    order = order[np.searchsorted(video[order], 0) :]
    count = np.bincount(video[order], minlength=len(annotated))
    first = np.cumsum(count) - count
    kept = np.minimum(count, count * (most * len(annotated)) // max(len(order), 1))

    spans, proposals = np.ascontiguousarray(truth.segments), found.segments[order]
    needed = ranks(spans, group, proposals, first, kept, np.asarray(tiou, dtype=np.float64))
    available, wanted = kept[group][:, None], most * len(annotated)
    step = -(-needed * STEPS * kept.sum() // np.maximum(available * wanted, 1))  # first step at which it is recalled
    step = np.where((needed > available) | (step > STEPS), STEPS + 1, step)
    recalled = np.stack([np.bincount(row, minlength=STEPS + 2)[: STEPS + 1].cumsum()[1:] for row in step.T])
    return ProposalScore(np.arange(1, STEPS + 1) * most / STEPS, recalled / len(truth))


@compiled
def ranks(spans: Doubles, group: Codes, proposals: Doubles, first: Codes, kept: Codes, tiou: Doubles) -> Codes:
    """(G, I) rank of the first proposal of its video that recalls each ground truth; kept[v] + 1 if none does.

    Shapes: spans (G, 2) in videos `group` (G,), proposals (P, 2); those of video v are first[v] to first[v] + kept[v] - 1.
    """
    needed = np.empty((len(spans), len(tiou)), dtype=np.int64)
    for g in range(len(spans)):
        start, end = spans[g, 0], spans[g, 1]
        begin, number = first[group[g]], kept[group[g]]
        needed[g] = number + 1
        best = -1.0
        for p in range(number):
            other_start, other_end = proposals[begin + p, 0], proposals[begin + p, 1]
            shared = max(0.0, min(end, other_end) - max(start, other_start))
            overlap = shared / ((end - start) + (other_end - other_start) - shared)
            if overlap > best:  # false for nan, two empty segments
                best = overlap
                for i in range(len(tiou)):
                    if overlap >= tiou[i] and needed[g, i] > number:
                        needed[g, i] = p + 1
    return needed
