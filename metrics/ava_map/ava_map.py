"""AVA frame mAP as an `evaluate` module: `evaluate.load(videomae.metrics.path("ava_map"))`, offline."""

import datasets
import evaluate
import numpy as np

from .average_precision import LabelledBoxes, ava_map

_DESCRIPTION = """
Frame-level mean average precision at an overlap of 0.5, the measure of spatio-temporal action detection on AVA. Every
item is one key frame; key frames without annotations count, since false alarms in them cost precision.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: one dict per key frame: "boxes" (x1, y1, x2, y2, one row per labelled box), "labels", "scores".
    references: one dict per key frame, in the same order: "boxes" and "labels". A person with several actions is
        listed once per action. One unit for both sides: pixels of a frame, or shares of its size.
    classes: the class numbers that count; by default the 60 of AVA's evaluation.
    iou_threshold: smallest overlap of a hit, 0.5 by default.
    most_per_frame: keep only the best-scored labelled boxes of a key frame; the challenge server kept 50.
    protocol: "ava" (default), or "mmaction2" for that project's evaluation: annotated key frames only, four digits.
Returns:
    mAP, per_class (by class number, as text), per_category (pose, object, person), and the counts behind them.
Examples:
    >>> metric = evaluate.load(videomae.metrics.path("ava_map"))
    >>> metric.compute(
    ...     predictions=[{"boxes": [[0, 0, 10, 10]], "labels": [12], "scores": [0.9]}],
    ...     references=[{"boxes": [[0, 0, 10, 9]], "labels": [12]}])["mAP"]
    1.0
"""

_CITATION = """
@inproceedings{gu2018ava,
  title={{AVA}: A Video Dataset of Spatio-temporally Localized Atomic Visual Actions},
  author={Gu, Chunhui and Sun, Chen and Ross, David A. and Vondrick, Carl and Pantofaru, Caroline and Li, Yeqing and
          Vijayanarasimhan, Sudheendra and Toderici, George and Ricco, Susanna and Sukthankar, Rahul and
          Schmid, Cordelia and Malik, Jitendra},
  booktitle={IEEE Conference on Computer Vision and Pattern Recognition},
  year={2018}
}
"""


class AvaMap(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        boxes = datasets.Sequence(datasets.Sequence(datasets.Value("float64"), length=4))
        labels = datasets.Sequence(datasets.Value("int64"))
        scores = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": {"boxes": boxes, "labels": labels, "scores": scores},
                    "references": {"boxes": boxes, "labels": labels},
                }
            ),
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride]  # `compute` passes the inputs and options named here
        self, predictions, references, classes=None, iou_threshold=0.5, most_per_frame=None, protocol="ava"
    ) -> dict:
        result = ava_map(
            _columns(references),
            _columns(predictions),
            classes=classes,
            key_frames=range(len(references)),
            iou_threshold=iou_threshold,
            most_per_frame=most_per_frame,
            protocol=protocol,
        )
        return {**result, "per_class": {str(label): value for label, value in result["per_class"].items()}}


def _columns(items) -> LabelledBoxes:
    frame = np.repeat(np.arange(len(items)), [len(item["labels"]) for item in items])
    box, label = ([row for item in items for row in item[name]] for name in ("boxes", "labels"))
    score = [row for item in items for row in item["scores"]] if items and "scores" in items[0] else None
    return LabelledBoxes.of(frame, box, label, score)
