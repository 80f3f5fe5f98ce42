"""AVA frame mAP of a result file: `videomae ava-map --annotations CSV --detections CSV`."""

import json
from dataclasses import dataclass

from videomae.choices import AVA_PROTOCOLS
from videomae.command_line import REQUIRED, option, read_options


@dataclass(frozen=True, kw_only=True)
class Options:
    annotations: str = option(REQUIRED, "files", "AVA CSV of the ground truth", kind="file")
    detections: str = option(
        REQUIRED, "files", "CSV of results: video_id,timestamp,x1,y1,x2,y2,action_id,score", kind="file"
    )
    excluded: str | None = option(None, "files", "CSV of key frames that do not count", kind="file")
    key_frames: str | None = option(
        None, "files", "CSV of the key frames that count [those of the annotations and of the results]", kind="file"
    )
    classes: str | None = option(
        None, "files", "pbtxt of the classes that count [the 60 of AVA's evaluation]", kind="file"
    )
    iou_threshold: float = option(0.5, "options", "least overlap of a hit", above=0)
    most_per_frame: int | None = option(
        None, "options", "keep only so many results of a key frame (the server: 50) [all]", least=1
    )
    protocol: str = option("ava", "options", "whose evaluation (docs/detection.md)", choices=AVA_PROTOCOLS)
    output: str | None = option(None, "options", "also write the whole result there, as JSON", metavar="FILE")
    json: bool = option(False, "options", "print the whole result as JSON instead of the summary")


def main(argv: list[str] | None = None) -> int:
    options = read_options(Options, argv, command="ava-map", about=__doc__)
    from videomae.data.ava.annotations import read_action_list, read_annotations, read_key_frames
    from videomae.data.ava.detections import read_detections
    from videomae.files import write_json
    from videomae.metrics.ava_map.average_precision import ava_map
    from videomae.metrics.ava_map.columns import for_metric

    annotations, detections = read_annotations(options.annotations), read_detections(options.detections)
    truth, found, numbers = for_metric(annotations, detections)
    listed = set(read_key_frames(options.key_frames)) if options.key_frames else set(numbers)
    listed -= set(read_key_frames(options.excluded)) if options.excluded else set()
    for key in listed:  # a listed frame without annotation and result still is a key frame
        numbers.setdefault(key, len(numbers))
    actions = read_action_list(options.classes) if options.classes else None
    result = ava_map(
        truth,
        found,
        classes=actions.names if actions else None,
        categories=actions.categories if actions else None,
        key_frames=[numbers[key] for key in listed],
        iou_threshold=options.iou_threshold,
        most_per_frame=options.most_per_frame,
        protocol=options.protocol,
    )
    if options.output:
        write_json(options.output, result)
    if options.json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return 0
    unvisited = len(listed & set(annotations.key_frames) - set(detections.key_frames))
    print(f"mAP@{options.iou_threshold:g}: {100 * result['mAP']:.2f}")
    for name, value in result["per_category"].items():
        print(f"  {name}: {'no annotations' if value is None else f'{100 * value:.2f}'}")
    print(
        f"{result['num_key_frames']} key frames ({unvisited} of the annotated ones without any result), "
        f"{result['num_truth']} annotated and {result['num_detections']} found labelled boxes"
    )
    if result["classes_without_truth"]:
        print(f"left out, without annotations: {json.dumps(result['classes_without_truth'])}")
    return 0
