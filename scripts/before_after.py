"""Whether the operators of this checkout are slower, or take more memory, than those of an older one.

    git worktree add ../before c684c24
    python scripts/before_after.py ../before [--rounds 15] [--threads 1,2] [--models gru,rate] [--sizes 8x40x4x32]

A process for each checkout has the same networks and data. They are called in turn, one being idle while the other
works: the ratio of a round is the time of this checkout over that of the other right before or after it (the order
changes from round to round), and the table has the median of the ratios and its interval of 95 % from order statistics
(of 15 ratios the fourth and the twelfth: the binomial distribution leaves 1.8 % on either side). Memory is the highest
that a product needs above what was there before it, result included. Sizes are trials x steps x inputs x units.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binom

HERE = Path(__file__).resolve().parents[1]
OPERATORS = ("P", "P^T", "K", "NTK")
SIZES = "8x20x4x32,8x40x3x32,100x90x3x128,200x90x3x256"
TIMED = 0.02
"""Seconds that the calls of one timing take together, or one call if it takes longer."""


def serve() -> None:
    """Answer requests, a line of JSON each, until standard input ends: what the two processes do."""
    import kpref

    try:
        from kpref.bench.contender_process import reset_peak_memory, resident_memory
    except ImportError:  # as the module was called before
        from kpref.bench.worker import reset_peak_memory, resident_memory

    calls: dict[str, Callable[[], Any]] = {}

    def answer(request: dict[str, Any]) -> Any:
        if request["do"] == "build":
            calls.clear()
            kpref.set_num_threads(request["threads"])
            calls.update(make_calls(request["model"], request["size"]))
            return {name: float(np.linalg.norm(call())) for name, call in calls.items()}
        call = calls[request["operator"]]
        if request["do"] == "memory":
            call()
            reset_peak_memory()
            before = resident_memory("VmRSS")
            call()
            return (resident_memory("VmHWM") or 0) - (before or 0)
        return timed(call)

    print(json.dumps(kpref.__file__), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


def make_calls(name: str, size: list[int]) -> dict[str, Callable[[], Any]]:
    """The products to time: of a GRU, or of a rate network by a Runge-Kutta method with its linearisation kept."""
    import kpref
    from kpref.models import GRU, Rate

    trials, steps, inputs, units = size
    generator = np.random.default_rng(0)
    x = generator.normal(size=(trials, steps, inputs))
    z0, tensor = 0.5 * generator.normal(size=(trials, units)), generator.normal(size=(trials, steps, units))
    if name == "gru":
        flow = kpref.Flow(GRU.init(inputs, units, seed=0), x, z0=z0)
    else:
        flow = kpref.Flow(
            Rate.init(inputs, units, seed=0), x, z0=z0, times=0.1 * np.arange(steps), method="rk4",
            input_kind="linear", stage_memory=sys.float_info.max,
        )  # fmt: skip
    operators = {"P": flow.P, "P^T": flow.P.T, "K": flow.K, "NTK": flow.NTK}
    return {key: lambda op=op: op(tensor) for key, op in operators.items()}  # type: ignore[misc]


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of a call by the clock, the least of several, and of processor time, the mean of them."""
    call()  # caches, and threads that slept
    taken: list[float] = []
    cpu = time.process_time()
    while not taken or sum(taken) < TIMED:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken), (time.process_time() - cpu) / len(taken)


class Process:
    """One checkout at work."""

    def __init__(self, checkout: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(checkout)], env={**os.environ, "PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        found = self._answer()
        if checkout.resolve() not in Path(found).resolve().parents:
            raise ValueError(f"the process of {checkout} imports {found}")

    def ask(self, **request: Any) -> Any:
        """Send a request and wait for its answer."""
        assert self.process.stdin is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process ended with status {self.process.wait()}")
        return json.loads(line)


def interval(ratios: np.ndarray) -> tuple[float, float, float]:
    """Median, and the interval between order statistics that contains it with 95 %."""
    ordered, count = np.sort(ratios), len(ratios)
    cut = int(binom.ppf(0.025, count, 0.5))
    return float(np.median(ordered)), float(ordered[max(cut - 1, 0)]), float(ordered[min(count - cut, count - 1)])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="checkout of the older version")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--models", default="gru,rate")
    parser.add_argument("--sizes", default=SIZES)
    args = parser.parse_args()
    if args.serve:
        serve()
        return
    old, new = Process(args.old), Process(HERE)
    print(f"{'':30}   clock: after/before      processor      before     after     peak memory, MiB")
    for model in args.models.split(","):
        for size in args.sizes.split(","):
            for threads in map(int, args.threads.split(",")):
                request = {"model": model, "size": [int(each) for each in size.split("x")], "threads": threads}
                norms = [process.ask(do="build", **request) for process in (old, new)]
                for operator in OPERATORS:
                    np.testing.assert_allclose(norms[0][operator], norms[1][operator], rtol=1e-9)
                    compare(old, new, operator, args.rounds, f"{model:4} {size:13} {threads} thr {operator:3}")


def compare(old: Process, new: Process, operator: str, rounds: int, title: str) -> None:
    """Print one line of the table."""
    taken = np.empty((rounds, 2, 2))
    for turn in range(rounds):
        for which in (0, 1) if turn % 2 else (1, 0):
            taken[turn, which] = (old, new)[which].ask(do="time", operator=operator)
    memory = [process.ask(do="memory", operator=operator) / 2**20 for process in (old, new)]
    ratios = taken[:, 1] / taken[:, 0]
    (wall, low, high), (cpu, cpu_low, cpu_high) = interval(ratios[:, 0]), interval(ratios[:, 1])
    before, after = 1e3 * taken[:, :, 0].min(axis=0)
    print(
        f"{title:30} {wall:5.2f} [{low:4.2f}, {high:4.2f}]  {cpu:5.2f} [{cpu_low:4.2f}, {cpu_high:4.2f}] "
        f"{before:8.3f} {after:8.3f} ms {memory[0]:8.1f} {memory[1]:8.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
