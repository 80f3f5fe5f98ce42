"""Fewer tokens, the same answer: nothing changes when off, known answers when on, and clips do not see their neighbours."""

import json
import math
import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
import transformers
from published_folders import save_tiny
from support import TINY
from video_files import write_video

from videomae import (
    ReducedVideoMAEConfig,
    ReducedVideoMAEForVideoClassification,
    VideoClassificationPipeline,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VideoMAEVideoProcessor,
)
from videomae.commands.main import main
from videomae.models import open_classifier
from videomae.remote_code import ROOT, add_code
from videomae.token_reduction_videomae import (
    TokenMergingLayer,
    changed_patches,
    length_table,
    merge_tokens,
    run_lengths,
    soft_matching,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A plain classifier's folder, with weights large enough for outputs to matter."""
    return save_tiny(tmp_path_factory.mktemp("plain") / "model", "classify")


def load(folder, **fields):
    return ReducedVideoMAEForVideoClassification.from_pretrained(folder, **fields).eval()


def clips(still_from=(16, 6, 2), seed=0):
    """Noise that stops: clip i repeats frame `still_from[i] - 1` to its end."""
    video = torch.randn(len(still_from), 16, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    for clip, start in zip(video, still_from):
        clip[start:] = clip[start - 1]
    return video


# Off -------------------------------------------------------------------------------------------------------------


def test_switched_off_every_number_is_the_plain_classifiers(folder):
    plain = VideoMAEForVideoClassification.from_pretrained(folder).eval()
    reduced = load(folder)
    labels = torch.tensor([0, 1, 2])
    ours = reduced(clips(), labels, output_hidden_states=True, output_attentions=True)
    theirs = plain(clips(), labels, output_hidden_states=True, output_attentions=True)
    assert torch.equal(ours.logits, theirs.logits) and torch.equal(ours.loss, theirs.loss)
    for mine, other in zip(ours.hidden_states + ours.attentions, theirs.hidden_states + theirs.attentions):
        assert torch.equal(mine, other)
    assert list(reduced.state_dict()) == list(plain.state_dict())
    assert not reduced.config.reduces
    assert reduced(clips(), return_dict=False)[0].shape == (3, 4)


def test_a_plain_configuration_builds_it_too():
    torch.manual_seed(0)
    plain = VideoMAEForVideoClassification(VideoMAEConfig(**TINY))
    torch.manual_seed(0)
    reduced = ReducedVideoMAEForVideoClassification(VideoMAEConfig(**TINY))
    for (name, mine), (other, theirs) in zip(reduced.named_parameters(), plain.named_parameters()):
        assert name == other and torch.equal(mine, theirs)


def test_the_fields_are_saved_and_plain_classes_ignore_them(folder, tmp_path):
    fields = dict(merge_per_layer=[8, 0, 4], still_threshold=0.1, run_lengths="weigh", proportional_attention=False)
    reduced = load(folder, **fields)
    reduced.save_pretrained(tmp_path)
    config = ReducedVideoMAEConfig.from_pretrained(tmp_path)
    assert {name: getattr(config, name) for name in fields} == fields
    assert torch.equal(load(tmp_path)(clips()).logits, reduced(clips()).logits)
    plain = VideoMAEForVideoClassification.from_pretrained(folder).eval()(clips()).logits
    assert torch.equal(VideoMAEForVideoClassification.from_pretrained(tmp_path).eval()(clips()).logits, plain)
    stock = transformers.VideoMAEForVideoClassification.from_pretrained(tmp_path).eval()(clips()).logits
    assert torch.allclose(stock, plain, atol=1e-4)


# Run-length tokenisation -----------------------------------------------------------------------------------------


def test_a_patch_is_still_where_its_last_frame_is_the_first_of_the_one_before():
    video = torch.zeros(1, 6, 3, 16, 16)  # 3 slots of 2 frames, 2 x 2 patches of 8
    video[0, 3, :, :8, :8] = 1.0  # the last frame of slot 1, upper left patch, which then goes back
    video[0, 4:, :, 8:, 8:] = 1.0  # from slot 2 on, lower right
    changed = changed_patches(video, tubelet=2, patch_hw=(8, 8), threshold=0.1)
    assert changed[0, 0].all()
    assert changed[0, 1].tolist() == [[True, False], [False, False]]
    assert changed[0, 2].tolist() == [[False, False], [False, True]]


@pytest.mark.parametrize("tubelet", [1, 2, 4])
def test_changed_patches_are_those_of_a_plain_loop(tubelet):
    video = torch.randn(2, 8, 3, 8, 12, generator=torch.Generator().manual_seed(3)) * 0.2
    video[1, 3:] = video[1, 2]
    found = changed_patches(video, tubelet, (4, 4), threshold=0.2)
    assert found.shape == (2, 8 // tubelet, 2, 3)
    for clip, slot, row, column in torch.cartesian_prod(*map(torch.arange, found.shape)).tolist():
        place = (clip, slice(None), slice(None), slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4))
        own, before = video[place][slot * tubelet : (slot + 1) * tubelet], video[place][(slot - 1) * tubelet :]
        expected = slot == 0 or (own[-1] - before[0]).abs().mean() > 0.2
        assert found[clip, slot, row, column] == expected


def test_run_lengths_count_the_slots_to_the_next_change():
    changed = torch.tensor([1, 0, 0, 1, 1, 0], dtype=torch.bool).view(1, 6, 1, 1)
    assert run_lengths(changed).flatten().tolist() == [3, 2, 1, 1, 2, 1]
    kept = run_lengths(changed)[changed]
    assert kept.tolist() == [3, 1, 2] and kept.sum() == 6


def test_threshold_zero_leaves_out_only_exact_repetitions(folder):
    model = load(folder, still_threshold=0.0)
    # 16 patches a slot. Where a clip stops inside a slot, that slot's first frame still differs from the next slot's last.
    assert model.count_patches(clips((16, 6, 2))).tolist() == [128, 64, 32]
    plain = VideoMAEForVideoClassification.from_pretrained(folder).eval()
    moving = clips((16, 16))
    assert torch.allclose(model(moving).logits, plain(moving).logits, atol=1e-6)


def test_the_logits_are_those_of_the_encoder_with_the_still_patches_hidden(folder):
    """The padded path of the model file, with a mask from outside, is the independent reference."""
    model = load(folder, still_threshold=0.1, proportional_attention=False)
    video = clips()
    hidden = ~changed_patches(video, 2, (8, 8), 0.1).flatten(1)
    tokens = model.videomae(video, bool_masked_pos=hidden).last_hidden_state  # zero rows after a clip's own
    mean = tokens.sum(1) / (~hidden).sum(1, keepdim=True)
    assert torch.allclose(model(video).logits, model.classifier(model.fc_norm(mean)), atol=1e-6)


def test_without_positions_weighed_runs_give_exactly_the_full_answer(folder, monkeypatch):
    """A token that counts n times is n equal tokens; only their positions tell repetitions apart."""
    from videomae import modeling_videomae

    table = modeling_videomae.position_table
    monkeypatch.setattr(modeling_videomae, "position_table", lambda *options: torch.zeros_like(table(*options)))
    full = load(folder)(clips()).logits
    assert torch.allclose(load(folder, still_threshold=0.0, run_lengths="weigh")(clips()).logits, full, atol=1e-5)
    assert not torch.allclose(load(folder, still_threshold=0.0)(clips()).logits, full, atol=1e-2)


def test_encoded_runs_add_their_entry_of_the_table(folder):
    table = length_table(8, 48, torch.device("cpu"), torch.float32)
    assert torch.equal(table[0], torch.tensor([0.0, 1.0]).repeat(24))  # a run of one slot: angle 0
    assert table[3, 2] == pytest.approx(math.sin(3 / 1000 ** (2 / 48)), abs=1e-6)
    plain, encoded = (load(folder, still_threshold=0.0, run_lengths=mode) for mode in ("ignore", "encode"))
    grid = (8, 4, 4)
    (before, _, _), (after, _, _) = (model._embed(clips((6,)), grid) for model in (plain, encoded))
    runs = run_lengths(changed_patches(clips((6,)), 2, (8, 8), 0.0)).flatten()[: before.shape[1]]
    assert set(runs.tolist()) == {1, 5}
    assert torch.allclose(after - before, table[runs - 1][None], atol=1e-5)


# Token merging ---------------------------------------------------------------------------------------------------


def naive_merge(tokens, sizes, keys, count):
    """ToMe restated with loops over one clip: lists in, lists out."""
    evens, odds = list(range(0, len(tokens), 2)), list(range(1, len(tokens), 2))
    best = {}
    for even in evens:
        similarities = [F.cosine_similarity(keys[even], keys[odd], dim=0).item() for odd in odds]
        best[even] = max(similarities), odds[similarities.index(max(similarities))]
    ranked = sorted(evens, key=lambda even: -best[even][0])
    groups = {odd: [odd] for odd in odds}
    for even in ranked[:count]:
        groups[best[even][1]].append(even)
    out = [[even] for even in ranked[count:]] + [groups[odd] for odd in odds]
    new_sizes = [sum(sizes[i] for i in group) for group in out]
    return [sum(tokens[i] * sizes[i] for i in group) / size for group, size in zip(out, new_sizes)], new_sizes


@pytest.mark.parametrize("length, count", [(8, 1), (8, 4), (9, 3), (9, 5), (2, 1)])
def test_matching_and_merging_are_those_of_plain_loops(length, count):
    generator = torch.Generator().manual_seed(length + count)
    tokens, keys = torch.randn(3, length, 6, generator=generator), torch.randn(3, length, 4, generator=generator)
    sizes = torch.randint(1, 5, (3, length), generator=generator).float()
    merged, merged_sizes = merge_tokens(tokens, sizes, soft_matching(keys, count))
    assert merged.shape == (3, length - count, 6)
    assert torch.equal(merged_sizes.sum(1), sizes.sum(1))
    for clip in range(3):
        expected, expected_sizes = naive_merge(tokens[clip], sizes[clip].tolist(), keys[clip], count)
        assert torch.allclose(merged[clip], torch.stack(expected), atol=1e-6)
        assert merged_sizes[clip].tolist() == expected_sizes


def test_merging_equal_tokens_changes_nothing():
    """Pairs of equal tokens, all merged in the first block: the blocks after it, weighed, give the same mean."""
    torch.manual_seed(0)
    config = ReducedVideoMAEConfig(**TINY, initializer_range=0.2)
    layers = [layer.eval() for layer in ReducedVideoMAEForVideoClassification(config).videomae.encoder.layer]
    assert all(isinstance(layer, TokenMergingLayer) for layer in layers)
    pairs = torch.randn(2, 10, 48).repeat_interleave(2, dim=1)
    full, tokens, sizes, mask = pairs, pairs, torch.ones(2, 20), None
    for layer, merge in zip(layers, (10, 0, 0)):
        full, _ = layer(full)
        tokens, _, sizes = layer(tokens, attention_mask=mask, sizes=sizes, merge=merge)
        mask = sizes.log()[:, None, None]
    assert (sizes == 2).all() and tokens.shape[1] == 10
    assert torch.allclose(tokens, full[:, 1::2], atol=1e-5)


def test_every_block_merges_its_number_and_never_the_last_token(folder):
    model = load(folder, merge_per_layer=[28, 0, 1000])
    states = model(clips(), output_hidden_states=True).hidden_states
    assert [state.shape[1] for state in states] == [128, 100, 100, 50]
    assert load(folder, merge_per_layer=1000)(clips()).logits.isfinite().all()


def test_only_reductions_that_are_asked_for_are_written(tmp_path):
    ReducedVideoMAEConfig(merge_per_layer=8).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["merge_per_layer"] == 8 and not {"still_threshold", "run_lengths", "norm_eps"} & written.keys()
    again = ReducedVideoMAEConfig.from_pretrained(tmp_path)
    assert again.reduction == ReducedVideoMAEConfig(merge_per_layer=8).reduction


def test_chosen_layers_come_alone(folder):
    model = load(folder, merge_per_layer=20)
    everything = model(clips(), output_hidden_states=True).hidden_states
    states = model(clips(), output_hidden_states=[0, -1]).hidden_states
    assert [state is None for state in states] == [False, True, True, False]
    assert torch.equal(states[0], everything[0]) and torch.equal(states[3], everything[3])
    assert model(clips()).hidden_states is None


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_proportional_attention_weighs_by_size_in_every_implementation(folder, attention):
    reference = load(folder, merge_per_layer=30, attn_implementation="sdpa")(clips()).logits
    model = load(folder, merge_per_layer=30, attn_implementation=attention)
    assert torch.allclose(model(clips()).logits, reference, atol=1e-5)
    outputs = model(clips(), output_attentions=True)
    assert [weights.shape[-1] for weights in outputs.attentions] == [128, 98, 68]
    assert torch.allclose(outputs.logits, reference, atol=1e-5)
    without = load(folder, merge_per_layer=30, proportional_attention=False)(clips()).logits
    assert not torch.allclose(without, reference, atol=1e-4)


# Both ------------------------------------------------------------------------------------------------------------

SETTINGS = [
    dict(merge_per_layer=20),
    dict(still_threshold=0.1),
    dict(still_threshold=0.1, run_lengths="weigh"),
    dict(still_threshold=0.1, run_lengths="encode", proportional_attention=False),
    dict(still_threshold=0.1, merge_per_layer=[7, 0, 9]),
    dict(still_threshold=0.1, merge_per_layer=[11, 40, 40], run_lengths="weigh"),
]


@pytest.mark.parametrize("fields", SETTINGS, ids=str)
def test_a_clips_logits_do_not_depend_on_its_batch(folder, fields):
    model = load(folder, **fields)
    video = clips((16, 6, 2, 9))
    together = model(video).logits
    alone = torch.cat([model(clip[None]).logits for clip in video])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(model(video.flip(0)).logits.flip(0), together, atol=1e-5)


@pytest.mark.parametrize("fields", SETTINGS[:5:2], ids=str)
def test_it_trains_and_runs_in_bf16(folder, fields):
    model = load(folder, **fields).train()
    model.activation_checkpointing_enable()
    loss = model(clips(), torch.tensor([0, 1, 2])).loss
    loss.backward()
    assert loss.isfinite() and all(parameter.grad is not None for parameter in model.parameters())
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        mixed = model.eval()(clips()).logits
    assert torch.allclose(mixed.float(), model(clips()).logits, atol=0.3)
    assert model.bfloat16()(clips().bfloat16()).logits.dtype == torch.bfloat16


def test_a_folder_with_its_code_loads_the_reducing_class(folder, tmp_path):
    load(folder, merge_per_layer=20).save_pretrained(tmp_path)
    add_code(tmp_path)
    assert (tmp_path / "token_reduction_videomae.py").exists()
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [
        "ReducedVideoMAEForVideoClassification"
    ]
    model = transformers.AutoModelForVideoClassification.from_pretrained(tmp_path, trust_remote_code=True).eval()
    assert type(model).__name__ == "ReducedVideoMAEForVideoClassification"
    assert torch.equal(model(clips()).logits, load(folder, merge_per_layer=20)(clips()).logits)


def test_a_pipeline_runs_it_on_a_file(folder, tmp_path):
    video = write_video(tmp_path / "video.mp4", 70, width=48, height=40)
    model = load(folder, merge_per_layer=20, still_threshold=0.1)
    pipe = VideoClassificationPipeline(model=model, video_processor=VideoMAEVideoProcessor.from_pretrained(folder))
    (scores,) = [pipe(str(video), top_k=4)]
    assert sum(answer["score"] for answer in scores) == pytest.approx(1, abs=1e-5)
    pixel_values = pipe.video_processor(str(video), return_tensors="pt")["pixel_values"]
    assert scores[0]["score"] == pytest.approx(model(pixel_values).logits.softmax(-1).max().item(), abs=1e-5)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(merge_per_layer=-1), "merge_per_layer must not be negative, got -1"),
        (dict(merge_per_layer=[1, 2]), "merge_per_layer has 2 numbers for num_hidden_layers=3; give one each"),
        (dict(still_threshold=-0.5), "still_threshold must be at least 0, got -0.5; None leaves no patch out"),
        (dict(still_threshold=float("nan")), "still_threshold must be at least 0, got nan"),
        (dict(run_lengths="all"), "run_lengths must be one of ignore, weigh, encode, got 'all'"),
        (dict(merge_per_layer=1, use_mean_pooling=False), "use_mean_pooling=False reads the first token alone"),
    ],
)
def test_impossible_settings_say_what_is_wrong(fields, message):
    with pytest.raises(ValueError, match=message):
        ReducedVideoMAEForVideoClassification(ReducedVideoMAEConfig(**TINY, **fields))


