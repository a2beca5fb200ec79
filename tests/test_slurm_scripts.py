"""Job scripts for SLURM are ones that a shell can read, and say what they need."""

import subprocess
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "scripts" / "slurm").glob("*.sbatch"))


def test_there_are_scripts_for_both_ways():
    assert [path.name for path in SCRIPTS] == ["jobqueue.sbatch", "mpi.sbatch"]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_shell_can_read_them(path):
    subprocess.run(["bash", "-n", path], check=True)
    lines = path.read_text().splitlines()
    last = max(number for number, line in enumerate(lines) if line.startswith("#SBATCH"))
    # SLURM reads no option that stands behind a command.
    assert all(line.startswith("#") for line in lines[: last + 1])
