"""The detector against the released code's outputs, and what its boxes, sizes and losses promise."""

import argparse

import pytest
import torch
import torch.nn.functional as F
from support import GOLDEN, golden

from videomae import VideoMAEConfig, VideoMAEForActionDetection
from videomae.modeling_videomae_detection import action_scores, check_boxes, detection_loss, fit_frames
from videomae.roi_align_videomae import widen_boxes

TINY_DETECTOR = dict(image_size=64, hidden_size=48, num_hidden_layers=3, num_attention_heads=3, intermediate_size=192)


def detector(family="videomae", **overrides) -> VideoMAEForActionDetection:
    torch.manual_seed(0)
    fields = {**TINY_DETECTOR, "num_labels": 80, **overrides}
    config = VideoMAEConfig.preset("small", head="detect", detection_family=family, **fields)
    return VideoMAEForActionDetection(config).eval()


def load_released(name: str, model: VideoMAEForActionDetection) -> None:
    """Fill a model from a released file, spelt out here so that the converter's table has an independent witness."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(GOLDEN / f"{name}.pth", weights_only=True)
    weights = content["model"] if "model" in content else content["state_dict"]
    mm = any(key.startswith("backbone.") for key in weights)
    body, project = ("backbone.", "projection") if mm else ("", "proj")
    fc1, fc2 = ("mlp.layers.0.0", "mlp.layers.1") if mm else ("mlp.fc1", "mlp.fc2")
    head = "roi_head.bbox_head.fc_cls" if mm else "head"
    state = {
        "videomae.embeddings.patch_embeddings.projection.weight": weights[f"{body}patch_embed.{project}.weight"],
        "videomae.embeddings.patch_embeddings.projection.bias": weights[f"{body}patch_embed.{project}.bias"],
        "classifier.weight": weights[f"{head}.weight"][-80:],  # mmaction2's first row is the background
        "classifier.bias": weights[f"{head}.bias"][-80:],
    }
    for kind in ("weight", "bias"):
        state[f"videomae.layernorm.{kind}"] = weights[f"{body}norm.{kind}"]
    for index in range(3):
        old, new = f"{body}blocks.{index}.", f"videomae.encoder.layer.{index}."
        for part, rows in zip(("query", "key", "value"), weights[f"{old}attn.qkv.weight"].chunk(3)):
            state[f"{new}attention.attention.{part}.weight"] = rows
        state[f"{new}attention.attention.query.bias"] = weights[f"{old}attn.q_bias"]
        state[f"{new}attention.attention.value.bias"] = weights[f"{old}attn.v_bias"]
        for theirs, ours in (
            ("attn.proj", "attention.output.dense"),
            ("norm1", "layernorm_before"),
            ("norm2", "layernorm_after"),
            (fc1, "intermediate.dense"),
            (fc2, "output.dense"),
        ):
            for kind in ("weight", "bias"):
                state[f"{new}{ours}.{kind}"] = weights[f"{old}{theirs}.{kind}"]
    model.load_state_dict(state, strict=True)


@pytest.mark.parametrize("name, family", [("action_detection", "videomae"), ("mmaction2_detection", "mmaction2")])
def test_released_detectors_give_the_same_boxes_features_and_scores(name, family):
    model = detector(family)
    load_released(name, model)
    tensors = golden(name)
    boxes = [tensors["input.boxes_0"], tensors["input.boxes_1"]]
    with torch.no_grad():
        output = model(tensors["input.pixel_values"], boxes)
    # Float32 with another order of summation.
    torch.testing.assert_close(output.logits, tensors["expected.logits"][:, -80:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.roi_features, tensors["expected.roi_features"], atol=1e-4, rtol=1e-4)
    expected_boxes = torch.cat([tensors.get(f"expected.extended_boxes_{i}", boxes[i]) for i in range(2)])
    torch.testing.assert_close(output.boxes, expected_boxes)


def test_boxes_grow_by_their_share_and_stop_at_the_frame():
    box = torch.tensor([[10.0, 20.0, 29.0, 59.0], [0.0, 0.0, 99.0, 79.0]])
    inclusive = widen_boxes(box, (0.1, 0.05), height=80, width=100, inclusive=True)
    # 20 pixels wide and 40 high when both ends count: 2 pixels more each way in total.
    assert inclusive.tolist() == [[9.0, 19.0, 30.0, 60.0], [0.0, 0.0, 99.0, 79.0]]
    exclusive = widen_boxes(box, (0.0, 0.0), height=60, width=20, inclusive=False)
    assert exclusive.tolist() == [[10.0, 20.0, 20.0, 59.0], [0.0, 0.0, 20.0, 60.0]]


def test_boxes_are_widened_outside_of_training_only():
    model = detector()
    clip, boxes = torch.randn(1, 16, 3, 64, 64), [torch.tensor([[10.0, 10.0, 29.0, 29.0]])]
    with torch.no_grad():
        widened = model(clip, boxes)
        as_given = model(clip, boxes, widen=False)
        training = model.train()(clip, boxes)
    assert widened.boxes[0].tolist() == [9.0, 9.5, 30.0, 29.5]
    assert as_given.boxes.tolist() == training.boxes.tolist() == boxes[0].tolist()
    torch.testing.assert_close(as_given.logits, training.logits)


def test_frames_that_patches_do_not_tile_are_padded_or_cut():
    frames = torch.arange(30.0).view(1, 1, 1, 5, 6)
    padded = fit_frames(frames, (4, 4), "pad")
    assert padded.shape[-2:] == (8, 8) and torch.equal(padded[..., :5, :6], frames) and padded.sum() == frames.sum()
    assert torch.equal(fit_frames(frames, (4, 4), "drop"), frames[..., :4, :4])


def test_a_rectangular_clip_scores_as_its_padded_or_cut_version_does():
    clip, boxes = torch.randn(1, 16, 3, 70, 90), [torch.tensor([[10.0, 10.0, 40.0, 60.0]])]
    with torch.no_grad():
        for family, fitted in (("videomae", F.pad(clip, (0, 6, 0, 10))), ("mmaction2", clip[..., :64, :80])):
            model = detector(family)
            torch.testing.assert_close(model(clip, boxes).logits, model(fitted, boxes, frame_sizes=[(70, 90)]).logits)


def test_clips_padded_to_one_size_clip_their_boxes_at_their_own_border():
    clips = torch.zeros(2, 16, 3, 64, 96)
    boxes = [torch.tensor([[50.0, 40.0, 70.0, 63.0]]), torch.tensor([[50.0, 40.0, 70.0, 63.0]])]
    with torch.no_grad():
        output = detector()(clips, boxes, frame_sizes=[(64, 72), (64, 96)])
    assert output.boxes[:, 2].tolist() == pytest.approx([71.0, 71.05])


def test_each_family_averages_its_loss_over_other_boxes():
    logits, labels = torch.randn(3, 5), torch.zeros(3, 5)
    labels[0, 1] = labels[2, 0] = labels[2, 4] = 1
    mean = F.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(detection_loss(logits, labels, "videomae"), 3 * mean)
    active = F.binary_cross_entropy_with_logits(logits[[0, 2]], labels[[0, 2]])
    torch.testing.assert_close(detection_loss(logits, labels, "mmaction2"), active)
    background = torch.zeros(2, 5)
    assert detection_loss(torch.randn(2, 5), background, "mmaction2") == 0


def test_mmaction2_drops_values_of_the_patch_before_the_maximum_and_the_other_family_pooled_features():
    boxes = [torch.tensor([[0.0, 0.0, 63.0, 63.0]])] * 2
    clips = torch.randn(2, 16, 3, 64, 64)
    zeros, ratio = {}, {}
    for family in ("videomae", "mmaction2"):
        model = detector(family, head_dropout_prob=0.5, drop_path_rate=0.0)
        seen = []
        model.classifier.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0]))
        with torch.no_grad():
            model.videomae.layernorm.bias.fill_(3.0)  # nearly all features above zero, so that scaling by 2 shows
            model(clips, boxes)
            model.train()
            for _ in range(20):
                model(clips, boxes)
        still, moved = seen[0], torch.stack(seen[1:])
        zeros[family] = float((moved == 0).float().mean())
        ratio[family] = float((moved.mean(0) / still).median())
    # The release's head: of 64 values all are hardly ever dropped, and the best of what is left is doubled.
    assert zeros["mmaction2"] < 0.01 and zeros["videomae"] == pytest.approx(0.5, abs=0.05)
    assert ratio["mmaction2"] > 1.8 and ratio["videomae"] == pytest.approx(1.0, abs=0.15)


def test_dropout_changes_nothing_outside_of_training():
    clip, boxes = torch.randn(1, 16, 3, 64, 64), [torch.tensor([[10.0, 10.0, 40.0, 60.0]])]
    for family in ("videomae", "mmaction2"):
        plain, dropping = detector(family), detector(family, head_dropout_prob=0.5)
        dropping.load_state_dict(plain.state_dict())
        with torch.no_grad():
            assert torch.equal(plain(clip, boxes).logits, dropping(clip, boxes).logits)


def test_a_fresh_head_starts_as_each_release_starts_it():
    sizes = dict(hidden_size=768, num_attention_heads=12, num_hidden_layers=1)
    head = detector("mmaction2", **sizes, init_scale=1.0).classifier
    expected = torch.nn.init.xavier_normal_(torch.empty(81, 768)).std()  # 81 rows there, with the background's
    assert head.weight.std().item() == pytest.approx(expected.item(), rel=0.03) and not head.bias.any()
    assert expected.item() == pytest.approx(0.0485, abs=0.0005)
    assert detector("mmaction2", **sizes, init_scale=0.5).classifier.weight.std().item() == pytest.approx(
        0.0243, rel=0.03
    )
    ad = detector("videomae", **sizes, init_scale=0.001).classifier
    assert ad.weight.std().item() == pytest.approx(0.02 * 0.001, rel=0.03) and not ad.bias.any()


def test_only_the_family_whose_release_does_so_multiplies_by_the_persons_score():
    logits, persons = torch.tensor([[0.0, 2.0], [-1.0, 0.0]]), torch.tensor([0.8, 1.0])
    # PostProcessor of VideoMAE-Action-Detection: sigmoid, times the column of box scores.
    expected = 1 / (1 + torch.exp(-logits)) * persons.reshape(2, 1)
    torch.testing.assert_close(action_scores(logits, persons, "videomae"), expected)
    assert action_scores(logits, persons, "videomae")[:, 0].tolist() == pytest.approx([0.4, 0.2689414])
    assert action_scores(logits, persons, "mmaction2")[:, 0].tolist() == pytest.approx([0.5, 0.2689414])
    assert action_scores(logits.bfloat16(), persons, "videomae").dtype == torch.float32
    assert action_scores(logits[:0], persons[:0], "videomae").shape == (0, 2)


@pytest.mark.parametrize("family", ["videomae", "mmaction2"])
def test_a_batch_without_any_box_gives_no_rows_a_zero_loss_and_a_gradient_for_every_parameter(family):
    model = detector(family).train()
    output = model(torch.randn(2, 16, 3, 64, 64), [torch.zeros(0, 4)] * 2, labels=torch.zeros(0, 80))
    assert output.logits.shape == (0, 80) and output.loss == 0
    output.loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_boxes_and_labels_may_come_as_one_tensor_per_clip():
    model = detector()
    clips = torch.randn(2, 16, 3, 64, 64)
    boxes = [torch.tensor([[1.0, 1.0, 30.0, 30.0], [5.0, 9.0, 60.0, 60.0]]), torch.zeros(0, 4)]
    labels = torch.zeros(2, 80)
    labels[1, 3] = 1
    with torch.no_grad():
        together = model(clips, boxes, labels=labels).loss
        apart = model(clips, boxes, labels=[labels, torch.zeros(0, 80)]).loss
    assert together == apart


def test_a_classifiers_configuration_gets_the_final_norm_that_detectors_keep():
    config = VideoMAEConfig(**{**TINY_DETECTOR, "num_labels": 80}, use_mean_pooling=True)
    model = VideoMAEForActionDetection(config)
    assert model.videomae.layernorm is not None and not model.config.use_mean_pooling
    assert config.use_mean_pooling  # the caller's own is left alone


def test_a_saved_detector_loads_and_gives_the_same_scores(tmp_path):
    model = detector("mmaction2")
    clip, boxes = torch.randn(1, 16, 3, 64, 80), [torch.tensor([[10.0, 10.0, 40.0, 60.0]])]
    model.save_pretrained(tmp_path)
    again = VideoMAEForActionDetection.from_pretrained(tmp_path).eval()
    assert again.config.detection_family == "mmaction2" and again.config.roi_aligned
    with torch.no_grad():
        assert torch.equal(again(clip, boxes).logits, model(clip, boxes).logits)


@pytest.mark.parametrize(
    "box, message",
    [
        ([50.0, 10.0, 20.0, 30.0], r"boxes: row 1, \(50, 10, 20, 30\), ends before it starts"),
        ([float("nan"), 0.0, 4.0, 4.0], "row 1, .* is not finite"),
        ([200.0, 10.0, 250.0, 40.0], r"row 1, .* lies outside the frame of 100x80 \(width x height\)"),
        ([-50.0, -20.0, -10.0, -5.0], "row 1, .* lies outside the frame"),
    ],
)
def test_a_wrong_box_is_named_by_its_row(box, message):
    with pytest.raises(ValueError, match=message):
        check_boxes(torch.tensor([[0.0, 0.0, 20.0, 20.0], box]), 80, 100)


def test_normalised_boxes_are_recognised():
    with pytest.raises(ValueError, match=r"look normalised to \[0, 1\].*multiply x by the width 100"):
        check_boxes(torch.tensor([[0.1, 0.2, 0.5, 1.0]]), 80, 100)


def test_what_a_training_crop_leaves_in_its_corner_is_not_taken_for_shares_of_the_frame():
    corner = [torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])]
    clip = torch.randn(1, 16, 3, 64, 64)
    for family in ("videomae", "mmaction2"):
        model = detector(family).train()
        loss = model(clip, corner, labels=torch.ones(2, 80), frame_sizes=[(64, 64)]).loss
        assert loss.isfinite()
        with pytest.raises(ValueError, match="look normalised"):
            model(clip, corner)


def test_boxes_over_the_border_and_without_area_are_accepted():
    check_boxes(torch.tensor([[-10.0, -5.0, 300.0, 20.0], [5.0, 5.0, 5.0, 5.0]]), 80, 100)
    model = detector()
    with torch.no_grad():
        output = model(
            torch.randn(1, 16, 3, 64, 64), [torch.tensor([[-10.0, -5.0, 300.0, 20.0], [5.0, 5.0, 5.0, 5.0]])]
        )
    assert output.logits.isfinite().all()


def test_the_model_says_what_is_wrong_with_its_arguments():
    model = detector()
    clip = torch.randn(1, 16, 3, 64, 64)
    with pytest.raises(ValueError, match=r"boxes must be a list of 1 tensors, one per clip and \(0, 4\) where"):
        model(clip, torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"boxes\[0\] must have shape \(n, 4\)"):
        model(clip, [torch.zeros(4)])
    with pytest.raises(ValueError, match=r"labels must be zeros and ones of shape \(1, 80\)"):
        model(clip, [torch.tensor([[1.0, 1.0, 30.0, 30.0]])], labels=torch.zeros(1))
    with pytest.raises(ValueError, match="unknown detection_family 'yolo'"):
        VideoMAEForActionDetection(VideoMAEConfig(detection_family="yolo"))
    with pytest.raises(ValueError, match="unknown detection_family 'yolo'; choose one of videomae, mmaction2"):
        VideoMAEConfig.preset("small", head="detect", detection_family="yolo")


def test_the_compiled_head_gives_the_same_scores():
    model = detector()
    clip, boxes = torch.randn(1, 16, 3, 64, 64), [torch.tensor([[10.0, 10.0, 29.0, 29.0], [3.0, 4.0, 50.0, 60.0]])]
    with torch.no_grad():
        expected = model(clip, boxes).logits
        graph = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(graph(clip, boxes).logits, expected)
