"""The frozen protocol from files to a saved probe: one command, resumed, cached, on our encoders and on V-JEPA 2's."""

import dataclasses
import json
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
import transformers
from published_folders import save_tiny
from safetensors.torch import load_file, save_file
from support import TINY
from test_attentive_heads import TINY_VJEPA2
from transformers import VJEPA2Config, VJEPA2Model
from transformers.modeling_layers import GradientCheckpointingLayer

from videomae import (
    VideoClassificationPipeline,
    VideoMAEConfig,
    VideoMAEForAttentiveProbe,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
    VideoMAEVideoProcessor,
)
from videomae.commands.probe import main
from videomae.data.lists.layouts import open_manifest
from videomae.data.synthetic import SyntheticSet, make_synthetic_set
from videomae.data.video_dataset import VideoDataset
from videomae.evaluation.attentive_heads import AttentiveHeads, HeadsConfig
from videomae.evaluation.frozen_encoder import FrozenEncoder, level_blocks, open_encoder
from videomae.evaluation.frozen_probe import FrozenOptions, report_lines, run_protocol, split_training
from videomae.evaluation.multi_view import evaluate, load_classifier, saved_views
from videomae.model_cards.cards import HEADS
from videomae.training.probe_recipes import PROBE_RECIPES, consistent

