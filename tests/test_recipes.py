"""Recipes: the published figures at a few known places, and the generated page."""

import dataclasses
from pathlib import Path

import pytest

from videomae import VideoMAEConfig
from videomae.model_cards.recipe_page import recipe_page
from videomae.training.recipes import DETECTION, FINETUNING, KINDS, PRETRAINING, find_recipe

ROOT = Path(__file__).parents[1]


def test_published_runs_have_their_published_figures():
    base = PRETRAINING["v1-base-k400"]
    assert (base.epochs, base.clips_per_step, base.peak_lr) == (1600, 2048, pytest.approx(1.2e-3))
    giant = PRETRAINING["v2-giant-hybrid"]
    assert (giant.num_samples, giant.clip_grad_norm, giant.decoder_mask, giant.version) == (4, 0.02, "running_cell", 2)
    assert PRETRAINING["v1-small-ssv2"].stride_frames == 2
    huge = FINETUNING["v1-huge-k400"]
    assert (huge.drop_path_rate, huge.head_dropout_prob, huge.min_lr) == (0.2, 0.5, 1e-5)
    ssv2 = FINETUNING["v2-base-ssv2"]
    assert (ssv2.sampling, ssv2.test_clips, ssv2.test_crops, ssv2.flip, ssv2.layer_decay) == (
        "uniform",
        2,
        3,
        0.0,
        0.65,
    )
    detector = DETECTION["mm-base-k400"]
    assert detector.peak_lr == 1.25e-4 and DETECTION["ad-base-k400-finetuned"].peak_lr == pytest.approx(2.5e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_recipe_names_its_source_and_a_model_that_exists(kind):
    for name, recipe in KINDS[kind].items():
        assert recipe.name == name and recipe.source and recipe.kind == kind
        head = {"pre-training": "pretrain", "fine-tuning": "classify", "detection": "detect"}[kind]
        size = {"image_size": recipe.image_size, "num_frames": recipe.num_frames}
        VideoMAEConfig.preset(
            recipe.model, head=head, version=recipe.version, **size, **recipe.config
        ).check_buildable()


def test_every_start_of_a_fine_tuning_is_a_recipe():
    for recipe in FINETUNING.values():
        published = recipe.name != "small-data"
        assert not published or recipe.start in PRETRAINING or recipe.start in FINETUNING, recipe.name


def test_every_field_says_what_it_is():
    for recipes in KINDS.values():
        for field in dataclasses.fields(next(iter(recipes.values()))):
            assert field.metadata["group"] and field.metadata["help"], field.name


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ValueError, match="no recipe 'v1-bas-k400'; did you mean v1-base-k400"):
        find_recipe("v1-bas-k400", PRETRAINING)
    with pytest.raises(ValueError, match="known: v1-small-k400"):
        find_recipe("xyz", PRETRAINING)


def test_the_page_of_recipes_is_up_to_date():
    assert (ROOT / "docs" / "recipes.md").read_text("utf-8") == recipe_page(), "run: videomae cards"
