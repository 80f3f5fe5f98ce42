"""Every Python snippet of every committed card runs, unchanged, against a tiny folder of that name."""

import contextlib
import io
import os
import re

import pytest
from published_folders import LABELS, published_tiny
from video_files import write_video

from videomae.model_cards import build
from videomae.model_cards.cards import HEADS, python_snippets
from videomae.model_cards.zoo import entry, load_zoo


def scripts(head: str) -> list[str]:
    """The code of all cards of one kind, once each: cards differ in the name, and in how frames are picked.

    Blocks that import are scripts of their own; one that does not continues the block before.
    """
    found = set()
    for name, checkpoint in load_zoo().items():
        if checkpoint.head != head:
            continue
        script = ""
        for block in python_snippets((build.CARDS / f"{name}.md").read_text(encoding="utf-8")):
            continues = "from_pretrained" not in block
            script = f"{script}\n{block}" if continues else block
            found.add(script.replace(name, "NAME"))
    return sorted(found)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cards")
    write_video(folder / "example.mp4", num_frames=40, width=64, height=48)
    return folder


@pytest.mark.parametrize("head", [head for head in HEADS if head != "probe"])
def test_the_code_of_every_card_runs(head, place, monkeypatch):
    monkeypatch.chdir(place)
    name = next(name for name, checkpoint in load_zoo().items() if checkpoint.head == head)
    os.makedirs(name)
    published_tiny(place / "source" / head, head, f"me/{name}").lay_out(place / name)
    ran = scripts(head)
    assert len(ran) >= 2
    for script in ran:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(script.replace("NAME", name), f"{name}.md", "exec"), {"__name__": "__main__"})  # noqa: S102
        # A class of the model by its name, or the shape or distance of what the card computes.
        expected = "|".join(LABELS.values()) if head == "classify" else r"\d"
        assert re.search(expected, printed.getvalue()), f"{script}\nprinted {printed.getvalue()!r}"


def test_the_code_of_a_probes_card_runs_and_says_what_stock_does(place, monkeypatch):
    monkeypatch.chdir(place)
    publication = published_tiny(place / "source" / "probe", "probe", "me/probe")
    assert "puts a fresh one in its place, with a warning. Its answers are then random." in publication.card
    os.makedirs("me/probe")
    publication.lay_out(place / "me" / "probe")
    for script in python_snippets(publication.card):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(script, "probe.md", "exec"), {"__name__": "__main__"})  # noqa: S102
        assert printed.getvalue().strip(), script


def test_every_card_offers_our_package_and_what_works_without_it():
    for name in load_zoo():
        blocks = python_snippets((build.CARDS / f"{name}.md").read_text(encoding="utf-8"))
        assert any("from videomae import" in block for block in blocks)
        assert any("videomae import" not in block and "from transformers import" in block for block in blocks)
        assert all("trust_remote_code" in block for block in blocks[1:]) or HEADS[entry(name).head].in_stock
