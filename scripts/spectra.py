"""Prints how often the band of `spectral_density` holds, and how wide it is: `python scripts/spectra.py [--cases 200]`.

A case is a spectrum of up to 4,000 eigenvalues that is known: of a dense NTK, or made up, with clusters, gaps, decays
and zeros, in random sizes. The band holds if the true counting function is inside of it at every x: at each eigenvalue,
below it, and at each point of the band. Of the width, the first figure is the mean over the spectrum's eigenvalues of
the counts in the band over their number, and the second one the factor between the two ends of the band (each plus
one), its mean over four decades of x below the largest eigenvalue.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from kpref import Flow
from kpref.bench.peers import Kpref
from kpref.bench.workload import Problem
from kpref.models import GRU, LSTM, RNN, LowRankRNN
from kpref.operators import Structure, TensorOperator
from kpref.space import EuclideanSpace
from kpref.spectra import SpectralDensity, eigh, spectral_density

REFERENCE = Problem("gru", trials=100, steps=90, units=128, inputs=3, dtype="float64")
PRODUCTS = 64


def decay(rng: np.random.Generator, size: int) -> np.ndarray:
    """Powers of ten, evenly spread or by a power law."""
    if rng.random() < 0.5:
        return np.asarray(10.0 ** -np.linspace(0, rng.uniform(1, 10), size))
    return np.asarray(1.0 / np.arange(1, size + 1) ** rng.uniform(0.3, 3))


def clusters(rng: np.random.Generator, size: int) -> np.ndarray:
    """A few values, exactly multiple or nearly so."""
    values = 10.0 ** rng.uniform(-4, 1, size=rng.integers(2, 8))
    spread = rng.choice([0.0, 1e-6, 1e-2])
    return np.asarray(rng.choice(values, size=size) * (1 + spread * rng.random(size)))


def gaps(rng: np.random.Generator, size: int) -> np.ndarray:
    """A bulk, and some values far above it."""
    few = int(rng.integers(1, 40))
    factor = rng.normal(size=(max(50, (size - few) // 4), size - few))
    bulk = np.linalg.eigvalsh(factor @ factor.T)
    bulk = np.append(bulk, np.zeros(size - few - len(bulk)))
    return np.append(bulk, bulk.max() * rng.uniform(1.1, 20, size=few))


def deficient(rng: np.random.Generator, size: int) -> np.ndarray:
    """Few values that are not zero."""
    rank = int(rng.integers(5, size // 2))
    return np.append(rng.random(rank) ** rng.uniform(0.5, 6), np.zeros(size - rank))


def diagonal(values: np.ndarray) -> TensorOperator:
    """An operator with these eigenvalues; the law of normal vectors is the same in every basis."""
    space, known = EuclideanSpace((len(values),)), Structure(self_adjoint=True, positive=True)
    return TensorOperator(lambda q: q * values, lambda q: q * values, space, space, name="A", structure=known)


def network(rng: np.random.Generator) -> TensorOperator:
    """The NTK of a random network, on up to 1,000 states and times of trials."""
    units, steps, seed, gain = int(rng.integers(8, 40)), int(rng.integers(5, 25)), 0, float(rng.uniform(0.3, 2.0))
    trials = max(1, 1000 // (units * steps))
    model = [
        lambda: GRU.init(2, units, seed, gain),
        lambda: RNN.init(2, units, seed, gain),
        lambda: LSTM.init(2, units // 2, seed, gain),
        lambda: LowRankRNN.init(2, units, 2, seed, gain),
    ][rng.integers(4)]()
    return Flow(model, rng.normal(size=(trials, steps, 2))).NTK


def dense_values(op: TensorOperator) -> np.ndarray:
    """All eigenvalues; the measure is uniform."""
    matrix = op.to_dense()
    return np.asarray(np.linalg.eigvalsh((matrix + matrix.T) / 2))


def holds(found: SpectralDensity, values: np.ndarray) -> bool:
    """Whether the counting function is inside the band at every x above rounding."""
    points = np.concatenate([values, np.nextafter(values, -np.inf), found.points])
    points = points[points >= found.points[0]]
    true = len(values) - np.searchsorted(np.sort(values), points, side="right")
    least, most = found.band(points)
    return bool(((least <= true) & (true <= most)).all())


def widths(found: SpectralDensity, values: np.ndarray) -> tuple[float, float]:
    """See the head."""
    least, most = found.band(values[values > 0])
    low, high = found.band(values.max() * np.geomspace(1e-4, 1, 400))
    return float((most - least).mean() / len(values)), float(np.exp(np.log((high + 1) / (low + 1)).mean()))


def coverage(cases: int) -> None:
    """The table of known spectra."""
    rng = np.random.default_rng(0)
    makers = {"decay": decay, "clusters": clusters, "gaps": gaps, "rank deficient": deficient, "NTK": None}
    print("| spectra | cases | band holds | mean width | mean factor |\n| --- | --- | --- | --- | --- |")
    totals: list[tuple[bool, float, float]] = []
    for index, (name, make) in enumerate(makers.items()):
        found: list[tuple[bool, float, float]] = []
        for _ in range(cases // len(makers) + (index < cases % len(makers))):
            if make is None:
                op = network(rng)
                values = dense_values(op)
            else:
                values = make(rng, int(rng.integers(200, 4001)))
                op = diagonal(values)
            options = {"products": int(rng.choice([24, 64])), "vectors": int(rng.choice([1, 1, 2, 4]))}
            if rng.random() < 0.3:
                options["modes"] = eigh(op, 5)
            if rng.random() < 0.3:
                options |= {"trace": values.sum(), "frobenius_squared": np.square(values).sum()}
            density = spectral_density(op, seed=int(rng.integers(1 << 30)), **options)
            found.append((holds(density, values), *widths(density, values)))
        totals += found
        show(name, found)
    show("all", totals)


def show(name: str, found: list[tuple[bool, float, float]]) -> None:
    """A row of the table."""
    inside, width, factor = np.mean(found, axis=0)
    print(f"| {name} | {len(found)} | {100 * inside:.1f} % | {width:.3f} | {factor:.2f} |", flush=True)


def reference() -> None:
    """The spectrum of the NTK of the random GRU of ``kpref bench``."""
    flow = Kpref(REFERENCE).build()
    flow.NTK(np.zeros(flow.space.shape))  # compiles
    begin = time.perf_counter()
    found = spectral_density(flow.NTK, PRODUCTS)
    seconds = time.perf_counter() - begin
    print(f"\nNTK of the GRU of kpref bench, {found.size} eigenvalues: {found.n_products} products, {seconds:.1f} s")
    print("\n| x over the largest known to have one above | eigenvalues above x | band, 95 % |\n| --- | --- | --- |")
    largest = found.points[found.least > 0].max()
    for x in 10.0 ** -np.arange(0, 6.5, 0.5):
        least, most = found.band(x * largest)
        print(f"| {x:.1e} | {found.above(x * largest):.0f} | {least} to {most} |")


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200, help="known spectra (default %(default)s)")
    cases = parser.parse_args().cases
    reference()
    print()
    coverage(cases)


if __name__ == "__main__":
    main()
