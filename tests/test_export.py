"""`videomae export` as a user runs it: the ONNX folder, its proof, and what is refused."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from published_folders import LABELS, save_tiny, tiny_config
from video_files import write_video

from videomae import (
    ReducedVideoMAEForVideoClassification,
    VideoMAEConfig,
    VideoMAEForActionDetection,
    VideoMAEForVideoClassification,
    VideoMAEVideoProcessor,
)
from videomae.commands.main import main
from videomae.features.clips import FeatureEncoder
from videomae.inference import onnx_export as export_module
from videomae.inference.fidelity import VECTORS, agreement, example_clips, example_detections, logits_of
from videomae.inference.onnx_export import RECORD, export, onnx_answers, open_graph


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("export") / "model", "classify")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "video.mp4", 70, width=48, height=40)


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("onnx") / "onnx"
    assert main(["export", str(folder), str(output)]) == 0
    return output


def test_any_number_of_clips_gets_the_models_logits(folder, exported):
    model = VideoMAEForVideoClassification.from_pretrained(folder).eval()
    clips = example_clips(folder, count=5)
    for batch in (1, 5):
        assert torch.allclose(
            onnx_answers(exported / "model.onnx", [(part,) for part in clips.split(batch)]),
            logits_of(model, clips),
            atol=1e-5,
        )
    onnx.checker.check_model(str(exported / "model.onnx"))


def test_the_folder_is_all_that_is_needed_from_a_file_to_a_label(folder, exported, video):
    """The snippet of the module's docstring and of docs/inference.md."""
    pixel_values = VideoMAEVideoProcessor.from_pretrained(exported)(str(video), return_tensors="np")["pixel_values"]
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    (logits,) = session.run(["logits"], {"pixel_values": pixel_values})
    model = VideoMAEForVideoClassification.from_pretrained(folder).eval()
    expected = logits_of(model, example_clips(folder, [video]))
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-5)
    assert VideoMAEConfig.from_pretrained(exported).id2label == LABELS


def test_the_record_says_what_a_program_without_this_package_needs(exported):
    record = json.loads((exported / RECORD).read_text())
    assert record["input"] == {"name": "pixel_values", "dtype": "float32", "shape": ["batch", 16, 3, 32, 32]}
    assert record["output"]["shape"] == ["batch", 4] and record["labels"] == list(LABELS.values())
    assert record["pixels"]["image_mean"] == [0.485, 0.456, 0.406] and record["pixels"]["crop_size"]["width"] == 32
    assert record["sampling"]["stride_frames"] == 4 and record["int8"] is False
    assert record["proof"]["count"] == record["proof"]["same"] == 4 and record["proof"]["of"] == "clips"
    assert record["proof"]["max_score_difference"] < 1e-5
    assert str(Path(export_module.__file__).parent).encode() not in (exported / "model.onnx").read_bytes()
    (imported,) = {entry.version for entry in onnx.load(exported / "model.onnx").opset_import if not entry.domain}
    assert record["opset"] == imported
    assert sorted(path.name for path in exported.iterdir()) == [
        "config.json",
        "export.json",
        "model.onnx",
        "preprocessor_config.json",
        "video_preprocessor_config.json",
    ]


def test_int8_for_a_fixed_batch_is_smaller_and_compared_on_videos(folder, exported, video, tmp_path, capsys):
    output = tmp_path / "int8"
    words = ["--int8", "--batch_size", "2", "--opset", "18", "--videos", str(video)]
    assert main(["export", str(folder), str(output), *words]) == 0
    said = capsys.readouterr().out
    assert "pixel_values 2 x 16 x 3 x 32 x 32 -> 4 classes, opset 18" in said
    assert "compared with the model on videos: the same answer on 2 of 2 clips" in said and "drawn" not in said
    assert (output / "model.onnx").stat().st_size < 0.65 * (exported / "model.onnx").stat().st_size
    assert {"MatMulInteger", "DynamicQuantizeLinear"} <= {
        node.op_type for node in onnx.load(output / "model.onnx").graph.node
    }
    assert json.loads((output / RECORD).read_text())["proof"]["on"] == "videos"
    # The same wish with a bound that no rounding meets leaves nothing behind.
    with pytest.raises(
        ValueError, match=r"the exported model \(int8\) gives the same answer on .* nothing was written; leave --int8"
    ):
        export(folder, tmp_path / "strict", int8=True, batch_size=2, opset=18, max_score_difference=1e-9)
    assert [path.name for path in tmp_path.iterdir()] == ["int8"]


