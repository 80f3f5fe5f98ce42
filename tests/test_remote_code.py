"""Folders that carry their own code: what is in them, and that transformers' own way of saving code works as well."""

import json

import pytest
import transformers
from published_folders import save_tiny, tiny_config

import videomae
from videomae.model_cards.cards import HEADS
from videomae.remote_code import MODEL_MAPS, PROCESSOR_MAPS, ROOT, add_code, code_files


@pytest.mark.parametrize("head", HEADS)
def test_add_code_names_every_class_and_brings_its_module(tmp_path, head):
    folder = save_tiny(tmp_path / head, head)
    weights = (folder / "model.safetensors").read_bytes()
    add_code(folder)
    add_code(folder)  # a second time changes nothing
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_videomae.VideoMAEConfig",
        **MODEL_MAPS[HEADS[head].model_class],
    }
    references = [*config["auto_map"].values()]
    for name in PROCESSOR_MAPS:
        references += json.loads((folder / name).read_text())["auto_map"].values()
    for reference in references:
        module, class_name = reference.split(".")
        assert f"class {class_name}" in (folder / f"{module}.py").read_text()
    assert (folder / "model.safetensors").read_bytes() == weights
    assert (folder / "modeling_videomae_detection.py").exists() == (head == "detect")
    assert videomae.VideoMAEConfig.from_pretrained(folder).hidden_size == 48


def test_a_module_brings_what_it_imports_from_beside_it():
    files = code_files({"AutoModel": "modeling_videomae_detection.VideoMAEForActionDetection"})
    assert set(files) == {
        "configuration_videomae.py",
        "inputs_videomae.py",
        "modeling_videomae.py",
        "modeling_videomae_detection.py",
        "roi_align_videomae.py",
    }
    assert all(path.parent == ROOT for path in files.values())


def test_an_architecture_that_is_not_ours_is_an_error(tmp_path):
    folder = save_tiny(tmp_path / "model", "classify")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["Mine"]}))
    with pytest.raises(KeyError, match="Mine"):
        add_code(folder)


@pytest.mark.parametrize("head", ["pretrain", "classify", "detect"])
def test_register_for_auto_class_saves_the_code_as_transformers_does(tmp_path, head, monkeypatch):
    """What users of push_to_hub call; the switch is a class attribute, so it is put back here."""
    model_class = getattr(videomae, HEADS[head].model_class)
    monkeypatch.setattr(model_class, "_auto_class", None, raising=False)
    monkeypatch.setattr(videomae.VideoMAEConfig, "_auto_class", None, raising=False)
    model_class.register_for_auto_class(HEADS[head].auto_class)
    videomae.VideoMAEConfig.register_for_auto_class()
    model_class(tiny_config(head)).save_pretrained(tmp_path)
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert auto_map[HEADS[head].auto_class].endswith(model_class.__name__)
    assert auto_map["AutoConfig"] == "configuration_videomae.VideoMAEConfig"
    assert (tmp_path / "configuration_videomae.py").read_bytes() == (ROOT / "configuration_videomae.py").read_bytes()


@pytest.mark.parametrize("auto_class", ["AutoImageProcessor", "AutoVideoProcessor"])
def test_processors_can_be_registered_for_their_auto_classes(tmp_path, auto_class, monkeypatch):
    processor_class = {
        "AutoImageProcessor": videomae.VideoMAEImageProcessor,
        "AutoVideoProcessor": videomae.VideoMAEVideoProcessor,
    }[auto_class]
    monkeypatch.setattr(processor_class, "_auto_class", None, raising=False)
    processor_class.register_for_auto_class(auto_class)
    processor_class().save_pretrained(tmp_path)
    maps = [json.loads(path.read_text()).get("auto_map", {}) for path in tmp_path.glob("*preprocessor_config.json")]
    assert any(auto_class in found for found in maps)
    assert hasattr(transformers, auto_class)
