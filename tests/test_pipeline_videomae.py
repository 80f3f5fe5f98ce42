import functools
import http.server
import json
import os
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import PIL.Image
import pytest
import torch
import transformers
from support import TINY
from transformers import pipeline
from transformers.utils import is_torchvision_available, logging
from video_files import number_in, write_video

from videomae import (
    VideoMAEConfig,
    VideoMAEFeatureExtractor,
    VideoMAEForVideoClassification,
    VideoMAEImageProcessor,
    VideoMAEVideoProcessor,
)
from videomae.pipeline_videomae import VideoClassificationPipeline
from videomae.sampling_videomae import ClipSampling
from videomae.video_io import VideoReadError, read_frames

LABELS = {i: f"class {i}" for i in range(7)}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = VideoMAEConfig(**TINY, id2label=LABELS, label2id={v: k for k, v in LABELS.items()})
    model = VideoMAEForVideoClassification(config).eval()
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    return model


@pytest.fixture(scope="module")
def processor():
    return VideoMAEVideoProcessor(
        size={"shortest_edge": 32}, crop_size=32, sampling={"strategy": "uniform", "clips": 2}
    )


@pytest.fixture(scope="module")
def folder(model, processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return str(write_video(tmp_path_factory.mktemp("videos") / "video.mp4", 130))


def expected(model, processor, video, **options):
    with torch.no_grad():
        return model(**processor(video, return_tensors="pt", **options)).logits[0].softmax(-1)


def scores(result):
    return {entry["label"]: entry["score"] for entry in result}


def agrees(result, probabilities):
    best = probabilities.topk(len(result))
    assert [entry["label"] for entry in result] == [LABELS[index] for index in best.indices.tolist()]
    assert [entry["score"] for entry in result] == pytest.approx(best.values.tolist(), abs=1e-5)
    return True


def test_the_pipeline_of_transformers_takes_our_objects_and_sees_the_frames_of_the_policy(
    model, folder, processor, video
):
    pipe = pipeline("video-classification", model=model, video_processor=VideoMAEVideoProcessor.from_pretrained(folder))
    assert type(pipe) is transformers.VideoClassificationPipeline
    assert agrees(pipe(video), expected(model, processor, video))


def test_the_string_form_follows_the_policy_once_registered(registered, folder, model, processor, video):
    pipe = pipeline("video-classification", model=folder)
    assert type(pipe.model) is VideoMAEForVideoClassification and pipe.video_processor.sampling.strategy == "uniform"
    assert agrees(pipe(video), expected(model, processor, video))
    both = pipe([video, video], batch_size=2, top_k=3)
    assert len(both) == 2 and agrees(both[1], expected(model, processor, video))
    with open(video, "rb") as file:
        assert agrees(pipe(file.read(), top_k=2), expected(model, processor, video))


def test_the_auto_classes_give_ours_for_new_and_old_folders(registered, folder, tmp_path):
    assert type(transformers.AutoConfig.from_pretrained(folder)) is VideoMAEConfig
    assert type(transformers.AutoModelForVideoClassification.from_pretrained(folder)) is VideoMAEForVideoClassification
    assert type(transformers.AutoImageProcessor.from_pretrained(folder)) is VideoMAEImageProcessor
    assert type(transformers.AutoVideoProcessor.from_pretrained(folder)) is VideoMAEVideoProcessor
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "videomae"}))
    stored = {"feature_extractor_type": "VideoMAEFeatureExtractor", "size": 40}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
    old = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    assert type(old) is VideoMAEImageProcessor and old.size == {"shortest_edge": 40}
    old = transformers.AutoVideoProcessor.from_pretrained(tmp_path)
    assert type(old) is VideoMAEVideoProcessor and old.size == {"shortest_edge": 40}


