"""Recipes against the flags of the official scripts, field by field, and the generated page."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from support import GOLDEN

from videomae import VideoMAEConfig
from videomae.model_cards.recipe_page import recipe_page
from videomae.training.recipes import DETECTION, FINETUNING, KINDS, PRETRAINING, find_recipe

ROOT = Path(__file__).parents[1]


# ------------------------------------------------------------------------------------------ the official scripts' flags

TABLE = json.loads((GOLDEN / "official_recipes.json").read_text("utf-8"))  # made by tests/golden/official_tables.py
SIZES = {"s": "small", "b": "base", "l": "large", "h": "huge", "g": "giant"}
DATASETS = {"Kinetics-": "K", "SSV2": "SSV2", "UCF101": "UCF101", "HMDB51": "HMDB51"}


def recipe_of(script: str) -> tuple[str, str]:
    """(kind, name) of the recipe that stands for a script, from the script's place alone."""
    if match := re.search(r"ava/videomae_vit_(\w+?)_k400_pretrain(\+finetune)?/run.sh", script):
        return "detection", f"ad-{match[1]}-k400" + ("-finetuned" if match[2] else "")
    if match := re.search(r"scripts/(\w+)/videomae_vit_(\w+?)_patch.*_epoch_(\d+)/(pretrain|finetune).sh", script):
        dataset = {"kinetics": "k400"}.get(match[1], match[1])
        kind = {"pretrain": "pre-training", "finetune": "fine-tuning"}[match[4]]
        return kind, f"v1-{match[2]}-{dataset}" + ("-800e" if match[3] == "800" else "")
    if match := re.search(r"pretrain/vit_(\w)_hybrid_pt.sh", script):
        return "pre-training", f"v2-{SIZES[match[1]]}-hybrid"
    match = re.search(r"finetune/vit_(\w)_(k710_it_)?(\w+?)_ft.sh", script)
    return "fine-tuning", f"v2-{SIZES[match[1]]}-" + ("k710-" if match[2] else "") + match[3]


def official_fields(script: str, kind: str) -> dict:
    """The fields of a recipe as the flags of its script give them."""
    row = TABLE["scripts"][script]
    flags = TABLE["defaults"][row["program"]] | row["flags"]
    assert flags["opt"] == "adamw" and flags["warmup_steps"] == -1 and flags["color_jitter"] in (0.0, 0.4)
    v2 = script.startswith("VideoMAEv2/")
    size = re.search(r"vit_(\w+?)_patch|videomae_(\w+?)_patch", flags["model"])
    fields = {
        "model": size[1] or size[2],
        "version": 2 if v2 else 1,
        "image_size": flags["input_size"],
        "num_frames": flags["num_frames"],
        "epochs": flags["epochs"],
        "warmup_epochs": flags["warmup_epochs"],
        "clips_per_step": flags["batch_size"] * row["gpus"] * flags.get("update_freq", 1),
        "lr_batch": 256,
        "base_lr": flags["lr"],
        "min_lr": flags["min_lr"],
        "betas": tuple(flags["opt_betas"] or (0.9, 0.999)),
        "adam_eps": flags["opt_eps"],
        "weight_decay": flags["weight_decay"],
        "weight_decay_end": flags["weight_decay_end"],
        "clip_grad_norm": flags["clip_grad"],
        "ema_decay": flags["model_ema_decay"] if flags.get("model_ema") else None,
        "gradient_checkpointing": flags["with_checkpoint" if v2 else "use_checkpoint"],
        "seed": flags["seed"],
    }
    if kind == "pre-training":
        assert flags["drop_path"] == 0
        fields |= {
            "stride_frames": flags["sampling_rate"],
            "num_samples": flags.get("num_sample", 1),
            "mask": flags["mask_type"],
            "mask_ratio": flags["mask_ratio"],
            "decoder_mask": {"run_cell": "running_cell", None: None}[flags.get("decoder_mask_type")],
            "decoder_mask_ratio": flags.get("decoder_mask_ratio", 0.5),
            "norm_pix_loss": flags["normlize_target"],
        }
        return fields
    assert flags["drop"] == flags["attn_drop_rate"] == 0 and flags["use_mean_pooling"] and flags["num_segments"] == 1
    fields |= {
        "layer_decay": flags["layer_decay"],
        "drop_path_rate": flags["drop_path"],
        "head_dropout_prob": flags.get("head_drop_rate", flags.get("fc_drop_rate", 0.0)),
        "init_scale": flags["init_scale"],
    }
    if kind == "detection":
        return fields | {
            "family": "videomae",
            "crop_size": flags["input_size"],
            "stride_frames": flags["sampling_rate"],
        }
    assert (flags["remode"], flags["recount"], flags["resplit"], flags["mixup_mode"]) == ("pixel", 1, False, "batch")
    assert flags["short_side_size"] == flags["input_size"] and flags["cutmix_minmax"] is None
    ssv2 = flags["data_set"] == "SSV2"
    fields |= {
        "dataset": re.sub("|".join(DATASETS), lambda match: DATASETS[match[0]], flags["data_set"]),
        "num_labels": flags["nb_classes"],
        "sampling": "uniform" if ssv2 else "dense",  # by the data set's name, in build_dataset
        "flip": 0.0 if ssv2 else 0.5,
        "num_samples": flags["num_sample"],
        "test_clips": flags["test_num_segment"],
        "test_crops": flags["test_num_crop"],
        "rand_augment": flags["aa"],
        "erase": flags["reprob"],
        "mixup": flags["mixup"],
        "cutmix": flags["cutmix"],
        "mix_prob": flags["mixup_prob"],
        "mix_switch": flags["mixup_switch_prob"],
        "label_smoothing": flags["smoothing"],
    }
    if not ssv2:
        fields["stride_frames"] = flags["sampling_rate"]
    return fields


