"""The script that runs transformers' own tests on our classes: what it reads and what it prints."""

import subprocess
import sys
from pathlib import Path

import pytest
from run_transformers_tests import CLASSES, checkout_version, outcomes, run, table

import videomae

REPORT = """<testsuites><testsuite>
<testcase classname="tests.models.ModelTest" name="test_fine"/>
<testcase classname="tests.models.ModelTest" name="test_left"><skipped/></testcase>
<testcase classname="tests.models.ModelTest" name="test_wrong"><failure/></testcase>
<testcase classname="tests.models.ModelTest" name="test_parts"/>
<testcase classname="tests.models.ModelTest" name="test_parts [VideoMAEModel]"><failure/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def checkout(tmp_path):
    """A folder laid out as a checkout, with one test file that asks whose classes it is given."""
    (tmp_path / "src/transformers").mkdir(parents=True)
    (tmp_path / "src/transformers/__init__.py").write_text('import x\n__version__ = "5.99.0.dev0"\n')
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_whose.py").write_text(
        "from transformers import VideoMAEModel\n"
        "def test_stock(): assert VideoMAEModel.__module__.startswith('transformers.')\n"
        "def test_any(): pass\n"
    )
    (tmp_path / "tests/test_broken.py").write_text("import nothing_of_this_name\n")
    return tmp_path


def test_a_report_is_read_with_the_worst_of_a_tests_subtests(tmp_path):
    (tmp_path / "report.xml").write_text(REPORT)
    assert outcomes(tmp_path / "report.xml") == {
        "ModelTest::test_fine": "passed",
        "ModelTest::test_left": "skipped",
        "ModelTest::test_wrong": "failed",
        "ModelTest::test_parts": "failed",
    }


def test_the_second_run_sees_our_classes(checkout):
    assert run(checkout, "tests/test_whose.py", "ours", []) == {
        "test_whose::test_stock": "failed",
        "test_whose::test_any": "passed",
    }


def test_a_file_that_cannot_be_collected_is_an_error_and_no_row_of_zeros(checkout):
    with pytest.raises(RuntimeError, match=r"(?s)test_broken\.py did not run on stock.*nothing_of_this_name"):
        run(checkout, "tests/test_broken.py", "stock", [])


def test_the_table_names_what_differs():
    stock = {"T::test_a": "passed", "T::test_b": "passed", "T::test_c": "skipped"}
    ours = {"T::test_a": "passed", "T::test_b": "failed", "T::test_c": "skipped"}
    assert table({"tests/test_x.py": (stock, ours)}).splitlines() == [
        "| file | stock: passed / failed / skipped | ours |",
        "|---|---|---|",
        "| test_x.py | 2 / 0 / 1 | 1 / 1 / 1 |",
        "",
        "| differs | stock | ours |",
        "|---|---|---|",
        "| T::test_b | passed | failed |",
    ]


def test_version_and_classes_are_those_that_exist(checkout):
    assert checkout_version(checkout) == "5.99.0.dev0"
    assert all(hasattr(videomae, name) for name in CLASSES)


def test_a_folder_without_the_files_is_refused(checkout):
    script = Path(__file__).with_name("run_transformers_tests.py")
    done = subprocess.run([sys.executable, script, checkout], capture_output=True, text=True)
    assert done.returncode == 2 and "has no tests/models/videomae/test_modeling_videomae.py" in done.stderr
