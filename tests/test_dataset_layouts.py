import json

import datasets
import pytest
import torch

from videomae.data.lists.layouts import open_manifest, open_videos
from videomae.data.synthetic import SyntheticSet, make_synthetic_set
from videomae.data.transforms import TrainTransform
from videomae.data.video_dataset import VideoDataset
from videomae.sampling_videomae import ClipSampling

pytestmark = pytest.mark.filterwarnings("ignore:training flips clips", "ignore:This DataLoader will create")


def entries(manifest):
    return [(manifest.path(i), manifest.label(i)) for i in range(len(manifest))]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# -- annotation files --------------------------------------------------------------------------------------------------


@pytest.fixture
def kinetics(tmp_path):
    write(tmp_path / "videos/abseiling/_abc-D_000010_000020.mp4", "")
    write(tmp_path / "videos/zumba/xyz.mkv", "")
    rows = ["label,youtube_id,time_start,time_end,split,is_cc", "abseiling,_abc-D,10,20,train,0"]
    rows += ["zumba,xyz,3,13,train,0", "zumba,other,3,13,val,0"]
    return write(tmp_path / "train.csv", "\n".join(rows))


def test_kinetics_files_are_found_by_name_wherever_they_lie(kinetics):
    manifest = open_manifest(kinetics, root=kinetics.parent / "videos", split="train")
    assert entries(manifest) == [("abseiling/_abc-D_000010_000020.mp4", 0), ("zumba/xyz.mkv", 1)]
    assert manifest.class_names == ("abseiling", "zumba")


def test_missing_kinetics_videos_are_an_error_with_counts_unless_dropped(kinetics):
    with pytest.raises(
        ValueError, match=r"1 of 3 videos are not below .*'other_000003_000013 \(line 4\)'.*missing='drop'"
    ):
        open_manifest(kinetics, root=kinetics.parent / "videos")
    assert len(open_manifest(kinetics, root=kinetics.parent / "videos", missing="drop")) == 2
    with pytest.raises(FileNotFoundError, match="give root"):
        open_manifest(kinetics, root=kinetics.parent / "nowhere")
    write(kinetics.parent / "videos/again/xyz.mp4", "")
    with pytest.raises(ValueError, match="two videos of one name"):
        open_manifest(kinetics, root=kinetics.parent / "videos", missing="drop")


@pytest.mark.parametrize("seconds", ["1e400", "nan", "x", ""])
def test_times_that_are_no_seconds_are_refused_with_the_line(kinetics, seconds):
    path = write(kinetics.parent / "bad.csv", f"label,youtube_id,time_start,time_end,split\na,x,{seconds},3,train\n")
    with pytest.raises(ValueError, match=r"bad\.csv, line 2: time_start and time_end must be seconds"):
        open_manifest(path)


def test_something_something_is_numbered_by_its_labels_file(tmp_path):
    write(tmp_path / "videos/17.webm", "")
    write(tmp_path / "videos/4.webm", "")
    write(tmp_path / "labels.json", json.dumps({"Closing something": "1", "Approaching something": "0", "Z": "2"}))
    path = write(
        tmp_path / "train.json",
        json.dumps([{"id": "17", "template": "Closing [something]"}, {"id": 4, "template": "Approaching [something]"}]),
    )
    manifest = open_manifest(path, root=tmp_path / "videos")
    assert entries(manifest) == [("17.webm", 1), ("4.webm", 0)] and manifest.num_labels == 3
    unlabelled = write(tmp_path / "test.json", json.dumps([{"id": "4"}]))
    assert open_manifest(unlabelled, root=tmp_path / "videos").labels is None
    with pytest.raises(ValueError, match="is not a list of entries with an id"):
        open_manifest(write(tmp_path / "odd.json", "[1]"), root=tmp_path / "videos")
    with pytest.raises(ValueError, match="is no known list: it holds nothing"):
        open_manifest(write(tmp_path / "odd.json", "{}"))
    with pytest.raises(ValueError, match="is not JSON"):
        open_manifest(write(tmp_path / "broken.json", "[{"))


def test_ucf101_class_numbers_count_from_one_in_the_files_and_from_zero_here(tmp_path):
    write(tmp_path / "splits/classInd.txt", "1 ApplyEyeMakeup\n2 Archery\n")
    write(tmp_path / "splits/trainlist01.txt", "ApplyEyeMakeup/v_a.avi 1\nArchery/v_b.avi 2\n")
    write(tmp_path / "splits/testlist01.txt", "Archery/v_c.avi\n")
    for name in ("ApplyEyeMakeup/v_a.avi", "Archery/v_b.avi", "Archery/v_c.avi"):
        write(tmp_path / "videos" / name, "")
    train = open_manifest(tmp_path / "splits/trainlist01.txt", root=tmp_path / "videos")
    assert entries(train) == [("ApplyEyeMakeup/v_a.avi", 0), ("Archery/v_b.avi", 1)]
    test = open_manifest(tmp_path / "splits", root=tmp_path / "videos", split="test1")
    assert entries(test) == [("Archery/v_c.avi", 1)] and test.num_labels == 2
    with pytest.raises(ValueError, match="UCF101 has splits train1"):
        open_manifest(tmp_path / "splits", root=tmp_path / "videos")


