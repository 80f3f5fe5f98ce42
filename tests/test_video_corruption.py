"""Damaged files in the fast set; tests/fuzz has thousands of them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))

import campaign


def test_every_damaged_file_ends_in_frames_or_in_our_error(tmp_path):
    result = campaign.run(tmp_path, 0, 110)
    assert not result.failures, "\n".join(result.failures)
    assert result.trials == 110 and result.counts["refused"] > 20
    assert sum(count for outcome, count in result.counts.items() if outcome.startswith("read")) > 20


def test_a_trial_is_the_same_whenever_it_is_run():
    import random

    import trial

    content = bytes(range(256)) * 20
    assert trial.damaged(content, random.Random(7)) == trial.damaged(content, random.Random(7))
    kinds = {trial.damaged(content, random.Random(number)) for number in range(50)}
    assert len(kinds) > 40
