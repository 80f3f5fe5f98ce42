"""Check the installation, a model folder or a data set, and say what to fix: `videomae doctor`."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from videomae.data.check import render as render_data
from videomae.files import write_json
from videomae.inspection.doctor import look_at_data, model_folder
from videomae.inspection.environment import look_at_environment
from videomae.inspection.model_folder import look_at_model

SOUND, PROBLEMS, FAILED = 0, 1, 2  # exit codes


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(
        prog="videomae doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parse.add_argument("targets", nargs="*", metavar="FOLDER|LIST", help="model folders, Hub names, data [none]")
    parse.add_argument("--root", help="where relative paths of a list start")
    parse.add_argument("--probe", default="50", help="how many videos to open in part, or all [50]")
    parse.add_argument("--no_forward", action="store_true", help="do not run the models")
    parse.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="print the report as JSON, or write it to FILE as well"
    )
    return parse


def main(argv: list[str] | None = None) -> int:
    parse = parser()
    arguments = parse.parse_args(argv)
    if arguments.probe != "all" and not arguments.probe.isdigit():
        parse.error(f"--probe takes a number or all, not {arguments.probe!r}")
    if arguments.json not in (None, "-") and (os.path.isdir(arguments.json) or not arguments.json.endswith(".json")):
        # `doctor --json FOLDER` means the folder, and must not write over a list.
        arguments.targets, arguments.json = [arguments.json, *arguments.targets], "-"
    try:
        report = examine(
            arguments.targets,
            root=arguments.root,
            probe=None if arguments.probe == "all" else int(arguments.probe),
            forward=not arguments.no_forward,
        )
    except (ValueError, TypeError, OSError) as error:
        print(f"videomae doctor: {error}", file=sys.stderr)
        return FAILED
    if arguments.json == "-":
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print("\n".join(render(report)))
        if arguments.json:
            write_json(arguments.json, report)
    return PROBLEMS if report["problems"] else SOUND


def examine(
    targets: list[str], *, root: str | None = None, probe: int | None = 50, forward: bool = True
) -> dict[str, Any]:
    """The whole report, as JSON can hold it."""
    chosen = [model_folder(target) for target in targets]  # what cannot be opened is said before any work
    environment, findings = look_at_environment()
    report: dict[str, Any] = {"environment": environment, "models": [], "data": []}
    found = list(findings)
    for folder, remark in chosen:
        if folder is None:
            continue
        facts, findings = look_at_model(folder, forward=forward)
        report["models"].append(facts | ({"remark": remark} if remark else {}))
        found += findings
    sound = [facts["folder"] for facts in report["models"] if "class" in facts]
    for target, (folder, _) in zip(targets, chosen):
        if folder is None:
            facts, findings = look_at_data(target, root=root, model=sound[0] if sound else None, probe=probe)
            report["data"].append(facts)
            found += findings
    report["findings"] = [finding.to_dict() for finding in found]
    report["problems"] = sum(finding.level == "problem" for finding in found)
    return report


def render(report: dict[str, Any]) -> Iterator[str]:
    """The report for people."""
    facts = report["environment"]
    yield "environment"
    yield f"  python {facts['python']}, {facts['system']}"
    yield "  " + ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    yield (
        f"  {facts['cores']} cores, {facts['torch_threads']} threads of torch, {facts['memory_free_gib']} of "
        f"{facts['memory_gib']} GiB memory free, {facts['disk_free_gib']} GiB disk free"
    )
    for device in facts["devices"]:
        yield "  " + ", ".join(f"{name} {value}" if name != "device" else value for name, value in device.items())
    if not facts["devices"]:
        yield "  no accelerator: models run on the CPU"
    yield f"  reads {', '.join(name for name, there in facts['codecs'].items() if there)}"
    for model in report["models"]:
        yield from _render_model(model)
    for data in report["data"]:
        yield from [f"data {data['origin']}", *("  " + line for line in _data_lines(data))]
    yield ""
    for finding in report["findings"]:
        mark = "PROBLEM" if finding["level"] == "problem" else "note"
        yield f"{mark} ({finding['area']}): {finding['text']}"
        if finding["fix"]:
            yield f"  to mend it: {finding['fix']}"
    count = report["problems"]
    yield "nothing is wrong" if not count else "1 problem" if count == 1 else f"{count} problems"


def _data_lines(data: dict[str, Any]) -> list[str]:
    """The report of check-data without its problems and notes, which stand with the others."""
    return render_data({**data, "problems": [], "notes": []}, 50.0).splitlines()[:-1]


def _render_model(model: dict[str, Any]) -> Iterator[str]:
    yield f"model {model['folder']}"
    if "remark" in model:
        yield f"  {model['remark']}"
    if "class" not in model:
        return
    yield (
        f"  {model['class']} ({model['head']}), size {model['size']}: width {model['width']}, {model['layers']} layers, "
        f"{model['attention_heads']} heads, patch {model['patch'][0]}, {model['num_frames']} frames of "
        f"{model['image_size'][0]}x{model['image_size'][1]}"
        + (f", {model['num_labels']} classes" if "num_labels" in model else "")
    )
    yield (
        f"  epsilon {model['layer_norm_eps']:g} and {model['norm_eps']:g}, "
        f"{'mean pooling' if model['use_mean_pooling'] else 'final norm on the tokens'}"
    )
    if "sampling" in model:
        sampling = model["sampling"]
        yield (
            f"  pixels by {model['mean']}, {model['std']}; {sampling['strategy']} clips of {sampling['num_frames']} frames "
            f"at stride {sampling['stride_frames']}, test {sampling['clips']}x{sampling['crops']}"
        )
    if "parameters" in model:
        ran = f"; one forward pass {model['forward_seconds']} s" if "forward_seconds" in model else ""
        yield f"  {model['parameters']:,} parameters, {model['dtype']}, hash {model['weights_sha256'][:16]}{ran}"
    if source := model.get("converted_from"):
        difference = source["largest_relative_difference"]
        proof = "without a proof" if difference is None else f"outputs agreed within {difference:.1e}"
        yield f"  converted from {source['source_file']}, {proof}"
    for name, file in model.get("files", {}).items():
        yield f"  {name}: {file['bytes']:,} bytes, sha256 {file['sha256'][:16]}"
