"""Multi-view evaluation: against a slow restatement, over processes, after an end, and with what users get wrong."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support import TINY

from videomae.command_line import UsageError
from videomae.commands.evaluation import main, parse_views
from videomae.configuration_videomae import IMAGENET_MEAN, IMAGENET_STD, VideoMAEConfig
from videomae.data.encoding import encode_video
from videomae.data.lists.layouts import open_manifest
from videomae.evaluation import multi_view as evaluation
from videomae.evaluation.multi_view import Views, evaluate, fixed_groups
from videomae.modeling_videomae import VideoMAEForPreTraining, VideoMAEForVideoClassification
from videomae.sampling_videomae import ClipSampling
from videomae.video_processing_videomae import VideoMAEVideoProcessor

NAMES = ["run", "walk", "sit"]
DENSE = Views(sampling=ClipSampling(clips=3, crops=3), size=32)


def write_videos(folder: Path, lengths, *, height=32, width=48, labels=None) -> Path:
    """Videos of moving noise and a list `path label` of them."""
    generator = np.random.default_rng(0)
    lines = []
    for number, length in enumerate(lengths):
        noise = generator.integers(0, 255, (height // 8, width // 8 + length, 3), dtype=np.uint8)
        noise = noise.repeat(8, axis=0).repeat(8, axis=1)
        frames = [noise[:, 3 * i : 3 * i + width] for i in range(length)]
        (folder / f"{number}.mp4").write_bytes(encode_video(frames, 25, options={"crf": "10", "preset": "ultrafast"}))
        lines.append(f"{number}.mp4 {labels[number] if labels else number % 3}")
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    return folder / "list.txt"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"), [90, 40, 75, 64, 20, 130, 70])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = VideoMAEConfig(**TINY, num_labels=3, id2label=dict(enumerate(NAMES)))
    return VideoMAEForVideoClassification(config).eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    VideoMAEVideoProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, sampling=ClipSampling().to_dict()
    ).save_pretrained(folder)
    return folder


def run(model, videos, output, views=DENSE, **more):
    manifest = open_manifest(videos, **more.pop("manifest", {}))
    more = {"dataset": "videos", "quiet": True, "views_per_step": 9, **more}
    return evaluate(model, manifest, views, output=output, **more)


def slow_scores(model, path, *, clips=3, crops=3, size=32) -> np.ndarray:
    """The published dense test of one video, with nothing shared: decode all, cut each view, one forward per view."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    kept = frames[::4]
    while len(kept) < 16:
        kept.append(kept[-1])
    scores = []
    for k in range(clips):
        start = int(k * max(len(kept) - 16, 0) / (clips - 1))
        for c in range(crops):
            view = []
            for frame in kept[start : start + 16]:
                frame = bilinear(frame, size)
                width = frame.shape[1]
                left = int(c * (width - size) / (crops - 1))
                view.append((frame[:, left : left + size].astype(np.float64) / 255 - IMAGENET_MEAN) / IMAGENET_STD)
            pixels = torch.tensor(np.stack(view)).permute(0, 3, 1, 2)[None].float()
            with torch.no_grad():
                scores.append(model(pixels).logits.double().softmax(-1)[0].numpy())
    return np.mean(scores, axis=0)


def bilinear(frame: np.ndarray, size: int) -> np.ndarray:
    """OpenCV's linear resize, short side to `size`: pixel centres at halves, two neighbours a side, no antialiasing."""
    height, width = frame.shape[:2]
    if height == size:
        return frame
    assert height < width
    target = (size, int(size * width / height))
    for axis, (old, new) in enumerate(zip((height, width), target)):
        place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(place).astype(int)
        share = (place - low).reshape([-1 if a == axis else 1 for a in range(3)])
        frame = np.take(frame, low, axis) * (1 - share) + np.take(frame, np.minimum(low + 1, old - 1), axis) * share
    return np.rint(frame).astype(np.uint8)


def test_scores_of_resized_videos_equal_a_slow_computation_within_a_grey_level(model, tmp_path):
    videos = write_videos(tmp_path, [90, 40], height=48, width=80)
    run(model, videos, tmp_path / "out")
    for row in pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist():
        # A grey level of 255 in single pixels, where the fixed-point weights of the fast resize round differently.
        np.testing.assert_allclose(row["scores"], slow_scores(model, tmp_path / row["path"]), atol=2e-4)


