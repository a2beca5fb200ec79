"""Whether the report of this checkout takes less time than that of an older one, and whether any figure is less exact.

    git worktree add ../before c684c24
    python scripts/report_before_after.py ../before [--rounds 3] [-- CHECKPOINT ... --trials FILE]

Both write the report on the networks that come with kpref, or on those that are named, in turn, each in a process of
its own; a first round, which compiles and fills the caches of files, is not counted. Times are medians; a ratio is that
of two runs right after each other. Then the figures whose standard errors, or bounds from residuals, are larger than
they were, with both; what says "exact" counts as zero.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parents[1]


def written(checkout: Path, given: list[str], out: Path) -> float:
    """Seconds that a report takes, the start of Python included."""
    command = [sys.executable, "-m", "kpref", "analyze", *given, "--quiet", "--out", str(out)]
    start = time.perf_counter()
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(checkout)}, cwd=checkout, check=True)
    return time.perf_counter() - start


def metrics(report: Path) -> dict[tuple[str, str], dict[str, str]]:
    """The rows of its table, by checkpoint and key."""
    with (report / "metrics.csv").open(encoding="utf-8", newline="") as table:
        return {(row["checkpoint"], row["key"]): row for row in csv.DictReader(table)}


def compare(old: Path, new: Path) -> None:
    """Print the figures that are less exact, and those that only one report has."""
    before, after = metrics(old), metrics(new)
    print(f"{len(before)} figures before, {len(after)} now, {len(before.keys() - after)} of the former are missing")
    wider = [key for key in before.keys() & after if error_of(after[key]) > error_of(before[key])]
    print(f"{len(wider)} have a larger error" + (": before, now" if wider else ""))
    for key in sorted(wider):
        old_error, error = (error_of(table[key]) for table in (before, after))
        print(f"  {' '.join(key):<44}{old_error:>10.2g}{error:>10.2g} of {after[key]['value']}")


def error_of(row: dict[str, str]) -> float:
    """Its standard error; none is told of what is exact."""
    return float(row["standard_error"] or 0)


def main() -> None:
    """Print times, ratios, and what is less exact."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, help="checkout of the older version")
    parser.add_argument("--rounds", type=int, default=3, help="that count (default: 3)")
    parser.add_argument("given", nargs="*", help="of kpref analyze, after --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        reports, taken = {"before": Path(folder) / "before", "now": Path(folder) / "now"}, []
        for turn in range(args.rounds + 1):
            pair = {}
            for name, checkout in (("before", args.old.resolve()), ("now", HERE)):
                pair[name] = written(checkout, args.given, reports[name])
            if turn:
                taken.append(pair)
                print(f"before {pair['before']:6.1f} s, now {pair['now']:6.1f} s: {pair['now'] / pair['before']:.3f}")
        before, now, ratio = (
            median(of(pair) for pair in taken)
            for of in (lambda p: p["before"], lambda p: p["now"], lambda p: p["now"] / p["before"])
        )
        print(f"medians {before:.1f} s, {now:.1f} s: {ratio:.3f}")
        compare(reports["before"], reports["now"])


if __name__ == "__main__":
    main()