def test_weights_beyond_one_file_lie_beside_the_graph_and_merging_is_in_it(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "LARGEST_FILE_BYTES", 1000)
    reduced = ReducedVideoMAEForVideoClassification.from_pretrained(folder, merge_per_layer=20).eval()
    reduced.save_pretrained(tmp_path / "reduced")
    record = export(tmp_path / "reduced", tmp_path / "onnx")
    assert record["architecture"] == "ReducedVideoMAEForVideoClassification"
    weights = sum(tensor.nbytes for tensor in reduced.state_dict().values())
    assert (tmp_path / "onnx" / "model.onnx.data").stat().st_size > 0.9 * weights
    assert (tmp_path / "onnx" / "model.onnx").stat().st_size < 0.2 * weights
    clips = example_clips(folder, count=3)
    assert torch.allclose(
        onnx_answers(tmp_path / "onnx" / "model.onnx", [(clips,)]), logits_of(reduced, clips), atol=1e-5
    )


@pytest.mark.parametrize(
    "family, frame_size, words", [("videomae", (40, 61), ["--frame_size", "40", "61"]), ("mmaction2", (40, 71), [])]
)
def test_a_detector_scores_any_number_of_boxes_of_frames_that_patches_do_not_tile(family, frame_size, words, tmp_path):
    config = tiny_config("detect", initializer_range=0.2, detection_family=family, detection_short_side=40)
    torch.manual_seed(0)
    model = VideoMAEForActionDetection(config).eval()
    model.save_pretrained(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "onnx"), *words]) == 0
    clip = torch.randn(1, 16, 3, *frame_size, generator=torch.Generator().manual_seed(1))
    starts = torch.rand(20, 2, generator=torch.Generator().manual_seed(2)) * 30
    boxes = torch.cat([starts, starts + torch.arange(1, 41).view(20, 2) / 2], 1)
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    for count in (0, 1, 20):
        (logits,) = session.run(["logits"], {"pixel_values": clip.numpy(), "boxes": boxes[:count].numpy()})
        with torch.inference_mode():
            expected = model(clip, [boxes[:count]]).logits
        assert logits.shape == (count, 4)
        np.testing.assert_allclose(logits, expected.numpy(), atol=1e-5)
    record = json.loads((tmp_path / "onnx" / RECORD).read_text())
    assert record["input"]["shape"] == [1, 16, 3, *frame_size] and record["boxes"]["shape"] == ["boxes", 4]
    assert record["output"]["shape"] == ["boxes", 4] and len(record["sampling"]["offsets"]) == 16
    assert record["scores"] == ("sigmoid, times the score of the person" if family == "videomae" else "sigmoid")
    proof = record["proof"]
    assert proof["count"] == proof["same"] == 2 + 3 + 4 + 5 and proof["of"] == "boxes"
    assert proof["max_score_difference"] < 1e-5
    assert sorted(path.name for path in (tmp_path / "onnx").iterdir()) == ["config.json", "export.json", "model.onnx"]


def test_a_detector_is_compared_on_the_middle_of_videos_of_one_shape(tmp_path, video):
    folder = save_tiny(tmp_path / "model", "detect", processor=False)
    config = VideoMAEConfig.from_pretrained(folder)
    config.detection_short_side = 20
    graph = open_graph(str(folder), features=False, frame_size=(20, 24), videos=[str(video)])
    ((clip, boxes),) = example_detections(config, graph.frame_size, [video])
    assert clip.shape == (1, 16, 3, 20, 24) and boxes[0].tolist() == [0, 0, 24, 20] and len(boxes) == 2
    with pytest.raises(ValueError, match=r"frames of 20 x 24 .* the graph takes 20 x 36; .* frame_size=\(20, 24\)"):
        example_detections(config, (20, 36), [video])


