"""The committed cards: complete, honest, up to date, readable by the Hub's own classes, and with code that runs."""

import contextlib
import re

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard, parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results

from videomae.commands import cards as cards_command
from videomae.commands.main import COMMANDS
from videomae.commands.main import main as videomae_command
from videomae.model_cards import build, cards
from videomae.model_cards.cards import check_card, clip_from_frames, describe_sampling
from videomae.model_cards.facts import DATA_SETS, PAPERS
from videomae.model_cards.licences import is_non_commercial
from videomae.model_cards.results import Result, eval_results_files, text
from videomae.model_cards.zoo import entry, load_zoo, releases
from videomae.training.recipes import FINETUNING

NAMES = list(load_zoo())
SECTIONS = [
    "What it is for",
    "How to use it",
    "Architecture",
    "Training data",
    "Preprocessing",
    "Training procedure",
    "Evaluation",
    "Limits and biases",
    "Licence",
    "Citation",
]


def committed(name: str) -> str:
    return (build.CARDS / f"{name}.md").read_text(encoding="utf-8")


def test_every_card_is_what_zoo_yaml_says_today():
    assert dict(build.outdated(build.CARDS)) == {}


def test_check_names_the_cards_that_are_out_of_date(tmp_path, capsys):
    assert cards_command.main(["--output", str(tmp_path)]) == 0
    assert cards_command.main(["--output", str(tmp_path), "--check"]) == 0
    (tmp_path / "videomae-base.md").write_text("old")
    (tmp_path / "gone.md").write_text("a checkpoint that zoo.yaml no longer lists")
    with pytest.raises(ValueError, match=r"2 files .* \(gone.md, videomae-base.md\); run `videomae cards`"):
        cards_command.main(["--output", str(tmp_path), "--check"])
    cards_command.main(["--output", str(tmp_path)])
    assert not (tmp_path / "gone.md").exists()
    assert (tmp_path / "videomae-base.md").read_text() == committed("videomae-base")


@pytest.mark.parametrize("name", NAMES)
def test_a_card_parses_and_carries_its_metadata(name):
    checkpoint = entry(name)
    card = ModelCard(committed(name))
    data = card.data.to_dict()
    assert data["license"]
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] in ("video-classification", "feature-extraction")
    assert "videomae" in data["tags"]
    assert data["datasets"]
    assert "base_model" not in data or re.fullmatch(r"[\w-]+/[\w.-]+", data["base_model"])
    # The class reads the results back as the numbers of zoo.yaml, each with its source.
    values = [getattr(row, field) for row in checkpoint.results for field in ("top1", "top5", "map")]
    scores = card.data.eval_results or []
    assert all(isinstance(score, EvalResult) for score in scores)
    assert sorted(score.metric_value for score in scores) == sorted(value for value in values if value is not None)
    assert all(score.source_url == checkpoint.source for score in scores)
    if scores:
        assert model_index_to_eval_results(data["model-index"])[0] == name
        assert data["metrics"]


@pytest.mark.parametrize("name", NAMES)
def test_a_card_has_every_section_and_none_is_empty(name):
    parts = re.split(r"^## ", committed(name), flags=re.MULTILINE)[1:]
    titles = [part.splitlines()[0] for part in parts]
    assert titles == SECTIONS
    for part in parts:
        assert len(part.split("\n", 1)[1].strip()) > 30, part
    prose = re.sub(r"^```.*?^```", "", committed(name), flags=re.MULTILINE | re.DOTALL)
    assert "None" not in prose


@pytest.mark.parametrize("name", NAMES)
def test_a_card_claims_no_class_token_and_leaves_nothing_to_do(name):
    content = committed(name)
    assert "CLS" not in content
    assert "There is no class token" in content
    check_card(content)


@pytest.mark.parametrize("name", NAMES)
def test_weights_for_non_commercial_use_are_marked_before_anything_else(name):
    content = committed(name)
    licence = check_card(content)["license"]
    first_screen = content.split("## What it is for")[0]
    assert ("Not for commercial use" in first_screen) == is_non_commercial(licence)


