"""Tiny model folders of every kind, as `videomae publish` would upload them; shared by the tests of cards and uploads."""

from pathlib import Path

import torch
from support import TINY

import videomae
from videomae import AttentiveProbeConfig, VideoMAEConfig
from videomae.model_cards.cards import HEADS
from videomae.publishing.clean_room import RECORD
from videomae.publishing.publication import Publication, as_json, prepare
from videomae.publishing.upload import recorded_output

LABELS = {0: "left", 1: "right", 2: "up", 3: "down"}


def tiny_config(head: str, **more) -> VideoMAEConfig:
    labels = {"id2label": LABELS, "label2id": {label: index for index, label in LABELS.items()}}
    fields = {
        "pretrain": {"use_mean_pooling": False},
        "classify": labels,
        "probe": {"use_mean_pooling": False, **labels},
        "features": {"pooled_features": True},
        "detect": {"use_mean_pooling": False, **labels},
    }[head]
    kind = AttentiveProbeConfig if head == "probe" else VideoMAEConfig
    return kind(**TINY, layer_norm_eps=1e-6, norm_eps=1e-6, **{**fields, **more})


def save_tiny(folder: Path, head: str, *, processor: bool = True, **save_options) -> Path:
    """A model folder as training or conversion leave it, of random weights large enough for outputs to matter."""
    torch.manual_seed(0)
    model = getattr(videomae, HEADS[head].model_class)(tiny_config(head, initializer_range=0.2))
    model.save_pretrained(folder, **save_options)
    if processor:
        side = TINY["image_size"]
        videomae.VideoMAEVideoProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        ).save_pretrained(folder)
    return folder


def published_tiny(folder: Path, head: str, name: str) -> Publication:
    """What publishing that folder as `name` would upload."""
    publication = prepare(save_tiny(folder, head), name, license="mit")
    publication.files[RECORD] = as_json(recorded_output(publication))
    return publication
