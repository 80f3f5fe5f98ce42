"""Settings for every test: one thread (the models are tiny), no network."""

import os
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# transformers keeps the code of repositories here. One folder a process: it cannot change once something was imported.
_remote_code = tempfile.TemporaryDirectory(prefix="videomae-remote-code-")
os.environ["HF_MODULES_CACHE"] = _remote_code.name
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch  # noqa: E402

torch.set_num_threads(1)
