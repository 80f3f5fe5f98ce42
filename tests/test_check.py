import json
import shutil

import pytest
from video_files import write_video

from videomae.command_line import UsageError
from videomae.commands.main import main as videomae
from videomae.data import check as checking
from videomae.data.check import check, refuse_broken
from videomae.data.lists.layouts import open_manifest
from videomae.data.synthetic import MOTIONS, SyntheticSet, make_synthetic_set
from videomae.data.video_dataset import BrokenVideosError
from videomae.sampling_videomae import ClipSampling
from videomae.training.options import PRETRAIN, read_arguments


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


def test_a_small_set_is_judged_before_a_training_and_the_broken_files_are_named(copied):
    manifest = open_manifest(copied / "train.csv")
    refuse_broken(manifest, max_broken=0.0)
    for number in range(2, 9):
        (copied / f"videos/train/0000{number}.mp4").write_bytes(b"oops")
    refuse_broken(manifest, max_broken=0.5)
    with pytest.raises(BrokenVideosError) as caught:
        refuse_broken(manifest, max_broken=0.4)
    message = str(caught.value)
    assert message.startswith(f"7 of 16 videos of {manifest.origin} cannot be read, above max_broken=0.4: ")
    assert all(f"0000{number}.mp4" in message for number in range(2, 9)) and "\n" not in message
    with pytest.raises(UsageError, match="--max_broken must be at most 1, not 2"):
        read_arguments(PRETRAIN, ["--recipe", "tiny", "--max_broken", "2"])


def test_a_large_set_is_judged_while_it_is_read(copied, monkeypatch):
    (copied / "videos/train/00003.mp4").write_bytes(b"oops")
    monkeypatch.setattr(checking, "SMALL_SET", 15)
    refuse_broken(open_manifest(copied / "train.csv"), max_broken=0.0)


def test_a_video_that_is_cut_off_is_a_problem_or_a_note(tmp_path, capsys):
    for name in "ab":
        write_video(tmp_path / f"{name}.mkv", 60)
    whole = (tmp_path / "b.mkv").read_bytes()
    (tmp_path / "b.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    assert [video["path"] for video in look(tmp_path)["broken"]] == ["b.mkv"]
    report = look(tmp_path, errors="truncate", speed_samples=2)
    assert report["broken"] == report["problems"] == [] and report["truncated"] == ["b.mkv"]
    assert "1 videos are cut off or damaged and are read as far as they go, the first is b.mkv" in report["notes"]
    for command in ("check-data", "doctor"):
        assert videomae([command, str(tmp_path)]) == 1
        assert videomae([command, str(tmp_path), "--errors", "truncate"]) == 0
    assert videomae(["check-data", str(tmp_path), "--errors", "loose"]) == 2
    assert "--errors must be one of strict, truncate, not 'loose'" in capsys.readouterr().err


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
    assert report["duplicates"] == [["videos/train/00002.mp4", "videos/train/00010.mp4"]]
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
