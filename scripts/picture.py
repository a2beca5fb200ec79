"""Makes the picture of the README from a report's figures: `python scripts/picture.py kpref-report picture.png`."""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.image import imread

ROWS = {"before training": "checkpoint_00000", "after training": "checkpoint_01500"}


def main(report: Path, target: Path) -> None:
    """Put the three leading modes of both checkpoints of the bundled example side by side."""
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    axes = figure.subplots(len(ROWS), 3)
    for row, (title, checkpoint) in zip(axes, ROWS.items(), strict=True):
        for number, ax in enumerate(row, start=1):
            ax.imshow(imread(report / f"modes_{checkpoint}_{number}.png"))
            ax.set_axis_off()
        row[0].set_title(title, loc="left", fontsize=15, fontweight="bold")
    figure.savefig(target, dpi=90)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="folder that `scripts/analyze` wrote")
    parser.add_argument("target", type=Path, help="the picture")
    main(**vars(parser.parse_args()))
