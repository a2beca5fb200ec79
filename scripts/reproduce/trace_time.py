"""How much faster than the whole diagonal is an estimate of the trace of the NTK?"""

from __future__ import annotations

import time

import numpy as np
from entry import TRACES, Entry, Finding, mean_and_error, report

from kpref import Flow, trace
from kpref.models import GRU
from kpref.spectra import ntk_trace_exact

TRIALS, STEPS, INPUTS, UNITS, SEEDS, TOLERANCE = 50, 15, 10, 64, 5, 0.01

ENTRY = Entry(
    title="trace estimation: speed",
    source=f"{TRACES}; github.com/meeree/kpflow, examples/trace_paper",
    claim="randomised estimates of the trace of the NTK are many orders of magnitude faster than unit vectors",
    setting=f"GRU, B {TRIALS}, T {STEPS}, H {UNITS}, {INPUTS} inputs, {TRIALS * STEPS * UNITS:,} states; to a standard "
    f"error of {TOLERANCE:.0%}, {SEEDS} seeds (the script of the source hands PyTorch the trials as time)",
    reports="many orders of magnitude",
    quantity="seconds of all unit vectors over those of the estimate",
)


def find() -> Finding:
    """Against products with unit vectors, whose time is measured on some; the truth is exact by other means."""
    model = GRU.init(INPUTS, UNITS, seed=0)
    flow = Flow(model, np.random.default_rng(0).normal(size=(TRIALS, STEPS, INPUTS)))
    exact = ntk_trace_exact(flow)
    batch = np.random.default_rng(1).normal(size=(32, *flow.space.shape))
    flow.NTK.apply(batch), trace(flow.NTK, tol=TOLERANCE)  # whatever is compiled or loaded once
    begin = time.perf_counter()
    flow.NTK.apply(batch)
    whole = (time.perf_counter() - begin) / len(batch) * flow.space.size
    ratios, errors, products = [], [], 0
    for seed in range(SEEDS):
        begin = time.perf_counter()
        found = trace(flow.NTK, tol=TOLERANCE, seed=seed)
        ratios.append(whole / (time.perf_counter() - begin))
        errors.append(float(found) / exact - 1)
        products = max(products, found.n_products)
    value, error = mean_and_error(ratios)
    return Finding(
        value, error, value > 100,
        f"unit vectors would take {whole:.0f} s; the estimates took at most {products} products and were off by "
        f"{100 * np.sqrt(np.mean(np.square(errors))):.2f} % (root of the mean square)",
    )  # fmt: skip


if __name__ == "__main__":
    report(ENTRY, find)
