"""The kernel of the transcritical bifurcation of maps."""

from __future__ import annotations

import numpy as np
from _normal_forms import FAR, STEPS, NormalForm, landscape_finding, scalar
from entry import COLLAPSE, UNKNOWN, Entry, Finding, report

ENTRY = Entry(
    title="transcritical of maps",
    source=COLLAPSE,
    claim="near the bifurcation |d_mu alpha| is amplified, so that its direction dominates the kernel",
    setting=f"z' = z + mu z - z^2, T {STEPS}, mu from 1e-4 to {FAR} on the equilibrium mu, and from 0.1 and 0.01",
    reports=UNKNOWN,
    quantity=f"largest |d_mu alpha_T| over that at mu = {FAR}",
)

FORM = NormalForm(
    step=lambda z, mu: z + mu * z - z**2,
    state_slope=scalar(lambda z, mu: 1 + mu - 2 * z),
    parameter_slope=lambda z, mu: z,
    side=1,
    equilibrium=lambda mu: np.array([mu]),
    slopes=lambda mu: (1 - mu, mu),
)


def find() -> Finding:
    """On the equilibrium a = 1 - mu, j = mu: 1 - (1 - mu)^T, which is below 1 everywhere and 0 at the bifurcation."""
    why = (
        "on the equilibrium it is 1 - (1 - mu)^T, never above 1, since what drives it, alpha, vanishes as fast as what "
        "damps it"
    )
    return landscape_finding(FORM, np.array([[0.1], [0.01]]), why, 0.0)


if __name__ == "__main__":
    report(ENTRY, find)
