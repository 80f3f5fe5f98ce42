import dataclasses
import io
import json

import numpy as np
import PIL.Image
import pytest
import torch
import transformers.dynamic_module_utils
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil
from video_files import make_kind, numbered_frame, numbers_in, write_video

from videomae.image_processing_videomae import VideoMAEImageProcessor
from videomae.sampling_videomae import ClipSampling, inference_clip
from videomae.sampling_videomae import test_clips as clips_of_the_test
from videomae.video_io import Limits, read_frames
from videomae.video_processing_videomae import VideoMAEVideoProcessor

N = 90


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "video.mp4", N, options={"bf": "2"})


def small(**options):
    return VideoMAEVideoProcessor(
        **{"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 96}, **options}
    )


def shown(pixel_values):
    """The numbers that normalised frames (T, C, H, W) show."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    return numbers_in(((pixel_values * std + mean) * 255).permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize(
    "policy",
    [
        ClipSampling(),
        ClipSampling(rule="exact", stride_frames=2),
        ClipSampling("uniform"),
        ClipSampling("spread", num_frames=8),
        ClipSampling("all"),
    ],
    ids=lambda policy: f"{policy.strategy}-{policy.rule}",
)
def test_a_file_becomes_the_clip_of_the_policy(policy, video):
    out = small(sampling=policy)(video, return_tensors="pt", return_metadata=True)
    expected = inference_clip(N, policy)
    assert shown(out["pixel_values"][0]) == expected
    assert out["video_metadata"][0].frames_indices == expected and out["video_metadata"][0].total_num_frames == N
    assert out["video_metadata"][0].fps == pytest.approx(30)


def test_the_pixels_are_those_of_the_image_processor_on_the_same_frames(video):
    options = dict(size={"shortest_edge": 40}, crop_size=32)
    frames = read_frames(video, inference_clip(N, ClipSampling()))
    image = VideoMAEImageProcessor(**options)(frames, return_tensors="pt")["pixel_values"]
    assert torch.equal(VideoMAEVideoProcessor(**options)(video, return_tensors="pt")["pixel_values"], image)


def test_every_kind_of_source_gives_the_same_clip(video):
    reference = small()(video, return_tensors="pt")["pixel_values"]
    content = video.read_bytes()
    for source in [str(video), content, io.BytesIO(content), {"bytes": content, "path": "x"}, [video]]:
        assert torch.equal(small()(source, return_tensors="pt")["pixel_values"], reference)
    batch = small()([video, content], return_tensors="pt")["pixel_values"]
    assert torch.equal(batch, reference.expand(2, -1, -1, -1, -1))


def test_what_the_pipeline_of_transformers_passes_does_not_override_the_policy(video):
    policy = ClipSampling("uniform")
    out = small(sampling=policy)(str(video), num_frames=16, do_sample_frames=True, return_tensors="pt")["pixel_values"]
    assert shown(out[0]) == inference_clip(N, policy)
    eight = small(sampling=policy)(video, num_frames=8, return_tensors="pt")["pixel_values"]
    assert shown(eight[0]) == inference_clip(N, dataclasses.replace(policy, num_frames=8))


def test_all_test_views_come_from_one_read_in_the_official_order(video, monkeypatch):
    from videomae import video_io

    reads = []
    read = video_io.VideoReader.read
    monkeypatch.setattr(
        video_io.VideoReader, "read", lambda self, indices, **k: reads.append(list(indices)) or read(self, indices, **k)
    )
    policy = ClipSampling(clips=3)
    processor = VideoMAEVideoProcessor(size={"shortest_edge": 64}, crop_size=64, sampling=policy, antialias=False)
    out = processor(video, views="test", return_tensors="pt", return_metadata=True)
    clips = clips_of_the_test(N, policy)
    assert out["pixel_values"].shape == (1, 9, 16, 3, 64, 64)
    assert reads == [sorted({index for clip in clips for index in clip})]
    assert out["video_metadata"][0].frames_indices == clips
    whole = small(sampling=policy)
    for k, clip in enumerate(clips):
        frames = whole(read_frames(video, clip), return_tensors="pt")["pixel_values"][0]
        for crop, left in enumerate((0, 16, 32)):
            assert torch.equal(out["pixel_values"][0, 3 * k + crop], frames[..., left : left + 64])


def test_decoded_frames_are_taken_as_they_are_unless_there_are_too_many():
    frames = np.stack([numbered_frame(i) for i in range(40)])
    assert shown(small()(frames[:16], return_tensors="pt")["pixel_values"][0]) == list(range(16))
    assert shown(small()(frames[:16], do_sample_frames=True, return_tensors="pt")["pixel_values"][0]) == list(range(16))
    assert shown(small()(frames, return_tensors="pt")["pixel_values"][0]) == list(range(40))
    sampled = small(sampling={"stride_frames": 2, "rule": "exact"})(frames, do_sample_frames=True, return_tensors="pt")
    assert shown(sampled["pixel_values"][0]) == list(range(4, 36, 2))
    views = small(sampling={"stride_frames": 2, "clips": 2, "crops": 1})(
        list(frames), views="test", return_tensors="pt"
    )
    assert [shown(view) for view in views["pixel_values"][0]] == [list(range(0, 32, 2)), list(range(8, 40, 2))]
    pictures = [PIL.Image.fromarray(frame) for frame in frames[:16]]
    assert shown(small()(pictures, return_tensors="pt")["pixel_values"][0]) == list(range(16))


def test_do_sample_frames_can_be_set_on_the_processor_and_is_kept(tmp_path, video):
    frames = np.stack([numbered_frame(i) for i in range(40)])
    policy = {"stride_frames": 2, "rule": "exact"}
    small(sampling=policy).save_pretrained(tmp_path)
    assert "do_sample_frames" not in json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    processor = VideoMAEVideoProcessor.from_pretrained(tmp_path, do_sample_frames=True)
    assert shown(processor(frames, return_tensors="pt")["pixel_values"][0]) == list(range(4, 36, 2))
    as_given = processor(frames, do_sample_frames=False, return_tensors="pt")["pixel_values"]
    assert shown(as_given[0]) == list(range(40))
    processor.save_pretrained(tmp_path)
    assert VideoMAEVideoProcessor.from_pretrained(tmp_path).do_sample_frames is True
    processor.do_sample_frames = False  # files are always sampled: Hub folders of transformers say False
    assert shown(processor(frames, return_tensors="pt")["pixel_values"][0]) == list(range(40))
    assert shown(processor(video, return_tensors="pt")["pixel_values"][0]) == inference_clip(N, processor.sampling)


def test_a_processor_knows_whether_its_policy_was_saved(tmp_path):
    VideoMAEImageProcessor().save_pretrained(tmp_path)
    assumed = VideoMAEVideoProcessor.from_pretrained(tmp_path)
    assert assumed.sampling_assumed and assumed.sampling == ClipSampling()
    assert not VideoMAEVideoProcessor.from_pretrained(tmp_path, sampling={"clips": 2}).sampling_assumed
    assert not VideoMAEVideoProcessor().sampling_assumed
    assumed.save_pretrained(tmp_path)
    assert "sampling_assumed" not in json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    assert not VideoMAEVideoProcessor.from_pretrained(tmp_path).sampling_assumed
    processor, unused = VideoMAEVideoProcessor.from_pretrained(tmp_path, return_unused_kwargs=True, other=1)
    assert not processor.sampling_assumed and unused["other"] == 1


def test_a_policy_can_be_changed_for_one_call(video):
    processor = small()
    out = processor(video, sampling={"strategy": "spread", "num_frames": 4}, return_tensors="pt")["pixel_values"]
    assert shown(out[0]) == inference_clip(N, ClipSampling("spread", num_frames=4))
    assert processor.sampling == ClipSampling()


# Saved and loaded


def test_the_policy_is_saved_with_the_processor(tmp_path, video):
    processor = small(sampling=ClipSampling("uniform", clips=2, short="loop"), antialias=False)
    processor.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    assert (
        stored["sampling"] == processor.sampling.to_dict()
        and stored["video_processor_type"] == "VideoMAEVideoProcessor"
    )
    again = VideoMAEVideoProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.to_dict()
    changed = VideoMAEVideoProcessor.from_pretrained(tmp_path, sampling={"clips": 1}, antialias=True)
    assert changed.sampling == dataclasses.replace(processor.sampling, clips=1) and changed.antialias


def test_saving_leaves_a_file_for_older_pipelines_too(tmp_path):
    small(image_mean=[0.5] * 3).save_pretrained(tmp_path)
    assert VideoMAEImageProcessor.from_pretrained(tmp_path).image_mean == [0.5] * 3
    stock = VideoMAEImageProcessorPil.from_pretrained(tmp_path)
    assert list(stock.image_mean) == [0.5] * 3 and dict(stock.size) == {"shortest_edge": 64}
    stored = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert stored["image_processor_type"] == "VideoMAEImageProcessor"
    assert stored["sampling"] == ClipSampling().to_dict()  # what a trainer that is given an image processor saves again


@pytest.mark.parametrize(
    "name, stored",
    [
        ("preprocessor_config.json", {"feature_extractor_type": "VideoMAEFeatureExtractor", "size": 40}),
        ("preprocessor_config.json", {"image_processor_type": "VideoMAEImageProcessor", "size": {"shortest_edge": 40}}),
        (
            "video_preprocessor_config.json",
            {
                "video_processor_type": "VideoMAEVideoProcessor",
                "size": {"shortest_edge": 40},
                "do_sample_frames": False,
                "num_frames": None,
                "fps": None,
                "return_metadata": False,
                "device": None,
                "video_metadata": None,
                "default_to_square": False,
                "do_pad": None,
                "input_data_format": None,
            },
        ),
        ("processor_config.json", {"video_processor": {"size": {"shortest_edge": 40}}}),
    ],
)
def test_every_stored_form_of_the_hub_loads(name, stored, tmp_path, video):
    (tmp_path / name).write_text(json.dumps(stored))
    processor = VideoMAEVideoProcessor.from_pretrained(tmp_path)
    assert processor.size == {"shortest_edge": 40} and processor.sampling == ClipSampling()
    assert processor(video, return_tensors="pt", crop_size=32)["pixel_values"].shape == (1, 16, 3, 32, 32)


def test_the_files_that_travel_to_the_hub_load_as_remote_code(tmp_path, monkeypatch):
    monkeypatch.setattr(VideoMAEVideoProcessor, "_auto_class", None)
    VideoMAEVideoProcessor.register_for_auto_class("AutoVideoProcessor")
    small(sampling={"clips": 2}).save_pretrained(tmp_path / "model")
    stored = json.loads((tmp_path / "model" / "video_preprocessor_config.json").read_text())
    reference = stored["auto_map"]["AutoVideoProcessor"]
    remote = transformers.dynamic_module_utils.get_class_from_dynamic_module(reference, str(tmp_path / "model"))
    assert remote.__module__.startswith("transformers_modules") and remote is not VideoMAEVideoProcessor
    assert remote.from_pretrained(tmp_path / "model").sampling.clips == 2
    stored = json.loads((tmp_path / "model" / "preprocessor_config.json").read_text())
    reference = stored["auto_map"]["AutoImageProcessor"]
    images = transformers.dynamic_module_utils.get_class_from_dynamic_module(reference, str(tmp_path / "model"))
    assert images.from_pretrained(tmp_path / "model").size == {"shortest_edge": 64}


# Bad input


def test_a_short_file_follows_the_policy_or_is_an_error_with_its_name(tmp_path):
    short = write_video(tmp_path / "short.mp4", 10)
    held = small(sampling={"rule": "exact"})(short, return_tensors="pt")["pixel_values"]
    assert shown(held[0]) == [0, 4, 8] + [9] * 13
    looped = small(sampling={"short": "loop"})(short, return_tensors="pt")["pixel_values"]
    assert shown(looped[0]) == [i * 4 % 10 for i in range(16)]
    with pytest.raises(ValueError, match=r"short\.mp4: 16 frames at stride 4 span 61 frames, but the video has 10"):
        small(sampling={"short": "error"})(short)


def test_a_cut_off_file_is_an_error_unless_its_beginning_will_do(tmp_path):
    whole = make_kind("h264_mkv", tmp_path)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[:-1500])
    with pytest.raises(ValueError, match=r"cut\.mkv is cut off or damaged"):
        small()(cut)
    out = small(sampling={"strategy": "all"})(cut, errors="truncate", return_tensors="pt", return_metadata=True)
    n = out["video_metadata"][0].total_num_frames
    assert 4 < n < 48 and shown(out["pixel_values"][0][:4]) == [0, 1, 2, 3] and out["pixel_values"].shape[1] == n


def test_damage_that_shows_only_while_decoding_shortens_the_video_if_asked(tmp_path):
    import av

    path = write_video(tmp_path / "png.mov", 30, codec="png", pix_fmt="rgb24")
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    content[places[20] + 20 : places[20] + 60] = bytes(40)
    path.write_bytes(content)
    policy = ClipSampling(num_frames=4, stride_frames=7, rule="exact")
    assert 20 not in inference_clip(20, policy)
    with pytest.raises(ValueError, match="packet 20"):
        small(sampling={"strategy": "all"})(path)
    out = small(sampling={"strategy": "all"})(path, errors="truncate", return_tensors="pt")["pixel_values"]
    assert shown(out[0]) == list(range(20))


def test_wrong_arguments_are_refused(video):
    with pytest.raises(ValueError, match="views must be clip or test, not 'all'"):
        small()(video, views="all")
    with pytest.raises(ValueError, match="fps is not how this model samples"):
        small()(video, fps=2)
    with pytest.raises(ValueError, match="no field 'stride'"):
        small(sampling={"stride": 4})
    with pytest.raises(TypeError, match="sampling must be a ClipSampling or a dict"):
        small(sampling="dense")
    with pytest.raises(FileNotFoundError, match="no video at absent"):
        small()("absent.mp4")
    with pytest.raises(ValueError, match="max_bytes=10"):
        small()(video, limits=Limits(max_bytes=10))
    with pytest.raises(ValueError, match=r"a crop of 96x96 .* does not fit"):
        small(crop_size=96)(video, views="test")
