"""The rule of conftest.py that no test which needs an optional package is skipped where the packages are required."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CASES = {
    "marked": "import pytest\n@pytest.mark.backends\ndef test_it(): pytest.skip('no backend here')\n",
    "fixture": "import pytest\n@pytest.fixture\ndef gone(): pytest.importorskip('gone')\ndef test_it(gone): pass\n",
    "file": "import pytest\npytest.importorskip('gone')\ndef test_it(): pass\n",
}
OTHER = "import pytest\ndef test_it(): pytest.skip('another reason')\n"


@pytest.fixture(scope="module", params=[True, False], ids=["required", "not required"])
def run(request, tmp_path_factory):
    """Whether backends are required, and what pytest says of a file for each case."""
    folder = tmp_path_factory.mktemp("skips")
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    for name, code in (CASES | {"other": OTHER}).items():
        (folder / f"test_{name}.py").write_text(code)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = backends\n")
    environment = os.environ | {"KPREF_REQUIRE_BACKENDS": "1" if request.param else "0"}
    command = [sys.executable, "-m", "pytest", "-q", "-ra", "-p", "no:cacheprovider", str(folder)]
    command += ["--continue-on-collection-errors"]
    return request.param, subprocess.run(command, env=environment, text=True, capture_output=True, timeout=60)


def test_skips_fail_where_backends_are_required(run):
    required, done = run
    assert done.returncode == (1 if required else 0), done.stdout
    for case in CASES:
        assert bool(re.search(rf"^(FAILED|ERROR) .*test_{case}\.py", done.stdout, flags=re.M)) == required, case
    assert done.stdout.count("does not allow this test to be skipped") >= (len(CASES) if required else 0)


def test_other_skips_are_not_touched(run):
    required, done = run
    assert re.search(r"^SKIPPED .*another reason", done.stdout, flags=re.M)
    assert f"{1 if required else 1 + len(CASES)} skipped" in done.stdout