@pytest.mark.skipif(is_torchvision_available(), reason="with torchvision they load")
@pytest.mark.parametrize(
    "stored, error, message",
    [
        (
            {"video_processor_type": "Qwen2VLVideoProcessor"},
            ImportError,
            "Qwen2VLVideoProcessor requires the Torchvision",
        ),
        ({"size": {"shortest_edge": 40}}, ValueError, "requires `torchvision` to be installed"),
    ],
)
def test_video_processors_of_other_models_raise_transformers_own_error_without_torchvision(
    registered, tmp_path, stored, error, message
):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_vl"}))
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(stored))
    with pytest.raises(error, match=message):
        transformers.AutoVideoProcessor.from_pretrained(tmp_path)


@pytest.mark.skipif(is_torchvision_available(), reason="with torchvision there are no placeholders")
def test_placeholders_of_other_names_go_on_raising(registered):
    with pytest.raises(ImportError, match="Qwen2VLVideoProcessor requires the Torchvision library"):
        transformers.Qwen2VLVideoProcessor.from_pretrained("anything")


def test_registering_leaves_other_models_to_transformers(registered, tmp_path, video):
    config = transformers.TimesformerConfig(
        image_size=32,
        patch_size=16,
        num_frames=2,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=3,
    )
    torch.manual_seed(0)
    model = transformers.TimesformerForVideoClassification(config).eval()
    images = transformers.VideoMAEImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    ours = pipeline("video-classification", model=model, image_processor=images)
    stock = transformers.VideoClassificationPipeline(model=model, image_processor=images)
    assert ours(video, frame_sampling_rate=3) == stock(video, frame_sampling_rate=3)
    assert ours(video) == stock(video) and ours.image_processor is images


def test_a_saved_pipeline_loads_in_transformers_without_custom_code(registered, folder, tmp_path, video):
    pipe = pipeline("video-classification", model=folder)
    pipe.save_pretrained(tmp_path)
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())
    assert VideoMAEVideoProcessor.from_pretrained(tmp_path).to_dict() == pipe.video_processor.to_dict()
    assert pipeline("video-classification", model=str(tmp_path))(video) == pipe(video)


def test_the_processor_is_found_in_the_models_folder_or_made_of_given_settings(model, folder, processor, video):
    loaded = VideoMAEForVideoClassification.from_pretrained(folder)
    assert VideoClassificationPipeline(model=loaded).video_processor.sampling == processor.sampling
    assert (
        VideoClassificationPipeline(model=model, video_processor=folder).video_processor.sampling == processor.sampling
    )
    images = transformers.VideoMAEImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    built = VideoClassificationPipeline(model=model, image_processor=images).video_processor
    assert built.crop_size == {"height": 32, "width": 32} and built.sampling == ClipSampling()
    with pytest.raises(ValueError, match="pass video_processor"):
        VideoClassificationPipeline(model=model)


def test_an_old_feature_extractor_makes_a_pipeline(registered, model, video):
    images = VideoMAEFeatureExtractor(size={"shortest_edge": 32}, crop_size=32)
    for pipe in (
        pipeline("video-classification", model=model, feature_extractor=images),
        VideoClassificationPipeline(model=model, feature_extractor=images),
    ):
        assert pipe.video_processor.size == {"shortest_edge": 32}
        assert agrees(pipe(video), expected(model, pipe.video_processor, video))


def test_a_policy_that_nobody_chose_is_named(model, folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.get_logger("videomae.pipeline_videomae"), "propagate", True)
    logging.warning_once.cache_clear()
    images = VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    model.save_pretrained(tmp_path)
    images.save_pretrained(tmp_path)  # as a trainer of transformers does with an image processor
    VideoClassificationPipeline(model=VideoMAEForVideoClassification.from_pretrained(folder))
    VideoClassificationPipeline(model=model, video_processor=VideoMAEVideoProcessor())
    assert "sampling policy" not in caplog.text
    VideoClassificationPipeline(model=VideoMAEForVideoClassification.from_pretrained(tmp_path))
    assert f"No sampling policy is saved with {tmp_path}; dense, stride 4, is assumed" in caplog.text
    caplog.clear()
    VideoClassificationPipeline(model=model, image_processor=images)
    assert "No sampling policy is saved with the model; dense, stride 4, is assumed" in caplog.text


