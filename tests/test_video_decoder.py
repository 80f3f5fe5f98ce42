"""Rows of `datasets` that torchcodec has opened; a stand-in has its two names, since torchcodec is not needed."""

from types import SimpleNamespace

import pytest
import torch
from support import TINY
from video_files import write_video

from videomae import (
    VideoClassificationPipeline,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VideoMAEVideoProcessor,
)
from videomae.data.sources import open_clip
from videomae.video_io import Limits, VideoReadError, probe, read_frames

SMALL = dict(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


class Decoder:
    """What is used of torchcodec's VideoDecoder."""

    def __init__(self, path, order="NCHW", num_frames=...):
        info = probe(path)
        self._path, self._order = path, order
        self.metadata = SimpleNamespace(
            num_frames=info.num_frames if num_frames is ... else num_frames,
            average_fps=info.fps,
            width=info.width,
            height=info.height,
            duration_seconds=info.duration_seconds,
        )

    def __len__(self):
        return self.metadata.num_frames

    def get_frames_at(self, indices):
        frames = read_frames(self._path, indices)
        return SimpleNamespace(data=frames if self._order == "NHWC" else frames.permute(0, 3, 1, 2))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "video.mp4", 90)


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize("views", ["clip", "test"])
def test_a_decoder_gives_the_pixels_of_its_file(video, order, views):
    processor = VideoMAEVideoProcessor(**SMALL, sampling={"clips": 2, "crops": 3})
    options = dict(views=views, return_tensors="pt", return_metadata=True)
    theirs, ours = processor(Decoder(video, order), **options), processor(video, **options)
    assert torch.equal(theirs["pixel_values"], ours["pixel_values"])
    one, other = theirs["video_metadata"][0], ours["video_metadata"][0]
    assert (one.frames_indices, one.fps, one.total_num_frames) == (other.frames_indices, other.fps, 90)
    assert one.video_backend == "torchcodec"


def test_decoders_make_a_batch_and_the_pipeline_takes_them(video):
    model = VideoMAEForVideoClassification(VideoMAEConfig(**TINY)).eval()
    processor = VideoMAEVideoProcessor(**SMALL)
    assert processor([Decoder(video), video], return_tensors="pt")["pixel_values"].shape[0] == 2
    pipe = VideoClassificationPipeline(model=model, video_processor=processor)
    assert pipe(Decoder(video)) == pipe(str(video))
    assert pipe([Decoder(video)] * 2, views="test", batch_size=2) == [pipe(str(video), views="test")] * 2


@pytest.mark.parametrize("options", [{}, {"hop_frames": 7, "sampling": {"stride_frames": 1}}, {"hop_frames": 80}])
def test_windows_of_a_decoder_are_those_of_its_file(video, options):
    model = VideoMAEForVideoClassification(VideoMAEConfig(**TINY)).eval()
    pipe = VideoClassificationPipeline(model=model, video_processor=VideoMAEVideoProcessor(**SMALL))
    decoder, asked = Decoder(video), []
    read = decoder.get_frames_at
    decoder.get_frames_at = lambda indices: asked.extend(indices) or read(indices)
    theirs, ours = (list(pipe.windows(source, **options, progress=False)) for source in (decoder, str(video)))
    assert len(theirs) == len(ours) > 1 and len(set(asked)) == len(asked)  # each frame once
    for one, other in zip(theirs, ours):
        assert (one["first_frame"], one["last_frame"]) == (other["first_frame"], other["last_frame"])
        assert one["start_seconds"] == pytest.approx(other["start_seconds"], abs=1e-6)
        assert one["end_seconds"] == pytest.approx(other["end_seconds"], abs=1e-6)
        assert one["scores"] == other["scores"]
    with pytest.raises(ValueError, match="hop_frames must be at least 1, not 0"):
        next(pipe.windows(decoder, hop_frames=0))


def test_an_entry_of_a_data_set_may_be_a_decoder(video):
    with open_clip(Decoder(video)) as clip:
        assert (clip.num_frames, clip.truncated) == (90, False)
        assert torch.equal(clip.read([7, 3, 7]), read_frames(video, [7, 3, 7]))
        assert clip.read([0], short_side=32).shape == (1, 32, 48, 3)
        with pytest.raises(VideoReadError, match="the open Decoder has no frame 90; it has 90 frames"):
            clip.read([0, 90])


def test_what_a_decoder_cannot_say_or_read_is_an_error(video):
    processor = VideoMAEVideoProcessor(**SMALL)
    with pytest.raises(VideoReadError, match=r"metadata have no num_frames; open it with seek_mode='exact'"):
        processor(Decoder(video, num_frames=None))
    with pytest.raises(VideoReadError, match=r"16 frames of 96x64 take 294912 bytes, above max_bytes=1000"):
        processor(Decoder(video), limits=Limits(max_bytes=1000))
    broken = Decoder(video)
    broken.get_frames_at = lambda indices: (_ for _ in ()).throw(RuntimeError("no key frame\nin ten lines"))
    broken._hf_encoded = {"path": "of_the_row.mp4", "bytes": None}  # datasets keeps the row there
    with pytest.raises(VideoReadError, match=r"^of_the_row.mp4 cannot be decoded: no key frame$"):
        processor(broken)
