"""experiments/real_clips.py: its trivial classifiers, its table, and two cells on a tiny folder of the same layout."""

import dataclasses
import json

import numpy as np
import pytest
import real_clips
import torch

from videomae.data.encoding import encode_video
from videomae.data.sources import open_clip
from videomae.data.transforms import PretrainTransform
from videomae.data.video_dataset import VideoDataset
from videomae.sampling_videomae import ClipSampling

GREY = torch.zeros(4, 10, 40, 40)


@pytest.fixture
def clips(tmp_path):
    """Two classes in the layout that the experiment reads: a bright square that rests, or moves."""
    folder = tmp_path / "data"
    (folder / "subsets").mkdir(parents=True)
    lists = {"train": [], "val": []}
    generator = np.random.default_rng(0)
    for person in range(6):
        for label, name in enumerate(("rests", "moves")):
            split, path = "val" if person == 5 else "train", f"{name}/{person}.mp4"
            frames = generator.integers(0, 40, (12, 64, 96, 3), dtype=np.uint8)
            for number in range(12):
                frames[number, 16:48, (8 + 4 * number * label) : (40 + 4 * number * label)] = 220
            (folder / name).mkdir(exist_ok=True)
            (folder / path).write_bytes(encode_video(list(frames), 15))
            lists[split].append(f"{path} {label}\n")
    for split, lines in lists.items():
        (folder / "subsets" / f"lip_{split}.csv").write_text("".join(lines))
    return folder


def run(clips, output, *more):
    return real_clips.main(["--data", str(clips), "--output", str(output), "--subsets", "lip", *more])


def test_ridge_finds_a_linear_rule_and_ignores_a_column_that_never_changes():
    features = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    features[:, 4] = 7.0
    labels = (features[:, 0] - features[:, 1] > 0).long()
    predicted = real_clips.ridge_predictions(features[:40], labels[:40], features[40:], 2)
    assert (predicted == labels[40:]).double().mean() >= 0.9


def test_ridge_agrees_with_the_normal_equations():
    generator = torch.Generator().manual_seed(1)
    features, labels = torch.randn(30, 4, generator=generator), torch.randint(3, (30,), generator=generator)
    test = torch.randn(50, 4, generator=generator)
    predicted = real_clips.ridge_predictions(features, labels, test, 3)
    mean, std = features.mean(dim=0), features.std(dim=0)
    train, test = ((features - mean) / std).double(), ((test - mean) / std).double()
    targets = torch.eye(3, dtype=torch.float64)[labels]
    penalties, errors, answers = 10.0 ** torch.arange(-1, 7, 0.5), [], []

    def fit(rows, wanted, penalty):
        return torch.linalg.solve(rows.T @ rows + penalty * torch.eye(4), rows.T @ wanted)

    for penalty in penalties.tolist():  # leave each row out of the fit, with the mean of all targets taken off
        left_out = []
        for row in range(30):
            kept = torch.arange(30) != row
            padded = torch.cat([train, torch.ones(30, 1)], dim=1).double()
            gram = padded[kept].T @ padded[kept] + penalty * torch.diag(torch.tensor([1.0, 1, 1, 1, 0])).double()
            weight = torch.linalg.solve(gram, padded[kept].T @ targets[kept])
            left_out.append(padded[row] @ weight - targets[row])
        errors.append(torch.stack(left_out).square().mean())
        weight = fit(train, targets - targets.mean(dim=0), penalty)
        answers.append((test @ weight + targets.mean(dim=0)).argmax(dim=1))
    assert torch.equal(predicted, answers[int(torch.stack(errors).argmin())])


def test_a_middle_frame_shows_no_motion_and_the_motion_grid_no_picture():
    still, moving = GREY.clone(), GREY.clone()
    still[:, :, :20] = 1.0
    moving[:, 5:, :20] = 1.0
    assert real_clips.frame_features(still).equal(real_clips.frame_features(moving))
    assert real_clips.motion_features(still).count_nonzero() == 0
    motion = real_clips.motion_features(moving).view(4, *real_clips.MOTION_GRID)
    assert (motion[:, :, :4].amax(dim=1) > 0).all() and motion[:, :, 4:].count_nonzero() == 0


