"""The doctor: a sound folder is called sound, and every fault that is planted is found and named."""

import importlib.metadata
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import TINY
from video_files import write_video

from videomae.commands.main import main as videomae
from videomae.configuration_videomae import VideoMAEConfig
from videomae.files import sha256_of
from videomae.inspection import environment
from videomae.inspection.doctor import examine
from videomae.inspection.environment import look_at_environment
from videomae.inspection.model_folder import Findings, check_config, look_at_model
from videomae.modeling_videomae import VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel
from videomae.modeling_videomae_detection import VideoMAEForActionDetection
from videomae.models import weights_sha256
from videomae.training.checkpoints import MANIFEST, write_manifest
from videomae.video_processing_videomae import VideoMAEVideoProcessor

EPSILONS = {"layer_norm_eps": 1e-6, "norm_eps": 1e-6}


def save(folder, kind=VideoMAEForVideoClassification, **fields):
    torch.manual_seed(0)
    if kind is VideoMAEForVideoClassification:
        fields = {"id2label": {0: "run", 1: "sit", 2: "walk"}, "label2id": {"run": 0, "sit": 1, "walk": 2}, **fields}
    model = kind(VideoMAEConfig(**{**TINY, **EPSILONS, **fields}))
    model.save_pretrained(folder)
    VideoMAEVideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    save(folder)
    return folder


@pytest.fixture
def folder(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "model")


def edit(path, **fields):
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**content, **fields}))


def main(arguments):
    return videomae(["doctor", *arguments])


def found(folder, level="problem", **options):
    return [finding.text for finding in look_at_model(folder, **options)[1] if finding.level == level]


# -------------------------------------------------------------------------------------------------- model folders


