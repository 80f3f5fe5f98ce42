import json
import subprocess
import sys
import tracemalloc

import pytest
import torch
from safetensors.torch import load_file

from videomae.choices import CONFIG_BOUNDS
from videomae.command_line import is_telling
from videomae.configuration_videomae import PRESETS, VideoMAEConfig
from videomae.data.lists.layouts import open_manifest
from videomae.files import check_output
from videomae.modeling_videomae import VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel
from videomae.models import (
    MAX_SAMPLING,
    check_name,
    load_with_report,
    open_classifier,
    open_config,
    open_device,
    open_model,
    open_processor,
)
from videomae.sampling_videomae import ClipSampling
from videomae.video_processing_videomae import VideoMAEVideoProcessor

TINY = dict(
    image_size=32, num_frames=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
)


@pytest.fixture
def classifier(tmp_path):
    VideoMAEForVideoClassification(VideoMAEConfig(**TINY, num_labels=3)).save_pretrained(tmp_path / "classifier")
    return tmp_path / "classifier"


def test_a_model_folder_gives_its_configuration(classifier):
    assert open_config(str(classifier)).num_labels == 3
    assert open_config(str(classifier), kind="ForVideoClassification").hidden_size == 16


def test_what_is_not_a_model_is_named_with_its_argument(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.mp4").write_text("no model")
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "half/config.json").write_text('{"model_type": "videomae"')
    for name, message in {
        "missing": "--teacher missing: there is no such folder, and names on the Hub are OWNER/NAME",
        "./a/b": "--teacher ./a/b: there is no such folder",
        "text.mp4": "--teacher text.mp4 is a file; give a model folder",
        "empty": "--teacher empty has no config.json",
        "half": "--teacher half: config.json is not JSON",
    }.items():
        with pytest.raises((ValueError, OSError)) as caught:
            open_config(name, "--teacher")
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_without_weights_will_do_where_only_the_classes_are_asked_for(classifier):
    (classifier / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has no weights"):
        open_config(str(classifier))
    assert open_config(str(classifier), weights=False).num_labels == 3


def test_another_architecture_is_refused_and_not_filled_with_random_weights(classifier):
    with pytest.raises(
        ValueError, match="is VideoMAEForVideoClassification, and a VideoMAEForActionDetection is needed"
    ):
        open_config(str(classifier), kind="ForActionDetection")
    config = json.loads((classifier / "config.json").read_text())
    (classifier / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))
    with pytest.raises(ValueError, match="is of model_type 'vit', not 'videomae'"):
        open_config(str(classifier))


def test_a_configuration_is_opened_without_importing_a_model_or_a_processor():
    code = "import sys; from videomae.models import open_config; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()
    assert "videomae.models" in loaded and "videomae.configuration_videomae" in loaded
    assert not [
        name for name in loaded if name.startswith("videomae.") and ("modeling" in name or "processing" in name)
    ]


def test_a_model_is_opened_in_float32_for_evaluation_without_the_parts_that_its_class_lacks(classifier, capsys):
    VideoMAEForVideoClassification.from_pretrained(classifier).half().save_pretrained(classifier)
    model = open_model(VideoMAEForVideoClassification, classifier)
    assert model.dtype == torch.float32 and not model.training
    with pytest.raises(
        ValueError, match=r"of 83 parameters of VideoMAEForPreTraining, such as decoder\..*videomae doctor"
    ):
        open_model(VideoMAEForPreTraining, classifier)
    capsys.readouterr()
    encoder = open_model(VideoMAEModel, classifier, may_lack=r"layernorm\..*")
    name = "encoder.layer.0.attention.attention.query.weight"
    assert torch.equal(encoder.get_parameter(name), model.videomae.get_parameter(name))
    assert capsys.readouterr().err == "", "transformers warns of the head that is left out"


def test_weights_that_are_missing_are_an_error_unless_the_caller_names_them(classifier):
    config = json.loads((classifier / "config.json").read_text())
    (classifier / "config.json").write_text(json.dumps(config | {"use_mean_pooling": False}))
    with pytest.raises(
        ValueError, match=r"no weights for 2 of \d+ parameters of VideoMAEModel, such as layernorm\.bias; t"
    ):
        open_model(VideoMAEModel, classifier, way_out="train it")
    assert open_model(VideoMAEModel, classifier, may_lack=r"layernorm\..*").layernorm is not None
    with pytest.raises(ValueError, match=r"such as layernorm\.bias"):  # a pattern stands for whole names
        open_model(VideoMAEModel, classifier, may_lack="layer")
    _, report = load_with_report(VideoMAEModel, classifier)
    assert sorted(report["missing_keys"]) == ["layernorm.bias", "layernorm.weight"]


