import pytest

from videomae.training.options import read_recipe
from videomae.training.recipes import PRETRAINING, PretrainRecipe
from videomae.training.runs import open_run


def test_a_misspelt_resume_starts_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"--resume atuo: .* holds no checkpoint to go on from; give auto, never or"):
        open_run(tmp_path / "run", PRETRAINING["tiny"], resume="atuo")
    assert not (tmp_path / "run").exists()


def test_a_recipe_file_that_is_missing_is_named():
    with pytest.raises(
        FileNotFoundError, match=r"--recipe nowhere\.yaml: no such file; give the path of a recipe\.yaml"
    ):
        read_recipe("nowhere.yaml", PretrainRecipe)
