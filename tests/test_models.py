import json
import subprocess
import sys

import pytest
import torch

from videomae.command_line import is_telling
from videomae.configuration_videomae import VideoMAEConfig
from videomae.data.lists.layouts import open_manifest
from videomae.files import check_output
from videomae.modeling_videomae import VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel
from videomae.models import check_name, load_with_report, open_config, open_device, open_model

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
    ["[1]", '"text"', '{"architectures": [1]}', '{"model_type": "videomae", "hidden_size": "wide"}',
     '{"model_type": "videomae", "id2label": [1, 2]}'],
)  # fmt: skip
def test_a_config_that_describes_no_model_is_an_error_of_its_folder(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(Exception, match=r".") as caught:
        open_config(str(tmp_path), weights=False)
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
