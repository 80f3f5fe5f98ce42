"""Latent targets: a frozen teacher's tokens, the student that predicts them, and the command from data to a folder."""

import json

import latent_targets
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import VideoMAEForVideoClassification as StockClassifier
from transformers import VideoMAEModel as StockModel

from videomae import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEModel, train_pretrain
from videomae.data.synthetic import SyntheticSet, make_synthetic_set
from videomae.masking_videomae import make_mask
from videomae.training.latent import LatentConfig, LatentStudent, LatentTeacher, latent_loss, save_encoder
from videomae.training.runs import read_log

CLIP = {"image_size": 32, "num_frames": 8, "patch_size": 8}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
DECODER = {
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}
TEACHER = VideoMAEConfig(**CLIP, **{**SIZES, "hidden_size": 24}, **DECODER, use_mean_pooling=False)
STUDENT = LatentConfig(**CLIP, **SIZES, **DECODER, use_mean_pooling=False, latent_size=24)
GRID = (4, 4, 4)


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    torch.manual_seed(1)
    VideoMAEForPreTraining(TEACHER).save_pretrained(folder)
    return folder


@pytest.fixture
def teacher(teacher_folder):
    return LatentTeacher(str(teacher_folder), clip=STUDENT, device=torch.device("cpu"))


def clips(count=2):
    return torch.randn(count, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def masks(*kinds):
    generator = torch.Generator().manual_seed(0)
    return torch.stack([make_mask(kind, GRID, 0.75, generator) for kind in kinds])


def test_the_teacher_gives_tokens_of_whole_clips_each_normalised_over_its_width(teacher, teacher_folder):
    tokens = StockModel.from_pretrained(teacher_folder)(clips()).last_hidden_state
    expected = (tokens - tokens.mean(-1, keepdim=True)) / (tokens.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(teacher(clips()), expected, rtol=1e-4, atol=1e-4)
    assert not teacher.model.training


def test_the_loss_is_the_mean_difference_at_the_hidden_positions_of_the_clips_own_latents():
    """The decoder's last layer says zero here, so the loss is the mean size of the targets that it is compared with."""
    torch.manual_seed(0)
    student = LatentStudent(STUDENT)
    torch.nn.init.zeros_(student.decoder.head.weight)
    latents = torch.randn(2, 64, 24)
    hidden = masks("short_blocks", "long_blocks", "short_blocks", "long_blocks")  # two masks of each of two clips
    expected = torch.stack([latents[row // 2][hidden[row]].abs().mean() for row in range(4)]).mean()
    counted = [
        student(clips().repeat_interleave(2, 0), hidden, latents=latents, num_visible=count) for count in (16, None)
    ]
    for answer in counted:
        torch.testing.assert_close(answer.loss, expected)
        assert answer.logits.shape == (4, 48, 24)
    other = student(clips().repeat_interleave(2, 0), hidden, latents=latents.flip(0), num_visible=16).loss
    assert (other - expected).abs() > 1e-4


def test_positions_that_are_decoded_but_visible_do_not_count():
    torch.manual_seed(0)
    student = LatentStudent(STUDENT)
    torch.nn.init.zeros_(student.decoder.head.weight)
    hidden, left_out = masks("tube"), make_mask("running_cell", GRID, 0.5, torch.Generator().manual_seed(0))[None]
    latents = torch.randn(1, 64, 24)
    loss = student(clips(1), hidden, ~left_out, latents=latents).loss
    torch.testing.assert_close(loss, latents[0][(hidden & ~left_out)[0]].abs().mean())


def test_the_teacher_gets_no_gradient_and_sees_each_clip_once(teacher):
    torch.manual_seed(0)
    student, seen = LatentStudent(STUDENT), []
    teacher.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    batch = {
        "pixel_values": clips().repeat_interleave(2, 0),
        "bool_masked_pos": masks("short_blocks", "long_blocks", "short_blocks", "long_blocks"),
        "num_visible": 16,
    }
    before = {name: value.clone() for name, value in teacher.model.state_dict().items()}
    latent_loss(student, batch, teacher=teacher, masks=2).backward()
    assert seen == [2]
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.model.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.model.state_dict().items())
    assert not teacher(clips()).requires_grad


def test_the_encoder_of_a_student_is_saved_alone(tmp_path):
    torch.manual_seed(0)
    student = LatentStudent(STUDENT)
    save_encoder(student, tmp_path, student.state_dict())
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["VideoMAEModel"] and "latent_size" not in config
    again = VideoMAEModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(
        again(clips()).last_hidden_state, student.eval().videomae(clips()).last_hidden_state, rtol=0, atol=0
    )


@pytest.mark.parametrize("change", [{"image_size": 64}, {"num_frames": 16}, {"patch_size": 16}, {"pixel_mean": 0.5}])
def test_a_teacher_of_other_clips_is_refused_with_both_sizes(teacher_folder, change):
    clip = VideoMAEConfig(**{**CLIP, **change})
    message = (
        r"takes pixels scaled by .* and the student by .* with --config"
        if "pixel_mean" in change
        else r"teacher sees 8 frames of 3 x 32 x 32 as 4 x 4 x 4 tokens, and the student \d+ frames of .* as \d x \d x \d tokens"
    )
    with pytest.raises(ValueError, match=message):
        LatentTeacher(str(teacher_folder), clip=clip, device=torch.device("cpu"))


# ------------------------------------------------------------------------------------------------------- the command

MORE = {
    "--image_size": 32,
    "--num_frames": 8,
    "--epochs": 4,
    "--warmup_epochs": 1,
    "--clips_per_step": 4,
    "--mask": "blocks",
    "--config": " ".join(f"{name}={value}" for name, value in {"patch_size": 8, **SIZES, **DECODER}.items()),
    "--log_every": 1,
    "--num_workers": 0,
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    spec = SyntheticSet(clips=8, validation_clips=0, test_clips=0, num_frames=16, height=40, width=48)
    return make_synthetic_set(tmp_path_factory.mktemp("synthetic") / "set", spec) / "train.csv"


def pretrain(videos, output, *more):
    fields = [word for flag, value in MORE.items() for word in (flag, *str(value).split(" "))]
    return train_pretrain.main(
        ["--recipe", "tiny", "--data", str(videos), "--output", str(output), *fields, *map(str, more)]
    )


@pytest.fixture(scope="module")
def whole(videos, teacher_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "whole"
    assert pretrain(videos, output, "--targets", "latent", "--teacher", teacher_folder, "--ema_decay", "0.9") == 0
    return output


def history(run):
    return [(line["step"], line["loss"], line["grad_norm"]) for line in read_log(run / "log.jsonl")]


def test_a_resumed_student_is_the_uninterrupted_one_bit_for_bit(videos, whole, teacher_folder, tmp_path):
    more = ("--targets", "latent", "--teacher", teacher_folder, "--ema_decay", "0.9", "--resume", "auto")
    for stop in ("3", "5", "8"):
        assert pretrain(videos, tmp_path / "run", *more, "--max_steps", stop) == 0
    assert history(whole) == history(tmp_path / "run") and len(history(whole)) == 8
    for name in ("model.safetensors", "ema/model.safetensors", "training/optimizer.safetensors"):
        one, two = (load_file(run / "checkpoint-8" / name) for run in (whole, tmp_path / "run"))
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    assert load_file(whole / "checkpoint-8/model.safetensors")["decoder.head.weight"].shape == (24, 16)


def test_final_is_an_encoder_folder_that_transformers_loads(whole):
    names = {path.name for path in (whole / "final").iterdir()}
    assert (
        names >= {"config.json", "model.safetensors", "README.md"} and not (whole / "checkpoint-8/README.md").exists()
    )
    stock, report = StockModel.from_pretrained(whole / "final", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    average = LatentStudent.from_pretrained(whole / "checkpoint-8/ema").videomae.state_dict()
    assert average.keys() == stock.state_dict().keys()
    assert all(torch.equal(value, average[name]) for name, value in stock.state_dict().items())
    _, report = StockClassifier.from_pretrained(whole / "final", output_loading_info=True)
    assert sorted(report["missing_keys"]) == ["classifier.bias", "classifier.weight"]
    record = json.loads((whole / "final/training_record.json").read_text())
    assert len(record["data"]["teacher_sha256"]) == 64


def test_the_records_say_what_the_targets_are(whole):
    (start,) = json.loads((whole / "run.json").read_text())["starts"]
    assert start["effective"]["masks of a sample"] == 2 and start["effective"]["targets"].startswith("latent, of ")
    assert start["effective"]["visible tokens"] == "16 of 64"


def test_a_student_becomes_the_teacher_or_the_start_of_another(videos, whole, tmp_path):
    more = ("--targets", "latent", "--teacher", whole / "final", "--max_steps", "1")
    assert pretrain(videos, tmp_path / "second", *more) == 0
    start = ("--model", whole / "final", "--config", "--max_steps", "1")
    assert pretrain(videos, tmp_path / "third", "--targets", "latent", "--teacher", whole / "final", *start) == 0
    assert pretrain(videos, tmp_path / "pixels", *start) == 0
    assert VideoMAEForPreTraining.from_pretrained(tmp_path / "pixels/final").decoder.head.out_features == 384
    with pytest.raises(ValueError, match=r"checkpoint-8 is a checkpoint with latent targets.* give the `final`"):
        pretrain(videos, tmp_path / "other", "--model", whole / "checkpoint-8", "--config")


def test_pixel_targets_take_block_masks_too(videos, tmp_path):
    assert pretrain(videos, tmp_path / "run", "--picture_every", "1", "--max_steps", "2") == 0
    assert (tmp_path / "run/pictures/step-2.png").exists()
    assert StockModel.from_pretrained(tmp_path / "run/final").config.hidden_size == 32


def test_another_teacher_in_the_same_folder_ends_a_resume(videos, teacher_folder, tmp_path):
    folder = tmp_path / "teacher"
    VideoMAEForPreTraining(TEACHER).save_pretrained(folder)
    more = ("--targets", "latent", "--teacher", folder)
    assert pretrain(videos, tmp_path / "run", *more, "--max_steps", "1") == 0
    VideoMAEForPreTraining(TEACHER).save_pretrained(folder)
    with pytest.raises(ValueError, match="--teacher holds other weights than this run was started with"):
        pretrain(videos, tmp_path / "run", *more, "--resume", "auto")


def test_a_dry_run_of_a_student_writes_its_card(videos, teacher_folder, tmp_path):
    assert pretrain(videos, tmp_path / "run", "--targets", "latent", "--teacher", teacher_folder, "--dry_run") == 0
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["card.md"]


def test_a_student_overfits_a_few_samples(videos, teacher_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_pretrain, "OVERFIT_GOAL", 2.0)
    more = ("--targets", "latent", "--teacher", teacher_folder, "--overfit", "2")
    assert pretrain(videos, tmp_path / "run", *more) == 0
    assert "overfitted 2 samples" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more, message",
    [
        (("--targets", "latent"), "--targets latent needs --teacher FOLDER"),
        (("--teacher", "TEACHER"), "--teacher .*teacher is for --targets latent; give both, or neither"),
        (("--targets", "latent", "--teacher", "nowhere/teacher"), "--teacher nowhere/teacher: there is no such folder"),
        (("--targets", "latent", "--teacher", "TEACHER", "--image_size", "48"), "as 4 x 4 x 4 tokens, and the student"),
        (("--targets", "latent", "--teacher", "TEACHER", "--picture_every", "1"), "--picture_every draws predicted pixels"),
        (("--targets", "tokens"), "targets must be one of pixels, latent, not 'tokens'"),
        (("--mask", "block"), "mask must be one of tube, random, frame, blocks, short_blocks, long_blocks, not 'block'"),
        (("--mask", "blocks", "--mask_ratio", "1.0"), "mask_ratio 1.0 with a blocks mask leaves no token visible"),
    ],
)  # fmt: skip
def test_what_cannot_work_stops_before_any_work(videos, teacher_folder, tmp_path, more, message):
    more = [str(teacher_folder) if word == "TEACHER" else word for word in more]
    with pytest.raises((ValueError, OSError), match=message):
        pretrain(videos, tmp_path / "run", *more)
    assert not (tmp_path / "run").exists()


def test_the_normalisation_has_neither_weight_nor_bias(teacher):
    latents = teacher(clips())
    torch.testing.assert_close(latents, F.layer_norm(latents, (24,)), rtol=1e-3, atol=1e-3)
    assert latents.mean(-1).abs().max() < 1e-5 and (latents.var(-1, correction=0) - 1).abs().max() < 1e-2


# ---------------------------------------------------------------------------------------------------- the experiment


def test_the_experiment_trains_and_probes_each_arm_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(latent_targets, "TIMED_STEPS", 1)
    spec = SyntheticSet(clips=32, validation_clips=0, test_clips=16, num_frames=16, height=32, width=32)
    data = make_synthetic_set(tmp_path / "set", spec)
    words = ["--output", str(tmp_path / "out"), "--train", str(data / "train.csv"), "--test", str(data / "test.csv")]
    for _ in range(2):  # the second time reads the cells
        assert latent_targets.main([*words, "--minutes", "1e-6", "--seeds", "0"]) == 0
        *_, tube, blocks, latent, random = capsys.readouterr().out.strip().splitlines()
        assert tube.startswith("| pixel-tube | 1 | 4 | ") and blocks.startswith("| pixel-blocks | 1 | 4 | ")
        assert latent.startswith("| latent | 1 | 4/4 | ") and random.startswith("| random | 1 | 0 | 0.0 | ")
    assert len(list((tmp_path / "out/cells").iterdir())) == 4


def test_the_table_has_mean_and_deviation_of_the_seeds():
    cells = {
        "latent": [{"steps": 6, "teacher_steps": 2, "minutes": 1.0, "linear": top1, "knn": 0.5} for top1 in (0.2, 0.4)]
    }
    assert latent_targets.table(cells).endswith("| latent | 2 | 2/6 | 1.0 | 30.0 ± 14.1 | 50.0 ± 0.0 |")
