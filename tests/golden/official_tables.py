"""Write what the public repositories say as small tables, which fast tests compare with ours.

    python tests/golden/official_tables.py OFFICIAL_TREES

`official_recipes.json`: the flags of every training script over the defaults of its argument parser, with the number of
GPUs that the command starts and that the comment names, and the fields of MMAction2's two detection configs.
`official_shapes.json`: head counts, norms' epsilon and the shape of every parameter of every released size, by the official
constructors, and the mean and deviation of the initial weights of small and base, by kind of parameter.
`official_flags.json`: the names of all arguments of every program that docs/migration.md speaks of.

OFFICIAL_TREES is a folder with clones of the four public repositories; official.py says how to make it.
"""

import argparse
import ast
import json
import re
import runpy
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from torch import nn

GOLDEN = Path(__file__).parent
sys.path.insert(0, str(GOLDEN.parent))

from golden.official import OfficialTrees  # noqa: E402

PROGRAMS = (
    *("VideoMAE/run_mae_pretraining.py", "VideoMAE/run_class_finetuning.py", "VideoMAE/run_videomae_vis.py"),
    *("VideoMAEv2/run_mae_pretraining.py", "VideoMAEv2/run_class_finetuning.py", "VideoMAEv2/extract_tad_feature.py"),
    "VideoMAE-Action-Detection/run_class_finetuning.py",
    *("mmaction2/tools/train.py", "mmaction2/tools/test.py", "mmaction2/demo/demo_spatiotemporal_det.py"),
)
# Flags about a machine, a place or a log, which say nothing about what is trained.
NOT_RECIPE = {
    *("data_path", "eval_data_path", "data_root", "log_dir", "output_dir", "save_ckpt", "save_ckpt_freq", "val_freq"),
    *("device", "resume", "auto_resume", "start_epoch", "eval", "validation", "dist_eval", "num_workers", "pin_mem"),
    *("world_size", "local_rank", "dist_on_itp", "dist_url", "enable_deepspeed", "disable_eval_during_finetuning"),
    *("model_key", "model_prefix", "model_ema_force_cpu", "fname_tmpl", "start_idx"),
}


# ------------------------------------------------------------------------------------------------------ the scripts


def argument_names(program: Path) -> list[str]:
    """Every argument of a program, without hyphens in front; of two spellings the first."""
    calls = [call for call in ast.walk(ast.parse(program.read_text("utf-8"))) if isinstance(call, ast.Call)]
    added = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"]
    return sorted(ast.literal_eval(call.args[0]).lstrip("-") for call in added)


def parser_of(program: Path) -> argparse.ArgumentParser:
    """The argument parser that an official program builds, from its source: nothing of it runs."""
    parser = argparse.ArgumentParser(add_help=False)
    types = {"int": int, "float": float, "str": str, "bool": bool}
    defaults: dict[str, Any] = {}
    for call in ast.walk(ast.parse(program.read_text("utf-8"))):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        if call.func.attr == "set_defaults":
            defaults |= {name: ast.literal_eval(value) for name, value in keywords.items()}
        if call.func.attr != "add_argument":
            continue
        options = {
            name: types[keywords[name].id] if name == "type" else ast.literal_eval(keywords[name])
            for name in ("type", "default", "action", "nargs", "dest")
            if name in keywords
        }
        parser.add_argument(*(ast.literal_eval(name) for name in call.args), **options)
    parser.set_defaults(**defaults)
    return parser


def command_of(script: str) -> list[str]:
    """The words of a script's one command, with the variables that the script sets filled in."""
    code = "\n".join(line for line in script.splitlines() if not line.lstrip().startswith("#"))
    assigned = dict(re.findall(r"^(\w+)=(.*)$", code, re.MULTILINE))
    values = {name: re.sub(r"\$\{\w+:-(.*?)\}|['\"\s]", r"\1", value) for name, value in assigned.items()}
    (command,) = re.findall(r"^(?:srun|OMP_NUM_THREADS=1 python).*", code.replace("\\\n", " "), re.MULTILINE)
    return shlex.split(re.sub(r"\$\{?(\w+)\}?", lambda match: values.get(match[1], match[1]), command))


