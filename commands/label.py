"""Labels of videos, whole and over time: `videomae label VIDEOS --model FOLDER`.

    videomae label match.mp4 --model FOLDER
    videomae label RECORDINGS --model FOLDER --stretches --enter_score 0.6 --background nothing
    videomae label RECORDINGS --model FOLDER --truth stretches.csv
    videomae label --live rtsp://camera/stream --model FOLDER

VIDEOS is a file, a folder, a list or the http(s) address of a file. Writes a folder: labels.json and labels.csv (a label for each
video), windows.csv (labels over time), and in videos/ of each video a .json, subtitles (.srt and .vtt) and a picture. The
same command continues where it was stopped. Stretches are a classifier's answers, smoothed: no localiser.
With --live, VIDEOS is a stream, a camera or - (standard input), and a line of JSON is printed for each window until Ctrl-C.
"""

import dataclasses
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from videomae.choices import LABEL_FORMATS
from videomae.command_line import (
    DONE,
    FAILED,
    REQUIRED,
    UsageError,
    argument,
    check_path,
    errors_option,
    option,
    read_options,
)


def stride_of(text: str) -> str:
    """ "32" frames or "0.5s" seconds, as it is."""
    if not re.fullmatch(r"[1-9]\d{0,8}|\d{1,8}(\.\d+)?s", text) or float(text.rstrip("s")) == 0:
        raise ValueError(f"from one window to the next are frames such as 32, or seconds such as 0.5s, not {text!r}")
    return text


@dataclass(frozen=True, kw_only=True)
class Options:
    videos: str = argument("a video, a folder of videos, a list (docs/data.md), or an http(s) address")
    model: str = option(REQUIRED, "model", "a classifier: a folder or a name on the Hub", kind="model")

    data_root: str | None = option(None, "data", "folder that relative paths of a list start from", kind="folder")
    split: str | None = option(None, "data", "which part of the data, where it has several")
    errors: str = errors_option("data")

    stride: str | None = option(
        None, "windows", "from one window to the next: frames (32) or seconds (0.5s) [half a window]", convert=stride_of
    )
    stride_frames: int | None = option(
        None, "windows", "frames between two frames of a clip [as saved with the model]", least=1
    )
    no_windows: bool = option(False, "windows", "label whole files only, from one clip each")
    all_views: bool = option(False, "windows", "label the whole file from all clips and crops of the published test")

    stretches: bool = option(False, "stretches", "make stretches of the windows: smooth, then two thresholds")
    smooth_seconds: float = option(2.0, "stretches", "a score is the mean over the windows of so many seconds", least=0)
    enter_score: float = option(0.5, "stretches", "what a stretch must reach somewhere", least=0, most=1)
    keep_score: float = option(0.3, "stretches", "what it must keep from start to end", least=0, most=1)
    max_gap_seconds: float = option(0.0, "stretches", "stretches of one label that are closer become one", least=0)
    min_seconds: float = option(0.0, "stretches", "shorter ones are left out", least=0)
    background: tuple[str, ...] = option((), "stretches", "labels that make no stretches", metavar="LABEL")
    truth: str | None = option(
        None,
        "stretches",
        "labelled stretches to score the found ones against: a table with path, label, start_seconds and end_seconds, or "
        "ActivityNet's JSON",
        kind="file",
    )

    live: bool = option(
        False,
        "live",
        "VIDEOS is rtsp://HOST/PATH, tcp://HOST:PORT, udp://@:PORT, /dev/video0 or -; windows are dropped where the model is late",
    )
    stall_seconds: float = option(10.0, "live", "a source that says nothing for so long is opened again", above=0)
    reconnect_seconds: float | None = option(None, "live", "give up after so long without a picture [never]", least=0)

    output: str | None = option(None, "results", "folder [VIDEOS-labels in this folder]", metavar="FOLDER")
    overwrite: bool = option(False, "results", "start over in an output folder that holds labels")
    formats: tuple[str, ...] = option(
        LABEL_FORMATS, "results", "files to write beside JSON", choices=LABEL_FORMATS, metavar="FORMAT"
    )
    top_k: int = option(5, "results", "labels of a video and of a window that are written", least=1)
    table_rows: int = option(10, "results", "rows of the tables printed", least=0)
    json: bool = option(False, "results", "print what labels.json holds instead of the report")

    batch_size: int = option(4, "machine", "windows in one forward pass", least=1)
    device: str | None = option(None, "machine", "such as cpu or cuda [what there is]", metavar="DEVICE")
    threads: int = option(1, "machine", "threads that decode", least=1)

    def __post_init__(self):
        if self.no_windows and (self.stretches or self.truth):
            raise UsageError("--stretches and --truth need windows; leave --no_windows out")
        self._check_live()

    def _check_live(self):
        wrong = [field.name for field in dataclasses.fields(self) if field.name in (OF_FILES if self.live else OF_LIVE)]
        wrong = [name for name in wrong if getattr(self, name) != DEFAULTS[name]]
        if wrong:
            raise UsageError(f"--{wrong[0]} " + ("is not for --live" if self.live else "needs --live"))
        if self.live and (self.stride or "").endswith("s"):
            raise UsageError(f"--stride of --live is a number of frames such as 32, not {self.stride!r}")


