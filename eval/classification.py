"""Video-level classification metrics. Shapes: V videos, C classes."""

import numpy as np
from numpy.typing import NDArray


def exact_accuracy(predicted_vc: NDArray[np.bool_], label_vc: NDArray[np.floating]) -> float:
    """Share of videos whose predicted classes are exactly the labelled ones."""
    return float(np.mean(np.all(predicted_vc == (label_vc > 0), axis=1)))


def top1_accuracy(score_vc: NDArray[np.floating], label_vc: NDArray[np.floating]) -> float:
    """Share of videos whose highest-scoring class is a labelled one."""
    return float(np.mean(label_vc[np.arange(len(label_vc)), score_vc.argmax(axis=1)] > 0))


def classification_map(score_vc: NDArray[np.floating], label_vc: NDArray[np.floating]) -> float:
    """Mean average precision of the video scores over the classes that occur."""
    from sklearn.metrics import average_precision_score  # imported here because the import takes a second

    present = label_vc.any(axis=0)
    return float(average_precision_score(label_vc[:, present] > 0, score_vc[:, present], average="macro"))
