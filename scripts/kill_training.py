"""Kills trainings at random moments by SIGKILL, lets them resume, and compares what they end with bit by bit.

    python scripts/kill_training.py [--kills 20] [--seed 0]

One training is left alone. Another, of the same settings, is killed again and again after a random time, in the midst
of a step or of a file, and ends at last. Every file of parameters and states, and every line of the table but for the
seconds, must be the same.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

STEPS = 400


def command(folder: Path, run: str) -> list[str]:
    """The training in a folder."""
    words = (
        f"-m kpref train --trials {folder}/trials.npz -o {folder}/{run} --units 32 --batch-size 8 --steps {STEPS} "
        "--checkpoint-every 7 --quiet"
    )
    return [sys.executable, *words.split()]


def content(folder: Path) -> dict[str, bytes]:
    """What must be the same, by the names of the files."""
    found = {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("step_*.safetensors"))}
    lines = (folder / "metrics.csv").read_text().splitlines()
    return found | {"metrics.csv": "\n".join(line.rpartition(",")[0] for line in lines).encode()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill, resume, compare; 0 if all is the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    rng = np.random.default_rng(chosen.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        x = rng.normal(size=(40, 30, 2))
        np.savez(folder / "trials.npz", inputs=x, targets=np.cumsum(x[:, :, :1], axis=1) / 5)
        started = time.monotonic()
        subprocess.run(command(folder, "whole"), check=True)
        lasted = time.monotonic() - started
        killed = 0
        while killed < chosen.kills:
            process = subprocess.Popen(command(folder, "killed"))
            try:
                process.wait(rng.uniform(0.3, 1.0) * lasted)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                killed += 1
                continue
            if killed == chosen.kills or process.returncode != 0:
                break
            for file in [*(folder / "killed").rglob("step_*"), folder / "killed" / "metrics.csv"]:
                file.unlink()  # it has come to its end: once more from the beginning
        subprocess.run(command(folder, "killed"), check=True)
        same = content(folder / "whole") == content(folder / "killed")
    print(f"{killed} kills of a training of {lasted:.1f} s: {'the same bits' if same else 'OTHER BITS'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
