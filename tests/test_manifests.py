import json
import os
import time
import tracemalloc

import numpy as np
import pytest
import torch

from videomae.data.check import check, render
from videomae.data.lists.layouts import open_manifest
from videomae.data.sources import FrameFolder


def write(path, text, **keywords):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, **keywords)
    return path


def entries(manifest):
    return [(manifest.path(i), manifest.label(i)) for i in range(len(manifest))]


def touch(folder, *names):
    for name in names:
        write(folder / name, "")


# -- lists -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [" ", ",", "\t", ";", "   "])
def test_the_delimiter_of_a_v1_list_is_recognised(tmp_path, delimiter):
    path = write(tmp_path / "train.csv", f"a/x.mp4{delimiter}1\nb/y.mp4{delimiter}0\n")
    manifest = open_manifest(path)
    assert entries(manifest) == [("a/x.mp4", 1), ("b/y.mp4", 0)]
    assert manifest.num_labels == 2 and manifest.class_names is None
    assert manifest.source(0) == str(tmp_path / "a/x.mp4")
    assert open_manifest(path, root="/videos").source(1) == "/videos/b/y.mp4"


def test_blank_lines_quotes_byte_order_marks_windows_ends_and_unicode_are_handled(tmp_path):
    text = '\ufeff\r\n"vidéos/Ein Film, zwei.mp4" 3\r\n\r\n动作/跑步.mp4 1\r\n   \r\n'
    manifest = open_manifest(write(tmp_path / "list.txt", text, encoding="utf-8", newline=""))
    assert entries(manifest) == [("vidéos/Ein Film, zwei.mp4", 3), ("动作/跑步.mp4", 1)]


def test_paths_with_blanks_are_joined_when_they_look_like_videos(tmp_path):
    path = write(tmp_path / "list.txt", "a/my first video.mp4 1\nb/video.mp4 0\nc/take 2 3.webm 1\n")
    assert entries(open_manifest(path)) == [("a/my first video.mp4", 1), ("b/video.mp4", 0), ("c/take 2 3.webm", 1)]


def test_v2_lists_mix_videos_and_frame_folders(tmp_path):
    path = write(tmp_path / "hybrid.txt", "k/a.mp4 0 -1 0\nSomethingV2/frames/17 1 40 0\nwith blank.mp4 0 -1 0\n")
    manifest = open_manifest(path)
    assert manifest.source(0) == str(tmp_path / "k/a.mp4")
    assert manifest.source(1) == FrameFolder(str(tmp_path / "SomethingV2/frames/17"), 1, 40, "img_{:05}.jpg")
    assert manifest.path(2) == "with blank.mp4"
    unlabelled = open_manifest(write(tmp_path / "three.txt", "k/a.mp4 0 -1\nk/b.mp4 0 -1\n"))
    assert unlabelled.labels is None and len(unlabelled) == 2


def test_v2s_own_hybrid_list_of_three_columns_names_the_frames_of_each_source(tmp_path):
    lines = ["data/SomethingV2/frames/17 1 40\n"] * 300  # as many as are looked at, and more, before the first video
    lines += ["data/AVA2.2/frames/clip 901 90\n", "your_path/other/x 0 20\n", "k710/with blank.mp4 0 -1\n"]
    path = write(tmp_path / "hybrid.csv", "".join(lines))
    manifest = open_manifest(path, root="/r")
    assert manifest.labels is None and len(manifest) == 303
    assert manifest.source(0) == FrameFolder("/r/data/SomethingV2/frames/17", 1, 40, "img_{:05}.jpg")
    assert manifest.source(300) == FrameFolder("/r/data/AVA2.2/frames/clip", 901, 90, "image_{:06}.jpg")
    assert manifest.source(301) == FrameFolder("/r/your_path/other/x", 0, 20, "img_{:05}.jpg")
    assert manifest.source(302) == "/r/k710/with blank.mp4"
    with pytest.raises(ValueError, match=r"short.csv, line 303: 2 columns where the lines before have 3"):
        open_manifest(write(tmp_path / "short.csv", "".join([*lines[:302], "x 0\n", lines[-1]])))
    chosen = open_manifest(path, root="/r", pattern="f{}.png")  # what the caller says goes first
    assert {chosen.source(i).pattern for i in (0, 300, 301)} == {"f{}.png"}


def test_lists_of_paths_alone_have_no_labels(tmp_path):
    manifest = open_manifest(write(tmp_path / "list.txt", "a.mp4\nfolder/b.webm\n"))
    assert entries(manifest) == [("a.mp4", None), ("folder/b.webm", None)]


