"""Estimates of the trace of the NTK that pass through the network in one direction only."""

from __future__ import annotations

import numpy as np
from entry import TRACES, UNKNOWN, Curve, Entry, Finding, Panel, report

from kpref import Flow, trace
from kpref.models import GRU
from kpref.spectra import ntk_trace_exact

TRIALS, STEPS, INPUTS, UNITS, SEEDS = 15, 20, 10, 32, 25
PRODUCTS = np.array([6, 12, 24, 48])

ENTRY = Entry(
    title="one-sided estimators",
    source=TRACES,
    claim="from few samples, |D g|^2 or |D^T g|^2 alone do better than Hutch++, if states and parameters differ",
    setting=f"GRU, B {TRIALS}, T {STEPS}, H {UNITS}, {INPUTS} inputs; 6 to 48 products, a pass in one direction "
    f"counting one half; {SEEDS} seeds",
    reports=UNKNOWN,
    quantity="error of Hutch++ over that of the better one-sided estimator, 6 products",
)


def find() -> Finding:
    """Root of the mean square error of three estimators, at the same cost."""
    flow = Flow(
        GRU.init(INPUTS, UNITS, seed=0),
        np.random.default_rng(0).normal(size=(TRIALS, STEPS, INPUTS)), measure="sum",
    )  # fmt: skip
    exact, most = ntk_trace_exact(flow), 2 * int(PRODUCTS[-1])
    errors = {name: np.empty((SEEDS, len(PRODUCTS))) for name in ("Hutch++", "forward", "backward")}
    for seed in range(SEEDS):
        rng = np.random.default_rng([seed, 5])
        forward = np.square(flow.D.apply(rng.normal(size=(most, flow.D.shape[1])))).sum(axis=(1, 2, 3))
        backward = np.square(flow.D.T.apply(rng.normal(size=(most, *flow.space.shape)))).sum(axis=1)
        for column, products in enumerate(PRODUCTS):
            errors["forward"][seed, column] = forward[: 2 * products].mean()
            errors["backward"][seed, column] = backward[: 2 * products].mean()
            errors["Hutch++"][seed, column] = float(trace(flow.NTK, "hutch++", probes=int(products), seed=seed))
    root = {name: np.sqrt(np.mean((table / exact - 1) ** 2, axis=0)) for name, table in errors.items()}
    better = np.minimum(root["forward"], root["backward"])
    ratio = root["Hutch++"] / better
    return Finding(
        float(ratio[0]), float(ratio[0] / SEEDS**0.5), bool(ratio[0] > 1),
        f"{flow.space.size} states, {flow.D.shape[1]} parameters: at 6 products Hutch++ errs by "
        f"{100 * root['Hutch++'][0]:.1f} %, forward passes by {100 * root['forward'][0]:.1f} %, backward ones by "
        f"{100 * root['backward'][0]:.1f} %; the ratio is {ratio[-1]:.2f} at {PRODUCTS[-1]} products",
        Panel([Curve(name, PRODUCTS, values, style="o-") for name, values in root.items()],
              "products", "relative error", "xy"),
    )  # fmt: skip


if __name__ == "__main__":
    report(ENTRY, find)