SMALL = consistent(
    dataclasses.replace(
        PROBE_RECIPES["ssv2"], num_frames=8, stride_frames=2, epochs=2, clips_per_step=6,
        learning_rates=(3e-3, 1e-4), weight_decays=(0.1,),
    )
)  # fmt: skip


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A small set, a pre-trained VideoMAE without a processor, and a V-JEPA 2."""
    folder = tmp_path_factory.mktemp("frozen")
    make_synthetic_set(folder / "set", SyntheticSet(clips=16, validation_clips=0, test_clips=8, height=40, width=48))
    torch.manual_seed(1)
    VideoMAEForPreTraining(VideoMAEConfig(**TINY, use_mean_pooling=False)).save_pretrained(folder / "model")
    VJEPA2Model(VJEPA2Config(**TINY_VJEPA2)).save_pretrained(folder / "vjepa2")
    return folder


@pytest.fixture(scope="module")
def lists(setting):
    train = open_manifest(setting / "set" / "train.csv")
    return train, open_manifest(setting / "set" / "test.csv", class_names=train.class_names)


def run(setting, lists, output, recipe=SMALL, *, model="model", probes=("attentive",), val_share=0.5, **options):
    run_options = FrozenOptions(output=str(output), num_workers=0, quiet=True, log_every=1, **options)
    return run_protocol(
        str(setting / model), *lists, recipe, run_options, val_share=val_share, probes=probes, shots=(1,), draws=2
    )


def final(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "final" / "model.safetensors")


def equal(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


WORDS = ("--protocol", "vjepa2", "--num_frames", "8", "--stride_frames", "2", "--epochs", "2", "--clips_per_step", "4",
         "--learning_rates", "0.003", "0.0001", "--weight_decays", "0.1", "--val_share", "0.5", "--num_workers", "0",
         "--few_shot", "1", "--draws", "2")  # fmt: skip


@pytest.fixture(scope="module")
def commanded(setting):
    """The folder that the command wrote."""
    lists = [str(setting / "set" / f"{split}.csv") for split in ("train", "test")]
    output = setting / "commanded"
    words = [*WORDS, "--baseline", "random", "--output", str(output)]
    assert main([str(setting / "model"), *lists, *words]) == 0
    return output


@pytest.fixture(scope="module")
def report(commanded):
    return next(iter(json.loads((commanded / "probe.json").read_text()).values()))


# -------------------------------------------------------------------------------------------------------- the command


def test_the_command_tells_the_best_head_on_the_test_from_the_chosen_one(report):
    assert (report["protocol"], report["recipe"], report["views"]) == ("vjepa2", "vjepa2-ssv2", "8x2x3")
    assert (report["train_videos"], report["held_out_videos"], report["test_videos"]) == (8, 8, 8)
    assert any("position table was recomputed for 8" in note for note in report["notes"])
    assert any("50 % of the training videos" in note for note in report["notes"])
    heads = report["probes"]["attentive"]
    assert [row["lr"] for row in heads["heads"]] == [0.003, 0.0001]
    assert heads["best_on_test"]["top1"] == max(row["top1"] for row in heads["heads"])
    assert heads["chosen"]["held_out_top1"] == max(row["held_out_top1"] for row in heads["heads"])
    assert {"knn", "linear", "1-shot"} < report["probes"].keys() and report["probes"]["1-shot"]["draws"] == 2


def test_the_saved_probe_is_the_chosen_head_and_tests_to_its_figure(commanded, report, lists, tmp_path):
    chosen, folder = report["probes"]["attentive"]["chosen"], str(commanded / "probe")
    model = load_classifier(folder)
    assert type(model) is VideoMAEForAttentiveProbe and list(model.config.id2label.values()) == list(
        lists[0].class_names
    )
    heads = final(commanded)
    own = {name.removeprefix("head."): value for name, value in model.state_dict().items() if name.startswith("head.")}
    assert all(torch.equal(value, heads[f"heads.{chosen['head']}.{name}"]) for name, value in own.items())
    views = saved_views(folder, model.config)
    assert (views.protocol, views.sampling.segments) == ("8x2x3", 2)
    results = evaluate(model, lists[1], views, output=tmp_path, dataset="test", quiet=True)
    assert results["metrics"]["top1"] == pytest.approx(chosen["top1"])


def test_the_saved_probe_answers_in_our_pipeline(commanded, lists):
    model = VideoMAEForAttentiveProbe.from_pretrained(commanded / "probe")
    processor = VideoMAEVideoProcessor.from_pretrained(commanded / "probe")
    video = lists[1].source(0)
    pixel_values = processor(video, return_tensors="pt").pixel_values
    assert pixel_values.shape[1] == 16  # two segments of 8 frames
    pipe = VideoClassificationPipeline(model=model, video_processor=processor)
    with torch.no_grad():
        best = model(pixel_values).logits.softmax(-1)[0].max().item()
    assert pipe(video, top_k=1)[0]["score"] == pytest.approx(best, abs=1e-6)
    assert len(pipe(video, views="test")) == 5
    assert next(iter(pipe.windows(video, progress=False)))["scores"]


def test_a_probe_opened_as_a_plain_classifier_is_refused_by_the_pipeline(commanded):
    plain = VideoMAEForVideoClassification.from_pretrained(commanded / "probe")
    with pytest.raises(ValueError, match="is an attentive probe, and was opened as a plain classifier"):
        VideoClassificationPipeline(model=plain, video_processor=str(commanded / "probe"))


def test_a_baseline_is_a_second_column_with_a_run_of_its_own(commanded, setting):
    reports = json.loads((commanded / "probe.json").read_text())
    assert list(reports) == sorted([str(setting / "model"), "random"])
    assert reports["random"]["saved"] == str(commanded / "baseline" / "probe")
    lines = list(report_lines(reports, 8))
    assert lines[2].startswith("attentive, best head on test") and len(lines[1].split()) == 2
    assert not equal(final(commanded), final(commanded / "baseline"))


def test_the_card_says_what_was_run_and_what_stock_does(commanded):
    card = (commanded / "probe" / "README.md").read_text()
    assert "puts a fresh one in its place, with a warning. Its answers are then random." in card
    assert "2 windows of 8 frames, one in 2" in card and "top-1 accuracy (8x2x3)" in card
    assert "attentive_probe_videomae.py" in {path.name for path in (commanded / "probe").iterdir()}


@pytest.mark.parametrize(
    "words, message",
    [
        (("--epochs", "3"), "--epochs needs --protocol vjepa2"),
        (("--protocol", "vjepa2"), "--protocol needs --output"),
        (("--protocol", "vjepa2", "--output", "x", "--device", "cpu"), "--device is for the small probes"),
        (("--protocol", "vjepa2", "--output", "x", "--probes", "knn"), "add attentive to --probes"),
    ],
)
def test_options_that_do_not_go_together_are_named(setting, words, message):
    lists = [str(setting / "set" / f"{split}.csv") for split in ("train", "test")]
    with pytest.raises(ValueError, match=message):
        main([str(setting / "model"), *lists, *words])


# ----------------------------------------------------------------------------------------------------- the run itself


@pytest.fixture(scope="module")
def straight(setting, lists, tmp_path_factory):
    output = tmp_path_factory.mktemp("straight") / "run"
    return output, run(setting, lists, output)[0]


def test_a_resumed_run_ends_with_the_same_weights_and_figures(setting, lists, straight, tmp_path):
    output, report = straight
    run(setting, lists, tmp_path / "run", max_steps=1)
    again, _ = run(setting, lists, tmp_path / "run", resume="auto")
    assert equal(final(tmp_path / "run"), final(output))
    assert again["probes"] == report["probes"] and again["steps"] == report["steps"] == 2


def test_checkpointing_and_micro_batches_change_nothing_but_rounding(setting, lists, straight, tmp_path, monkeypatch):
    on, real = set(), AttentiveHeads.forward

    def watched(heads, tokens):
        if heads.training:
            on.update(
                each.gradient_checkpointing for each in heads.modules() if isinstance(each, GradientCheckpointingLayer)
            )
        return real(heads, tokens)

    monkeypatch.setattr(AttentiveHeads, "forward", watched)
    recipe = dataclasses.replace(SMALL, gradient_checkpointing=True)
    run(setting, lists, tmp_path / "run", recipe, clips_per_device=3)
    for name, value in final(straight[0]).items():
        torch.testing.assert_close(final(tmp_path / "run")[name], value, atol=2e-3, rtol=0, msg=name)
    assert on == {True}


def test_tokens_live_for_one_step_or_one_video(setting, lists, tmp_path, monkeypatch):
    made, alive, real = [], [], FrozenEncoder.tokens

    def watched(encoder, pixel_values):
        alive.append(sum(each() is not None for each in made))
        tokens = real(encoder, pixel_values)
        made.append(weakref.ref(tokens))
        return tokens

    monkeypatch.setattr(FrozenEncoder, "tokens", watched)
    recipe = dataclasses.replace(SMALL, learning_rates=(1e-3,), clips_per_step=2, epochs=1)
    run(setting, lists, tmp_path / "run", recipe, probes=("attentive", "knn"))
    assert len(made) == 4 + 8 + 8 + 8  # four steps, then test, held-out and training videos
    assert max(alive) <= 1  # what was made before it is not yet let go of when the next is asked for, and nothing older


def test_videos_that_have_scores_are_not_read_again(setting, lists, straight, tmp_path, monkeypatch):
    output, report = straight
    (scores,) = output.glob("scores-test-*")
    assert len(list(scores.glob("rows-*.parquet"))) == 1
    seen = []
    monkeypatch.setattr(VideoDataset, "__getitem__", lambda *_: seen.append(1))
    assert run(setting, lists, output, resume="auto")[0]["probes"] == report["probes"] and not seen


def test_other_weights_under_the_same_name_cannot_resume_a_run(setting, lists, tmp_path):
    shutil.copytree(setting / "model", tmp_path / "model")
    output = tmp_path / "run"
    run(tmp_path, lists, output, max_steps=1)
    torch.manual_seed(2)
    VideoMAEForPreTraining(VideoMAEConfig(**TINY, use_mean_pooling=False)).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="encoder_sha256"):
        run(tmp_path, lists, output, resume="auto")


def test_cached_tokens_give_the_same_weights_as_the_same_views_encoded_again(setting, lists, tmp_path):
    report, _ = run(setting, lists, tmp_path / "kept", tokens_gib=1)
    run(setting, lists, tmp_path / "full", tokens_gib=1e-9)  # room for no video
    assert equal(final(tmp_path / "kept"), final(tmp_path / "full"))
    assert 6 <= len(list((tmp_path / "kept" / "tokens").iterdir())) <= 8  # an epoch is one step of 6 of the 8 videos
    assert not (tmp_path / "full" / "tokens").exists()
    assert any("the same in every epoch" in note for note in report["notes"])


def test_without_held_out_videos_nothing_is_chosen_or_saved(setting, lists, tmp_path):
    report, _ = run(setting, lists, tmp_path / "run", val_share=0)
    assert "chosen" not in report["probes"]["attentive"] and "saved" not in report
    assert report["train_videos"] == 16 and not (tmp_path / "run" / "probe").exists()


def test_a_share_too_small_to_hold_anything_out_says_what_to_do(setting, lists, tmp_path):
    with pytest.raises(ValueError, match=r"cannot be divided: .*; raise --val_share \(now 0.02\), or give 0"):
        run(setting, lists, tmp_path / "run", val_share=0.02)


def test_whole_groups_are_held_out(lists):
    speakers = [index // 4 for index in range(len(lists[0]))]
    learn, held = split_training(lists[0], 0.25, speakers, seed=0)
    names = {lists[0].path(index): speaker for index, speaker in enumerate(speakers)}
    sides = [{names[part.path(index)] for index in range(len(part))} for part in (learn, held)]
    assert len(held) == 4 and not sides[0] & sides[1]


def test_a_vjepa2_folder_stands_beside_ours(setting, lists, tmp_path):
    recipe = dataclasses.replace(SMALL, levels=2)
    report, _ = run(setting, lists, tmp_path / "run", recipe, model="vjepa2", probes=("attentive", "knn"))
    assert report["image_size"] == 32 and report["notes"][0].startswith("50 % of the training videos")
    assert 0 <= report["probes"]["attentive"]["best_on_test"]["top1"] <= 1 and "knn" in report["probes"]
    assert "saved" not in report  # transformers has a class for this one


# ------------------------------------------------------------------------------------------------------ the encoder


@torch.no_grad()
def test_the_tokens_of_a_folder_of_transformers_are_its_own_models(setting, tmp_path):
    torch.manual_seed(3)
    stock = transformers.VideoMAEForPreTraining(transformers.VideoMAEConfig(**TINY, use_mean_pooling=False)).eval()
    stock.save_pretrained(tmp_path)
    clip = torch.randn(2, 16, 3, 32, 32)
    encoder = open_encoder(str(tmp_path)).to(torch.device("cpu"))
    expected = stock.videomae(clip).last_hidden_state
    torch.testing.assert_close(encoder.tokens(clip), expected, atol=1e-5, rtol=1e-5)
    peer = VJEPA2Model.from_pretrained(setting / "vjepa2").eval()
    encoder = open_encoder(str(setting / "vjepa2"), num_frames=8).to(torch.device("cpu"))
    expected = peer(pixel_values_videos=clip[:, :8], skip_predictor=True).last_hidden_state
    assert torch.equal(encoder.tokens(clip[:, :8]), expected)


@pytest.mark.parametrize("head", HEADS)
def test_every_kind_of_folder_gives_its_encoder(head, tmp_path):
    encoder = open_encoder(str(save_tiny(tmp_path / head, head)), num_frames=8).to(torch.device("cpu"))
    assert encoder.tokens(torch.randn(1, 8, 3, 32, 32)).shape == (1, 64, 48) and len(encoder.notes) == 1


@pytest.mark.parametrize("model", ["model", "vjepa2"])
def test_the_last_level_is_the_output_of_the_encoder(setting, model):
    one, two = (open_encoder(str(setting / model), num_frames=8, levels=levels) for levels in (1, 2))
    clip = torch.randn(1, 8, 3, 32, 32)
    output, levels = one.to("cpu").tokens(clip), two.to("cpu").tokens(clip)
    assert levels.shape[1] == 2 * output.shape[1]
    torch.testing.assert_close(levels[:, output.shape[1] :], output)


def test_levels_lie_where_the_public_files_have_them():
    assert level_blocks(24, 4) == (17, 19, 21, 23) and level_blocks(40, 4) == (24, 29, 34, 39)
    assert level_blocks(12, 4) == (8, 9, 10, 11) and level_blocks(12, 1) == ()
    with pytest.raises(ValueError, match="levels=4 do not fit an encoder of 3 blocks"):
        level_blocks(3, 4)


def test_another_model_type_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ValueError, match="of model_type 'vit'; the frozen protocol supports 'videomae' and 'vjepa2'"):
        open_encoder(str(tmp_path))


def test_a_vjepa2_folder_is_validated_before_anything_is_built(setting, tmp_path):
    shutil.copytree(setting / "vjepa2", tmp_path / "peer")
    content = json.loads((tmp_path / "peer" / "config.json").read_text())
    for change, message in (
        ({"num_hidden_layers": 10**6}, "num_hidden_layers=1000000, and it must be in"),
        ({"attn_implementation": "someone/kernel"}, "may be fetched from the Hub and run"),
    ):
        (tmp_path / "peer" / "config.json").write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match=message):
            open_encoder(str(tmp_path / "peer"), num_frames=8)
    (tmp_path / "peer" / "config.json").write_text(json.dumps(content | {"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match="has no weights for"):  # of the third layer
        open_encoder(str(tmp_path / "peer"), num_frames=8)


def test_an_encoder_without_some_of_its_weights_is_refused(setting, tmp_path):
    shutil.copytree(setting / "model", tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "layer.1" not in name},
        tmp_path / "model" / "model.safetensors",
    )
    with pytest.raises(ValueError, match="has no weights for"):
        open_encoder(str(tmp_path / "model"))


def test_the_heads_of_a_run_know_their_encoder(straight):
    config = HeadsConfig.from_pretrained(straight[0] / "final")
    assert len(config.encoder_sha256) == 64 and config.rates == [(3e-3, 0.1), (1e-4, 0.1)]


@pytest.mark.slow
def test_two_processes_make_the_same_heads(setting, lists, straight, tmp_path):
    lists = [str(setting / "set" / f"{split}.csv") for split in ("train", "test")]
    words = [*WORDS, "--clips_per_step", "6", "--probes", "attentive", "--output", str(tmp_path / "run")]
    command = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "videomae.commands.main", "probe"]
    subprocess.run([sys.executable, *command, str(setting / "model"), *lists, *words], check=True, timeout=300)
    two, one = final(tmp_path / "run"), final(straight[0])
    for name, value in one.items():  # the sums over a batch have another order
        torch.testing.assert_close(two[name], value, atol=2e-3, rtol=0, msg=name)
    (made,) = json.loads((tmp_path / "run" / "probe.json").read_text()).values()
    assert made["test_videos"] == 8