def test_clips_are_prepared_once_whole_and_small(clips, tmp_path):
    real_clips.prepare(clips, tmp_path / "small", ["lip"])
    grey, labels = real_clips.grey_clips(tmp_path / "small" / "lip_train.csv")
    side = real_clips.STORED_SIDE
    assert grey.shape == (10, real_clips.STORED_FRAMES, side, side) and labels.tolist() == [0, 1] * 5
    # The square of class 1 ends at the right of the frame, which a centre crop would have cut off.
    assert grey[1, -1, side // 2, round(side * 80 / 96) - 4] > 0.7 > grey[0, -1, side // 2, round(side * 80 / 96) - 4]
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "small" / "videos").rglob("*.mp4")}
    real_clips.prepare(clips, tmp_path / "small", ["lip"])
    assert written == {path: path.stat().st_mtime_ns for path in written} and len(written) == 12


def test_the_cells_that_decide_most_come_first():
    cells = real_clips.all_cells(["lip", "interact", "yoga"], [0, 1])
    assert cells.index("pretrain/v1") < cells.index("finetune/lip/v1/0") < cells.index("finetune/yoga/v2/0")
    assert len(cells) == len(set(cells)) and cells[-1].endswith("/1")
    tuned = [cell for cell in cells if cell.startswith("finetune/") and "masks" not in cell]
    assert len(tuned) == 3 * 3 * 2


def test_mean_and_spread_are_over_seeds():
    assert [real_clips.percent(values) for values in ([], [0.25], [0.2, 0.4])] == ["-", "25.0", "30.0 ± 14.1 (2)"]


def test_the_table_takes_the_cells_that_there_are():
    trained = {"minutes": 2.0, "epochs": 3, "loss": 0.5, "date": "2026-11-28", "machine": "m"}
    assert "| v1 | 2.0 | 3 | 0.5000 | - | - |" in real_clips.tables({"pretrain/v1": trained})
    tuned = {"minutes": 1.0, "top1": 0.5, "date": "2026-11-28", "machine": "m"}
    table = real_clips.tables({"finetune/yoga/v2/0": tuned, "finetune/yoga/v2/1": tuned | {"top1": 0.7}})
    assert "| yoga | - | - | - | - | - | - | 60.0 ± 14.1 (2) | 1.0 |" in table


def test_clips_in_memory_give_the_samples_of_the_files(clips, tmp_path):
    real_clips.prepare(clips, tmp_path / "small", ["lip"])

    def pixels():
        dataset = VideoDataset(
            tmp_path / "small" / "lip_train.csv",
            mode="pretrain",
            sampling=ClipSampling(num_frames=8, stride_frames=1),
            transform=PretrainTransform(size=32),
        )
        return dataset[3]["pixel_values"]

    from_files = pixels()
    with real_clips.clips_in_memory():
        assert pixels().equal(from_files)
    assert real_clips.samples.open_clip is open_clip


@pytest.mark.slow
def test_cells_run_once_and_end_in_a_table(clips, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(real_clips, "EPOCHS", {"lip": 2})
    monkeypatch.setattr(real_clips, "TIMED_STEPS", 1)
    monkeypatch.setattr(real_clips, "FINETUNE", dataclasses.replace(real_clips.FINETUNE, clips_per_step=4))
    monkeypatch.setattr(real_clips, "STARTS", {"v1": dataclasses.replace(real_clips.V1, clips_per_step=4)})
    options = ["--minutes", "0.01", "--cells", "trivial/lip", "finetune/lip/v1/0", "probe/lip/v1"]
    assert run(clips, tmp_path / "out", *options) == 0
    cells = real_clips.read_cells(tmp_path / "out")
    assert set(cells) == {"trivial/lip", "pretrain/v1", "finetune/lip/v1/0", "probe/lip/v1"}
    assert cells["trivial/lip"]["motion"] == 1.0 and cells["trivial/lip"]["clips"] == [10, 2]
    assert 0 <= cells["finetune/lip/v1/0"]["top1"] <= 1 and cells["pretrain/v1"]["epochs"] >= 1
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| lip, 10 / 2 | 50.0 | 50.0 |" in table

    cell = tmp_path / "out" / "cells" / "finetune" / "lip" / "v1" / "0.json"
    cell.write_text(json.dumps(cells["finetune/lip/v1/0"] | {"top1": 0.123}))
    capsys.readouterr()
    assert run(clips, tmp_path / "out", "--epochs", "7", *options) == 0  # what is there is not run again
    assert " 12.3 |" in (tmp_path / "out" / "table.md").read_text() and "..." not in capsys.readouterr().out
