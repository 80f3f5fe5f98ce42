"""Our model, data and helpers in transformers' Trainer; the example as a user runs it."""

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hub_server import TOKEN, HubServer
from support import SMALLEST
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

import videomae
from videomae import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification, train_classification
from videomae.data.encoding import encode_video
from videomae.data.mixing import Mixing
from videomae.data.synthetic import SyntheticSet, make_synthetic_set
from videomae.evaluation.hf_trainer import layer_decay_optimizer, soft_label_loss, trainer_collator
from videomae.training.runs import read_log


@pytest.fixture(scope="module")
def example():
    path = Path(videomae.__file__).parent / "examples" / "finetune_with_trainer.py"
    spec = importlib.util.spec_from_file_location("finetune_with_trainer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    spec = SyntheticSet(clips=16, validation_clips=9, test_clips=0, num_frames=16, height=40, width=48)
    return make_synthetic_set(tmp_path_factory.mktemp("synthetic") / "set", spec)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    VideoMAEForPreTraining(VideoMAEConfig(**SMALLEST, use_mean_pooling=False)).save_pretrained(folder)
    return folder


def test_layer_decay_gives_every_group_its_rate_in_our_class_and_in_stocks():
    small = {name: value for name, value in SMALLEST.items() if not name.startswith("decoder")}
    rates = []
    for package in (videomae, transformers):
        model = package.VideoMAEForVideoClassification(package.VideoMAEConfig(**small))
        optimizer = layer_decay_optimizer(model, lr=1.0, layer_decay=0.5)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        rates.append({names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]})
    assert rates[0]["classifier.weight"] == 1.0
    assert rates[0]["videomae.embeddings.patch_embeddings.projection.bias"] == 0.5**3
    assert rates[0]["videomae.encoder.layer.1.output.dense.weight"] == 0.5
    assert set(rates[0].values()) == set(rates[1].values())


def test_only_training_batches_are_mixed():
    item = {"pixel_values": torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8), "label": 1, "keys": [5], "path": "a"}
    collate = trainer_collator(Mixing(3), [0.5] * 3, [0.5] * 3)
    assert collate([item | {"training": True}] * 2)["labels"].shape == (2, 3)
    assert collate([item | {"training": False}] * 2)["labels"].tolist() == [1, 1]
    assert collate([item | {"training": True}] * 3)["labels"].tolist() == [1, 1, 1]  # an odd one cannot be paired


def test_the_loss_takes_hard_and_soft_labels():
    logits = torch.randn(4, 5)
    labels = torch.tensor([0, 1, 2, 3])
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert soft_label_loss(0.1)({"logits": logits}, labels).item() == pytest.approx(expected.item(), abs=1e-6)
    soft = logits.softmax(-1).flip(0)
    expected = torch.nn.functional.cross_entropy(logits, soft)
    assert soft_label_loss(0.1)({"logits": logits}, soft).item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("stock", [False, True])
def test_the_example_trains_evaluates_and_saves_a_folder_that_both_classes_read(
    example, videos, pretrained, tmp_path, stock
):
    metrics = example.main(
        [
            *["--model", str(pretrained), "--train", str(videos / "train.csv"), "--output", str(tmp_path / "out")],
            *["--validation", str(videos / "validation.csv"), "--epochs", "2", "--batch_size", "4"],
            *["--num_workers", "0", "--stride_frames", "2", "--flip", "0", *(["--stock"] if stock else [])],
        ]
    )
    rights = metrics["eval_top1"] * 9  # of the validation videos
    assert rights == pytest.approx(round(rights), abs=1e-4) and math.isfinite(metrics["eval_loss"])
    ours = VideoMAEForVideoClassification.from_pretrained(tmp_path / "out").eval()
    theirs = transformers.VideoMAEForVideoClassification.from_pretrained(tmp_path / "out").eval()
    assert ours.config.id2label[0] == "moves right" and ours.config.use_mean_pooling
    clip = torch.randn(1, 8, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(clip).logits, theirs(clip).logits, atol=1e-5, rtol=0)
    processor = videomae.VideoMAEVideoProcessor.from_pretrained(tmp_path / "out")
    assert processor.sampling.stride_frames == 2 and processor.sampling.num_frames == 8


