"""Annotations and result files as the columns that the metric takes."""

import numpy as np

from videomae.data.ava.annotations import Annotations, KeyFrame
from videomae.data.ava.detections import Detections
from videomae.metrics.ava_map.average_precision import LabelledBoxes


def for_metric(
    annotations: Annotations, detections: Detections
) -> tuple[LabelledBoxes, LabelledBoxes, dict[KeyFrame, int]]:
    """Annotated and found boxes as the metric wants them, and the number that stands for each key frame of either."""
    numbers = {key: index for index, key in enumerate(annotations.key_frames)}
    frame, box, label = [], [], []
    for key, persons in annotations.key_frames.items():
        for its_box, actions in zip(persons.boxes, persons.actions):
            for action in actions:
                frame.append(numbers[key])
                box.append(its_box)
                label.append(action)
    theirs = np.array([numbers.setdefault(key, len(numbers)) for key in detections.key_frames], dtype=np.int64)
    found = LabelledBoxes.of(theirs[detections.frame], detections.box, detections.label, detections.score)
    return LabelledBoxes.of(frame, box, label), found, numbers
