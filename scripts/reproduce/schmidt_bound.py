"""Does the Schmidt rank of an operator bound its effective rank from above?"""

from __future__ import annotations

import numpy as np
from entry import KPFLOW, Entry, Finding, mean_and_error, report

from kpref import Flow
from kpref.models import Linear
from kpref.spectra import kernel_effective_dimension, schmidt_spectrum

TRIALS, STEPS, INPUTS, UNITS, SEEDS = 10, 20, 3, 16, 5

ENTRY = Entry(
    title="Schmidt rank against effective rank",
    source=KPFLOW,
    claim="the effective rank of an operator is at most its Schmidt rank, so that a separable K is of low rank",
    setting=f"K of the linear map z' = W z + U x, B {TRIALS}, T {STEPS}, H {UNITS}; {SEEDS} seeds, exact",
    reports="the bound",
    quantity="effective dimension of a K of Schmidt rank 1",
)


def find() -> Finding:
    """A Kronecker product has Schmidt rank one, and the product of the dimensions of its factors."""
    dimensions, ranks = [], []
    for seed in range(SEEDS):
        inputs = np.random.default_rng(seed).normal(size=(TRIALS, STEPS, INPUTS))
        flow = Flow(Linear.init(INPUTS, UNITS, seed, gain=0.8, bias=False), inputs)
        ranks.append(schmidt_spectrum(flow).effective_rank)
        dimensions.append(float(kernel_effective_dimension(flow)))
    value, error = mean_and_error(dimensions)
    return Finding(
        value, error, value <= max(ranks),
        f"K = (V V^T) (x) I has Schmidt rank {max(ranks):.6g} and {UNITS} times the dimension of V V^T; the identity "
        "is of Schmidt rank 1 and full rank: separability says nothing of rank",
    )  # fmt: skip


if __name__ == "__main__":
    report(ENTRY, find)