def test_an_attention_that_takes_no_weights_is_refused(folder):
    model = load(folder, merge_per_layer=20)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r"'flash_attention_2' takes no weights for tokens.*'sdpa'"):
        model._attention_mask(torch.ones(1, 4), padded=False, dtype=torch.float32)
    model.config.proportional_attention = False
    assert model._attention_mask(torch.ones(1, 4), padded=False, dtype=torch.float32) is None


def test_evaluate_uses_the_reduction_of_the_folder_and_records_it(folder, tmp_path):
    load(folder, merge_per_layer=[40, 40, 20]).save_pretrained(tmp_path / "reduced")
    VideoMAEVideoProcessor.from_pretrained(folder).save_pretrained(tmp_path / "reduced")
    assert isinstance(open_classifier(str(tmp_path / "reduced")), ReducedVideoMAEForVideoClassification)
    assert type(open_classifier(str(folder))) is VideoMAEForVideoClassification
    write_video(tmp_path / "video.mp4", 70, width=48, height=40)
    (tmp_path / "list.txt").write_text("video.mp4 0\n")
    scores = {}
    for name in ("plain", "reduced"):
        model = tmp_path / "reduced" if name == "reduced" else folder
        words = [
            str(model),
            str(tmp_path / "list.txt"),
            "--views",
            "1x1",
            "--output",
            str(tmp_path / f"{name}-results"),
        ]
        assert main(["evaluate", *words]) == 0
        identity = json.loads((tmp_path / f"{name}-results" / "results.json").read_text())["identity"]
        assert ("token_reduction" in identity) == (name == "reduced")
        scores[name] = pq.read_table(tmp_path / f"{name}-results" / "predictions.parquet")["scores"][0].as_py()
    assert identity["token_reduction"]["merge_per_layer"] == [40, 40, 20]
    assert scores["plain"] != scores["reduced"]


