"""The card of one's own run: written from records, honest about what is not there, with the licence it must have."""

import dataclasses
import json
import math
import re
import sys

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from support import TINY

from videomae import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification
from videomae.files import new_folder
from videomae.model_cards import run_cards
from videomae.model_cards.cards import check_card, python_snippets
from videomae.model_cards.licences import choose_licence
from videomae.model_cards.run_cards import RECORD, render_plain_card, render_run_card, write_run_card
from videomae.models import weights_sha256
from videomae.training.recipes import FINETUNING, PRETRAINING

LABELS = {0: "left", 1: "right", 2: "up"}


@pytest.fixture
def folder(tmp_path):
    config = VideoMAEConfig(**TINY, id2label=LABELS, label2id={label: index for index, label in LABELS.items()})
    VideoMAEForVideoClassification(config).save_pretrained(tmp_path / "checkpoint-40")
    return tmp_path / "checkpoint-40"


@pytest.fixture
def log(tmp_path):
    lines = [{"step": step, "loss": 1.1 * math.exp(-step / 20), "lr": 1e-3} for step in range(40)]
    lines += [{"step": step, "val_top1": step / 40} for step in (10, 20, 30)]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 40, "lo')  # as a crash leaves it
    return path


def facts(**more):
    return {
        "task": "classify",
        "recipe": dataclasses.asdict(FINETUNING["tiny"]),
        "clips_per_step": 16,
        "steps": 40,
        "data": {"name": "synthetic motion", "manifest_sha256": "cd" * 32, "clips": 320},
        **more,
    }


def test_a_checkpoint_before_the_first_line_of_the_log_gets_its_card(folder, tmp_path):
    card = write_run_card(folder, **facts(log=tmp_path / "not-yet.jsonl")).read_text()
    assert "40 optimizer steps" in card and "curves.png" not in card


def measured_on(model, top1):
    metrics = {"top1": top1}
    return {"dataset": "mine", "protocol": "8x2x3", "metrics": metrics, "weights_sha256": weights_sha256(model)}


def test_a_card_holds_figures_of_its_own_weights_alone(folder, log):
    own = VideoMAEForVideoClassification.from_pretrained(folder)
    other = VideoMAEForVideoClassification(own.config)
    unsaid = {"dataset": "mine", "protocol": "8x1x1", "metrics": {"top1": 0.625}}
    results = [measured_on(own, 0.813), measured_on(other, 0.937), unsaid]
    card = write_run_card(folder, **facts(log=log, results=results)).read_text()
    assert "81.3" in card and "62.5" in card and "93.7" not in card
    record = json.loads((folder / RECORD).read_text())
    assert [result["metrics"]["top1"] for result in record["results"]] == [0.813, 0.625]

    assert "81.3" in render_run_card(folder, record, name="me/mine")
    other.save_pretrained(folder)  # trained further, under the old record
    with pytest.raises(
        ValueError, match=r"the figure .*0\.813.* other weights .* remove training_record\.json and README\.md"
    ):
        render_run_card(folder, record, name="me/mine")


def test_the_card_holds_what_was_run(folder, log):
    results = [
        {"dataset": "synthetic motion", "protocol": "8x2x3", "metrics": {"top1": 0.8125, "top5": 1.0}, "videos": 64}
    ]
    path = write_run_card(folder, **facts(log=log, results=results, command="videomae finetune --recipe tiny"))
    content = path.read_text()
    card = ModelCard(content)
    assert [score.metric_value for score in card.data.eval_results] == [81.25, 100.0]
    assert "| synthetic motion | validation | 8x2x3 | top-1 accuracy | 81.25 |" in content
    assert "64 videos" in content
    assert "40 optimizer steps of 16 clips" in content
    assert f"learning rate after scaling {3.2e-2 * 16 / 256:.3g}" in content
    assert "cd" * 32 in content
    assert "videomae finetune --recipe tiny" in content
    assert "torch" in content.split("Environment:")[1].splitlines()[0]
    assert "one label out of 3" in content
    assert "No licence has been chosen" in content
    with Image.open(folder / "curves.png") as picture:
        assert picture.width > 900  # three panels: loss, accuracy, learning rate
    assert "curves.png" in content
    assert json.loads((folder / RECORD).read_text())["steps"] == 40