def script_row(tree: Path, script: Path) -> dict[str, Any]:
    """One script: its program, the GPUs and the flags that differ from the program's defaults."""
    text = script.read_text("utf-8")
    words = command_of(text)
    program = next(word for word in words if re.fullmatch(r"run_\w+\.py", word))
    start = words.index(program)
    parser = parser_of(tree / program)
    given, _ = parser.parse_known_args(words[start + 1 :])
    launch = dict(word.lstrip("-").split("=", 1) for word in words[:start] if word.startswith("--") and "=" in word)
    gpus = int(launch["ntasks"]) if "ntasks" in launch else int(launch["nproc_per_node"]) * int(launch.get("nnodes", 1))
    comment = re.search(r"this script is for (\d+) GPUs", text)
    flags = {name: value for name, value in vars(given).items() if value != parser.get_default(name)}
    if "finetune" in flags:
        flags["finetune"] = flags["finetune"].removeprefix("YOUR_PATH/")
    return {
        "program": f"{tree.name}/{program}",
        "gpus": gpus,
        "gpus_in_comment": int(comment[1]) if comment else None,
        "flags": {name: value for name, value in flags.items() if name not in NOT_RECIPE},
    }


# ------------------------------------------------------------------------------------------------ MMAction2's configs


def mmaction2_row(tree: Path, config: Path) -> dict[str, Any]:
    """The fields of a detection config (a Python file of literals) that a recipe has."""
    fields = runpy.run_path(str(config))
    model, optimizer = fields["model"], fields["optim_wrapper"]
    train, test = ({step["type"]: step for step in fields[f"{part}_pipeline"]} for part in ("train", "val"))
    rcnn, head = model["train_cfg"]["rcnn"], model["roi_head"]["bbox_head"]
    warmup, cosine = fields["param_scheduler"]
    return {
        "start": weights_of(tree, model["init_cfg"]["checkpoint"]),
        "width": model["backbone"]["embed_dims"],
        "drop_path_rate": model["backbone"]["drop_path_rate"],
        "dropout_ratio": head["dropout_ratio"],
        "num_classes": head["num_classes"],
        "batch_size": fields["train_dataloader"]["batch_size"],
        "lr_batch": fields["auto_scale_lr"]["base_batch_size"],
        "optimizer": optimizer["optimizer"],
        "decay_rate": optimizer["paramwise_cfg"]["decay_rate"],
        "max_norm": optimizer["clip_grad"]["max_norm"],
        "max_epochs": fields["train_cfg"]["max_epochs"],
        "warmup": {name: warmup[name] for name in ("type", "start_factor", "begin", "end")},
        "cosine": {name: cosine[name] for name in ("type", "eta_min", "begin", "end")},
        "clip_len": train["SampleAVAFrames"]["clip_len"],
        "frame_interval": train["SampleAVAFrames"]["frame_interval"],
        "scale_range": train["RandomRescale"]["scale_range"],
        "crop": train["RandomCrop"]["size"],
        "flip_ratio": train["Flip"]["flip_ratio"],
        "test_scale": test["Resize"]["scale"],
        "boxes": rcnn["sampler"]["num"],
        "pos_iou_thr": rcnn["assigner"]["pos_iou_thr"],
        "person_det_score_thr": default_of(
            tree / "mmaction/datasets/ava_dataset.py", fields["dataset_type"], "person_det_score_thr"
        ),
    }


def weights_of(tree: Path, url: str) -> dict[str, str]:
    """Which published model a link leads to, by the metafiles."""
    for metafile in sorted(tree.glob("configs/*/videomae/metafile.yml")):
        for model in yaml.safe_load(metafile.read_text("utf-8"))["Models"]:
            if model["Weights"] == url:
                return {key: model["Results"][0][key] for key in ("Task", "Dataset")} | {"Name": model["Name"]}
    raise ValueError(f"{url} is in no metafile of {tree}")


