import json

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors import safe_open
from support import GOLDEN
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

from videomae.image_processing_videomae import (
    VideoMAEFeatureExtractor,
    VideoMAEImageProcessor,
    center_crop,
    long_side_crops,
    rescale_and_normalize,
    resize,
    resize_short_side,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def natural(T=2, H=61, W=83, seed=0):
    """Smooth uint8 frames (T, H, W, 3) with edges, unlike noise."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (T, 9, 11, 3)).astype(np.uint8)
    frames = [np.array(PIL.Image.fromarray(frame).resize((W, H), PIL.Image.BICUBIC)) for frame in coarse]
    for frame in frames:
        frame[H // 3 : H // 2, W // 4 : W // 2] = random.integers(0, 256, 3)
    return np.stack(frames)


def small(**options):
    return VideoMAEImageProcessor(**{"size": {"shortest_edge": 32}, "crop_size": 32, **options})


# Equal to transformers


with safe_open(GOLDEN / "processor.safetensors", "pt") as golden_file:
    # Sorted: safetensors gives them in another order in each process, and the processes of a run must agree.
    GOLDEN_CASES = {name: json.loads(fields) for name, fields in sorted(golden_file.metadata().items())}
    GOLDEN_TENSORS = {key: golden_file.get_tensor(key) for key in golden_file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("name", GOLDEN_CASES)
@pytest.mark.parametrize("layout", ["channels_last", "channels_first", "list of frames"])
def test_outputs_are_bit_equal_to_those_of_the_torchvision_processors(name, layout):
    size, (height, width) = GOLDEN_CASES[name]["size"], GOLDEN_CASES[name]["crop"]
    video = GOLDEN_TENSORS[f"{name}.video"]
    cropped = center_crop(resize_short_side(video.permute(0, 3, 1, 2), size), height, width)
    assert torch.equal(cropped, GOLDEN_TENSORS[f"{name}.resized_cropped"])
    processor = VideoMAEImageProcessor(size=size, crop_size={"height": height, "width": width})
    given = {
        "channels_last": video,
        "channels_first": video.permute(0, 3, 1, 2).contiguous(),
        "list of frames": list(video),
    }
    out = processor(given[layout], return_tensors="pt")["pixel_values"]
    assert torch.equal(out[0], GOLDEN_TENSORS[f"{name}.pixel_values"])


@pytest.mark.parametrize("seed", range(12))
def test_outputs_are_within_one_level_of_the_pillow_processor(seed):
    random = np.random.default_rng(seed)
    H, W = random.integers(20, 200, 2)
    size = int(random.integers(16, 120))
    crop = [int(v) for v in random.integers(8, size + 1, 2)]  # padding differs between the stock two
    video = list(natural(1, H, W, seed))
    options = dict(size={"shortest_edge": size}, crop_size={"height": crop[0], "width": crop[1]}, do_normalize=False)
    ours = VideoMAEImageProcessor(**options)(video, return_tensors="np")["pixel_values"]
    stock = VideoMAEImageProcessorPil(**options)(video, return_tensors="np")["pixel_values"]
    assert ours.shape == stock.shape and np.abs(ours - stock).max() <= 1 / 255 + 1e-6


# The functions


def opencv_linear(frame, height, width):
    """A resize by two taps a side in float64, the sample points of OpenCV's INTER_LINEAR."""

    def taps(new, old):
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.minimum(at.astype(int), old - 1)
        return low, np.minimum(low + 1, old - 1), at - low

    y0, y1, dy = taps(height, frame.shape[0])
    x0, x1, dx = taps(width, frame.shape[1])
    rows = frame[y0] * (1 - dy)[:, None, None] + frame[y1] * dy[:, None, None]
    return rows[:, x0] * (1 - dx)[None, :, None] + rows[:, x1] * dx[None, :, None]


@pytest.mark.parametrize("size", [(20, 30), (45, 83), (100, 150)])
def test_without_antialias_the_resize_is_the_linear_one_of_the_official_test(size):
    frame = natural(1)[0]
    ours = resize(torch.from_numpy(frame).permute(2, 0, 1), *size, antialias=False).permute(1, 2, 0)
    assert np.abs(ours.numpy().astype(float) - opencv_linear(frame.astype(float), *size)).max() <= 1 + 1e-9


def test_the_longer_side_rounds_down_and_any_leading_sizes_pass():
    frames = torch.zeros(2, 5, 3, 40, 61, dtype=torch.uint8)
    assert resize_short_side(frames, 24).shape == (2, 5, 3, 24, 36)  # 36.6
    assert resize_short_side(frames[0, 0].transpose(1, 2), 24).shape == (3, 36, 24)
    assert resize(frames, 40, 61) is frames


@pytest.mark.parametrize(
    "shape, starts", [((10, 31), [(0, 0), (0, 10), (0, 21)]), ((25, 12), [(0, 1), (7, 1), (15, 1)])]
)
def test_the_three_crops_lie_at_start_middle_and_end_of_the_longer_side(shape, starts):
    frames = torch.arange(shape[0] * shape[1]).view(1, *shape)
    crops = long_side_crops(frames, 10, 10)
    corners = [divmod(int(crop[0, 0, 0]), shape[1]) for crop in crops]
    assert corners == starts and all(crop.shape == (1, 10, 10) for crop in crops)
    (single,) = long_side_crops(frames, 10, 10, crops=1)
    assert torch.equal(single, center_crop(frames, 10, 10))
    with pytest.raises(ValueError, match=r"40x10 .* does not fit"):
        long_side_crops(frames, 40, 10)


def test_a_crop_larger_than_the_frame_is_padded_with_zeros_on_both_sides():
    padded = center_crop(torch.ones(1, 2, 3), 5, 4)
    assert padded.shape == (1, 5, 4) and padded[0, 1:3, :3].eq(1).all() and padded.sum() == 6


def test_normalisation_is_the_textbook_one_and_leaves_its_input_alone():
    frames = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    before = frames.clone()
    expected = (frames.double() / 255 - torch.tensor(MEAN).double().view(3, 1, 1)) / torch.tensor(STD).double().view(
        3, 1, 1
    )
    assert torch.allclose(rescale_and_normalize(frames, MEAN, STD).double(), expected, atol=1e-5)
    floats = frames.float() / 255
    kept = floats.clone()
    assert torch.allclose(rescale_and_normalize(floats, MEAN, STD).double(), expected, atol=1e-5)
    assert torch.equal(frames, before) and torch.equal(floats, kept)
    assert torch.allclose(rescale_and_normalize(frames, None, None), frames / 255)
    assert torch.equal(rescale_and_normalize(frames, None, None, rescale_factor=None), frames.float())


# What people pass


def test_every_way_to_hold_a_video_gives_the_same_pixels():
    video = natural(3)
    reference = small()(video, return_tensors="pt")["pixel_values"]
    assert reference.shape == (1, 3, 3, 32, 32)
    first = np.ascontiguousarray(video.transpose(0, 3, 1, 2))
    for given in [
        list(video),
        [PIL.Image.fromarray(frame) for frame in video],
        [torch.from_numpy(frame) for frame in video],
        list(first),
        first,
        torch.from_numpy(first),
        [video],
        video[None],
        torch.from_numpy(first)[None],
        [list(video)],
        (tuple(video),),
        video.astype(np.int64),
    ]:
        assert torch.equal(small()(given, return_tensors="pt")["pixel_values"], reference)
    assert torch.equal(small()(images=video, return_tensors="pt")["pixel_values"], reference)
    assert torch.equal(small().preprocess(videos=video, return_tensors="pt")["pixel_values"], reference)


def test_floats_from_zero_to_one_are_pictures_already_scaled():
    video = natural(2)
    ours = small(do_resize=False)(video.astype(np.float32) / 255, return_tensors="pt")["pixel_values"]
    assert torch.allclose(ours, small(do_resize=False)(video, return_tensors="pt")["pixel_values"], atol=1e-5)
    half = small()(torch.from_numpy(video).half() / 255, return_tensors="pt")["pixel_values"]
    assert half.dtype == torch.float32


def test_a_batch_holds_every_video_in_order():
    videos = [natural(4, seed=seed) for seed in range(3)]
    batch = small()(videos, return_tensors="pt")["pixel_values"]
    assert batch.shape == (3, 4, 3, 32, 32)
    for video, out in zip(videos, batch):
        assert torch.equal(small()(video, return_tensors="pt")["pixel_values"][0], out)
    assert small()(videos, return_tensors="np")["pixel_values"].shape == (3, 4, 3, 32, 32)
    assert [clip.shape for clip in small()(videos)["pixel_values"]] == [(4, 3, 32, 32)] * 3


def test_frames_of_several_sizes_in_one_video_are_each_resized():
    frames = [*natural(2, 50, 70), *natural(1, 90, 40), *natural(1, 50, 70, seed=3)]
    out = small()(frames, return_tensors="pt")["pixel_values"][0]
    for frame, pixels in zip(frames, out):
        assert torch.equal(small()([frame], return_tensors="pt")["pixel_values"][0, 0], pixels)


def test_grey_frames_become_rgb_and_alpha_is_dropped():
    video = natural(2)
    grey = video[..., :1]
    expected = small()(np.repeat(grey, 3, axis=-1), return_tensors="pt")["pixel_values"]
    assert torch.equal(small()(grey, return_tensors="pt")["pixel_values"], expected)
    assert torch.equal(small()(list(grey[..., 0]), return_tensors="pt")["pixel_values"], expected)
    assert torch.equal(
        small()([PIL.Image.fromarray(f) for f in grey[..., 0]], return_tensors="pt")["pixel_values"], expected
    )
    alpha = np.concatenate([video, np.full_like(grey, 128)], axis=-1)
    expected = small()(video, return_tensors="pt")["pixel_values"]
    assert torch.equal(small()(alpha, return_tensors="pt")["pixel_values"], expected)
    assert torch.equal(small()([PIL.Image.fromarray(f) for f in alpha], return_tensors="pt")["pixel_values"], expected)


@pytest.mark.parametrize("kind", ["array", "pictures"])
def test_a_model_of_four_channels_keeps_all_four(kind):
    frames = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 4), dtype=np.uint8)
    video = frames if kind == "array" else [PIL.Image.fromarray(frame) for frame in frames]
    options = dict(do_resize=False, do_center_crop=False, return_tensors="pt", input_data_format="channels_last")
    out = VideoMAEImageProcessor()(video, image_mean=(0.0,) * 4, image_std=(1.0,) * 4, **options)["pixel_values"]
    assert torch.allclose(out[0], torch.from_numpy(frames).permute(0, 3, 1, 2) / 255)
    assert VideoMAEImageProcessor()(video, **options)["pixel_values"].shape == (1, 4, 3, 16, 16)


