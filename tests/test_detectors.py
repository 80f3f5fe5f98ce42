"""The test of a detector on AVA: which persons and key frames, and the scores that each release reports."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from videomae import VideoMAEConfig, VideoMAEForActionDetection
from videomae.data.ava.annotations import KeyFrame, read_annotations
from videomae.data.ava.boxes import DetectionTestTransform
from videomae.data.ava.dataset import AvaDataset
from videomae.data.ava.movies import MovieFolder
from videomae.data.ava.synthetic import SyntheticAva, make_synthetic_ava
from videomae.training.detectors import detect_all

SHAPE = dict(hidden_size=48, num_hidden_layers=1, num_attention_heads=3, intermediate_size=48, image_size=32)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    spec = SyntheticAva(movies=1, validation_movies=2, seconds=3)
    return make_synthetic_ava(tmp_path_factory.mktemp("ava") / "set", spec)


def model_of(family) -> VideoMAEForActionDetection:
    torch.manual_seed(0)
    config = VideoMAEConfig.preset(
        "small", head="detect", detection_family=family, num_labels=5, num_frames=4, detection_short_side=32, **SHAPE
    )
    model = VideoMAEForActionDetection(config).eval()
    with torch.no_grad():
        model.classifier.weight.mul_(30)  # scores that differ
    return model


def test_set(data, model, **more) -> AvaDataset:
    mean, std = model.config.pixel_statistics
    inclusive = model.config.detection_family == "videomae"
    return AvaDataset(
        read_annotations(data / "val.csv"),
        MovieFolder(data / "movies"),
        model.config,
        mode="test",
        transform=DetectionTestTransform(short_side=32, inclusive=inclusive, mean=tuple(mean), std=tuple(std)),
        **more,
    )


test_set.__test__ = False


def proposals_of(dataset, *scores) -> dict[KeyFrame, np.ndarray]:
    """The annotated persons of every key frame as if detected, one with each score."""
    found = {}
    for key, persons in dataset.annotations.key_frames.items():
        column = np.array(scores, dtype=np.float32)[:, None]
        found[key] = np.concatenate([np.resize(persons.boxes, (len(scores), 4)), column], 1).astype(np.float32)
    return found


@pytest.mark.parametrize("family, factors", [("videomae", [0.95, 0.9]), ("mmaction2", [1.0, 1.0])])
def test_a_test_reports_the_scores_of_the_release(data, family, factors):
    model = model_of(family)
    sure = detect_all(Accelerator(), model, test_set(data, model), clips_per_device=2)
    proposals = proposals_of(test_set(data, model), 0.95, 0.9, 0.5)
    found = detect_all(Accelerator(), model, test_set(data, model, proposals=proposals), clips_per_device=2)
    assert np.array_equal(sure.box, found.box)  # two persons a key frame; the third is below 0.8
    factor = np.tile(np.repeat(factors, 5), len(sure.key_frames))
    np.testing.assert_allclose(found.score, sure.score * factor, rtol=1e-5)
