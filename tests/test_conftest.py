"""The rule of conftest.py that no test which needs an optional package is skipped where the packages are required."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CASES = {
    "marked": "import pytest\n@pytest.mark.backends\ndef test_it(): pytest.skip('no backend here')\n",
    "fixture": "import pytest\n@pytest.fixture\ndef gone(): pytest.importorskip('gone')\ndef test_it(gone): pass\n",
    "whole file": "import pytest\npytest.importorskip('gone')\ndef test_it(): pass\n",
}
OTHER = "import pytest\ndef test_it(): pytest.skip('another reason')\n"


def run_pytest(folder, code, require):
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    (folder / "test_case.py").write_text(code)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = backends\n")
    environment = os.environ | {"KPREF_REQUIRE_BACKENDS": "1" if require else "0"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("case", CASES)
def test_skip_fails_where_backends_are_required(case, tmp_path):
    done = run_pytest(tmp_path, CASES[case], require=True)
    assert done.returncode not in (0, 5), done.stdout
    assert "does not allow this test to be skipped" in done.stdout


@pytest.mark.parametrize("case", CASES)
def test_skip_is_a_skip_elsewhere(case, tmp_path):
    assert "1 skipped" in run_pytest(tmp_path, CASES[case], require=False).stdout


def test_other_skips_are_not_touched(tmp_path):
    done = run_pytest(tmp_path, OTHER, require=True)
    assert done.returncode == 0, done.stdout
    assert "1 skipped" in done.stdout