def test_a_model_of_one_channel_keeps_grey_frames_grey():
    out = small(image_mean=[0.5], image_std=[0.5])(natural(2)[..., :1], return_tensors="pt")["pixel_values"]
    assert out.shape == (1, 2, 1, 32, 32)


def test_each_step_can_be_left_out_and_each_option_given_for_one_call():
    video, processor = natural(2), small()
    plain = processor(
        video, do_resize=False, do_center_crop=False, do_rescale=False, do_normalize=False, return_tensors="np"
    )
    assert np.array_equal(plain["pixel_values"][0], video.transpose(0, 3, 1, 2))
    last = processor(video, data_format="channels_last", return_tensors="pt")["pixel_values"]
    assert torch.equal(last.permute(0, 1, 4, 2, 3), processor(video, return_tensors="pt")["pixel_values"])
    square = processor(video, size={"height": 40, "width": 50}, do_center_crop=False, return_tensors="pt")[
        "pixel_values"
    ]
    assert square.shape == (1, 2, 3, 40, 50)
    sharp = processor(video, antialias=False, return_tensors="pt")["pixel_values"]
    assert not torch.equal(sharp, processor(video, return_tensors="pt")["pixel_values"])
    assert processor.antialias and processor.size == {"shortest_edge": 32}
    tiny = np.zeros((2, 3, 3, 20), np.uint8)
    last = processor(
        tiny,
        input_data_format="channels_last",
        do_resize=False,
        do_center_crop=False,
        do_normalize=False,
        do_convert_rgb=False,
        return_tensors="pt",
    )
    assert last["pixel_values"].shape == (1, 2, 20, 3, 3)