@pytest.mark.parametrize("kind, fields", [
    (VideoMAEForVideoClassification, {}),
    (VideoMAEForPreTraining, {"use_mean_pooling": False}),
    (VideoMAEModel, {"pooled_features": True}),
    (VideoMAEForActionDetection, {"use_mean_pooling": False, "id2label": {0: "sit", 1: "stand"}}),
])  # fmt: skip
def test_a_sound_folder_of_each_kind_is_run_and_called_sound(kind, fields, tmp_path):
    model = save(tmp_path, kind, **fields)
    facts, findings = look_at_model(tmp_path)
    assert findings == []
    assert facts["class"] == kind.__name__ and facts["forward_seconds"] > 0
    assert facts["weights_sha256"] == weights_sha256(model)
    assert facts["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert facts["files"]["model.safetensors"]["sha256"] == sha256_of(tmp_path / "model.safetensors")
    assert facts["sampling"]["strategy"] == "dense" and facts["mean"] == [0.485, 0.456, 0.406]


def test_a_folder_of_transformers_is_sound_with_notes(sound, tmp_path):
    from transformers import VideoMAEForVideoClassification as Stock

    Stock.from_pretrained(sound).save_pretrained(tmp_path / "stock")
    edit(tmp_path / "stock/config.json", layer_norm_eps=1e-12)
    config = json.loads((tmp_path / "stock/config.json").read_text())
    config.pop("norm_eps", None)
    (tmp_path / "stock/config.json").write_text(json.dumps(config))
    stored = json.loads((sound / "preprocessor_config.json").read_text())
    stored.pop("sampling")  # a key of ours
    (tmp_path / "stock/preprocessor_config.json").write_text(json.dumps(stored))
    facts, findings = look_at_model(tmp_path / "stock")
    notes = [finding.text for finding in findings]
    assert [finding.level for finding in findings] == ["note", "note"] and "parameters" in facts
    assert "the epsilons are transformers'" in notes[0] and "no sampling policy is saved" in notes[1]


@pytest.mark.parametrize("fields, text", [
    ({"num_attention_heads": 5}, "no model can be built from config.json: hidden_size=48 is not divisible"),
    ({"architectures": None}, "names the architectures"),
    ({"use_mean_pooling": False}, "its head reads the first patch alone"),
    ({"intermediate_size": 96}, "intermediate.dense.weight of shape (192, 48), and config.json says (96, 48)"),
    ({"num_hidden_layers": 4}, "the weights have 3 layers, and config.json says num_hidden_layers=4"),
    ({"num_hidden_layers": 2}, "this model has no place for"),
    ({"id2label": {"0": "run", "1": "run", "2": "sit"}}, "1 class names are duplicates: 'run'"),
    ({"label2id": {"run": 2, "sit": 1, "walk": 0}}, "label2id contradicts id2label for 2 classes: 'run', 'walk'"),
    ({"id2label": {"0": "run", "1": "sit", "5": "go"}, "label2id": {}}, "the classes are not numbered 0 to 2"),
    ({"architectures": ["VideoMAEForPreTraining"]}, "the weights lack"),
    ({"model_type": "vit"}, "is of model_type 'vit'"),
])  # fmt: skip
def test_a_wrong_field_of_the_configuration_is_found(folder, fields, text):
    edit(folder / "config.json", **fields)
    assert any(text in problem for problem in found(folder)), found(folder)


@pytest.mark.parametrize("heads, text", [
    (12, "12 attention heads, where the released small has 6"),
    (16, "the released VideoMAE small has 6 heads"),
])  # fmt: skip
def test_a_number_of_heads_that_no_release_has_is_found_without_a_trace_in_the_weights(heads, text):
    findings = Findings("here")
    assert check_config(VideoMAEConfig.preset("small", num_attention_heads=heads), "pretrain", findings)
    assert len(findings) == 1 and findings[0].level == "problem" and text in findings[0].text


@pytest.mark.parametrize("fields, level, text", [
    ({"image_mean": [0.5, 0.5, 0.5]}, "note", "released weights were trained with ImageNet's"),
    ({"crop_size": {"height": 48, "width": 48}}, "problem", "crops 48x48 and the model takes 32x32"),
    ({"sampling": {"num_frames": 8}}, "problem", "samples 8 frames and the model takes 16"),
    ({"sampling": {"strategy": "clever"}}, "problem", "the processor cannot be read"),
])  # fmt: skip
def test_a_wrong_field_of_the_processor_is_found(folder, fields, level, text):
    edit(folder / "video_preprocessor_config.json", **fields)
    assert any(text in problem for problem in found(folder, level)), look_at_model(folder)[1]


def test_a_mean_that_contradicts_the_reconstruction_target_is_a_problem(tmp_path):
    save(tmp_path, VideoMAEForPreTraining, use_mean_pooling=False)
    edit(tmp_path / "video_preprocessor_config.json", image_mean=[0.5, 0.5, 0.5])
    assert any("the reconstruction target assumes [0.485" in text for text in found(tmp_path))


def test_a_missing_processor_and_unnamed_classes_are_said(folder):
    for path in folder.glob("*preprocessor_config.json"):
        path.unlink()
    edit(folder / "config.json", id2label={str(i): f"LABEL_{i}" for i in range(3)}, label2id={})
    assert any("there is no processor" in text for text in found(folder))
    assert found(folder, "note") == ["the 3 classes have no names"]


@pytest.mark.parametrize("content", ["[1]", '{"image_mean": "x", "size": []}', '{"sampling": 3}', "{"])
def test_a_processor_that_cannot_be_read_is_a_problem(folder, content):
    for path in folder.glob("*processor*.json"):
        path.write_text(content)
    assert any("the processor cannot be read" in text for text in found(folder))


def test_damaged_weights_are_found(folder):
    tensors = load_file(folder / "model.safetensors")
    broken = {**tensors, "classifier.bias": torch.full_like(tensors["classifier.bias"], torch.nan)}
    save_file(broken, folder / "model.safetensors", {"format": "pt"})
    assert found(folder) == ["1 tensors hold NaN or infinity: 'classifier.bias'"]
    less = {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier")}
    save_file({**less, "strange.weight": torch.ones(2)}, folder / "model.safetensors", {"format": "pt"})
    problems = look_at_model(folder)[1]
    assert [finding.text for finding in problems] == [
        "the weights lack 2 tensors ('classifier.bias', 'classifier.weight'); they would be random",
        "the weights hold 1 tensors ('strange.weight') that this model has no place for",
    ]
    assert "the head was never trained" in problems[0].fix
    save_file({**tensors, "classifier.weight": tensors["classifier.weight"] * 0}, folder / "model.safetensors")
    assert "1 matrices are zero throughout: 'classifier.weight'" in found(folder, "note")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert any("model.safetensors is not a whole safetensors file" in text for text in found(folder))
    (folder / "model.safetensors").unlink()
    assert any("has no weights" in text for text in found(folder))
    (folder / "config.json").write_text("{")
    assert any("config.json is not JSON" in text for text in found(folder))


def test_a_checkpoint_that_differs_from_its_own_record_is_found(folder):
    write_manifest(folder)
    assert found(folder) == []
    edit(folder / "config.json", hidden_act="relu")
    assert any("this checkpoint is damaged: config.json has" in text for text in found(folder))
    assert (folder / MANIFEST).is_file()


def test_a_conversion_says_where_it_came_from(folder, capsys):
    record = {"source_file": "a.pth", "source_sha256": "ab", "largest_relative_difference": 1.5e-7, "name": None}
    (folder / "conversion.json").write_text(json.dumps(record))
    assert main([str(folder), "--no_forward"]) == 0
    assert "converted from a.pth, outputs agreed within 1.5e-07" in capsys.readouterr().out


def test_a_pickle_is_noted(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "model")
    torch.save(load_file(sound / "model.safetensors"), tmp_path / "model/pytorch_model.bin")
    (tmp_path / "model/model.safetensors").unlink()
    assert found(tmp_path / "model") == []
    assert any("the weights are a pickle" in text for text in found(tmp_path / "model", "note"))


# ---------------------------------------------------------------------------------------------------- environment


def test_this_environment_is_sound_and_described():
    facts, findings = look_at_environment()
    assert [finding for finding in findings if finding.level == "problem"] == []
    assert facts["packages"]["torch"] == torch.__version__ and facts["codecs"]["H.264"] and facts["cores"] >= 1


def test_what_is_missing_from_an_environment_is_found(monkeypatch):
    import av

    real = importlib.metadata.version

    def version(name):
        if name == "datasets":
            raise importlib.metadata.PackageNotFoundError(name)
        return {"torch": "1.13.0"}.get(name, real(name))

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"h264", "libdav1d", "libaom-av1", "av1"})
    monkeypatch.setattr(environment, "read_frames", lambda *arguments: (_ for _ in ()).throw(OSError("no decoder")))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(environment.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 999)
    findings = look_at_environment()[1]
    problems = [finding.text for finding in findings if finding.level == "problem"]
    assert any("torch is 1.13.0, too old or too new; torch>=2.10 is needed" in text for text in problems)
    assert any("datasets is missing" in text for text in problems)
    assert any("no decoder for H.264, AV1" in text for text in problems)
    assert any("writing and reading a small video fails: no decoder" in text for text in problems)
    assert any("there is an NVIDIA GPU, and torch" in text for text in problems)
    assert any("torch uses 999 threads" in finding.text for finding in findings)
    assert all(finding.fix for finding in findings if finding.level == "problem")


