"""Settings for every test: one thread (the models are tiny), no network."""

import os
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# transformers keeps the code of repositories here. One folder a process: it cannot change once something was imported.
_remote_code = tempfile.TemporaryDirectory(prefix="videomae-remote-code-")
os.environ["HF_MODULES_CACHE"] = _remote_code.name
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# For the processes that tests start: on several threads torch's matrix products differ in the last bits from process to
# process, which the tests of equal results after a kill, or on two processes, would see.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture
def registered():
    """transformers as `register_auto_classes` leaves it, put back afterwards."""
    import transformers as hf
    from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING
    from transformers.pipelines import PIPELINE_REGISTRY
    from transformers.utils.import_utils import DummyObject

    from videomae import auto_videomae

    models = (hf.MODEL_MAPPING, hf.MODEL_FOR_PRETRAINING_MAPPING, hf.MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING)
    mappings = (hf.CONFIG_MAPPING, *models, hf.IMAGE_PROCESSOR_MAPPING, VIDEO_PROCESSOR_MAPPING)
    contents, tasks = [dict(mapping._extra_content) for mapping in mappings], PIPELINE_REGISTRY.supported_tasks
    before, raising = {name: dict(task) for name, task in tasks.items()}, DummyObject.__getattribute__
    auto_videomae.register_auto_classes()
    auto_videomae.register_auto_classes()  # a second time does no harm
    yield
    for mapping, content in zip(mappings, contents):
        mapping._extra_content = content
    for name in set(tasks) - set(before):
        del tasks[name]
    tasks.update(before)
    DummyObject.__getattribute__ = raising
    auto_videomae._let_placeholders_find_video_processors.cache_clear()
