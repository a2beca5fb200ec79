"""The kernel of the pitchfork bifurcation of maps."""

from __future__ import annotations

import numpy as np
from _normal_forms import FAR, STEPS, NormalForm, landscape_finding, scalar
from entry import COLLAPSE, UNKNOWN, Entry, Finding, report

ENTRY = Entry(
    title="pitchfork of maps",
    source=COLLAPSE,
    claim="near the bifurcation |d_mu alpha| is amplified, so that its direction dominates the kernel",
    setting=f"z' = z + mu z - z^3, T {STEPS}, mu from 1e-4 to {FAR} on the equilibrium sqrt(mu), and from 0.1",
    reports=UNKNOWN,
    quantity=f"largest |d_mu alpha_T| over that at mu = {FAR}",
)

FORM = NormalForm(
    step=lambda z, mu: z + mu * z - z**3,
    state_slope=scalar(lambda z, mu: 1 + mu - 3 * z**2),
    parameter_slope=lambda z, mu: z,
    side=1,
    equilibrium=lambda mu: np.array([np.sqrt(mu)]),
    slopes=lambda mu: (1 - 2 * mu, np.sqrt(mu)),
)


def find() -> Finding:
    """On the equilibrium ``(1 - (1 - 2 mu)^T) / (2 sqrt(mu))``, largest where 2 mu T = 1.256."""
    return landscape_finding(FORM, np.array([[0.1]]), "its peak, 0.45 sqrt(T) at mu = 0.63 / T, grows with T", 0.0)


if __name__ == "__main__":
    report(ENTRY, find)
