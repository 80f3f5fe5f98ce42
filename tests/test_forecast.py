"""The dry run's forecast: known answers from made-up measurements. The command itself is tested with each trainer."""

from types import SimpleNamespace

import pytest
import torch

from videomae.training import forecast
from videomae.training.batches import StepPlan
from videomae.training.forecast import Probe, advice, duration, predicted_gib, step_seconds

CPU = torch.device("cpu")
PROBES = [Probe(0, 0.0, 1.0), Probe(1, 3.0, 1.5), Probe(2, 5.0, 2.25)]


def plan(clips_per_device=16):
    return StepPlan(num_clips=100, clips_per_step=16, clips_per_device=clips_per_device, processes=1, epochs=2)


def test_memory_goes_on_along_the_line_of_the_last_two_sizes():
    assert predicted_gib(PROBES, 16) == 2.25 + 14 * 0.75
    assert predicted_gib(PROBES, 1) == 1.5
    assert predicted_gib([Probe(0, 0.0, 1.0), Probe(2, 1.0, 0.9)], 16) == 0.9  # nothing grows: no negative slope


@pytest.mark.parametrize(
    "device, workers, seconds",
    [
        (CPU, 0, 16 * 2.5 + 16 * 1.0),
        (CPU, 3, 16 * 2.5 + 16 / 4),  # the four cores load and compute
        (torch.device("cuda"), 4, 16 * 2.5),  # computing is the longer of the two
        (torch.device("cuda"), 1, 16 * 2.5),
    ],
)
def test_a_step_takes_its_computing_and_what_loading_adds(monkeypatch, device, workers, seconds):
    monkeypatch.setattr(forecast.os, "cpu_count", lambda: 4)
    for one in (plan(), plan(4)):
        assert step_seconds(one, PROBES[-1], 1.0, workers, device) == seconds


@pytest.mark.parametrize(
    "total, smallest, text",
    [
        (100.0, 1, "--clips_per_device 16 takes about 12.8 GiB, --clips_per_device 2 about 2.2"),
        (10.0, 1, "--clips_per_device 16 would take about 12.8 of this machine's 10.0 GiB, too much, --clips_per_device 8 about 6.8"),
        (10.0, 16, "--clips_per_device 16 would take about 12.8 of this machine's 10.0 GiB, too much, and so would every smaller one"),
        (0.0, 1, "--clips_per_device 16 takes about 12.8 GiB, --clips_per_device 2 about 2.2"),  # not known
    ],
)  # fmt: skip
def test_the_advice_names_a_size_that_fits(monkeypatch, total, smallest, text):
    monkeypatch.setattr(forecast, "memory_gib", lambda device: total)
    assert advice(SimpleNamespace(device=CPU), plan(), PROBES, smallest) == text


def test_what_was_measured_is_not_called_about(monkeypatch):
    monkeypatch.setattr(forecast, "memory_gib", lambda device: 100.0)
    assert advice(SimpleNamespace(device=CPU), plan(2), PROBES, 1) == "--clips_per_device 2 takes 2.2 GiB"


@pytest.mark.parametrize(
    "seconds, text", [(70, "70 seconds"), (100, "1.7 minutes"), (5400, "1.5 hours"), (360000, "4.2 days")]
)
def test_durations_are_in_the_unit_that_people_use(seconds, text):
    assert duration(seconds) == text
