"""AVA frame mAP of a result file: `videomae ava-map --annotations ... --detections ...`."""

import argparse
import json

from videomae.data.ava.annotations import read_action_list, read_annotations, read_key_frames
from videomae.data.ava.detections import read_detections
from videomae.files import write_json
from videomae.metrics.ava_map.average_precision import PROTOCOLS, ava_map
from videomae.metrics.ava_map.columns import for_metric


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="videomae ava-map", description=__doc__.splitlines()[0])
    parser.add_argument("--annotations", required=True, help="AVA CSV of the ground truth")
    parser.add_argument(
        "--detections", required=True, help="CSV of results: video_id,timestamp,x1,y1,x2,y2,action_id,score"
    )
    parser.add_argument("--excluded", help="CSV of key frames that do not count")
    parser.add_argument(
        "--key_frames", help="CSV of the key frames that count (default: those of the annotations and of the results)"
    )
    parser.add_argument("--classes", help="pbtxt of the classes that count (default: the 60 of AVA's evaluation)")
    parser.add_argument("--iou_threshold", type=float, default=0.5)
    parser.add_argument(
        "--most_per_frame", type=int, help="keep only this many results of a key frame (the server: 50)"
    )
    parser.add_argument("--protocol", choices=PROTOCOLS, default="ava", help="whose evaluation (docs/detection.md)")
    parser.add_argument("--output", help="also write the whole result as JSON")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    annotations, detections = read_annotations(args.annotations), read_detections(args.detections)
    truth, found, numbers = for_metric(annotations, detections)
    listed = set(read_key_frames(args.key_frames)) if args.key_frames else set(numbers)
    listed -= set(read_key_frames(args.excluded)) if args.excluded else set()
    for key in listed:  # a listed frame without annotation and result still is a key frame
        numbers.setdefault(key, len(numbers))
    actions = read_action_list(args.classes) if args.classes else None
    result = ava_map(
        truth,
        found,
        classes=actions.names if actions else None,
        categories=actions.categories if actions else None,
        key_frames=[numbers[key] for key in listed],
        iou_threshold=args.iou_threshold,
        most_per_frame=args.most_per_frame,
        protocol=args.protocol,
    )
    if args.output:
        write_json(args.output, result)
    unvisited = len(listed & set(annotations.key_frames) - set(detections.key_frames))
    print(f"mAP@{args.iou_threshold:g}: {100 * result['mAP']:.2f}")
    for name, value in result["per_category"].items():
        print(f"  {name}: {'no annotations' if value is None else f'{100 * value:.2f}'}")
    print(
        f"{result['num_key_frames']} key frames ({unvisited} of the annotated ones without any result), "
        f"{result['num_truth']} annotated and {result['num_detections']} found labelled boxes"
    )
    if result["classes_without_truth"]:
        print(f"left out, without annotations: {json.dumps(result['classes_without_truth'])}")
    return 0
