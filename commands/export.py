"""A classifier, a detector or features as an ONNX file, compared with the model: `videomae export FOLDER OUTPUT`."""

from dataclasses import asdict, dataclass

from videomae.command_line import argument, option, read_options


@dataclass(frozen=True, kw_only=True)
class Options:
    model: str = argument("folder or Hub name of a model", kind="model")
    output: str = argument("folder to write")
    features: bool = option(False, "options", "feature vectors in place of scores, from any kind of model")
    frame_size: tuple[int, int] | None = option(
        None,
        "options",
        "of a detector's frames [16:9, or as the first of --videos]",
        metavar=("HEIGHT", "WIDTH"),
        least=1,
    )
    int8: bool = option(False, "options", "8-bit weights and products, if the answers stay")
    videos: tuple[str, ...] | None = option(
        None, "options", "videos to compare answers on [clips drawn by a program]", kind="file"
    )
    batch_size: int | None = option(None, "options", "a fixed number of clips in one forward pass [any]", least=1)
    opset: int | None = option(None, "options", "version of ONNX's operators [torch's choice]")
    min_agreement: float = option(0.98, "options", "share of clips with the same answer")
    max_score_difference: float | None = option(None, "options", "how far a score may move [1e-4, with --int8 0.1]")
    overwrite: bool = option(False, "options", "replace the folder if it is there")


def main(argv: list[str] | None = None) -> int:
    options = asdict(read_options(Options, argv, command="export", about=__doc__))
    from transformers.utils import logging as transformers_logging

    from videomae.files import check_output
    from videomae.inference.onnx_export import export, report_lines

    transformers_logging.disable_progress_bar()
    check_output(options["output"], "OUTPUT")
    record = export(options.pop("model"), options.pop("output"), **options)
    print("\n".join(report_lines(record)))
    return 0
