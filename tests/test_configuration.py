"""The configuration: transformers' fields, ours, the released sizes, and what is refused."""

import dataclasses
import json
import warnings

import pytest
import torch
import transformers
from support import TINY

from videomae import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEModel
from videomae.configuration_videomae import PRESETS


def test_every_field_of_transformers_is_here_with_its_default():
    stock = transformers.VideoMAEConfig
    ours = {field.name: field.default for field in dataclasses.fields(VideoMAEConfig)}
    for field in dataclasses.fields(stock):
        assert ours[field.name] == field.default, field.name
    assert VideoMAEConfig.model_type == stock.model_type


def test_a_config_goes_both_ways_through_its_json(tmp_path):
    ours = VideoMAEConfig.preset("small", head="classify", num_labels=7, drop_path_rate=0.1)
    ours.save_pretrained(tmp_path)
    stock = transformers.VideoMAEConfig.from_pretrained(tmp_path)
    assert stock.hidden_size == 384 and stock.num_labels == 7 and stock.drop_path_rate == 0.1
    stock.save_pretrained(tmp_path / "stock")
    again = VideoMAEConfig.from_pretrained(tmp_path / "stock")
    assert again.to_diff_dict() == ours.to_diff_dict() | {"transformers_version": transformers.__version__}


# Our own fields as version 0.1.0 wrote them into every config.json, up to 2026-11-28.
ONCE_WRITTEN = {
    "norm_eps": 1e-05,
    "drop_path_rate": 0.0,
    "head_dropout_prob": 0.0,
    "init_scale": 1.0,
    "pixel_mean": None,
    "pixel_std": None,
    "pooled_features": False,
    "detection_family": "videomae",
    "roi_output_size": 7,
    "roi_aligned": False,
    "roi_sampling_ratio": 0,
    "detection_size_rule": "pad",
    "box_test_scale": [0.1, 0.05],
    "box_train_jitter": [0.2, 0.1, 0.1, 0.05],
    "detection_stride_frames": 4,
    "detection_frame_rate": None,
    "detection_short_side": 256,
}


def test_a_plain_config_json_is_transformers_own(tmp_path):
    ours, stock = VideoMAEConfig(num_labels=3), transformers.VideoMAEConfig(num_labels=3)
    assert ours.to_dict() == stock.to_dict()
    ours.save_pretrained(tmp_path)
    (tmp_path / "stock").mkdir()
    stock.save_pretrained(tmp_path / "stock")
    assert (tmp_path / "config.json").read_text() == (tmp_path / "stock" / "config.json").read_text()


@pytest.mark.parametrize("head", ["classify", "detect", "features"])
def test_of_our_own_fields_only_those_that_say_something_are_written(tmp_path, head):
    family = {"detection_family": "mmaction2"} if head == "detect" else {}
    config = VideoMAEConfig.preset("small", head=head, **family)
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    expected = {
        "classify": {"norm_eps", "init_scale"},
        "features": {"norm_eps", "pooled_features"},
        "detect": {
            "norm_eps",
            "head_dropout_prob",
            "detection_family",
            "roi_output_size",
            "roi_aligned",
            "detection_size_rule",
            "box_test_scale",
            "box_train_jitter",
            "detection_frame_rate",
        },
    }
    assert written.keys() & ONCE_WRITTEN.keys() == expected[head]
    assert VideoMAEConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_a_config_json_with_every_field_spelt_out_loads_as_the_same(tmp_path):
    """As version 0.1.0 wrote them, giant's narrower decoder MLP of that time included."""
    config = VideoMAEConfig(num_labels=3, decoder_intermediate_size=2048)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict() | ONCE_WRITTEN))
    again = VideoMAEConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict() and again.decoder_intermediate_size == 2048
    detector = {"detection_family": "mmaction2", "roi_aligned": True, "box_test_scale": [0.0, 0.0]}
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict() | ONCE_WRITTEN | detector))
    again = VideoMAEConfig.from_pretrained(tmp_path)
    assert again.to_dict().items() >= detector.items() and again.roi_output_size == 7


def test_a_folder_with_every_field_spelt_out_loads_with_the_same_outputs(tmp_path):
    model = VideoMAEForVideoClassification(VideoMAEConfig(**TINY, num_labels=3)).eval()
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(written | ONCE_WRITTEN))
    again = VideoMAEForVideoClassification.from_pretrained(tmp_path)
    video = torch.randn(1, 16, 3, 32, 32)
    assert torch.equal(model(video).logits, again(video).logits)
    again.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == written


def test_one_number_stands_for_the_statistics_of_all_channels():
    config = VideoMAEConfig(**TINY, pixel_mean=0.5, pixel_std=0.25)
    assert config.pixel_statistics == ([0.5] * 3, [0.25] * 3)
    assert VideoMAEConfig(pixel_mean=[0.1, 0.2, 0.3]).pixel_statistics[0] == [0.1, 0.2, 0.3]
    config.pixel_std = 1e-10  # what transformers' tests write into every field with _std in its name
    VideoMAEModel(config)


