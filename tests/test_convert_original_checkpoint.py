"""Every released layout to a folder and back, against the official outputs, stock transformers and the reference."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import GOLDEN, golden
from transformers import VideoMAEForPreTraining as StockForPreTraining
from transformers import VideoMAEForVideoClassification as StockForVideoClassification
from transformers import VideoMAEModel as StockModel

from videomae import VideoMAEConfig, convert_original_checkpoint
from videomae.conversion import plan as planning
from videomae.conversion import reference
from videomae.conversion.layouts import official_state
from videomae.conversion.plan import plan
from videomae.conversion.weight_files import open_checkpoint
from videomae.convert_original_checkpoint import convert, main
from videomae.files import sha256_of
from videomae.modeling_videomae import VideoMAEForPreTraining, VideoMAEForVideoClassification
from videomae.modeling_videomae_detection import VideoMAEForActionDetection

# What the shapes of the tiny golden files cannot tell.
HEADS = dict(num_attention_heads=3)
DECODER_HEADS = dict(decoder_num_attention_heads=2)
KNOWN = {
    "videomae_pretrain": HEADS | DECODER_HEADS | dict(image_size=32),
    "videomae_finetune": HEADS | dict(image_size=32),
    "videomae_v2_pretrain": HEADS | DECODER_HEADS | dict(image_size=32),
    "videomae_v2_finetune": HEADS | dict(image_size=32),
    "videomae_v2_hub": HEADS | dict(image_size=32),
    "mmaction2_recognition": HEADS | dict(image_size=32),
    "action_detection": HEADS | dict(image_size=64),
    "mmaction2_detection": HEADS | dict(image_size=64),
}


def source_of(name: str) -> Path:
    return next(file for file in (GOLDEN / f"{name}.pth", GOLDEN / f"{name}.safetensors") if file.exists())


def options_of(name: str) -> list[str]:
    return [word for key, value in KNOWN[name].items() for word in (f"--{key}", str(value))]


def official_weights(name: str) -> dict:
    content = torch.load(source_of(name), weights_only=False)  # our own file
    return next(content[key] for key in ("model", "module", "state_dict") if key in content)


def relative_difference(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return float((ours - expected).abs().max() / expected.abs().max())


def write(path: Path, weights: dict, wrapper: str = "model") -> Path:
    torch.save({wrapper: weights}, path)
    return path


@pytest.fixture
def hub_folder(tmp_path) -> Path:
    """The layout of the V2 repositories on the Hub."""
    folder = tmp_path / "hub"
    folder.mkdir()
    shutil.copy(GOLDEN / "videomae_v2_hub.safetensors", folder / "model.safetensors")
    shutil.copy(GOLDEN / "videomae_v2_hub.config.json", folder / "config.json")
    return folder


# --- the official outputs ---------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", ["videomae_finetune", "videomae_v2_finetune", "mmaction2_recognition"])
def test_classifiers_give_the_official_logits(name):
    tensors = golden(name)
    model = convert(source_of(name), **KNOWN[name])
    assert type(model) is VideoMAEForVideoClassification and not model.training
    assert relative_difference(model(tensors["input.pixel_values"]).logits, tensors["expected.logits"]) < 1e-4


@torch.no_grad()
def test_the_feature_extractor_gives_the_official_pooled_features_from_its_folder_alone(hub_folder):
    tensors = golden("videomae_v2_hub")
    for model in (convert(hub_folder), convert(source_of("videomae_v2_hub"), **KNOWN["videomae_v2_hub"])):
        pooled = model(tensors["input.pixel_values"]).pooler_output
        assert relative_difference(pooled, tensors["expected.pooled_features"]) < 1e-4


@torch.no_grad()
def test_v1_pretraining_gives_the_official_logits_and_both_losses():
    tensors = golden("videomae_pretrain")
    model = convert(source_of("videomae_pretrain"), **KNOWN["videomae_pretrain"])
    assert type(model) is VideoMAEForPreTraining
    inputs = tensors["input.pixel_values"], tensors["input.bool_masked_pos"].bool()
    outputs = model(*inputs)
    assert relative_difference(outputs.logits, tensors["expected.logits"]) < 1e-4
    assert relative_difference(outputs.loss, tensors["expected.loss"]) < 1e-5
    model.config.norm_pix_loss = False
    assert relative_difference(model(*inputs).loss, tensors["expected.loss_raw_pixels"]) < 1e-5


@torch.no_grad()
def test_v2_pretraining_gives_the_official_logits_and_loss_with_both_masks():
    tensors = golden("videomae_v2_pretrain")
    model = convert(source_of("videomae_v2_pretrain"), **KNOWN["videomae_v2_pretrain"])
    outputs = model(
        tensors["input.pixel_values"],
        tensors["input.bool_masked_pos"].bool(),
        ~tensors["input.decode_masked_pos"].bool(),
    )
    assert relative_difference(outputs.logits, tensors["expected.logits"]) < 1e-4
    assert relative_difference(outputs.loss, tensors["expected.loss"]) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("name, first_class", [("action_detection", 0), ("mmaction2_detection", 1)])
def test_detectors_give_the_official_features_and_scores_of_the_80_real_classes(name, first_class):
    tensors = golden(name)
    model = convert(source_of(name), **KNOWN[name])
    assert type(model) is VideoMAEForActionDetection and model.config.num_labels == 80
    outputs = model(tensors["input.pixel_values"], [tensors["input.boxes_0"], tensors["input.boxes_1"]])
    assert relative_difference(outputs.roi_features, tensors["expected.roi_features"]) < 1e-4
    assert relative_difference(outputs.logits, tensors["expected.logits"][:, first_class:]) < 1e-4


# --- random networks of real sizes ------------------------------------------------------------------------------------


@torch.no_grad()
def test_heads_of_width_88_and_patches_of_14_as_the_giant_has(tmp_path):
    weights = reference.random_weights("classify", width=176, depth=2, mlp=768, patch=14, num_labels=9)
    model = convert(write(tmp_path / "a.pth", weights, "module"), num_attention_heads=2, image_size=56)
    clip = reference.fixed_clip(16, 3, 56, 56)
    assert relative_difference(model(clip).logits, reference.classify(weights, clip, heads=2)["logits"]) < 1e-4


@pytest.mark.slow
@torch.no_grad()
def test_a_random_base_classifier_needs_no_options_and_agrees_with_the_reference(tmp_path):
    weights = reference.random_weights("classify", width=768, depth=12, mlp=3072, patch=16, num_labels=400)
    model = convert(write(tmp_path / "a.pth", weights, "module"))
    assert (model.config.num_attention_heads, model.config.image_size) == (12, 224)
    clip = reference.fixed_clip(16, 3, 224, 224)
    assert relative_difference(model(clip).logits, reference.classify(weights, clip, heads=12)["logits"]) < 1e-4


@pytest.mark.slow
@torch.no_grad()
def test_a_random_base_autoencoder_needs_no_options_and_agrees_with_the_reference(tmp_path):
    weights = reference.random_weights("pretrain", width=768, depth=12, mlp=3072, patch=16, decoder=(384, 4, 1536))
    model = convert(write(tmp_path / "a.pth", weights))
    clip, mask = reference.fixed_clip(16, 3, 224, 224), reference.fixed_mask((8, 14, 14))
    ours, theirs = model(clip, mask), reference.pretrain(weights, clip, mask, heads=12, decoder_heads=6)
    assert relative_difference(ours.logits, theirs["logits"]) < 1e-4
    assert relative_difference(ours.loss, theirs["loss"]) < 1e-5


@pytest.mark.parametrize(
    "width, depth, heads, decoder, decoder_heads",
    [(384, 12, 6, (192, 4, 768), 3), (1024, 24, 16, (512, 4, 2048), 8)],
)
def test_released_sizes_bring_their_own_head_counts(tmp_path, width, depth, heads, decoder, decoder_heads):
    layer = dict(width=width, mlp=4 * width, patch=16, decoder=decoder)
    weights = reference.random_weights("pretrain", depth=1, **layer)
    block = {key: value for key, value in weights.items() if key.startswith("encoder.blocks.0.")}
    for i in range(1, depth):  # one block under many names: the size of the file stays small
        weights |= {key.replace("blocks.0.", f"blocks.{i}."): value for key, value in block.items()}
    config = plan(write(tmp_path / "a.pth", weights)).config
    assert (config.num_attention_heads, config.decoder_num_attention_heads) == (heads, decoder_heads)
    assert config.decoder_num_hidden_layers == decoder[1] and config.layer_norm_eps == config.norm_eps == 1e-6


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KNOWN)
def test_the_command_writes_a_folder_and_its_proof(tmp_path, capsys, name):
    assert main([str(source_of(name)), str(tmp_path / "out"), *options_of(name)]) == 0
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert record["largest_relative_difference"] < 1e-5 and record["num_attention_heads"] == 3
    assert len(record["source_sha256"]) == 64 and record["layer_norm_eps"] == 1e-6
    assert record["family"] in capsys.readouterr().out.lower().replace("-", "_").replace(" ", "_") + " videomae_v2_hub"
    assert sorted(record["versions"]) == ["torch", "transformers", "videomae"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == [record["architecture"]] and config["model_type"] == "videomae"


def test_the_proof_catches_a_wrong_tensor_and_leaves_nothing_behind(tmp_path, monkeypatch):
    honest = planning.our_state

    def swapped(source, layout):
        state = honest(source, layout)
        first, second = (f"videomae.encoder.layer.{i}.attention.attention.query.bias" for i in (0, 1))
        return state | {first: state[second], second: state[first]}

    monkeypatch.setattr(planning, "our_state", swapped)
    arguments = [str(source_of("videomae_finetune")), str(tmp_path / "out"), *options_of("videomae_finetune")]
    with pytest.raises(ValueError, match=r"does not compute what .* does: logits differ by"):
        main(arguments)
    assert list(tmp_path.iterdir()) == []
    assert main([*arguments, "--no_verify"]) == 0
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["largest_difference"] is None


@pytest.mark.parametrize("prefix", ["", "module.", "encoder.", "backbone.", "model.", "module.encoder."])
def test_prefixes_that_wrappers_add_change_nothing(tmp_path, prefix):
    weights = {f"{prefix}{key}": value for key, value in official_weights("videomae_finetune").items()}
    file = write(tmp_path / "a.pth", weights)
    assert main([str(file), str(tmp_path / "out"), *options_of("videomae_finetune")]) == 0
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert record["layout"] == "VideoMAE or VideoMAE V2, classifier" and record["largest_relative_difference"] < 1e-5


def wrapped(weights: dict, how: str) -> dict:
    """The same weights under the names that a compiled, a distributed or a partly compiled model gives them."""
    prefixes = {"compiled": ["_orig_mod."], "distributed": ["module."], "both": ["module._orig_mod."]}
    if how in prefixes:
        return {prefixes[how][0] + key: value for key, value in weights.items()}
    if how == "mixed":  # an encoder compiled alone, or a file that was put together from two
        turns = ("", "_orig_mod.", "module.", "_orig_mod.module.")
        return {turns[i % 4] + key: value for i, (key, value) in enumerate(weights.items())}
    return {re.sub(r"(blocks\.\d+\.)", r"\1_orig_mod.", key): value for key, value in weights.items()}


@pytest.mark.parametrize("how", ["compiled", "distributed", "both", "mixed", "blocks compiled"])
@pytest.mark.parametrize("name", KNOWN)
def test_names_that_compilation_and_distribution_add_change_nothing_in_any_family(tmp_path, name, how):
    if source_of(name).suffix == ".safetensors":
        save_file(wrapped(load_file(source_of(name)), how), file := tmp_path / "a.safetensors")
    else:
        wrapper = open_checkpoint(source_of(name)).wrapper
        file = write(tmp_path / "a.pth", wrapped(official_weights(name), how), wrapper)
    assert main([str(file), str(tmp_path / "out"), *options_of(name)]) == 0
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert record["layout"] == plan(source_of(name), **KNOWN[name]).layout.title
    assert record["largest_relative_difference"] < 1e-5
    made, plain = (convert(path, **KNOWN[name]).state_dict() for path in (file, source_of(name)))
    assert made.keys() == plain.keys() and all(torch.equal(made[key], plain[key]) for key in plain)


@pytest.mark.parametrize("how", ["compiled", "mixed"])
@pytest.mark.parametrize("cls", [StockForVideoClassification, StockForPreTraining, StockModel])
def test_a_stock_folder_whose_model_was_compiled_keeps_its_numbers(tmp_path, cls, how):
    folder = stock_folder(tmp_path / "stock", cls, use_mean_pooling=False)
    weights = wrapped(load_file(folder / "model.safetensors"), how)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert main([str(folder), str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["largest_relative_difference"] < 1e-5


def test_a_file_with_one_tensor_under_two_names_is_refused(tmp_path):
    weights = official_weights("videomae_finetune")
    weights["_orig_mod.head.bias"] = weights["head.bias"] + 1
    with pytest.raises(ValueError, match=r"has head.bias twice, as head.bias and as _orig_mod.head.bias; it mixes two"):
        convert(write(tmp_path / "a.pth", weights), **KNOWN["videomae_finetune"])


def test_a_dry_run_says_what_would_be_made_and_writes_nothing(tmp_path, capsys):
    assert (
        main([str(source_of("action_detection")), str(tmp_path / "out"), *options_of("action_detection"), "--dry_run"])
        == 0
    )
    assert "VideoMAEForActionDetection" in capsys.readouterr().out and list(tmp_path.iterdir()) == []


def test_labels_become_the_names_of_the_classes(tmp_path):
    names = [f"made up {i}" for i in range(7)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    model = convert(source_of("videomae_finetune"), **KNOWN["videomae_finetune"], labels=tmp_path / "names.txt")
    assert [model.config.id2label[i] for i in range(7)] == names and model.config.label2id["made up 6"] == 6
    with pytest.raises(ValueError, match="has 6 class names, but the head has 7 classes"):
        convert(source_of("videomae_finetune"), **KNOWN["videomae_finetune"], labels=names[:6])
    with pytest.raises(ValueError, match=r"pre-training has no classes; leave --labels out"):
        convert(source_of("videomae_pretrain"), **KNOWN["videomae_pretrain"], labels=names)


@pytest.mark.slow
def test_the_script_runs_from_another_folder(tmp_path):
    script = Path(convert_original_checkpoint.__file__)
    command = [
        sys.executable,
        str(script),
        str(source_of("videomae_finetune")),
        "out",
        *options_of("videomae_finetune"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "agree with the source" in done.stdout and (tmp_path / "out" / "model.safetensors").exists()


def saved_processors(folder: Path) -> tuple[dict, dict]:
    return tuple(json.loads((folder / f"{kind}preprocessor_config.json").read_text()) for kind in ("video_", ""))


@pytest.mark.parametrize(
    "name, mean, std, first_resize",
    [
        ("videomae_finetune", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 32),
        ("mmaction2_detection", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 256),
        ("action_detection", [0.481458, 0.454692, 0.403844], [0.225, 0.225, 0.225], 256),
    ],
)
def test_each_family_keeps_its_own_pixel_statistics_and_size(tmp_path, name, mean, std, first_resize):
    main([str(source_of(name)), str(tmp_path / "out"), *options_of(name), "--no_verify"])
    for saved in saved_processors(tmp_path / "out"):
        assert saved["image_mean"] == pytest.approx(mean, abs=1e-6) and saved["image_std"] == pytest.approx(std)
        assert saved["size"] == {"shortest_edge": first_resize}
        assert saved["do_center_crop"] == ("detection" not in name)
    config = VideoMAEConfig.from_pretrained(tmp_path / "out")
    rules = {"action_detection": ("pad", 7, False), "mmaction2_detection": ("drop", 8, True)}
    if name in rules:
        assert (config.detection_size_rule, config.roi_output_size, config.roi_aligned) == rules[name]


def small_classifier(path: Path, num_labels: int = 400) -> Path:
    """A file of the released small size; its blocks are one block under twelve names, so that it is quickly made."""
    weights = reference.random_weights("classify", width=384, depth=1, mlp=1536, patch=16, num_labels=num_labels)
    block = {key: value for key, value in weights.items() if key.startswith("blocks.0.")}
    for i in range(1, 12):
        weights |= {key.replace("blocks.0.", f"blocks.{i}."): value.clone() for key, value in block.items()}
    return write(path, weights, "module")


def test_a_named_release_brings_heads_sampling_and_its_card(tmp_path, capsys):
    file = small_classifier(tmp_path / "a.pth", 174)
    name = "MCG-NJU/videomae-small-finetuned-ssv2"
    assert main([str(file), str(tmp_path / "out"), "--name", name, "--no_verify"]) == 0
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert record["name"] == "videomae-small-finetuned-ssv2" and record["num_attention_heads"] == 6
    sampling = saved_processors(tmp_path / "out")[0]["sampling"]
    assert (sampling["strategy"], sampling["clips"], sampling["crops"]) == ("uniform", 2, 3)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "cc-by-nc-4.0" in card and record["source_sha256"] in card
    assert "add them with --labels something-something-v2" in capsys.readouterr().out


def test_the_file_name_of_a_release_is_enough_to_know_it(tmp_path):
    planned = plan(small_classifier(tmp_path / "vit_s_k710_dl_from_giant.pth", 710))
    assert planned.entry.name == "videomaev2-small-distilled-k710"


def test_a_hash_in_the_file_name_is_compared_with_the_file(tmp_path):
    digest = sha256_of(shutil.copy(source_of("mmaction2_recognition"), tmp_path / "a.pth"))
    for name, noted in ((f"vit-x_20230314-{digest[:8]}.pth", False), ("vit-x_20230314-0123abcd.pth", True)):
        shutil.copy(tmp_path / "a.pth", tmp_path / name)
        notes = plan(tmp_path / name, **KNOWN["mmaction2_recognition"]).notes
        assert any("the name promises a SHA-256 of 0123abcd" in note for note in notes) == noted


def test_a_hub_name_is_fetched_and_names_the_release(tmp_path, monkeypatch):
    import huggingface_hub

    sizes = dict(hidden_size=384, num_attention_heads=16, num_hidden_layers=12, intermediate_size=1536, patch_size=16)
    folder = stock_folder(tmp_path / "copy", StockForVideoClassification, **sizes, num_labels=400)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, allow_patterns: str(folder))
    planned = plan("MCG-NJU/videomae-small-finetuned-kinetics")
    assert planned.entry.name == "videomae-small-finetuned-kinetics" and planned.config.num_attention_heads == 6

    def fail(name, allow_patterns):
        raise ConnectionError("no network\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(
        FileNotFoundError, match=r"does not exist here, and the Hub did not give it \(no network\); give a .pth"
    ):
        convert("MCG-NJU/videomae-base")


def test_publishing_follows_the_conversion_and_its_name_is_checked_first(tmp_path, monkeypatch, capsys):
    from videomae.publishing import upload as publish

    published = []
    monkeypatch.setattr(publish, "publish", lambda folder, name: published.append((folder, name)) or "URL")
    arguments = [str(source_of("videomae_finetune")), str(tmp_path / "out"), *options_of("videomae_finetune")]
    with pytest.raises(ValueError, match="--push_to_hub takes OWNER/NAME"):
        main([*arguments, "--push_to_hub", "mine"])
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--push_to_hub", "me/mine"]) == 0
    assert published == [(tmp_path / "out", "me/mine")] and "published: URL" in capsys.readouterr().out


# --- transformers -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_converted_folders_give_the_same_in_stock_transformers(tmp_path):
    tensors = golden("videomae_finetune")
    convert(source_of("videomae_finetune"), **KNOWN["videomae_finetune"]).save_pretrained(tmp_path / "classifier")
    stock, info = StockForVideoClassification.from_pretrained(tmp_path / "classifier", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert relative_difference(stock(tensors["input.pixel_values"]).logits, tensors["expected.logits"]) < 1e-4

    tensors = golden("videomae_pretrain")
    convert(source_of("videomae_pretrain"), **KNOWN["videomae_pretrain"]).save_pretrained(tmp_path / "mae")
    stock, info = StockForPreTraining.from_pretrained(tmp_path / "mae", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    outputs = stock(tensors["input.pixel_values"], tensors["input.bool_masked_pos"].bool())
    assert relative_difference(outputs.logits, tensors["expected.logits"]) < 1e-4
    assert relative_difference(outputs.loss, tensors["expected.loss"]) < 1e-4


def stock_folder(folder: Path, cls, **changes) -> Path:
    torch.manual_seed(0)
    sizes = dict(image_size=32, patch_size=8, num_frames=4, hidden_size=48, num_hidden_layers=2, num_attention_heads=3)
    sizes |= dict(
        intermediate_size=96, decoder_hidden_size=24, decoder_num_attention_heads=2, decoder_num_hidden_layers=1
    )
    sizes |= dict(decoder_intermediate_size=48, num_labels=5) | changes
    model = cls(cls.config_class(**sizes))
    for parameter in model.parameters():  # biases are born zero and would hide a lost one
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "cls, changes, ours",
    [
        (StockForVideoClassification, {}, "VideoMAEForVideoClassification"),
        (StockForVideoClassification, dict(use_mean_pooling=False), "VideoMAEForVideoClassification"),
        (StockForPreTraining, dict(use_mean_pooling=False), "VideoMAEForPreTraining"),
        (StockModel, dict(use_mean_pooling=False), "VideoMAEModel"),
    ],
)
def test_a_stock_folder_keeps_its_numbers(tmp_path, cls, changes, ours):
    folder = stock_folder(tmp_path / "stock", cls, **changes)
    assert main([str(folder), str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert record["reference"] == "transformers' own class" and record["largest_relative_difference"] < 1e-5
    assert record["architecture"] == ours and record["layer_norm_eps"] == 1e-12


def test_a_folder_keeps_its_own_pixel_statistics(tmp_path):
    folder = stock_folder(tmp_path / "stock", StockForVideoClassification)
    own = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": {"shortest_edge": 40}}
    own |= {"crop_size": {"height": 32, "width": 32}, "image_processor_type": "VideoMAEImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(own))
    assert main([str(folder), str(tmp_path / "out"), "--no_verify"]) == 0
    for saved in saved_processors(tmp_path / "out"):
        assert saved["image_mean"] == [0.5, 0.5, 0.5] and saved["size"] == {"shortest_edge": 40}
    assert saved_processors(tmp_path / "out")[0]["sampling"]["num_frames"] == 4


def test_both_names_of_the_biases_and_the_older_weight_file_are_read(tmp_path):
    folder = stock_folder(tmp_path / "stock", StockForVideoClassification)
    written = load_file(folder / "model.safetensors")
    renamed = {
        re.sub(r"(q|v)_bias$", lambda m: {"q": "query", "v": "value"}[m[1]] + ".bias", k): v for k, v in written.items()
    }
    older = {
        re.sub(r"attention\.attention\.(q|v)\w+\.bias$", r"attention.attention.\1_bias", k): v
        for k, v in renamed.items()
    }
    assert older.keys() != renamed.keys()
    models = []
    for name, weights in (("old", older), ("new", renamed)):
        (tmp_path / name).mkdir()
        shutil.copy(folder / "config.json", tmp_path / name)
        if name == "new":
            save_file(weights, tmp_path / name / "model.safetensors", {"format": "pt"})
        else:
            torch.save(weights, tmp_path / name / "pytorch_model.bin")
        models.append(convert(tmp_path / name))
    clip = reference.fixed_clip(4, 3, 32, 32)
    assert torch.allclose(models[0](clip).logits, models[1](clip).logits, atol=1e-6)


def test_small_with_16_heads_is_an_error_unless_somebody_decides(tmp_path):
    sizes = dict(hidden_size=384, num_attention_heads=16, num_hidden_layers=1, intermediate_size=1536, patch_size=16)
    folder = stock_folder(tmp_path / "stock", StockForVideoClassification, **sizes)
    with pytest.raises(ValueError, match=r"width 384 with 16 attention heads .* Give --num_attention_heads 6"):
        convert(folder)
    assert convert(folder, num_attention_heads=6).config.num_attention_heads == 6
    with pytest.warns(UserWarning, match="has 6 heads"):
        assert convert(folder, num_attention_heads=16).config.num_attention_heads == 16


def test_a_zoo_name_settles_the_heads_of_a_stock_folder(tmp_path):
    sizes = dict(hidden_size=384, num_attention_heads=16, num_hidden_layers=1, intermediate_size=1536, patch_size=16)
    folder = stock_folder(tmp_path / "stock", StockForVideoClassification, **sizes, num_labels=400)
    planned = plan(folder, name="MCG-NJU/videomae-small-finetuned-kinetics")
    assert planned.config.num_attention_heads == 6
    assert (
        "config.json says 16 attention heads, videomae-small-finetuned-kinetics was trained with 6" in planned.notes[0]
    )


# --- and back ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["videomae_pretrain", "videomae_finetune", "videomae_v2_pretrain", "videomae_v2_finetune", "action_detection"],
)
def test_official_to_ours_to_official_is_bit_equal(tmp_path, name):
    convert(source_of(name), **KNOWN[name]).save_pretrained(tmp_path / "ours")
    assert main([str(tmp_path / "ours"), str(tmp_path / "back.pth"), "--to", "original"]) == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    official = official_weights(name)
    assert back.keys() == official.keys()
    assert all(torch.equal(back[key], official[key]) and back[key].dtype == official[key].dtype for key in official)


def test_a_trained_folder_goes_back_in_the_order_of_the_forward_pass(tmp_path):
    convert(source_of("videomae_pretrain"), **KNOWN["videomae_pretrain"]).save_pretrained(tmp_path / "ours")
    names = list(official_state(tmp_path / "ours"))
    assert names[0] == "mask_token" and names.index("encoder.blocks.2.norm1.bias") < names.index(
        "decoder.blocks.0.norm1.bias"
    )


@torch.no_grad()
@pytest.mark.parametrize("cls", [StockForVideoClassification, StockForPreTraining])
def test_a_model_trained_in_transformers_goes_to_the_official_code_too(tmp_path, cls):
    folder = stock_folder(tmp_path / "stock", cls, use_mean_pooling=cls is StockForVideoClassification)
    assert main([str(folder), str(tmp_path / "back.pth"), "--to", "original"]) == 0
    weights = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    stock, clip = cls.from_pretrained(folder).eval(), reference.fixed_clip(4, 3, 32, 32)
    if cls is StockForPreTraining:
        mask = reference.fixed_mask((2, 4, 4))
        outputs = reference.pretrain(weights, clip, mask, heads=3, decoder_heads=2)
        assert relative_difference(outputs["logits"], stock(clip, mask).logits) < 1e-4
    else:
        assert relative_difference(reference.classify(weights, clip, heads=3)["logits"], stock(clip).logits) < 1e-4


def test_there_is_no_way_back_to_a_background_class_that_was_dropped(tmp_path):
    convert(source_of("mmaction2_detection"), **KNOWN["mmaction2_detection"]).save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match="background class was dropped; it cannot be written as an MMAction2 file"):
        main([str(tmp_path / "ours"), str(tmp_path / "back.pth"), "--to", "original"])
    assert not (tmp_path / "back.pth").exists()


def test_going_back_overwrites_nothing_by_accident(tmp_path):
    convert(source_of("videomae_finetune"), **KNOWN["videomae_finetune"]).save_pretrained(tmp_path / "ours")
    (tmp_path / "back.pth").write_text("mine")
    with pytest.raises(FileExistsError, match=r"back.pth exists; choose another name or add --overwrite"):
        main([str(tmp_path / "ours"), str(tmp_path / "back.pth"), "--to", "original"])
    assert (tmp_path / "back.pth").read_text() == "mine"
    with pytest.raises(ValueError, match="is a folder; --to original writes one file"):
        main([str(tmp_path / "ours"), str(tmp_path), "--to", "original"])
    with pytest.raises(ValueError, match=r"is not a VideoMAE folder with a config.json"):
        main([str(source_of("videomae_finetune")), str(tmp_path / "other.pth"), "--to", "original"])


def test_a_crash_on_the_way_back_keeps_the_file_that_was_there(tmp_path, monkeypatch):
    convert(source_of("videomae_finetune"), **KNOWN["videomae_finetune"]).save_pretrained(tmp_path / "ours")
    (tmp_path / "back.pth").write_text("mine")

    def full(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/back.pth'"):
        main([str(tmp_path / "ours"), str(tmp_path / "back.pth"), "--to", "original", "--overwrite"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.pth", "ours"]
    assert (tmp_path / "back.pth").read_text() == "mine"


# --- the documentation -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_commands_and_the_python_of_the_documentation_run(tmp_path, monkeypatch):
    text = (Path(convert_original_checkpoint.__file__).parent / "docs" / "conversion.md").read_text(encoding="utf-8")
    commands = re.findall(r"^videomae convert (.*)$", text, flags=re.MULTILINE)
    needs_network = [line for line in commands if "--labels kinetics400" in line or line.startswith("OpenGVLab/")]
    assert len(commands) == 4 and len(needs_network) == 2
    monkeypatch.chdir(tmp_path)
    small_classifier(tmp_path / "vit_s_k710_dl_from_giant.pth", 710)
    (tmp_path / "label_map_k710.txt").write_text("\n".join(f"made-up action {i}" for i in range(710)))
    for line in commands:
        if line not in needs_network:
            assert main(line.split()) == 0
    shown = re.search(r"^wrote videomaev2-small: (.*)$", text, flags=re.MULTILINE)[1].split(", ")
    assert shown == sorted(path.name for path in (tmp_path / "videomaev2-small").iterdir())
    (python,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(compile(python, "conversion.md", "exec"), {})  # noqa: S102 - our own documentation
    assert (tmp_path / "my-folder" / "model.safetensors").exists() and (tmp_path / "back.pth").exists()


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_file_of_another_model_is_named_as_such(tmp_path):
    weights = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).state_dict()
    with pytest.raises(
        ValueError, match=r"is not a VideoMAE checkpoint .*: 7 tensors such as 0.bias, 0.weight.* Known are"
    ):
        convert(write(tmp_path / "a.pth", weights))


def test_an_image_vit_with_like_names_is_refused_by_its_unknown_keys(tmp_path):
    weights = official_weights("action_detection") | {
        "cls_token": torch.zeros(1, 1, 48),
        "pos_embed": torch.rand(1, 5, 48),
    }
    with pytest.raises(ValueError, match=r"2 of the 47 tensors .* have no place in a .*: cls_token, pos_embed"):
        convert(write(tmp_path / "a.pth", weights), **KNOWN["action_detection"])


def test_a_stored_table_of_fixed_positions_is_recognised_and_left_out(tmp_path):
    weights = official_weights("mmaction2_recognition")
    weights["backbone.pos_embed"] = reference.position_table(128, 48)[None]
    convert(write(tmp_path / "a.pth", weights, "state_dict"), **KNOWN["mmaction2_recognition"])


def test_keys_that_match_by_half_are_listed(tmp_path):
    weights = official_weights("videomae_finetune")
    fewer = {key: value for key, value in weights.items() if not key.startswith("blocks.1.")}
    with pytest.raises(
        ValueError, match=r"recognised as VideoMAE or VideoMAE V2, classifier, but 15 of its parameters are missing"
    ):
        convert(write(tmp_path / "a.pth", fewer), **KNOWN["videomae_finetune"])
    crooked = weights | {"blocks.1.attn.qkv.weight": torch.zeros(145)}
    with pytest.raises(ValueError, match=r"a fused qkv weight has shape \(145,\)"):
        convert(write(tmp_path / "d.pth", crooked), **KNOWN["videomae_finetune"])
    wrong = weights | {"blocks.1.mlp.fc1.weight": torch.zeros(5, 48)}
    with pytest.raises(
        ValueError, match=r"1 of its parameters have the wrong shape: .*\(5, 48\) where \(192, 48\) fits"
    ):
        convert(write(tmp_path / "b.pth", wrong), **KNOWN["videomae_finetune"])
    doubled = weights | {"encoder.norm1.weight": torch.zeros(1), "backbone.fc_norm.weight": torch.ones(48)}
    with pytest.raises(ValueError, match=r"has fc_norm.weight twice, the second time as backbone.fc_norm.weight"):
        convert(write(tmp_path / "c.pth", doubled), **KNOWN["videomae_finetune"])


def test_a_size_that_was_never_released_needs_its_heads(tmp_path):
    with pytest.raises(
        ValueError, match=r"width 48 and 3 layers, which is no released size, .* give --num_attention_heads$"
    ):
        convert(source_of("videomae_finetune"))
    with pytest.raises(ValueError, match=r"give --num_attention_heads and --decoder_num_attention_heads"):
        convert(source_of("videomae_pretrain"))
    with pytest.raises(ValueError, match=r"hidden_size=48 is not divisible by num_attention_heads=5"):
        convert(source_of("videomae_finetune"), num_attention_heads=5, image_size=32)


def test_weights_that_are_not_finite_or_not_weights_are_refused(tmp_path):
    weights = official_weights("videomae_finetune")
    broken = weights | {"head.bias": torch.full((7,), torch.nan)}
    with pytest.raises(ValueError, match=r"not finite in classifier.bias; it is damaged"):
        convert(write(tmp_path / "a.pth", broken), **KNOWN["videomae_finetune"])
    whole = weights | {"head.bias": torch.zeros(7, dtype=torch.int64)}
    with pytest.raises(ValueError, match=r"classifier.bias is torch.int64, not a floating-point weight"):
        convert(write(tmp_path / "b.pth", whole), **KNOWN["videomae_finetune"])


def test_half_precision_files_are_computed_in_float32_as_the_release_does(tmp_path):
    weights = {key: value.half() for key, value in official_weights("videomae_finetune").items()}
    file = write(tmp_path / "a.pth", weights, "module")
    assert main([str(file), str(tmp_path / "out"), *options_of("videomae_finetune")]) == 0
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.float32}


def test_a_name_that_does_not_fit_the_file_is_refused():
    file = source_of("videomae_finetune")
    with pytest.raises(
        ValueError, match=r"is a VideoMAE or VideoMAE V2, classifier file, but videomae-base is for pretrain"
    ):
        convert(file, name="videomae-base")
    with pytest.raises(ValueError, match=r"videomae-base-finetuned-kinetics is of size base, but .* has width 48"):
        convert(file, name="videomae-base-finetuned-kinetics", **KNOWN["videomae_finetune"])
    with pytest.raises(ValueError, match="no released checkpoint is called 'videomae-bsae'; did you mean"):
        convert(file, name="videomae-bsae")


def test_a_head_with_another_number_of_classes_than_the_named_release_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has 400 classes, but the head in the file 10"):
        convert(small_classifier(tmp_path / "a.pth", 10), name="videomae-small-finetuned-kinetics")


def test_a_folder_in_the_way_is_kept_unless_it_is_a_model_and_overwriting_was_asked_for(tmp_path):
    arguments = [str(source_of("videomae_finetune")), str(tmp_path / "out"), *options_of("videomae_finetune")]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "diary.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is not empty; choose another folder or add --overwrite"):
        main(arguments)
    with pytest.raises(FileExistsError, match="is not a model folder"):
        main([*arguments, "--overwrite"])
    assert (tmp_path / "out" / "diary.txt").read_text() == "mine"
    (tmp_path / "out" / "config.json").write_text("{}")
    assert main([*arguments, "--overwrite"]) == 0
    assert not (tmp_path / "out" / "diary.txt").exists() and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(FileExistsError, match="is a file; name a folder"):
        main([arguments[0], str(tmp_path / "out" / "config.json"), *arguments[2:]])


def test_a_full_disk_is_seen_beforehand_or_leaves_nothing(tmp_path, monkeypatch):
    arguments = [str(source_of("videomae_finetune")), str(tmp_path / "out"), *options_of("videomae_finetune")]
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(OSError, match=r"has 0.00 GB free, the model needs"):
            main(arguments)

    def full(self, folder, **options):
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(VideoMAEForVideoClassification, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        main(arguments)
    assert list(tmp_path.iterdir()) == []
