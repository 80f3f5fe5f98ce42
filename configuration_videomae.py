"""What a VideoMAE model is: one configuration for V1, V2, classification and detection, and the released sizes.

Every field of transformers' own VideoMAEConfig is here under the same name with the same default, so any `config.json`
on the Hub loads, and what we write loads in transformers, which ignores the fields that only we have. Those are written
only where they differ from their default, so a plain model's `config.json` is transformers' own.
"""

import dataclasses
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from huggingface_hub.dataclasses import strict
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.videomae.configuration_videomae import VideoMAEConfig as StockVideoMAEConfig

IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]
OFFICIAL_NORM_EPS = 1e-6  # every LayerNorm of the released code; stock transformers cannot express it for all of them

HEADS = ("pretrain", "classify", "detect", "features")


class Preset(NamedTuple):
    """A released size; `decoder` has the width, heads and layers of the decoder by version."""

    width: int
    layers: int
    heads: int
    mlp: int  # width of the MLP
    patch: int
    decoder: dict[int, tuple[int, int, int]]


# VideoMAE, table 8 of the appendix; VideoMAE V2, section A. Head counts leave no mark on a checkpoint, so this table is
# where they come from.
PRESETS = {
    "small": Preset(width=384, layers=12, heads=6, mlp=1536, patch=16, decoder={1: (192, 3, 4), 2: (192, 3, 4)}),
    "base": Preset(width=768, layers=12, heads=12, mlp=3072, patch=16, decoder={1: (384, 6, 4), 2: (384, 6, 4)}),
    "large": Preset(width=1024, layers=24, heads=16, mlp=4096, patch=16, decoder={1: (512, 8, 12), 2: (512, 8, 4)}),
    "huge": Preset(width=1280, layers=32, heads=16, mlp=5120, patch=16, decoder={1: (640, 8, 12), 2: (512, 8, 4)}),
    "giant": Preset(width=1408, layers=40, heads=16, mlp=6144, patch=14, decoder={2: (512, 8, 4)}),
}

# How the two released families of action detectors differ, beside their training: RoIAlign, frames that patches do not
# tile, widening of boxes at test, jitter in training, and the pixels (VideoMAE-Action-Detection kept the scaling of the
# detection code it grew from; mmaction2 uses ImageNet's, which is what an unset mean means).
DETECTION_FAMILIES = {
    "videomae": dict(
        roi_output_size=7,
        roi_aligned=False,
        detection_size_rule="pad",
        box_test_scale=[0.1, 0.05],
        box_train_jitter=[0.2, 0.1, 0.1, 0.05],
        head_dropout_prob=0.0,
        detection_frame_rate=25.0,  # process_ava_videos.py of AlphAction, whose data the release used
        pixel_mean=[122.7717 / 255, 115.9465 / 255, 102.9801 / 255],
        pixel_std=[57.375 / 255] * 3,
    ),
    "mmaction2": dict(
        roi_output_size=8,
        roi_aligned=True,
        detection_size_rule="drop",
        box_test_scale=[0.0, 0.0],
        box_train_jitter=[0.0, 0.0, 0.0, 0.0],
        head_dropout_prob=0.5,
        detection_frame_rate=30.0,  # extract_rgb_frames.sh of mmaction2
        pixel_mean=None,
        pixel_std=None,
    ),
}