def test_scores_equal_a_slow_computation_view_by_view(model, videos, tmp_path):
    run(model, videos, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    assert [row["path"] for row in rows] == [f"{i}.mp4" for i in range(7)]
    for row in rows:
        np.testing.assert_allclose(row["scores"], slow_scores(model, videos.parent / row["path"]), atol=2e-6)


def test_uniform_views_are_the_starts_and_middles_of_the_segments(model, videos, tmp_path):
    views = Views(sampling=ClipSampling(strategy="uniform", clips=2, crops=1), size=32)
    run(model, videos, tmp_path / "out", views)
    rows = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    with av.open(str(videos.parent / "0.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    tick, expected = len(frames) / 16, []
    for offset in (0, tick / 2):
        clip = np.stack([frames[int(tick * x + offset)] for x in range(16)])[:, :, 8:40]
        pixels = torch.tensor((clip / 255 - IMAGENET_MEAN) / IMAGENET_STD).permute(0, 3, 1, 2)[None].float()
        with torch.no_grad():
            expected.append(model(pixels).logits.double().softmax(-1)[0].numpy())
    np.testing.assert_allclose(rows[0]["scores"], np.mean(expected, axis=0), atol=2e-6)


def test_results_count_videos_and_views_apart_and_name_the_protocol(model, videos, tmp_path):
    results = run(model, videos, tmp_path / "out", keep_view_scores=True)
    rows = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    assert results == json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["protocol"] == "16x3x3" and results["videos"] == 7 and results["view_count"] == 63
    assert results["metrics"]["top1"] == np.mean([row["prediction"] == row["label"] for row in rows])
    views = [np.argmax(scores) == row["label"] for row in rows for scores in row["view_scores"]]
    assert results["metrics"]["view_top1"] == pytest.approx(np.mean(views))
    assert results["per_class"][0]["class"] == "run" and results["per_class"][0]["videos"] == 3
    assert not (tmp_path / "out" / "partial").exists()


def test_a_test_that_was_broken_off_goes_on_and_ends_the_same(model, videos, tmp_path, monkeypatch):
    whole = run(model, videos, tmp_path / "whole")
    scored = []

    def stop_at_the_fourth(*args, **more):
        scored.append(1)
        if len(scored) == 4:
            raise KeyboardInterrupt
        return score_views(*args, **more)

    score_views = evaluation.score_views
    monkeypatch.setattr(evaluation, "score_views", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        run(model, videos, tmp_path / "out", save_seconds=0)
    resumed = run(model, videos, tmp_path / "out")
    assert len(scored) == 4 + 4  # three of seven videos were done
    assert (tmp_path / "out/predictions.parquet").read_bytes() == (tmp_path / "whole/predictions.parquet").read_bytes()
    assert resumed["metrics"] == whole["metrics"]


def test_finished_results_are_given_back_without_work(model, videos, tmp_path, monkeypatch):
    first = run(model, videos, tmp_path / "out")
    monkeypatch.setattr(evaluation, "score_views", None)
    assert run(model, videos, tmp_path / "out") == first


@pytest.mark.parametrize("harm", ["garbage", "half", "twice", "short", "gone", "another version"])
def test_results_that_are_not_as_they_were_written_are_not_called_done(harm, model, videos, tmp_path):
    run(model, videos, tmp_path)
    table, results = tmp_path / "predictions.parquet", tmp_path / "results.json"
    content, rows = table.read_bytes(), pq.read_table(table)
    if harm == "another version":  # that noted no hash
        found = json.loads(results.read_text())
        del found["predictions_sha256"]
        results.write_text(json.dumps(found))
        run(model, videos, tmp_path)
    if harm in ("short", "another version"):
        pq.write_table(rows.slice(1), table)
    elif harm == "gone":
        table.unlink()
    else:
        table.write_bytes({"garbage": b"x" * 99, "half": content[: len(content) // 2], "twice": content * 2}[harm])
    with pytest.raises(ValueError, match=r"predictions\.parquet (is missing|has .*); give --overwrite to test again"):
        run(model, videos, tmp_path)
    results.write_text("[1]")
    with pytest.raises(ValueError, match=r"results\.json is damaged; give --overwrite"):
        run(model, videos, tmp_path)
    assert run(model, videos, tmp_path, overwrite=True)["videos"] == len(rows)


def test_what_a_kill_left_is_removed_at_the_next_start(model, videos, tmp_path):
    run(model, videos, tmp_path)
    (tmp_path / ".results.json.ab12.tmp").write_text("{")
    run(model, videos, tmp_path)
    assert not (tmp_path / ".results.json.ab12.tmp").exists()


def test_results_of_another_test_are_not_mixed_in(model, videos, tmp_path):
    run(model, videos, tmp_path / "out")
    other = replace(DENSE, sampling=replace(DENSE.sampling, clips=2))
    with pytest.raises(ValueError, match="protocol: '16x3x3', now '16x2x3'"):
        run(model, videos, tmp_path / "out", other)
    assert run(model, videos, tmp_path / "out", other, overwrite=True)["protocol"] == "16x2x3"


def test_groups_do_not_depend_on_processes():
    assert fixed_groups(5, 3, 7) == [[0, 1], [2, 3], [4]]
    assert fixed_groups(2, 15, 4) == [[0], [1]]


def test_a_broken_video_is_named_and_left_out_never_replaced(model, videos, tmp_path):
    for path in [*videos.parent.glob("*.mp4"), videos]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "2.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"1 of 7 videos could not be read, the first is 2\.mp4"):
        run(model, tmp_path / "list.txt", tmp_path / "out")
    results = run(model, tmp_path / "list.txt", tmp_path / "out", max_broken=0.2)
    assert results["videos"] == 6 and [entry["path"] for entry in results["broken"]] == ["2.mp4"]
    whole = run(model, videos, tmp_path / "whole")
    rows = {row["path"]: row for row in pq.read_table(tmp_path / "out/predictions.parquet").to_pylist()}
    assert rows["2.mp4"]["scores"] is None and whole["videos"] == 7


def test_a_broken_video_that_comes_first_costs_the_others_nothing(model, tmp_path):
    write_videos(tmp_path, [40, 40, 40])
    (tmp_path / "0.mp4").write_bytes(b"not a video")
    results = run(model, tmp_path / "list.txt", tmp_path / "out", views_per_step=27, max_broken=0.5)
    assert results["videos"] == 2 and [entry["path"] for entry in results["broken"]] == ["0.mp4"]
    rows = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    assert rows[0]["scores"] is None and all(len(row["scores"]) == 3 for row in rows[1:])


def test_a_video_that_is_cut_off_is_left_out_or_tested_as_far_as_it_goes(model, tmp_path):
    (tmp_path / "in").mkdir()
    listing = write_videos(tmp_path / "in", [60, 60])
    whole = (tmp_path / "in/1.mp4").read_bytes()
    with av.open(str(tmp_path / "in/1.mp4")) as source, av.open(str(tmp_path / "in/1.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    whole = (tmp_path / "in/1.mkv").read_bytes()
    (tmp_path / "in/1.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    listing.write_text(listing.read_text().replace("1.mp4", "1.mkv"))
    assert [video["path"][-5:] for video in run(model, listing, tmp_path / "a", max_broken=0.5)["broken"]] == ["1.mkv"]
    with pytest.warns(RuntimeWarning, match=r"read as far as it goes: .*1\.mkv"):
        results = run(model, listing, tmp_path / "b", errors="truncate")
    assert results["videos"] == 2 and results["broken"] == [] and results["identity"]["errors"] == "truncate"
    assert [path[-5:] for path in results["truncated"]] == ["1.mkv"]
    report = "\n".join(evaluation.report_lines(results, classes=0))
    assert "  cut off or damaged, read as far as it goes: " in report
    share = 100 * results["chance"]
    assert results["chance"] in (0.5, 1.0) and f"% (chance {share:.2f} %)\n" in report
    with pytest.raises(ValueError, match="holds another test \\(errors: 'truncate', now None"):
        run(model, listing, tmp_path / "b")


def test_class_names_in_another_order_stop_or_are_matched(model, videos, tmp_path):
    given = {"class_names": ["walk", "run", "sit"]}
    with pytest.raises(ValueError, match="match them by_name"):
        run(model, videos, tmp_path / "out", manifest=given)
    by_index = run(model, videos, tmp_path / "index", manifest=given, match="by_index")
    by_name = run(model, videos, tmp_path / "name", manifest=given, match="by_name")
    rows = [pq.read_table(tmp_path / name / "predictions.parquet").to_pylist() for name in ("index", "name")]
    for straight, swapped in zip(*rows):
        a, b, c = straight["scores"]
        np.testing.assert_allclose(swapped["scores"], [b, a, c], atol=1e-7)
    assert by_index["class_names"] == by_name["class_names"] == ["walk", "run", "sit"]


def test_a_larger_head_is_tested_on_some_of_its_classes_as_a_head_of_just_these(model, videos, tmp_path):
    lines = [line.replace(" 2", " 0") for line in videos.read_text().splitlines()]
    (videos.parent / "two.txt").write_text("\n".join(lines))
    given = {"class_names": ["sit", "run"]}
    run(model, videos.parent / "two.txt", tmp_path / "out", manifest=given, match="by_name")
    head = model.classifier
    small = VideoMAEForVideoClassification(VideoMAEConfig(**TINY, num_labels=2)).eval()
    small.load_state_dict(
        {**model.state_dict(), "classifier.weight": head.weight[[2, 0]], "classifier.bias": head.bias[[2, 0]]}
    )
    run(small, videos.parent / "two.txt", tmp_path / "small")
    files = [tmp_path / name / "predictions.parquet" for name in ("out", "small")]
    for ours, theirs in zip(*(pq.read_table(file).to_pylist() for file in files)):
        np.testing.assert_allclose(ours["scores"], theirs["scores"], atol=1e-7)


def test_a_label_that_the_model_lacks_stops_with_its_video(model, tmp_path):
    videos = write_videos(tmp_path, [64, 64], labels=[0, 3])
    with pytest.raises(ValueError, match=r"label 3 of 1\.mp4"):
        run(model, videos, tmp_path / "out")


def test_multi_label_scores_are_independent_and_judged_by_average_precision(videos, tmp_path):
    torch.manual_seed(0)
    config = VideoMAEConfig(**TINY, num_labels=3, problem_type="multi_label_classification")
    model = VideoMAEForVideoClassification(config).eval()
    lines = ["path,label"] + [f"{i}.mp4,{labels}" for i, labels in enumerate(["0|1", "1", "2", "0", "0|2", "1", "2"])]
    (videos.parent / "multi.csv").write_text("\n".join(lines) + "\n")
    results = run(model, videos.parent / "multi.csv", tmp_path / "out", manifest={"label_kind": "multi"})
    assert set(results["metrics"]) == {"mAP"} and len(results["per_class"]) == 3
    row = pq.read_table(tmp_path / "out/predictions.parquet").to_pylist()[0]
    assert row["label"] == [1.0, 1.0, 0.0] and abs(sum(row["scores"]) - 1) > 1e-3


def test_a_regression_is_judged_by_its_errors(videos, tmp_path):
    torch.manual_seed(0)
    model = VideoMAEForVideoClassification(VideoMAEConfig(**TINY, num_labels=1, problem_type="regression")).eval()
    (videos.parent / "values.csv").write_text("path,label\n" + "".join(f"{i}.mp4,{i / 2}\n" for i in range(7)))
    results = run(model, videos.parent / "values.csv", tmp_path / "out", manifest={"label_kind": "value"})
    rows = pq.read_table(tmp_path / "out/predictions.parquet").to_pylist()
    errors = [row["scores"][0] - index / 2 for index, row in enumerate(rows)]
    assert results["metrics"]["mae"] == pytest.approx(np.abs(errors).mean())


def test_bf16_autocast_stays_near_float32(model, videos, tmp_path):
    run(model, videos, tmp_path / "full")
    run(model, videos, tmp_path / "half", dtype="bfloat16")
    rows = [pq.read_table(tmp_path / name / "predictions.parquet").to_pylist() for name in ("full", "half")]
    for full, half in zip(*rows):
        np.testing.assert_allclose(half["scores"], full["scores"], atol=0.02)


def test_the_command_uses_the_saved_policy_and_prints_a_report(folder, videos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(folder), str(videos), "--device", "cpu", "--batch_size", "15"]) == 0
    printed = capsys.readouterr().out
    assert "list: 7 videos, protocol 16x5x3, float32" in printed and "top1" in printed
    assert list(tmp_path.glob("evaluations/*-list-16x5x3/results.json"))
    assert "\nwritten: " in printed
    assert main([str(folder), str(videos), "--device", "cpu", "--batch_size", "15"]) == 0
    assert "\ndone before: " in capsys.readouterr().out


def test_the_command_prints_its_results_as_json(folder, videos, tmp_path, capsys):
    assert (
        main([str(folder), str(videos), "--device", "cpu", "--views", "1x1", "--output", str(tmp_path), "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "results.json").read_text())


def test_a_stock_model_folder_gives_the_same_scores(model, folder, videos, tmp_path):
    from transformers import VideoMAEForVideoClassification as Stock

    Stock.from_pretrained(folder).save_pretrained(tmp_path / "stock")
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        (tmp_path / "stock" / name).write_bytes((folder / name).read_bytes())
    main([str(tmp_path / "stock"), str(videos), "--device", "cpu", "--views", "3x3", "--output", str(tmp_path / "out"),
          "--batch_size", "9"])  # fmt: skip
    run(model, videos, tmp_path / "ours")
    files = [tmp_path / name / "predictions.parquet" for name in ("out", "ours")]
    for stock, ours in zip(*(pq.read_table(file).to_pylist() for file in files)):
        np.testing.assert_allclose(stock["scores"], ours["scores"], atol=1e-6)


def test_a_label_map_by_numbers_picks_outputs(folder, videos, tmp_path):
    (tmp_path / "map.json").write_text("[2, 0, 1]")
    main([str(folder), str(videos), "--device", "cpu", "--views", "1x1", "--output", str(tmp_path / "mapped"),
          "--label_map", str(tmp_path / "map.json")])  # fmt: skip
    main([str(folder), str(videos), "--device", "cpu", "--views", "1x1", "--output", str(tmp_path / "plain")])
    files = [tmp_path / name / "predictions.parquet" for name in ("mapped", "plain")]
    for mapped, plain in zip(*(pq.read_table(file).to_pylist() for file in files)):
        np.testing.assert_allclose(mapped["scores"], np.array(plain["scores"])[[2, 0, 1]], atol=1e-7)


def test_what_is_not_a_classifier_is_refused(videos, tmp_path):
    VideoMAEForPreTraining(VideoMAEConfig(**TINY, use_mean_pooling=False)).save_pretrained(tmp_path / "pretrained")
    with pytest.raises(ValueError, match="is VideoMAEForPreTraining, not a classifier; fine-tune it first"):
        main([str(tmp_path / "pretrained"), str(videos)])
    with pytest.raises(UsageError, match=r"MODEL .*nothing: there is no such folder"):
        main([str(tmp_path / "nothing"), str(videos)])


def test_views_are_clips_times_crops():
    assert parse_views("5x3") == (5, 3)
    with pytest.raises(Exception, match="CLIPSxCROPS"):
        parse_views("15")


COMMAND = "import sys; from videomae.commands.evaluation import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.slow
def test_two_processes_and_one_evaluate_to_identical_predictions(folder, videos, tmp_path):
    (tmp_path / "evaluate.py").write_text(COMMAND)
    options = [str(folder), str(videos), "--device", "cpu", "--views", "3x3", "--batch_size", "9"]
    for processes in (1, 2):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        launch += [str(tmp_path / "evaluate.py"), *options, "--output", str(tmp_path / str(processes))]
        subprocess.run(launch, check=True, capture_output=True, timeout=120)
    one, two = (json.loads((tmp_path / f"{n}" / "results.json").read_text()) for n in (1, 2))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert (tmp_path / "1/predictions.parquet").read_bytes() == (tmp_path / "2/predictions.parquet").read_bytes()


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_to_identical_predictions(folder, videos, tmp_path):
    lines = videos.read_text() * 8
    (videos.parent / "many.txt").write_text(lines)
    options = [str(folder), str(videos.parent / "many.txt"), "--device", "cpu", "--views", "3x3", "--save_seconds", "0"]
    launch = [sys.executable, "-c", COMMAND, *options, "--output"]
    process = subprocess.Popen(
        [*launch, str(tmp_path / "killed")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("killed/partial/rows-*.parquet"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "results.json").exists()
    for name in ("killed", "whole"):
        subprocess.run([*launch, str(tmp_path / name)], check=True, capture_output=True, timeout=300)
    assert (tmp_path / "killed/predictions.parquet").read_bytes() == (
        tmp_path / "whole/predictions.parquet"
    ).read_bytes()
