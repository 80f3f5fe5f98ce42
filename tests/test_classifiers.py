"""From presets, pre-trained folders and other classifiers to a model ready for fine-tuning."""

import pytest
import torch
from support import TINY

from videomae.configuration_videomae import VideoMAEConfig
from videomae.modeling_videomae import VideoMAEForPreTraining, VideoMAEForVideoClassification
from videomae.training.classifiers import build_classifier, class_weights, freeze

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
    VideoMAEForVideoClassification(VideoMAEConfig(**SMALL, num_labels=3, id2label=names)).save_pretrained(folder)
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
    assert said == [f"the head of {finetuned} goes on with its 3 classes"]


def test_a_head_of_another_size_starts_anew_and_says_so(finetuned):
    said = []
    model = build(finetuned, ["run", "walk"], said, config_fields={"init_scale": 0.001})
    assert "has 3 classes and the data 2: the head starts anew" in said[0]
    assert model.classifier.weight.shape == (2, 48) and model.classifier.weight.abs().max() < 1e-3


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
