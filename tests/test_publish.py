"""Publishing: what goes up, in one commit, what stops before anything goes up, and what a clean process then loads."""

import json
import os
import subprocess
import sys
import types

import huggingface_hub.constants
import huggingface_hub.hf_api
import pytest
import torch
import yaml
from hub_server import TOKEN, HubServer
from huggingface_hub import ModelCard, parse_eval_result_entries
from published_folders import LABELS, published_tiny, save_tiny, tiny_config

import videomae
from videomae.commands.main import main as videomae_command
from videomae.conversion.proof import proof_outputs
from videomae.model_cards.cards import HEADS
from videomae.model_cards.run_cards import write_run_card
from videomae.publishing import clean_room
from videomae.publishing import upload as command
from videomae.publishing.clean_room import RECORD
from videomae.publishing.publication import prepare
from videomae.publishing.upload import publish

CODE = {
    "configuration_videomae.py",
    "image_processing_videomae.py",
    "inputs_videomae.py",
    "modeling_videomae.py",
    "sampling_videomae.py",
    "video_container.py",
    "video_decoder.py",
    "video_download.py",
    "video_io.py",
    "video_packets.py",
    "video_pictures.py",
    "video_processing_videomae.py",
    "video_source.py",
    "video_windows.py",
}
PLAIN = {
    "README.md",
    "config.json",
    "example_output.json",
    "model.safetensors",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in, with huggingface_hub pointed at it, logged in, and free of pauses between its attempts."""
    with HubServer(orgs=("lab",)) as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.endpoint)
        address = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no_token_file"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("huggingface_hub.utils._http.time", types.SimpleNamespace(sleep=lambda seconds: None))
        yield server


@pytest.fixture
def folder(tmp_path):
    return save_tiny(tmp_path / "model", "classify")


def publish_unchecked(folder, name="tester/model", **options):
    """Without the fresh processes, which take seconds; they have tests of their own."""
    return publish(folder, name, check=False, **{"license": "mit", **options})


# -- what goes up --


def test_a_folder_goes_up_whole_in_one_commit(hub, folder):
    url = publish_unchecked(folder)
    repo = hub.repos["tester/model"]
    assert len(repo.commits) == 1
    assert url.endswith(repo.head)
    assert set(repo.files) == PLAIN | CODE
    assert repo.files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    config = json.loads(repo.files["config.json"])
    assert config["auto_map"]["AutoConfig"] == "configuration_videomae.VideoMAEConfig"
    assert config["auto_map"]["AutoModelForVideoClassification"] == "modeling_videomae.VideoMAEForVideoClassification"
    assert config["id2label"] == {str(index): label for index, label in LABELS.items()}
    old = json.loads(repo.files["preprocessor_config.json"])
    new = json.loads(repo.files["video_preprocessor_config.json"])
    assert old["auto_map"] == {"AutoImageProcessor": "image_processing_videomae.VideoMAEImageProcessor"}
    assert new["auto_map"] == {"AutoVideoProcessor": "video_processing_videomae.VideoMAEVideoProcessor"}
    card = ModelCard(repo.files["README.md"].decode())
    assert card.data.license == "mit"
    assert 'name = "tester/model"' in card.text


def test_xet_storage_receives_the_same_in_one_commit(hub, folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    publish_unchecked(folder)
    repo = hub.repos["tester/model"]
    assert len(repo.commits) == 1
    assert set(repo.files) == PLAIN | CODE
    assert hub.asked(r"PUT .*") == 0
    assert hub.xorbs


def test_the_records_of_a_run_go_up_with_its_weights(hub, folder):
    results = [{"dataset": "Motion", "protocol": "16x2x3", "metrics": {"top1": 0.75}, "dataset_id": "me/motion"}]
    log = folder.parent / "log.jsonl"
    log.write_text("".join(json.dumps({"step": step, "loss": 1 / (step + 1)}) + "\n" for step in range(9)))
    data = {"name": "Motion", "manifest_sha256": "ab" * 32}
    write_run_card(
        folder,
        task="classify",
        recipe={"base_lr": 1e-3},
        clips_per_step=8,
        steps=9,
        data=data,
        log=log,
        results=results,
    )
    (folder / "training_state").mkdir()
    (folder / "training_state" / "optimizer.safetensors").write_bytes(b"large and private")
    publish_unchecked(folder, "lab/motion", license="apache-2.0")
    files = hub.repos["lab/motion"].files
    assert set(files) == PLAIN | CODE | {"training_record.json", "curves.png", ".eval_results/motion_16x2x3.yaml"}
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "apache-2.0"
    assert card.data.eval_results[0].metric_value == 75.0
    assert 'name = "lab/motion"' in card.text
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[".eval_results/motion_16x2x3.yaml"]))
    assert (entry.dataset_id, entry.value) == ("me/motion", 75.0)


def test_a_card_that_was_changed_by_hand_goes_up_as_it_is(hub, folder, capsys):
    write_run_card(
        folder, task="classify", recipe={}, clips_per_step=8, steps=9, data={"name": "Motion"}, license="mit"
    )
    readme = folder / "README.md"
    readme.write_text(readme.read_text().replace("## Citation", "Ask me anything.\n\n## Citation"))
    publish_unchecked(folder, license=None)
    assert hub.repos["tester/model"].files["README.md"] == readme.read_bytes()
    assert "README.md was changed by hand" in capsys.readouterr().out


def test_a_converted_release_gets_the_card_of_its_entry(hub, folder):
    record = {
        "name": "videomae-base-finetuned-kinetics",
        "source_file": "checkpoint.pth",
        "source_sha256": "cd" * 32,
        "compared": ["logits"],
        "largest_difference": 1e-5,
        "largest_relative_difference": 2e-6,
    }
    (folder / "conversion.json").write_text(json.dumps(record))
    publish_unchecked(folder, license=None)
    files = hub.repos["tester/model"].files
    assert set(files) == PLAIN | CODE | {"conversion.json", ".eval_results/kinetics400_16x5x3.yaml"}
    card = files["README.md"].decode()
    assert "license: cc-by-nc-4.0" in card
    assert 'name = "tester/model"' in card
    assert "cd" * 32 in card
    with pytest.raises(ValueError, match=r"--license mit contradicts the card, which says cc-by-nc-4\.0"):
        publish_unchecked(folder, "tester/other", license="mit")


def test_results_of_an_evaluation_go_into_the_card_if_they_are_of_these_weights(hub, folder, tmp_path):
    from videomae.models import weights_sha256

    model = videomae.VideoMAEForVideoClassification.from_pretrained(folder)
    results = {
        "dataset": "motion",
        "protocol": "16x2x3",
        "metrics": {"top1": 0.625},
        "weights_sha256": weights_sha256(model),
    }
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    publish_unchecked(folder, results=[path])
    files = hub.repos["tester/model"].files
    assert "| motion | validation | 16x2x3 | top-1 accuracy | 62.5 |" in files["README.md"].decode()
    assert ".eval_results/motion_16x2x3.yaml" in files
    path.write_text(json.dumps({**results, "weights_sha256": "0" * 64}))
    with pytest.raises(ValueError, match=r"results.json was measured on other weights"):
        publish_unchecked(folder, dry_run=True, results=[path])
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"is not a results.json of `videomae evaluate`"):
        publish_unchecked(folder, dry_run=True, results=[path])
    with pytest.raises(ValueError, match="no such file"):
        publish_unchecked(folder, dry_run=True, results=[tmp_path / "nothing.json"])


def test_processor_files_are_made_where_the_folder_has_none(hub, tmp_path, capsys):
    folder = save_tiny(tmp_path / "bare", "classify", processor=False)
    publish_unchecked(folder)
    settings = json.loads(hub.repos["tester/model"].files["preprocessor_config.json"])
    assert settings["crop_size"] == {"height": 32, "width": 32}
    assert "the folder has no processor, so one was made" in capsys.readouterr().out


def test_only_the_old_processor_file_is_enough(hub, folder):
    (folder / "video_preprocessor_config.json").unlink()
    publish_unchecked(folder)
    assert "sampling" in json.loads(hub.repos["tester/model"].files["video_preprocessor_config.json"])


def test_a_dry_run_shows_files_and_card_and_asks_the_hub_nothing(hub, folder, capsys):
    assert (
        videomae_command(["publish", str(folder), "tester/model", "--license", "mit", "--dry_run", "--no_check"]) == 0
    )
    shown = capsys.readouterr().out
    assert f"{len(CODE | PLAIN)} files" in shown
    assert "model.safetensors" in shown
    assert "license: mit" in shown
    assert "## Limits and biases" in shown
    assert "nothing was uploaded" in shown
    assert hub.requests == []


# -- interruptions --


def test_an_interrupted_upload_shows_nothing_and_resumes_where_it_was(hub, tmp_path):
    folder = save_tiny(tmp_path / "model", "classify", max_shard_size="250KB")
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(shards) == 2
    sizes = [(folder / shard).stat().st_size for shard in shards]
    hub.cut_after_bytes = min(sizes)  # the larger shard breaks off, the smaller one arrives
    with pytest.raises(OSError, match=r"the connection to the Hub broke .* Run the same command again"):
        publish_unchecked(folder)
    assert hub.repos["tester/model"].commits == []
    assert [len(blob) for blob in hub.blobs.values()] == [min(sizes)]
    hub.cut_after_bytes = None
    hub.requests.clear()
    publish_unchecked(folder)
    assert hub.asked(r"PUT /lfs/.*") == 1  # only what was missing
    assert len(hub.repos["tester/model"].commits) == 1
    assert {*shards, "model.safetensors.index.json"} < set(hub.repos["tester/model"].files)


def test_a_refused_commit_leaves_the_repository_empty(hub, folder):
    hub.fail_commit_with = 500
    with pytest.raises(OSError, match="the Hub refused"):
        publish_unchecked(folder)
    assert hub.repos["tester/model"].files == {}


def test_publishing_the_same_twice_changes_nothing(hub, folder):
    publish_unchecked(folder)
    hub.requests.clear()
    publish_unchecked(folder, update=True)
    assert len(hub.repos["tester/model"].commits) == 1
    assert hub.asked(r"PUT /lfs/.*") == 0


# -- what the Hub may say --


def test_a_name_that_is_taken_is_kept_unless_told(hub, folder):
    hub.add_repo(
        "tester/model", {"README.md": b"mine", "model-00001-of-00002.safetensors": b"old", "notes.txt": b"keep"}
    )
    with pytest.raises(
        ValueError, match="tester/model exists already and holds 3 files; choose another name, or --update"
    ):
        publish_unchecked(folder)
    publish_unchecked(folder, update=True)
    files = hub.repos["tester/model"].files
    assert set(files) == PLAIN | CODE | {"notes.txt"}  # the stale shard is gone, in the same commit
    assert len(hub.repos["tester/model"].commits) == 2


def test_what_the_hub_would_refuse_is_known_before_the_model_is_loaded(hub, folder, tmp_path, monkeypatch):
    hub.add_repo("tester/model", {"README.md": b"mine"})
    (folder / "model.safetensors").unlink()  # which would be the next complaint
    with pytest.raises(ValueError, match="exists already"):
        publish_unchecked(folder)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="the Hub does not know you"):
        publish_unchecked(folder)
    with pytest.raises(ValueError, match="nothing is not a folder"):  # for which nobody needs a token
        publish_unchecked(tmp_path / "nothing")


def test_somebody_elses_name_is_refused_by_the_hub_and_explained(hub, folder):
    with pytest.raises(OSError, match="your token may not write to somebody/model: check the owner's name"):
        publish_unchecked(folder, "somebody/model")


def test_without_a_token_it_says_how_to_get_one(hub, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="the Hub does not know you: run `hf auth login`, or set HF_TOKEN"):
        publish_unchecked(folder)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ValueError, match="the Hub does not know you"):
        publish_unchecked(folder)
    assert hub.repos == {}


def test_without_a_network_it_says_so(hub, folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="the connection to the Hub broke"):
        publish_unchecked(folder)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="switched off by HF_HUB_OFFLINE; unset it to publish"):
        publish_unchecked(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model", "names no owner; write OWNER/model"),
        ("a/b/c", "cannot be a repository"),
        ("me/a b", "cannot be a repository"),
    ],
)
def test_a_name_that_no_repository_can_have_is_refused(folder, name, message):
    with pytest.raises(ValueError, match=message):
        publish_unchecked(folder, name, dry_run=True)


# -- folders that are not ready --


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut(path):
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda folder: (folder / "config.json").unlink(),
            "has no config.json; the run may have stopped before it saved",
        ),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "vid'),
            "is not JSON .* not written to its end",
        ),
        (lambda folder: edit_json(folder / "config.json", model_type="vit"), "is of model_type 'vit', not 'videomae'"),
        (lambda folder: edit_json(folder / "config.json", architectures=["Mine"]), "names the architectures"),
        (
            lambda folder: (folder / "model.safetensors").unlink(),
            "has no model.safetensors; the folder is not complete",
        ),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "only pytorch_model.bin; pickles can run code",
        ),
        (lambda folder: cut(folder / "model.safetensors"), "cannot be read .* not written to its end"),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "model-1.safetensors"}}'
            ),
            "has no model-1.safetensors",
        ),
        (
            lambda folder: (folder / "README.md").write_text("---\nlicense: mit\n---\n## Training data\n\n(to do)"),
            "has an unwritten place",
        ),
        (lambda folder: (folder / "README.md").write_text("# No metadata"), "has no metadata"),
    ],
)
def test_a_folder_that_is_not_complete_is_refused_with_the_reason(folder, break_it, message):
    break_it(folder)
    with pytest.raises(ValueError, match=message):
        publish_unchecked(folder, dry_run=True)


def test_a_path_that_is_no_folder_and_a_run_folder_are_told_what_to_give(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        publish_unchecked(tmp_path / "nothing", dry_run=True)
    for step in (8, 20):
        save_tiny(tmp_path / "run" / f"checkpoint-{step}", "classify")
    (tmp_path / "run" / "checkpoint-30").mkdir()  # stopped before it was written
    with pytest.raises(ValueError, match=r"has no config.json; did you mean .*checkpoint-20\?"):
        publish_unchecked(tmp_path / "run", dry_run=True)


def test_missing_licence_and_labels_stop_it_unless_told(hub, tmp_path):
    folder = tmp_path / "model"
    config = tiny_config("classify", id2label={0: "LABEL_0", 1: "LABEL_1"}, label2id={"LABEL_0": 0, "LABEL_1": 1})
    videomae.VideoMAEForVideoClassification(config).save_pretrained(folder)
    with pytest.raises(ValueError, match="the classes of the model have no names"):
        publish_unchecked(folder)
    with pytest.raises(ValueError, match="names no licence; say under which terms"):
        publish_unchecked(folder, license=None, allow_missing=["labels"])
    publish_unchecked(folder, license=None, allow_missing=["labels", "license"])
    assert "license" not in ModelCard(hub.repos["tester/model"].files["README.md"].decode()).data.to_dict()


def test_class_names_can_be_given_from_a_file(hub, tmp_path):
    folder = tmp_path / "model"
    videomae.VideoMAEForVideoClassification(
        tiny_config("classify", id2label={0: "LABEL_0", 1: "LABEL_1"})
    ).save_pretrained(folder)
    labels = tmp_path / "labels.txt"
    labels.write_text("opening\nclosing\n")
    publish_unchecked(folder, labels=labels)
    config = json.loads(hub.repos["tester/model"].files["config.json"])
    assert config["id2label"] == {"0": "opening", "1": "closing"}
    labels.write_text("opening\nclosing\nneither\n")
    with pytest.raises(ValueError, match=r"3 .*2"):
        publish_unchecked(folder, dry_run=True, labels=labels)
    with pytest.raises(ValueError, match=r"a model of this kind \(pretrain\) has no classes"):
        publish_unchecked(save_tiny(tmp_path / "other", "pretrain"), dry_run=True, labels=labels)


def test_weights_that_answer_with_nan_are_not_published(folder):
    model = videomae.VideoMAEForVideoClassification.from_pretrained(folder)
    model.classifier.bias.data[0] = float("nan")
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match="the model's logits of a plain clip is not finite"):
        publish_unchecked(folder, dry_run=True)


def test_weights_that_were_changed_after_their_output_was_recorded_are_noticed(folder, tmp_path):
    publication = published_tiny(tmp_path / "again", "classify", "me/model")
    (folder / RECORD).write_bytes(publication.files[RECORD])
    publish_unchecked(folder, dry_run=True)
    model = videomae.VideoMAEForVideoClassification.from_pretrained(folder)
    model.classifier.bias.data[0] += 1
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match="was recorded with other weights: logits differs by"):
        publish_unchecked(folder, dry_run=True)


def test_the_recorded_output_is_that_of_the_inputs_which_also_prove_a_conversion(folder, tmp_path):
    record = json.loads(published_tiny(tmp_path / "again", "classify", "me/model").files[RECORD])
    model = videomae.VideoMAEForVideoClassification.from_pretrained(folder)
    assert record["outputs"]["logits"] == proof_outputs(model, "classify")["logits"][0].tolist()


def test_an_output_that_was_recorded_on_other_inputs_is_recorded_anew(folder, tmp_path):
    publication = published_tiny(tmp_path / "again", "classify", "me/model")
    now = json.loads(publication.files[RECORD])
    (folder / RECORD).write_text(json.dumps(now | {"about": "other inputs", "outputs": {"logits": [9.0] * 4}}))
    assert command.recorded_output(publication) == now


def test_the_record_holds_a_long_output_by_samples_and_differences_are_relative_to_its_size():
    assert clean_room.recorded(torch.arange(6).view(2, 3)) == [0, 1, 2, 3, 4, 5]
    assert clean_room.recorded(torch.arange(6301)) == [100 * i for i in range(64)]
    assert clean_room.differences({"loss": [2.5], "logits": [1.0]}, {"loss": [2.0]}) == {"loss": 0.25}
    with pytest.raises(ValueError, match="logits: 2 numbers, but 3 are recorded"):
        clean_room.differences({"logits": [0.0] * 2}, {"logits": [0.0] * 3})


def test_a_hand_written_card_of_a_detector_must_say_how_it_is_loaded(tmp_path):
    folder = save_tiny(tmp_path / "model", "detect")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    with pytest.raises(ValueError, match="does not say that this model needs trust_remote_code=True"):
        prepare(folder, "me/model")


def test_every_published_module_imports_only_what_comes_with_transformers(folder):
    """transformers looks for imports outside try/except and asks users to install them."""
    from transformers.dynamic_module_utils import get_imports

    allowed = {"torch", "transformers", "numpy", "PIL", "huggingface_hub"}
    for head in HEADS:
        for path, content in prepare(save_tiny(folder.parent / head, head), "me/model", license="mit").files.items():
            if path.endswith(".py"):
                others = set(get_imports(content)) - allowed - sys.stdlib_module_names
                assert not others, f"{path} imports {others}"


# -- clean processes --


@pytest.fixture(scope="module")
def clean_reports(tmp_path_factory):
    """What clean_room.py prints of a published folder of every kind, in one process that cannot import this package."""
    place = tmp_path_factory.mktemp("published")
    jobs = []
    for head in HEADS:
        folder = place / f"tiny-{head}"
        folder.mkdir()
        published_tiny(place / "source" / head, head, f"me/tiny-{head}").lay_out(folder)
        inputs = place / f"{head}.pt"
        torch.save(command.example_inputs(tiny_config(head), head), inputs)
        jobs += [[str(folder), str(inputs), "--trust_remote_code"], [str(folder), str(inputs)]]
    code = f"""
import runpy, sys
sys.modules["videomae"] = None
script = runpy.run_path({clean_room.__file__!r})
for job in {jobs!r}:
    script["main"](job)
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(place / "modules")}
    result = subprocess.run([sys.executable, "-c", code], cwd=place, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    reports = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    heads = [(head, with_code) for head in HEADS for with_code in (True, False)]
    return dict(zip(heads, reports, strict=True))


@pytest.mark.parametrize("head", HEADS)
def test_the_repositorys_code_gives_the_recorded_numbers_without_this_package(clean_reports, head):
    report = clean_reports[head, True]
    assert report["class"] == HEADS[head].model_class
    assert report["module"].startswith("transformers_modules.")
    assert report["missing_keys"] == report["unexpected_keys"] == []
    expected = {
        "pretrain": {"loss", "logits", "dual_mask_loss"},
        "classify": {"logits"},
        "probe": {"logits"},
        "features": {"pooler_output", "last_hidden_state"},
        "detect": {"logits"},
    }[head]
    assert set(report["differences"]) == expected | {"pixel_values"}
    assert max(report["differences"].values()) < 1e-6


@pytest.mark.parametrize("head", [head for head in HEADS if head not in ("detect", "probe")])
def test_transformers_own_class_gives_the_recorded_numbers_from_the_same_folder(clean_reports, head):
    report = clean_reports[head, False]
    assert report["module"] == "transformers.models.videomae.modeling_videomae"
    assert report["missing_keys"] == []
    assert {"logits", "last_hidden_state"} & set(report["differences"])
    # The classifier's and the decoder's last norm have epsilon 1e-5 there and 1e-6 here.
    assert max(report["differences"].values()) < 1e-4


def test_without_its_code_a_probe_is_the_bare_encoder_and_no_number_is_compared(clean_reports):
    report = clean_reports["probe", False]
    assert report["class"] == "VideoMAEModel" and set(report["differences"]) == {"pixel_values"}
    assert {"head.linear.bias", "head.linear.weight"} <= set(report["unexpected_keys"])


def test_without_its_code_a_detector_is_silently_the_bare_encoder_as_its_card_says(clean_reports):
    report = clean_reports["detect", False]
    assert report["class"] == "VideoMAEModel"
    assert {"classifier.bias", "classifier.weight"} <= set(report["unexpected_keys"])


@pytest.mark.slow
def test_the_check_never_calls_a_probe_compatible_with_transformers_own_class(tmp_path, capsys):
    publish(save_tiny(tmp_path / "probe", "probe"), "tester/model", license="mit", dry_run=True)
    checked = [line for line in capsys.readouterr().out.splitlines() if line.startswith("checked: ")]
    assert "VideoMAEForAttentiveProbe (code of the repository)" in checked[0]
    assert "VideoMAEModel (transformers)" in checked[1] and "without this model's head" in checked[1]
    assert "logits" in checked[0] and "logits" not in checked[1]


@pytest.mark.slow
def test_the_check_runs_in_fresh_processes_and_reports(folder, capsys):
    publish(folder, "tester/model", license="mit", dry_run=True)
    shown = capsys.readouterr().out
    assert (
        "checked: VideoMAEForVideoClassification (code of the repository) and VideoMAEImageProcessor, logits" in shown
    )
    assert "checked: VideoMAEForVideoClassification (transformers)" in shown


@pytest.mark.slow
def test_half_precision_weights_are_checked_in_single_precision(folder):
    videomae.VideoMAEForVideoClassification.from_pretrained(folder).half().save_pretrained(folder)
    publish(folder, "tester/model", license="mit", dry_run=True)


@pytest.mark.slow
def test_a_folder_that_a_clean_process_cannot_load_is_refused(folder, monkeypatch):
    publication = published_tiny(folder.parent / "again", "classify", "me/model")
    publication.files["modeling_videomae.py"] = b"import a_package_that_nobody_has\n"
    with pytest.raises(ValueError, match=r"cannot be loaded with trust_remote_code=True .*a_package_that_nobody_has"):
        command.run_clean(publication, with_code=True)


def test_answers_that_differ_are_refused(folder, monkeypatch):
    publication = published_tiny(folder.parent / "again", "classify", "me/model")
    report = {
        "class": "VideoMAEForVideoClassification",
        "processor": "VideoMAEImageProcessor",
        "missing_keys": [],
        "unexpected_keys": [],
        "mismatched_keys": [],
        "differences": {"logits": 0.02, "pixel_values": 0.0},
    }
    monkeypatch.setattr(command, "run_clean", lambda publication, with_code: report)
    with pytest.raises(ValueError, match=r"gives other answers as .*: logits differs by 2.0e-02"):
        command.check_in_clean_process(publication)
    report["differences"] = {"logits": float("nan")}
    with pytest.raises(ValueError, match="gives other answers"):
        command.check_in_clean_process(publication)
    report["missing_keys"] = ["fc_norm.bias"]
    with pytest.raises(ValueError, match=r"missing_keys.*fc_norm.bias"):
        command.check_in_clean_process(publication)


# -- and back --


def test_what_was_published_loads_by_its_name_through_our_classes(hub, folder, tmp_path):
    publish_unchecked(folder)
    cache = {"cache_dir": tmp_path / "cache"}
    model = videomae.VideoMAEForVideoClassification.from_pretrained("tester/model", **cache)
    processor = videomae.VideoMAEVideoProcessor.from_pretrained("tester/model", **cache)
    found = clean_room.answers(model, command.example_inputs(model.config, "classify")["model"])
    record = json.loads(hub.repos["tester/model"].files[RECORD])
    assert clean_room.differences(found, record["outputs"])["logits"] == 0.0
    assert processor.size == {"shortest_edge": 32}


def test_a_repository_with_the_old_names_loads_by_its_name_through_our_classes(hub, tmp_path):
    """Older folders hold q_bias and v_bias, and a preprocessor_config.json of a feature extractor."""
    import transformers
    from safetensors.torch import load_file, save

    stock = transformers.VideoMAEForPreTraining(
        transformers.VideoMAEConfig(**tiny_config("pretrain", initializer_range=0.2).to_dict())
    )
    for name, parameter in stock.named_parameters():
        if name.endswith("bias"):
            parameter.data.uniform_(-0.5, 0.5)
    stock.save_pretrained(tmp_path / "stock")
    state = {
        key.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): value
        for key, value in load_file(tmp_path / "stock" / "model.safetensors").items()
    }
    assert any(key.endswith("q_bias") for key in state)
    extractor = {
        "feature_extractor_type": "VideoMAEFeatureExtractor",
        "size": 32,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    hub.add_repo(
        "MCG-NJU/videomae-tiny",
        {
            "config.json": (tmp_path / "stock" / "config.json").read_bytes(),
            "model.safetensors": save(state, metadata={"format": "pt"}),
            "preprocessor_config.json": json.dumps(extractor).encode(),
        },
    )
    cache = {"cache_dir": tmp_path / "cache"}
    ours, loading = videomae.VideoMAEForPreTraining.from_pretrained(
        "MCG-NJU/videomae-tiny", output_loading_info=True, **cache
    )
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    inputs = command.example_inputs(ours.config, "pretrain")["model"]
    del inputs["bool_decoded_pos"]  # transformers' class has one mask
    theirs = clean_room.answers(stock, inputs)
    assert max(clean_room.differences(clean_room.answers(ours, inputs), theirs).values()) < 1e-4
    processor = videomae.VideoMAEFeatureExtractor.from_pretrained("MCG-NJU/videomae-tiny", **cache)
    assert processor.size == {"shortest_edge": 32}
    assert processor.image_mean == [0.5] * 3