@pytest.mark.parametrize("owner", ["ours", "transformers"])
def test_a_training_that_is_given_an_image_processor_keeps_the_sampling_policy(owner, tmp_path):
    """As in transformers' guide; one image processor is loaded, the other one given a policy."""
    small = {name: value for name, value in SMALLEST.items() if not name.startswith("decoder")}
    model = VideoMAEForVideoClassification(VideoMAEConfig(**small))
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    videomae.VideoMAEVideoProcessor(**size, sampling={"strategy": "uniform"}).save_pretrained(tmp_path / "before")
    if owner == "ours":
        images, strategy, stride = videomae.VideoMAEImageProcessor(**size, sampling={"stride_frames": 7}), "dense", 7
    else:
        images, strategy, stride = VideoMAEImageProcessorPil.from_pretrained(tmp_path / "before"), "uniform", 4
    trainer = transformers.Trainer(
        model, transformers.TrainingArguments(str(tmp_path / "run"), report_to="none"), processing_class=images
    )
    trainer.save_model(tmp_path / "after")
    pipe = videomae.VideoClassificationPipeline(
        model=VideoMAEForVideoClassification.from_pretrained(tmp_path / "after")
    )
    assert not pipe.video_processor.sampling_assumed
    assert (pipe.video_processor.sampling.strategy, pipe.video_processor.sampling.stride_frames) == (strategy, stride)


@pytest.mark.slow
def test_our_trainer_and_transformers_trainer_with_either_class_learn_alike(example, pretrained, tmp_path):
    """Three classes of colour, one of which a fresh model finds in a few epochs: all three ways must get there."""
    rng = np.random.default_rng(0)
    tints = np.array([[70, 0, 0], [0, 70, 0], [0, 0, 70]])
    for split, count in (("train", 48), ("validation", 24)):
        rows = []
        for index in range(count):
            frames = rng.integers(60, 180, (12, 5, 6, 3)).repeat(8, axis=1).repeat(8, axis=2) + tints[index % 3]
            (tmp_path / f"{split}{index}.mp4").write_bytes(encode_video(frames.astype(np.uint8), 25))
            rows.append(f"{split}{index}.mp4,{('red', 'green', 'blue')[index % 3]}\n")
        (tmp_path / f"{split}.csv").write_text("path,label\n" + "".join(rows))
    train, validation = str(tmp_path / "train.csv"), str(tmp_path / "validation.csv")
    common = ["--model", str(pretrained), "--num_workers", "0", "--stride_frames", "1", "--layer_decay", "0.9"]
    accuracies = []
    for more in ([], ["--stock"]):
        output = str(tmp_path / "-".join(["hf", *more]))
        words = ["--train", train, "--validation", validation, "--output", output, "--epochs", "6", "--lr", "2e-3"]
        accuracies.append(example.main([*common, *words, "--batch_size", "8", *more])["eval_top1"])
    train_classification.main(
        [
            *[
                "--recipe",
                "tiny",
                *common,
                "--data",
                train,
                "--val_data",
                validation,
                "--output",
                str(tmp_path / "ours"),
            ],
            *["--image_size", "32", "--num_frames", "8", "--epochs", "6", "--warmup_epochs", "0.6", "--mixup", "0.8"],
            *["--clips_per_step", "8", "--base_lr", "6.4e-2", "--min_lr", "0", "--log_every", "100"],
        ]
    )
    lines = read_log(tmp_path / "ours/log.jsonl")
    accuracies.append(max(line["val_top1"] for line in lines if "val_top1" in line))
    # Of 24 clips; chance is a third, and one clip more or less is noise.
    assert min(accuracies) >= 0.9, accuracies


@pytest.mark.slow
def test_the_example_uploads_a_model_that_loads(example, videos, pretrained, tmp_path):
    words = ["--model", str(pretrained), "--train", str(videos / "train.csv"), "--output", str(tmp_path / "out")]
    words += [
        "--validation",
        str(videos / "validation.csv"),
        "--epochs",
        "1",
        "--batch_size",
        "4",
        "--num_workers",
        "0",
    ]
    with HubServer() as hub:
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(tmp_path / "home"),
        }
        program = [sys.executable, example.__file__, *words, "--push_to_hub", "tester/motions"]
        done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr[-2000:]
        files = hub.repos["tester/motions"].files
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "video_preprocessor_config.json"):
        (folder / name).write_bytes(files[name])
    assert VideoMAEForVideoClassification.from_pretrained(folder).config.id2label[0] == "moves right"
    assert b"videomae" in files["README.md"]