def test_hmdb51_has_a_split_file_per_class_and_unused_videos(tmp_path):
    write(tmp_path / "splits/brush_hair_test_split1.txt", "a.avi 1 \nb.avi 2 \nc.avi 0 \n")
    write(tmp_path / "splits/wave_test_split1.txt", "d.avi 1 \n\n")
    write(tmp_path / "splits/wave_test_split2.txt", "d.avi 2 \n")
    for name in ("brush_hair/a.avi", "brush_hair/b.avi", "wave/d.avi"):
        write(tmp_path / "videos" / name, "")
    read = lambda split: entries(open_manifest(tmp_path / "splits", root=tmp_path / "videos", split=split))  # noqa: E731
    assert read("train1") == [("brush_hair/a.avi", 0), ("wave/d.avi", 1)]
    assert read("test1") == [("brush_hair/b.avi", 0)] and read("test2") == [("wave/d.avi", 0)]
    with pytest.raises(ValueError, match="HMDB51 has splits"):
        open_manifest(tmp_path / "splits")
    write(tmp_path / "splits/wave_test_split3.txt", "d.avi 7\n")
    with pytest.raises(ValueError, match=r"line 1: expected `video 0\|1\|2`"):
        read("train3")


# -- datasets ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    spec = SyntheticSet(clips=24, validation_clips=0, test_clips=0, num_frames=16, height=32, width=48)
    return make_synthetic_set(tmp_path_factory.mktemp("data") / "synthetic", spec)


@pytest.fixture(scope="module")
def table(synthetic):
    manifest = open_manifest(synthetic / "train.csv")
    features = datasets.Features(
        {"video": datasets.Video(decode=False), "label": datasets.ClassLabel(names=list(manifest.class_names))}
    )
    videos = [{"path": None, "bytes": (synthetic / manifest.path(i)).read_bytes()} for i in range(len(manifest))]
    return datasets.Dataset.from_dict({"video": videos, "label": manifest.labels.tolist()}, features=features)


FIELDS = dict(mode="train", sampling=ClipSampling(num_frames=4, stride_frames=2), transform=TrainTransform(size=16))


def test_a_datasets_table_gives_the_clips_of_its_files(synthetic, table):
    from_table, from_files = VideoDataset(table, **FIELDS), VideoDataset(synthetic / "train.csv", **FIELDS)
    assert from_table.class_names == from_files.class_names and from_table.num_labels == 8
    for index in (0, 5, 23):
        one, other = from_table[index], from_files[index]
        assert torch.equal(one["pixel_values"], other["pixel_values"]) and one["label"] == other["label"]
    assert from_table[5]["path"] == "row 5"
    shuffled = VideoDataset(table.shuffle(seed=1), **FIELDS)
    assert len(shuffled) == 24 and shuffled.manifest.labels.tolist() == table.shuffle(seed=1)["label"][:]
    subset = from_table.manifest.subset([3, 1])
    assert subset.source(1)["bytes"] == table[1]["video"]["bytes"] and subset.labels.tolist() == [3, 1]


def test_a_decoding_column_of_paths_is_read_by_us(synthetic):
    manifest = open_manifest(synthetic / "train.csv")
    paths = [manifest.source(i) for i in range(8)]
    table = datasets.Dataset.from_dict({"video": paths, "label": ["b", "a"] * 4}).cast_column("video", datasets.Video())
    dataset = VideoDataset(datasets.DatasetDict({"train": table})["train"], **FIELDS)
    assert dataset.class_names == ("a", "b") and dataset.labels.tolist() == [1, 0] * 4
    assert dataset[2]["path"] == paths[2] and dataset[2]["pixel_values"].shape == (1, 4, 3, 16, 16)


def test_tables_that_cannot_be_meant_are_refused(table):
    splits = datasets.DatasetDict({"train": table, "test": table})
    assert len(open_manifest(splits, split="test")) == 24
    with pytest.raises(ValueError, match=r"several splits \('train', 'test'\); choose one"):
        open_manifest(splits)
    with pytest.raises(ValueError, match="no split 'dev'"):
        open_manifest(splits, split="dev")
    with pytest.raises(ValueError, match="no video column among 'label'"):
        open_manifest(table.remove_columns("video"))
    with pytest.raises(TypeError, match=r"has no length.* without streaming=True"):
        open_manifest(table.to_iterable_dataset())
    with pytest.raises(TypeError, match=r"a data set is a path or a datasets\.Dataset, not int"):
        open_manifest(3)
    with pytest.raises(ValueError, match="are not those given"):
        open_manifest(table, class_names=["x", "y"])


def test_a_folder_of_save_to_disk_is_recognised(table, tmp_path):
    table.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": table, "test": table.select([1, 3])}).save_to_disk(tmp_path / "splits")
    for opened in (open_manifest, open_videos):
        manifest = opened(str(tmp_path / "one"))
        assert (len(manifest), manifest.origin) == (24, str(tmp_path / "one"))
        assert manifest.source(5)["bytes"] == table[5]["video"]["bytes"]
        assert len(opened(tmp_path / "splits", split="test")) == 2
    assert manifest.sha256(labels=True) == open_manifest(table).sha256(labels=True)
    with pytest.raises(ValueError, match=r"several splits \('train', 'test'\); choose one with split"):
        open_manifest(tmp_path / "splits")
    (tmp_path / "one" / "state.json").unlink()
    with pytest.raises(ValueError, match="looks like a data set that save_to_disk wrote, and load_from_disk cannot"):
        open_manifest(tmp_path / "one")
