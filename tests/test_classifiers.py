"""From presets, pre-trained folders and other classifiers to a model ready for fine-tuning."""

import hashlib
import json
import re

import pytest
import torch
from support import TINY

from videomae.configuration_videomae import VideoMAEConfig
from videomae.modeling_videomae import VideoMAEForPreTraining, VideoMAEForVideoClassification
from videomae.training.classifiers import build_classifier, class_weights, freeze
from videomae.training.kinetics_maps import LABEL_MAPS
from videomae.training.recipes import FINETUNING

SMALL = {**TINY, "num_hidden_layers": 2, "decoder_num_hidden_layers": 1}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    VideoMAEForPreTraining(VideoMAEConfig(**SMALL, use_mean_pooling=False)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetuned")
    names = {0: "run", 1: "walk", 2: "sit"}
    model = VideoMAEForVideoClassification(VideoMAEConfig(**SMALL, num_labels=3, id2label=names))
    torch.nn.init.normal_(model.fc_norm.weight)  # as after training
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def k710(tmp_path_factory):
    folder = tmp_path_factory.mktemp("k710")
    names = {index: f"action {index}" for index in range(710)}
    model = VideoMAEForVideoClassification(VideoMAEConfig(**SMALL, num_labels=710, id2label=names))
    for parameter in (model.fc_norm.weight, model.fc_norm.bias, model.classifier.bias):
        torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    return folder


def build(start, names, said=None, **more):
    said = [] if said is None else said
    return build_classifier(str(start), num_labels=len(names), class_names=names, say=said.append, **more)


def test_a_pretrained_encoder_is_taken_over_without_its_final_norm(pretrained):
    said = []
    model = build(pretrained, ["a", "b"], said)
    before = VideoMAEForPreTraining.from_pretrained(pretrained)
    assert model.config.use_mean_pooling and model.videomae.layernorm is None
    kept = before.videomae.state_dict()
    for name, tensor in model.videomae.state_dict().items():
        assert torch.equal(tensor, kept[name]), name
    assert torch.equal(model.fc_norm.weight, torch.ones(48))
    assert "its final norm is dropped" in said[0]


def test_the_fresh_head_is_scaled_as_the_recipe_says(pretrained):
    torch.manual_seed(0)
    model = build(pretrained, list("abcdefgh"), config_fields={"init_scale": 0.001})
    assert 1e-5 < model.classifier.weight.std() < 3e-5
    assert not model.classifier.bias.any()


def test_the_classes_of_the_data_stand_in_the_config(pretrained):
    assert build(pretrained, ["a", "b"]).config.id2label == {0: "a", 1: "b"}


def test_a_head_of_the_same_classes_goes_on(finetuned):
    said = []
    model = build(finetuned, ["run", "walk", "sit"], said)
    before = VideoMAEForVideoClassification.from_pretrained(finetuned)
    assert torch.equal(model.classifier.weight, before.classifier.weight)
    assert said == [f"the head of {finetuned} keeps its 3 classes"]


def test_the_temperature_of_the_start_is_not_that_of_the_new_model(finetuned, tmp_path):
    calibrated = VideoMAEForVideoClassification.from_pretrained(finetuned)
    calibrated.config.temperature, calibrated.config.calibrated_on = 1.7, "20 videos"
    calibrated.save_pretrained(tmp_path)
    model = build_classifier(str(tmp_path), num_labels=calibrated.config.num_labels)
    assert (model.config.temperature, model.config.calibrated_on) == (1.0, None)


def test_a_head_of_another_size_starts_anew_and_says_so(finetuned):
    said = []
    model = build(finetuned, ["run", "walk"], said, config_fields={"init_scale": 0.001})
    assert "has 3 classes and the data 2: the head starts from new weights" in said[0]
    assert model.classifier.weight.shape == (2, 48) and model.classifier.weight.abs().max() < 1e-3
    before = VideoMAEForVideoClassification.from_pretrained(finetuned)  # the release removes head.* alone
    assert torch.equal(model.fc_norm.weight, before.fc_norm.weight)


def test_label_maps_are_the_files_of_the_release():
    # The object names of misc/label_710to*.json in OpenGVLab/VideoMAEv2, as `git ls-tree HEAD misc/` prints them.
    released = {
        "label_710to400.json": "4305a858d453363e51833bcf78e7e6c39d007f74",
        "label_710to600.json": "4e64dd04ef2e351485b5da5bf9e7cc44d9c9fa07",
    }
    for name, columns in LABEL_MAPS.items():
        text = json.dumps(columns, indent=2).encode()
        assert hashlib.sha1(b"blob %d\0" % len(text) + text).hexdigest() == released[name]
        assert len(set(columns)) == len(columns) == int(name.partition("to")[2][:3]) and max(columns) < 710


@pytest.mark.parametrize("recipe", ["v2-giant-k710-k400", "v2-giant-k710-k600"])
def test_recipes_that_go_on_from_k710_cut_the_head_by_the_release_s_list(k710, recipe):
    recipe = FINETUNING[recipe]
    columns = list(LABEL_MAPS[recipe.init_head_from])
    before = VideoMAEForVideoClassification.from_pretrained(k710)

    def start(names, rule):
        return build(k710, names, init_head_from=rule, config_fields={"init_scale": recipe.init_scale})

    model = start([f"Action_{column}" for column in columns], recipe.init_head_from)
    assert model.config.num_labels == recipe.num_labels
    assert torch.equal(model.classifier.weight, before.classifier.weight[columns])
    assert torch.equal(model.classifier.bias, before.classifier.bias[columns])
    for name in ("weight", "bias"):
        assert torch.equal(getattr(model.fc_norm, name), getattr(before.fc_norm, name))

    with pytest.raises(ValueError, match=r"puts the classes of .* in another order than the data has") as caught:
        start([f"action {column}" for column in sorted(columns)], recipe.init_head_from)
    assert re.search(rf"0  action {min(columns)} +action {columns[0]}", str(caught.value))
    with pytest.raises(
        ValueError, match=f"where the release cuts the old one; choose --init_head_from {recipe.init_head_from}"
    ):
        start([f"action {column}" for column in columns], "auto")
    fresh = start([f"action {column}" for column in columns], "fresh")
    assert fresh.classifier.weight.abs().max() < 1e-3 and torch.equal(fresh.fc_norm.bias, before.fc_norm.bias)


def test_label_maps_that_do_not_fit_are_refused(finetuned, pretrained, tmp_path):
    names = ["a", "b"]
    with pytest.raises(
        ValueError, match=r"must list, for each of the 2 classes of the data, one of the 3 .* lists 400"
    ):
        build(finetuned, names, init_head_from="label_710to400.json")
    with pytest.raises(
        ValueError, match=r"there is not a label map gone\.json; give the path of one, or a name of label_710to400"
    ):
        build(finetuned, names, init_head_from="gone.json")
    (tmp_path / "map.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="is not a label map; it must be a JSON list of class numbers"):
        build(finetuned, names, init_head_from=str(tmp_path / "map.json"))
    (tmp_path / "map.json").write_text("[2, 0]")
    model = build(finetuned, ["sit", "run"], init_head_from=str(tmp_path / "map.json"))
    before = VideoMAEForVideoClassification.from_pretrained(finetuned)
    assert torch.equal(model.classifier.weight, before.classifier.weight[[2, 0]])
    with pytest.raises(ValueError, match=r"takes over the head of a classifier, and .* is VideoMAEForPreTraining"):
        build(pretrained, names, init_head_from="label_710to400.json")


def test_a_head_is_put_together_by_class_name(finetuned):
    model = build(finetuned, ["sit", "run"], init_head_from="labels")
    before = VideoMAEForVideoClassification.from_pretrained(finetuned)
    assert torch.equal(model.classifier.weight, before.classifier.weight[[2, 0]])
    assert torch.equal(model.classifier.bias, before.classifier.bias[[2, 0]])
    assert torch.equal(model.fc_norm.weight, before.fc_norm.weight)


def test_equal_sizes_with_other_names_stop_and_show_both(finetuned):
    with pytest.raises(ValueError, match="under other names or in another order") as caught:
        build(finetuned, ["walk", "run", "sit"])
    assert "0  walk  run" in str(caught.value)


def test_a_fresh_head_is_fresh_even_where_the_old_one_fits(finetuned):
    model = build(finetuned, ["walk", "run", "sit"], init_head_from="fresh", config_fields={"init_scale": 0.001})
    assert model.classifier.weight.abs().max() < 1e-3


def test_a_checkpoint_of_another_architecture_is_refused(pretrained):
    with pytest.raises(ValueError, match="does not fit the model to be fine-tuned: it lacks"):
        build(pretrained, ["a", "b"], config_fields={"num_hidden_layers": 3})


def test_a_preset_starts_from_fresh_weights():
    said = []
    small = {k: v for k, v in SMALL.items() if not k.startswith("decoder")}
    model = build("small", ["a", "b"], said, config_fields=small)
    assert model.config.num_labels == 2 and said == ["starting small from fresh weights"]


def test_freezing_leaves_the_named_rest(pretrained):
    model = build(pretrained, ["a", "b"])
    left = freeze(model, "1")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(name.startswith(("videomae.encoder.layer.1.", "fc_norm.", "classifier.")) for name in trained)
    assert left == sum(p.numel() for p in model.parameters() if p.requires_grad)
    freeze(model, "encoder")
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        "fc_norm.weight",
        "fc_norm.bias",
        "classifier.weight",
        "classifier.bias",
    }
    with pytest.raises(ValueError, match="a number of blocks up to 2, not '7'"):
        freeze(model, "7")


def test_balanced_weights_give_every_class_the_same_say():
    weights = class_weights([0, 0, 0, 1], 3, "balanced")
    assert (weights * torch.tensor([3.0, 1.0, 0.0])).tolist() == [2.0, 2.0, 0.0]
