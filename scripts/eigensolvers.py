"""Prints what leading eigenpairs cost: `python scripts/eigensolvers.py [folder]` from a checkout.

`folder` holds the checkpoints of a trained network, checkpoint_<iteration>.safetensors, and its trials.npz. SciPy's
eigsh runs on the same operator, and on PyTorch's with stored state Jacobians in float64, if PyTorch is there.
Residuals are ``||A v - lambda v|| / lambda_1``; products with the NTK are counted whole, those of its factor halves.
Of eigsh the products of this check are not counted, and it does not look for copies of eigenvalues that it has missed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh

from kpref import Flow
from kpref.bench.peers import Kpref, TorchStored
from kpref.bench.problem import Problem
from kpref.checkpoints import load_checkpoint
from kpref.spectra import kernel_spectrum
from kpref.spectra.blocks import block_eigh
from kpref.spectra.eigen import eigh

PROBLEM = Problem("gru", trials=100, steps=90, states=128, inputs=3, dtype="float64")
PAIRS = 5
#: Tolerances that eigsh is asked for, until the residual is small enough: its own estimate is of the eigenvalues.
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-8)


def residual(apply: Callable[[np.ndarray], np.ndarray], values: np.ndarray, vectors: np.ndarray) -> float:
    """The largest, over Euclidean norms: the measure is uniform here."""
    gaps = [np.linalg.norm(apply(v) - value * v) / np.linalg.norm(v) for value, v in zip(values, vectors, strict=True)]
    return float(max(gaps) / max(values))


def scipy_pairs(apply: Callable[[np.ndarray], np.ndarray], size: int, tol: float) -> tuple[int, float, np.ndarray, Any]:
    """Products, seconds, eigenvalues and eigenvectors of eigsh with its default number of vectors."""
    products = 0

    def counted(x: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        return apply(x)

    begin, start = time.perf_counter(), np.random.default_rng(0).standard_normal(size)
    operator = LinearOperator((size, size), matvec=counted, dtype=np.float64)
    values, vectors = eigsh(operator, PAIRS, which="LA", v0=start, tol=tol)
    return products, time.perf_counter() - begin, values, vectors.T


def scipy_row(name: str, apply: Callable[[np.ndarray], np.ndarray], size: int, wanted: float) -> float:
    """Print the first run of eigsh whose residual is small enough; returns its tolerance."""
    for tol in TOLERANCES:
        products, seconds, values, vectors = scipy_pairs(apply, size, tol)
        found = residual(apply, values, vectors)
        print(f"| eigsh(tol={tol:g}) on {name} | {products} | {seconds:.2f} | {found:.1e} |", flush=True)
        if found <= wanted:
            return tol
    raise RuntimeError("eigsh did not reach the residual")


def torch_row(tol: float) -> None:
    """Print one run of eigsh on PyTorch's operator, without the time to build it."""
    try:
        peer = TorchStored(PROBLEM)
    except ImportError:
        print("| eigsh on PyTorch's operator | not there | | |")
        return
    torch = peer.torch
    peer.inputs, peer.z0, peer.tensor = (torch.tensor(array) for array in PROBLEM.make_trials())
    peer.parameters = {name: torch.tensor(value) for name, value in PROBLEM.make_model().parameters.items()}
    with torch.no_grad():
        torch.set_default_dtype(torch.float64)  # of the array of Jacobians
        built = peer.build()

    def apply(x: np.ndarray) -> np.ndarray:
        peer.tensor = torch.from_numpy(x.reshape(PROBLEM.shape))
        return peer.apply(built, "NTK").numpy().ravel()

    products, seconds, values, vectors = scipy_pairs(apply, int(np.prod(PROBLEM.shape)), tol)
    found = residual(apply, values, vectors)
    print(f"| eigsh(tol={tol:g}) on torch.func with stored Jacobians | {products} | {seconds:.2f} | {found:.1e} |")


def random_network(flow: Flow) -> None:
    """The leading pairs of the NTK of the random network."""
    print(f"NTK of a random GRU, states {flow.space.shape}, {PAIRS} pairs to a residual of 1e-6\n")
    print("| what | products | seconds | residual |\n| --- | --- | --- | --- |")
    for copies in (False, True):
        begin = time.perf_counter()
        found = eigh(flow.NTK, PAIRS, tol=1e-6, copies=copies)
        seconds = time.perf_counter() - begin
        search = found.n_products - PAIRS
        print(f"| kpref.eigh(copies={copies}), and {PAIRS} to check the residuals | {search} | {seconds:.2f} | "
              f"{found.residuals.max():.1e} |", flush=True)  # fmt: skip
    tol = scipy_row("kpref's operator", lambda x: flow.NTK @ x, flow.space.size, 1e-6)
    torch_row(tol)
    print(f"\neigenvalues over the first: {np.array2string(found.values / found.values[0], precision=4)}")


def kernel(flow: Flow) -> None:
    """All eigenvalues of K, and the twenty largest by iteration."""
    begin = time.perf_counter()
    spectrum = kernel_spectrum(flow)
    seconds = time.perf_counter() - begin
    size = flow.space.size
    operator = LinearOperator((size, size), matvec=lambda x: flow.K @ x, dtype=np.float64)
    found = {
        "eigsh": np.sort(eigsh(operator, 20, which="LA", tol=1e-12, return_eigenvectors=False))[::-1],
        "block_eigh": block_eigh(flow.K, 20, axis=2).values,
    }
    print(
        f"\nspectrum of K, {len(spectrum.values)} values: {seconds:.1f} s; largest relative difference of the first 20"
    )
    for name, values in found.items():
        print(f"from {name}: {np.abs(values / spectrum.values[:20] - 1).max():.1e}")


def trained_network(folder: Path) -> None:
    """Cold and warm starts for the last checkpoint, from the one before."""
    inputs = np.load(folder / "trials.npz")["inputs"]
    before, last = sorted(folder.glob("checkpoint_*.safetensors"))[-2:]
    flows = [Flow(load_checkpoint(path)[0], inputs) for path in (before, last)]
    start = eigh(flows[0].NTK, PAIRS, tol=1e-8).vectors
    cold = eigh(flows[1].NTK, PAIRS, tol=1e-8)
    warm = eigh(flows[1].NTK, PAIRS, tol=1e-8, start=start)
    overlaps = np.abs([flows[1].space.inner(p, q) for p, q in zip(start, cold.vectors, strict=True)])
    print(f"\nNTK of {last.stem}, {PAIRS} pairs to a residual of 1e-8, the chain and the check included")
    print(f"cold: {cold.n_products} products, residual {cold.residuals.max():.1e}")
    print(f"from {before.stem}: {warm.n_products} products, residual {warm.residuals.max():.1e}; overlaps of the modes "
          f"{np.array2string(overlaps, precision=3)}")  # fmt: skip


def main() -> None:
    """Print everything."""
    flow = Kpref(PROBLEM).build()
    flow.NTK(np.zeros(flow.space.shape))  # compiles
    random_network(flow)
    kernel(flow)
    if len(sys.argv) > 1:
        trained_network(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
