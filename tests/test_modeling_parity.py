"""The models against transformers' own, with the same weights: outputs, losses, gradients, files."""

import json
import math
import random

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support import TINY

from videomae import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel
from videomae.masking_videomae import batch_masks

PAIRS = {
    VideoMAEModel: transformers.VideoMAEModel,
    VideoMAEForPreTraining: transformers.VideoMAEForPreTraining,
    VideoMAEForVideoClassification: transformers.VideoMAEForVideoClassification,
}


def random_fields(seed):
    """A random architecture that stock transformers can build too."""
    draw = random.Random(seed)
    heads, decoder_heads, patch = draw.choice([2, 3, 4]), draw.choice([1, 2]), draw.choice([4, 8])
    return dict(
        image_size=patch * draw.choice([2, 3, 4]),
        patch_size=patch,
        num_frames=draw.choice([4, 8]),
        hidden_size=heads * draw.choice([8, 12]),
        num_hidden_layers=draw.choice([1, 2, 3]),
        num_attention_heads=heads,
        intermediate_size=draw.choice([32, 60]),
        decoder_hidden_size=decoder_heads * draw.choice([8, 14]),
        decoder_num_hidden_layers=draw.choice([1, 2]),
        decoder_num_attention_heads=decoder_heads,
        decoder_intermediate_size=40,
        norm_pix_loss=draw.random() < 0.5,
        use_mean_pooling=draw.random() < 0.5,
        qv_bias=draw.random() < 0.7,
        layer_norm_eps=draw.choice([1e-12, 1e-6]),
        num_labels=draw.choice([2, 5]),
    )


def twins(ours, fields, seed=0):
    """Our model and stock's with the same weights, all of them away from their special starting values."""
    torch.manual_seed(seed)
    theirs = PAIRS[ours](transformers.VideoMAEConfig(**fields))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model = ours(VideoMAEConfig(**fields))
    model.load_state_dict(theirs.state_dict())
    return model.eval(), theirs.eval()


def clips(config, batch=2, seed=1):
    torch.manual_seed(seed)
    height, width = config.image_hw
    return torch.randn(batch, config.num_frames, config.num_channels, height, width)


def assert_close(ours, theirs, what):
    scale = theirs.abs().max().clamp_min(1e-8)
    assert ((ours - theirs).abs().max() / scale) < 1e-5, what


def assert_same_gradients(model, stock):
    for (name, ours), theirs in zip(model.named_parameters(), stock.parameters()):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            assert_close(ours.grad, theirs.grad, name)


@pytest.mark.parametrize("seed", range(12))
def test_pretraining_gives_what_stock_gives(seed):
    model, stock = twins(VideoMAEForPreTraining, random_fields(seed), seed)
    video = clips(model.config)
    mask, visible = batch_masks("tube", model.config.grid, 0.75, 2)
    expected = stock(video, bool_masked_pos=mask, output_hidden_states=True)
    for counts in ({}, {"num_visible": visible}):
        outputs = model(video, mask, output_hidden_states=True, **counts)
        assert_close(outputs.loss, expected.loss, "loss")
        assert_close(outputs.logits, expected.logits, "logits")
        for ours, theirs in zip(outputs.hidden_states, expected.hidden_states, strict=True):
            assert_close(ours, theirs, "hidden states")
    expected.loss.backward()
    outputs.loss.backward()
    assert_same_gradients(model, stock)


@pytest.mark.parametrize("seed", range(8))
def test_classification_gives_what_stock_gives(seed):
    model, stock = twins(VideoMAEForVideoClassification, random_fields(seed), seed)
    video, labels = clips(model.config), torch.tensor([0, 1])
    outputs, expected = model(video, labels), stock(video, labels=labels)
    assert_close(outputs.logits, expected.logits, "logits")
    assert_close(outputs.loss, expected.loss, "loss")
    outputs.loss.backward()
    expected.loss.backward()
    assert_same_gradients(model, stock)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_encoder_gives_what_stock_gives(seed, masked):
    model, stock = twins(VideoMAEModel, random_fields(seed), seed)
    mask = batch_masks("random", model.config.grid, 0.5, 2)[0] if masked else None
    outputs, expected = model(clips(model.config), mask), stock(clips(model.config), bool_masked_pos=mask)
    assert_close(outputs.last_hidden_state, expected.last_hidden_state, "last_hidden_state")
    assert outputs.pooler_output is None


def test_attention_weights_are_stocks():
    model, stock = twins(VideoMAEModel, TINY)
    stock.set_attn_implementation("eager")
    video = clips(model.config)
    ours, theirs = model(video, output_attentions=True), stock(video, output_attentions=True)
    for mine, other in zip(ours.attentions, theirs.attentions, strict=True):
        assert_close(mine, other, "attentions")


@pytest.mark.parametrize(
    "problem, labels",
    [
        (None, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])),  # float labels mean multi-label
        ("regression", torch.rand(2, 3)),
        ("single_label_classification", torch.tensor([2, 0])),
    ],
)
def test_losses_are_stocks(problem, labels):
    model, stock = twins(VideoMAEForVideoClassification, {**TINY, "num_labels": 3, "problem_type": problem})
    video = clips(model.config)
    assert_close(model(video, labels).loss, stock(video, labels=labels).loss, problem)
    assert model.config.problem_type == problem  # nothing is written into the configuration on the way


def old_names(folder):
    """Rename q/v biases the way files on the Hub have them."""
    weights = load_file(folder / "model.safetensors")
    renamed = {name.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): w for name, w in weights.items()}
    assert any(name.endswith("q_bias") for name in renamed)
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})


