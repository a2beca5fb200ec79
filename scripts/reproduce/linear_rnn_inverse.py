"""The inverse transpose of the propagator of a linear network: with a step of time, or without?"""

from __future__ import annotations

import numpy as np
from entry import BLOG, Entry, Finding, mean_and_error, report

from kpref import Flow
from kpref.models import Linear

TRIALS, STEPS, INPUTS, UNITS, SEEDS = 5, 20, 3, 12, 10

ENTRY = Entry(
    title="(P^T)^-1 of a linear network",
    source=BLOG,
    claim="(P^T)^-1 g = g - W^T g at each point of time by itself",
    setting=f"z' = W z + U x, W normal of gain 0.7; B {TRIALS}, T {STEPS}, H {UNITS}; {SEEDS} seeds",
    reports="the formula",
    quantity="|g - (P^T)^-1 P^T g| / |g| by the formula",
)


def find() -> Finding:
    """Both formulas applied to ``P^T g``: what is right gives g back."""
    claimed, shifted = [], []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        weight = 0.7 * rng.normal(size=(UNITS, UNITS)) / UNITS**0.5
        model = Linear(rng.normal(size=(UNITS, INPUTS)), weight)
        flow = Flow(model, rng.normal(size=(TRIALS, STEPS, INPUTS)))
        g = rng.normal(size=flow.space.shape)
        image = flow.P.T(g)
        later = np.concatenate([image[:, 1:], np.zeros((TRIALS, 1, UNITS))], axis=1)
        claimed.append(np.linalg.norm(image - image @ weight - g) / np.linalg.norm(g))
        shifted.append(np.linalg.norm(image - later @ weight - g) / np.linalg.norm(g))
    value, error = mean_and_error(claimed)
    return Finding(
        value, error, max(claimed) < 1e-12,
        f"the transpose runs backwards in time, so the term is W^T g[n+1]: with that g comes back to "
        f"{max(shifted):.0e}, without the shift it is off by {value:.2f} of its size",
    )  # fmt: skip


if __name__ == "__main__":
    report(ENTRY, find)
