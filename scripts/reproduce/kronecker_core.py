"""K as a Gram matrix of what the weights multiply, times the identity over units."""

from __future__ import annotations

import numpy as np
from entry import GLOBAL_NTK, Entry, Finding, report

from kpref import Flow
from kpref.models import RNN, LeakyRNN, Linear

TRIALS, STEPS, INPUTS, UNITS, SEEDS = 4, 12, 3, 10, 5

ENTRY = Entry(
    title="Kronecker core of K",
    source=GLOBAL_NTK,
    claim="K is known exactly from the forward pass: the Gram matrix V V^T of the variables that weights multiply, "
    "times the identity over units",
    setting=f"linear map, leaky and tanh network with biases; B {TRIALS}, T {STEPS}, H {UNITS}, measure 'sum'; {SEEDS} "
    "seeds, dense matrices",
    reports="a theorem",
    quantity="largest difference of K from the formula (with gates), relative",
)


def core(flow: Flow, old: np.ndarray, biases: int, gates: np.ndarray | float = 1.0) -> np.ndarray:
    """``(V V^T) (x) I`` with the gates (B T, H) on both sides."""
    points = flow.inputs.shape[0] * flow.inputs.shape[1]
    v = np.concatenate([old, flow.inputs, *[np.ones((*old.shape[:2], 1))] * biases], axis=2).reshape(points, -1)
    gates = np.broadcast_to(gates, (points, UNITS))
    full = np.einsum("ac,au,cw,uw->aucw", v @ v.T, gates, gates, np.eye(UNITS))
    return np.asarray(full.reshape(points * UNITS, points * UNITS))


def find() -> Finding:
    """Dense matrices of three networks."""
    differences, without = [], []
    for seed in range(SEEDS):
        inputs = np.random.default_rng(seed).normal(size=(TRIALS, STEPS, INPUTS))
        for kind in (Linear, LeakyRNN, RNN):
            flow = Flow(kind.init(INPUTS, UNITS, seed), inputs, measure="sum")
            old = np.concatenate([flow.z0[:, None], flow.states[:, :-1]], axis=1)
            dense = flow.K.to_dense()
            if kind is RNN:
                gates = (1 - flow.states**2).reshape(-1, UNITS)
                formula = core(flow, old, 2, gates)
                plain = core(flow, old, 2)
                without.append(np.linalg.norm(dense - plain) / np.linalg.norm(dense))
            else:
                formula = core(flow, np.tanh(old), 1, 0.1) if kind is LeakyRNN else core(flow, old, 1)
            differences.append(np.abs(dense - formula).max() / np.abs(dense).max())
    return Finding(
        max(differences), 0.0, max(differences) < 1e-13,
        "exact as it stands where weights drive the states themselves (linear, leaky); of a tanh network, whose states "
        "are phi of the currents, with phi' on both sides: the core alone is off by "
        f"{100 * np.mean(without):.0f} % in Frobenius norm",
    )  # fmt: skip


if __name__ == "__main__":
    report(ENTRY, find)
