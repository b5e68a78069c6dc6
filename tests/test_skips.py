"""Tests are skipped for known reasons only."""

import os
import subprocess
import sys
from pathlib import Path

SAMPLE = """
import pytest

def test_without_the_published_files(assets):
    pass

@pytest.mark.skip(reason="no time")
def test_marked():
    pass

def test_that_misses_a_module():
    pytest.importorskip("no_such_module")

@pytest.mark.xfail
def test_expected_to_fail():
    raise ValueError
"""
WHOLE_FILE = """
import pytest

pytest.importorskip("no_such_module")
"""


def test_a_skip_for_an_unknown_reason_is_a_failure(tmp_path):
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    (tmp_path / "test_whole_file.py").write_text(WHOLE_FILE)
    environment = {k: v for k, v in os.environ.items() if k != "LFM2VL_ASSETS"}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    pytest_here = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider"]
    options = ["--continue-on-collection-errors", "--rootdir", str(tmp_path), str(tmp_path)]
    run = subprocess.run(
        [*pytest_here, *options], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert "1 failed, 1 skipped, 1 xfailed, 2 errors" in run.stdout
    assert "KNOWN_SKIPS lacks the reason: could not import 'no_such_module'" in run.stdout
    assert "KNOWN_SKIPS lacks the reason: no time" in run.stdout
