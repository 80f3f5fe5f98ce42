"""How good are frozen features? `videomae probe FOLDER TRAIN TEST`: k-NN, linear and attentive probes, one command.

The encoder is run once over each video (the centre clip of the model's own sampling policy) and never trained. k-NN and
the linear probe see the mean token; the attentive probe learns one query that attends to all tokens. Features are kept
beside the result, so another probe costs seconds.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from videomae.choices import PROBES
from videomae.configuration_videomae import VideoMAEConfig
from videomae.data.lists.manifests import Manifest
from videomae.data.transforms import EvalTransform, normalise
from videomae.data.video_dataset import VideoDataset
from videomae.evaluation.multi_view import manifest_sha256, saved_views
from videomae.files import write_atomic, write_json
from videomae.metrics.video_accuracy.scores import label_ranks, softmax
from videomae.modeling_videomae import VideoMAEForPreTraining, VideoMAEModel
from videomae.models import open_config, open_model, weights_sha256

# n videos  N tokens  D width  K classes


# --------------------------------------------------------------------------------------------------------- probes


def knn_scores(
    train: torch.Tensor,
    train_labels: torch.Tensor,
    test: torch.Tensor,
    num_classes: int,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> torch.Tensor:
    """(n, K) votes of the k nearest training features by cosine, each weighted exp(similarity / temperature).

    The defaults are DINO's.
    """
    k = min(k, len(train))
    similarity, nearest = (F.normalize(test, dim=1) @ F.normalize(train, dim=1).T).topk(k, dim=1)
    votes = torch.zeros(len(test), num_classes, dtype=similarity.dtype)
    # Minus the best similarity: the same votes up to a factor, without overflow.
    weights = ((similarity - similarity[:, :1]) / temperature).exp()
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
        best = min(losses, key=losses.__getitem__)
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


def few_shot(
    train: torch.Tensor,
    train_labels: torch.Tensor,
    test: torch.Tensor,
    test_labels: torch.Tensor,
    num_classes: int,
    *,
    shots: int,
    draws: int = 5,
    seed: int = 0,
) -> dict[str, float]:
    """Top-1 of linear probes that see `shots` training videos of each class: mean and deviation over several draws.

    A class with fewer videos gives all that it has.
    """
    top1 = []
    for draw in range(draws):
        order = torch.randperm(len(train_labels), generator=torch.Generator().manual_seed(seed + draw))
        chosen = torch.cat([order[train_labels[order] == label][:shots] for label in train_labels.unique()])
        scores = linear_scores(train[chosen], train_labels[chosen], test, num_classes, seed=seed)
        top1.append(accuracy(scores, test_labels)["top1"])
    return {"top1": float(np.mean(top1)), "deviation": float(np.std(top1)), "draws": draws}


def vector_probes(
    train: torch.Tensor,
    train_labels: torch.Tensor,
    test: torch.Tensor,
    test_labels: torch.Tensor,
    num_classes: int,
    probes: Sequence[str],
    *,
    neighbours: int = 20,
    temperature: float = 0.07,
    shots: Sequence[int] = (),
    draws: int = 5,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """What probes on one vector a video reach on the test vectors: "knn", "linear", and few-shot for each of `shots`."""
    sides, results = (train, train_labels, test), {}
    if "knn" in probes:
        scores = knn_scores(*sides, num_classes, k=neighbours, temperature=temperature)
        results["knn"] = accuracy(scores, test_labels)
    if "linear" in probes:
        results["linear"] = accuracy(linear_scores(*sides, num_classes, seed=seed), test_labels)
    for count in shots:
        more = {"shots": count, "draws": draws, "seed": seed}
        results[f"{count}-shot"] = few_shot(*sides, test_labels, num_classes, **more)
    return results


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


@torch.no_grad()
def extract_features(
    encoder: VideoMAEModel,
    clips: VideoDataset,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    tokens: bool = False,
    batch: int = 16,
    num_workers: int = 0,
    quiet: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, list[dict[str, str]]]:
    """Features of each readable clip, in order: (n, D) mean tokens, or (n, N, D) tokens in half precision.

    Also returns their class numbers, and the path and error of each video that could not be read.
    """
    encoder.eval()
    features, labels, broken = [], [], []
    loader = DataLoader(clips, batch_size=batch, num_workers=num_workers, collate_fn=list)
    for items in tqdm(loader, disable=quiet, desc="features", unit="batch"):
        broken += [{"path": item["path"], "error": item["error"]} for item in items if item["pixel_values"] is None]
        items = [item for item in items if item["pixel_values"] is not None]
        if items:
            pixels = torch.cat([item["pixel_values"] for item in items]).to(encoder.device)
            states = encoder(normalise(pixels, mean, std)).last_hidden_state
            features.append((states.half() if tokens else states.mean(dim=1).float()).cpu())
            labels += [item["label"] for item in items]
    if not features:
        raise ValueError(f"none of {len(broken)} videos could be read; the first: {broken[0]['error']}")
    return torch.cat(features), torch.tensor(labels), broken


def load_encoder(start: str, *, like: str | None = None, seed: int = 0, num_frames: int | None = None) -> VideoMAEModel:
    """The encoder of a model folder, whatever its head; "random": fresh weights of the architecture of `like`.

    A pre-trained encoder keeps its final norm, a classifier's has none. num_frames: of a clip, where it is not the
    model's; the table of positions is then another one.
    """
    frames: dict[str, Any] = {} if num_frames is None else {"num_frames": num_frames}
    if start != "random":
        return open_model(VideoMAEModel, start, **frames)
    if like is None:
        raise ValueError("random weights need an architecture; give the model folder that they are to be `like`")
    torch.manual_seed(seed)
    config = VideoMAEConfig.from_pretrained(like, **frames)
    # As pre-training starts: the fair comparison, since fine-tuning's initialisation is another one.
    return VideoMAEForPreTraining(dataclasses.replace(config, use_mean_pooling=False)).videomae


def accuracy(scores: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    ranks = label_ranks(softmax(scores.double().numpy()), np.asarray(labels))
    result = {"top1": float((ranks < 1).mean())}
    return result | ({"top5": float((ranks < 5).mean())} if scores.shape[1] > 5 else {})


def probe(
    encoder: VideoMAEModel,
    train: VideoDataset,
    test: VideoDataset,
    probes: Sequence[str] = PROBES,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    num_classes: int,
    cache: Path | None = None,
    max_cache_gib: float = 8.0,
    seed: int = 0,
    vectors: Mapping[str, Any] | None = None,
    **reading: Any,
) -> dict[str, Any]:
    """Accuracy of each probe on the test clips. `cache`: a file to keep features in, or to find them.

    vectors: options of `vector_probes`.
    """
    tokens = "attentive" in probes
    if tokens:
        count = math.prod(encoder.config.grid) * encoder.config.hidden_size
        gib = 2 * count * (len(train) + len(test)) / 2**30
        if gib > max_cache_gib:
            raise ValueError(
                f"the attentive probe keeps all tokens, {gib:.1f} GiB for {len(train) + len(test)} clips; raise "
                f"--max_cache_gib (now {max_cache_gib:g}), or choose --probes knn linear"
            )
    if cache is not None and cache.exists():
        found = load_file(cache)
        broken: list[dict[str, str]] = json.loads(cache.with_suffix(".json").read_text())
    else:
        found, broken = {}, []
        for name, clips in (("train", train), ("test", test)):
            found[name], found[f"{name}_labels"], lost = extract_features(
                encoder, clips, mean=mean, std=std, tokens=tokens, **reading
            )
            broken += lost
        if cache is not None:
            write_atomic(cache, save(found))
            write_json(cache.with_suffix(".json"), broken)
    labels = found["train_labels"]
    train_mean, test_mean = ((x.float().mean(dim=1) if x.dim() == 3 else x) for x in (found["train"], found["test"]))
    test_labels = found["test_labels"]
    results = vector_probes(
        train_mean, labels, test_mean, test_labels, num_classes, probes, seed=seed, **(vectors or {})
    )
    if "attentive" in probes:
        heads, device = encoder.config.num_attention_heads, encoder.device
        scores = attentive_scores(
            found["train"], labels, found["test"], num_classes, heads=heads, seed=seed, device=device
        )
        results["attentive"] = accuracy(scores, test_labels)
    return {"probes": results, "train_clips": len(labels), "test_clips": len(test_labels), "broken": broken}


def probe_models(
    model: str,
    train: Manifest,
    test: Manifest,
    probes: Sequence[str] = PROBES,
    *,
    baseline: str | None = None,
    folder: str | Path | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    errors: str = "strict",
    **more: Any,
) -> dict[str, dict[str, Any]]:
    """What `probe` says of a model folder and of a baseline (another folder, or "random"), by name.

    folder: where features are kept, by a hash of weights, data and views. `more` goes to `probe`.
    """
    configs = {model: open_config(model, "MODEL")}
    if baseline == "random":
        configs[baseline] = configs[model]
    elif baseline:
        configs[baseline] = open_config(baseline, "--baseline")
    train.check_labels()
    test.check_labels(num_labels=train.num_labels, classes=False)
    results = {}
    for start, config in configs.items():
        views = saved_views(model if start == "random" else start, config)
        encoder = load_encoder(start, like=model, seed=seed).to(device)
        train_clips, test_clips = (
            VideoDataset(
                manifest,
                mode="validation",
                sampling=views.sampling,
                transform=EvalTransform(views.size),
                broken="exclude",
                max_broken=1.0,
                errors=errors,
            )
            for manifest in (train, test)
        )
        cache = None
        if folder:
            identity = [weights_sha256(encoder), *map(manifest_sha256, (train, test)), repr(views)]
            identity += [errors] if errors != "strict" else []
            tokens = "tokens" if "attentive" in probes else "means"
            key = hashlib.sha256("|".join(identity).encode()).hexdigest()[:16]
            cache = Path(folder, f"features-{tokens}-{key}.safetensors")
        results[start] = probe(
            encoder,
            train_clips,
            test_clips,
            probes,
            mean=views.mean,
            std=views.std,
            num_classes=train.num_labels or 0,
            cache=cache,
            seed=seed,
            **more,
        )
    return results


def report_lines(results: dict[str, Any], num_classes: int) -> Iterator[str]:
    """The table for a terminal: one line a probe, one column a model."""
    first = next(iter(results.values()))
    yield f"{first['train_clips']} training clips, {first['test_clips']} test clips, {num_classes} classes; top-1 in percent"
    width = max(len(Path(name).name) for name in results)
    yield f"{'':<12}" + "".join(f"  {Path(name).name:>{width}}" for name in results)
    for kind, shown in first["probes"].items():
        values = "".join(f"  {100 * result['probes'][kind]['top1']:{width}.2f}" for result in results.values())
        spread = f"  (± {100 * shown['deviation']:.2f} over {shown['draws']} draws)" if "deviation" in shown else ""
        yield f"{kind:<12}{values}{spread}"
    for entry in first["broken"]:
        yield f"not read: {entry['path']}: {entry['error']}"
