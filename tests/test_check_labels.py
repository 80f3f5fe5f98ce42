"""Doubtful labels, duplicates and leaks: planted faults are found, sound videos are left alone."""

import csv
import json
import re
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from videomae.commands.check_labels import main
from videomae.data.encoding import encode_video
from videomae.data.lists.layouts import open_manifest
from videomae.evaluation.multi_view import write_parquet
from videomae.evaluation.score_tables import ScoreTable, read_scores
from videomae.features.neighbours import MOST_PAIRS, close_pairs, near_pairs, read_vectors
from videomae.inspection.labels import SAME_PICTURES, check_duplicates, check_labels, findings, look_at, videos_of
from videomae.metrics.classification import probabilities_of
from videomae.metrics.label_quality import class_thresholds, confident_classes, confident_joint, judge

NAMES = ["run", "walk", "sit", "jump"]


# -------------------------------------------------------------------------------------------------------- arithmetic


def test_thresholds_joint_and_margins_have_the_known_answer():
    scores = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6], [0.15, 0.85], [0.55, 0.45]])
    labels = np.array([0, 0, 0, 1, 1, 1])
    thresholds = class_thresholds(scores, labels)
    assert thresholds == pytest.approx([0.6, (0.6 + 0.85 + 0.45) / 3])
    confident = confident_classes(scores, thresholds)
    assert confident.tolist() == [0, 0, 1, -1, 1, -1]  # 0.6 and 0.55 reach neither 0.633 nor 0.6
    assert confident_joint(labels, confident, 2).tolist() == [[2, 1], [0, 1]]
    judged = judge(scores, labels)
    assert judged.joint.tolist() == [[2, 1], [0, 3]] and judged.issue.tolist() == [False] * 2 + [True] + [False] * 3
    assert judged.margin == pytest.approx([0.9, 0.7, 0.2, 0.6, 0.85, 0.45])


def test_the_confident_joint_is_that_of_a_loop_over_the_videos():
    generator = np.random.default_rng(0)
    scores, labels = probabilities_of(generator.normal(size=(200, 4)), single=True), generator.integers(3, size=200)
    thresholds = [scores[labels == k, k].mean() if (labels == k).any() else None for k in range(4)]
    counts = np.zeros((4, 4), int)
    for row, label in zip(scores, labels):
        reached = [k for k in range(4) if thresholds[k] is not None and row[k] >= thresholds[k]]
        if reached:
            counts[label, max(reached, key=lambda k: row[k])] += 1
    found = confident_classes(scores, class_thresholds(scores, labels))
    assert (confident_joint(labels, found, 4) == counts).all() and not counts[:, 3].any()


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_pairs_are_those_of_all_against_all_whatever_the_block(rows):
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(60, 8)).astype(np.float32)
    vectors[40] = vectors[3] + 0.01
    scaled = (vectors - vectors.mean(axis=0)) / vectors.std(axis=0)
    scaled /= np.linalg.norm(scaled, axis=1, keepdims=True)
    cosines = {(i, j): scaled[i] @ scaled[j] for i in range(60) for j in range(i + 1, 60)}
    found = near_pairs(vectors, 0.6, block=60 * rows)
    assert {pair[:2] for pair in found} == {key for key, value in cosines.items() if value >= 0.6}
    assert found[0][:2] == (3, 40) and found[0].similarity == pytest.approx(cosines[3, 40], abs=1e-5)
    close = close_pairs(vectors, 1.0, block=60 * rows)
    expected = {key for key in cosines if np.sqrt(((vectors[key[0]] - vectors[key[1]]) ** 2).mean()) <= 1.0}
    assert {pair[:2] for pair in close} == expected and close[0].similarity == pytest.approx(-0.01, abs=1e-3)


