"""Training and testing detectors end to end on the synthetic set of two actors, and what a detector may start from."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import support
import torch
from support import killed_and_finished

import videomae
from videomae import (
    VideoMAEConfig,
    VideoMAEForActionDetection,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
    VideoMAEVideoProcessor,
)
from videomae.commands.ava_map import main as map_main
from videomae.data.ava.annotations import ActionList
from videomae.data.ava.detections import read_detections
from videomae.data.ava.synthetic import ACTIONS, SyntheticAva, make_synthetic_ava
from videomae.train_detection import main
from videomae.training import engines, loop
from videomae.training.detectors import build_detector
from videomae.training.recipes import DETECTION
from videomae.training.runs import EXIT_INTERRUPTED

SHAPE = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, patch_size=16)
RECIPE = dataclasses.replace(DETECTION["tiny"], num_labels=5, num_frames=4, image_size=32, config=SHAPE)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    spec = SyntheticAva(movies=3, validation_movies=2, seconds=4)
    return make_synthetic_ava(tmp_path_factory.mktemp("ava") / "set", spec)


def options(data, output, **more):
    given = {
        "--recipe": "tiny",
        "--num_labels": "5",
        "--num_frames": "4",
        "--config": [f"{name}={value}" for name, value in SHAPE.items()],
        "--movies": str(data / "movies"),
        "--annotations": str(data / "train.csv"),
        "--actions": str(data / "actions.pbtxt"),
        "--output": str(output),
        "--num_workers": "0",
        "--clips_per_step": "3",
        "--epochs": "4",
        "--warmup_epochs": "1",
        "--mixed_precision": "no",
        **{f"--{name}": value for name, value in more.items()},
    }
    words = []
    for name, value in given.items():
        words += [name, *(value if isinstance(value, list) else [value])] if value is not None else []
    return words


VAL = ("val_annotations", "val_proposals")


def test_a_run_leaves_a_tested_model_folder_that_anyone_can_load(data, tmp_path):
    more = dict(val_annotations=str(data / "val.csv"), val_proposals=str(data / "val_persons.csv"))
    assert main(options(data, tmp_path / "run", **more)) == 0
    folder = tmp_path / "run" / "final"
    model = VideoMAEForActionDetection.from_pretrained(folder)
    assert list(model.config.id2label.values()) == list(ACTIONS)
    assert VideoMAEVideoProcessor.from_pretrained(folder).image_mean == pytest.approx(model.config.pixel_mean)
    card = (folder / "README.md").read_text()
    assert "frame mAP at IoU 0.5" in card and "detected persons" in card

    result = json.loads((tmp_path / "run" / "test-12" / "ava_map.json").read_text())
    assert result["boxes"] == "detected" and result["num_key_frames"] == 6
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["val_map"] == result["mAP"]
    # 5 scores for each of 2 persons a key frame; a third box is kept where its score reaches 0.8.
    detections = read_detections(tmp_path / "run" / "test-12" / "detections.csv")
    assert len(detections.key_frames) == 6 and len(detections.frame) == result["num_detections"]

    # The same model tested on its own, and its file scored by the metric's command, give the same figure.
    tested = options(data, tmp_path / "tested", annotations=None, recipe=None, config=None, **more)
    assert main([*tested, "--test", str(folder)]) == 0
    again = json.loads((tmp_path / "tested" / "ava_map.json").read_text())
    assert again == result
    scored = tmp_path / "scored.json"
    map_main(
        ["--annotations", more["val_annotations"], "--detections", str(tmp_path / "tested" / "detections.csv")]
        + ["--classes", str(data / "actions.pbtxt"), "--output", str(scored)]
    )
    assert json.loads(scored.read_text())["mAP"] == pytest.approx(result["mAP"], abs=1e-6)


def test_trackers_are_opened_with_the_facts_of_a_run_but_not_of_a_dry_one(data, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(engines, "start_trackers", lambda accelerator, facts: opened.append(facts["recipe"]))
    assert main([*options(data, tmp_path / "run"), "--dry_run"]) == 0
    assert opened == []
    assert main(options(data, tmp_path / "run", max_steps="1")) == 0
    assert opened == ["tiny"]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The run that nothing interrupted."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    assert main(options(data, output)) == 0
    return output


def assert_same_run(one, two):
    # Not the logs: a line of every ten steps is an average since the last one, and a stop ends one early.
    support.assert_same_run(one, two, 12, also=["final/model.safetensors"], logs=False)


def test_a_stopped_run_resumes_to_the_same_weights(data, whole, tmp_path):
    assert main(options(data, tmp_path / "run", max_steps="5", save_every="2")) == 0
    assert main(["--output", str(tmp_path / "run"), "--resume", "auto"]) == 0  # the folder alone is enough
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.parametrize("workers", ["1", "4"])
def test_the_number_of_workers_changes_nothing(data, whole, tmp_path, workers):
    assert main(options(data, tmp_path / "run", num_workers=workers)) == 0
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_writes_a_checkpoint_and_the_run_resumes(data, whole, tmp_path, monkeypatch, capsys, number):
    step = loop.training_step

    def interrupted_step(*arguments, **more):
        os.kill(os.getpid(), number)
        return step(*arguments, **more)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "training_step", interrupted_step)
        assert main(options(data, tmp_path / "run")) == EXIT_INTERRUPTED
    assert f"{number.name}: checkpoint-1 written" in capsys.readouterr().err
    assert main(["--output", str(tmp_path / "run"), "--resume", "auto"]) == 0
    assert_same_run(whole, tmp_path / "run")


def test_a_result_stands_on_the_card_of_the_weights_that_were_tested_and_on_no_later_one(data, tmp_path):
    val = dict(val_annotations=str(data / "val.csv"), eval_every="1")
    assert main(options(data, tmp_path / "run", max_steps="6", **val)) == 0
    state = json.loads((tmp_path / "run" / "checkpoint-6" / "training" / "state.json").read_text())
    assert state["notes"]["results"][0]["metrics"]["map"] >= 0
    assert (
        main(["--output", str(tmp_path / "run"), "--resume", "auto", "--max_steps", "7", "--val_annotations", "none"])
        == 0
    )
    cards = {name: (tmp_path / "run" / name / "README.md").read_text() for name in ("checkpoint-6", "final")}
    assert "frame mAP at IoU 0.5" in cards["checkpoint-6"] and "frame mAP at IoU 0.5" not in cards["final"]


def test_micro_batches_of_the_mmaction2_family_train_too(data, tmp_path):
    more = dict(
        family="mmaction2", proposal_iou="none", clips_per_device="1", short_side=["64", "72"], frame_jitter=["-2", "1"],
        val_annotations=str(data / "val.csv"), val_proposals=str(data / "val_persons.csv"), protocol="mmaction2",
    )  # fmt: skip
    assert main(options(data, tmp_path / "run", max_steps="2", **more)) == 0
    config = VideoMAEConfig.from_pretrained(tmp_path / "run" / "final")
    assert (config.detection_family, config.roi_output_size, config.roi_aligned) == ("mmaction2", 8, True)
    # Whose evaluation it was stands in the result and on the card, and the file gives the same figure.
    result = json.loads((tmp_path / "run" / "test-2" / "ava_map.json").read_text())
    card = (tmp_path / "run" / "checkpoint-2" / "README.md").read_text()
    assert result["protocol"] == "mmaction2" and "evaluated as mmaction2 does" in card
    files = [
        "--annotations",
        more["val_annotations"],
        "--detections",
        str(tmp_path / "run" / "test-2" / "detections.csv"),
    ]
    scored = ["--classes", str(data / "actions.pbtxt"), "--output", str(tmp_path / "scored.json")]
    map_main([*files, *scored, "--protocol", "mmaction2"])
    assert json.loads((tmp_path / "scored.json").read_text())["mAP"] == result["mAP"]


def said(lines):
    return lambda text: lines.append(text)


def test_detectors_start_from_presets_pre_training_classifiers_and_detectors(tmp_path):
    common = {**SHAPE, "image_size": 32, "num_frames": 4}
    torch.manual_seed(0)
    pretrained = VideoMAEForPreTraining(
        VideoMAEConfig(use_mean_pooling=False, decoder_hidden_size=24, decoder_num_attention_heads=2,
                       decoder_num_hidden_layers=1, decoder_intermediate_size=24, **common)
    )  # fmt: skip
    pretrained.save_pretrained(tmp_path / "pretrained")
    classifier = VideoMAEForVideoClassification(VideoMAEConfig(num_labels=5, **common))
    classifier.save_pretrained(tmp_path / "classifier")

    lines = []
    from_pretraining = build_detector(
        dataclasses.replace(RECIPE, model=str(tmp_path / "pretrained")), None, said(lines)
    )
    weight = "encoder.layer.1.output.dense.weight"
    assert torch.equal(from_pretraining.videomae.state_dict()[weight], pretrained.videomae.state_dict()[weight])
    assert "the head starts from new weights with 5 actions" in lines[-1]
    assert from_pretraining.config.detection_stride_frames == RECIPE.stride_frames

    from_classifier = build_detector(dataclasses.replace(RECIPE, model=str(tmp_path / "classifier")), None, said(lines))
    assert "the head and the final norm start from new weights" in lines[-1]
    assert torch.equal(from_classifier.videomae.state_dict()[weight], classifier.videomae.state_dict()[weight])
    assert not torch.equal(
        from_classifier.classifier.weight, classifier.classifier.weight
    )  # as many classes, other ones
    assert from_classifier.config.pixel_std == [57.375 / 255] * 3

    from_classifier.save_pretrained(tmp_path / "detector")
    again = build_detector(dataclasses.replace(RECIPE, model=str(tmp_path / "detector")), None, said(lines))
    assert "keeps its 5 actions" in lines[-1]
    assert torch.equal(again.classifier.weight, from_classifier.classifier.weight)
    other = dataclasses.replace(RECIPE, model=str(tmp_path / "detector"), family="mmaction2")
    with pytest.raises(ValueError, match="is a detector of family 'videomae', the recipe of 'mmaction2'"):
        build_detector(other, None, said(lines))
    with pytest.raises(ValueError, match="the action list goes up to number 7, the model has 5 outputs"):
        build_detector(RECIPE, ActionList({7: "seven"}, {}), said(lines))
    with pytest.raises(ValueError, match="does not fit the detector of the recipe"):
        deeper = dataclasses.replace(
            RECIPE, model=str(tmp_path / "classifier"), config={**SHAPE, "num_hidden_layers": 3}
        )
        build_detector(deeper, None, said(lines))


@pytest.mark.parametrize(
    "more, message",
    [
        (dict(annotations=None), "--annotations is missing"),
        (dict(family="mmaction2", proposal_iou="0.9"), "also trains on detected persons"),
        (dict(clips_per_step="100"), "fewer than clips_per_step 100"),
        (dict(recipe="ad-bass-k400"), "ad-base-k400"),
    ],
)
def test_missing_and_wrong_options_are_named(data, tmp_path, more, message):
    with pytest.raises(ValueError, match=message):
        main(options(data, tmp_path / "run", **more))


def test_every_published_recipe_builds_its_detector_on_meta():
    for name, recipe in DETECTION.items():
        with torch.device("meta"):
            model = build_detector(recipe, None, lambda text: None)
        assert model.config.detection_family == recipe.family, name
        assert model.config.head_dropout_prob == recipe.head_dropout_prob, name


@pytest.mark.slow
def test_training_reaches_high_map_only_with_the_boxes(tmp_path):
    """Two actors in one clip do different things: who is blind to boxes cannot tell which does what."""
    data = make_synthetic_ava(tmp_path / "set", SyntheticAva(movies=100, validation_movies=20))
    shape = dict(hidden_size=96, num_hidden_layers=4, num_attention_heads=3, intermediate_size=384, patch_size=8)
    more = dict(
        epochs="12", warmup_epochs="2", clips_per_step="16", num_frames="8", val_annotations=str(data / "val.csv"),
        config=[f"{name}={value}" for name, value in shape.items()],
    )  # fmt: skip
    assert main(options(data, tmp_path / "run", **more)) == 0
    folder = tmp_path / "run" / "final"
    seeing = json.loads(next((tmp_path / "run").glob("test-*/ava_map.json")).read_text())["mAP"]

    # The same model and movies, every person's box replaced by the frame in what the model sees.
    blind_model = VideoMAEForActionDetection.from_pretrained(folder)
    blind = blind_map(blind_model, data)
    assert seeing > 0.85, f"mAP {seeing:.3f}"
    assert blind < seeing - 0.25, f"mAP with boxes {seeing:.3f}, without {blind:.3f}"


def blind_map(model, data) -> float:
    from accelerate import Accelerator

    from videomae.data.ava.annotations import read_annotations
    from videomae.data.ava.boxes import DetectionTestTransform
    from videomae.data.ava.dataset import AvaDataset
    from videomae.data.ava.movies import MovieFolder
    from videomae.training.detectors import detect_all, score_detections

    mean, std = model.config.pixel_statistics
    see = DetectionTestTransform(short_side=64, inclusive=True, mean=tuple(mean), std=tuple(std))

    def whole_frame(clip, boxes, generator):
        sample = see(clip, boxes, generator)
        height, width = sample.pixel_values.shape[-2:]
        return sample._replace(boxes=torch.tensor([[0.0, 0.0, width - 1, height - 1]]).repeat(len(sample.boxes), 1))

    dataset = AvaDataset(
        read_annotations(data / "val.csv"),
        MovieFolder(data / "movies"),
        model.config,
        mode="test",
        transform=whole_frame,
    )
    return score_detections(dataset, detect_all(Accelerator(), model, dataset, clips_per_device=7), None)["mAP"]


@pytest.mark.slow
def test_two_processes_train_and_test_as_one_does(data, tmp_path):
    """Every process tests its share of the movies; the checkpoint tested alone gives the same figure."""
    val = dict(val_annotations=str(data / "val.csv"))
    words = options(data, tmp_path / "run", clips_per_step="4", max_steps="2", **val)
    script = Path(videomae.__file__).with_name("train_detection.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    together = json.loads((tmp_path / "run" / "test-2" / "ava_map.json").read_text())
    tested = options(data, tmp_path / "alone", annotations=None, recipe=None, config=None, **val)
    assert main([*tested, "--test", str(tmp_path / "run" / "final")]) == 0
    alone = json.loads((tmp_path / "alone" / "ava_map.json").read_text())
    assert together["num_detections"] == alone["num_detections"] == 60
    assert together["mAP"] == pytest.approx(alone["mAP"], abs=1e-6)


@pytest.mark.slow
def test_a_run_killed_at_five_random_moments_ends_with_the_same_bits(data, whole, tmp_path):
    output = tmp_path / "run"
    program = [sys.executable, "-m", "videomae.commands.main", "train-detection"]
    killed_and_finished([*program, *options(data, output, resume="auto", save_every="1")], output, kills=5)
    assert_same_run(whole, output)
