"""The detection pipeline on files whose frames show their own number, and on persons from every source."""

import json

import numpy as np
import pytest
import torch
from transformers.pipelines import Pipeline
from video_files import number_in, numbers_in, write_video

from videomae import VideoActionDetectionPipeline, VideoMAEConfig, VideoMAEForActionDetection
from videomae.data.ava.movies import Movie
from videomae.pipeline_videomae_detection import key_frame_clips, read_boxes

OFFSETS = list(range(-8, 8, 2))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Six seconds at 25 frames a second, 96 x 64."""
    return write_video(tmp_path_factory.mktemp("detect") / "film.mp4", 150, fps=25, gop=40)


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    shape = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, image_size=32)
    config = VideoMAEConfig.preset(
        "small", head="detect", num_labels=5, num_frames=8, detection_stride_frames=2, detection_short_side=32, **shape
    )
    config.id2label = dict(enumerate(("stand", "walk left", "walk right", "jump", "wave")))
    model = VideoMAEForActionDetection(config)
    with torch.no_grad():
        model.classifier.weight.mul_(30)  # scores that differ
    return VideoActionDetectionPipeline(model=model, device="cpu")


def shown(clips):
    return [(clip.seconds, clip.index, numbers_in([frame.permute(1, 2, 0) for frame in clip.frames])) for clip in clips]


def test_clips_around_key_frames_are_those_that_seeking_gives(video):
    for rate in (25, 50, 10, None):
        clips = key_frame_clips(video, iter([0.0, 1.0, 1.3, 5.5]), offsets=OFFSETS, rate=rate, short_side=64)
        for seconds, index, numbers in shown(clips):
            assert numbers == numbers_in(Movie(video).read(seconds, OFFSETS, rate))
            assert index == pytest.approx(seconds * 25, abs=0.5)


def test_key_times_end_with_the_video_and_the_picture_is_that_of_the_key_frame(video):
    clips = list(key_frame_clips(video, iter(np.arange(0, 100, 2.0)), offsets=OFFSETS, rate=25, short_side=32))
    assert [clip.seconds for clip in clips] == [0, 2, 4]
    assert [number_in(clip.picture) for clip in clips] == [0, 50, 100]
    assert clips[0].frames[0].shape == (3, 32, 48)


def test_no_more_than_the_clips_under_way_are_kept(video, monkeypatch):
    most = 0
    from videomae import pipeline_videomae_detection as module

    take = module._take

    def counting(clip, before, frame):
        nonlocal most
        take(clip, before, frame)
        most = max(most, len(clip.frames))
        assert all(frame.shape == (3, 32, 48) for frame in clip.frames)

    monkeypatch.setattr(module, "_take", counting)
    seen = 0
    for clip in key_frame_clips(video, iter(np.arange(0, 6, 0.5)), offsets=OFFSETS, rate=25, short_side=32):
        seen += 1
        assert len(clip.frames) == len(OFFSETS)
    assert seen == 12 and most == len(OFFSETS)


def test_given_boxes_come_back_with_actions_best_first(pipe, video):
    boxes = {1.0: [[10, 5, 40, 60], [50, 5, 90, 60]], 3.0: [], 2.0: [[0.1, 0.1, 0.5, 0.9, 0.75]]}
    result = pipe(str(video), boxes=boxes, top_k=3)
    assert [entry["seconds"] for entry in result] == [1.0, 2.0, 3.0]
    assert [entry["frame"] for entry in result] == [25, 50, 75]
    assert [len(entry["persons"]) for entry in result] == [2, 1, 0]
    first = result[0]["persons"][0]
    assert first["box"] == {"xmin": 10, "ymin": 5, "xmax": 40, "ymax": 60} and first["score"] == 1.0
    scores = [action["score"] for action in first["actions"]]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)
    assert {action["label"] for action in first["actions"]} <= set(pipe.model.config.id2label.values())
    share = result[1]["persons"][0]  # shares of the frame became pixels
    assert list(share["box"].values()) == pytest.approx([9.6, 6.4, 48, 57.6]) and share["score"] == 0.75
    assert (result[0]["width"], result[0]["height"]) == (96, 64)


def test_scores_are_those_of_the_model_on_the_clip_and_the_scaled_box(pipe, video):
    """The box ends with its last pixel, as VideoMAE-Action-Detection counts."""
    frames = Movie(video).read(2.0, OFFSETS, 25)
    small = torch.nn.functional.interpolate(
        frames.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last), size=(32, 48), mode="bilinear"
    )
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in pipe.model.config.pixel_statistics)
    pixels = (small.float() / 255 - mean) / std
    with torch.no_grad():
        expected = pipe.model(pixels[None], [torch.tensor([[5.0, 2.5, 19.5, 29.5]])]).logits.sigmoid()[0]
    result = pipe(str(video), boxes={2.0: [[10, 5, 40, 60]]})
    found = {action["label"]: action["score"] for action in result[0]["persons"][0]["actions"]}
    for label, score in zip(pipe.model.config.id2label.values(), expected.tolist()):
        assert found[label] == pytest.approx(score, abs=1e-4)


def test_the_longer_side_of_a_frame_is_rounded_for_mmaction2(pipe, video, monkeypatch):
    def size():
        return tuple(next(iter(pipe.preprocess(str(video), boxes={1.0: [[10, 5, 40, 60]]})))["pixel_values"].shape[-2:])

    monkeypatch.setattr(pipe.model.config, "detection_short_side", 33)  # of 96 x 64: 49.5 wide
    assert size() == (33, 49)
    monkeypatch.setattr(pipe.model.config, "detection_family", "mmaction2")
    assert size() == (33, 50)


def test_a_doubtful_persons_actions_count_less_unless_the_family_is_mmaction2(pipe, video, monkeypatch):
    rows = [[10, 5, 40, 60, 1.0], [10, 5, 40, 60, 0.6]]

    def scores():
        persons = pipe(str(video), boxes={1.0: [], 2.0: rows}, clips_per_batch=2)[1]["persons"]
        return [[action["score"] for action in person["actions"]] for person in persons]

    sure, doubtful = scores()
    assert doubtful == pytest.approx([0.6 * score for score in sure])
    monkeypatch.setattr(pipe.model.config, "detection_family", "mmaction2")
    sure, doubtful = scores()
    assert doubtful == pytest.approx(sure)


def test_batches_and_streaming_change_nothing(pipe, video):
    boxes = {float(second): [[10, 5, 40, 60]] * (second % 3) for second in range(6)}
    whole = pipe(str(video), boxes=boxes)
    assert pipe(str(video), boxes=boxes, clips_per_batch=4) == approx(whole)
    assert list(pipe.stream(str(video), boxes=boxes, clips_per_batch=2)) == approx(whole)
    assert list(pipe([str(video), str(video)], boxes=boxes)) == [approx(whole)] * 2


def approx(value):
    """pytest.approx for nested results."""
    if isinstance(value, dict):
        return {key: approx(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [approx(entry) for entry in value]
    return pytest.approx(value, abs=1e-5) if isinstance(value, float) else value


def test_a_detector_finds_the_persons_every_so_often(pipe, video):
    pictures = []

    def detector(picture):
        pictures.append(number_in(np.asarray(picture)))
        return [
            {"label": "person", "score": 0.7, "box": {"xmin": 1, "ymin": 2, "xmax": 30, "ymax": 40}},
            {"label": "Person", "score": 0.95, "box": {"xmin": -5, "ymin": 2, "xmax": 130, "ymax": 40}},
            {"label": "dog", "score": 0.99, "box": {"xmin": 1, "ymin": 2, "xmax": 30, "ymax": 40}},
        ]

    result = pipe(str(video), detector=detector, every_seconds=2)
    assert [entry["seconds"] for entry in result] == [0, 2, 4] and pictures == [0, 50, 100]
    assert [len(entry["persons"]) for entry in result] == [1, 1, 1]  # 0.7 is below 0.8
    assert result[0]["persons"][0]["box"] == {"xmin": 0, "ymin": 2, "xmax": 96, "ymax": 40}  # clipped
    both = pipe(str(video), detector=detector, every_seconds=5, person_score=0.5)
    assert [person["score"] for person in both[0]["persons"]] == pytest.approx([0.95, 0.7])
    assert pipe(str(video), detector=lambda picture: [], every_seconds=5)[0]["persons"] == []


def test_a_transformers_object_detection_model_is_a_detector(pipe, video, tmp_path):
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

    config = YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[32, 48],
        num_detection_tokens=4, id2label={0: "person", 1: "dog"},
    )  # fmt: skip
    torch.manual_seed(0)
    YolosForObjectDetection(config).save_pretrained(tmp_path)
    YolosImageProcessor(size={"height": 32, "width": 48}).save_pretrained(tmp_path)
    result = pipe(str(video), detector=str(tmp_path), every_seconds=3, person_score=0.0)
    assert [entry["seconds"] for entry in result] == [0, 3]
    for entry in result:
        for person in entry["persons"]:
            assert 0 <= person["box"]["xmin"] < person["box"]["xmax"] <= 96

    config.id2label = {0: "cat", 1: "dog"}
    YolosForObjectDetection(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the detector has no class 'person'"):
        pipe(str(video), detector=str(tmp_path))


def test_the_whole_frame_may_be_the_person(pipe, video):
    result = pipe(str(video), boxes="whole_frame", every_seconds=4, action_score=0.99999)
    assert result[1]["persons"][0]["box"] == {"xmin": 0, "ymin": 0, "xmax": 96, "ymax": 64}
    assert result[1]["persons"][0]["actions"] == []


def test_boxes_are_read_from_every_kind_of_file(pipe, video, tmp_path):
    rows = {1.0: [[10.0, 5.0, 40.0, 60.0, 1.0]], 2.0: [[1.0, 2.0, 3.0, 4.0, 0.5], [5.0, 6.0, 7.0, 8.0, 1.0]]}

    def saved(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    plain = {"1": [[10, 5, 40, 60, 1.0]], "2.0": rows[2.0]}
    assert read_boxes(saved("a.json", json.dumps(plain))) == rows
    entries = [{"seconds": seconds, "boxes": its} for seconds, its in rows.items()]
    assert read_boxes(saved("b.json", json.dumps(entries))) == rows
    csv_text = "film,1,10,5,40,60,12,1\nfilm,1,10,5,40,60,80,0\nfilm,2,1,2,3,4,,0.5\nfilm,2,5,6,7,8\n"
    assert read_boxes(saved("c.csv", csv_text)) == rows
    annotations = "film,1,10,5,40,60,12,0\nfilm,1,10,5,40,60,80,0\n"  # ends in a person's number, no score
    assert read_boxes(saved("e.csv", annotations)) == {1.0: rows[1.0]}

    # What the pipeline returns is a file of boxes too.
    result = pipe(str(video), boxes={1.0: [[10, 5, 40, 60]]})
    again = pipe(str(video), boxes=saved("d.json", json.dumps({"key_frames": result})))
    assert again == approx(result)
    for name, text, message in (
        ("e.json", "{", "is not JSON"),
        ("f.json", "[]", "holds no key frame"),
        ("g.json", '{"soon": []}', "entry 'soon' is not understood"),
        ("h.csv", "film,1,a,b,c,d\n", "line 1 is not video_id,timestamp"),
        ("i.csv", "a,1,1,2,3,4\nb,1,1,2,3,4\n", "holds boxes of 2 videos"),
        ("j.txt", "", r"give a \.json or \.csv file"),
    ):
        with pytest.raises(ValueError, match=message):
            read_boxes(saved(name, text))


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "there are no persons to look at: pass boxes"),
        ({"boxes": {9.0: [[1, 2, 3, 4]]}}, "boxes has a key frame at 9 s, outside the video, which lasts 6 s"),
        ({"boxes": {1.0: [[30, 2, 3, 4]]}}, "persons at 1 s: row 0, .* ends before it starts"),
        ({"boxes": {1.0: [[300, 2, 400, 4]]}}, "persons at 1 s: row 0, .* lies outside the frame of 96x64"),
        ({"boxes": {1.0: [[1, 2, 3]]}}, "boxes at 1 s have 3 values a row"),
        ({"boxes": {1.0: [[1, 2, 30, 40, 95]]}}, "boxes at 1 s: a person has score 95; scores are between 0 and 1"),
        ({"boxes": {1.0: ["abc"]}}, "boxes at 1 s are not rows"),
        ({"boxes": "whole_frame", "every_seconds": 0}, "every_seconds must be positive"),
    ],
)
def test_wrong_options_are_named(pipe, video, options, message):
    with pytest.raises(ValueError, match=message):
        pipe(str(video), **options)


def test_the_task_is_registered_and_a_saved_folder_is_enough(registered, pipe, video, tmp_path):
    from transformers import pipeline

    pipe.model.save_pretrained(tmp_path)
    again = pipeline("video-action-detection", model=str(tmp_path), device="cpu")
    assert isinstance(again, VideoActionDetectionPipeline) and isinstance(again, Pipeline)
    boxes = {1.0: [[10, 5, 40, 60]]}
    assert again(str(video), boxes=boxes) == approx(pipe(str(video), boxes=boxes))


def test_a_classifier_is_refused():
    from videomae import VideoMAEForVideoClassification

    shape = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=32)
    with pytest.raises(ValueError, match="VideoMAEForVideoClassification is not an action detector"):
        VideoActionDetectionPipeline(model=VideoMAEForVideoClassification(VideoMAEConfig(**shape)))
