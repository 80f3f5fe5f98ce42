"""From windows to stretches, subtitles and a picture of labels over time: known answers."""

import numpy as np
import pytest

from videomae.inference.stretches import Cue, StretchRules, best_labels, cues, find_stretches, slots, smoothed
from videomae.inference.subtitles import srt_text, vtt_text
from videomae.metrics.temporal_detection import LabelledStretch
from videomae.pictures import timeline
from videomae.pictures.timeline import clock, timeline_picture

TIMES = np.array([(k, k + 2.0) for k in range(10)])  # windows of two seconds, one a second
ROUGH = dict(smooth_seconds=0.0)


def scores_of(*columns):
    return np.array(columns, np.float32).T


def found(column, **rules):
    names = ["run"]
    made = find_stretches(scores_of(column), TIMES, names, StretchRules(**{**ROUGH, **rules}))
    return [(stretch.start_seconds, stretch.end_seconds) for stretch in made]


def test_each_window_answers_for_the_time_nearest_to_its_middle():
    assert slots(TIMES[:3]).tolist() == [[0.0, 1.5], [1.5, 2.5], [2.5, 4.0]]
    assert slots(TIMES[:1]).tolist() == [[0.0, 2.0]]
    assert slots(np.array([(0, 2.0), (5, 6.0)])).tolist() == [[0.0, 3.25], [3.25, 6.0]]


def test_smoothing_is_the_mean_over_windows_whose_middles_are_near():
    values = scores_of([0, 0, 3, 0, 0, 0, 0, 0, 0, 6.0])
    assert smoothed(values, TIMES, 0.0)[:, 0].tolist() == values[:, 0].tolist()
    assert smoothed(values, TIMES, 2.0)[:, 0].tolist() == pytest.approx([0, 1, 1, 1, 0, 0, 0, 0, 2, 3])
    assert smoothed(values, TIMES, 100.0)[:, 0].tolist() == pytest.approx([0.9] * 10)


def test_a_stretch_keeps_the_low_score_and_reaches_the_high_one():
    column = [0.1, 0.4, 0.6, 0.4, 0.1, 0.4, 0.4, 0.1, 0.1, 0.9]
    assert found(column) == [(1.5, 4.5), (9.5, 11.0)]
    assert found(column, enter_score=0.4) == [(1.5, 4.5), (5.5, 7.5), (9.5, 11.0)]
    assert found(column, enter_score=0.95) == []
    assert found([0.9] * 10) == [(0.0, 11.0)]


def test_gaps_are_closed_and_short_stretches_left_out():
    column = [0.9, 0.9, 0.1, 0.9, 0.1, 0.1, 0.1, 0.9, 0.1, 0.1]
    assert found(column) == [(0.0, 2.5), (3.5, 4.5), (7.5, 8.5)]
    assert found(column, max_gap_seconds=1.0) == [(0.0, 4.5), (7.5, 8.5)]
    assert found(column, max_gap_seconds=1.0, min_seconds=1.5) == [(0.0, 4.5)]


def test_labels_may_hold_at_once_and_a_score_is_the_mean_over_the_windows():
    run, jump = [0.8, 0.6, 0.1, 0, 0, 0, 0, 0, 0, 0], [0.0, 0.9, 0.9, 0, 0, 0, 0, 0, 0, 0]
    made = find_stretches(scores_of(run, jump), TIMES, ["run", "jump"], StretchRules(**ROUGH))
    assert [stretch[:3] for stretch in made] == [("run", 0.0, 2.5), ("jump", 1.5, 3.5)]
    assert [stretch.score for stretch in made] == pytest.approx([0.7, 0.9])
    made = find_stretches(scores_of(run, jump), TIMES, ["run", "jump"], StretchRules(**ROUGH, background=("run",)))
    assert [stretch.label for stretch in made] == ["jump"]


def test_rules_that_cannot_be_meant_are_refused():
    with pytest.raises(ValueError, match=r"keep_score is 0.6 and enter_score 0.5; .*lower keep_score"):
        StretchRules(keep_score=0.6)
    with pytest.raises(
        ValueError, match="background names 'none', which is no label of the model; its labels are 'run'"
    ):
        StretchRules(background=("none",)).check_labels(["run"])


def test_without_rules_the_best_label_holds_and_neighbours_are_one():
    values = scores_of([0.9, 0.7, 0.2], [0.1, 0.3, 0.8])
    assert best_labels(values, TIMES[:3], ["run", "jump"]) == [
        LabelledStretch("run", 0.0, 2.5, pytest.approx(0.8)),
        LabelledStretch("jump", 2.5, 4.0, pytest.approx(0.8)),
    ]