def test_test_views_are_averaged_as_probabilities(model, processor, video):
    pipe = VideoClassificationPipeline(model=model, video_processor=processor)
    views = processor(video, views="test", return_tensors="pt")["pixel_values"][0]
    assert views.shape[0] == 6
    with torch.no_grad():
        mean = torch.stack([model(view[None]).logits[0].softmax(-1) for view in views]).mean(0)
    assert agrees(pipe(video, views="test"), mean)
    assert all(agrees(result, mean) for result in pipe([video] * 3, views="test", batch_size=2))


def test_the_stride_can_be_given_and_is_not_ignored(model, video):
    dense = VideoMAEVideoProcessor(size={"shortest_edge": 32}, crop_size=32)
    pipe = VideoClassificationPipeline(model=model, video_processor=dense)
    assert agrees(pipe(video, frame_sampling_rate=2), expected(model, dense, video, sampling={"stride_frames": 2}))
    assert scores(pipe(video, frame_sampling_rate=2)) != scores(pipe(video))


def test_several_labels_at_once_and_raw_scores(model, processor, video):
    pipe = VideoClassificationPipeline(model=model, video_processor=processor)
    with torch.no_grad():
        logits = model(**processor(video, return_tensors="pt")).logits[0]
    assert agrees(pipe(video, function_to_apply="sigmoid"), logits.sigmoid())
    assert agrees(pipe(video, function_to_apply="none"), logits)
    assert len(pipe(video, top_k=100)) == 7


def test_a_url_and_a_list_of_paths_are_labelled_too(registered, folder, model, processor, video):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    root, name = os.path.split(video)
    handler = functools.partial(Quiet, directory=root)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{name}"
        pipe = pipeline("video-classification", model=folder)
        for result in [pipe(url), *pipe([url, video])]:
            assert agrees(result, expected(model, processor, video))
        server.shutdown()


BARE = """
import sys
from importlib.machinery import PathFinder
find, absent = PathFinder.find_spec, ("torchvision", "decord", "torchcodec", "cv2")
hidden = lambda name, *rest: None if name.split(".")[0] in absent else find(name, *rest)
PathFinder.find_spec = staticmethod(hidden)
import transformers
from transformers import AutoVideoProcessor, pipeline
import videomae
folder, video = sys.argv[1:]
model = videomae.VideoMAEForVideoClassification.from_pretrained(folder)
processor = videomae.VideoMAEVideoProcessor.from_pretrained(folder)
by_objects = pipeline("video-classification", model=model, video_processor=processor)(video)
videomae.register_auto_classes()
by_name = pipeline("video-classification", model=folder)(video)
found = [auto.from_pretrained(folder) for auto in (AutoVideoProcessor, transformers.AutoVideoProcessor)]
print("PROCESSORS", {type(processor) for processor in found} == {videomae.VideoMAEVideoProcessor})
print("RESULT", [(e["label"], round(e["score"], 5)) for e in by_objects] == [(e["label"], round(e["score"], 5)) for e in by_name])
print("LABEL", by_name[0]["label"])
"""


def test_a_bare_environment_labels_a_file_by_objects_and_by_name(folder, model, processor, video):
    environment = os.environ | {"PATH": "", "HF_HUB_OFFLINE": "1"}  # no ffmpeg binary either
    command = [sys.executable, "-c", BARE, folder, video]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert "RESULT True" in done.stdout and "PROCESSORS True" in done.stdout, done.stderr[-2000:]
    assert "torchvision" not in done.stderr  # no advice to install what nothing needs
    best = expected(model, processor, video).argmax().item()
    assert f"LABEL {LABELS[best]}" in done.stdout


# Long videos