@pytest.mark.parametrize(
    "content",
    ["[1]", '"text"', '{"architectures": [1]}', '{"architectures": 1}', "[" * 100_000 + "]" * 100_000, '{"model_type": "videomae", "hidden_size": "wide"}',
     '{"model_type": "videomae", "id2label": [1, 2]}'],
)  # fmt: skip
def test_a_config_that_describes_no_model_is_an_error_of_its_folder(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(Exception, match=r".") as caught:
        open_config(str(tmp_path), weights=False)
    assert is_telling(caught.value), repr(caught.value)


def changed(folder, **fields):
    """The folder with other fields in its config.json."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    return str(folder)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"num_labels": 2**31}, r"config\.json has num_labels=2147483648, and it must be in 0 \.\.\. 100000; fix"),
        ({"num_frames": 2**30}, r"num_frames=1073741824, and it must be in 1 \.\.\. 4096"),
        ({"num_hidden_layers": 10**12}, r"num_hidden_layers=1000000000000, and it must be in 0 \.\.\. 256"),
        ({"hidden_size": 1e9}, "hidden_size=1000000000.0, and it must be in"),
        ({"decoder_intermediate_size": -1}, "decoder_intermediate_size=-1"),
        ({"patch_size": 0}, r"patch_size=0, and it must be in 1 \.\.\. 1024"),
        ({"patch_size": [16, 0]}, "patch_size=0"),
        ({"image_size": [32, float("nan")]}, "image_size=nan"),
        ({"num_frames": 4096, "image_size": 8192, "patch_size": 1}, "asks for 137,438,953,472 tokens a clip"),
        ({"id2label": {str(i): "x" for i in range(100_001)}}, "config.json has 100001 labels, and 100000 are the most"),
        ({"id2label": {"a": "run"}}, r"id2label in config\.json has 'a': 'run', and it maps numbers to names"),
        ({"id2label": {"0": 1, "1": [2]}}, "id2label in config.json has '0': '1', and it maps"),
        ({"dtype": "float7"}, "config.json has dtype='float7', which is not a dtype of torch"),
        ({"torch_dtype": "nn"}, "torch_dtype='nn', which is not a dtype of torch"),
        (
            {"_attn_implementation": "owner/kernel"},
            "asks for _attn_implementation='owner/kernel', which may be fetched",
        ),
        ({"attn_implementation": "flash_attention_2"}, "remove the line .*pass attn_implementation to from_pretrained"),
        ({"attn_implementation": ["sdpa"]}, r"attn_implementation=\['sdpa'\]"),
    ],
)
def test_numbers_and_names_of_a_config_are_refused_before_anything_is_built(fields, message, classifier):
    tracemalloc.start()
    with pytest.raises(ValueError, match=message) as caught:
        open_config(changed(classifier, **fields), "--model", weights=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(caught.value).startswith(f"--model {classifier}: ") and "\n" not in str(caught.value)
    assert peak < 100e6


def test_the_presets_lie_within_the_bounds_of_a_config():
    for name in PRESETS:
        config = VideoMAEConfig.preset(name, version=2 if name == "giant" else 1).to_dict()
        for field, (least, most) in CONFIG_BOUNDS.items():
            assert least <= config.get(field, least) <= most / 4 or field == "patch_size", (name, field)


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            {"num_labels": 5},
            r"have classifier\.weight of shape \(3, 16\), and config\.json says \(5, 16\) \(num_labels, ",
        ),
        ({"hidden_size": 32}, r"of shape \(3, 16\), and config\.json says \(3, 32\)"),
        ({"patch_size": 8}, r"config\.json says \(16, 3, 2, 8, 8\)"),
        (
            {"intermediate_size": 20},
            r"intermediate\.dense\.weight of shape \(16, 16\), and config\.json says \(20, 16\)",
        ),
        ({"num_hidden_layers": 200}, "the weights have 1 layers, and config.json says num_hidden_layers=200"),
    ],
)
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_config_that_its_weights_contradict_is_refused_by_both_shapes(fields, message, file, classifier):
    if file != "model.safetensors":
        torch.save(load_file(classifier / "model.safetensors"), classifier / file)
        (classifier / "model.safetensors").unlink()
    if "num_labels" in fields:
        fields = fields | {"id2label": None, "label2id": None}
    with pytest.raises(ValueError, match=message):
        open_classifier(changed(classifier, **fields))


def test_a_map_of_weights_that_leaves_its_folder_is_refused(classifier):
    index, name = classifier / "model.safetensors.index.json", "classifier.weight"
    (classifier / "model.safetensors").rename(classifier / "part.safetensors")
    for content, message in [
        ({"weight_map": {name: "../../etc/passwd"}}, "names '../../etc/passwd', outside the folder"),
        (
            {"weight_map": {name: "missing.safetensors"}},
            "has no missing.safetensors, which model.safetensors.index.json",
        ),
        ({"weight_map": [1]}, "does not map weights to files"),
        ({"weight_map": {name: 3}}, "does not map weights to files"),
        ([], "does not map weights to files"),
    ]:
        index.write_text(json.dumps(content))
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            open_config(str(classifier))
    index.write_text(json.dumps({"weight_map": {name: "part.safetensors"}}))
    assert open_config(str(classifier)).num_labels == 3


class Harm:
    def __reduce__(self):
        return print, ("this ran",)


def test_weights_that_are_no_plain_tensors_are_refused_without_running_anything(classifier, capsys):
    (classifier / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ValueError, match=r"model\.safetensors is not a whole safetensors file"):
        open_config(str(classifier))
    (classifier / "model.safetensors").unlink()
    weights = classifier / "pytorch_model.bin"
    for save, message in [
        (lambda: torch.save({"weight": Harm()}, weights), "holds more than weights, or is damaged; .*refused"),
        (lambda: torch.save([1], weights), "holds a list, not weights by name"),
        (lambda: weights.write_bytes(b"PK"), "pytorch_model.bin (is not a file of weights|holds more than weights)"),
        (lambda: weights.write_bytes(b""), "pytorch_model.bin is not a file of weights"),
    ]:
        save()
        with pytest.raises(ValueError, match=message) as caught:
            open_config(str(classifier))
        assert "weights_only" not in str(caught.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", MAX_SAMPLING)
def test_a_saved_policy_of_endless_counts_is_refused(name, classifier):
    config = open_config(str(classifier))
    VideoMAEVideoProcessor(sampling=ClipSampling(**{name: 2**30})).save_pretrained(classifier)
    with pytest.raises(
        ValueError, match=f"the processor's sampling has {name}=1073741824, and {MAX_SAMPLING[name]} are"
    ):
        open_processor(classifier, config)


def test_a_saved_size_that_no_picture_has_is_refused(classifier):
    config = open_config(str(classifier))
    VideoMAEVideoProcessor(crop_size={"height": 10**9, "width": 10**9}).save_pretrained(classifier)
    with pytest.raises(ValueError, match="the processor has a size of 1000000000 pixels, and 8192 are the most"):
        open_processor(classifier, config)


@pytest.mark.parametrize("sampling", [[1], {"clips": "many"}, {"clips": None}])
def test_a_saved_policy_of_other_types_is_one_line(sampling, classifier):
    VideoMAEVideoProcessor().save_pretrained(classifier)
    for file in classifier.glob("*processor*.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"sampling": sampling}))
    with pytest.raises(Exception, match=r".") as caught:
        open_processor(classifier, open_config(str(classifier)))
    assert is_telling(caught.value), repr(caught.value)


def test_a_name_on_the_hub_that_it_does_not_give_is_one_line():
    check_name("owner/name", "--model")
    with pytest.raises(
        OSError, match="--model owner/name: there is no such folder, and the Hub did not give it"
    ) as caught:
        open_config("owner/name")
    assert "\n" not in str(caught.value)


def test_a_device_that_is_not_there_is_an_error_that_names_the_others():
    assert open_device("cpu") == torch.device("cpu")
    assert open_device(None).type in ("cpu", "cuda", "mps", "xpu")
    for name in ("gpu", "cuda:99"):
        with pytest.raises(ValueError, match=f"--device {name} is not a device of this machine; there is cpu"):
            open_device(name)


def test_an_output_folder_that_is_a_file_is_refused(tmp_path):
    check_output(tmp_path)
    check_output(tmp_path / "new")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match=r"--output .*file is a file; name a folder"):
        check_output(tmp_path / "file")


def test_one_video_is_not_taken_for_a_list_of_videos(tmp_path):
    (tmp_path / "clip.mp4").write_text("text under the name of a video\n")
    with pytest.raises(ValueError, match=r"clip\.mp4 is named like one video; give a list or table"):
        open_manifest(tmp_path / "clip.mp4")