def test_a_port_of_non_commercial_weights_keeps_their_terms():
    assert releases()["mmaction2"].license == "apache-2.0"
    assert check_card(committed("mmaction2-videomae-base-kinetics"))["license"] == "cc-by-nc-4.0"
    assert check_card(committed("mmaction2-videomaev2-base-kinetics"))["license"] == "apache-2.0"


@pytest.mark.parametrize("name", [name for name in NAMES if entry(name).head == "detect"])
def test_a_detector_says_in_its_first_lines_how_it_must_be_loaded(name):
    body = ModelCard(committed(name)).text.strip().splitlines()
    assert any("trust_remote_code=True" in line for line in body[:4])
    assert any("bare encoder" in line for line in body[:5])


def test_a_published_figure_is_called_published_and_nothing_is_called_measured_without_a_record():
    content = committed("videomae-base-finetuned-kinetics")
    evaluation = content.split("## Evaluation")[1].split("## Limits")[0]
    assert "| Kinetics-400 | 16x5x3 | top-1 accuracy | 81.5 |" in evaluation
    assert "they are not measurements of this repository" in evaluation
    assert "random weights" in evaluation


def test_the_proof_of_a_conversion_takes_the_place_of_the_general_statement():
    conversion = {
        "source_file": "checkpoint.pth",
        "source_sha256": "ab" * 32,
        "compared": ["logits"],
        "largest_difference": 1e-5,
        "largest_relative_difference": 3.2e-6,
    }
    content = build.zoo_card(entry("videomae-base"), conversion=conversion)
    assert "ab" * 32 in content
    assert "at most 3.2e-06" in content
    assert "random weights" not in content


def test_what_was_measured_on_a_release_stands_beside_what_was_published():
    measured = {"dataset": "kinetics400", "protocol": "16x5x3", "metrics": {"top1": 0.8142}, "videos": 19796}
    content = build.zoo_card(entry("videomae-base-finetuned-kinetics"), evaluations=[measured])
    assert "| Kinetics-400 | 16x5x3 | top-1 accuracy | 81.5 |" in content
    assert "| Kinetics-400 | validation | 16x5x3 | top-1 accuracy | 81.42 |" in content
    assert "19796 videos" in content
    (score,) = ModelCard(content).data.eval_results  # the measurement takes the place of the published figures
    assert (score.metric_value, score.source_url) == (81.42, None)


def test_the_procedure_lists_every_stage_with_the_numbers_of_its_recipe():
    stages = build.procedure(entry("videomaev2-giant-k710-finetuned-kinetics"))
    assert [stage["recipe"] for stage in stages] == ["v2-giant-hybrid", "v2-giant-k710", "v2-giant-k710-k400"]
    recipe = FINETUNING["v2-giant-k710-k400"]
    rows = dict(stages[-1]["rows"])
    assert rows["epochs"] == str(recipe.epochs)
    assert rows["learning rate, scaled"] == f"{recipe.peak_lr:g}"


TRAINERS = ("pretrain", "finetune", "train-detection")


def test_every_command_of_a_card_has_the_options_that_it_is_shown_with(capsys):
    used: dict[str, set[str]] = {}
    for name in NAMES:
        for line in re.findall(r"videomae (?:[a-z-]+) [^`\n]*", committed(name).replace("\\\n", " ")):
            if (command := line.split()[1]) in COMMANDS:
                used.setdefault(command, set()).update(re.findall(r"--[a-z_]+", line))
    assert {"convert", "pretrain", "finetune", "train-detection", "detect"} <= set(used)
    for command, options in used.items():
        with contextlib.suppress(SystemExit):
            videomae_command([command, "--help_all" if command in TRAINERS else "--help"])
        shown = capsys.readouterr().out
        assert options <= set(re.findall(r"--[a-z_]+", shown)), command


