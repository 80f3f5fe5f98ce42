"""The demo, end to end at its smallest: what a newcomer runs first."""

import pytest

from videomae import VideoMAEForPreTraining, VideoMAEForVideoClassification
from videomae.commands.main import main
from videomae.training.checkpoints import latest_checkpoint


@pytest.mark.slow
def test_the_demo_runs_from_videos_to_a_label(tmp_path, capsys):
    assert main(["demo", "--quick", "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "which shows: moves right" in printed and "8x2x3" in printed
    VideoMAEForPreTraining.from_pretrained(latest_checkpoint(tmp_path / "quick" / "pretrained"))
    model = VideoMAEForVideoClassification.from_pretrained(tmp_path / "quick" / "finetuned" / "best")
    assert len(model.config.id2label) == 8
    assert main(["demo", "--quick", "--output", str(tmp_path)]) == 0  # again: nothing is in the way
