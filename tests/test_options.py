"""Recipes and options as flags and files: every type there and back, every mistake with its way out."""

import argparse
from dataclasses import dataclass, replace

import pytest
import yaml

from videomae.command_line import Parser, add_fields, changed_fields, checked_values, given_fields, option
from videomae.training.options import check_counts, read_recipe, recipe_from, write_recipe
from videomae.training.recipes import DETECTION, FINETUNING, PRETRAINING, PretrainRecipe


@dataclass(frozen=True)
class Everything:
    count: int = option(1, "numbers", "a count")
    share: float | None = option(None, "numbers", "a share of 100 %")
    pair: tuple[float, float] = option((0.0, 1.0), "lists", "two numbers")
    names: tuple[str, ...] = option((), "lists", "any number of names")
    fields: dict[str, object] = option({}, "lists", "pairs")  # noqa: RUF009
    on: bool = option(False, "switches", "a switch")
    kind: str = option("a", "switches", "one of two", choices=("a", "b"))
    note: str = option("", "switches", "not a flag", flag=False)


def parsed(*words):
    parser = Parser(prog="test")
    add_fields(parser, Everything)
    return given_fields(parser.parse_args(list(words)), Everything)


def test_flags_become_values_of_the_fields_types_and_only_given_ones():
    assert parsed() == {}
    assert parsed("--count", "3", "--share", "1e-3", "--on", "--kind", "b") == {
        "count": 3, "share": 1e-3, "on": True, "kind": "b",
    }  # fmt: skip
    assert parsed("--pair", "1", "2", "--names", "x", "y", "--on", "false") == {
        "pair": (1.0, 2.0), "names": ("x", "y"), "on": False,
    }  # fmt: skip
    assert parsed("--share", "none", "--names") == {"share": None, "names": ()}
    assert parsed("--fields", "eps=1e-6", "layers=2", "act=gelu", "flag=true") == {
        "fields": {"eps": 1e-6, "layers": 2, "act": "gelu", "flag": True}
    }


@pytest.mark.parametrize(
    "words, message",
    [
        (["--count", "3.5"], "count must be a whole number, not '3.5'"),
        (["--share", "half"], "share must be a number or none, not 'half'"),
        (["--on", "maybe"], "on must be true or false, not 'maybe'"),
        (["--kind", "c"], "kind must be one of a, b, not 'c'"),
        (["--fields", "eps"], "fields must be NAME=VALUE pairs, not 'eps'"),
    ],
)
def test_a_value_that_does_not_fit_says_what_would(words, message):
    with pytest.raises(ValueError, match=message):
        parsed(*words)


def test_an_unknown_field_names_the_nearest():
    with pytest.raises(ValueError, match="no field 'shares'; did you mean 'share'"):
        checked_values(Everything, {"shares": 1})


@pytest.mark.parametrize(
    "recipe", [*PRETRAINING.values(), *FINETUNING.values(), *DETECTION.values()], ids=lambda recipe: recipe.name
)
def test_every_recipe_comes_back_from_its_file(recipe, tmp_path):
    path = write_recipe(tmp_path / "recipe.yaml", recipe)
    assert read_recipe(path, type(recipe)) == recipe


def test_a_recipe_file_can_be_edited_and_overridden(tmp_path):
    path = write_recipe(tmp_path / "recipe.yaml", PRETRAINING["tiny"])
    path.write_text(path.read_text().replace("epochs: 40", "epochs: 7").replace("base_lr: 0.016", "base_lr: 1e-3"))
    recipe = recipe_from(argparse.Namespace(recipe=str(path), seed="5"), PRETRAINING)
    assert (recipe.epochs, recipe.base_lr, recipe.seed) == (7, 1e-3, 5)
    path.write_text(path.read_text().replace("epochs: 7", "epoches: 7"))
    with pytest.raises(ValueError, match=r"recipe\.yaml: no field 'epoches'; did you mean 'epochs'"):
        recipe_from(argparse.Namespace(recipe=str(path)), PRETRAINING)


def test_a_recipe_of_another_kind_is_refused(tmp_path):
    path = write_recipe(tmp_path / "recipe.yaml", FINETUNING["tiny"])
    with pytest.raises(ValueError, match="is a fine-tuning recipe; this script needs one for pre-training"):
        read_recipe(path, PretrainRecipe)
    path.write_text("- a list")
    with pytest.raises(ValueError, match="must hold one recipe"):
        read_recipe(path, PretrainRecipe)
    path.write_text("a: [")
    with pytest.raises(ValueError, match="is not readable YAML"):
        read_recipe(path, PretrainRecipe)


@pytest.mark.parametrize(
    "text, message",
    [
        ("num_frames: 1000000000", r"num_frames must be in 1 \.\.\. 4096, not 1000000000"),
        ("num_samples: 100000000", r"num_samples must be in 1 \.\.\. 1024, not 100000000"),
        ("clips_per_step: 0", r"clips_per_step must be in 1 \.\.\. 10000000, not 0"),
        ("epochs: .inf", "epochs must be a whole number, not 'inf'"),
        ("base_lr: .nan", "base_lr must be a number, not 'nan'"),
        ("warmup_epochs: 1e300", "warmup_epochs must be in"),
        ("config: {num_hidden_layers: 1000000}", r"config\.num_hidden_layers must be in 0 \.\.\. 256"),
        ("config: {patch_size: [16, 0]}", r"config\.patch_size must be in 1 \.\.\. 1024, not 0"),
        ("name: " + "[" * 5000 + "]" * 5000, "is nested too deep for a recipe"),
        ("1: 2", "no field '1'"),
        ("kind: [1]", "is a list recipe; this script needs one for pre-training"),
        ("a: &a [x, x]\nname: [*a, *a]", "no field 'a'|name must be text, not a list of 2 entries"),
        ("name: \xff", "is not readable YAML"),
    ],
)
def test_a_recipe_of_a_stranger_is_refused_by_its_field_before_it_costs_anything(text, message, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message) as caught:
        read_recipe(path, PretrainRecipe)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_aliases_that_grow_are_refused_in_a_short_message(tmp_path):
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    for field, message in (
        ("name", "name must be text, not a list of 10 entries"),
        ("config", "config must be NAME=VALUE"),
    ):
        value = "*a8" if field == "name" else "{x: *a8}"
        path = tmp_path / "recipe.yaml"
        path.write_text("\n".join([*levels, f"{field}: {value}"]))
        content = yaml.safe_load(path.read_text())
        with pytest.raises(ValueError, match=message) as caught:
            checked_values(PretrainRecipe, {field: content[field]})
        assert len(str(caught.value)) < 200
        with pytest.raises(ValueError, match="no field 'a0'"):
            read_recipe(path, PretrainRecipe)


def test_counts_of_the_command_line_have_the_bounds_of_a_file():
    with pytest.raises(ValueError, match=r"clips_per_step must be in 1 \.\.\. 10000000, not 0"):
        recipe_from(argparse.Namespace(recipe="tiny", clips_per_step="0"), PRETRAINING)
    for recipe in (*PRETRAINING.values(), *FINETUNING.values(), *DETECTION.values()):
        check_counts(recipe)


def test_changed_fields_show_both_values():
    recipe = PRETRAINING["tiny"]
    assert changed_fields(recipe, recipe) == []
    assert changed_fields(recipe, replace(recipe, epochs=1)) == ["epochs: 40 -> 1"]
