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


def test_a_second_run_in_a_folder_is_refused_while_the_first_has_it(tmp_path):
    first = open_run(tmp_path, PRETRAINING["tiny"], resume="auto")
    with pytest.raises(ValueError, match="another process is training in"):
        open_run(tmp_path, PRETRAINING["tiny"], resume="auto")
    del first
    open_run(tmp_path, PRETRAINING["tiny"], resume="auto")
