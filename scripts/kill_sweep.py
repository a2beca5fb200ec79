"""Kills sweeps at random moments by SIGKILL, lets them resume, and compares the tables that they end with.

    python scripts/kill_sweep.py [--cells 200] [--kills 3] [--workers 2] [--seed 0]

One sweep is left alone, with one worker; another, of the same cells, is killed again and again, with several. A tenth
of the cells diverges, and so has an error in place of numbers. The two tables must be the same to the last byte, and no
process of a cell may outlive the sweep that started it.

After that a sweep of eight cells, some of which raise, need too much memory, or hang: each must be told as what it is,
and the one that is well have its numbers.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

METRICS = 'metrics = ["loss", "dimension_K", "dimension_NTK", "trace_NTK"]\n'
FIXED = """
[fixed]
model = "rnn"
task = "flip_flop"
units = 4
batch_size = 4
optimizer = "gradient"
"""
#: What has failed of each cell of `failures`: by steps, then fresh trials, then learning rates.
FAILED = ["", "raised", "memory", "raised", "time", "raised", "time", "raised"]


def command(folder: Path, name: str, workers: int) -> list[str]:
    """The sweep in a folder."""
    words = f"-m kpref sweep {folder}/grid.toml -o {folder}/{name} --workers {workers} --quiet"
    return [sys.executable, *words.split()]


def failures(folder: Path) -> list[str]:
    """What has failed, as the table says, of cells that should be `FAILED`."""
    varied = "steps = [2, 1_000_000_000]\nfresh_trials = [3, 100_000_000]\nlearning_rate = [0.01, 1e30]"
    limits = "[limits]\nseconds = 20\nmemory = 1.0"
    (folder / "grid.toml").write_text(f"{METRICS}[grid]\n{varied}\n{FIXED}{limits}\n")
    subprocess.run(command(folder, "failures", 2))
    with open(folder / "failures" / "table.csv", newline="") as file:
        return [row["failed"] for row in csv.DictReader(file)]


def lingering() -> int:
    """Processes of cells that still run some time after all sweeps have ended; they notice once they are loaded."""
    end = time.monotonic() + 20
    while True:
        lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        number = lines.count("-m kpref.sweeps.cell_worker")
        if number == 0 or time.monotonic() > end:
            return number
        time.sleep(0.1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill, resume, compare; 0 if all is the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    rng = np.random.default_rng(chosen.seed)
    rates = [0.01 + 0.001 * number for number in range(9)] + [1e30]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        varied = f"learning_rate = {rates}\nseed = {list(range(-(-chosen.cells // 10)))}"
        (folder / "grid.toml").write_text(f"{METRICS}[grid]\n{varied}\n{FIXED}steps = 30\nfresh_trials = 3\n")
        started = time.monotonic()
        whole = subprocess.run(command(folder, "whole", 1)).returncode
        lasted = (time.monotonic() - started) / chosen.workers
        outlived = 0
        for _ in range(chosen.kills):
            process = subprocess.Popen(command(folder, "killed", chosen.workers))
            try:
                process.wait(rng.uniform(0.3, 1.0) * lasted / (chosen.kills + 1))
            except subprocess.TimeoutExpired:
                process.kill()
            process.wait()
            outlived += lingering()
        killed = subprocess.run(command(folder, "killed", chosen.workers)).returncode
        tables = [(folder / run / "table.csv").read_bytes() for run in ("whole", "killed")]
        told = failures(folder)  # after the others, so that nothing is compiled within their limit of seconds
    same = tables[0] == tables[1] and whole == killed
    lines = tables[0].decode().splitlines()
    failed = sum(",raised," in line for line in lines)
    print(
        f"{len(lines) - 1} cells, {failed} of them diverge; {chosen.kills} kills with {chosen.workers} workers: "
        f"{'the same table' if same else 'OTHER TABLES'}; {outlived} processes outlived their sweep; "
        f"failures are {'told as what they are' if told == FAILED else f'{told} IN PLACE OF {FAILED}'}"
    )
    return 0 if same and told == FAILED and not outlived else 1


if __name__ == "__main__":
    sys.exit(main())
