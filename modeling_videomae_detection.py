"""Action detection: the same encoder, a map of mean features, one patch of it per person, one score per action.

Both released families are settings of one model: VideoMAE-Action-Detection and mmaction2 differ in RoIAlign's convention,
in what happens to frames that patches do not tile, in the boxes and in the loss (`DETECTION_FAMILIES` in
configuration_videomae.py), in where dropout stands, in a fresh head and in the scores. Boxes are pixels of the frames that the model is given; finding persons, reading videos and
naming actions is pipeline_videomae_detection.py's work.
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.utils.generic import ModelOutput, can_return_tuple

from .configuration_videomae import DETECTION_FAMILIES, VideoMAEConfig
from .modeling_videomae import Selected, VideoMAEModel, VideoMAEPreTrainedModel
from .roi_align_videomae import roi_max, widen_boxes

# B clips  T frames  C channels  H W pixels | t h w patch grid | N boxes of all clips, in order | D width

SIZE_RULES = ("pad", "drop")


def check_boxes(
    boxes: torch.Tensor, height: int, width: int, name: str = "boxes", *, surely_pixels: bool = False
) -> None:
    """Raise for a tensor that is no list of xyxy pixel boxes in a frame, naming the row.

    Boxes that reach over the border are fine (they are clipped), and so are empty lists and boxes without area.
    `surely_pixels`: they are no shares of the frame, even where all of them lie in the pixel of its corner.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name} must have shape (n, 4), one x1, y1, x2, y2 per row, got {tuple(boxes.shape)}")
    if not len(boxes):
        return
    x1, y1, x2, y2 = boxes.unbind(1)
    if not surely_pixels and boxes.max() <= 1.0 and boxes.min() >= 0.0 and min(height, width) > 2:
        raise ValueError(
            f"{name} look normalised to [0, 1] (the largest value is {float(boxes.max()):g}); boxes are pixels here: "
            f"multiply x by the width {width} and y by the height {height}"
        )
    for wrong, what in (
        (~boxes.isfinite().all(1), "is not finite; drop it"),
        ((x2 < x1) | (y2 < y1), "ends before it starts; boxes are x1, y1, x2, y2, not x, y, width, height"),
        (
            (x2 < 0) | (y2 < 0) | (x1 > width) | (y1 > height),
            f"lies outside the frame of {width}x{height} (width x height); scale boxes together with the frames",
        ),
    ):
        if wrong.any():
            row = int(wrong.nonzero()[0])
            values = ", ".join(f"{value:g}" for value in boxes[row].tolist())
            raise ValueError(f"{name}: row {row}, ({values}), {what}")


def fit_frames(pixel_values: torch.Tensor, patch_hw: tuple[int, int], rule: str) -> torch.Tensor:
    """Make height and width multiples of the patch: "pad" adds zeros at the right and bottom, "drop" cuts there."""
    height, width = pixel_values.shape[-2:]
    over_y, over_x = height % patch_hw[0], width % patch_hw[1]
    if not over_y and not over_x:
        return pixel_values
    if rule == "drop":
        return pixel_values[..., : height - over_y, : width - over_x]
    return F.pad(pixel_values, (0, -width % patch_hw[1], 0, -height % patch_hw[0]))


def detection_loss(logits: torch.Tensor, labels: torch.Tensor, family: str) -> torch.Tensor:
    """Binary cross-entropy of (N, num_labels) scores, as each family averages it; zero for no boxes.

    "videomae": the mean times the number of boxes, so that every box counts the same in batches of any size.
    "mmaction2": the mean over the boxes that have an action; others are background, which has no score of its own here.
    """
    per_box = F.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none").mean(1)
    if family == "videomae":
        return per_box.sum()
    active = (labels > 0).any(1)
    return (per_box * active).sum() / active.sum().clamp(min=1)


def action_scores(logits: torch.Tensor, person_scores: torch.Tensor, family: str) -> torch.Tensor:
    """(N, num_labels) logits of boxes and the (N,) scores of their persons -> the scores that each release reports.

    "videomae": sigmoid times the person's score (PostProcessor in engine_for_finetuning.py), so a doubtful person counts
    less. "mmaction2": sigmoid alone (bbox_head.py). A person that was annotated, not detected, has score 1.
    """
    scores = logits.float().sigmoid()
    return scores * person_scores.to(scores)[:, None] if family == "videomae" else scores


