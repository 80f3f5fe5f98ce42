"""Result files in the format of the AVA challenge."""

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import compute
from pyarrow import csv as arrow_csv

from videomae.data.ava.annotations import (
    SLACK,
    KeyFrame,
    csv_rows,
    key_frame_of,
    parse_box,
    seconds_text,
    whole_number,
)
from videomae.data.ava.proposals import parse_score
from videomae.files import write_atomic


@dataclass
class Detections:
    """Labelled, scored boxes as columns: what a test produces and a result file holds."""

    key_frames: list[KeyFrame]  # the frames that were looked at, with or without a result
    frame: np.ndarray  # (n,) index into key_frames
    box: np.ndarray  # (n, 4) shares of the frame
    label: np.ndarray  # (n,) action numbers
    score: np.ndarray  # (n,)


RESULT_COLUMNS = ("video_id", "timestamp", "x1", "y1", "x2", "y2", "action_id", "score")


def write_detections(
    path: str | os.PathLike, detections: Detections, *, digits: int = 6, above: float = -np.inf
) -> Path:
    """The CSV of the challenge: video_id,timestamp,x1,y1,x2,y2,action_id,score; only scores above `above` are written."""
    rows = np.flatnonzero(detections.score > above)
    box, score = detections.box[rows].astype(np.float64).round(digits), detections.score[rows].round(digits)
    names = [(key.video_id, seconds_text(key.seconds)) for key in detections.key_frames]
    columns = [pa.array([name[part] for name in names], pa.string()).take(detections.frame[rows]) for part in (0, 1)]
    columns += [pa.array(box[:, side]) for side in range(4)]
    columns += [pa.array(detections.label[rows]), pa.array(score)]
    text = io.BytesIO()
    options = arrow_csv.WriteOptions(include_header=False, quoting_style="none")
    arrow_csv.write_csv(pa.table(columns, RESULT_COLUMNS), text, options)
    return write_atomic(path, text.getvalue())


def read_detections(path: str | os.PathLike) -> Detections:
    """A result file in the format of the challenge; it may have millions of rows."""
    types = [pa.string(), pa.string(), *[pa.float64()] * 4, pa.int64(), pa.float64()]
    try:
        table = arrow_csv.read_csv(
            path,
            read_options=arrow_csv.ReadOptions(column_names=RESULT_COLUMNS),
            convert_options=arrow_csv.ConvertOptions(column_types=dict(zip(RESULT_COLUMNS, types))),
        )
    except pa.ArrowInvalid:
        return _read_detections_row_by_row(path)
    box = np.stack([table[side].to_numpy() for side in RESULT_COLUMNS[2:6]], 1)
    score = table["score"].to_numpy()
    fine = (box[:, :2] <= box[:, 2:]).all() and box.min(initial=0) >= -SLACK and box.max(initial=0) <= 1 + SLACK
    if not fine or not np.isfinite(score).all() or table["action_id"].null_count:
        return _read_detections_row_by_row(path)
    columns = [table["video_id"], table["timestamp"], pa.scalar(",")]
    texts = compute.call_function("binary_join_element_wise", columns).combine_chunks()
    coded = texts.dictionary_encode()
    key_frames: dict[KeyFrame, int] = {}
    numbers = []  # two texts may be one time: 0902 and 902.0
    for text in coded.dictionary.to_pylist():
        key = key_frame_of(text.rpartition(",")[::2], f"{path} key frame {text}")
        numbers.append(key_frames.setdefault(key, len(key_frames)))
    frame = np.array(numbers, dtype=np.int64)[coded.indices.to_numpy()]
    return Detections(list(key_frames), frame, box, table["action_id"].to_numpy(), score)


def _read_detections_row_by_row(path: str | os.PathLike) -> Detections:
    """The slow way, for files with a header or blank lines, and for naming the row that is wrong."""
    key_frames: dict[KeyFrame, int] = {}
    frame, box, label, score = [], [], [], []
    for where, row in csv_rows(path):
        if len(row) != len(RESULT_COLUMNS):
            raise ValueError(f"{where} has {len(row)} columns; results have {','.join(RESULT_COLUMNS)}")
        frame.append(key_frames.setdefault(key_frame_of(row, where), len(key_frames)))
        box.append(parse_box(row[2:6], where))
        label.append(whole_number(row[6], "action", where))
        score.append(parse_score(row[7], where))
    return Detections(
        list(key_frames),
        np.array(frame, dtype=np.int64),
        np.array(box, dtype=np.float64).reshape(-1, 4),
        np.array(label, dtype=np.int64),
        np.array(score, dtype=np.float64),
    )
