import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from video_files import numbered_frame

from videomae.data.encoding import encode_video
from videomae.data.prepare import Recoding

HERE = Path(__file__).parent


def film(num_frames, width=340, height=256):
    """Numbered frames under noise, which keeps the rate control busy."""
    draw = np.random.default_rng(0)
    for number in range(num_frames):
        noise = draw.integers(-12, 13, (height, width, 3))
        yield np.clip(numbered_frame(number, width, height) + noise, 0, 255).astype(np.uint8)


def hashes_of(count, num_frames):
    """What `count` encodes in one process give."""
    return {hashlib.sha256(Recoding().encode(film(num_frames), 30)).hexdigest() for _ in range(count)}


def test_equal_frames_give_equal_bytes():
    assert len(hashes_of(4, 48)) == 1


@pytest.mark.slow
def test_equal_frames_give_equal_bytes_in_every_process():
    code = "import test_encoding as t; print(*t.hashes_of(10, 60))"
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=HERE).stdout
        for _ in range(3)
    ]
    assert len({word for run in runs for word in run.split()}) == 1


def test_other_options_of_the_encoder_stay():
    plain = encode_video(film(30, 96, 64), 30, options={"g": "30"})
    scenes = encode_video(film(30, 96, 64), 30, options={"g": "30", "x264-params": "keyint=5:scenecut=0"})
    assert plain != scenes and b"keyint=5" in scenes
