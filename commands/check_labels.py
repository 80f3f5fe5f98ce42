"""Find labels that a model disagrees with, duplicate videos, and test videos among the training videos.

    videomae check-labels folds/1/predictions.parquet folds/2/predictions.parquet --data train.csv
    videomae check-labels test/predictions.parquet --features features --data train.csv --test_data test.csv

PREDICTIONS are tables of `videomae evaluate` on videos that their model was not trained on (docs/scores.md makes them by
folds). Ends with 1 if test videos leak or the predictions prove nothing.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from videomae.choices import LABEL_KINDS
from videomae.command_line import DONE, FAILED, argument, background_option, option, read_options

LABEL_COLUMNS = ("path", "given", "predicted", "self_confidence", "margin", "issue")
PAIR_COLUMNS = ("kind", "similarity", "leak", "labels_differ", "part", "path", "label", "other_part", "other_path",
                "other_label")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    predictions: tuple[str, ...] = argument(
        "out-of-sample predictions: tables of scores and labels, or their folders", default=(), kind="path"
    )
    class_names: str | None = option(None, "data", "file with the class names, in the order of the scores", kind="file")
    data: str | None = option(None, "data", "the list of the videos, to read them and show pictures", kind="path")
    test_data: str | None = option(None, "data", "a list whose videos must not be among those of --data", kind="path")
    data_root: str | None = option(None, "data", "folder that relative paths of the lists start from", kind="folder")
    split: str | None = option(None, "data", "which part of --data")
    test_split: str | None = option(None, "data", "which part of --test_data (of --data, where only that is given)")
    label_kind: str = option("class", "data", "what a label of the lists is", choices=LABEL_KINDS)
    background: str | None = background_option("data")

    features: str | None = option(
        None, "duplicates", "folder of `videomae features` of these videos: near-duplicates too", kind="folder"
    )
    similarity: float = option(
        0.9, "duplicates", "cosine of centred features from which on two videos are near", above=0, most=1
    )
    read_videos: bool = option(True, "duplicates", "compare bytes, frames and pictures of the videos of the lists")
    num_workers: int = option(os.cpu_count() or 1, "duplicates", "threads that read", least=1)

    output: str = option("label_check", "results", "folder for the tables and pictures", metavar="FOLDER")
    pictures: int = option(30, "results", "labels and pairs on the contact sheets", least=0)
    table_rows: int = option(10, "results", "rows of the tables printed", least=0)
    json: bool = option(False, "results", "print the report as JSON instead of text")


def main(argv: list[str] | None = None) -> int:
    options = read_options(Options, argv, command="check-labels", about=__doc__)
    if not options.predictions and not options.data:
        raise ValueError("nothing to check: give tables of predictions, --data, or both")
    from videomae.data.lists.label_files import read_names
    from videomae.data.lists.layouts import open_manifest
    from videomae.data.stretches import Stretch, parsed
    from videomae.evaluation.score_tables import read_scores
    from videomae.features.neighbours import read_vectors
    from videomae.files import check_output, write_atomic, write_json
    from videomae.inspection import labels
    from videomae.pictures.contact_sheet import contact_sheet
    from videomae.pictures.drawing import png_bytes

    output = Path(options.output)
    check_output(output)
    names = read_names(options.class_names) if options.class_names else None
    report: dict = {}
    if options.predictions:
        report["labels"] = labels.check_labels([read_scores(path, class_names=names) for path in options.predictions])
    parts = {}
    if options.data:
        reading = {"root": options.data_root, "label_kind": options.label_kind, "class_names": names}
        reading["background"] = options.background
        parts["data"] = open_manifest(options.data, split=options.split, **reading)
        if options.test_data or options.test_split:
            reading["class_names"] = parts["data"].class_names
            parts["test"] = open_manifest(options.test_data or options.data, split=options.test_split, **reading)
    videos, looked = labels.videos_of(parts), None
    if options.features and not videos:
        raise ValueError("--features needs --data: the list says which videos they are")
    if videos:
        looked = labels.look_at(videos, workers=options.num_workers) if options.read_videos else None
        features = read_vectors(options.features) if options.features else None
        report["duplicates"] = labels.check_duplicates(videos, looked, features, options.similarity)
    report["problems"], report["notes"] = labels.findings(report, videos, looked)

    sources = {video.path: video.source for video in videos}

    def source_of(path):
        file, *times = parsed(path)
        place = os.path.join(options.data_root or "", file)
        found = None if not os.path.isfile(place) else place if file == path else Stretch(place, *times)
        return sources.get(path) or found

    if "labels" in report:
        columns = [*LABEL_COLUMNS, *(["class"] if "class" in report["labels"]["rows"][0] else [])]
        write_atomic(output / "labels.csv", labels.as_csv(report["labels"]["rows"], columns))
        tiles = labels.label_tiles(report["labels"]["rows"][: options.pictures], source_of)
        write_atomic(output / "labels.png", png_bytes(contact_sheet(tiles)))
    if "duplicates" in report:
        write_atomic(output / "duplicates.csv", labels.as_csv(report["duplicates"], PAIR_COLUMNS))
        tiles = labels.pair_tiles(report["duplicates"][: options.pictures // 2], source_of)
        write_atomic(output / "duplicates.png", png_bytes(contact_sheet(tiles)))
    write_json(output / "report.json", report)
    if options.json:
        print(json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False))
    else:
        print("\n".join(labels.report_lines(report, rows=options.table_rows)))
        print(f"written: {output}/" + ", ".join(sorted(path.name for path in output.iterdir() if path.is_file())))
    return FAILED if report["problems"] else DONE
