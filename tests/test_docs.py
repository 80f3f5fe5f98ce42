"""The documents are true: every snippet runs, every command and option exists, and so does every file and heading named.

Commands of all documents are parsed (fast). Those of three guides also run, in order, in a folder where the names that they
use are there: tiny models, synthetic videos.
"""

import ast
import contextlib
import importlib
import io
import os
import re
from functools import lru_cache
from pathlib import Path

import pytest
from documents import (
    DOCUMENTS,
    LANGUAGES,
    ROOT,
    anchors,
    blocks,
    code_spans,
    links,
    load_script,
    options_of,
    parse,
    prose,
    resolve,
    shell_commands,
    start,
    text_of,
)
from documents_world import PRELUDE, lay_out
from official_flags import FLAGS

from videomae.choices import PROBE_RECIPES
from videomae.commands.main import COMMANDS
from videomae.model_cards.readme import with_table
from videomae.training.recipes import KINDS

WITH_PYTHON = [name for name in DOCUMENTS if any(block.language == "python" for block in blocks(name))]
WITH_COMMANDS = [name for name in DOCUMENTS if any(block.language == "bash" for block in blocks(name))]

# Programs of others that the documents name, and what of ours they are given.
FOREIGN = {"hf", "make", "pip", "git", "cd", "python3", "export", "docker", "source"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_says_what_it_is(document):
    odd = [(block.line, block.language) for block in blocks(document) if block.language not in LANGUAGES]
    assert not odd, f"{document}: give these blocks one of {', '.join(LANGUAGES)}: {odd}"


@pytest.mark.parametrize("document", WITH_COMMANDS)
def test_every_command_of_a_block_is_one_that_its_parser_takes(document):
    for block in blocks(document):
        if block.language != "bash":
            continue
        for words in shell_commands(block.text):
            call = resolve(words)
            if call:
                parse(call)
            else:
                assert words[0] in FOREIGN, f"{document}, line {block.line}: {words}"
                check_foreign(words)


def check_foreign(words):
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert all(word in targets or "=" in word for word in words[1:]), words
    for extra in re.findall(r"(?:videomae|\.)\[([\w,]+)\]", " ".join(words)):
        known = re.search(r"optional-dependencies\]\n(.*?)\n\n", (ROOT / "pyproject.toml").read_text(), re.DOTALL)[1]
        assert all(re.search(rf"^{name} =", known, re.MULTILINE) for name in extra.split(",")), words


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_and_option_in_the_text_exists(document):
    """Inline commands are parsed; a bare option must belong to a command that the document names."""
    spans = code_spans(prose(document))
    commands = [words for block in blocks(document) if block.language == "bash" for words in shell_commands(block.text)]
    named = {call.name: call.main for words in commands if (call := resolve(words))}
    scripts = {
        path.removeprefix("../") for path in links(document) if re.search(r"(examples|experiments)/\w+\.py$", path)
    }
    named |= {path: load_script(path).main for path in scripts}
    for span in spans:
        words = [word for word in re.sub(r"[\[\]…]", " ", span).split() if word != "..."]
        if words[:1] == ["videomae"] and len(words) > 1 and re.fullmatch(r"[a-z][a-z-]+", words[1]):
            call = resolve(words)
            assert call, f"{document}: there is no command {words[1]} (`{span}`)"
        elif words[:2] == ["python", "-m"] or re.match(r"python [\w/]+\.py", span):
            call = resolve(words)
        else:
            continue
        if call:
            named[call.name] = call.main
            unknown = {word for word in call.words if word.startswith("--")} - options_of(call.main)
            assert not unknown, f"{document}: `{span}` has {sorted(unknown)}"
    named |= {name: main_of(name) for name in ALSO_ABOUT.get(document, ())}
    known = set().union(*map(options_of, named.values())) if named else set()
    for span in spans:
        option = re.match(r"(--[a-z][\w-]*)", span)
        if option and option[1] not in known | OTHERS_OPTIONS and not (document == "docs/migration.md"):
            raise AssertionError(f"{document}: none of {sorted(named)} has {option[1]} (`{span}`)")


# Commands whose options a document means without naming them.
ALSO_ABOUT = {"docs/decisions.md": COMMANDS, "docs/finetuning.md": ("pretrain",), "docs/publishing.md": ("finetune",)}
# Options of other programs that a text may mention.
OTHERS_OPTIONS = {"--shm-size", "--use_cls", "--help", "--dry-run"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(document):
    for target in links(document):
        path, _, anchor = target.partition("#")
        place = (ROOT / document).parent / path if path else ROOT / document
        assert place.exists(), f"{document}: there is no {target}"
        assert not anchor or anchor in anchors(place), f"{document}: {target} has no such heading"


@lru_cache
def files_of_the_repository():
    return {str(path) for path in paths()} | {path.name for path in paths()}


@lru_cache
def paths():
    """Files and folders of the checkout, relative to its root, without environments, builds and runs."""
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [
            name for name in folders if not name.startswith(".") and name not in ("build", "runs", "demo_output")
        ]
        found += [Path(folder, name).relative_to(ROOT) for name in (*folders, *files)]
    return found


# Files of the official repositories, and files that a run, a user or a data set brings.
OFFICIAL = {
    *(
        "run_mae_pretraining.py",
        "run_class_finetuning.py",
        "run_videomae_vis.py",
        "extract_tad_feature.py",
        "ensemble.py",
    ),
    *("kinetics.py", "engine_for_pretraining.py", "engine_for_finetuning.py", "masking_generator.py"),
    *("scripts/data/data_clean.py", "tools/data/resize_videos.py", "tools/train.py", "tools/test.py"),
    *("demo/demo.py", "demo/demo_spatiotemporal_det.py"),
    "vit-base-p16_videomae-k400-pre_8xb8-16x4x1-20e-adamw_ava-kinetics-rgb.py",
}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_source_file_that_is_named_exists(document):
    top = {path.name for path in ROOT.iterdir() if path.is_dir()}
    for span in code_spans(prose(document)):
        for path in re.findall(r"[\w./-]+\.(?:py|md|slurm|toml|jinja|yaml)\b", span):
            ours = path.endswith(".py") or path.split("/")[0] in top
            if ours and path not in OFFICIAL and not path.startswith("/"):
                assert path.removeprefix("./") in files_of_the_repository(), (
                    f"{document} names {path}, which is not there"
                )


# ------------------------------------------------------------------------------------------------------------ running


def run_python(document, block, names):
    """Execute a block unchanged; what it prints is swallowed."""
    code = compile("\n" * block.line + block.text, document, "exec", dont_inherit=True)
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code, names)  # noqa: S102


@pytest.mark.parametrize("document", WITH_PYTHON)
def test_python_blocks_run(document, tmp_path, monkeypatch):
    lay_out(tmp_path, document)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    exec(PRELUDE.get(document, ""), names)  # noqa: S102
    for block in blocks(document):
        if block.language == "python":
            run_python(document, block, names)


# A guide's commands run as written, with these words added so that minutes suffice; a later word replaces an earlier one.
ADDED = {
    "finetune": ["--epochs", "2", "--warmup_epochs", "0", "--probe_epochs", "0", "--num_workers", "0"],
    "train-detection": [
        *["--epochs", "1", "--warmup_epochs", "0", "--num_workers", "0"],
        "--clips_per_step",
        "4",
        "--clips_per_device",
        "2",
    ],
    "make-ava": ["--movies", "3"],
    "fvd": ["--min_clips", "2"],  # four videos a set
}


@pytest.mark.slow
@pytest.mark.parametrize("document", ["docs/quickstart.md", "docs/features.md", "docs/detection.md"])
def test_a_guide_runs_as_written(document, tmp_path, monkeypatch, capsys):
    """Its commands in their order, so that each finds what the ones before it have made."""
    lay_out(tmp_path, document, commands=True)
    monkeypatch.chdir(tmp_path)
    commands = [words for block in blocks(document) if block.language == "bash" for words in shell_commands(block.text)]
    for call in filter(None, map(resolve, commands)):
        if call.name.startswith("benchmarks"):
            continue
        words = [
            str(next(Path().glob(word.replace("test-N", "test-*")), word)) if "test-N" in word else word
            for word in call.words
        ]
        code = start(call.main, [*words, *ADDED.get(call.name, ())]) or 0
        # The doctor ends with 1 where it finds something to say about so small a set.
        assert code == 0 or (call.name, code) == ("doctor", 1), (
            f"{document}: {call.name} {' '.join(call.words)} ended with {code}\n{capsys.readouterr()}"
        )


# ------------------------------------------------------------------------------------------------------ troubleshooting


@lru_cache
def literal_texts():
    """All string literals of the package, neighbours joined and placeholders as "…"."""
    texts = []
    for path in paths():
        if path.suffix != ".py" or path.parts[0] in ("tests", "benchmarks"):
            continue
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                texts.append("".join(map(str, parts)))
    return "\n".join(re.sub(r"\s+", " ", text) for text in texts)


def test_every_message_in_troubleshooting_is_one_of_ours():
    rows = re.findall(r"^\| (`.*?) \| ", text_of("docs/troubleshooting.md"), flags=re.MULTILINE)
    assert len(rows) > 40
    messages = [
        message for row in rows if "transformers' report" not in row for message in re.findall(r"`([^`]+)`", row)
    ]
    unknown = [
        message for message in messages if not all(part.strip() in literal_texts() for part in message.split("…"))
    ]
    assert not unknown


def test_the_published_results_in_the_readme_are_those_of_the_zoo():
    assert with_table(text_of("README.md")) == text_of("README.md"), "run videomae cards"
    assert "| VideoMAE ViT-B | 81.5 | – | – | 70.8 | 91.3 | – | 31.8 |" in text_of("README.md")


# ----------------------------------------------------------------------------------------------------------- migration

MIGRATION = "docs/migration.md"
SHARED = "Flags that all official scripts share"


def sections(document):
    """Text by heading of the second level."""
    parts = re.split(r"^## (.+)$", text_of(document), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def columns(section):
    """First and other cells of every row of the tables of a section."""
    return [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("script", FLAGS, ids="/".join)
def test_every_flag_of_an_official_script_is_in_its_table(script):
    heading, flags = FLAGS[script]
    text = sections(MIGRATION)
    rows = columns(text[heading]) + (columns(text[SHARED]) if script[1].startswith("run_") else [])
    shown = {span.removeprefix("--") for row in rows for span in code_spans(row[0])}
    missing = set(flags.split()) - shown
    assert not missing, f"{MIGRATION} says nothing of {sorted(missing)} of {'/'.join(script)}"
    assert script[1] in text_of(MIGRATION)


def test_every_option_in_the_right_columns_is_one_of_ours():
    """Of the commands that its section names; of all trainers where the flags are shared."""
    trainers = {name: COMMANDS[name] for name in ("pretrain", "finetune", "train-detection")}
    for heading, text in sections(MIGRATION).items():
        named = {name: COMMANDS[name] for name in re.findall(r"videomae ([a-z-]+)", text) if name in COMMANDS}
        named |= trainers if heading in (SHARED, "MMAction2") or "train_" in text else {}
        known = {"--config_file"}.union(*(options_of(main_of(name)) for name in named))
        for row in columns(text):
            wanted = {
                option for cell in row[1:] for span in code_spans(cell) for option in re.findall(r"--[a-z]\w+", span)
            }
            theirs = {option for span in code_spans(row[0]) for option in re.findall(r"--[a-z][\w-]+", span)}
            assert wanted <= known | theirs | {"--val_", "--FIELD"}, (
                f"{heading}: {sorted(wanted - known - theirs)} in {row}"
            )


def main_of(name):
    return importlib.import_module(COMMANDS[name][0]).main


def test_every_recipe_that_a_document_names_exists():
    for document in DOCUMENTS:
        names = set(re.findall(r"--recipe ([a-z0-9][\w-]+)(?!\S)", text_of(document)))
        names |= {span for span in code_spans(prose(document)) if re.fullmatch(r"(v[12]|ad|mm)-[\w-]+", span)}
        unknown = names - {recipe for recipes in KINDS.values() for recipe in recipes} - set(PROBE_RECIPES)
        assert not unknown, f"{document}: {unknown}"
