"""The fine-tuning command, run as a user runs it, on a small synthetic set."""

import json
import os
import re
import signal
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import support
import torch
from safetensors.torch import load_file
from support import SMALLEST, history, killed_and_finished

from videomae import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification, train_classification
from videomae.commands import evaluation as evaluation_command
from videomae.data.lists.groups import groups_of, parse_fold, read_groups, split_fold
from videomae.data.lists.layouts import open_manifest
from videomae.data.synthetic import SyntheticSet, make_synthetic_set
from videomae.evaluation.validation import chance_warning
from videomae.models import weights_sha256
from videomae.train_classification import held_out
from videomae.training import engines, loop
from videomae.training.checkpoints import checkpoints
from videomae.training.distillation import distillation_loss
from videomae.training.loop import training_step
from videomae.training.objective import Objective
from videomae.training.recipes import FINETUNING
from videomae.training.runs import EXIT_INTERRUPTED, read_log
from videomae.video_processing_videomae import VideoMAEVideoProcessor

# Sixteen clips in steps of four: four steps an epoch, twelve in all, warm-up until the fourth.
SMALL = {
    "--image_size": 32,
    "--num_frames": 8,
    "--epochs": 3,
    "--warmup_epochs": 1,
    "--clips_per_step": 4,
    "--log_every": 1,
    "--num_workers": 0,
}


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    spec = SyntheticSet(clips=16, validation_clips=8, test_clips=8, num_frames=16, height=40, width=48)
    return make_synthetic_set(tmp_path_factory.mktemp("synthetic") / "set", spec)


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    torch.manual_seed(0)
    VideoMAEForPreTraining(VideoMAEConfig(**SMALLEST, use_mean_pooling=False)).save_pretrained(folder)
    return folder


def command(videos, pretrained, output, *more, recipe="tiny"):
    fields = [word for flag, value in SMALL.items() for word in (flag, str(value))]
    data = ["--data", str(videos / "train.csv"), "--val_data", str(videos / "validation.csv")]
    return ["--recipe", recipe, "--model", str(pretrained), *data, "--output", str(output), *fields, *more]


def finetune(videos, pretrained, output, *more, **options):
    return train_classification.main(command(videos, pretrained, output, *more, **options))


def assert_same_run(one, two, step=12):
    support.assert_same_run(one, two, step, also=["best/model.safetensors"])


AUGMENTED = ("--ema_decay", "0.9", "--mixup", "0.8", "--cutmix", "1.0", "--num_samples", "2", "--erase", "0.25",
             "--rand_augment", "rand-m7-n4-mstd0.5-inc1", "--drop_path_rate", "0.2", "--head_dropout_prob", "0.3",
             "--probe_epochs", "1", "--class_weights", "balanced")  # fmt: skip