@pytest.mark.parametrize("head", ["features", "pretrain", "classify", "detect"])
def test_features_are_those_that_videomae_features_writes(head, tmp_path):
    folder = save_tiny(tmp_path / "model", head)
    words = [] if head == "features" else ["--features"]
    assert main(["export", str(folder), str(tmp_path / "onnx"), *words]) == 0
    clips = example_clips(folder, count=3)
    expected, _ = FeatureEncoder(str(folder))(clips)
    got = onnx_answers(tmp_path / "onnx" / "model.onnx", [(clips,)])
    assert got.shape == (3, 48) and torch.allclose(got, expected, atol=1e-5)
    record = json.loads((tmp_path / "onnx" / RECORD).read_text())
    assert record["output"] == {"name": "features", "dtype": "float32", "shape": ["batch", 48]}
    assert record["pooling"] == FeatureEncoder(str(folder)).pooling and "labels" not in record
    assert record["proof"]["of"] == "vectors" and record["proof"]["same"] == 4


def test_vectors_agree_where_each_is_nearest_to_its_own():
    vectors = torch.tensor([[3.0, 4.0], [4.0, 3.0], [3.0, 4.0]])  # the first comes twice, as in a filled batch
    found = agreement(vectors, vectors + torch.tensor([0.05, 0.0]), VECTORS)
    assert found.same == 3 and found.max_score_difference == pytest.approx(0.01, rel=1e-4)
    assert str(found) == (
        "3 of 3 vectors nearest to the model's vector of the same clip, a difference of up to 0.01 of a vector's length"
    )
    assert agreement(vectors[:2], vectors[:2].flip(0), VECTORS).same == 0
    assert agreement(vectors, vectors * float("nan"), VECTORS).max_score_difference == float("inf")


def test_a_model_that_keeps_another_number_of_patches_of_every_clip_is_refused(folder, tmp_path, capsys):
    ReducedVideoMAEForVideoClassification.from_pretrained(folder, still_threshold=0.1).save_pretrained(tmp_path / "rlt")
    assert main(["export", str(tmp_path / "rlt"), str(tmp_path / "onnx")]) == 1
    assert "still_threshold=0.1 keeps another number of patches of every clip" in capsys.readouterr().err
    assert not (tmp_path / "onnx").exists()


def test_what_cannot_be_exported_is_one_line(folder, exported, tmp_path, capsys, monkeypatch):
    assert main(["export", str(tmp_path / "nowhere"), str(tmp_path / "onnx")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert main(["export", str(save_tiny(tmp_path / "pretrain", "pretrain")), str(tmp_path / "onnx")]) == 1
    assert (
        "is VideoMAEForPreTraining, which has no scores to export; export its features with --features"
        in capsys.readouterr().err
    )
    assert main(["export", str(folder), str(tmp_path / "onnx"), "--frame_size", "20", "24"]) == 1
    assert "frame_size=(20, 24) is for the scores of a detector; this graph takes frames of 32 x 32" in (
        capsys.readouterr().err
    )
    detector = str(save_tiny(tmp_path / "detector", "detect"))
    assert main(["export", detector, str(tmp_path / "onnx"), "--batch_size", "2"]) == 1
    assert "batch_size=2: a detector's graph takes one clip and its boxes; leave it out" in capsys.readouterr().err
    assert main(["export", str(folder), str(exported)]) == 1
    assert "exists and is not empty; choose another folder or ask for it to be replaced" in capsys.readouterr().err
    assert main(["export", str(folder), str(tmp_path / "onnx"), "--batch_size", "0"]) == 2
    assert "--batch_size must be at least 1, not 0" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setattr(export_module, "find_spec", lambda name: None if name == "onnxscript" else True)
    assert main(["export", str(folder), str(tmp_path / "onnx")]) == 1
    assert "this needs onnxscript; pip install 'videomae[onnx]'" in capsys.readouterr().err


def test_without_onnx_runtime_the_file_is_written_and_said_to_be_unproven(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export_module, "find_spec", lambda name: None if name == "onnxruntime" else True)
    assert main(["export", str(folder), str(tmp_path / "onnx")]) == 0
    assert "not compared with the model, since onnxruntime is not installed" in capsys.readouterr().out
    assert json.loads((tmp_path / "onnx" / RECORD).read_text())["proof"] is None