# (kind, recipe, field) where ours is not the script's value, on purpose; `differs` of the recipe says why.
NOT_THE_SCRIPTS = {
    *(
        ("pre-training", name, "epochs")
        for name, recipe in PRETRAINING.items()
        if recipe.version == 1 and name != "tiny" and not name.startswith("salt-")
    ),
    ("pre-training", "v1-small-ssv2", "clips_per_step"),
    ("fine-tuning", "v2-huge-k600", "clips_per_step"),
}


@pytest.mark.parametrize("script", TABLE["scripts"])
def test_a_recipe_is_its_official_script_field_by_field(script):
    kind, name = recipe_of(script)
    recipe = KINDS[kind][name]
    official = official_fields(script, kind)
    assert len(official) >= 24
    different = {field for field, value in official.items() if getattr(recipe, field) != value}
    assert different == {field for what, which, field in NOT_THE_SCRIPTS if (what, which) == (kind, name)}
    for field in different:
        notes = [note for note in recipe.differs if note.startswith(f"{field}: ")]
        assert any(str(getattr(recipe, field)) in note and " here" in note for note in notes), (name, field)
        if field == "epochs":
            assert official[field] == recipe.epochs + 1 and any(str(official[field]) in note for note in notes)
    assert f"{TABLE['scripts'][script]['flags']['batch_size']} clips" in recipe.source


def test_every_published_recipe_has_a_script_and_every_script_a_recipe():
    named = {recipe_of(script) for script in TABLE["scripts"]}
    ours = {(kind, name) for kind, recipes in KINDS.items() for name in recipes}
    assert len(named) == len(TABLE["scripts"]) == 46
    without = {name for _, name in ours - named}
    others = {"tiny", "tiny-v2", "small-data", "mm-base-k400", "mm-large-k400", "salt-teacher", "salt-student"}
    assert named <= ours and without == others


@pytest.mark.parametrize("script", [script for script in TABLE["scripts"] if "/finetune/" in script])
def test_v2_fine_tunings_start_from_what_the_script_loads(script):
    kind, name = recipe_of(script)
    size, after_k710 = re.fullmatch(
        r"(?:model_zoo/)+vit_(\w)_hybrid_.+?(_k710_ft)?\.pth", TABLE["scripts"][script]["flags"]["finetune"]
    ).groups()
    recipe = KINDS[kind][name]
    assert recipe.start == f"v2-{SIZES[size]}-" + ("k710" if after_k710 else "hybrid")
    # run_class_finetuning.py cuts a head of 710 classes for Kinetics, and drops it for other data.
    cut = after_k710 and recipe.dataset.startswith("K")
    assert recipe.init_head_from == (f"label_710to{recipe.dataset[1:]}.json" if cut else "auto")


