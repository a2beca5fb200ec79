"""Prints what leading eigenpairs cost: `python scripts/eigensolvers.py [folder]` from a checkout.

`folder` holds the checkpoints of a trained network, checkpoint_<iteration>.safetensors, and its trials.npz. SciPy's
eigsh runs on the same operator, and on PyTorch's with stored state Jacobians in float64, if PyTorch is there.
Residuals are ``||A v - lambda v|| / lambda_1``; products with the NTK are counted whole, those of its factor halves.
The first table has kpref's products in float64, and in float32 where their errors do not matter, in turns; the pairs
are certified by products in float64 in both.
Of eigsh the products of this check are not counted, and it does not look for copies of eigenvalues that it has missed.
The last figure of the table's comparison is what a solver without any cost of its own would gain.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh

from kpref import Flow
from kpref.bench.peers import Kpref, TorchStored
from kpref.bench.workload import Problem
from kpref.checkpoints import load_checkpoint
from kpref.spectra import kernel_spectrum
from kpref.spectra.blocks import block_eigh
from kpref.spectra.eigen import Eigen, eigh
from kpref.threads import blas_names, get_num_threads

PROBLEM = Problem("gru", trials=100, steps=90, units=128, inputs=3, dtype="float64")
PAIRS = 5
#: Relative residual asked for, and starting vectors.
WANTED, STARTS = 1e-6, 5
#: Tolerances that eigsh is asked for, until the residual is small enough: its own estimate is of the eigenvalues.
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-8)


def residual(apply: Callable[[np.ndarray], np.ndarray], values: np.ndarray, vectors: np.ndarray) -> float:
    """The largest, over Euclidean norms: the measure is uniform here."""
    gaps = [np.linalg.norm(apply(v) - value * v) / np.linalg.norm(v) for value, v in zip(values, vectors, strict=True)]
    return float(max(gaps) / max(values))


@dataclass(frozen=True)
class Run:
    """Products, seconds in all and in the products, and the residual of a search."""

    products: float
    seconds: float
    inside: float
    residual: float


def show(name: str, runs: list[Run]) -> float:
    """Print a row of the table; returns the median of the seconds."""
    products, seconds = [run.products for run in runs], float(np.median([run.seconds for run in runs]))
    span = "" if len(runs) == 1 else f" ({min(products):g} to {max(products):g})"
    print(f"| {name} | {np.median(products):g}{span} | {seconds:.2f} | {max(run.residual for run in runs):.1e} |",
          flush=True)  # fmt: skip
    return seconds


def kpref_run(flow: Flow, seed: int, copies: bool) -> Run:
    """`kpref.eigh` in float64, its check of the residuals included in the time only."""
    begin = time.perf_counter()
    found = eigh(flow.NTK, PAIRS, tol=WANTED, copies=copies, seed=seed, precision="full")
    # The search runs in the space of the parameters; from there to the states takes half a product for each pair.
    products = found.n_products - PAIRS - PAIRS / 2
    return Run(products, time.perf_counter() - begin, np.nan, float(found.residuals.max()))


def scipy_run(apply: Callable[[np.ndarray], np.ndarray], size: int, tol: float, seed: int) -> Run:
    """Eigsh with its default number of vectors."""
    times: list[float] = []

    def timed(x: np.ndarray) -> np.ndarray:
        begin = time.perf_counter()
        image = apply(x)
        times.append(time.perf_counter() - begin)
        return image

    begin, start = time.perf_counter(), np.random.default_rng(seed).standard_normal(size)
    operator = LinearOperator((size, size), matvec=timed, dtype=np.float64)
    values, vectors = eigsh(operator, PAIRS, which="LA", v0=start, tol=tol)
    seconds = time.perf_counter() - begin
    return Run(len(times), seconds, sum(times), residual(apply, values, vectors.T))


def scipy_search(apply: Callable[[np.ndarray], np.ndarray], size: int, seed: int) -> tuple[float, Run]:
    """The first run of eigsh whose residual is small enough, and its tolerance."""
    for tol in TOLERANCES:
        run = scipy_run(apply, size, tol, seed)
        if run.residual <= WANTED:
            return tol, run
    raise RuntimeError("eigsh did not reach the residual")


def torch_product() -> Callable[[np.ndarray], np.ndarray]:
    """The product with the NTK in PyTorch, its Jacobians stored; ImportError without it."""
    peer = TorchStored(PROBLEM)
    torch = peer.torch
    peer.inputs, peer.z0, peer.tensor = (torch.tensor(array) for array in PROBLEM.make_trials())
    peer.parameters = {name: torch.tensor(value) for name, value in PROBLEM.make_model().parameters.items()}
    with torch.no_grad():
        torch.set_default_dtype(torch.float64)  # of the array of Jacobians
        built = peer.build()

    def apply(x: np.ndarray) -> np.ndarray:
        peer.tensor = torch.from_numpy(x.reshape(PROBLEM.shape))
        return peer.apply(built, "NTK").numpy().ravel()

    return apply


def random_network(flow: Flow) -> None:
    """The leading pairs of the NTK of the random network."""
    print(f"NTK of a random GRU, states {flow.space.shape}, {PAIRS} pairs to a residual of {WANTED:g}, {STARTS} starts")
    print(f"{get_num_threads()} threads, {blas_names()}\n")
    print("| what | products, median (least to most) | median seconds | largest residual |\n| --- | --- | --- | --- |")
    seeds = range(STARTS)
    show("kpref.eigh", [kpref_run(flow, seed, copies=True) for seed in seeds])
    ours = [kpref_run(flow, seed, copies=False) for seed in seeds]
    seconds = show("kpref.eigh(copies=False)", ours)
    tols, theirs = zip(*(scipy_search(lambda x: flow.NTK @ x, flow.space.size, seed) for seed in seeds), strict=True)
    show("eigsh on kpref's operator", list(theirs))
    against_torch(flow, ours, seconds, tols)
    values = eigh(flow.NTK, PAIRS, tol=WANTED).values
    print(f"\neigenvalues over the first: {np.array2string(values / values[0], precision=4)}")


def against_torch(flow: Flow, ours: list[Run], seconds: float, tols: tuple[float, ...]) -> None:
    """Eigsh on PyTorch's operator from the same starts, and what the products alone account for."""
    try:
        apply = torch_product()
    except ImportError:
        print("| eigsh on PyTorch's operator | not there | | |")
        return
    runs = [scipy_run(apply, flow.space.size, tol, seed) for seed, tol in enumerate(tols)]
    other = show("eigsh on torch.func with stored Jacobians", runs)
    product, theirs = product_seconds(flow), sum(run.inside for run in runs) / sum(run.products for run in runs)
    alone = float(np.median([run.products for run in ours])) * product
    print(f"\na product takes {1e3 * product:.0f} ms in kpref and {1e3 * theirs:.0f} ms in PyTorch")
    print(f"eigsh on PyTorch's operator takes {other / seconds:.1f} times as long as kpref.eigh(copies=False),")
    print(f"and {other / alone:.1f} times as long as the products of that alone")


