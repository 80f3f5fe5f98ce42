"""Every damaged file ends in frames or in our own error. VIDEOMAE_FUZZ_FILES=10000 tries more than the 500 of CI."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import campaign


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_no_damaged_file_crashes_hangs_or_lets_a_foreign_exception_out(tmp_path, capsys):
    files = int(os.environ.get("VIDEOMAE_FUZZ_FILES", "500"))
    result = campaign.run(tmp_path, 100_000, files)
    with capsys.disabled():
        print(f"\n{result}")
    assert not result.failures, "\n".join(result.failures)
    assert result.trials == files and result.counts["refused"] > files // 10
    assert result.counts["read, strict: as the decode from the start"] > files // 10