@dataclass
class VideoMAEForActionDetectionOutput(ModelOutput):
    """
    loss: as the family averages it (`detection_loss`), where labels were given.
    logits: (N, num_labels), one row per box in the order of the lists; `action_scores` makes scores of them.
    boxes: the N boxes that were pooled: widened and clipped, in pixels.
    roi_features: (N, D), what the classifier saw of each box.
    hidden_states, attentions: the encoder's, where asked for.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    boxes: torch.Tensor | None = None
    roi_features: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class VideoMAEForActionDetection(VideoMAEPreTrainedModel):
    """The encoder with a linear head on the strongest features inside each box."""

    def __init__(self, config: VideoMAEConfig):
        if config.use_mean_pooling:  # a classifier's switch for leaving out the final norm, which detectors keep
            config = copy.deepcopy(config)
            config.use_mean_pooling = False
        super().__init__(config)
        config = self.config
        for name, known in (("detection_family", DETECTION_FAMILIES), ("detection_size_rule", SIZE_RULES)):
            if getattr(config, name) not in known:
                raise ValueError(f"unknown {name} {getattr(config, name)!r}; choose one of {', '.join(known)}")
        self.num_labels = config.num_labels
        self.videomae = VideoMAEModel(config, pooled=False)
        self.dropout = nn.Dropout(config.head_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        # BBoxHeadAVA drops single values of the 8x8 patch, so that the maximum falls to the next best one (bbox_head.py,
        # dropout_before_pool); dropping pooled features instead would train another head.
        self.dropout_before_pooling = config.detection_family == "mmaction2"
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """As for the other models, but mmaction2's fresh head is Xavier-normal (`init_weights` in its bbox_head.py)."""
        super()._init_weights(module)
        if module is self.classifier and self.config.detection_family == "mmaction2":
            init.xavier_normal_(self.classifier.weight, gain=self.config.init_scale)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        boxes: list[torch.Tensor],
        labels: torch.Tensor | list[torch.Tensor] | None = None,
        *,
        frame_sizes: list[tuple[int, int]] | None = None,
        widen: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: Selected = None,
    ) -> VideoMAEForActionDetectionOutput:
        """Score every box of clips (B, T, C, H, W) of any height and width.

        `boxes` holds one (n, 4) tensor of x1, y1, x2, y2 pixels per clip; n may be 0. They are persons as annotated or
        detected: outside of training the model widens them by `config.box_test_scale` (`widen` overrides), in training
        the data set jitters them. `labels` are zeros and ones, (n, num_labels) per clip or all in one tensor.
        `frame_sizes`, (height, width) per clip, tells where frames end in a batch that was padded to one size. Boxes that
        come with it, as data sets give them, are not suspected of being shares of the frame: a training crop may leave
        of all persons only its corner.
        """
        config = self.config
        if not isinstance(boxes, (list, tuple)) or len(boxes) != len(pixel_values):
            got = f"{len(boxes)}" if isinstance(boxes, (list, tuple)) else f"a {type(boxes).__name__}"
            raise ValueError(
                f"boxes must be a list of {len(pixel_values)} tensors, one per clip and (0, 4) where a clip has none; got {got}"
            )
        surely_pixels = frame_sizes is not None
        if frame_sizes is None:
            height, width = pixel_values.shape[-2:]
            frame_sizes = [(height, width)] * len(pixel_values)
        family = config.detection_family
        scale = config.box_test_scale if (not self.training if widen is None else widen) else (0.0, 0.0)
        pooled_boxes = []
        for index, (clip_boxes, (height, width)) in enumerate(zip(boxes, frame_sizes)):
            if clip_boxes.device.type == "cpu" and not torch.compiler.is_compiling():  # elsewhere it would wait
                check_boxes(clip_boxes, height, width, f"boxes[{index}]", surely_pixels=surely_pixels)
            clip_boxes = clip_boxes.to(pixel_values.device, torch.float32, non_blocking=True)
            pooled_boxes.append(
                widen_boxes(clip_boxes, scale, height=height, width=width, inclusive=family == "videomae")
            )

        pixel_values = fit_frames(pixel_values, config.patch_hw, config.detection_size_rule)
        encoded = self.videomae(
            pixel_values,
            interpolate_pos_encoding=True,
            return_dict=True,
            **self._recorded(output_attentions, output_hidden_states),
        )
        h, w = (size // patch for size, patch in zip(pixel_values.shape[-2:], config.patch_hw))
        feature_map = encoded.last_hidden_state.unflatten(1, (-1, h, w)).mean(1)  # (B, h, w, D)
        features = roi_max(
            feature_map.permute(0, 3, 1, 2),
            pooled_boxes,
            output_size=config.roi_output_size,
            spatial_scale=1 / config.patch_hw[0],
            sampling_ratio=config.roi_sampling_ratio,
            aligned=config.roi_aligned,
            boxes_inside=True,
            dropout=self.dropout if self.dropout_before_pooling else None,
        )
        logits = self.classifier(features if self.dropout_before_pooling else self.dropout(features))
        loss = None
        if labels is not None:
            labels = torch.cat(list(labels)) if isinstance(labels, (list, tuple)) else labels
            if tuple(labels.shape) != tuple(logits.shape):
                raise ValueError(
                    f"labels must be zeros and ones of shape {tuple(logits.shape)}, one row per box, got {tuple(labels.shape)}"
                )
            loss = detection_loss(logits, labels.to(logits.device, non_blocking=True), family)
        return VideoMAEForActionDetectionOutput(
            loss=loss,
            logits=logits,
            boxes=torch.cat(pooled_boxes),
            roi_features=features,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


__all__ = ["VideoMAEForActionDetection"]
