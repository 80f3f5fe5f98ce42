import subprocess
import sys
from pathlib import Path

import pytest
from video_files import make_kind

KINDS = [
    "h264_b_frames",
    "h264_sound",
    "h264_transport_stream",
    "h264_fragmented",
    "hevc",
    "vp9",
    "av1",
    "mpeg4_avi",
    "mjpeg_avi",
    "gif",
]


def run_trials(tmp_path, first, count):
    """Damaged files are read in a process that must live to the end; returns how many gave frames or our error."""
    folder = tmp_path / "whole"
    folder.mkdir()
    for kind in KINDS:
        make_kind(kind, folder)
    script = Path(__file__).parent / "corruption_trial.py"
    command = [sys.executable, str(script), str(folder), str(first), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + 2 * count)
    last = done.stdout.strip().splitlines()[-1] if done.stdout else "nothing"
    assert done.returncode == 0, f"ended with {done.returncode} in {last}\n{done.stderr[-3000:]}"
    words = last.split()
    assert words[0] == "done"
    return int(words[1]), int(words[3])


def test_every_damaged_file_ends_in_frames_or_in_our_error(tmp_path):
    frames, refused = run_trials(tmp_path, 0, 250)
    assert frames + refused == 250 and frames > 50 and refused > 50


@pytest.mark.slow
def test_thousands_of_damaged_files_end_in_frames_or_in_our_error(tmp_path):
    frames, refused = run_trials(tmp_path, 10_000, 3000)
    assert frames + refused == 3000