# --------------------------------------------------------------------------------------------------------- subtitles

RUN, JUMP = LabelledStretch("run", 0.0, 4.0, 0.5), LabelledStretch("jump & <roll>", 2.0, 3723.4567, 0.875)


def test_cues_do_not_overlap_and_show_the_surest_first():
    assert cues([RUN, JUMP]) == [Cue(0.0, 2.0, (RUN,)), Cue(2.0, 4.0, (JUMP, RUN)), Cue(4.0, 3723.4567, (JUMP,))]
    assert cues([RUN, JUMP], most=1) == [Cue(0.0, 2.0, (RUN,)), Cue(2.0, 3723.4567, (JUMP,))]
    assert cues([RUN, RUN._replace(start_seconds=6.0, end_seconds=7.0)])[1].start_seconds == 6.0 and cues([]) == []


def test_subrip_and_webvtt_texts():
    shown = cues([RUN, JUMP], most=1)
    assert srt_text(shown) == (
        "1\n00:00:00,000 --> 00:00:02,000\nrun 0.50\n\n2\n00:00:02,000 --> 01:02:03,457\njump & <roll> 0.88\n"
    )
    assert vtt_text(shown) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\nrun 0.50\n\n00:00:02.000 --> 01:02:03.457\njump &amp; &lt;roll&gt; 0.88\n"
    )
    assert srt_text([]) == "" and vtt_text([]) == "WEBVTT\n"


def test_a_label_cannot_break_out_of_its_cue():
    text = srt_text(cues([LabelledStretch("a\n\n2\n00:00:00,000 --> 00:00:01,000\nb", 0, 1, 0.5)]))
    assert text.count("-->") == 1 and text.count("\n\n") == 0
    assert vtt_text(cues([LabelledStretch("a\n\nNOTE --> b", 0, 1, 0.5)])).count("-->") == 1


def test_subtitles_are_read_by_ffmpeg(tmp_path):
    """An independent reader: the cues come back with their times and texts."""
    import av

    for name, text in (("a.srt", srt_text), ("a.vtt", vtt_text)):
        (tmp_path / name).write_text(text(cues([RUN, JUMP._replace(label="jump")])))
        with av.open(str(tmp_path / name)) as container:
            packets = [packet for packet in container.demux() if packet.pts is not None]
            spoken = [bytes(packet).decode() for packet in packets]
            starts = [float(packet.pts * packet.time_base) for packet in packets]
        assert starts == [0.0, 2.0, 4.0] and spoken == ["run 0.50", "jump 0.88\nrun 0.50", "jump 0.88"]


# ----------------------------------------------------------------------------------------------------------- picture


def test_the_picture_is_dark_where_a_label_scores_and_has_bars_where_it_holds():
    values = scores_of([1.0] * 5 + [0.0] * 5, [0.0] * 10)
    made = timeline_picture(
        values,
        slots(TIMES),
        ["run", "jump"],
        found=[LabelledStretch("run", 0, 5.5)],
        truth=[LabelledStretch("run", 5.5, 11)],
    )
    pixels = np.array(made)

    def columns(colour):
        hits = (pixels[: timeline.MARGIN + timeline.STRIP + 2 * timeline.BAR + 1] == colour).all(axis=2).any(axis=0)
        return np.flatnonzero(hits)

    left, middle = columns(timeline.SCORE)[0], columns(timeline.SCORE)[-1]
    assert middle - left + 1 == pytest.approx(timeline.WIDTH / 2, abs=2)
    assert (columns(timeline.FOUND)[0], columns(timeline.FOUND)[-1]) == pytest.approx((left, middle), abs=2)
    assert (columns(timeline.TRUE)[0], columns(timeline.TRUE)[-1]) == pytest.approx(
        (middle, left + timeline.WIDTH), abs=2
    )


def test_labels_with_stretches_are_drawn_before_those_that_score_higher():
    values = np.tile(np.linspace(0.1, 0.9, 9, dtype=np.float32), (10, 1))
    names = [f"label {number}" for number in range(9)]
    assert timeline._chosen(values, names, [LabelledStretch("label 0", 0, 1)], 3) == [0, 7, 8]


def test_a_single_window_and_long_names_can_be_drawn():
    made = timeline_picture(scores_of([0.5]), slots(TIMES[:1]), ["a label of far too many letters to stand beside"])
    assert made.width < timeline.WIDTH + 300


def test_times_on_the_axis_read_as_a_clock():
    assert [clock(seconds) for seconds in (0, 2.5, 59, 60, 3723)] == ["0 s", "2.5 s", "59 s", "1:00", "1:02:03"]
