"""Which weights of a run its final test is of, and when its figure flatters.

The papers report the weights after the last epoch: the releases test the model in memory then, and only save their
`checkpoint-best` (run_class_finetuning.py of V1 and V2). Choosing the best validation is right for data of one's own,
where the test list is another one; in the releases it is the same list, and the choice would be made on the test.
"""

import os

from videomae.data.lists.manifests import Manifest
from videomae.data.stretches import Stretch, named
from videomae.training.runs import FINAL

BEST = "best"  # the model folder of the best validation; both names are values of FinetuneRecipe.test_weights


def weights_to_test(test_weights: str, *, early_stopping: bool, has_best: bool) -> str:
    """The model folder of a run that is tested at its end: "final" or "best".

    `test_weights` is the recipe's. A run that may stop early tests the best: where it stops is chance. Without a
    validation there is no best.
    """
    if test_weights not in (FINAL, BEST):
        raise ValueError(f"test_weights must be {FINAL} or {BEST}, not {test_weights!r}")
    return BEST if has_best and (test_weights == BEST or early_stopping) else FINAL


def chosen_on_the_test(weights: str, validation: Manifest | None, test: Manifest) -> str | None:
    """A sentence for the user where the best weights were chosen on videos that they are then tested on."""
    if weights != BEST or validation is None:
        return None
    seen = {_video(validation, index) for index in range(len(validation))}
    shared = sum(_video(test, index) in seen for index in range(len(test)))
    if not shared:
        return None
    return (
        f"{shared} of the {len(test)} test videos are validation videos, on which the best weights were chosen, so the "
        f"figure flatters; --test_weights {FINAL} tests the last epoch's, as the papers do"
    )


def _video(manifest: Manifest, index: int) -> str:
    """What tells a video from the others: its file and times, or its name in a table or shard."""
    source = manifest.source(index)
    if isinstance(source, Stretch) and isinstance(source.source, str):
        return named(os.path.abspath(source.source), source.start_seconds, source.end_seconds)
    return os.path.abspath(source) if isinstance(source, str) else manifest.path(index)
