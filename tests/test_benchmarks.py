"""The benchmarks' own arithmetic, what the suites name, and the generated parts of docs/performance.md."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from documents import options_of

from benchmarks import __main__ as suite
from benchmarks import training_cost
from benchmarks.common import results as _results
from benchmarks.common import timing as side

ROOT = Path(__file__).resolve().parent.parent


def test_a_ratio_is_the_median_over_rounds_and_above_one_where_ours_is_better():
    # A slow third round hits both; the ratio of medians would be 2.5.
    row = side.record("x", ours=[1.0, 2.0, 10.0], theirs=[2.0, 5.0, 20.0], unit="s", peer="p", promised=1.9)
    assert (row.ours, row.theirs, row.ratio, row.met) == (2.0, 5.0, 2.0, True)
    assert side.record("x", ours=[30.0], theirs=[20.0], unit="clips/s").ratio == pytest.approx(1.5)


def test_a_limit_holds_from_above_for_times_and_from_below_for_rates():
    assert side.record("x", ours=60, unit="ms", limit=70).met is True
    assert side.record("x", ours=80, unit="ms", limit=70).met is False
    assert side.record("x", ours=49, unit="%", limit=50).met is False
    assert side.record("x", ours=1, unit="s").met is None


def test_rows_are_collected_only_where_a_suite_asks(tmp_path, monkeypatch):
    side.record("nowhere", ours=1, unit="s")
    monkeypatch.setenv(side.ROWS, str(tmp_path / "rows.jsonl"))
    side.record("first", ours=1, unit="s")
    side.record("second", ours=2, unit="clips/s", preset="base")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["work"] for row in rows] == ["first", "second"]
    assert rows[1]["facts"] == {"preset": "base"}


def test_contenders_take_turns_and_get_the_number_of_the_round():
    calls, seconds = [], iter(range(100))
    times = side.take_turns(
        {name: lambda number, name=name: calls.append((name, number)) for name in "ab"},
        rounds=2,
        now=lambda: next(seconds),
    )
    assert calls == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]
    assert times == {"a": [1, 1], "b": [1, 1]}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_added_memory_is_that_of_the_peak_and_not_of_what_remains():
    added = side.added_mib(lambda: bytearray(64 * 2**20).count(1))
    assert 60 < added < 80


@pytest.mark.parametrize("name", suite.benchmarks())
def test_every_benchmark_has_a_line_in_the_list_and_takes_the_options_that_a_suite_gives_it(name):
    main = importlib.import_module(f"benchmarks.{name}").main
    for entry in (entry for entries in suite.SUITES.values() for entry in entries if entry.benchmark == name):
        options = {word for word in entry.options.split() if word.startswith("--")}
        assert options <= options_of(main), f"{entry.title} has unknown options"
    assert f"\n{name} " in f"\n{suite.listing()}"


def test_a_suite_names_benchmarks_that_exist():
    named = {entry.benchmark for entries in suite.SUITES.values() for entry in entries}
    assert named | set(suite.OUTSIDE) <= suite.benchmarks().keys()


def test_the_suite_of_the_cpu_is_expected_to_fit_its_time():
    assert sum(entry.seconds for entry in suite.SUITES["cpu"]) <= 60 * suite.MINUTES


def test_a_benchmark_that_fails_keeps_the_rows_it_recorded(tmp_path):
    script = tmp_path / "half.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from benchmarks.common.timing import record\n"
        "record('done before', ours=1, unit='s')\n"
        "raise SystemExit(3)\n"
    )
    status, rows = suite.run_one([str(script)], threads=1, limit=60)
    assert status == "ended with exit code 3"
    assert [row["work"] for row in rows] == ["done before"]


def test_a_benchmark_that_hangs_is_stopped(tmp_path):
    script = tmp_path / "hang.py"
    script.write_text("import time; time.sleep(60)\n")
    assert suite.run_one([str(script)], threads=1, limit=1.5) == ("stopped after 2 s", [])


def test_an_unknown_name_is_refused_with_those_that_exist():
    command = [sys.executable, "-m", "benchmarks", "no_such"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no benchmark 'no_such'; there are" in done.stderr and "Traceback" not in done.stderr


MACHINE = {
    "device": "A CPU",
    "kind": "cpu",
    "cores": 2,
    "bf16_in_hardware": True,
    "versions": {"torch": "2.13.0"},
    "peers": {"decord": "0.6.0"},
    "peers_not_installed": ["timm"],
}


def entry_of(name: str, *rows: side.Row, status: str = "done") -> dict:
    rows = [{**vars(row), "met": row.met} for row in rows]
    return {
        "benchmark": name,
        "command": f"python -m benchmarks {name}",
        "threads": 2,
        "seconds": 3.0,
        "commit": "abc",
        "other_work": 0.0,
        "status": status,
        "rows": rows,
    }


def test_results_of_a_day_are_put_together_and_shown(tmp_path):
    path = tmp_path / "a-cpu-2-cores-2026-01-01.json"
    missed = side.record("slow work", ours=2, theirs=3, unit="s", peer="stock", promised=1.6)
    plain = side.record("plain work", ours=0.5, unit="s")
    file = _results.ResultsFile(MACHINE, "python -m benchmarks cpu", path)
    file.put(entry_of("one", missed, plain))
    file.put(entry_of("two", status="stopped after 9 s"))
    again = _results.ResultsFile(MACHINE, "python -m benchmarks cpu two", path)
    assert again.has("python -m benchmarks one") and not again.has("python -m benchmarks two")
    again.put(entry_of("two", plain))
    shown = _results.tables(tmp_path)
    assert "| slow work | 2 s | stock | 3 s | 1.50x | 1.6x: **not met** | `one` |" in shown
    assert shown.count("plain work") == 2 and "stopped" not in shown


def test_only_the_newest_results_of_a_device_are_shown(tmp_path):
    for day in ("2026-01-01", "2026-02-01"):
        row = side.record(f"work of {day}", ours=1, unit="s")
        _results.ResultsFile(MACHINE, "x", tmp_path / f"a-cpu-{day}.json").put(entry_of("one", row))
    assert "work of 2026-02-01" in _results.tables(tmp_path)
    assert "work of 2026-01-01" not in _results.tables(tmp_path)


def test_the_generated_parts_of_the_performance_page_are_up_to_date():
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert _results.with_blocks(page) == page, "run `python -m benchmarks tables`"


def test_hours_of_a_recipe_follow_from_a_measured_rate():
    rates = {("base", "pretrain"): (1000.0, "a GPU")}
    line = next(row for row in training_cost.recipe_table(rates).splitlines() if "v1-base-k400 " in row)
    cells = [cell.strip() for cell in line.split("|")]
    # 240,000 clips at 1000 a second: 240 s an epoch, 1600 epochs, one device and eight
    assert cells[6:10] == ["measured", "0.0667", "107", "13.3"]


def test_rates_are_taken_from_results_of_gpus_alone():
    row = side.record("step", ours=500, unit="clips/s", preset="base", kind="pretrain", mode="eager")
    slower = side.record("step", ours=400, unit="clips/s", preset="base", kind="pretrain", mode="eager")
    content = {"machine": MACHINE, "date": "2026-01-01", "benchmarks": [entry_of("gpu_steps", row, slower)]}
    assert training_cost.measured_rates([content]) == {}
    on_a_gpu = content | {"machine": MACHINE | {"kind": "gpu", "device": "A GPU"}}
    assert training_cost.measured_rates([on_a_gpu]) == {("base", "pretrain"): (500.0, "A GPU, 2026-01-01")}


@pytest.mark.slow
def test_the_gpu_benchmark_runs_on_a_cpu_at_toy_size(tmp_path):
    """So that it does not break where a GPU is lent for minutes; compiling is left out, it takes minutes on a CPU."""
    rows = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "benchmarks", "gpu_steps", "--device", "cpu", "--smoke", "--modes", "eager"]
    environment = {**os.environ, side.ROWS: str(rows), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = [json.loads(line)["facts"] for line in rows.read_text().splitlines()]
    assert [fact["kind"] for fact in facts if fact] == ["pretrain", "pretrain-dual", "classify"]


def test_the_gpu_suite_says_that_it_needs_a_gpu():
    command = [sys.executable, "-m", "benchmarks", "gpu"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no CUDA device here" in done.stderr and "Traceback" not in done.stderr