# ----------------------------------------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name in ("run", "walk", "sit"):
        (folder / name).mkdir()
        write_video(folder / name / "a.mp4", 64, width=48, height=32)
    return folder


def test_a_model_and_data_that_fit_end_with_0(sound, data, capsys):
    assert main([str(sound), str(data), "--videos_to_open", "all"]) == 0
    printed = capsys.readouterr().out
    assert "nothing is wrong" in printed and f"model {sound}" in printed and "3 classes" in printed
    assert "class names and their order are those of the checkpoint" in printed


def test_problems_end_with_1_and_stand_in_the_report(folder, data, tmp_path, capsys):
    edit(folder / "config.json", id2label={"0": "run", "1": "fly", "2": "walk"}, label2id={})
    assert main([str(folder), str(data), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    (problem,) = [finding for finding in report["findings"] if finding["level"] == "problem"]
    assert report["problems"] == 1 and "sit" in problem["text"] and problem["area"] == str(data)
    assert report["models"][0]["num_labels"] == 3 and report["data"][0]["videos"] == 3
    assert main([str(folder), str(data), "--output", str(tmp_path / "report.json")]) == 1
    assert "1 problem" in capsys.readouterr().out
    assert json.loads((tmp_path / "report.json").read_text())["problems"] == 1


def test_a_switch_before_the_target_leaves_it_alone(data, tmp_path, capsys):
    content = "".join(f"{data}/{name}/a.mp4 {index}\n" for index, name in enumerate(("run", "walk", "sit")))
    (tmp_path / "list.txt").write_text(content)
    assert main(["--json", str(tmp_path / "list.txt")]) == 0
    assert (tmp_path / "list.txt").read_text() == content
    assert json.loads(capsys.readouterr().out)["data"][0]["videos"] == 3


def test_a_run_is_looked_at_by_the_model_that_it_has_come_to(sound, tmp_path):
    for step in (9, 10):
        shutil.copytree(sound, tmp_path / f"checkpoint-{step}")
    (model,) = examine([str(tmp_path)])["models"]
    assert model["folder"].endswith("checkpoint-10") and "looking at its model checkpoint-10" in model["remark"]


def test_a_folder_of_videos_that_is_no_training_set_is_looked_at_all_the_same(data, tmp_path):
    shutil.copytree(data, tmp_path / "videos")
    shutil.copy(data / "run/a.mp4", tmp_path / "videos/stray.mp4")
    report = examine([str(tmp_path / "videos")], forward=False)
    assert report["data"][0]["videos"] == 4 and report["problems"] == 0
    assert examine([str(tmp_path / "videos/stray.mp4")])["data"][0]["videos"] == 1


@pytest.mark.parametrize("name, text, code", [
    ("nothing.csv", "there is no such file or folder, and names on the Hub are OWNER/NAME", 2),
    ("/nowhere/at/all", "there is no such file or folder", 2),
    ("weights.pth", "is a weight file; `videomae convert", 1),
    ("nobody/nothing", "the Hub did not give it", 1),
])  # fmt: skip
def test_what_cannot_be_opened_is_one_line(name, text, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pth").write_bytes(b"x")
    assert main([name]) == code
    said = capsys.readouterr().err
    assert text in said and len(said.splitlines()) == 1


def test_an_empty_folder_ends_with_1(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "holds no videos" in capsys.readouterr().err