def test_the_card_states_the_run_and_not_what_its_recipe_was_made_for(folder):
    recipe = dataclasses.asdict(FINETUNING["tiny"]) | {"epochs": 7, "flip": 0.25, "crop_area": (0.08, 1.0)}
    content = write_run_card(folder, **facts(recipe=recipe, data={"name": "doors", "clips": 9})).read_text()
    said, _, folded = content.partition("<details><summary>Settings as the recipe has them</summary>")
    assert "The settings are those of the recipe `tiny`, but for these:\n\n| setting | value |" in said
    assert re.findall(r"^\| ([a-z_]+) \| (\S+) \|$", said, re.MULTILINE)[-2:] == [("epochs", "7"), ("flip", "0.25")]
    assert "| base\\_lr | 0.032 |" in folded and "epochs | 7" not in folded
    assert "synthetic" not in content and "published" not in content and "| start |" not in content
    assert "config.hidden" not in content and "| model |" not in content  # the table of the architecture has it
    same = write_run_card(folder, **facts()).read_text()
    assert "The settings are those of the recipe `tiny`.\n" in same and "but for these" not in same
    own = write_run_card(folder, **facts(recipe={"name": "mine", "epochs": 3})).read_text()
    assert "of the recipe" not in own and "| epochs | 3 |" in own and "as the recipe has them" not in own


MATRIX = [[6, 1, 1], [0, 4, 0], [2, 1, 1]]  # 11 of 16 right; 8 of the first class


def test_classes_their_balance_results_by_class_and_chance_are_in_the_card(folder):
    result = {"dataset": "doors", "protocol": "8x1x1", "metrics": {"top1": 11 / 16}, "split": "test", "videos": 16}
    result |= {"chance": 0.5, "confusion_matrix": MATRIX}
    data = {"name": "me/doors", "dataset_id": "me/doors", "clips": 40, "clips_per_class": [20, 12, 8]}
    path = write_run_card(folder, **facts(data=data, results=[result]))
    content = path.read_text()
    assert (
        "The classes have 8 to 20 training videos each; always naming the commonest is right for 50.0% of them."
        in content
    )
    assert "| class | training videos |\n|---|---|\n| left | 20 |\n| right | 12 |\n| up | 8 |\n" in content
    assert "16 videos, chance 50 % (always the commonest class)." in content
    table = content.split("By class: doors, test, 8x1x1</summary>")[1].split("</details>")[0]
    assert (
        "| left | 8 | 75.0 | 75.0 | right |\n| right | 4 | 100.0 | 66.7 | – |\n| up | 4 | 25.0 | 50.0 | left |" in table
    )
    assert "![Confusion: true class by row, answer by column](confusion.png)" in content
    with Image.open(folder / "confusion.png") as picture:
        assert picture.width > 300
    assert ModelCard(content).data.datasets == ["me/doors"] and "clips per class" not in content
    # Rendered again without the evaluation, nothing is left of it.
    assert "confusion.png" not in write_run_card(folder, **facts()).read_text()
    assert not (folder / "confusion.png").exists()


def test_classes_without_counts_are_a_sentence_and_many_are_left_out(folder, tmp_path):
    assert "The classes: left, right, up." in write_run_card(folder, **facts()).read_text()
    names = {index: f"action {index}" for index in range(51)}
    config = VideoMAEConfig(**TINY, id2label=names, label2id={name: index for index, name in names.items()})
    VideoMAEForVideoClassification(config).save_pretrained(tmp_path / "many")
    content = write_run_card(tmp_path / "many", **facts()).read_text()
    assert "action 3" not in content and "one label out of 51" in content


def test_a_card_in_a_folder_that_is_being_written_has_the_final_name(tmp_path):
    with new_folder(tmp_path / "checkpoint-7") as beside:
        VideoMAEForVideoClassification(VideoMAEConfig(**TINY)).save_pretrained(beside)
        write_run_card(beside, **facts())
    content = (tmp_path / "checkpoint-7" / "README.md").read_text()
    assert "# checkpoint-7: VideoMAE, fine-tuned" in content
    assert ".tmp" not in content


def test_where_things_lay_on_the_trainers_disk_stays_there(folder):
    recipe = {"model": "/home/me/runs/base", "epochs": 3}
    path = write_run_card(
        folder, **facts(recipe=recipe, command="/opt/venv/bin/videomae finetune --data /home/me/train.csv")
    )
    assert "\nvideomae finetune --data train.csv\n" in path.read_text()
    assert "/home/me" not in path.read_text() + (folder / RECORD).read_text()