def test_windows_score_overlapping_clips_with_their_times(model, video):
    processor = VideoMAEVideoProcessor(size={"shortest_edge": 32}, crop_size=32)
    pipe = VideoClassificationPipeline(model=model, video_processor=processor)
    windows = list(pipe.windows(video, hop_frames=30, batch_size=2, progress=False))
    assert [w["first_frame"] for w in windows] == [0, 30, 60, 90]
    assert windows[1]["start_seconds"] == pytest.approx(1.0) and windows[1]["end_seconds"] == pytest.approx(91 / 30)
    for window in windows:
        frames = [min(window["first_frame"] + 4 * i, 126) for i in range(16)]
        assert agrees(window["scores"], expected(model, processor, read_frames(video, frames)))


def test_windows_work_where_progress_bars_are_switched_off(model, video):
    pipe = VideoClassificationPipeline(
        model=model, video_processor=VideoMAEVideoProcessor(size={"shortest_edge": 32}, crop_size=32)
    )
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        assert len(list(pipe.windows(video, hop_frames=30))) == 4
    finally:
        if shown:
            logging.enable_progress_bar()


def test_windows_take_a_policy_and_drop_an_unfilled_end(model, processor, video):
    pipe = VideoClassificationPipeline(model=model, video_processor=processor)
    windows = list(pipe.windows(video, sampling={"stride_frames": 2}, partial="drop", top_k=1, progress=False))
    assert [w["first_frame"] for w in windows] == list(range(0, 130 - 30, 16))
    assert len(windows[0]["scores"]) == 1
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        next(pipe.windows(video, batch_size=0))


def test_a_file_that_is_cut_off_stops_the_windows_unless_asked(model, processor, tmp_path):
    whole = write_video(tmp_path / "whole.mkv", 200)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[:-5000])
    pipe = VideoClassificationPipeline(model=model, video_processor=processor)
    with pytest.raises(VideoReadError, match="is cut off"):
        next(pipe.windows(cut, progress=False))
    assert (
        0
        < len(list(pipe.windows(cut, errors="truncate", progress=False)))
        < len(list(pipe.windows(whole, progress=False)))
    )


def test_a_long_video_is_decoded_once_in_bounded_memory(model, processor, tmp_path, monkeypatch):
    from videomae import pipeline_videomae

    decoded, at_size = [], pipeline_videomae.frame_at_size
    monkeypatch.setattr(pipeline_videomae, "frame_at_size", lambda *given: decoded.append(1) or at_size(*given))
    monkeypatch.setattr(
        model,
        "forward",
        lambda pixel_values: transformers.modeling_outputs.ImageClassifierOutput(
            logits=torch.zeros(len(pixel_values), 7)
        ),
    )
    pipe = VideoClassificationPipeline(model=model, video_processor=processor)

    def peak(num_frames):
        path = write_video(tmp_path / f"{num_frames}.mp4", num_frames)
        decoded.clear()
        tracemalloc.start()
        count = sum(1 for _ in pipe.windows(path, hop_frames=8, progress=False))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == -(-(num_frames - 61) // 8) + 1
        assert len(decoded) == len(range(0, num_frames, 4))  # every 4th frame, each processed once
        return size

    peak(100)
    assert peak(1200) < 1.2 * peak(300) + 100_000


def test_decoded_frames_can_be_classified(model, processor, video):
    frames = read_frames(video, range(16))
    pipe = VideoClassificationPipeline(model=model, video_processor=processor)
    assert agrees(pipe(frames), expected(model, processor, frames))
    assert agrees(pipe(frames.numpy()), expected(model, processor, frames))
    pictures = [PIL.Image.fromarray(frame) for frame in frames.numpy()]
    for one_video in (pictures, tuple(pictures), list(frames), list(frames.numpy())):
        assert agrees(pipe(one_video), expected(model, processor, frames))
    both = pipe([pictures, pictures], batch_size=2)
    assert len(both) == 2 and all(agrees(result, expected(model, processor, frames)) for result in both)
    assert pipe([]) == []
    assert number_in(np.asarray(frames[3])) == 3