def output_of(videos: str, given: str | None) -> Path:
    """The folder of the results; inside the folder of videos it would be searched for videos the next time."""
    is_address = "://" in videos
    name = PurePosixPath(videos.split("?")[0]).stem if is_address else Path(videos).resolve().stem
    output = Path(given or f"{name or 'video'}-labels")
    if not is_address and Path(videos).is_dir() and output.resolve().is_relative_to(Path(videos).resolve()):
        raise UsageError(
            f"--output {output} lies inside {videos}, where videos are searched for; give a folder outside of it"
        )
    return output


def main(argv: list[str] | None = None) -> int:
    options = read_options(Options, argv, command="label", about=__doc__)
    if options.live:
        return label_live_source(options)
    if options.videos == "-" or options.videos.startswith(("rtsp://", "rtsps://", "tcp://", "udp://", "/dev/video")):
        raise UsageError(f"VIDEOS {options.videos}: streams, cameras and standard input need --live")
    check_path("VIDEOS", options.videos, "path")
    from videomae.evaluation.stretch_scores import match_truth, read_truth, stretch_report
    from videomae.files import check_output
    from videomae.inference.labels import (
        Plan,
        Results,
        label_names,
        label_videos,
        open_pipeline,
        report_lines,
        score_labels,
        videos_of,
    )
    from videomae.inference.stretches import StretchRules

    rules = (
        StretchRules(**{name: getattr(options, name) for name in RULES}) if options.stretches or options.truth else None
    )
    truth = read_truth(options.truth) if options.truth else None
    output = output_of(options.videos, options.output)
    check_output(output)
    entries = videos_of(options.videos, root=options.data_root, split=options.split)
    pipe = open_pipeline(options.model, device=options.device)
    stretches, unknown = {}, []
    if truth is not None:
        videos = [(entry.path, entry.name) for entry in entries]
        matched, unknown = match_truth(truth, videos, label_names(pipe.model.config))
        stretches = matched.stretches
    plan = Plan(
        windows=not options.no_windows,
        **{name: getattr(options, name) for name in ("all_views", "stride", "stride_frames", "errors")},
    )
    summary = label_videos(
        pipe,
        entries,
        plan,
        Results(formats=options.formats, top_k=options.top_k, rules=rules, truth=stretches),
        output,
        **{name: getattr(options, name) for name in ("model", "batch_size", "threads", "overwrite")},
    )
    scores = score_labels(summary, stretches, output) if truth is not None else None
    if options.json:
        print(
            json.dumps(summary | ({"scores": scores} if scores else {}), indent=2, sort_keys=True, ensure_ascii=False)
        )
    else:
        lines = [
            *report_lines(summary, options.table_rows),
            *(stretch_report(scores, options.table_rows) if scores else ()),
        ]
        if unknown:
            lines.append(
                f"videos of --truth that are not here, and not scored: {len(unknown)}, the first is {unknown[0]}"
            )
        print("\n".join([*lines, f"written: {output}/labels.json and what it names"]))
    return FAILED if summary["broken"] else DONE


def label_live_source(options: Options) -> int:
    from videomae.inference.labels import open_pipeline
    from videomae.inference.live import label_live
    from videomae.video_live_sources import LiveSource

    LiveSource(options.videos)  # what cannot be one is refused before the model is loaded
    label_live(
        open_pipeline(options.model, device=options.device),
        options.videos,
        results=sys.stdout,
        notes=sys.stderr,
        hop_frames=int(options.stride) if options.stride else None,
        sampling={"stride_frames": options.stride_frames} if options.stride_frames else None,
        **{name: getattr(options, name) for name in ("top_k", "threads", *OF_LIVE)},
    )
    return DONE


RULES = ("smooth_seconds", "enter_score", "keep_score", "max_gap_seconds", "min_seconds", "background")
OF_LIVE = ("stall_seconds", "reconnect_seconds")
OF_FILES = (
    *("data_root", "split", "errors", "no_windows", "all_views", "stretches", "truth", *RULES),
    *("output", "overwrite", "formats", "table_rows", "json", "batch_size"),
)
DEFAULTS = {field.name: field.default for field in dataclasses.fields(Options)}