def new_names(folder):
    weights = load_file(folder / "model.safetensors")
    renamed = {name.replace("q_bias", "query.bias").replace("v_bias", "value.bias"): w for name, w in weights.items()}
    assert any(name.endswith("query.bias") for name in renamed)
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("written_by", ["ours", "stock", "old names", "new names", "ours, loaded before"])
@pytest.mark.parametrize("ours", [VideoMAEForPreTraining, VideoMAEForVideoClassification])
def test_a_folder_loads_everywhere_with_nothing_missing(ours, written_by, tmp_path):
    """Through our class, through transformers' and as remote code: no key missing or unexpected, equal outputs."""
    model, stock = twins(ours, {**TINY, "use_mean_pooling": ours is VideoMAEForVideoClassification})
    auto = "AutoModelForPreTraining" if ours is VideoMAEForPreTraining else "AutoModelForVideoClassification"
    if written_by == "ours, loaded before":
        model.save_pretrained(tmp_path / "before")
        model = ours.from_pretrained(tmp_path / "before")
    (stock if written_by == "stock" else model).save_pretrained(tmp_path / "model")
    folder = tmp_path / "model"
    if written_by == "old names":
        new_names(folder)
        old_names(folder)
    elif written_by == "new names":
        new_names(folder)
    else:  # what we write bears the names that every published file bears
        assert set(load_file(folder / "model.safetensors")) == set(save_and_list(stock, tmp_path / "stock"))
    add_remote_code(folder, ours, auto)

    inputs = {"pixel_values": clips(model.config)}
    if ours is VideoMAEForPreTraining:
        inputs["bool_masked_pos"] = batch_masks("tube", model.config.grid, 0.75, 2)[0]
    with torch.no_grad():
        expected = stock(**inputs).logits
        remote = getattr(transformers, auto)
        for load, options in ((ours, {}), (PAIRS[ours], {}), (remote, {"trust_remote_code": True})):
            loaded, info = load.from_pretrained(folder, output_loading_info=True, **options)
            assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
            assert_close(loaded(**inputs).logits, expected, str(load))
    assert type(loaded).__module__.startswith("transformers_modules")


def save_and_list(model, folder):
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def add_remote_code(folder, model_class, auto):
    """Put the model's source beside its weights, as publishing does."""
    model_class.register_for_auto_class(auto)
    VideoMAEConfig.register_for_auto_class()
    try:
        source = model_class.from_pretrained(folder)
        source.save_pretrained(folder.parent / "code")
    finally:
        model_class._auto_class = VideoMAEConfig._auto_class = None
    for file in (folder.parent / "code").glob("*.py"):
        file.rename(folder / file.name)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = json.loads((folder.parent / "code" / "config.json").read_text())["auto_map"]
    (folder / "config.json").write_text(json.dumps(config))


def test_importing_the_package_leaves_stocks_own_loading_as_it_was(tmp_path):
    _, stock = twins(VideoMAEForVideoClassification, TINY)
    stock.save_pretrained(tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert {name for name in names if "bias" in name and "attention.attention" in name} == {
        f"videomae.encoder.layer.{layer}.attention.attention.{letter}_bias" for layer in range(3) for letter in "qv"
    }
    again = transformers.VideoMAEForVideoClassification.from_pretrained(tmp_path)
    for name, weight in stock.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_an_encoder_loads_from_a_pretraining_folder_and_back(tmp_path):
    model, _ = twins(VideoMAEForPreTraining, {**TINY, "use_mean_pooling": False})
    model.save_pretrained(tmp_path)
    encoder, info = VideoMAEModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    video = clips(model.config)
    assert torch.equal(encoder(video).last_hidden_state, model.videomae(video).last_hidden_state)


def test_the_target_epsilon_and_statistics_of_stock_are_the_defaults():
    config = VideoMAEConfig()
    assert config.norm_eps == torch.nn.LayerNorm(4).eps
    assert config.pixel_statistics == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def test_raw_pixel_targets_of_other_channel_counts_are_the_values_as_given():
    fields = {**TINY, "num_channels": 1, "norm_pix_loss": False}
    model = VideoMAEForPreTraining(VideoMAEConfig(**fields))
    video = clips(model.config)
    positions = torch.arange(model.config.num_patches)[None].expand(2, -1)
    targets = model.targets(video, positions)
    # Rebuild the clip from the targets: (frame in tubelet, row, column, channel) inside a target.
    rebuilt = targets.view(2, 8, 4, 4, 2, 8, 8, 1).permute(0, 1, 4, 7, 2, 5, 3, 6).reshape(video.shape)
    assert torch.equal(rebuilt, video)


def test_normalised_targets_follow_the_published_formula():
    """A plain loop over patches: un-normalise, subtract the mean, divide by the unbiased deviation plus 1e-6."""
    model = VideoMAEForPreTraining(VideoMAEConfig(**TINY, pixel_mean=[0.1, 0.2, 0.3], pixel_std=[0.5, 0.6, 0.7]))
    video = clips(model.config, batch=1)
    positions = torch.tensor([[5, 97]])
    targets = model.targets(video, positions)
    for row, token in enumerate(positions[0].tolist()):
        slot, y, x = token // 16, token // 4 % 4, token % 4
        patch = video[0, 2 * slot : 2 * slot + 2, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
        columns = []
        for channel, (mean, std) in enumerate(((0.1, 0.5), (0.2, 0.6), (0.3, 0.7))):
            values = (patch[:, channel] * std + mean).flatten().double()
            deviation = math.sqrt(((values - values.mean()) ** 2).sum() / (len(values) - 1))
            columns.append((values - values.mean()) / (deviation + 1e-6))
        assert torch.allclose(targets[0, row].double(), torch.stack(columns, 1).flatten(), atol=1e-5)