def test_a_large_set_is_compared_in_little_memory():
    vectors = np.random.default_rng(0).normal(size=(20_000, 32)).astype(np.float32)
    vectors[19_999] = vectors[0]
    tracemalloc.start()
    pairs = near_pairs(vectors, 0.95, block=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [pair[:2] for pair in pairs] == [(0, 19_999)]
    assert peak < 60e6, peak  # all cosines would be 1.6e9 bytes


def test_too_many_pairs_are_an_error():
    with pytest.raises(ValueError, match=re.escape(f"more than {MOST_PAIRS:,} pairs of 600 videos are as similar")):
        near_pairs(np.random.default_rng(0).normal(size=(600, 4)), -1.0)


# ------------------------------------------------------------------------------------------------------------- labels


def planted(videos=1000, flips=50, *, seed=0):
    """Probabilities of a good model for the true classes, and given labels of which `flips` are wrong."""
    generator = np.random.default_rng(seed)
    true = generator.integers(4, size=videos)
    logits = generator.normal(size=(videos, 4))
    logits[np.arange(videos), true] += 4.0
    wrong = generator.choice(videos, flips, replace=False)
    given = true.copy()
    given[wrong] = (true[wrong] + generator.integers(1, 4, size=flips)) % 4
    return probabilities_of(logits, single=True), given, wrong


def table(scores, targets, *, single=True, names=NAMES, origin="t.csv", **about):
    paths = [f"{origin}-{i}.mp4" for i in range(len(scores))]
    return ScoreTable(origin, paths, scores, targets, single, list(names), about=about)


@pytest.mark.parametrize("seed", range(3))
def test_flipped_labels_come_first_with_precision_and_recall_of_nine_in_ten(seed):
    scores, given, wrong = planted(seed=seed)
    found = check_labels([table(scores, np.eye(4, dtype=bool)[given])])
    names = {f"t.csv-{i}.mp4" for i in wrong}
    first = {row["path"] for row in found["rows"][: len(wrong)]}
    assert len(first & names) / len(wrong) >= 0.9  # precision and recall at the planted count
    issues = {row["path"] for row in found["rows"] if row["issue"]}
    # The thresholds say "issue" where the model is sure: nearly all of them are flipped, and not all flipped are among them.
    assert len(issues & names) / len(issues) >= 0.95 and len(issues & names) / len(names) >= 0.6
    assert found["issues"] == len(issues) and not found["in_sample"]
    assert found["agreement"] == pytest.approx((scores.argmax(axis=1) == given).mean())
    assert sum(row["videos"] for row in found["noise"]) == pytest.approx(50, rel=0.3)


def test_labels_that_were_swapped_one_way_name_the_pair_of_classes():
    scores, given, _ = planted(flips=1)
    run = np.flatnonzero(given == 0)[:40]
    given[run] = 2  # runs that were labelled sit
    found = check_labels([table(scores, np.eye(4, dtype=bool)[given])])
    assert (found["noise"][0]["given"], found["noise"][0]["likely"]) == ("sit", "run")
    assert 20 < found["noise"][0]["videos"] < 45  # wrong labels lower the thresholds, so the estimate is a low one


def test_of_several_labels_the_class_that_is_wrong_is_named():
    generator = np.random.default_rng(0)
    targets = generator.random((400, 4)) < 0.3
    scores = probabilities_of(np.where(targets, 3.0, -3.0) + generator.normal(size=(400, 4)), single=False)
    given = targets.copy()
    places = generator.choice(400, 20, replace=False)
    given[places, 1] ^= True
    found = check_labels([table(scores, given, single=False)])
    rows = found["rows"][:20]
    assert len({row["path"] for row in rows} & {f"t.csv-{i}.mp4" for i in places}) >= 18
    assert sum(row["class"] == "walk" for row in rows) >= 18


def test_tables_of_folds_are_judged_together_and_must_fit():
    scores, given, _ = planted()
    targets = np.eye(4, dtype=bool)[given]
    whole = check_labels([table(scores, targets)])
    parts = [table(scores[:400], targets[:400]), table(scores[400:], targets[400:], origin="u.csv")]
    assert [row["margin"] for row in check_labels(parts)["rows"]] == [row["margin"] for row in whole["rows"]]
    with pytest.raises(ValueError, match="appear in several tables, the first is"):
        check_labels([parts[0], parts[0]])
    with pytest.raises(ValueError, match="have other classes; check them one by one"):
        check_labels([parts[0], table(scores, targets, names="abcd")])


def test_predictions_of_the_training_videos_are_called_in_sample(tmp_path):
    targets = np.eye(4, dtype=bool)[np.arange(80) % 4]
    sure = np.where(targets, 0.97, 0.01)
    assert "100.0% of 80 answers are the given labels" in check_labels([table(sure, targets)])["in_sample"][0]
    scores, given, _ = planted()
    targets = np.eye(4, dtype=bool)[given]
    for held_out, dataset, expected in (
        (None, "train", True),
        (None, "val", False),
        ("1/3", "train-fold-1-of-3", False),
        ("1/3", "train-fold-2-of-3", True),
        ("1/3", "train", True),
    ):
        data = {"name": "train.csv"} | ({"fold_held_out": held_out} if held_out else {})
        (tmp_path / "training_record.json").write_text(json.dumps({"data": data}))
        found = check_labels([table(scores, targets, model=str(tmp_path), dataset=dataset)])["in_sample"]
        assert bool(found) == expected, (held_out, dataset)
        assert not found or "was trained on train.csv, a list of the same name" in found[0]


def test_a_weak_model_is_said_to_be_one():
    labels = np.arange(100) % 4
    scores = np.where(np.eye(4)[np.where(labels == 0, 1, labels)] > 0, 0.7, 0.1)  # never says class 0
    report = {"labels": check_labels([table(scores, np.eye(4, dtype=bool)[labels])])}
    problems, notes = findings(report, [], None)
    assert not problems and "the model agrees with 75% of the labels only" in notes[0]


# --------------------------------------------------------------------------------------------------------- duplicates


def moving(seed, *, frames=24, height=64, width=96):
    """A film of soft patches that drift."""
    noise = np.random.default_rng(seed).integers(0, 255, (4, 10, 3), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(noise).resize((width + 3 * frames, height), Image.Resampling.BICUBIC))
    return [wide[:, 3 * i : 3 * i + width] for i in range(frames)]


def encoded(frames, crf="18"):
    return encode_video(frames, 25, options={"crf": crf, "preset": "ultrafast"})


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """A training and a test list: one copied file, one re-encoded, one half the size, one under two labels."""
    folder = tmp_path_factory.mktemp("faulty")
    for number in range(12):
        (folder / f"{number}.mp4").write_bytes(encoded(moving(number)))
    (folder / "copy-of-0.mp4").write_bytes((folder / "0.mp4").read_bytes())
    (folder / "re-encoded-1.mp4").write_bytes(encoded(moving(1), "30"))
    half = [np.asarray(Image.fromarray(frame).resize((48, 32), Image.Resampling.BILINEAR)) for frame in moving(2)]
    (folder / "half-2.mp4").write_bytes(encoded(half))
    (folder / "twice-3.mp4").write_bytes(encoded(moving(3), "23"))
    (folder / "broken.mp4").write_bytes(b"no video")
    train = [(f"{i}.mp4", NAMES[i % 4]) for i in range(8)] + [("twice-3.mp4", "run"), ("broken.mp4", "run")]
    test = [(f"{i}.mp4", NAMES[i % 4]) for i in range(8, 12)]
    test += [("copy-of-0.mp4", "run"), ("re-encoded-1.mp4", "walk"), ("half-2.mp4", "sit")]
    (folder / "labels.txt").write_text("\n".join(NAMES))
    for name, rows in (("train", train), ("test", test)):
        (folder / f"{name}.csv").write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in rows))
    return folder


