"""What `videomae convert` can be told; light, so that help and mistakes are answered before torch is imported."""

from dataclasses import dataclass

from videomae.choices import MAX_GIGABYTES
from videomae.command_line import UsageError, argument, option

ABOUT = """Released VideoMAE weights to a `from_pretrained` folder, and back, with the proof beside them.

    videomae convert checkpoint.pth FOLDER --name videomae-base-finetuned-kinetics --labels kinetics400
    videomae convert FOLDER checkpoint.pth --to original
"""


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    checkpoint: str = argument("a .pth or .safetensors file, a model folder, or OWNER/NAME on the Hub", kind="weights")
    output: str = argument("the folder to write (with --to original: the .pth file)")

    name: str | None = option(None, "the model", "which released checkpoint it is: a name of zoo.yaml or on the Hub")
    labels: str | None = option(
        None, "the model", "class names: a known set (kinetics400, ava, ...) or a txt, json, csv, pbtxt file"
    )
    image_size: int | None = option(None, "the model", "height and width in pixels, where it is not 224")
    num_frames: int | None = option(None, "the model", "frames of a clip, where it is not 16")
    num_attention_heads: int | None = option(None, "the model", "needed for sizes that were never released")
    decoder_num_attention_heads: int | None = option(None, "the model", "the same for a pre-training file's decoder")

    to: str = option("videomae", "the work", "which way to convert", choices=("videomae", "original"))
    no_verify: bool = option(False, "the work", "skip the comparison with the official forward")
    overwrite: bool = option(False, "the work", "replace a model folder (or file) that is in the way")
    dry_run: bool = option(False, "the work", "print what would be made, and write nothing")
    push_to_hub: str | None = option(None, "the work", "upload the folder with its card", metavar="OWNER/NAME")
    max_gigabytes: float = option(MAX_GIGABYTES, "the work", "refuse larger files", above=0)

    def __post_init__(self):
        if self.push_to_hub and (self.to == "original" or self.push_to_hub.count("/") != 1):
            raise UsageError("--push_to_hub takes OWNER/NAME and goes with a model folder, not with --to original")