def test_without_matplotlib_the_curves_become_a_table(folder, log, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    content = write_run_card(folder, **facts(log=log)).read_text()
    assert not (folder / "curves.png").exists()
    assert "| step | loss | val_top1 | lr |" in content
    assert "| 0 | 1.1 |  | 0.001 |" in content


def test_a_run_without_evaluation_claims_nothing(folder):
    content = write_run_card(folder, **facts()).read_text()
    assert "The run was not evaluated, so nothing is claimed about its accuracy." in content
    assert "model-index" not in content
    content = write_run_card(folder, **facts(data={"name": "x"})).read_text()
    assert "The run recorded no hash of its list of videos" in content


def test_a_pretraining_card_shows_masks_and_no_score(tmp_path):
    VideoMAEForPreTraining(VideoMAEConfig(**TINY, use_mean_pooling=False)).save_pretrained(tmp_path / "run")
    recipe = dataclasses.asdict(PRETRAINING["tiny-v2"])
    content = write_run_card(tmp_path / "run", **facts(task="pretrain", recipe=recipe)).read_text()
    assert "Pre-training has no score of its own" in content
    assert "VideoMAE V2" in content
    assert any("tube_mask(model.config.grid, 0.75" in code for code in python_snippets(content))
    assert any("running_cell_mask" in code for code in python_snippets(content))


def test_what_the_run_was_given_as_text_cannot_change_the_card(folder):
    data = {"name": "x | y\n# Injected\n<img src=x>", "clips": 3}
    content = write_run_card(folder, **facts(data=data, command="a ``` b")).read_text()
    assert "\n# Injected" not in content
    assert not re.search(r"(?<!\\)<img", content)
    assert "a ''' b" in content


@pytest.mark.parametrize("value", [math.nan, "0.8", True, None])
def test_a_result_that_is_no_number_is_named(folder, value):
    results = [{"dataset": "synthetic", "protocol": "8x2x3", "metrics": {"top1": value}}]
    with pytest.raises(ValueError, match=r"metric 'top1' of 'synthetic' is .*, not a number"):
        write_run_card(folder, **facts(results=results))
    with pytest.raises(ValueError, match="an evaluation has no protocol and no metrics; it has dataset"):
        write_run_card(folder, **facts(results=[{"dataset": "synthetic"}]))


def test_errors_are_no_percentages(folder):
    results = [{"dataset": "ages", "protocol": "8x1x1", "metrics": {"mae": 3.25}}]
    assert (
        "| ages | validation | 8x1x1 | mean absolute error | 3.25 |"
        in write_run_card(folder, **facts(results=results)).read_text()
    )


def test_an_unknown_task_and_a_folder_without_a_model_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="task must be one of pretrain, classify, detect, probe, got 'train'"):
        write_run_card(folder, **facts(task="train"))
    with pytest.raises(ValueError, match=r"nothing has no config.json; save the model there"):
        write_run_card(tmp_path / "nothing", **facts())


# -- where the weights come from --


@pytest.mark.parametrize(
    ("given", "inherited", "expected"),
    [
        (None, None, None),
        ("mit", None, "mit"),
        (None, "apache-2.0", "apache-2.0"),
        ("mit", "apache-2.0", "mit"),
        ("mit", "cc-by-nc-4.0", "cc-by-nc-4.0"),  # non-commercial terms are inherited
        ("cc-by-nc-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
        ("cc-by-nc-4.0", "mit", "cc-by-nc-4.0"),
    ],
)
def test_a_licence_is_inherited_and_non_commercial_terms_cannot_be_shed(given, inherited, expected):
    assert choose_licence(given, inherited, "somebody/model")[0] == expected


@pytest.mark.parametrize("base", ["MCG-NJU/videomae-base", "videomae-base"])
def test_weights_that_start_from_a_released_checkpoint_inherit_its_licence(folder, base):
    content = write_run_card(folder, **facts(base_model=base, license="mit")).read_text()
    data = check_card(content)
    assert data["license"] == "cc-by-nc-4.0"
    assert data.get("base_model") == (base if "/" in base else None)
    assert f"inherited from {base}" in content
    assert "Not for commercial use" in content.split("## What it is for")[0]


def test_a_chain_of_runs_passes_on_name_and_licence(folder, tmp_path):
    first = tmp_path / "first"
    VideoMAEForPreTraining(VideoMAEConfig(**TINY, use_mean_pooling=False)).save_pretrained(first)
    write_run_card(first, **facts(task="pretrain", base_model="MCG-NJU/videomae-base"))
    data = check_card(write_run_card(folder, **facts(base_model=str(first))).read_text())
    assert (data["license"], data["base_model"]) == ("cc-by-nc-4.0", "MCG-NJU/videomae-base")


def test_a_preset_or_an_unknown_model_has_no_licence_to_inherit(folder):
    content = write_run_card(folder, **facts(base_model="base")).read_text()
    assert "starting from random weights" in content
    content = write_run_card(folder, **facts(base_model="somebody/something")).read_text()
    assert "starting from somebody/something" in content
    assert check_card(content).get("license") is None


def test_a_folder_without_records_gets_a_card_that_claims_nothing(folder):
    content = render_plain_card(folder, name="me/model", license="mit")
    assert check_card(content)["license"] == "mit"
    assert "has not said what they were trained on" in content
    assert "nothing is claimed about its accuracy" in content
    assert 'name = "me/model"' in content


def test_parameters_are_counted_from_the_files_without_loading_them(folder):
    model = VideoMAEForVideoClassification.from_pretrained(folder)
    assert run_cards.count_parameters(folder) == sum(parameter.numel() for parameter in model.parameters())
