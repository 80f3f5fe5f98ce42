"""The public repositories as Python modules: clones of the four trees, and stand-ins for packages that are not installed.

    for name in MCG-NJU/VideoMAE OpenGVLab/VideoMAEv2 MCG-NJU/VideoMAE-Action-Detection open-mmlab/mmaction2; do
        git clone https://github.com/$name official/${name#*/}
    done

Nothing in the trees is changed; their files are imported as they lie. Each of these packages is used where it is
installed and replaced where it is not, and PROVENANCE.json says which were there:

- timm: `drop_path`, `to_2tuple`, `trunc_normal_` (torch's), `register_model`, ImageNet's mean and deviation
- einops: `rearrange`, for the two patterns of the training loops
- torchvision: `roi_align`
- mmcv: `build_norm_layer`, `DropPath`, `FFN`, `PatchEmbed` and `RoIAlign` (over `roi_align`); mmengine: `BaseModule`,
  `ModuleList`
- names without a function here: torch._six (left torch in version 1.13), tensorboardX, timm.utils, timm.optim, deepspeed,
  decord, mmdet, and of mmaction itself the packages that import all of it (registry, utils, structures)
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

REPOSITORIES = {
    "VideoMAE": "MCG-NJU/VideoMAE",
    "VideoMAEv2": "OpenGVLab/VideoMAEv2",
    "VideoMAE-Action-Detection": "MCG-NJU/VideoMAE-Action-Detection",
    "mmaction2": "open-mmlab/mmaction2",
}


class StandIn(ModuleType):
    """A module in which every name is an empty class, but for those that are given."""

    __path__: list[str] = []

    def __init__(self, name: str, members: dict[str, Any]):
        super().__init__(name)
        vars(self).update(members)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def rearrange(pixels: Tensor, pattern: str, *, p0: int = 0, p1: int = 0, p2: int = 0) -> Tensor:
    """The patterns of the training loops: clips to (b, tokens, positions in a token, c), or the last two as one."""
    if pattern.startswith("b n p c"):
        return pixels.flatten(2)
    b, c, t, h, w = pixels.shape
    tokens = pixels.view(b, c, t // p0, p0, h // p1, p1, w // p2, p2).permute(0, 2, 4, 6, 3, 5, 7, 1)
    tokens = tokens.reshape(b, -1, p0 * p1 * p2, c)
    return tokens.flatten(2) if "(p0 p1 p2 c)" in pattern else tokens


def roi_align(maps: Tensor, rois: Tensor, output_size, spatial_scale=1.0, sampling_ratio=-1, aligned=False) -> Tensor:
    """torchvision's, for square outputs and as many samples of a bin as it covers cells of the map."""
    size = output_size if isinstance(output_size, int) else output_size[0]
    assert sampling_ratio <= 0
    pooled = []
    for image, *box in rois.tolist():
        left, top, right, bottom = (edge * spatial_scale - 0.5 * aligned for edge in box)
        feature_map = maps[int(image)]
        rows = _bins(top, bottom, size, feature_map.shape[1], aligned)
        columns = _bins(left, right, size, feature_map.shape[2], aligned)
        pooled.append(rows @ feature_map @ columns.T)
    return torch.stack(pooled)


