"""The test of a detector on AVA: which persons and key frames, and the scores that each release reports."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from official_ava import mmaction2_map, public_map, released_rows
from support import in_two_processes, sharded

from videomae import VideoMAEConfig, VideoMAEForActionDetection
from videomae.data.ava.annotations import KeyFrame, read_annotations
from videomae.data.ava.boxes import DetectionTestTransform
from videomae.data.ava.dataset import AvaDataset
from videomae.data.ava.detections import read_detections
from videomae.data.ava.movies import MovieFolder
from videomae.data.ava.synthetic import SyntheticAva, make_synthetic_ava
from videomae.training.detectors import detect_all, score_detections, write_results

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


def three_of(dataset: AvaDataset) -> AvaDataset:
    dataset.key_frames = dataset.key_frames[:3]
    assert len(dataset) == 3
    return dataset


def detect_sharded(data, output):
    accelerator = Accelerator(cpu=True)
    model = sharded(model_of("videomae"))
    found = detect_all(accelerator, model, three_of(test_set(data, model)))
    assert (found is not None) == accelerator.is_main_process
    if found is not None:
        np.savez(output, frame=found.frame, box=found.box, score=found.score)


@pytest.mark.slow
def test_a_sharded_detector_is_tested_with_an_odd_number_of_key_frames(data, tmp_path):
    """Every call gathers the weights of both processes, so a call less in one of them would be an error."""
    model = model_of("videomae")
    alone = detect_all(Accelerator(cpu=True), model, three_of(test_set(data, model)))
    in_two_processes(detect_sharded, tmp_path, data, str(tmp_path / "found.npz"))
    found = np.load(tmp_path / "found.npz")
    one, two = (
        (np.lexsort((box[:, 0], frame))) for frame, box in ((alone.frame, alone.box), (found["frame"], found["box"]))
    )
    assert np.array_equal(alone.frame[one], found["frame"][two])
    np.testing.assert_allclose(found["score"][two], alone.score[one], atol=1e-5)


def test_mmaction2s_protocol_takes_the_whole_frame_where_nobody_was_found(data):
    model = model_of("mmaction2")
    proposals = proposals_of(test_set(data, model), 0.95, 0.7)
    first, second = list(proposals)[:2]
    del proposals[first]
    proposals[second] = proposals[second][:0]
    dataset = test_set(data, model, proposals=proposals, whole_frame=True, box_score=0.9)
    for index in (0, 1):
        item = dataset[index]
        assert item["person_boxes"].tolist() == [[0, 0, 1, 1]] and item["person_scores"].tolist() == [1]
        assert item["boxes"].tolist() == [[0, 0, 48, 32]]
    assert len(dataset[2]["boxes"]) == 1
    assert len(test_set(data, model, proposals=proposals)[0]["boxes"]) == 0


@pytest.mark.parametrize("protocol, family", [("mmaction2", "mmaction2"), ("ava", "videomae")])
def test_the_figure_of_a_test_is_that_of_its_file_by_the_released_evaluation(data, tmp_path, protocol, family):
    model = model_of(family)
    proposals = proposals_of(test_set(data, model), 0.95, 0.92, 0.91)
    excluded = next(iter(proposals))
    (tmp_path / "excluded.csv").write_text(f"{excluded}\n")
    key_frames = [key for key in proposals if key != excluded]
    dataset = test_set(data, model, proposals=proposals, key_frames=key_frames, box_score=0.9)
    detections = detect_all(Accelerator(), model, dataset, clips_per_device=3)
    with_low = detections.score.copy()
    with_low[::7] *= 0.003  # below 0.002, which one of the two writes
    detections.score = with_low
    tested = score_detections(dataset, detections, None, protocol=protocol)
    path = write_results(tmp_path / "detections.csv", detections, protocol)
    files = data / "val.csv", path, range(1, 6), tmp_path / "excluded.csv"
    expected = (mmaction2_map if protocol == "mmaction2" else public_map)(*files)[0]
    assert tested["protocol"] == protocol and tested["mAP"] == pytest.approx(expected, abs=1e-9)

    if protocol == "mmaction2":
        rows = []
        for index, key in enumerate(detections.key_frames):
            of = detections.frame == index
            boxes = detections.box[of].reshape(-1, 5, 4)[:, 0]
            rows += released_rows(key.video_id, int(key.seconds), boxes, detections.score[of].reshape(-1, 5))
        (tmp_path / "released.csv").write_text("".join(rows))
        theirs, ours = read_detections(tmp_path / "released.csv"), read_detections(path)
        assert sorted(zip(theirs.frame, theirs.label, theirs.score, *theirs.box.T)) == sorted(
            zip(ours.frame, ours.label, ours.score, *ours.box.T)
        )
        assert 0 < len(ours.score) < len(detections.score)