PLANTED = {
    ("0.mp4", "copy-of-0.mp4"): "same bytes",
    ("1.mp4", "re-encoded-1.mp4"): "same pictures",
    ("2.mp4", "half-2.mp4"): "same pictures",
    ("3.mp4", "twice-3.mp4"): "same pictures",
}


def test_copies_are_found_by_bytes_frames_and_pictures_and_nothing_else_is(faulty):
    lists = {"data": open_manifest(faulty / "train.csv"), "test": open_manifest(faulty / "test.csv")}
    videos = videos_of(lists)
    looked = look_at(videos, progress=False)
    pairs = check_duplicates(videos, looked)
    assert {(pair["path"], pair["other_path"]): pair["kind"] for pair in pairs} == PLANTED
    assert [pair["leak"] for pair in pairs] == [True, True, True, False]
    assert [pair["labels_differ"] for pair in pairs] == [False, False, False, True]
    assert all(pair["similarity"] >= -SAME_PICTURES for pair in pairs)


def test_equal_frames_in_another_container_are_the_same_frames(faulty, tmp_path):
    import av

    with av.open(str(faulty / "5.mp4")) as source, av.open(str(tmp_path / "5.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    (tmp_path / "list.csv").write_text(f"path,label\n{faulty / '5.mp4'},0\n{tmp_path / '5.mkv'},0\n")
    videos = videos_of({"data": open_manifest(tmp_path / "list.csv")})
    (pair,) = check_duplicates(videos, look_at(videos, progress=False))
    assert pair["kind"] == "same frames" and not pair["leak"]


def feature_folder(folder, vectors, *, level="video", complete=True):
    """As `videomae features` lays it out."""
    videos = []
    (folder / "features").mkdir(parents=True)
    for number, (path, vector) in enumerate(vectors.items()):
        np.save(folder / f"features/{number}.npy", vector)
        videos.append({"path": path, "file": f"features/{number}.npy"})
    described = {"identity": {"level": level}, "complete": complete, "videos": videos, "broken": []}
    (folder / "manifest.json").write_text(json.dumps(described))
    return folder


def test_near_features_are_listed_apart_and_are_no_leak(faulty, tmp_path):
    generator = np.random.default_rng(0)
    vectors = {f"{i}.mp4": generator.normal(size=16) for i in range(12)}
    vectors["9.mp4"] = vectors["4.mp4"] + 0.01
    windows = {path: np.stack([vector - 1, vector + 1]) for path, vector in vectors.items()}
    folder = feature_folder(tmp_path / "features", windows, level="window")
    paths, read = read_vectors(folder)
    assert np.allclose(read, np.stack(list(vectors.values())), atol=1e-6) and paths == list(vectors)
    videos = videos_of({"data": open_manifest(faulty / "train.csv"), "test": open_manifest(faulty / "test.csv")})
    (pair,) = check_duplicates(videos, None, (paths, read))
    assert (pair["kind"], pair["path"], pair["other_path"], pair["leak"]) == ("near features", "4.mp4", "9.mp4", False)
    with pytest.raises(ValueError, match="none of the 1 videos of the features is in the lists"):
        check_duplicates(videos, None, (["elsewhere.mp4"], read[:1]))


@pytest.mark.parametrize(
    "more, message",
    [({"level": "token"}, "holds tokens"), ({"complete": False}, "is not complete"), ({}, "holds no features")],
)
def test_features_that_cannot_be_compared_say_why(tmp_path, more, message):
    with pytest.raises(ValueError, match=message):
        read_vectors(feature_folder(tmp_path / "f", {}, **more))


# ------------------------------------------------------------------------------------------------------------ command


def test_the_command_writes_tables_and_pictures_and_fails_for_leaks(faulty, tmp_path, capsys):
    scores, given, _ = planted(12, 2, seed=4)
    rows = [
        {"path": f"{i}.mp4", "label": int(label), "scores": own.tolist(), "error": None}
        for i, (label, own) in enumerate(zip(given, scores))
    ]
    write_parquet(tmp_path / "predictions.parquet", rows)
    lists = ["--data", str(faulty / "train.csv"), "--test_data", str(faulty / "test.csv")]
    words = [str(tmp_path / "predictions.parquet"), "--class_names", str(faulty / "labels.txt"), *lists]
    assert main([*words, "--output", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().out
    assert "PROBLEM: 3 videos of the test list are among the others too: 0.mp4 is copy-of-0.mp4 (same bytes)" in printed
    assert "1 pairs of one video have two labels, the first is 3.mp4 (jump) and twice-3.mp4 (run)" in printed
    assert "1 videos could not be read, the first is broken.mp4" in printed
    with open(tmp_path / "out/labels.csv", newline="") as file:
        written = list(csv.DictReader(file))
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert [row["path"] for row in written] == [row["path"] for row in report["labels"]["rows"]]
    with open(tmp_path / "out/duplicates.csv", newline="") as file:
        assert {(row["path"], row["other_path"]) for row in csv.DictReader(file)} == PLANTED.keys()
    for name in ("labels.png", "duplicates.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert len(picture.getcolors(1 << 20)) > 200  # of the videos' frames
    assert main([*words, "--output", str(tmp_path / "out"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == report


def test_without_the_videos_labels_are_checked_all_the_same(tmp_path, capsys):
    scores, given, wrong = planted()
    rows = [
        {"path": f"gone/{i}.mp4", "label": NAMES[label], **{f"score_{n}": s for n, s in zip(NAMES, own.tolist())}}
        for i, (label, own) in enumerate(zip(given, scores))
    ]
    write_parquet(tmp_path / "mine.parquet", rows)
    assert main([str(tmp_path / "mine.parquet"), "--output", str(tmp_path / "out")]) == 0
    assert " of 1000 labels are doubtful" in capsys.readouterr().out
    first = json.loads((tmp_path / "out/report.json").read_text())["labels"]["rows"][0]
    assert int(first["path"][5:-4]) in wrong and read_scores(tmp_path / "mine.parquet").class_names == NAMES
    with Image.open(tmp_path / "out/labels.png") as picture:
        assert picture.width > 500
    with pytest.raises(ValueError, match="nothing to check"):
        main(["--output", str(tmp_path / "none")])
    with pytest.raises(ValueError, match="--features needs --data"):
        main([str(tmp_path / "mine.parquet"), "--features", str(tmp_path), "--output", str(tmp_path / "none")])
