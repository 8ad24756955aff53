"""Random videos and settings for localization, and their form in JSON, as tools/report/localize.js takes them."""

from dataclasses import fields
from typing import Any

import numpy as np

from localize import Curves, Sweep


def random_curves(random: np.random.Generator) -> Curves:
    """Curves of one video under settings that no single method has, so that every rule of localize.py takes part."""
    snippets, num_classes = int(random.integers(1, 90)), int(random.integers(0, 4))
    precision = random.choice([np.float32, np.float64])
    resize, has_common, warped = random.random(3) < (0.4, 0.7, 0.3)

    def sequence(columns: int) -> Any:
        steps = np.repeat(random.random((snippets // 5 + 1, columns)), 5, axis=0)[:snippets]
        curve = steps + 0.2 * random.standard_normal((snippets, columns))
        return (np.round(curve, 1) if random.random() < 0.3 else curve).astype(precision)  # rounded: equal scores and ends

    def sweep(support: Any) -> Sweep:
        share = float(random.choice([0, 0.3, 1])) if has_common else 0.0
        thresholds = np.sort(random.uniform(-0.1, 1, int(random.integers(1, 8)))).tolist()
        return Sweep(thresholds, random.random(num_classes), support, 1 - share, share, bool(random.random() < 0.7))

    points = int(random.integers(1, 5)) * snippets if not resize else int(random.integers(1, 300))
    return Curves(
        classes=np.sort(random.choice(20, num_classes, replace=False)),
        activation=sequence(num_classes),
        common=sequence(1)[:, 0] if has_common else None,
        sweeps=[sweep("activation")] + ([sweep("common")] if has_common else []),
        points=points,
        resize=bool(resize),
        seconds_per_point=float(random.uniform(0.05, 1)),
        outer_width=float(random.choice([0, 0.25, 1, 20])),
        nms_threshold=float(random.choice([0.3, 0.5, 0.7, 1])),
        nms_pad=float(random.choice([0, 1])),
        nms_keeps_equal=bool(random.random() < 0.5),
        shortest_run=int(random.integers(1, 3)),
        first_point_counts=bool(random.random() < 0.5),
        right_surroundings_less=int(random.integers(0, 2)),
        shrink=float(random.choice([0, 0.1])),
        whole_video_score=float(random.random()) if random.random() < 0.3 else None,
        warp=np.concatenate([[0], np.cumsum(random.uniform(0.1, 1, snippets))]) if warped else None,
        warped_seconds=float(random.uniform(5, 100)) if warped and random.random() < 0.5 else None,
    )


def as_json(curves: Curves) -> dict[str, Any]:
    """All fields as plain values; `single` says whether the arrays are of single precision."""
    values: dict[str, Any] = {field.name: getattr(curves, field.name) for field in fields(curves)}
    values["sweeps"] = [vars(sweep) | {"class_term": sweep.class_term.tolist()} for sweep in curves.sweeps]
    values["single"] = curves.activation.dtype == np.float32
    values["activation"] = values["activation"].T
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}
