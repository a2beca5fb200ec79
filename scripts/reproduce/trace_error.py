"""How good is an estimate of the trace of the NTK from 50 samples?"""

from __future__ import annotations

import time

import numpy as np
from entry import TRACES, Curve, Entry, Finding, Panel, report

from kpref import Flow, trace
from kpref.models import GRU

TRIALS, STEPS, INPUTS, UNITS, SAMPLES, SEEDS = 100, 10, 10, 128, 50, 5
REFERENCE = 1e-3
METHODS = ("hutch++", "krylov")

ENTRY = Entry(
    title="trace estimation: error",
    source=TRACES,
    claim="50 samples give the trace to about 1 % in a third of a second",
    setting=f"GRU, B {TRIALS}, T {STEPS}, H {UNITS}, {INPUTS} inputs; {SAMPLES} products, Hutch++ as the source and "
    f"by Krylov spaces; {SEEDS} seeds",
    reports="0.33 s and 1 %",
    quantity="error of Hutch++, root of the mean square, relative",
)


def find() -> Finding:
    """Errors against an estimate that is far better."""
    flow = Flow(GRU.init(INPUTS, UNITS, seed=0), np.random.default_rng(0).normal(size=(TRIALS, STEPS, INPUTS)))
    exact = float(trace(flow.NTK, tol=REFERENCE, probes=4096, seed=99))
    errors, seconds = {}, {}
    for method in METHODS:
        trace(flow.NTK, method, probes=SAMPLES)  # whatever is compiled or loaded once
        begin = time.perf_counter()
        found = [float(trace(flow.NTK, method, probes=SAMPLES, seed=seed)) for seed in range(SEEDS)]
        seconds[method] = (time.perf_counter() - begin) / SEEDS
        errors[method] = np.array(found) / exact - 1
    root = {method: float(np.sqrt(np.mean(values**2))) for method, values in errors.items()}
    spread = root["hutch++"] / (2 * SEEDS) ** 0.5
    shown = ", ".join(f"{method} {100 * root[method]:.2f} % in {seconds[method]:.2f} s" for method in METHODS)
    return Finding(
        root["hutch++"], spread, root["hutch++"] < 0.02, shown,
        Panel([Curve(method, np.arange(SEEDS), np.abs(values), style="o") for method, values in errors.items()],
              "seed", "relative error", "y"),
    )  # fmt: skip


if __name__ == "__main__":
    report(ENTRY, find)