def product_seconds(flow: Flow) -> float:
    """Median time of a product with the NTK."""
    tensor, times = np.random.default_rng(0).standard_normal(flow.space.shape), []
    for _ in range(15):
        begin = time.perf_counter()
        flow.NTK(tensor)
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def mixed_precision(flow: Flow) -> None:
    """The leading pairs from products of two precisions against those of one, in turns."""
    rows = "| tol | products | of them in float32 | median seconds | float64 over it | largest residual |"
    print(f"\n{PAIRS} pairs of the NTK, certification in float64 included\n\n{rows}\n| {'--- | ' * 6}".rstrip())
    for tol in (1e-6, 1e-12):
        runs: dict[str, list[tuple[float, Eigen]]] = {"full": [], "mixed": []}
        for seed in range(STARTS):
            for name, found in runs.items():
                begin = time.perf_counter()
                pairs = eigh(flow.NTK, PAIRS, tol=tol, precision=name, seed=seed)
                found.append((time.perf_counter() - begin, pairs))
        reference = float(np.median([seconds for seconds, _ in runs["full"]]))
        for found in runs.values():
            seconds, last = float(np.median([seconds for seconds, _ in found])), found[-1][1]
            worst = max(float(pairs.residuals.max()) for _, pairs in found)
            print(f"| {tol:g} | {last.n_products} | {last.n_single} | {seconds:.2f} | {reference / seconds:.2f} | "
                  f"{worst:.1e} |", flush=True)  # fmt: skip


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="checkpoints and trials.npz: warm starts are shown too")
    folder = parser.parse_args().folder
    flow = Kpref(PROBLEM).build()
    flow.NTK(np.zeros(flow.space.shape))  # compiles
    mixed_precision(flow)
    random_network(flow)
    kernel(flow)
    if folder is not None:
        trained_network(folder)


if __name__ == "__main__":
    main()