@pytest.mark.parametrize("resample, name", [(0, "nearest-exact"), (3, "bicubic")])
def test_other_resamplings_are_available(resample, name):
    video = natural(1)
    out = small(resample=resample, do_center_crop=False, do_rescale=False, do_normalize=False)(
        video, return_tensors="np"
    )
    pillow = PIL.Image.fromarray(video[0]).resize((43, 32), resample)
    close = np.abs(out["pixel_values"][0, 0].transpose(1, 2, 0) - np.array(pillow, float)) <= 1
    assert close.mean() > 0.999


# Saved and loaded


@pytest.mark.parametrize(
    "stored",
    [
        {"feature_extractor_type": "VideoMAEFeatureExtractor", "size": 40, "crop_size": 32, "resample": 2},
        {
            "feature_extractor_type": "VideoMAEFeatureExtractor",
            "size": {"shortest_edge": 40},
            "do_resize": True,
            "crop_size": {"height": 32, "width": 32},
            "image_mean": list(MEAN),
            "image_std": list(STD),
        },
        {
            "image_processor_type": "VideoMAEImageProcessor",
            "size": {"shortest_edge": 40},
            "crop_size": None,
            "rescale_factor": 0.00392156862745098,
            "do_convert_rgb": None,
            "disable_grouping": None,
            "pad_size": None,
        },
        {
            "image_processor_type": "VideoMAEImageProcessorPil",
            "size": {"shortest_edge": 40, "longest_edge": None},
            "processor_class": None,
            "data_format": "channels_first",
        },
    ],
)
def test_every_stored_form_of_the_hub_loads(stored, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
    for kind in (VideoMAEImageProcessor, VideoMAEFeatureExtractor):
        processor = kind.from_pretrained(tmp_path)
        assert processor.size == {"shortest_edge": 40} and processor.image_mean == list(MEAN)
        assert processor.crop_size["height"] == (32 if stored.get("crop_size") else 224)


def test_a_stored_mean_wins_over_the_default(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    processor = VideoMAEImageProcessor.from_pretrained(tmp_path)
    assert processor.image_mean == [0.5] * 3
    assert VideoMAEImageProcessor.from_pretrained(tmp_path, image_mean=list(MEAN)).image_mean == list(MEAN)


def test_a_saved_processor_comes_back_and_loads_in_transformers(tmp_path):
    processor = small(antialias=False, do_normalize=False, crop_size={"height": 24, "width": 28})
    processor.save_pretrained(tmp_path)
    assert VideoMAEImageProcessor.from_pretrained(tmp_path).to_dict() == processor.to_dict()
    stock = VideoMAEImageProcessorPil.from_pretrained(tmp_path)
    assert dict(stock.crop_size) == {"height": 24, "width": 28} and not stock.do_normalize


# Bad input


@pytest.mark.parametrize(
    "options, message",
    [
        ({"crop_size": 0}, r"crop_size\['height'\] must be a positive number of pixels, not 0"),
        ({"size": {"shortest_edge": -1}}, "must be a positive number of pixels, not -1"),
        ({"size": {"short": 3}}, "size must have|size must be"),
        ({"resample": 5}, r"resample must be one of 0 \(nearest-exact\), 2 \(bilinear\), 3 \(bicubic\), not 5"),
        ({"image_std": [1, 0, 1]}, "image_std must not hold 0"),
        ({"image_mean": [0.5]}, "differ in length"),
        ({"data_format": "nhwc"}, "data_format must be"),
    ],
)
def test_wrong_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


@pytest.mark.parametrize(
    "video, error, message",
    [
        ([], ValueError, "the list is empty"),
        ([[]], ValueError, "a video has no frames"),
        (np.zeros((0, 8, 8, 3), np.uint8), ValueError, "the frames are empty"),
        (np.full((2, 8, 8, 3), np.nan, np.float32), ValueError, "NaN or infinite"),
        (np.linspace(-1, 1, 384, dtype=np.float32).reshape(2, 8, 8, 3), ValueError, "and these go from -1 to 1"),
        (np.full((2, 8, 8, 3), -0.1, np.float32), ValueError, "taken as 0 to 1"),
        (np.full((2, 8, 8, 3), 300, np.int32), ValueError, "integer frames are 0 to 255"),
        (np.zeros((2, 8, 8, 3), bool), TypeError, "booleans"),
        (np.zeros((2, 8, 9, 7), np.uint8), ValueError, "no axis of 1, 3 or 4 channels"),
        (np.zeros((1, 1, 2, 8, 8, 3), np.uint8), ValueError, "got shape"),
        ("a.mp4", TypeError, "not str"),
        ([1, 2], TypeError, "not int"),
    ],
)
def test_frames_that_cannot_be_meant_are_refused(video, error, message):
    with pytest.raises(error, match=message):
        small()(video, return_tensors="pt")


def test_floats_of_0_to_255_are_taken_as_such_with_a_warning(caplog, monkeypatch):
    from transformers.utils import logging

    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.get_logger("videomae.image_processing_videomae"), "propagate", True)
    logging.warning_once.cache_clear()
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    exact = small()(frames, return_tensors="pt").pixel_values
    floats = small()(frames.astype(np.float32), return_tensors="pt").pixel_values
    assert (floats - exact).abs().max() < 0.02  # resizing uint8 rounds
    assert "taken as on the scale of 0 to 255" in caplog.text


def test_a_batch_of_unequal_videos_says_so():
    with pytest.raises(ValueError, match="differ in shape"):
        small()([natural(2), natural(3)], return_tensors="pt")
    with pytest.raises(TypeError, match="no option 'antialiasing'; its options are do_resize"):
        small()(natural(2), antialiasing=True)
    with pytest.raises(ValueError, match="return_tensors must be 'pt', 'np' or None, not 'tf'"):
        small()(natural(2), return_tensors="tf")
    with pytest.raises(ValueError, match="1 channels and image_mean has 3"):
        small(do_convert_rgb=False)(natural(2)[..., :1], return_tensors="pt")


def test_values_beyond_one_pass_when_nothing_is_rescaled():
    out = small(do_rescale=False, do_normalize=False)(np.full((2, 40, 40, 3), 254.0, np.float32), return_tensors="pt")
    assert out["pixel_values"].max() == pytest.approx(254.0)
