"""Prints how exact kpref is, as a table: run `python scripts/accuracy.py` from a checkout.

Errors are relative to the largest entry. The golden files in tests/data/golden were made with JAX's automatic
differentiation in float64, independently of kpref.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from kpref import Flow, models
from kpref.spectra import eigh, kernel_spectrum

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "data" / "golden"
MAPS = {
    "map_gru": (models.GRU, {}),
    "map_rnn_tanh": (models.RNN, {}),
    "map_rnn_relu": (models.RNN, {"nonlinearity": "relu"}),
    "map_leaky_dt0.3": (models.LeakyRNN, {"alpha": 0.3}),
}


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference over the largest entry."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def golden_maps() -> float:
    """States, P, J, K, NTK and dZ/dz0 of the golden networks in discrete time."""
    worst = 0.0
    for name, (kind, options) in MAPS.items():
        data = np.load(GOLDEN / f"{name}.npz")
        model = kind(**{key: data[f"param_{key}"] for key in data["names"]}, **options)
        flow = Flow(model, data["inputs"], data["z0"], measure="sum")
        dense = {key: getattr(flow, key).to_dense() for key in ("P", "J", "K", "NTK", "D_z0")}
        worst = max(worst, error(flow.states, data["states"]), *(error(dense[key], data[key]) for key in dense))
    return worst


def golden_methods() -> float:
    """States, P_s, dZ/dtheta and NTK of the golden Runge-Kutta flows."""
    worst = 0.0
    for path in sorted(GOLDEN.glob("rk_*.npz")):
        data = np.load(path)
        field = models.Rate(**{key: data[f"param_{key}"] for key in data["names"]}, tau=data["tau"])
        inputs = np.concatenate([data["inputs"], np.zeros_like(data["inputs"][:, :1])], axis=1)
        flow = Flow(field, inputs, data["z0"], "sum", dt=float(data["dt"]), method=path.stem.removeprefix("rk_"))
        rows = np.ones(flow.states.shape, dtype=bool)
        rows[:, 0] = False  # the files leave the initial states out
        keep = np.flatnonzero(rows)
        worst = max(
            worst,
            error(flow.states[:, 1:], data["states"]),
            error(flow.stage.P.to_dense()[keep], data["P_stage"]),
            error(flow.D.to_dense()[keep], data["D"]),
            error(flow.NTK.to_dense()[np.ix_(keep, keep)], data["NTK"]),
        )
    return worst


def complex_step() -> float:
    """P J against complex-step derivatives of the plain forward map, along random directions."""
    generator, worst = np.random.default_rng(0), 0.0
    for seed in range(20):
        model = models.GRU.init(3, 12, seed, gain=1.5)
        flow = Flow(model, generator.normal(size=(4, 15, 3)), generator.normal(size=(4, 12)))
        theta = generator.normal(size=model.n_parameters)
        shifted = model.unflatten(model.vector + 1e-40j * theta)
        exact = model.iterate(flow.z0, flow.inputs, shifted).imag / 1e-40
        worst = max(worst, error(flow.P(flow.J(theta)), exact))
    return worst


def dot_tests() -> float:
    """``<A q, g> - <q, A^T g>`` over the norms of A q and g."""
    generator, worst = np.random.default_rng(1), 0.0
    flow = Flow(models.GRU.init(3, 64, 0), generator.normal(size=(20, 60, 3)))
    for op in (flow.P, flow.P_inverse, flow.J, flow.K, flow.NTK, flow.D_z0):
        q, g = generator.normal(size=op.shape_in), generator.normal(size=op.shape_out)
        image = op(q)
        gap = abs(np.vdot(image, g) - np.vdot(q, op.T(g)))
        worst = max(worst, float(gap / (np.linalg.norm(image) * np.linalg.norm(g))))
    return worst


def kernel_eigenvalues() -> float:
    """The exact spectrum of K against Lanczos iteration, the ten largest."""
    flow = Flow(models.GRU.init(3, 32, 0), np.random.default_rng(2).normal(size=(10, 30, 3)))
    return error(kernel_spectrum(flow).values[:10], eigh(flow.K, 10).values)


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    rows = {
        "golden networks: states, P, J, K, NTK, dZ/dz0": golden_maps,
        "golden Runge-Kutta flows, eight methods: states, P_s, dZ/dtheta, NTK": golden_methods,
        "P J against complex-step derivatives of the forward pass": complex_step,
        "dot tests of P, P^-1, J, K, NTK, dZ/dz0": dot_tests,
        "exact spectrum of K against Lanczos iteration": kernel_eigenvalues,
    }
    print("| what | largest relative error |\n| --- | --- |")
    for what, measure in rows.items():
        print(f"| {what} | {measure():.1e} |")


if __name__ == "__main__":
    main()
