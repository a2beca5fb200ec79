"""What products cost with weights that are nearly all zero, by their entries and by the whole matrix.

    python scripts/sparse_products.py [--units 128 256 512] [--densities 0.01 0.05 0.1] [--rounds 9]

A rate network whose mask leaves so much of the recurrent weight, 100 trials of 60 steps; P and its adjoint both ways in
turn, medians of the ratios within rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import numpy as np

import kpref
from kpref.kernels import interpreter


def flow_of(units: int, density: float, whole: bool) -> kpref.Flow:
    """A flow whose products go by entries, or by the whole matrix."""
    rng = np.random.default_rng(0)
    model = kpref.models.Rate.init(3, units, seed=0, mask=rng.random((units, units)) < density)
    inputs = np.cumsum(rng.normal(size=(100, 60, 3)), axis=1) / 8
    flow = kpref.Flow(model, inputs, dt=0.1, method="euler")
    with patch.object(interpreter, "is_sparse", lambda matrix: not whole):
        flow.P(np.zeros(flow.space.shape))
    return flow


def seconds(run: Callable[[], object]) -> float:
    """Of the second of two runs."""
    run()
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--densities", type=float, nargs="+", default=[0.01, 0.05, 0.1])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print("units  density  whole matrix, ms: P     P*   by entries over it: P     P*")
    for units in options.units:
        for density in options.densities:
            flows = [flow_of(units, density, whole) for whole in (True, False)]
            q = np.random.default_rng(1).normal(size=flows[0].space.shape)
            runs = [partial(op, q) for flow in flows for op in (flow.P, flow.P.star)]
            times = np.array([[seconds(run) for run in runs] for _ in range(options.rounds)]).reshape(-1, 2, 2)
            whole, ratios = 1e3 * np.median(times[:, 0], axis=0), np.median(times[:, 1] / times[:, 0], axis=0)
            print(
                f"{units:5} {density:8.3f} {whole[0]:22.2f} {whole[1]:6.2f} {ratios[0]:22.2f} {ratios[1]:6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