def test_a_script_whose_comment_disagrees_with_its_command_is_named():
    rows = {
        script: row for script, row in TABLE["scripts"].items() if row["gpus_in_comment"] not in (None, row["gpus"])
    }
    ((script, row),) = rows.items()
    assert (row["gpus"], row["gpus_in_comment"]) == (64, 32) and recipe_of(script) == ("pre-training", "v1-small-ssv2")
    recipe = PRETRAINING["v1-small-ssv2"]
    assert recipe.clips_per_step == 32 * 32 and any("2048" in note and "1024" in note for note in recipe.differs)


@pytest.mark.parametrize("config", TABLE["mmaction2"])
def test_an_mmaction2_recipe_is_its_config_field_by_field(config):
    row = TABLE["mmaction2"][config]
    model = re.search(r"vit-(\w+)-p16", config)[1]
    recipe = DETECTION[f"mm-{model}-k400"]
    assert recipe.model == model and VideoMAEConfig.preset(model).hidden_size == row["width"]
    # The weights that the config loads are those of a recognition model: a classifier, not a pre-trained encoder.
    assert row["start"]["Task"] == "Action Recognition" and row["start"]["Dataset"] == "Kinetics-400"
    assert recipe.start == f"fine-tuning v1-{model}-k400" and recipe.start.split()[1] in FINETUNING
    assert row["optimizer"]["type"] == "AdamW" and recipe.betas == (0.9, 0.999)
    expected = {
        "epochs": row["max_epochs"],
        "warmup_epochs": row["warmup"]["end"],
        "warmup_start": row["warmup"]["start_factor"],
        "min_lr": row["cosine"]["eta_min"],
        "clips_per_step": row["batch_size"] * 8,  # "8xb8" in its name
        "lr_batch": row["lr_batch"],
        "base_lr": row["optimizer"]["lr"],
        "weight_decay": row["optimizer"]["weight_decay"],
        "layer_decay": row["decay_rate"],
        "clip_grad_norm": row["max_norm"],
        "drop_path_rate": row["drop_path_rate"],
        "head_dropout_prob": row["dropout_ratio"],
        "num_labels": row["num_classes"] - 1,  # the first is the background
        "num_frames": row["clip_len"],
        "stride_frames": row["frame_interval"],
        "frame_jitter": (-row["frame_interval"] // 2, (row["frame_interval"] + 1) // 2 - 1),  # SampleAVAFrames
        "short_side": tuple(row["scale_range"]),
        "crop_size": row["crop"],
        "flip": row["flip_ratio"],
        "test_short_side": row["test_scale"][1],
        "max_boxes": row["boxes"],
        "proposal_iou": row["pos_iou_thr"],
        "box_score": row["person_det_score_thr"],
        "gradient_checkpointing": False,
    }
    assert {field: getattr(recipe, field) for field in expected} == expected
    assert row["cosine"]["end"] == row["max_epochs"] and row["cosine"]["begin"] == row["warmup"]["end"]


def test_salt_is_v_jepa_2s_optimisation_with_a_pixel_stage_and_a_latent_one():
    """The values of configs/train/vitl16/pretrain-256px-16f.yaml; the paper itself has no public code."""
    teacher, student = PRETRAINING["salt-teacher"], PRETRAINING["salt-student"]
    for recipe, steps in ((teacher, 40_000), (student, 200_000)):
        assert recipe.clips_per_step == 16 * 8 * 24 and recipe.peak_lr == pytest.approx(0.000525)
        assert recipe.weight_decay == 0.04 and recipe.mask == "blocks" and recipe.model == "large"
        assert abs(recipe.epochs * (240_000 // recipe.clips_per_step) - steps) < 0.03 * steps
        assert {note.partition(":")[0] for note in recipe.differs} >= {"epochs", "mask_ratio", "min_lr", "image_size"}
    assert (teacher.targets, student.targets) == ("pixels", "latent") and student.teacher is None
    predictor = VideoMAEConfig.preset("large", **student.config)
    assert (predictor.decoder_hidden_size, predictor.decoder_num_hidden_layers) == (384, 12)


# --------------------------------------------------------------------------------------------------------- the records


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
