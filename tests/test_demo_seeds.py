"""experiments/demo_seeds.py: its table, what it runs, and what it says of a seed that fails."""

import json
import subprocess
import sys

import demo_seeds
import pytest


def record(one_frame, scratch, pretrained, seconds):
    figures = {"chance": 0.125, "one grey frame": one_frame, "from scratch": scratch, "pre-trained": pretrained}
    return {"figures": figures, "seconds": seconds}


def test_the_table_has_each_seed_and_mean_and_deviation():
    lines = demo_seeds.table({0: record(0.12, 0.2, 0.5, 60), 1: record(0.14, 0.3, 0.8, 120)}).splitlines()
    assert lines[0] == "| seed | one grey frame | from scratch | pre-trained | gain | minutes |"
    assert lines[2] == "| 0 | 12.0 | 20.0 | 50.0 | 30.0 | 1.0 |"
    assert lines[4] == "| mean | 13.0 ± 1.4 | 25.0 ± 7.1 | 65.0 ± 21.2 | 40.0 ± 14.1 | 1.5 ± 0.7 |"
    assert len(demo_seeds.table({0: record(0.12, 0.2, 0.5, 60)}).splitlines()) == 3


def test_each_seed_is_the_demo_command_and_is_run_once(tmp_path, monkeypatch, capsys):
    commands = []

    def run(command, stdout, stderr):
        commands.append(command[1:])
        path = tmp_path / f"seed-{len(commands) - 1}" / "quick" / "figures.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(record(0.1, 0.2, 0.3, 60)))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    for _ in range(2):
        assert demo_seeds.main(["--quick", "--seeds", "2", "--folder", str(tmp_path)]) == 0
    start = ["-m", "videomae.commands.main", "demo", "--seed"]
    assert commands == [[*start, str(seed), "--output", str(tmp_path / f"seed-{seed}"), "--quick"] for seed in (0, 1)]
    assert "| mean | 10.0 ± 0.0 |" in capsys.readouterr().out


def test_a_seed_that_fails_names_its_output(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(RuntimeError, match=r"seed 0 ended with code 1; its output is in .*seed-0\.txt"):
        demo_seeds.main(["--seeds", "1", "--folder", str(tmp_path)])