def _bins(start: float, end: float, size: int, cells: int, aligned: bool) -> Tensor:
    """(size, cells): how much each cell of one axis counts in each bin."""
    length = end - start if aligned else max(end - start, 1.0)
    samples = max(math.ceil(length / size), 1)
    bins = torch.zeros(size, cells, dtype=torch.float64)
    for row in range(size * samples):
        at = start + (row + 0.5) * length / (size * samples)
        if -1 <= at <= cells:
            at = min(max(at, 0.0), cells - 1)
            low = int(at)
            bins[row // samples, low] += (1 - (at - low)) / samples
            bins[row // samples, min(low + 1, cells - 1)] += (at - low) / samples
    return bins.float()


def drop_path(x: Tensor, drop_prob: float = 0.0, training: bool = False) -> Tensor:
    if not training or not drop_prob:
        return x
    kept = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) >= drop_prob
    return x * kept / (1 - drop_prob)


class BaseModule(nn.Module):
    def __init__(self, init_cfg=None):
        super().__init__()


class FFN(nn.Module):
    """mmcv's two-layer perceptron: the parameters are `layers.0.0` and `layers.1`."""

    def __init__(self, embed_dims, feedforward_channels, act_cfg, ffn_drop, add_identity):
        super().__init__()
        assert act_cfg == {"type": "GELU"} and not add_identity
        first = nn.Sequential(nn.Linear(embed_dims, feedforward_channels), nn.GELU(), nn.Dropout(ffn_drop))
        self.layers = nn.Sequential(first, nn.Linear(feedforward_channels, embed_dims), nn.Dropout(ffn_drop))

    def forward(self, x):
        return self.layers(x)


class PatchEmbed(nn.Module):
    """mmcv's: a Conv3d called `projection`; returns the tokens and the size of their grid."""

    def __init__(self, in_channels, embed_dims, conv_type, kernel_size, stride, padding, dilation):
        super().__init__()
        self.projection = nn.Conv3d(in_channels, embed_dims, kernel_size, stride, padding, dilation)

    def forward(self, x):
        x = self.projection(x)
        return x.flatten(2).transpose(1, 2), x.shape[2:]


class RoIAlign(nn.Module):
    """mmcv's, average pooling: the same as torchvision's function."""

    def __init__(self, output_size, spatial_scale, sampling_ratio, pool_mode, aligned):
        super().__init__()
        assert pool_mode == "avg"
        self.settings = output_size, spatial_scale, sampling_ratio, aligned

    def forward(self, maps, rois):
        return sys.modules["torchvision.ops"].roi_align(maps, rois, *self.settings)


class Registry:
    def register_module(self, **_):
        return lambda item: item


def build_norm_layer(cfg, width):
    return "ln", nn.LayerNorm(width, eps=cfg["eps"])


# In an order in which a parent comes before its parts.
STAND_INS: dict[str, dict[str, Any]] = {
    "timm": {},
    "timm.models": {},
    "timm.models.layers": {
        "drop_path": drop_path,
        "to_2tuple": lambda x: x if isinstance(x, tuple) else (x, x),
        "trunc_normal_": nn.init.trunc_normal_,
    },
    "timm.models.registry": {"register_model": lambda function: function},
    "timm.data": {},
    "timm.data.constants": {
        "IMAGENET_DEFAULT_MEAN": (0.485, 0.456, 0.406),
        "IMAGENET_DEFAULT_STD": (0.229, 0.224, 0.225),
    },
    "timm.utils": {},
    "einops": {"rearrange": rearrange},
    "torchvision": {},
    "torchvision.ops": {"roi_align": roi_align},
    "torch._six": {"inf": math.inf},
    "tensorboardX": {},
    "mmengine": {},
    "mmengine.config": {},
    "mmengine.model": {"BaseModule": BaseModule, "ModuleList": nn.ModuleList},
    "mmengine.structures": {},
    "mmcv": {},
    "mmcv.cnn": {"build_norm_layer": build_norm_layer},
    "mmcv.cnn.bricks": {"DropPath": nn.Dropout},  # of rate 0, or never called: only outputs are compared
    "mmcv.cnn.bricks.transformer": {"FFN": FFN, "PatchEmbed": PatchEmbed},
    "mmcv.ops": {"RoIAlign": RoIAlign},
    "mmdet": {},
    "mmdet.models": {},
    "mmdet.models.task_modules": {},
    "mmdet.models.task_modules.samplers": {},
    "mmaction": {},
    "mmaction.registry": {"MODELS": Registry()},
    "mmaction.utils": {},
    "mmaction.structures": {},
    "mmaction.structures.bbox": {},
}


def install_stand_ins() -> None:
    """Put a stand-in wherever an import fails."""
    for name, members in STAND_INS.items():
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = StandIn(name, members)


def versions() -> dict[str, str]:
    """What ran: versions of the packages that matter; `stand-in` for those of the list above that are not installed."""
    found = {"python": sys.version.split()[0]}
    for package in ("torch", "safetensors", "numpy"):
        found[package] = importlib.metadata.version(package)
    for package in ("timm", "einops", "torchvision", "mmcv", "mmengine"):
        module = sys.modules.get(package)
        found[package] = "stand-in" if module is None or isinstance(module, StandIn) else module.__version__
    return found


class OfficialTrees:
    """A folder that holds the four clones."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).resolve()
        missing = [name for name in REPOSITORIES if not (self.folder / name).is_dir()]
        if missing:
            raise ValueError(f"{folder} has no {', '.join(missing)}; clone the four repositories as official.py says")
        install_stand_ins()

    def commits(self) -> dict[str, str]:
        """The commit of each tree; a tree with changes of somebody is an error."""
        found = {}
        for name, repository in REPOSITORIES.items():
            git = ["git", "-C", str(self.folder / name)]
            if subprocess.run([*git, "status", "--porcelain", "-uno"], check=True, capture_output=True).stdout:
                raise ValueError(f"{self.folder / name} has been changed; clone {repository} again")
            head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
            found[repository] = head.stdout.strip()
        return found

    @contextlib.contextmanager
    def _first_on_the_path(self, tree: str) -> Iterator[None]:
        """Trees share names such as `utils`: what one of them imported is forgotten before the next one's turn."""
        folder = str(self.folder / tree)
        sys.path.insert(0, folder)
        try:
            yield
        finally:
            sys.path.remove(folder)
            for name, module in list(sys.modules.items()):
                if (getattr(module, "__file__", None) or "").startswith(f"{folder}/"):
                    del sys.modules[name]

    def load(self, tree: str, *names: str) -> tuple[ModuleType, ...]:
        """Modules of one tree by name, imported together."""
        with self._first_on_the_path(tree):
            return tuple(importlib.import_module(name) for name in names)

    def load_file(self, tree: str, path: str) -> ModuleType:
        """One file of a tree alone, without the packages that it lies in."""
        spec = importlib.util.spec_from_file_location(f"official_{Path(path).stem}", self.folder / tree / path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