@strict
class VideoMAEConfig(PreTrainedConfig):
    """Architecture of a VideoMAE model.

    The fields down to `norm_pix_loss` are transformers' own. The others:

    norm_eps (`float`, defaults to 1e-5): epsilon of `fc_norm` and of the decoder's norm, which transformers fixes at
        1e-5; the released weights were trained with 1e-6.
    drop_path_rate (`float`, defaults to 0.0): stochastic depth of the last block; earlier blocks get less, linearly.
    head_dropout_prob (`float`, defaults to 0.0): dropout in front of the classifier.
    init_scale (`float`, defaults to 1.0): factor on a fresh classifier's weights; fine-tuning uses 0.001.
    pixel_mean, pixel_std (`list[float]` or `float`, *optional*): how `pixel_values` were normalised, undone for the
        reconstruction target; one number stands for all channels. ImageNet's for three channels when unset; nothing is
        undone for other counts.
    temperature (`float`, defaults to 1.0): of a classifier's scores: the pipeline gives those of logits divided by it,
        and the answers stay. The model's own logits are left as they are.
    calibrated_on (`str`, *optional*): the videos that the temperature was fitted on, for the card.
    pooled_features (`bool`, defaults to `False`): `VideoMAEModel` normalises the mean token into `pooler_output`,
        as the VideoMAE V2 feature extractors do.
    detection_family (`str`, defaults to `"videomae"`): `"videomae"` (VideoMAE-Action-Detection) or `"mmaction2"`.
    roi_output_size, roi_aligned, roi_sampling_ratio: RoIAlign of the detection head (0 = adaptive sampling).
    detection_size_rule (`str`, defaults to `"pad"`): frames that patches do not tile are padded or lose the remainder.
    box_test_scale (`list[float]`): by how much of its width and height a box is widened at test, in total.
    box_train_jitter (`list[float]`): largest move of a box's edges in training, as shares of its size: left/right
        outward and inward, top/bottom outward and inward.
    detection_stride_frames, detection_frame_rate: the clip around a key frame: frames between two of its frames, counted
        at so many frames a second (`None`: at the video's own rate).
    detection_short_side (`int`): the short side that whole frames are scaled to for detection.
    """

    model_type = "videomae"

    image_size: int | list[int] | tuple[int, int] = 224
    patch_size: int | list[int] | tuple[int, int] = 16
    num_channels: int = 3
    num_frames: int = 16
    tubelet_size: int = 2
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    qv_bias: bool = True
    use_mean_pooling: bool = True
    decoder_num_attention_heads: int = 6
    decoder_hidden_size: int = 384
    decoder_num_hidden_layers: int = 4
    decoder_intermediate_size: int = 1536
    norm_pix_loss: bool = True

    norm_eps: float = 1e-5
    drop_path_rate: float | int = 0.0
    head_dropout_prob: float | int = 0.0
    init_scale: float | int = 1.0
    pixel_mean: list[float] | tuple[float, ...] | float | None = None
    pixel_std: list[float] | tuple[float, ...] | float | None = None
    temperature: float | int = 1.0
    calibrated_on: str | None = None
    pooled_features: bool = False

    detection_family: str = "videomae"
    roi_output_size: int = 7
    roi_aligned: bool = False
    roi_sampling_ratio: int = 0
    detection_size_rule: str = "pad"
    box_test_scale: list[float] | tuple[float, float] = (0.1, 0.05)
    box_train_jitter: list[float] | tuple[float, float, float, float] = (0.2, 0.1, 0.1, 0.05)
    detection_stride_frames: int = 4
    detection_frame_rate: float | int | None = None
    detection_short_side: int = 256

    if TYPE_CHECKING:  # in transformers both may be None, which no configuration is once it was made
        id2label: dict[int, str] = dataclasses.field(  # pyright: ignore[reportIncompatibleVariableOverride]  # narrower
            default_factory=dict
        )

        @property
        def num_labels(self) -> int: ...

        @num_labels.setter
        def num_labels(self, num_labels: int) -> None: ...

    def __post_init__(self, **kwargs):
        if "qkv_bias" in kwargs:  # the name in a few old configs, as in transformers
            self.qv_bias = kwargs.pop("qkv_bias")
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, without the fields of our own that have their default."""
        fields = super().to_dict()
        stock = {field.name for field in dataclasses.fields(StockVideoMAEConfig)}
        for field in dataclasses.fields(self):
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            if field.name not in stock and fields.get(field.name) == default:
                fields.pop(field.name, None)
        return fields

    @classmethod
    def preset(cls, name: str, *, head: str = "pretrain", version: int = 1, **overrides) -> "VideoMAEConfig":
        """The configuration of a released size: small, base, large, huge (V1 and V2) or giant (V2).

        `head` says what it is for: "pretrain" and "detect" keep the encoder's final norm, "classify" mean-pools and
        starts from a small head, "features" is the V2 Hub models' pooled encoder. `version` picks the decoder.
        Anything else can be overridden by name; for "detect", `detection_family` brings that family's own fields.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
        if head not in HEADS:
            raise ValueError(f"unknown head {head!r}; choose one of {', '.join(HEADS)}")
        shape = PRESETS[name]
        if version not in shape.decoder:
            known = " or ".join(str(number) for number in shape.decoder)
            raise ValueError(f"preset {name!r} exists in version {known}, not {version!r}")
        decoder_width, decoder_heads, decoder_layers = shape.decoder[version]
        fields = dict(
            patch_size=shape.patch,
            hidden_size=shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=shape.mlp,
            decoder_hidden_size=decoder_width,
            decoder_num_attention_heads=decoder_heads,
            decoder_num_hidden_layers=decoder_layers,
            # The release passes one MLP ratio to both: 4, and 48/11 in giant, whose decoder MLP is so 2234 wide.
            decoder_intermediate_size=decoder_width * shape.mlp // shape.width,
            layer_norm_eps=OFFICIAL_NORM_EPS,
            norm_eps=OFFICIAL_NORM_EPS,
            use_mean_pooling=head in ("classify", "features"),
            pooled_features=head == "features",
            init_scale=0.001 if head == "classify" else 1.0,
        )
        if head == "detect":
            family = overrides.get("detection_family", "videomae")
            if family not in DETECTION_FAMILIES:
                raise ValueError(f"unknown detection_family {family!r}; choose one of {', '.join(DETECTION_FAMILIES)}")
            fields.update(DETECTION_FAMILIES[family])
        return cls(**{**fields, **overrides})

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        return _pair(self.image_size)

    @property
    def patch_hw(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return _pair(self.patch_size)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens along time, height and width of a clip of the configured size."""
        (height, width), (patch_height, patch_width) = self.image_hw, self.patch_hw
        return self.num_frames // self.tubelet_size, height // patch_height, width // patch_width

    @property
    def num_patches(self) -> int:
        """Tokens of a clip of the configured size."""
        t, h, w = self.grid
        return t * h * w

    @property
    def pixel_statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation that take `pixel_values` back to the range [0, 1], per channel."""
        imagenet = self.num_channels == len(IMAGENET_MEAN)
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if imagenet else (0.0, 1.0)
        mean = mean if self.pixel_mean is None else self.pixel_mean
        std = std if self.pixel_std is None else self.pixel_std
        return self._per_channel(mean), self._per_channel(std)

    def _per_channel(self, values: float | list[float] | tuple[float, ...]) -> list[float]:
        return [float(values)] * self.num_channels if isinstance(values, (int, float)) else list(values)

    def check_buildable(self) -> None:
        """Raise for what no model can be built from, warn about what builds and is wrong.

        Called when a model is built: a configuration alone may be odd, since tools make odd ones in passing.
        """
        for width, heads in (
            ("hidden_size", "num_attention_heads"),
            ("decoder_hidden_size", "decoder_num_attention_heads"),
        ):
            if getattr(self, width) % getattr(self, heads):
                raise ValueError(
                    f"{width}={getattr(self, width)} is not divisible by {heads}={getattr(self, heads)}; "
                    "choose a number of heads that divides the width"
                )
        for side, size, patch in zip(("height", "width"), self.image_hw, self.patch_hw):
            if size % patch or size < patch:
                raise ValueError(
                    f"image_size={self.image_size} is not divisible by patch_size={self.patch_size} ({side} {size} by "
                    f"{patch}); the nearest size is {max(size // patch, 1) * patch}"
                )
        if self.num_frames % self.tubelet_size or self.num_frames < self.tubelet_size:
            raise ValueError(
                f"num_frames={self.num_frames} is not divisible by tubelet_size={self.tubelet_size}; frames that fill "
                "no tubelet would be dropped"
            )
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"unknown hidden_act {self.hidden_act!r}; the released models use 'gelu'")
        for name, values in zip(("pixel_mean", "pixel_std"), self.pixel_statistics):
            if len(values) != self.num_channels:
                raise ValueError(
                    f"{name} has {len(values)} values for num_channels={self.num_channels}; give one each, or one number"
                )
        if min(self.pixel_statistics[1]) <= 0:
            raise ValueError(f"pixel_std must be positive, got {self.pixel_std}")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be positive, got {self.temperature}; 1 leaves scores as they are")
        for name in ("drop_path_rate", "head_dropout_prob"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.hidden_size == 384 and self.num_attention_heads == 16:
            warnings.warn(
                "hidden_size=384 with num_attention_heads=16: the released VideoMAE small has 6 heads, and a converter "
                "that was once in use wrote 16. The weights load either way and the outputs differ; pass "
                "num_attention_heads=6 unless you trained this model with 16.",
                stacklevel=3,
            )


def _pair(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if len(size) != 2:
        raise ValueError(f"a size is one int or (height, width), got {list(size)}")
    return int(size[0]), int(size[1])


__all__ = ["VideoMAEConfig"]
