"""Scoring of detections, usable alone: `from eval import detection_map`. Nothing here imports torch."""

from eval.eval_detection import ANETdetection, DetectionScore, detection_map

__all__ = ["ANETdetection", "DetectionScore", "detection_map"]
