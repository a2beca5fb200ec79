"""Do K and the gradient flow operator Phi = P K P* of a linear network have the same kernel?"""

from __future__ import annotations

import numpy as np
from entry import BLOG, Curve, Entry, Finding, Panel, mean_and_error, report

from kpref import Flow, principal_angles
from kpref.models import Linear

TRIALS, STEPS, INPUTS, UNITS, SEEDS = 3, 8, 2, 5, 10

ENTRY = Entry(
    title="ker Phi = ker K?",
    source=BLOG,
    claim="what K cannot do, Phi = P K P* cannot do: their kernels are the same",
    setting=f"z' = W z + U x; B {TRIALS}, T {STEPS}, H {UNITS}, all parameters; {SEEDS} seeds, dense matrices",
    reports="the kernels are the same",
    quantity="largest angle between the two kernels, degrees",
)


def kernel(matrix: np.ndarray) -> np.ndarray:
    """Basis, as rows, of the kernel of a symmetric positive matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray(vectors[:, values < 1e-10 * values[-1]].T)


def find() -> Finding:
    """Kernels by eigenvectors of the dense matrices."""
    largest, sizes, angles = [], set(), np.zeros(0)
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        model = Linear(rng.normal(size=(UNITS, INPUTS)), rng.normal(size=(UNITS, UNITS)) / UNITS**0.5)
        flow = Flow(model, rng.normal(size=(TRIALS, STEPS, INPUTS)))
        of_k, of_phi = (kernel(op.to_dense()) for op in (flow.K, flow.P @ flow.K @ flow.P.star))
        sizes.add((len(of_k), len(of_phi)))
        angles = principal_angles(
            of_k.reshape(-1, *flow.space.shape), of_phi.reshape(-1, *flow.space.shape), flow.space
        )
        largest.append(np.degrees(angles[-1]))
    value, error = mean_and_error(largest)
    counts = ", ".join(f"{a} and {b}" for a, b in sorted(sizes))
    return Finding(
        value, error, value < 1e-3,
        f"ker Phi = (P*)^-1 ker K: as many dimensions ({counts}), but others; the two would be one if (P^T)^-1 "
        "acted at each point of time by itself",
        Panel([Curve("one seed", np.arange(1, len(angles) + 1), np.degrees(angles), style="o-")],
              "index", "principal angle, degrees"),
    )  # fmt: skip


if __name__ == "__main__":
    report(ENTRY, find)
