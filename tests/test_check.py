import json
import shutil

import pytest

from videomae.commands.main import main as videomae
from videomae.data.check import check
from videomae.data.lists.layouts import open_manifest
from videomae.data.synthetic import MOTIONS, SyntheticSet, make_synthetic_set
from videomae.sampling_videomae import ClipSampling


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    spec = SyntheticSet(clips=16, validation_clips=8, test_clips=0, num_frames=12, height=32, width=48)
    return make_synthetic_set(tmp_path_factory.mktemp("data") / "synthetic", spec)


@pytest.fixture
def copied(synthetic, tmp_path):
    return shutil.copytree(synthetic, tmp_path / "set")


SHORT = ClipSampling(num_frames=4, stride_frames=2)


def look(path, **fields):
    fields = {"sampling": SHORT, "speed_samples": 0, "progress": False, **fields}
    return check(open_manifest(path), **fields)


def test_a_sound_set_has_no_problems_and_its_speed_is_measured(synthetic):
    report = look(synthetic / "train.csv", test=open_manifest(synthetic / "validation.csv"), speed_samples=2)
    assert report["problems"] == [] and report["leaks"] == [] and report["videos"] == report["videos_probed"] == 16
    assert report["classes"] == dict.fromkeys(MOTIONS, 2) and report["sizes"] == {"48x32": 16}
    assert report["frames"]["shortest"] == report["frames"]["longest"] == 12
    assert report["speed"]["pretrain_clips_per_second"] > 0 and report["speed"]["train_clips_per_second"] > 0
    assert any("fewer than 5 videos" in note for note in report["notes"])
    assert any(
        "shorter than a clip of 16 frames" in note for note in look(synthetic / "train.csv", sampling=None)["notes"]
    )


def test_broken_and_missing_videos_are_listed(copied):
    (copied / "videos/train/00003.mp4").write_bytes(b"oops")
    (copied / "videos/train/00007.mp4").unlink()
    report = look(copied / "train.csv")
    assert [video["path"][-9:] for video in report["broken"]] == ["00003.mp4", "00007.mp4"]
    assert "2 of 16 videos looked at cannot be read (12.5%)" in report["problems"]
    assert look(copied / "train.csv", probe=3)["videos_probed"] == 3


def test_test_videos_in_the_training_set_are_found_by_content_whatever_their_name(copied):
    shutil.copy(copied / "videos/train/00002.mp4", copied / "videos/validation/00001.mp4")
    shutil.copy(copied / "videos/train/00002.mp4", copied / "videos/train/00010.mp4")
    report = look(copied / "train.csv", test=open_manifest(copied / "validation.csv"))
    assert report["leaks"] == [["videos/train/00002.mp4", "videos/validation/00001.mp4"]]
    assert report["doubles"] == [["videos/train/00002.mp4", "videos/train/00010.mp4"]]
    assert any("1 of 8 test videos are in the training set too" in problem for problem in report["problems"])


def test_labels_are_held_against_the_checkpoint(synthetic, copied):
    same = look(synthetic / "train.csv", id2label=dict(enumerate(MOTIONS)))
    assert same["problems"] == [] and "class names and their order are those of the checkpoint" in same["notes"]
    other = look(synthetic / "train.csv", id2label=dict(enumerate(sorted(MOTIONS))))
    assert any("under another number" in problem for problem in other["problems"])
    (copied / "labels.txt").unlink()
    (copied / "n.txt").write_text("videos/train/00000.mp4 0\nvideos/train/00001.mp4 5\n")
    report = look(copied / "n.txt", num_labels=3)
    assert any("label 5 of videos/train/00001.mp4 lies outside 0 ... 2" in problem for problem in report["problems"])
    assert any("4 classes have no videos" in problem for problem in report["problems"])
    (copied / "one.txt").write_text("videos/train/00000.mp4 0\nvideos/train/00001.mp4 0\n")
    assert any("one class only" in problem for problem in look(copied / "one.txt")["problems"])


def main(arguments):
    return videomae(["check-data", *arguments])


def test_the_command_prints_a_table_writes_json_and_tells_by_its_code(copied, tmp_path, capsys):
    arguments = [str(copied / "train.csv"), "--test_data", str(copied / "validation.csv"), "--num_workers=1"]
    assert main([*arguments, "--videos_to_open=all", f"--output={tmp_path / 'r.json'}"]) == 0
    shown = capsys.readouterr().out
    assert "8 classes, 2 to 2 videos each" in shown and "one worker makes" in shown and "nothing is wrong" in shown
    assert json.loads((tmp_path / "r.json").read_text())["videos"] == 16
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"id2label": {str(i): f"class {i}" for i in range(8)}}))
    assert main([*arguments, "--model", str(model)]) == 1
    assert "PROBLEM: class names of the data and of the checkpoint differ" in capsys.readouterr().out
    assert main([str(copied / "nothing.csv")]) == 2
    assert "nothing.csv: no such file or folder" in capsys.readouterr().err
    assert main([*arguments, "--videos_to_open=some"]) == 2
    assert "--videos_to_open must be a whole number or all, not 'some'" in capsys.readouterr().err
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["videos"] == 16