@pytest.fixture(scope="session")
def whole(videos, pretrained, tmp_path_factory):
    """The run that nothing interrupted, with everything random switched on, and tested at its end."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    more = (*AUGMENTED, "--test_data", str(videos / "test.csv"))
    assert finetune(videos, pretrained, output, *more) == 0
    return output


@pytest.mark.parametrize("recipe, rule", [("v1-base-ssv2", "reference"), ("v2-base-ssv2", "reference_v2")])
def test_the_version_of_a_recipe_decides_which_frames_a_short_video_gives(tmp_path, recipe, rule):
    (tmp_path / "train.csv").write_text("a.mp4 0\nb.mp4 1\n")
    data = train_classification.build_data(
        FINETUNING[recipe],
        train_classification.FinetuneOptions(data=str(tmp_path / "train.csv"), max_broken=1.0),
        say=lambda text: None,
    )
    assert data.train.sampling.rule == rule and data.train.sampling.strategy == "uniform"


def test_a_run_writes_its_recipe_its_log_the_best_and_the_last_and_its_test(videos, whole):
    lines = read_log(whole / "log.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    assert [line["step"] for line in lines if "val_top1" in line] == [4, 8, 12]
    model = VideoMAEForVideoClassification.from_pretrained(whole / "best")
    assert model.config.use_mean_pooling and model.config.id2label[0] == "moves right" and model.config.num_labels == 8
    sampling = VideoMAEVideoProcessor.from_pretrained(whole / "best").sampling
    assert (sampling.num_frames, sampling.clips, sampling.crops) == (8, 2, 3)
    results = json.loads((whole / "test/results.json").read_text())
    assert results["protocol"] == "8x2x3" and results["videos"] == 8
    final, last = (load_file(whole / name / "model.safetensors") for name in ("final", "checkpoint-12/ema"))
    assert final.keys() == last.keys() and all(torch.equal(final[name], last[name]) for name in last)
    assert VideoMAEForVideoClassification.from_pretrained(whole / "final").config.id2label == model.config.id2label
    assert VideoMAEVideoProcessor.from_pretrained(whole / "final").sampling.clips == 2
    # The last epoch's weights are tested, as the papers test them; each card has the figures of its own weights.
    tested = VideoMAEForVideoClassification.from_pretrained(whole / "final")
    assert results["weights_sha256"] == weights_sha256(tested)
    best, final = ((whole / name / "README.md").read_text() for name in ("best", "final"))
    assert "tiny" in best and "8x1x1" in best and "8x2x3" not in best
    by_class = best.split("validation, while training, 8x1x1</summary>")[1].split("</details>")[0]
    assert [row.split(" | ")[1] for row in by_class.splitlines() if row.startswith("| moves")] == ["1"] * 4
    assert "| moves down | 2 |\n" in final and "8 videos, list with SHA-256" in final
    assert "chance 12.5 % (always the commonest class)" in best and "chance 12.5 %" in final
    assert (whole / "best/confusion.png").is_file() and "![Confusion" in final
    assert "8x2x3" in final and ("8x1x1" in final) == (weights_sha256(model) == weights_sha256(tested))


def test_the_best_is_tested_where_the_recipe_says_so_with_a_warning_on_the_list_it_was_chosen_on(
    videos, pretrained, tmp_path, capsys
):
    more = ("--test_weights", "best", "--test_data", str(videos / "validation.csv"))
    assert finetune(videos, pretrained, tmp_path / "run", *more) == 0
    assert (
        "8 of the 8 test videos are validation videos, on which the best weights were chosen" in capsys.readouterr().err
    )
    card = (tmp_path / "run/best/README.md").read_text()
    assert "8x1x1" in card and "8x2x3" in card


def test_trackers_are_opened_with_the_facts_of_a_run_but_not_of_a_dry_one(videos, pretrained, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(engines, "start_trackers", lambda accelerator, facts: opened.append(facts["recipe"]))
    assert finetune(videos, pretrained, tmp_path / "run", "--dry_run") == 0
    assert opened == []
    assert finetune(videos, pretrained, tmp_path / "run", "--max_steps", "1") == 0
    assert opened == ["tiny"]


def test_best_is_the_best_validation_of_the_averaged_weights(whole):
    validations = [line for line in read_log(whole / "log.jsonl") if "val_top1" in line]
    state = json.loads((whole / "checkpoint-12/training/state.json").read_text())["notes"]
    best = max(line["val_top1"] for line in validations)
    assert state["best"] == best and state["looks"] == 3
    assert state["best_step"] == next(line["step"] for line in validations if line["val_top1"] == best)
    if state["best_step"] == 12:
        averaged, kept = (
            load_file(whole / name) for name in ("checkpoint-12/ema/model.safetensors", "best/model.safetensors")
        )
        assert all(torch.equal(averaged[name], kept[name]) for name in kept)


def test_a_checkpoint_is_written_at_each_validation(whole):
    assert [path.name for path in checkpoints(whole)] == ["checkpoint-8", "checkpoint-12"]  # the last two are kept


def test_the_folder_alone_is_enough_to_resume(videos, pretrained, whole, tmp_path):
    assert finetune(videos, pretrained, tmp_path / "run", *AUGMENTED, "--max_steps", "6") == 0
    assert (tmp_path / "run/final").is_dir()  # of step 6, until the run ends again
    assert train_classification.main(["--output", str(tmp_path / "run"), "--resume", "auto"]) == 0
    assert_same_run(whole, tmp_path / "run")


def test_validation_accuracy_is_printed_beside_chance(videos, pretrained, tmp_path, capsys):
    finetune(videos, pretrained, tmp_path / "run", "--max_steps", "4")
    assert re.search(r"step 4/4  validation:  loss [\d.]+  top1 [\d.]+ \(chance 0\.125\)", capsys.readouterr().out)


def test_stopping_in_the_middle_of_an_epoch_twice_changes_nothing(videos, pretrained, whole, tmp_path):
    for stop in ("3", "8", "12"):
        more = (*AUGMENTED, "--max_steps", stop, "--resume", "auto")
        assert finetune(videos, pretrained, tmp_path / "run", *more) == 0
    assert_same_run(whole, tmp_path / "run")


def test_workers_change_nothing(videos, pretrained, whole, tmp_path):
    assert finetune(videos, pretrained, tmp_path / "run", *AUGMENTED, "--num_workers", "2") == 0
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_writes_a_checkpoint_and_the_run_resumes(
    videos, pretrained, whole, tmp_path, monkeypatch, capsys, number
):
    step = loop.training_step

    def interrupted_step(*arguments, **options):
        os.kill(os.getpid(), number)
        return step(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "training_step", interrupted_step)
        assert finetune(videos, pretrained, tmp_path / "run", *AUGMENTED) == EXIT_INTERRUPTED
    assert f"{number.name}: checkpoint-1 written" in capsys.readouterr().err
    assert train_classification.main(["--output", str(tmp_path / "run"), "--resume", "auto"]) == 0
    assert_same_run(whole, tmp_path / "run")


def test_while_the_head_is_probed_the_encoder_does_not_move(videos, pretrained, tmp_path):
    more = ("--probe_epochs", "2", "--max_steps", "8")
    finetune(videos, pretrained, tmp_path / "run", *more)
    before = load_file(pretrained / "model.safetensors")
    after = load_file(tmp_path / "run/checkpoint-8/model.safetensors")
    kept = [name for name in after if name.startswith("videomae.")]
    assert kept and all(torch.equal(after[name], before[name]) for name in kept)
    finetune(videos, pretrained, tmp_path / "run", "--probe_epochs", "2", "--resume", "auto")
    after = load_file(tmp_path / "run/checkpoint-12/model.safetensors")
    assert not any(torch.equal(after[name], before[name]) for name in kept if name.endswith("dense.weight"))


def test_the_pretrained_norm_is_dropped_and_it_is_said(videos, pretrained, tmp_path, capsys):
    finetune(videos, pretrained, tmp_path / "run", "--dry_run")
    said = capsys.readouterr().err
    assert "its final norm is dropped" in said and "dry run: about" in said
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["card.md"]


def test_a_dry_run_keeps_the_clips_of_a_batch_that_is_mixed_even(videos, pretrained, tmp_path, capsys):
    assert finetune(videos, pretrained, tmp_path / "run", "--mixup", "0.8", "--dry_run") == 0
    said = capsys.readouterr().err
    assert "2 clips at a time" in said and "1 clips at a time" not in said and "dry run: about" in said


def test_early_stopping_ends_the_run_and_stays_ended(videos, pretrained, tmp_path, capsys):
    # A rate of nothing: no validation after the first is better.
    more = ("--base_lr", "1e-12", "--min_lr", "0", "--early_stopping", "1", "--epochs", "6")
    assert finetune(videos, pretrained, tmp_path / "run", *more) == 0
    assert "stopped, the best was step 4" in capsys.readouterr().err
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-4", "checkpoint-8"]
    assert finetune(videos, pretrained, tmp_path / "run", *more, "--resume", "auto") == 0
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-4", "checkpoint-8"]


def test_a_head_at_chance_is_reported_with_the_usual_causes(videos, pretrained, tmp_path, capsys):
    finetune(videos, pretrained, tmp_path / "run", "--base_lr", "1e-12", "--min_lr", "0")
    assert "after 3 epochs the validation accuracy is" in capsys.readouterr().err
    assert chance_warning({"top1": 0.9}, [0, 1] * 20, epochs=3, base_lr=1e-3) is None
    assert "commonest class (0.750)" in chance_warning({"top1": 0.76}, [0, 0, 0, 1] * 9, epochs=3, base_lr=1e-3)


def test_videos_held_out_of_a_folder_are_a_share_of_each_class(videos):
    manifest = open_manifest(videos / "train.csv")
    train, validation = held_out(manifest, 0.5, seed=0)
    assert torch.bincount(validation.labels).tolist() == [1] * 8 and len(train) == 8
    assert not {train.path(i) for i in range(8)} & {validation.path(i) for i in range(8)}
    again = held_out(manifest, 0.5, seed=0)[1]
    assert [again.path(i) for i in range(8)] == [validation.path(i) for i in range(8)]


def test_a_model_is_tested_alone(videos, whole, tmp_path, capsys):
    test = ["--eval_only", "--test_data", str(videos / "test.csv")]
    assert train_classification.main([*test, "--model", str(whole / "final"), "--output", str(tmp_path / "x")]) == 0
    results = json.loads((tmp_path / "x/test/results.json").read_text())
    assert results["metrics"] == json.loads((whole / "test/results.json").read_text())["metrics"]


def test_overfitting_a_few_videos_reaches_them_and_writes_nothing(videos, pretrained, tmp_path, capsys):
    assert finetune(videos, pretrained, tmp_path / "run", "--overfit", "6") == 0
    assert "overfitted 6 videos" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_mixing_an_odd_batch_stops_before_any_work(videos, pretrained, tmp_path):
    with pytest.raises(ValueError, match="clips_per_device 1 x num_samples 1 = 1 is odd"):
        finetune(videos, pretrained, tmp_path / "run", "--mixup", "0.8", "--clips_per_device", "1")
    assert not (tmp_path / "run").exists()


def test_more_labels_than_classes_stop_with_the_video(videos, pretrained, tmp_path):
    (tmp_path / "list.txt").write_text("a.mp4 0\nb.mp4 9\nc.mp4 1\nd.mp4 1\n")
    with pytest.raises(ValueError, match=r"line 2: label 9 lies outside 0"):
        finetune(videos, pretrained, tmp_path / "run", "--data", str(tmp_path / "list.txt"), "--num_labels", "8")


def test_classes_without_videos_are_named(videos, pretrained, tmp_path, capsys):
    rows = (videos / "train.csv").read_text().splitlines()
    (tmp_path / "some.csv").write_text("\n".join(row for row in rows if "moves" not in row) + "\n")
    (tmp_path / "labels.txt").write_text((videos / "labels.txt").read_text())
    more = ("--data", str(tmp_path / "some.csv"), "--data_root", str(videos), "--dry_run")
    finetune(videos, pretrained, tmp_path / "run", *more)
    assert "4 of 8 classes have no training video (moves right, moves left" in capsys.readouterr().err


def test_early_stopping_without_validation_is_refused(videos, pretrained, tmp_path):
    words = command(videos, pretrained, tmp_path / "run", "--early_stopping", "2")
    at = words.index("--val_data")
    with pytest.raises(ValueError, match="--early_stopping needs validation videos"):
        train_classification.main(words[:at] + words[at + 2 :])


def test_several_labels_a_video(videos, pretrained, tmp_path):
    rows = ["path,label"]
    for index, line in enumerate((videos / "train.csv").read_text().splitlines()[1:]):
        rows.append(f"{line.split(',')[0]},{'a|b' if index % 2 else 'c'}")
    (videos / "multi.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    both = str(videos / "multi.csv")
    more = ("--label_kind", "multi", "--data", both, "--val_data", both, "--class_names", str(tmp_path / "labels.txt"))
    assert finetune(videos, pretrained, tmp_path / "run", *more) == 0
    model = VideoMAEForVideoClassification.from_pretrained(tmp_path / "run/best")
    assert model.config.problem_type == "multi_label_classification" and model.config.num_labels == 3
    assert "val_mAP" in read_log(tmp_path / "run/log.jsonl")[-1]


def test_numbers_to_predict(videos, pretrained, tmp_path):
    rows = ["path,label"]
    for index, line in enumerate((videos / "train.csv").read_text().splitlines()[1:]):
        rows.append(f"{line.split(',')[0]},{index / 10}")
    (videos / "values.csv").write_text("\n".join(rows) + "\n")
    both = str(videos / "values.csv")
    assert (
        finetune(videos, pretrained, tmp_path / "run", "--label_kind", "value", "--data", both, "--val_data", both) == 0
    )
    model = VideoMAEForVideoClassification.from_pretrained(tmp_path / "run/best")
    assert model.config.problem_type == "regression" and model.config.num_labels == 1
    assert "val_mae" in read_log(tmp_path / "run/log.jsonl")[-1]


def test_the_distillation_loss_is_zero_at_the_teacher_and_its_gradient_keeps_its_size():
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    assert distillation_loss(logits, logits + 3.0, 2.0).item() == pytest.approx(0, abs=1e-6)
    student = torch.zeros(4, 5, requires_grad=True)
    one, two = (
        torch.autograd.grad(distillation_loss(student, logits * 1e-3, temperature), student)[0]
        for temperature in (1, 8)
    )
    torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-7)  # near zero T^2 cancels the temperature


def test_a_student_follows_its_teacher_and_not_the_labels():
    torch.manual_seed(0)
    config = {name: value for name, value in SMALLEST.items() if not name.startswith("decoder")}
    teacher, student = (VideoMAEForVideoClassification(VideoMAEConfig(**config, num_labels=3)) for _ in range(2))
    objective = Objective(
        problem="single_label_classification",
        num_labels=3,
        teacher=lambda pixels: 5 * teacher(pixels).logits.detach(),
        teacher_weight=1.0,
        label_weight=0.0,
    )
    from accelerate import Accelerator

    accelerator, optimizer = Accelerator(cpu=True), torch.optim.AdamW(student.parameters(), lr=1.0)
    pixels = torch.randn(6, 8, 3, 32, 32)
    batch = {"pixel_values": pixels, "labels": torch.zeros(6, dtype=torch.int64)}
    losses = [
        training_step(accelerator, student, optimizer, [batch], objective, lr=1e-3, weight_decay=0.0)[0].item()
        for _ in range(30)
    ]
    assert losses[-1] < 0.2 * losses[0]


def test_cached_teacher_scores_train_a_student(videos, whole, pretrained, tmp_path):
    scores = tmp_path / "scores"
    evaluation_command.main([str(whole / "best"), str(videos / "train.csv"), "--views", "1x1", "--output", str(scores)])
    cached = ("--teacher_scores", str(scores / "predictions.parquet"), "--temperature", "2")
    assert finetune(videos, pretrained, tmp_path / "cached", *cached, "--mixup", "0.8") == 0
    live = ("--teacher", str(whole / "best"), "--label_weight", "0.5")
    assert finetune(videos, pretrained, tmp_path / "live", *live) == 0
    with pytest.raises(ValueError, match="not both"):
        finetune(videos, pretrained, tmp_path / "both", *cached, *live)


def test_small_data_takes_the_clips_of_its_start(videos, pretrained, tmp_path, capsys):
    data = ["--data", str(videos / "train.csv"), "--val_share", "0.5", "--output", str(tmp_path / "run"), "--flip", "0"]
    few = ["--clips_per_step", "4", "--epochs", "2", "--warmup_epochs", "1", "--num_workers", "0", "--log_every", "1"]
    assert train_classification.main(["--recipe", "small-data", "--model", str(pretrained), *data, *few]) == 0
    config = VideoMAEConfig.from_pretrained(tmp_path / "run/best")
    assert (config.image_size, config.num_frames, config.head_dropout_prob) == (32, 8, 0.5)
    assert "videos  8 to train on, 8 to validate" in capsys.readouterr().err
    # Other clips when told so, and the run continues with them by its own record.
    words = ["--model", str(pretrained), *data[:2], "--output", str(tmp_path / "other"), "--num_workers", "0"]
    words += ["--num_frames", "4", *few[:-4]]
    assert train_classification.main(["--recipe", "small-data", *words, "--max_steps", "3"]) == 0
    assert train_classification.main([*data[:2], *words[4:8], "--resume", "auto"]) == 0
    assert VideoMAEConfig.from_pretrained(tmp_path / "other/checkpoint-8").num_frames == 4


def test_folds_and_shares_keep_groups_together_and_evaluate_tests_the_fold_that_was_held_out(
    videos, pretrained, tmp_path, capsys
):
    lines = (videos / "train.csv").read_text().splitlines()
    paths = [line.split(",")[0] for line in lines[1:]]
    groups = tmp_path / "patients.csv"
    groups.write_text("path,patient\n" + "".join(f"{path},p{number // 2}\n" for number, path in enumerate(paths)))
    tested = []
    for fold in ("1/2", "2/2"):
        manifest = open_manifest(videos / "train.csv")
        rest, part = split_fold(manifest, parse_fold(fold), groups_of(manifest, groups))
        tested += [part.path(index) for index in range(len(part))]
        apart = [{read_groups(groups)[1][one.path(i)] for i in range(len(one))} for one in (rest, part)]
        assert not apart[0] & apart[1]
    assert sorted(tested) == sorted(paths)
    words = ["--fold", "2/2", "--groups", str(groups)]
    data = ["--data", str(videos / "train.csv"), "--num_workers", "0", "--clips_per_step", "4", "--max_steps", "1"]
    start = ["--recipe", "tiny", "--model", str(pretrained), *data, "--output", str(tmp_path / "run")]
    assert train_classification.main([*start, *words]) == 0
    assert f"videos  {len(rest)} to train on, {len(part)} to validate" in capsys.readouterr().err
    model = str(tmp_path / "run/checkpoint-1")
    output = ["--output", str(tmp_path / "scores"), "--views", "1x1"]
    assert evaluation_command.main([model, str(videos / "train.csv"), *words, *output]) == 0
    rows = pq.read_table(tmp_path / "scores/predictions.parquet").to_pylist()
    assert [row["path"] for row in rows] == tested[-len(rows) :] and len(rows) == len(part)
    for more, message in (
        ([*words, "--val_share", "0.2"], "choose one"),
        (["--fold", "3/2"], "a fold is PART/PARTS"),
        (["--fold", "1/2", "--group_column", "x"], "--groups, which is missing"),
    ):
        with pytest.raises(ValueError, match=message):
            train_classification.main([*start[:-1], str(tmp_path / "none"), *more])


def test_every_published_recipe_is_offered_and_small_data_too():
    assert {"v1-base-k400", "v2-giant-k710", "small-data", "tiny"} <= set(FINETUNING)


def test_lora_trains_small_matrices_and_writes_a_plain_model(videos, pretrained, tmp_path):
    pytest.importorskip("peft")
    more = ("--lora_rank", "2", "--base_lr", "0.1")
    assert finetune(videos, pretrained, tmp_path / "run", *more) == 0
    for stop in ("5", "12"):
        assert finetune(videos, pretrained, tmp_path / "two", *more, "--max_steps", stop, "--resume", "auto") == 0
    assert history(tmp_path / "run") == history(tmp_path / "two")
    one, two = (load_file(tmp_path / name / "checkpoint-12/model.safetensors") for name in ("run", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    before = load_file(pretrained / "model.safetensors")
    moved = {name for name in one if name in before and not torch.equal(one[name], before[name])}
    assert moved == {
        f"videomae.encoder.layer.{block}.attention.attention.{name}.weight"
        for block in range(2)
        for name in ("query", "value")
    }


def test_lora_without_peft_says_what_to_install(videos, pretrained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"pip install 'videomae\[lora\]'"):
        finetune(videos, pretrained, tmp_path / "run", "--lora_rank", "2")


COMMAND = "import sys; from videomae.train_classification import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.slow
def test_two_processes_train_as_one_does(videos, pretrained, tmp_path):
    (tmp_path / "finetune.py").write_text(COMMAND)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for processes in (1, 2):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        launch += [str(tmp_path / "finetune.py"), *command(videos, pretrained, tmp_path / str(processes))]
        subprocess.run(launch, check=True, capture_output=True, timeout=300, env=environment)
    one, two = (history(tmp_path / name) for name in "12")
    assert len(one) == len(two)
    for left, right in zip(one, two):
        assert left == pytest.approx(right, abs=1e-4)


@pytest.mark.slow
def test_a_run_killed_at_five_random_moments_ends_with_the_same_bits(videos, pretrained, whole, tmp_path):
    """kill -9, also while a checkpoint or the best model is written."""
    output = tmp_path / "run"
    more = (*AUGMENTED, "--resume", "auto", "--save_every", "1")
    program = [sys.executable, "-m", "videomae.commands.main", "finetune"]
    killed_and_finished([*program, *command(videos, pretrained, output, *more)], output, kills=5)
    assert_same_run(whole, output)
    assert not list(output.glob(".*.tmp")) and not list(output.glob(".*.old"))
