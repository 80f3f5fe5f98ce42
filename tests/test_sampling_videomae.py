import dataclasses
import json

import numpy as np
import pytest
import torch

from videomae import sampling_videomae as sampling
from videomae.sampling_videomae import (
    ClipSampling,
    hybrid_stride,
    inference_clip,
    key_frame_offsets,
    pretrain_clip,
    train_clip,
    validation_clip,
)
from videomae.sampling_videomae import test_clips as clips_of_the_test

DENSE = ClipSampling()
EXACT = ClipSampling(rule="exact")
UNIFORM = ClipSampling(strategy="uniform", clips=2)
EVERY_POLICY = [
    ClipSampling(strategy, num_frames, stride, clips, 3, short, rule)
    for strategy in ("dense", "uniform", "spread", "all")
    for num_frames, stride, clips in ((16, 4, 5), (8, 3, 2), (1, 1, 1), (16, 1, 3))
    for short in ("repeat_last", "loop")
    for rule in ("reference", "reference_v2", "exact", "mmaction2")
    if rule != "mmaction2" or (strategy, short) == ("dense", "loop")
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def official_dense(n, start=None, T=16, stride=4):
    """The rule of `VideoClsDataset.loadvideo_decord`, restated with the window's start given."""
    window = T * stride
    if n <= window:
        index = np.concatenate([np.linspace(0, n, num=n // stride), np.full(T - n // stride, n)])
        return np.clip(index, 0, n - 1).astype(np.int64).tolist()
    return np.clip(np.linspace(start, start + window, num=T), start, start + window - 1).astype(np.int64).tolist()


def official_pretraining(n, start, T=16, stride=4):
    """`_video_TSN_decord_batch_loader`, restated: a one-based cursor that stops one short of the end."""
    frames, cursor = [], start + 1
    for _ in range(T):
        frames.append(cursor - 1)
        if cursor + stride < n:
            cursor += stride
    return frames


def test_the_first_dense_training_window_has_the_published_uneven_strides():
    indices = sampling._dense(0, DENSE)
    assert indices == [0, 4, 8, 12, 17, 21, 25, 29, 34, 38, 42, 46, 51, 55, 59, 63]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 15, 16, 17, 33, 60, 61, 62, 63, 64])
def test_a_dense_clip_of_a_short_video_is_the_official_one(n):
    assert train_clip(n, DENSE, seeded()) == validation_clip(n, DENSE) == official_dense(n)


@pytest.mark.parametrize("n", [65, 66, 100, 300])
def test_a_dense_training_clip_is_the_official_one_for_its_start_and_every_start_comes(n):
    clips = [train_clip(n, DENSE, seeded(seed)) for seed in range(400)]
    assert all(clip == official_dense(n, clip[0]) for clip in clips)
    starts = {clip[0] for clip in clips}
    assert min(starts) >= 0 and max(starts) < n - 64
    if n <= 66:
        assert starts == set(range(n - 64))  # the window that ends the video is never drawn


@pytest.mark.parametrize("n", [65, 66, 129, 301])
def test_the_validation_clip_is_the_centre_window(n):
    assert validation_clip(n, DENSE) == official_dense(n, (64 + n) // 2 - 64)


def test_the_exact_rule_has_even_strides_and_reaches_the_last_frame():
    clips = [train_clip(63, EXACT, seeded(seed)) for seed in range(100)]
    assert {clip[0] for clip in clips} == {0, 1, 2}
    assert all(set(np.diff(clip)) == {4} for clip in clips)
    assert validation_clip(63, EXACT) == list(range(1, 62, 4))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 16, 30, 59, 60, 61, 62, 63])
def test_pretraining_of_a_short_video_is_the_official_one(n):
    assert pretrain_clip(n, DENSE, seeded()) == official_pretraining(n, 0)


def test_pretraining_has_the_exact_stride_and_starts_in_the_first_n_minus_63_frames():
    clips = [pretrain_clip(70, DENSE, seeded(seed)) for seed in range(200)]
    assert {clip[0] for clip in clips} == set(range(7))
    assert all(clip == official_pretraining(70, clip[0]) for clip in clips)
    assert set(np.diff(clips[0])) == {4}


def test_pretraining_of_something_something_uses_stride_two():
    half = dataclasses.replace(DENSE, stride_frames=hybrid_stride("SomethingV2/frames/17"))
    assert half.stride_frames == 2
    clips = [pretrain_clip(40, half, seeded(seed)) for seed in range(200)]
    assert {clip[0] for clip in clips} == set(range(9)) and set(np.diff(clips[0])) == {2}


def test_the_hybrid_stride_depends_on_the_source_and_can_be_switched_off():
    assert hybrid_stride("k710/train/a.mp4") == 4
    assert hybrid_stride("data/SomethingV2/frames/1") == 2
    assert hybrid_stride("data/SomethingV2/frames/1", half_rate_sources=()) == 4
    assert hybrid_stride("data/SomethingV2/1.mp4", is_frame_folder=False) == 4


def test_uniform_training_takes_one_frame_of_each_whole_segment():
    clips = np.array([train_clip(50, UNIFORM, seeded(seed)) for seed in range(200)])
    assert (clips // 3 == np.arange(16)).all()  # segments of 50 // 16 = 3 frames; the last two frames never come
    assert all(set(clips[:, i] % 3) == {0, 1, 2} for i in range(16))


def test_uniform_training_of_fewer_frames_than_segments_repeats_the_first_as_the_official_code_does():
    assert train_clip(15, UNIFORM, seeded()) == [0] * 16


def official_v2_uniform(n, mode, T=16, draw=None):
    """`RawFrameClsDataset.load_frame` of V2 for training and validation, restated; `draw` gives its random offsets."""
    average = n // T
    if average > 0:
        offsets = [average // 2] * T if mode == "validation" else draw
        return [i * average + offset for i, offset in enumerate(offsets)]
    return [0] * (T - n) + list(range(n))


@pytest.mark.parametrize("n", [1, 2, 8, 10, 15, 16, 17, 31, 32, 50, 200])
def test_v2s_uniform_clips_are_the_official_ones(n):
    policy = dataclasses.replace(UNIFORM, rule="reference_v2")
    assert validation_clip(n, policy) == official_v2_uniform(n, "validation")
    clip = train_clip(n, policy, seeded(n))
    draw = [index - i * (n // 16) for i, index in enumerate(clip)] if n >= 16 else None
    assert clip == official_v2_uniform(n, "train", draw=draw)
    assert n < 16 or all(0 <= offset < n // 16 for offset in draw)
    if n >= 16:  # the only difference to V1
        assert clip == train_clip(n, UNIFORM, seeded(n)) and validation_clip(n, policy) == validation_clip(n, UNIFORM)
    assert clips_of_the_test(n, policy) == clips_of_the_test(n, UNIFORM)


@pytest.mark.parametrize("n", [1, 10, 16, 63, 64, 65, 300])
def test_v2s_dense_clips_are_those_of_v1(n):
    policy = dataclasses.replace(DENSE, rule="reference_v2")
    for function in (validation_clip, clips_of_the_test, inference_clip):
        assert function(n, policy) == function(n, DENSE)
    for function in (train_clip, pretrain_clip):
        assert function(n, policy, seeded(n)) == function(n, DENSE, seeded(n))


def mmaction2_frames(n, clips, start=None, T=16, stride=4):
    """`SampleFrames` of MMAction2 with its defaults, restated: in test mode, or one training clip at `start`."""
    if start is None:
        most = max(n - ((T - 1) * stride + 1), 0)
        offsets = np.round(np.arange(clips) * (most / float(clips - 1))) if clips > 1 else np.array([most // 2])
    else:
        offsets = np.array([start])
    frames = offsets[:, None] + np.arange(T)[None, :] * stride
    return np.mod(frames, n).astype(np.int32).tolist()


MMACTION2 = ClipSampling(rule="mmaction2", short="loop")


@pytest.mark.parametrize("clips", [1, 2, 3, 5, 10])
def test_the_mmaction2_rule_gives_the_test_clips_of_its_sample_frames(clips):
    policy = dataclasses.replace(MMACTION2, clips=clips)
    for n in range(1, 401):
        assert clips_of_the_test(n, policy) == mmaction2_frames(n, clips), n


def test_the_mmaction2_rule_validates_on_its_middle_clip_and_trains_from_any_start_of_its_window():
    for n in range(1, 401):
        assert validation_clip(n, MMACTION2) == inference_clip(n, MMACTION2) == mmaction2_frames(n, 1)[0]
    clips = [train_clip(70, MMACTION2, seeded(seed)) for seed in range(300)]
    assert {clip[0] for clip in clips} == set(range(7))  # 70 - 16 * 4 + 1 offsets
    assert all(clip == mmaction2_frames(70, 1, start=clip[0])[0] for clip in clips)
    assert train_clip(50, MMACTION2, seeded()) == mmaction2_frames(50, 1, start=0)[0]


def test_the_mmaction2_rule_starts_elsewhere_than_the_official_test():
    different = [n for n in range(61, 401) if clips_of_the_test(n, DENSE) != clips_of_the_test(n, MMACTION2)]
    moved = [
        abs(ours[0] - theirs[0])
        for n in different
        for ours, theirs in zip(clips_of_the_test(n, DENSE), clips_of_the_test(n, MMACTION2))
    ]
    assert len(different) > 300 and max(moved) <= 5


def test_the_exact_uniform_rule_covers_the_whole_video():
    exact = dataclasses.replace(UNIFORM, rule="exact")
    clips = [train_clip(50, exact, seeded(seed)) for seed in range(300)]
    assert {index for clip in clips for index in clip} == set(range(50))
    assert train_clip(4, exact, seeded()) == [i // 4 for i in range(16)]


def test_uniform_validation_takes_the_middles_of_the_segments():
    assert validation_clip(50, UNIFORM) == [3 * i + 1 for i in range(16)]
    assert inference_clip(50, UNIFORM) == validation_clip(50, UNIFORM)
    assert validation_clip(8, UNIFORM) == [0] * 16
    assert inference_clip(8, UNIFORM) == [i // 2 for i in range(16)]


def test_uniform_test_clips_are_the_segments_starts_and_middles():
    tick = 50 / 16
    starts, middles = clips_of_the_test(50, UNIFORM)
    assert starts == [int(tick * i) for i in range(16)]
    assert middles == [int(tick / 2 + tick * i) for i in range(16)]


@pytest.mark.parametrize("n", [1, 10, 60, 61, 64, 65, 128, 250, 300, 1000])
def test_dense_test_clips_are_windows_over_every_fourth_frame(n):
    kept = list(range(0, n, 4))
    while len(kept) < 16:
        kept.append(kept[-1])
    step = max(1.0 * (len(kept) - 16) / 4, 0)
    assert clips_of_the_test(n, DENSE) == [kept[int(k * step) : int(k * step) + 16] for k in range(5)]


def test_a_single_test_clip_is_the_centre_one_instead_of_a_division_by_zero():
    assert clips_of_the_test(200, dataclasses.replace(DENSE, clips=1)) == [list(range(68, 132, 4))]
    assert clips_of_the_test(32, dataclasses.replace(UNIFORM, clips=1)) == [list(range(1, 32, 2))]


def test_spread_takes_evenly_spaced_frames_from_the_first():
    assert validation_clip(160, ClipSampling("spread")) == list(range(0, 160, 10))


def test_all_takes_every_frame_everywhere():
    policy = ClipSampling("all", short="error")
    assert train_clip(3, policy, seeded()) == inference_clip(3, policy) == [0, 1, 2]
    assert clips_of_the_test(3, policy) == [[0, 1, 2]]


def test_a_short_video_loops_when_asked():
    loop = ClipSampling(short="loop")
    expected = [i * 4 % 10 for i in range(16)]
    assert train_clip(10, loop, seeded()) == validation_clip(10, loop) == pretrain_clip(10, loop, seeded()) == expected
    assert clips_of_the_test(10, loop) == [expected] * 5
    assert validation_clip(5, ClipSampling("uniform", short="loop")) == [i % 5 for i in range(16)]
    # 61 to 64 frames hold the clip: nothing has to be repeated, though the official window claims 64
    assert validation_clip(61, loop) == pretrain_clip(61, loop, seeded()) == list(range(0, 61, 4))


@pytest.mark.parametrize("function", [validation_clip, inference_clip, clips_of_the_test])
def test_a_short_video_is_an_error_when_asked(function):
    with pytest.raises(ValueError, match=r"16 frames at stride 4 span 61 frames, but the video has 60; .*repeat_last"):
        function(60, ClipSampling(short="error"))
    with pytest.raises(ValueError, match="16 frames, but the video has 15"):
        function(15, ClipSampling("uniform", short="error"))
    assert function(61, ClipSampling(short="error"))


@pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda policy: "-".join(map(str, policy.to_dict().values())))
def test_every_policy_gives_the_right_number_of_frames_that_exist(policy):
    for n in [*range(1, 80), 121, 300]:
        T = n if policy.strategy == "all" else policy.num_frames
        clips = [train_clip(n, policy, seeded(n)), validation_clip(n, policy), inference_clip(n, policy)]
        clips += clips_of_the_test(n, policy)
        for clip in clips:
            assert len(clip) == T and all(type(index) is int and 0 <= index < n for index in clip)
        assert len(clips) == 3 + (1 if policy.strategy == "all" else policy.clips)
        pretraining = pretrain_clip(n, policy, seeded(n))
        assert len(pretraining) == policy.num_frames and 0 <= min(pretraining) <= max(pretraining) < n


def test_a_clip_is_a_function_of_the_generator():
    assert train_clip(300, DENSE, seeded(3)) == train_clip(300, DENSE, seeded(3))
    assert train_clip(300, DENSE, seeded(3)) != train_clip(300, DENSE, seeded(4))


def test_a_policy_survives_json():
    policy = ClipSampling("uniform", clips=2, short="loop", rule="exact")
    assert ClipSampling.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy
    assert ClipSampling.from_dict({"stride_frames": 2}) == ClipSampling(stride_frames=2)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"strategy": "sparse"}, "strategy must be one of dense, uniform, spread, all, not 'sparse'"),
        ({"short": "pad"}, "short must be one of"),
        ({"rule": "Exact"}, "rule must be one of"),
        ({"rule": "mmaction2"}, "loops over short videos: it needs .*short='loop'.*short='repeat_last'"),
        ({"rule": "mmaction2", "strategy": "uniform", "short": "loop"}, "not strategy='uniform'"),
        ({"num_frames": 0}, "num_frames must be at least 1, not 0"),
        ({"frames": 16}, "no field 'frames'; its fields are strategy, num_frames"),
    ],
)
def test_a_wrong_policy_is_refused_with_the_way_out(fields, message):
    with pytest.raises(ValueError, match=message):
        ClipSampling.from_dict(fields)
    with pytest.raises(TypeError, match=r"stride_frames must be an integer, not 4\.0"):
        ClipSampling(stride_frames=4.0)


def test_an_empty_video_has_no_clip():
    with pytest.raises(ValueError, match="at least 1 frame, not 0"):
        inference_clip(0, DENSE)


def test_the_clip_around_a_key_frame_is_each_familys():
    assert key_frame_offsets(16, 4, family="videomae") == list(range(-31, 30, 4))
    assert key_frame_offsets(16, 4, family="mmaction2") == list(range(-32, 29, 4))
    assert key_frame_offsets(4, 1, family="videomae") == [-2, -1, 0, 1]


# ----------------------------------------------------------------------------------------------------------- segments


def public_segments(n, S, T, stride, ends=None):
    """`loadvideo_decord` of V-JEPA 2's video_dataset.py with overlap allowed, restated with the windows' ends given."""
    window, part, out = T * stride, n // S, []
    for i in range(S):
        if part > window:
            frames = np.clip(np.linspace(ends[i] - window, ends[i], num=T), ends[i] - window, ends[i] - 1) + i * part
        else:
            last = min(window, n) - 1
            frames = np.r_[np.linspace(0, last, num=last // stride), [last] * (T - last // stride)]
            frames = np.clip(frames, 0, last - 1) + i * ((n - window) // (S - 1) if n > window else 0)
        out += np.floor(frames).astype(np.int64).tolist()
    return out


@pytest.mark.parametrize("n", [2, 3, 9, 31, 63, 64, 65, 100, 128, 129, 130, 300, 517])
@pytest.mark.parametrize("S, T, stride", [(2, 16, 4), (8, 16, 4), (4, 32, 2)])
def test_segments_are_the_windows_of_the_public_frozen_evaluation(n, S, T, stride):
    policy = ClipSampling(num_frames=T, stride_frames=stride, segments=S, clips=1)
    part, window = n // S, T * stride
    clip = sampling.train_clip(n, policy, seeded())
    ends = [clip[i * T] - i * part + window for i in range(S)]
    assert clip == public_segments(n, S, T, stride, ends) and len(clip) == S * T and 0 <= min(clip) <= max(clip) < n
    if part > window:
        assert all(window <= end < part for end in ends)  # numpy's randint(window, part)
    middle = [window + (part - window) // 2] * S
    for one in (
        sampling.validation_clip(n, policy),
        sampling.inference_clip(n, policy),
        *sampling.test_clips(n, policy),
    ):
        assert one == public_segments(n, S, T, stride, middle)


def test_segments_of_a_single_frame_repeat_it():
    assert set(sampling.validation_clip(1, ClipSampling(segments=2, clips=1))) == {0}


def test_a_policy_of_one_segment_is_saved_as_before():
    assert "segments" not in ClipSampling().to_dict()
    policy = ClipSampling(segments=2, clips=1)
    assert policy.to_dict()["segments"] == 2 and ClipSampling.from_dict(policy.to_dict()) == policy


@pytest.mark.parametrize("fields", [{"clips": 2}, {"strategy": "uniform"}, {"short": "loop"}, {"rule": "exact"}])
def test_segments_go_with_dense_windows_alone(fields):
    with pytest.raises(ValueError, match="segments=2 are dense windows of one clip"):
        ClipSampling(**{"clips": 1, "segments": 2, **fields})


def test_pretraining_takes_no_segments():
    with pytest.raises(ValueError, match="not segments=2"):
        sampling.pretrain_clip(100, ClipSampling(segments=2, clips=1), seeded())