def test_cards_know_every_data_set_and_paper_of_the_zoo():
    for checkpoint in load_zoo().values():
        named = {checkpoint.finetuning, checkpoint.post_pretraining, *(row.data for row in checkpoint.results)}
        assert named - {None} <= DATA_SETS.keys()
        assert checkpoint.paper in PAPERS


def test_a_field_that_a_template_needs_and_nobody_gave_is_named():
    with pytest.raises(ValueError, match=r"zoo_card.md.jinja needs a field that was not given: 'title' is undefined"):
        cards.render("zoo_card.md.jinja", card_data=cards.metadata(name="a/b", head="classify", license="mit"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("# A model", "has no metadata"),
        ("---\nlicense: [mit\n---\n# A model", "cannot be read"),
        ("---\nlicense: mit\n---\n# A model\n\n(to do, feel free to open a PR)", "unwritten place"),
        ("---\nlicense: mit\n---\n[More Information Needed]", "unwritten place"),
        ("---\nlicense: mit\nmodel-index:\n- results: 3\n---\n# A model", "cannot be read"),
    ],
)
def test_an_unfinished_card_is_refused_with_the_reason(content, message):
    with pytest.raises(ValueError, match=message):
        check_card(content)


def test_text_from_outside_cannot_become_markup():
    assert text("a | b\n## <script>`x`") == r"a \| b \#\# \<script\>\`x\`"


def test_results_files_read_back_through_the_hubs_own_parser():
    results = [
        Result(
            dataset="something-something-v2",
            metric="top-1 accuracy",
            value=70.8,
            protocol="16x2x3",
            measured=False,
            source="https://x.y",
        ),
        Result(dataset="something-something-v2", metric="top-5 accuracy", value=92.4, protocol="16x2x3", measured=True),
        Result(
            dataset="My videos",
            metric="top-1 accuracy",
            value=50.0,
            protocol="16x5x3",
            measured=True,
            dataset_id="me/videos",
        ),
    ]
    files = eval_results_files(results, date="2026-11-21")
    assert sorted(files) == [".eval_results/my-videos_16x5x3.yaml", ".eval_results/something-something-v2_16x2x3.yaml"]
    published, measured = parse_eval_result_entries(
        yaml.safe_load(files[".eval_results/something-something-v2_16x2x3.yaml"])
    )
    assert (published.dataset_id, published.value, published.source_url) == (
        "HuggingFaceM4/something_something_v2",
        70.8,
        "https://x.y",
    )
    assert "16x2x3" in published.notes
    assert "published" in published.notes
    assert measured.source_url is None
    assert "published" not in measured.notes
    (own,) = parse_eval_result_entries(yaml.safe_load(files[".eval_results/my-videos_16x5x3.yaml"]))
    assert (own.dataset_id, own.task_id, own.date) == ("me/videos", "accuracy", "2026-11-21")


@pytest.mark.parametrize(
    ("sampling", "length", "expected"),
    [
        ({"strategy": "dense", "stride_frames": 4}, 100, [18 + 4 * i for i in range(16)]),
        ({"strategy": "dense", "stride_frames": 4}, 10, [0, 4, 8] + [9] * 13),
        ({"strategy": "uniform", "stride_frames": 1}, 32, [2 * i + 1 for i in range(16)]),
        (None, 160, [10 * i for i in range(16)]),
    ],
)
def test_the_line_that_picks_frames_without_the_package_picks_the_policys(sampling, length, expected):
    scope = {"frames": list(range(length))}
    exec(clip_from_frames(sampling, 16), scope)  # noqa: S102 (it is Python that a reader will run)
    assert scope["clip"] == expected


def test_a_sampling_policy_is_described_in_words():
    policy = {"strategy": "dense", "num_frames": 16, "stride_frames": 4, "clips": 5, "crops": 3}
    assert describe_sampling(policy) == "16 frames, one in 4, from one window of the video; tested with 5 × 3 views"
    assert describe_sampling(None) == ""