def default_of(file: Path, class_name: str, argument: str) -> Any:
    """The default of one argument of a class, from its source."""
    (found,) = [
        node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef) and node.name == class_name
    ]
    (init,) = [node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    names = [arg.arg for arg in init.args.args][-len(init.args.defaults) :]
    return ast.literal_eval(dict(zip(names, init.args.defaults))[argument])


def recipes(trees: OfficialTrees) -> dict[str, Any]:
    programs: dict[str, dict[str, Any]] = {}
    scripts: dict[str, dict[str, Any]] = {}
    for name in ("VideoMAE", "VideoMAEv2", "VideoMAE-Action-Detection"):
        tree = trees.folder / name
        for script in sorted(tree.glob("scripts/**/*.sh")):
            scripts[f"{name}/{script.relative_to(tree)}"] = script_row(tree, script)
        for program in sorted(
            {Path(row["program"]).name for key, row in scripts.items() if key.startswith(f"{name}/")}
        ):
            defaults = vars(parser_of(tree / program).parse_args([]))
            programs[f"{name}/{program}"] = {key: value for key, value in defaults.items() if key not in NOT_RECIPE}
    tree = trees.folder / "mmaction2"
    configs = {
        f"mmaction2/{config.relative_to(tree)}": mmaction2_row(tree, config)
        for config in sorted(tree.glob("configs/detection/videomae/*.py"))
    }
    return {"defaults": programs, "scripts": scripts, "mmaction2": configs}


# ------------------------------------------------------------------------------------------------ shapes and first weights

V1_SIZES, V2_SIZES = ("small", "base", "large", "huge"), ("small", "base", "large", "huge", "giant")
CLASSES = {"finetune": 400, "detect": 80}


def builders(trees: OfficialTrees) -> dict[str, Any]:
    """By name ("VideoMAE pretrain small"), a function that builds the official model as the official programs do."""
    v1_pre, v1_fine = trees.load("VideoMAE", "modeling_pretrain", "modeling_finetune")
    v2_pre, v2_fine = trees.load("VideoMAEv2", "models.modeling_pretrain", "models.modeling_finetune")
    (detect,) = trees.load("VideoMAE-Action-Detection", "modeling_finetune")
    rows = recipes(trees)
    depths = {}  # of the decoder: a flag of the scripts, which differs between sizes
    for script, row in rows["scripts"].items():
        flags = rows["defaults"][row["program"]] | row["flags"]
        if "decoder_depth" in flags:
            depths[script.split("/")[0], flags["model"]] = flags["decoder_depth"]
    found = {}
    for tree, sizes, heads in (
        ("VideoMAE", V1_SIZES, {"pretrain": v1_pre, "finetune": v1_fine}),
        ("VideoMAEv2", V2_SIZES, {"pretrain": v2_pre, "finetune": v2_fine}),
        ("VideoMAE-Action-Detection", V1_SIZES, {"detect": detect}),
    ):
        for head, module in heads.items():
            for size in sizes:
                name = f"{size}_patch{14 if size == 'giant' else 16}_224"
                if head == "pretrain":
                    name = f"pretrain_videomae_{name}"
                    options = {"decoder_depth": depths.get((tree, name), 4)}
                else:
                    name = f"vit_{name}"
                    options = {"num_classes": CLASSES[head], "init_scale": 0.001}
                found[f"{tree} {head} {size}"] = partial(getattr(module, name), **options)
    return found


def kind_of(name: str) -> str:
    """A parameter's name without the number of its block."""
    return re.sub(r"\bblocks\.\d+\.", "blocks.#.", name)


def shapes_of(model: nn.Module) -> dict[str, Any]:
    kinds: dict[str, list] = {}
    for name, parameter in model.named_parameters():
        shapes = kinds.setdefault(kind_of(name), [])
        shapes.append(list(parameter.shape))
    assert all(shape == shapes[0] for shapes in kinds.values() for shape in shapes)
    encoder = getattr(model, "encoder", model)
    (eps,) = {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)}
    row = {"heads": encoder.blocks[0].attn.num_heads, "norm_eps": eps}
    if hasattr(model, "decoder"):
        row["decoder_heads"] = model.decoder.blocks[0].attn.num_heads
    return row | {"shapes": {kind: [len(shapes), *shapes[0]] for kind, shapes in kinds.items()}}


def statistics_of(model: nn.Module) -> dict[str, list[float]]:
    """[mean, deviation] of all parameters of one kind together."""
    values: dict[str, list] = {}
    for name, parameter in model.named_parameters():
        values.setdefault(kind_of(name), []).append(parameter.detach().flatten())
    flat = {kind: torch.cat(parts).double() for kind, parts in values.items()}
    return {kind: [float(f"{x:.4g}") for x in (v.mean(), v.std(correction=0))] for kind, v in flat.items()}


def shapes(trees: OfficialTrees) -> dict[str, Any]:
    made = builders(trees)
    table = {}
    for name, build in made.items():
        # Without memory; but drop path asks a linspace for its numbers.
        with torch.device("meta"), patch.object(torch, "linspace", partial(torch.linspace, device="cpu")):
            table[name] = shapes_of(build())
        if name.endswith((" small", " base")):
            torch.manual_seed(0)
            table[name]["initial"] = statistics_of(build())
    return {"models": table}


# ------------------------------------------------------------------------------------------------------------ files


def write(name: str, commits: dict[str, str], table: dict[str, Any]) -> None:
    record = {"made_by": "tests/golden/official_tables.py", "repositories": commits, **table}
    text = json.dumps(record, indent=1)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda match: " ".join(match[0].split()), text)  # a list of numbers on one line
    (GOLDEN / name).write_text(text + "\n", encoding="utf-8")
    print(f"wrote {GOLDEN / name}: {len(text):,} characters")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("trees", help="a folder with clones of the four public repositories")
    trees = OfficialTrees(parser.parse_args(argv).trees)
    commits = trees.commits()
    write("official_recipes.json", commits, recipes(trees))
    write("official_shapes.json", commits, shapes(trees))
    write(
        "official_flags.json", commits, {"programs": {name: argument_names(trees.folder / name) for name in PROGRAMS}}
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
