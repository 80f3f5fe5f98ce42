"""How good are frozen features? `videomae probe FOLDER TRAIN TEST`: k-NN, linear and attentive probes, one command.

The encoder is run once over each video (the centre clip of the model's own sampling policy) and never trained. k-NN and
the linear probe see the mean token; the attentive probe learns one query that attends to all tokens. Features are kept
beside the result, so another probe costs seconds.
"""

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from videomae.files import write_json
from videomae.metrics.video_accuracy.scores import label_ranks, softmax

# n videos  N tokens  D width  K classes
PROBES = ("knn", "linear", "attentive")


# --------------------------------------------------------------------------------------------------------- probes


def knn_scores(
    train: torch.Tensor, train_labels: torch.Tensor, test: torch.Tensor, num_classes: int, *, k: int = 20
) -> torch.Tensor:
    """(n, K) votes of the k nearest training features by cosine, each weighted exp(similarity / 0.07) (as in DINO)."""
    k = min(k, len(train))
    similarity, nearest = (F.normalize(test, dim=1) @ F.normalize(train, dim=1).T).topk(k, dim=1)
    votes = torch.zeros(len(test), num_classes, dtype=similarity.dtype)
    # Minus the best similarity: the same votes up to a factor, without overflow.
    weights = ((similarity - similarity[:, :1]) / 0.07).exp()
    return votes.scatter_add_(1, train_labels[nearest], weights)


def linear_scores(
    train: torch.Tensor,
    train_labels: torch.Tensor,
    test: torch.Tensor,
    num_classes: int,
    *,
    weight_decays: Sequence[float] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
    seed: int = 0,
) -> torch.Tensor:
    """(n, K) outputs of a logistic regression on standardised features, solved to the end by L-BFGS.

    The weight decay is chosen on every fifth training video of each class, then all videos are used.
    """
    mean, std = train.mean(dim=0), train.std(dim=0).clamp_min(1e-6)
    train, test = (train - mean) / std, (test - mean) / std
    held_out = held_out_share(train_labels, every=5, seed=seed)
    best = weight_decays[len(weight_decays) // 2]
    if held_out.any() and len(weight_decays) > 1:
        fit = {
            decay: logistic_regression(train[~held_out], train_labels[~held_out], num_classes, decay)
            for decay in weight_decays
        }
        losses = {
            decay: F.cross_entropy(train[held_out] @ weight.T + bias, train_labels[held_out]).item()
            for decay, (weight, bias) in fit.items()
        }
        best = min(losses, key=losses.get)
    weight, bias = logistic_regression(train, train_labels, num_classes, best)
    return test @ weight.T + bias


def logistic_regression(
    features: torch.Tensor, labels: torch.Tensor, num_classes: int, weight_decay: float, *, steps: int = 200
) -> tuple[torch.Tensor, torch.Tensor]:
    """The (K, D) weight and (K,) bias that minimise cross-entropy + weight_decay/2 * |weight|^2."""
    weight = torch.zeros(num_classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=steps, line_search_fn="strong_wolfe", tolerance_change=1e-9)

    def closure():
        solver.zero_grad()
        loss = F.cross_entropy(features @ weight.T + bias, labels) + weight_decay / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(closure)
    return weight.detach(), bias.detach()


def held_out_share(labels: torch.Tensor, *, every: int, seed: int) -> torch.Tensor:
    """True for every `every`-th video of each class, after a seeded shuffle; a class with fewer keeps all it has."""
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    for label in labels.unique():
        members = order[labels[order] == label]
        held_out[members[every - 1 :: every]] = True
    return held_out


class AttentiveHead(nn.Module):
    """One learnt query attends to all tokens of a clip; a linear layer classifies what it gathered."""

    def __init__(self, width: int, num_classes: int, heads: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query = nn.Parameter(torch.zeros(1, 1, width))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.classifier = nn.Linear(width, num_classes)
        nn.init.trunc_normal_(self.query, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:  # (B, N, D) -> (B, K)
        tokens = self.norm(tokens)
        gathered, _ = self.attention(self.query.expand(len(tokens), -1, -1), tokens, tokens, need_weights=False)
        return self.classifier(gathered[:, 0])


def attentive_scores(
    train: torch.Tensor,
    train_labels: torch.Tensor,
    test: torch.Tensor,
    num_classes: int,
    *,
    heads: int,
    epochs: int = 50,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    batch: int = 32,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """(n, K) outputs of an AttentiveHead trained on (n, N, D) tokens."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = AttentiveHead(train.shape[2], num_classes, heads).to(device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=weight_decay)
    steps = epochs * -(-len(train) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        for _ in range(epochs):
            for rows in torch.randperm(len(train), generator=generator).split(batch):
                loss = F.cross_entropy(head(train[rows].to(device).float()), train_labels[rows].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    with torch.no_grad():
        return torch.cat([head(rows.to(device).float()).cpu() for rows in test.split(batch)])


# ------------------------------------------------------------------------------------------------------- features


class CentreClips(Dataset):
    """The model's own clip of each video; one that cannot be read comes back as its error."""

    def __init__(self, paths: Sequence[str], processor: Any):
        self.paths, self.processor = paths, processor

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            clip = self.processor(self.paths[index], return_tensors="pt")["pixel_values"]
        except (ValueError, OSError) as error:
            return {"index": index, "error": str(error)}
        return {"index": index, "pixel_values": clip.flatten(0, -5)[0]}


@torch.inference_mode()
def extract_features(
    encoder: torch.nn.Module,
    clips: Dataset,
    *,
    tokens: bool = False,
    batch: int = 16,
    num_workers: int = 0,
    quiet: bool = False,
) -> tuple[torch.Tensor, list[int], list[dict[str, Any]]]:
    """Features of each clip in order: (n, D) mean tokens, or (n, N, D) tokens in half precision.

    Also returns the indices that they belong to and the items that could not be read.
    """
    encoder.eval()
    features, kept, broken = [], [], []
    loader = DataLoader(clips, batch_size=batch, num_workers=num_workers, collate_fn=list)
    for items in tqdm(loader, disable=quiet, desc="features", unit="batch"):
        broken += [item for item in items if "error" in item]
        items = [item for item in items if "error" not in item]
        if items:
            pixel_values = torch.stack([item["pixel_values"] for item in items]).to(encoder.device)
            states = encoder(pixel_values).last_hidden_state
            features.append((states.half() if tokens else states.mean(dim=1).float()).cpu())
            kept += [item["index"] for item in items]
    if not features:
        raise ValueError(f"none of {len(broken)} videos could be read; the first: {broken[0]['error']}")
    return torch.cat(features), kept, broken


def accuracy(scores: torch.Tensor, labels: Sequence[int]) -> dict[str, float]:
    ranks = label_ranks(softmax(scores.double().numpy()), np.asarray(labels))
    result = {"top1": float((ranks < 1).mean())}
    return result | ({"top5": float((ranks < 5).mean())} if scores.shape[1] > 5 else {})
