"""The smallest recurrent network, one number that is multiplied by g at each step: all operators in closed form."""

from __future__ import annotations

import numpy as np
from entry import BLOG, Curve, Entry, Finding, Panel, report

from kpref import Flow
from kpref.models import Linear, LinearSystem

STEPS, START = 25, 0.7
GAINS = np.array([0.5, 0.9, 1.0, 1.1, 1.5])

ENTRY = Entry(
    title="h' = g h",
    source=BLOG,
    claim="P, K and the NTK of h' = g h are powers of g: P = g^(n-m), K = h0^2 g^(n+m), dh[n]/dg = n g^(n-1) h0; in "
    "continuous time dh/dg = t e^(gt) h0",
    setting=f"a map of one state, T {STEPS}, g 0.5 to 1.5, h0 {START}; and dh/dt = g h by rk4 with 10 and 20 steps",
    reports="the formulas",
    quantity="largest difference of P, K and NTK from the formulas, relative",
)


def scalar_flow(gain: float, steps: int = STEPS) -> Flow:
    """``h[n+1] = g h[n]``, g trained, in the measure that sums."""
    model = Linear(np.zeros((1, 1)), [[gain]], trainable=["weight_hh"])
    return Flow(model, np.zeros((1, steps, 1)), z0=[START], measure="sum")


def continuous_error(gain: float, steps: int) -> float:
    """Of ``dh/dg`` at the times of an interval of length 1, relative to the largest."""
    times = np.linspace(0, 1, steps + 1)
    model = LinearSystem(np.zeros((1, 1)), [[gain]], trainable=["weight_hh"])
    flow = Flow(model, np.zeros((1, steps + 1, 1)), z0=[START], times=times)
    exact = START * times * np.exp(gain * times)
    return float(np.abs(flow.D(np.ones(1)).ravel() - exact).max() / exact.max())


def find() -> Finding:
    """Dense matrices against the formulas."""
    n, differences, curves = np.arange(STEPS), [], []
    for gain in GAINS:
        flow, power = scalar_flow(gain), gain**n
        sensitivity = START * (n + 1) * power
        expected = (
            (flow.P, np.tril(gain ** (n[:, None] - n).astype(float))),
            (flow.K, START**2 * np.outer(power, power)),
            (flow.NTK, np.outer(sensitivity, sensitivity)),
        )
        differences += [np.abs(op.to_dense() - matrix).max() / np.abs(matrix).max() for op, matrix in expected]
        curves.append(Curve(f"g = {gain:g}", n + 1, flow.D(np.ones(1)).ravel()))
    coarse, fine = continuous_error(1.5, 10), continuous_error(1.5, 20)
    order = np.log2(coarse / fine)
    return Finding(
        max(differences), 0.0, max(differences) < 1e-13 and abs(order - 4) < 0.2,
        f"the formulas hold to rounding; in continuous time rk4 comes to them at order {order:.2f}",
        Panel(curves, "step n", "dh[n]/dg", "y"),
    )  # fmt: skip


if __name__ == "__main__":
    report(ENTRY, find)
