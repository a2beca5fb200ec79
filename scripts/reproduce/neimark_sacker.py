"""The kernel of the bifurcation of Neimark and Sacker, where an equilibrium of a map becomes a rotation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from _normal_forms import FAR, STEPS, NormalForm, landscape_finding
from entry import COLLAPSE, UNKNOWN, Entry, Finding, report

ANGLE = 1.0

ENTRY = Entry(
    title="Neimark-Sacker",
    source=COLLAPSE,
    claim="near the bifurcation |d_mu alpha| is amplified, so that its direction dominates the kernel",
    setting=f"w' = e^(i {ANGLE:g}) ((1 + mu) w - |w|^2 w), T {STEPS}, mu from 1e-4 to {FAR} on the circle |w| = "
    "sqrt(mu), and from 0.1",
    reports=UNKNOWN,
    quantity=f"largest |d_mu alpha_T| over that at mu = {FAR}",
)

COSINE, SINE = np.cos(ANGLE), np.sin(ANGLE)


def step(z: np.ndarray, mu: complex) -> np.ndarray:
    """In Cartesian coordinates (x, y)."""
    x, y = z[..., 0], z[..., 1]
    growth = 1 + mu - x**2 - y**2
    return np.stack([growth * (COSINE * x - SINE * y), growth * (SINE * x + COSINE * y)], axis=-1)


def state_slope(z: np.ndarray, mu: float) -> np.ndarray:
    """``growth R + (R z) (-2 z)^T`` with the rotation R."""
    rotation = np.array([[COSINE, -SINE], [SINE, COSINE]])
    growth = 1 + mu - np.square(z).sum(axis=-1)
    return np.asarray(growth[..., None, None] * rotation - 2 * (z @ rotation.T)[..., None] * z[..., None, :])


FORM = NormalForm(
    step=step,
    state_slope=state_slope,
    parameter_slope=lambda z, mu: z @ np.array([[COSINE, SINE], [-SINE, COSINE]]),
    side=1,
    equilibrium=lambda mu: np.array([np.sqrt(mu), 0.0]),
    slopes=lambda mu: (1 - 2 * mu, np.sqrt(mu)),
)


def find() -> Finding:
    """The radius has the pitchfork's map."""
    finding = landscape_finding(FORM, np.array([[0.1, 0.0]]), "the pitchfork's, of the radius", 0.0)
    return replace(
        finding,
        words=f"{finding.words}; the other parameter, the angle, moves the phase by n at every mu: |d_angle w| = T "
        "sqrt(mu), which is not amplified there",
    )


if __name__ == "__main__":
    report(ENTRY, find)
