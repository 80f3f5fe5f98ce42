"""Multi-view video accuracy as an `evaluate` module: `evaluate.load(videomae.metrics.path("video_accuracy"))`, offline."""

import datasets
import evaluate
import numpy as np

from .scores import video_accuracy

_DESCRIPTION = """
Accuracy of video classifiers that see several views (clips x crops) of each video: the scores of a video's views are
averaged, then top-1 and top-5 are taken. Reported for videos and, beside it, for single views.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: one row of class probabilities per view (softmax first: averaging logits is another rule).
    references: the class index of the view's video.
    video_ids: which video the view belongs to; without them each row is a video of its own, as in `compute_metrics` of a
        Trainer, which sees one view of each.
    view_ids: only with the configuration "views": which view of the video it is. A view that arrives twice, as when
        processes pad their last batch, counts once.
Returns:
    video_top1, video_top5, view_top1, view_top5 as fractions of one (top-5 only with more than five classes), num_videos,
    num_views.
Examples:
    >>> metric = evaluate.load(videomae.metrics.path("video_accuracy"))
    >>> metric.compute(
    ...     predictions=[[0.6, 0.4], [0.1, 0.9], [0.3, 0.7]], references=[1, 1, 0], video_ids=["a", "a", "b"])
    {'video_top1': 0.5, 'view_top1': 0.3333333333333333, 'num_videos': 2, 'num_views': 3}
"""

_CITATION = """
@inproceedings{tong2022videomae,
  title={Video{MAE}: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video Pre-Training},
  author={Zhan Tong and Yibing Song and Jue Wang and Limin Wang},
  booktitle={Advances in Neural Information Processing Systems},
  year={2022}
}
"""


class VideoAccuracy(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        features = {
            "predictions": datasets.Sequence(datasets.Value("float64")),
            "references": datasets.Value("int64"),
            "video_ids": datasets.Value("string"),
        }
        if self.config_name == "views":
            features["view_ids"] = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(features),
        )

    def compute(self, *, predictions=None, references=None, **kwargs) -> dict | None:
        """As of every module of `evaluate`; without `video_ids` each row is a video of its own."""
        if predictions is not None and "video_ids" not in kwargs and self.config_name != "views":
            kwargs["video_ids"] = [str(row) for row in range(len(predictions))]
        return super().compute(predictions=predictions, references=references, **kwargs)

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride]  # `compute` passes the inputs and options named here
        self, predictions, references, video_ids, view_ids=None
    ) -> dict:
        return video_accuracy(np.asarray(predictions), np.asarray(references), list(video_ids), view_ids)
