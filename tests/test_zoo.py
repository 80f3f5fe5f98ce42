"""zoo.yaml: complete, consistent, and equal to what the papers' tables and the presets say."""

import re

import pytest

from videomae.configuration_videomae import VideoMAEConfig
from videomae.model_cards import zoo
from videomae.model_cards.zoo import entry, load_zoo, releases
from videomae.sampling_videomae import ClipSampling
from videomae.training import recipes

ENTRIES = list(load_zoo().values())


def test_every_release_is_listed_in_full():
    count = {name: sum(checkpoint.release == name for checkpoint in ENTRIES) for name in releases()}
    assert count == {"videomae": 19, "videomae_v2": 10, "videomae_v2_hub": 4, "action_detection": 10, "mmaction2": 6}


def test_the_hub_names_are_those_of_the_two_groups():
    hub = {checkpoint.hub for checkpoint in ENTRIES if checkpoint.hub}
    sizes = ["Base", "Large", "Huge", "giant"]
    names = [
        *("base", "large", "base-short", "base-ssv2", "base-short-ssv2", "small-finetuned-kinetics"),
        *("small-finetuned-ssv2", "base-finetuned-kinetics", "large-finetuned-kinetics", "huge-finetuned-kinetics"),
        *("base-short-finetuned-kinetics", "base-finetuned-ssv2", "base-short-finetuned-ssv2"),
    ]
    assert hub == {f"MCG-NJU/videomae-{name}" for name in names} | {f"OpenGVLab/VideoMAEv2-{size}" for size in sizes}


@pytest.mark.parametrize("checkpoint", ENTRIES, ids=lambda checkpoint: checkpoint.name)
def test_each_entry_has_what_its_head_needs_and_nothing_that_contradicts_it(checkpoint):
    config = VideoMAEConfig.preset(checkpoint.preset, head=checkpoint.head, version=checkpoint.version)
    if checkpoint.head == "pretrain":
        assert checkpoint.pretraining and not checkpoint.results and not checkpoint.labels
        assert checkpoint.pretraining.decoder_layers == config.decoder_num_hidden_layers
    if checkpoint.head in ("classify", "detect"):
        assert checkpoint.finetuning and checkpoint.labels and checkpoint.results
    if checkpoint.head != "pretrain":
        assert ClipSampling.from_dict(checkpoint.sampling).num_frames == config.num_frames == 16
        uniform = checkpoint.finetuning == "something-something-v2"
        assert (checkpoint.sampling["strategy"] == "uniform") == uniform
    if checkpoint.pretraining:
        assert checkpoint.pretraining.mask == "tube" and checkpoint.pretraining.mask_ratio in (0.9, 0.75)
        assert (checkpoint.pretraining.decoder_mask is not None) == (checkpoint.version == 2)
    if checkpoint.weights == "public":
        assert checkpoint.download or checkpoint.hub
    assert re.fullmatch(r"[a-z0-9-]+", checkpoint.name)
    assert re.fullmatch(r"\d{4}\.\d{5}", checkpoint.paper) and checkpoint.source.startswith("https://")
    assert checkpoint.license in ("cc-by-nc-4.0", "apache-2.0")


@pytest.mark.parametrize("checkpoint", ENTRIES, ids=lambda checkpoint: checkpoint.name)
def test_each_published_figure_is_a_percentage_under_a_known_protocol(checkpoint):
    for result in checkpoint.results:
        figures = [figure for figure in (result.top1, result.top5, result.map) if figure is not None]
        assert figures and all(10 < figure <= 100 for figure in figures)
        assert result.top5 is None or result.top5 > result.top1
        if checkpoint.head == "detect":
            assert result.map and result.views == (16, 1, 1)
        elif result.top1:
            assert result.views == ((16, 2, 3) if result.data == "something-something-v2" else (16, 5, 3))


def test_figures_of_the_model_zoos_are_as_published():
    def figures(name):
        return [figure for result in entry(name).results for figure in (result.top1, result.top5, result.map) if figure]

    assert figures("videomae-base-finetuned-kinetics") == [81.5, 95.1]
    assert figures("videomae-huge-finetuned-kinetics") == [86.6, 97.1]
    assert figures("videomae-small-finetuned-ssv2") == [66.8, 90.3]
    assert figures("videomaev2-giant-k710-finetuned-kinetics") == [88.4, 98.0]
    assert figures("videomaev2-small-distilled-k710") == [77.6, 83.7, 83.1]
    assert figures("videomae-huge-finetuned-kinetics-detection-ava") == [39.5]
    assert figures("mmaction2-videomae-large-detection-ava-kinetics") == [38.7]


def test_a_fine_tuned_entry_starts_from_one_of_its_own_size():
    for checkpoint in ENTRIES:
        if checkpoint.base_model:
            assert entry(checkpoint.base_model).preset == checkpoint.preset


def test_each_recipe_exists_and_trains_what_the_entry_says():
    kinds = {"pretrain": recipes.PRETRAINING, "features": recipes.PRETRAINING}
    kinds |= {"classify": recipes.FINETUNING, "detect": recipes.DETECTION}
    for checkpoint in ENTRIES:
        if checkpoint.recipe is None:  # ported, distilled without released code, or without weights
            assert checkpoint.teacher or checkpoint.weights == "none" or checkpoint.release == "mmaction2"
            continue
        recipe = kinds[checkpoint.head][checkpoint.recipe]
        assert recipe.model == checkpoint.preset and recipe.version == checkpoint.version
        if checkpoint.head == "pretrain":
            passes = recipe.epochs * recipe.num_samples
            assert (passes, recipe.mask_ratio) == (checkpoint.pretraining.epochs, checkpoint.pretraining.mask_ratio)
            assert recipe.stride_frames == checkpoint.pretraining.stride_frames
        if checkpoint.head == "classify":
            assert recipe.sampling == checkpoint.sampling["strategy"]
            views = checkpoint.results[0].views
            assert (recipe.test_clips, recipe.test_crops) == views[1:]


def test_an_entry_is_found_by_its_hub_name_and_a_typing_error_gets_a_suggestion():
    assert entry("MCG-NJU/videomae-base") is entry("videomae-base")
    with pytest.raises(ValueError, match="did you mean videomae-base-finetuned-kinetics"):
        entry("videomae-base-finetuned-kinetic")


def test_a_field_that_means_nothing_and_a_wrong_choice_are_refused():
    row = dict(name="x", release="videomae", head="classify", preset="base", weights="none")
    with pytest.raises(ValueError, match="x has unknown fields: epoch"):
        zoo._checkpoint({**row, "epoch": 3})
    with pytest.raises(ValueError, match="x has preset 'tiny'; choose one of small, base"):
        zoo._checkpoint({**row, "preset": "tiny"})
