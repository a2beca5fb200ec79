"""The kernel of the saddle-node bifurcation of maps."""

from __future__ import annotations

import numpy as np
from _normal_forms import FAR, STEPS, NormalForm, landscape_finding, scalar
from entry import COLLAPSE, UNKNOWN, Entry, Finding, report

ENTRY = Entry(
    title="saddle-node of maps",
    source=COLLAPSE,
    claim="near the bifurcation |d_mu alpha| is amplified, so that its direction dominates the kernel",
    setting=f"z' = z + mu + z^2, T {STEPS}, mu from -1e-4 to -{FAR} on the equilibrium -sqrt(-mu), and from -0.3",
    reports=UNKNOWN,
    quantity=f"largest |d_mu alpha_T| over that at mu = -{FAR}",
)

FORM = NormalForm(
    step=lambda z, mu: z + mu + z**2,
    state_slope=scalar(lambda z, mu: 1 + 2 * z),
    parameter_slope=lambda z, mu: np.ones_like(z),
    side=-1,
    equilibrium=lambda mu: np.array([-np.sqrt(-mu)]),
    slopes=lambda mu: (1 - 2 * np.sqrt(-mu), 1.0),
)


def find() -> Finding:
    """On the equilibrium a = 1 - 2 sqrt(-mu), j = 1: T at the bifurcation, 1 / (2 sqrt(-mu)) far from it."""
    return landscape_finding(FORM, np.array([[-0.3]]), "it grows as T", STEPS)


if __name__ == "__main__":
    report(ENTRY, find)