def test_three_columns_are_not_guessed(tmp_path):
    path = write(tmp_path / "list.txt", "folder/a 1 40\nfolder/b 1 31\n")
    with pytest.raises(ValueError, match=r"list.txt, line 1: three columns can mean .*layout='video_list'"):
        open_manifest(path)
    assert open_manifest(path, layout="video_list").source(1) == FrameFolder(
        str(tmp_path / "folder/b"), 1, 31, "img_{:05}.jpg"
    )
    frames = open_manifest(write(tmp_path / "frames.txt", "folder/a 40 2\nfolder/b 31 0\n"), layout="frame_list")
    assert frames.source(0).count == 40 and frames.label(0) == 2


def test_names_as_labels_are_numbered_in_the_order_given_beside_or_sorted(tmp_path):
    path = write(tmp_path / "train.csv", "a.mp4,walk\nb.mp4,run\nc.mp4,walk\n")
    assert open_manifest(path).class_names == ("run", "walk")
    assert open_manifest(path, class_names=["walk", "sit", "run"]).labels.tolist() == [0, 2, 0]
    write(tmp_path / "labels.txt", "walk\nrun\n")
    assert open_manifest(path).labels.tolist() == [0, 1, 0]
    assert open_manifest(path).num_labels == 2


@pytest.mark.parametrize(
    "text, options, message",
    [
        ("a.mp4 0\nb.mp4 x\n", {}, "line 2: the list has neither"),
        ("a.mp4 0\n" * 300 + "b.mp4 1 2 3 4\n", {}, "line 301: 5 columns where the lines before have 2"),
        ("a.mp4,0\nb.mp4,run\n", {}, "line 2: label 'run' is a name where others are numbers"),
        ("a.mp4 0\nb.mp4 7\n", {"num_labels": 5}, "line 2: label 7 lies outside 0 ... 4"),
        ("a.mp4 0\nb.mp4 -3\n", {"num_labels": 5}, "line 2: label -3 lies outside"),
        ("a.mp4,run\nb.mp4,jump\n", {"class_names": ["run", "walk"]}, "line 2: no class 'jump' among 'run', 'walk'"),
        ("a.mp4 0\n../b.mp4 1\n", {}, "line 2: '../b.mp4' leads out of the data folder"),
        ("a.mp4 0\nb.mp4 1\n\na.mp4 1\n", {}, "line 4: 'a.mp4' has another label on line 1"),
        ("a.mp4 1 0 3\n", {}, "line 1: a total of 0 frames"),
        ("a.mp4,1.5\nb.mp4,2\n", {}, "line 1: label '1.5' is a name"),
        ("", {}, "lists no videos"),
        ("\n  \n", {}, "lists no videos"),
        ("hello\n", {}, "line 1: the list has neither"),
        (f"a.mp4 {10**20} 5 0\n", {}, "line 1: frames from 10{20} on, 5 of them, are more than"),
        (f"a.mp4 1 {10**20} 0\n", {}, "line 1: frames from 1 on, 10{20} of them, are more than"),
        (f"a.mp4 0\nb.mp4 {10**20}\n", {}, "line 2: label 10{20} is no class number"),
        (f"path,label\na.mp4,0|{2**40}\n", {"label_kind": "multi"}, "1,099,511,627,777 classes, and 100,000 are the"),
        ("root:x:0:/root:/bin/bash\nbin:x:1:/bin:/bin/sh\n", {}, "line 1: the list has neither"),
    ],
)
def test_bad_lists_are_refused_with_the_line(tmp_path, text, options, message):
    path = write(tmp_path / "list.txt", text)
    with pytest.raises(ValueError, match=message) as error:
        open_manifest(path, **options)
    assert "list.txt" in str(error.value)


def test_two_possible_delimiters_are_an_error_that_shows_both(tmp_path):
    path = write(tmp_path / "list.txt", "a/x,1 0\nb/y,2 1\n")
    with pytest.raises(ValueError, match=r"line 1: could be split at commas \(2 columns\) and blanks \(2 columns\)"):
        open_manifest(path)
    assert entries(open_manifest(write(tmp_path / "header.csv", "path,label\na/x,1 0\nb/y,2 1\n")))[0] == ("a/x", 0)
    assert entries(open_manifest(write(tmp_path / "quoted.txt", '"a/x,1" 0\n"b,y" 1\n')))[0] == ("a/x,1", 0)


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such list or folder: .*nothing.csv"):
        open_manifest(tmp_path / "nothing.csv")


def test_repeated_entries_with_one_label_are_kept(tmp_path):
    assert len(open_manifest(write(tmp_path / "list.txt", "a.mp4 1\na.mp4 1\nb.mp4 0\n"))) == 3


