"""The demo page: what it answers; the page itself only where gradio is installed."""

import builtins

import pytest
from support import TINY
from video_files import write_video

from videomae import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEVideoProcessor
from videomae.commands.app import build_page, make_labeller


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    VideoMAEForVideoClassification(VideoMAEConfig(**TINY, num_labels=4)).save_pretrained(folder)
    VideoMAEVideoProcessor(size=32, crop_size=32).save_pretrained(folder)
    return folder


def test_a_video_is_answered_with_its_best_labels(folder, tmp_path):
    label = make_labeller(str(folder), "cpu")
    video = str(write_video(tmp_path / "video.mp4", num_frames=80, width=64, height=48))
    one, averaged = label(video, False, 3), label(video, True, 3)
    assert len(one) == len(averaged) == 3 and one != averaged
    assert list(one.values()) == sorted(one.values(), reverse=True)


def test_without_gradio_the_way_out_is_named(folder, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "gradio":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(OSError, match=r"pip install 'videomae\[demo\]'"):
        build_page(str(folder))
