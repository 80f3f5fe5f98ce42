"""What the scores of a test are worth: AUC, F1, thresholds, calibration, intervals: `videomae scores PREDICTIONS`.

    videomae scores evaluations/mine --groups patients.csv --group_column patient
    videomae scores test/predictions.parquet --fit_on val/predictions.parquet --temperature_into runs/mine/best

PREDICTIONS is predictions.parquet of `videomae evaluate` (or its folder), or a CSV, JSON or Parquet table with a label and
scores in each row. Writes scores.json and scores.png beside it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from videomae.command_line import DONE, argument, option, read_options


@dataclass(frozen=True, kw_only=True)
class Options:
    predictions: str = argument("predictions.parquet, its folder, or a table with labels and scores", kind="path")
    class_names: str | None = option(
        None, "data", "file with the class names, in the order of the scores [of the test]", kind="file"
    )
    label_kind: str | None = option(
        None, "data", "what a label is: one class, or several [as the labels look]", choices=("class", "multi")
    )
    logits: bool = option(False, "data", "the scores are logits; softmax (sigmoid for several labels) is taken first")
    groups: str | None = option(
        None, "data", "a table with the paths and their groups (patients, cameras), for results by group", kind="file"
    )
    group_column: str | None = option(None, "data", "its column of groups [group, patient, subject, camera, ...]")

    fit_on: str | None = option(
        None, "temperature", "other predictions of the same model to fit the temperature on [PREDICTIONS]", kind="path"
    )
    temperature_into: str | None = option(
        None, "temperature", "model folder whose config gets the temperature, for its pipelines and card", kind="folder"
    )

    bins: int = option(10, "figures", "bins of the reliability curve", least=2, most=1000)
    resamples: int | None = option(
        None, "figures", "of the bootstrap; 0 makes no intervals [1000, of large tables 200]", least=0
    )
    seed: int = option(0, "figures", "of the bootstrap")

    output: str | None = option(
        None, "results", "folder for scores.json and scores.png [beside PREDICTIONS]", metavar="FOLDER"
    )
    table_rows: int = option(10, "results", "rows of the tables printed", least=0)
    json: bool = option(False, "results", "print what scores.json holds instead of the report")


def main(argv: list[str] | None = None) -> int:
    options = read_options(Options, argv, command="scores", about=__doc__)
    from videomae.data.lists.groups import read_groups
    from videomae.data.lists.label_files import read_names
    from videomae.evaluation.score_tables import read_scores
    from videomae.evaluation.scores import report, report_lines, save_temperature
    from videomae.files import check_output, write_atomic, write_json
    from videomae.pictures.drawing import png_bytes
    from videomae.pictures.scores import score_picture

    if options.group_column and not options.groups:
        raise ValueError("--group_column names a column of --groups, which is missing")
    names = read_names(options.class_names) if options.class_names else None
    reading = {"class_names": names, "label_kind": options.label_kind, "logits": options.logits}
    table = read_scores(options.predictions, **reading)
    fit_on = read_scores(options.fit_on, **reading) if options.fit_on else None
    column, groups = read_groups(options.groups, options.group_column) if options.groups else ("group", None)
    output = Path(options.output or Path(table.origin).parent)
    check_output(output)
    result = report(
        table,
        groups=groups,
        group_column=column,
        fit_on=fit_on,
        bins=options.bins,
        resamples=options.resamples,
        seed=options.seed,
    )
    write_json(output / "scores.json", result)
    write_atomic(output / "scores.png", png_bytes(score_picture(result)))
    print(json.dumps(result, indent=2, sort_keys=True, ensure_ascii=False) if options.json else
          "\n".join(report_lines(result, rows=options.table_rows)))  # fmt: skip
    said = [f"written: {output}/scores.json, scores.png"]
    if options.temperature_into:
        from videomae.model_cards.run_cards import folder_sha256, rewrite_card

        folder = Path(options.temperature_into)
        source = fit_on or table
        measured = folder_sha256(folder) if source.about.get("weights_sha256") else None
        save_temperature(folder, result, source, weights_sha256=measured)
        card = "and its card" if rewrite_card(folder) else "(the card says it once `videomae publish` writes one)"
        said.append(f"temperature {result['temperature']['value']:.4f} written into {folder}/config.json {card}")
    if not options.json:
        print("\n".join(said))
    return DONE