def test_an_old_hub_config_loads(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "videomae", "qkv_bias": False, "torch_dtype": "float32", "something_new": [1, 2]})
    )
    config = VideoMAEConfig.from_pretrained(tmp_path)
    assert config.qv_bias is False and config.something_new == [1, 2] and config.norm_eps == 1e-5


@pytest.mark.parametrize(
    "name, version, millions",
    [("small", 1, 22), ("base", 1, 87), ("large", 1, 305), ("huge", 1, 633), ("giant", 2, 1013)],
)
def test_preset_encoders_have_the_published_sizes(name, version, millions):
    """Parameters of a Kinetics-400 classifier, in millions: the papers give 22, 87, 305, 633 and 1013."""
    config = VideoMAEConfig.preset(name, version=version, head="classify", num_labels=400)
    with torch.device("meta"):
        assert abs(VideoMAEForVideoClassification(config).num_parameters() / 1e6 - millions) < 1


def test_preset_heads_set_the_norms_that_go_with_them():
    pretrain, classify, features = (
        VideoMAEConfig.preset("base", head=head) for head in ("pretrain", "classify", "features")
    )
    assert not pretrain.use_mean_pooling and classify.use_mean_pooling and features.use_mean_pooling
    assert features.pooled_features and not classify.pooled_features
    assert classify.init_scale == 0.001
    assert {config.layer_norm_eps for config in (pretrain, classify, features)} == {1e-6}


def test_giant_has_patches_of_14_and_2048_tokens():
    config = VideoMAEConfig.preset("giant", version=2)
    assert config.grid == (8, 16, 16) and config.num_patches == 2048


def test_decoder_mlps_have_the_encoders_ratio_as_in_the_release():
    widths = {name: VideoMAEConfig.preset(name, version=2).decoder_intermediate_size for name in PRESETS}
    assert widths == {"small": 768, "base": 1536, "large": 2048, "huge": 2048, "giant": 2234}  # int(512 * 48 / 11)
    first = {name: VideoMAEConfig.preset(name).decoder_intermediate_size for name in ("large", "huge")}
    assert first == {"large": 2048, "huge": 2560}


def test_unknown_presets_say_what_exists():
    with pytest.raises(ValueError, match="unknown preset 'tiny'; choose one of small, base, large, huge, giant"):
        VideoMAEConfig.preset("tiny")
    with pytest.raises(ValueError, match="preset 'giant' exists in version 2, not 1"):
        VideoMAEConfig.preset("giant")
    with pytest.raises(ValueError, match="unknown head 'classifier'; choose one of pretrain, classify"):
        VideoMAEConfig.preset("base", head="classifier")


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(num_attention_heads=5), "hidden_size=48 is not divisible by num_attention_heads=5"),
        (
            dict(decoder_num_attention_heads=5),
            "decoder_hidden_size=36 is not divisible by decoder_num_attention_heads=5",
        ),
        (
            dict(image_size=30),
            r"image_size=30 is not divisible by patch_size=8 \(height 30 by 8\); the nearest size is 24",
        ),
        (dict(num_frames=5), "num_frames=5 is not divisible by tubelet_size=2"),
        (dict(hidden_act="gelo"), "unknown hidden_act 'gelo'"),
        (dict(pixel_mean=[0.5]), "pixel_mean has 1 values for num_channels=3"),
        (dict(pixel_std=[0.5, 0.0, 0.5]), "pixel_std must be positive"),
        (dict(pixel_std=0.0), "pixel_std must be positive, got 0.0"),
        (dict(drop_path_rate=1.5), r"drop_path_rate must be in \[0, 1\), got 1.5"),
    ],
)
def test_what_no_model_can_be_built_from_is_refused_when_one_is_built(fields, message):
    config = VideoMAEConfig(**{**TINY, **fields})  # the configuration alone may be odd
    with pytest.raises(ValueError, match=message):
        VideoMAEModel(config)


def test_a_wrong_type_is_refused_at_once():
    with pytest.raises(Exception, match=r"num_frames.*expected int"):
        VideoMAEConfig(num_frames="16")


def test_a_small_model_with_sixteen_heads_is_named():
    config = VideoMAEConfig(**{**TINY, "hidden_size": 384, "num_attention_heads": 16})
    with pytest.warns(UserWarning, match="released VideoMAE small has 6 heads"):
        VideoMAEModel(config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VideoMAEModel(VideoMAEConfig(**{**TINY, "hidden_size": 384, "num_attention_heads": 6}))


def test_a_classifier_that_reads_one_token_is_named(caplog, monkeypatch):
    from transformers.utils import logging

    logging.warning_once.cache_clear()  # another test may have drawn the warning already
    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.get_logger("videomae.modeling_videomae"), "propagate", True)
    VideoMAEForVideoClassification(VideoMAEConfig(**TINY, use_mean_pooling=False))
    assert "VideoMAE has no CLS token" in caplog.text


def test_a_config_of_transformers_is_taken_as_it_is():
    model = VideoMAEModel(transformers.VideoMAEConfig(**TINY))
    assert isinstance(model.config, VideoMAEConfig) and model.config.hidden_size == 48