# -- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_tables_are_read_by_their_column_names(tmp_path, suffix):
    rows = [
        {"fold": 1, "video_path": "a b.mp4", "action": "run", "split": "train"},
        {"fold": 2, "video_path": "ü.webm", "action": "walk", "split": "test"},
        {"fold": 2, "video_path": "c.mp4", "action": "run", "split": "test"},
    ]
    path = tmp_path / f"table.{suffix}"
    if suffix == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif suffix == "jsonl":
        write(path, "\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    else:
        delimiter = {"csv": ",", "tsv": "\t"}[suffix]
        lines = [rows[0].keys(), *(row.values() for row in rows)]
        write(path, "\n".join(delimiter.join(map(str, line)) for line in lines), encoding="utf-8")
    assert entries(open_manifest(path)) == [("a b.mp4", 0), ("ü.webm", 1), ("c.mp4", 0)]
    test = open_manifest(path, split="test", class_names=["run", "walk"])
    assert entries(test) == [("ü.webm", 1), ("c.mp4", 0)]
    with pytest.raises(ValueError, match="no rows of split 'dev'"):
        open_manifest(path, split="dev")


def test_whole_numbers_that_a_table_holds_as_floats_are_classes(tmp_path):
    path = write(tmp_path / "list.jsonl", '{"path": "a.mp4", "label": 1.0}\n{"path": "b.mp4", "label": 0.0}\n')
    assert entries(open_manifest(path)) == [("a.mp4", 1), ("b.mp4", 0)]
    path = write(tmp_path / "halves.jsonl", '{"path": "a.mp4", "label": 0.5}\n{"path": "b.mp4", "label": 1}\n')
    with pytest.raises(ValueError, match=r"label 0\.5 is not an integer; for values pass label_kind='value'"):
        open_manifest(path)


def test_several_classes_and_values_are_vectors(tmp_path):
    path = write(tmp_path / "multi.csv", "path,labels\na.mp4,run|jump\nb.mp4,walk\n")
    multi = open_manifest(path, label_kind="multi")
    assert multi.class_names == ("jump", "run", "walk") and multi.labels.tolist() == [[1, 1, 0], [0, 0, 1]]
    path = write(
        tmp_path / "values.jsonl", '{"path": "a.mp4", "target": [0.5, 2]}\n{"path": "b.mp4", "target": [1, 3]}\n'
    )
    assert open_manifest(path, label_kind="value").labels.tolist() == [[0.5, 2.0], [1.0, 3.0]]
    with pytest.raises(ValueError, match="line 1: the label is a list; pass label_kind"):
        open_manifest(path)


def test_an_entry_may_have_none_of_several_classes(tmp_path):
    path = write(tmp_path / "multi.csv", "path,labels\na.mp4,\nb.mp4,walk|run\n")
    assert open_manifest(path, label_kind="multi").labels.tolist() == [[0, 0], [1, 1]]
    numbers = write(tmp_path / "numbers.csv", "path,labels\na.mp4,0|-1\nb.mp4,1\n")
    with pytest.raises(ValueError, match="line 2: label -1 lies outside 0 and above"):
        open_manifest(numbers, label_kind="multi")
    ragged = write(tmp_path / "ragged.csv", "path,labels\na.mp4,0|1\nb.mp4,1\n")
    with pytest.raises(ValueError, match="line 3: 1 values where the entries before have 2"):
        open_manifest(ragged, label_kind="value")


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("t.csv", "path,label\na.mp4\n", "line 2: 1 columns where the header has 2"),
        ("t.csv", "path,label\na.mp4,1\nb.mp4,\n", "line 3: the label is missing"),
        ("t.csv", "path,label,path\na,1,b\n", "two columns have one name"),
        ("t.jsonl", '{"path": "a.mp4"}\n{oops\n', "line 2: not JSON"),
        ("t.jsonl", '{"movie": "a.mp4"}\n', "line 1: no column for the path among 'movie'"),
        ("t.jsonl", '["a.mp4"]\n', "line 1: each line must be an object"),
        ("t.csv", "path,label\n,1\n", "line 2: the path is empty"),
        ("t.jsonl", "[" * 100_000, "line 1: nested too deep"),
        ("t.jsonl", '{"path": "a.mp4", "label": {"a": 1}}\n', "line 1: the label is no name, number or list of these"),
        ("t.jsonl", '{"path": "a.mp4", "label": [[1]]}\n', "line 1: the label is no name, number or list of these"),
        ("t.json", "[" * 100_000, "is nested too deep for a list of videos"),
    ],
)
def test_bad_tables_are_refused_with_the_line(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        open_manifest(write(tmp_path / name, text))


# -- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_per_class_is_read_with_webm_and_nested_folders(tmp_path):
    touch(tmp_path, "run/b.mp4", "run/a.webm", "walk/part/c.avi", "walk/notes.txt", ".cache/x.mp4", "readme.md")
    manifest = open_manifest(tmp_path)
    assert entries(manifest) == [("run/a.webm", 0), ("run/b.mp4", 0), ("walk/part/c.avi", 1)]
    assert manifest.class_names == ("run", "walk") and manifest.source(0) == str(tmp_path / "run/a.webm")


def test_folders_and_lists_given_by_relative_paths_are_read_from_there(tmp_path, monkeypatch):
    touch(tmp_path, "my set/run/a b.mp4", "my set/walk/c.mp4")
    write(tmp_path / "my set/list.txt", "run/a b.mp4 0\nwalk/c.mp4 1\n")
    monkeypatch.chdir(tmp_path)
    for manifest in (open_manifest("my set"), open_manifest("my set/list.txt"), open_manifest("my set", root=".")):
        assert [os.path.exists(manifest.source(i)) for i in range(2)] == [True, True]
    assert open_manifest("my set", root=".").path(0) == "my set/run/a b.mp4"


def test_folders_of_frames_are_entries_themselves(tmp_path):
    touch(tmp_path, *(f"{c}/{v}/img_{i}.jpg" for c in ("run", "walk") for v in "ab" for i in (1, 2, 10)))
    manifest = open_manifest(tmp_path)
    assert entries(manifest) == [("run/a", 0), ("run/b", 0), ("walk/a", 1), ("walk/b", 1)]
    assert manifest.source(3) == FrameFolder(str(tmp_path / "walk/b"), -1, 3, "img_{:05}.jpg")


def test_splits_are_sub_folders_and_flat_folders_have_no_labels(tmp_path):
    touch(
        tmp_path, "train/run/a.mp4", "train/walk/b.mp4", "val/run/c.mp4", "val/walk/d.mp4", "flat/x.mp4", "flat/y.mp4"
    )
    assert entries(open_manifest(tmp_path, split="val")) == [("run/c.mp4", 0), ("walk/d.mp4", 1)]
    assert open_manifest(tmp_path / "flat").labels is None
    with pytest.raises(ValueError, match="no folder for split 'test'; there are 'flat', 'train', 'val'"):
        open_manifest(tmp_path, split="test")


def test_bad_folders_are_refused_with_counts(tmp_path):
    touch(tmp_path / "one", "run/a.mp4", "walk/b.mp4", "walk/c.r3d", "run/d.braw", "run/e.braw")
    with pytest.raises(ValueError, match=r"3 files that are neither known videos nor side files \(2 .braw, 1 .r3d\)"):
        open_manifest(tmp_path / "one")
    touch(tmp_path / "two", "run/a.mp4")
    (tmp_path / "two" / "walk").mkdir()
    with pytest.raises(ValueError, match="class 'walk' has no videos"):
        open_manifest(tmp_path / "two")
    (tmp_path / "three").mkdir()
    with pytest.raises(ValueError, match="holds no videos"):
        open_manifest(tmp_path / "three")
    touch(tmp_path / "four", "run/a.mp4", "b.mp4")
    with pytest.raises(ValueError, match="both class folders and videos beside them"):
        open_manifest(tmp_path / "four")
    touch(tmp_path / "five", "run/a.mp4", "walk/a.mp4")
    with pytest.raises(ValueError, match="folder 'walk' is not among the classes"):
        open_manifest(tmp_path / "five", class_names=["run", "jump"])


def test_files_of_one_name_in_two_folders_are_two_entries(tmp_path):
    touch(tmp_path, "run/a.mp4", "walk/a.mp4")
    assert entries(open_manifest(tmp_path)) == [("run/a.mp4", 0), ("walk/a.mp4", 1)]


# -- the manifest itself ---------------------------------------------------------------------------------------------


def test_a_classifier_needs_labels_in_range_of_several_classes(tmp_path):
    one = open_manifest(write(tmp_path / "one.txt", "a.mp4 4\nb.mp4 4\n"))
    with pytest.raises(ValueError, match="one class only"):
        one.check_labels()
    with pytest.raises(ValueError, match=r"label 4 of a.mp4 lies outside 0 ... 1 \(2 such entries\)"):
        one.check_labels(num_labels=2)
    with pytest.raises(ValueError, match="has no labels"):
        open_manifest(write(tmp_path / "none.txt", "a.mp4\n")).check_labels()
    with pytest.raises(ValueError, match=r"label -1 of a\.mp4 lies outside"):
        open_manifest(write(tmp_path / "minus.txt", "a.mp4 -1\nb.mp4 0\n")).check_labels()


def test_classes_that_a_flip_would_swap_are_found_by_their_words(tmp_path):
    names = ["turning_left", "Pushing something from right to left", "bright lights", "turns clockwise", "copyright"]
    path = write(tmp_path / "list.csv", "path,label\n" + "".join(f"{i}.mp4,{name}\n" for i, name in enumerate(names)))
    assert sorted(open_manifest(path).sided_classes()) == sorted([names[0], names[1], names[3]])


def test_an_entry_named_like_a_column_is_no_header(tmp_path):
    assert entries(open_manifest(write(tmp_path / "list.txt", "clip 0\nvideo 1\n"))) == [("clip", 0), ("video", 1)]


def test_a_subset_keeps_labels_and_sources(tmp_path):
    manifest = open_manifest(write(tmp_path / "list.txt", "a.mp4 0 -1 2\nf 1 40 1\nüb.mp4 0 -1 0\n"))
    subset = manifest.subset([2, 1])
    assert entries(subset) == [("üb.mp4", 0), ("f", 1)] and subset.source(1).count == 40


def test_a_label_too_large_for_a_class_is_named_before_anything_is_counted_by_class(tmp_path):
    path = write(tmp_path / "list.txt", "a.mp4 0\nb.mp4 2000000000\n")
    manifest = open_manifest(path)  # pre-training looks at no label
    message = r"label 2000000000 of b\.mp4 would make more than 100,000 classes; fix the list, or use names"
    for ask in (lambda: manifest.num_labels, manifest.check_labels):
        with pytest.raises(ValueError, match=message):
            ask()
    tracemalloc.start()
    report = check(manifest, probe=0, progress=False)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()
    assert any("label 2000000000 of b.mp4 would make" in problem for problem in report["problems"])
    render(report, 50.0)


def test_an_unknown_layout_or_label_kind_is_refused(tmp_path):
    path = write(tmp_path / "list.txt", "a.mp4 0\n")
    with pytest.raises(ValueError, match="unknown layout 'lst'; choose one of"):
        open_manifest(path, layout="lst")
    with pytest.raises(ValueError, match="label_kind must be one of"):
        open_manifest(path, label_kind="soft")


@pytest.mark.slow
def test_a_million_entries_open_fast_and_small_and_are_shared_by_workers(tmp_path):
    path = tmp_path / "million.txt"
    with open(path, "w") as file:
        file.writelines(
            f"kinetics/train/class_{i % 400:03d}/video_{i:08d}_000010.mp4 {i % 400}\n" for i in range(10**6)
        )
    script = f"""
import os, resource, time
from videomae.data.lists.layouts import open_manifest
def private():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.process_time()
manifest = open_manifest({str(path)!r})
seconds, peak = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
assert len(manifest) == 10**6 and manifest.path(999_999).endswith("video_00999999_000010.mp4")
if (child := os.fork()) == 0:
    start = private()
    for i in range(0, 10**6, 3):
        manifest.path(i), manifest.label(i)
    os._exit(min(int(private() - start), 255))
grown = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(seconds, peak - before, grown)
"""
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, megabytes, copied = map(float, done.stdout.split())
    assert seconds < 3 and megabytes < 500, done.stdout
    assert copied < 10, f"a worker made {copied} MB of its own"


def test_pickled_for_a_spawned_worker_the_tensors_are_shared_not_copied(tmp_path):
    from multiprocessing.reduction import ForkingPickler

    import torch.multiprocessing  # noqa: F401  registers the reductions

    path = write(tmp_path / "list.txt", "".join(f"a/video_{i:06d}.mp4 {i % 5}\n" for i in range(20000)))
    manifest = open_manifest(path)
    assert len(ForkingPickler.dumps(manifest)) < 5000


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX only")
def test_names_that_are_not_utf8_survive(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"caf\xe9/a.mp4 1\nb.mp4 0\n")
    assert os.fsencode(open_manifest(tmp_path / "list.txt").path(0)) == b"caf\xe9/a.mp4"


def test_reading_many_lines_stays_linear(tmp_path):
    path = write(tmp_path / "list.txt", "".join(f"a/video_{i:06d}.mp4 {i % 5}\n" for i in range(50_000)))
    start = time.process_time()
    assert len(open_manifest(path)) == 50_000
    assert time.process_time() - start < 2
    assert (
        isinstance(open_manifest(path).labels, torch.Tensor)
        and np.bincount(open_manifest(path).labels).tolist() == [10_000] * 5
    )