def test_the_auto_classes_open_what_a_folder_asks_for(registered, folder, tmp_path):
    from transformers import AutoConfig, AutoModelForVideoClassification, pipeline

    load(folder, merge_per_layer=20).save_pretrained(tmp_path / "reduced")
    VideoMAEVideoProcessor(size=32, crop_size=32).save_pretrained(tmp_path / "reduced")
    for _ in range(2):
        reduced = AutoModelForVideoClassification.from_pretrained(tmp_path / "reduced")
        assert type(reduced) is ReducedVideoMAEForVideoClassification and reduced.config.merges == [20] * 3
        plain = AutoModelForVideoClassification.from_pretrained(folder)
        assert type(plain) is VideoMAEForVideoClassification and type(plain.config) is VideoMAEConfig
    fresh = AutoConfig.for_model("videomae", num_hidden_layers=2)
    assert type(fresh) is VideoMAEConfig and fresh.num_hidden_layers == 2
    assert type(AutoModelForVideoClassification.from_config(VideoMAEConfig(**TINY))) is VideoMAEForVideoClassification
    pipe = pipeline("video-classification", model=str(tmp_path / "reduced"))
    assert type(pipe.model) is ReducedVideoMAEForVideoClassification
    assert pipe(str(write_video(tmp_path / "video.mp4", 70, width=48, height=40)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "words, rows",
    [
        (["token_reduction", "--steps", "2", "--clips", "16", "--rounds", "1", "--presets"], 11),
        (
            ["inference", "--image_size", "32", "--rounds", "1", "--batch", "2", "--only", "bf16", "int8", "attention"],
            10,
        ),
    ],
)
def test_the_benchmarks_run_and_record_their_rows(words, rows, tmp_path):
    name, *options = words
    environment = {**os.environ, "VIDEOMAE_BENCHMARK_ROWS": str(tmp_path / "rows.jsonl"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks", name, *options, "--threads", "1"]
    subprocess.run(command, env=environment, check=True, cwd=ROOT)
    found = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(found) >= rows and all(row["ratio"] > 0 for row in found)
