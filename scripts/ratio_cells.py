"""Cells of the coverage experiment: dimensions, alignments and Schmidt ranks, by default and as a report takes them.

The systems are three networks of more than 600 states, below which these quantities are exact, and three symmetric
matrices with known spectra in a random basis, on tensors (trials, time, units). Only products are seen by the
estimators, so that each operator is made a matrix first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
from calibration import Cell, dense_copy, spectra, symmetrised

from kpref import Flow, load_checkpoint
from kpref.analysis.alignments import APART
from kpref.analysis.effort import DEFAULT
from kpref.analysis.operator_sizes import schmidt_probes
from kpref.data import example_folder
from kpref.models import RNN, Rate
from kpref.operators import Structure, TensorOperator
from kpref.operators.reduced import AXES
from kpref.space import TrajectorySpace
from kpref.spectra import Estimate, alignment, effective_dimension, effective_schmidt_rank, eigh
from kpref.spectra.beside_modes import beside_modes
from kpref.spectra.comparison import alignment_of_images
from kpref.spectra.symmetric import SymmetricForm
from kpref.spectra.white_images import white_images
from kpref.trials import Trials

__all__ = ["ratio_cells"]

Array = npt.NDArray[Any]

KEEPS = ((), *itertools.combinations(AXES, 1), *itertools.combinations(AXES, 2))
SHAPE = (5, 10, 13)
MODES = 10
"""Leading eigenpairs that a report has."""


def ratio_cells() -> Iterator[Cell]:
    """All of them."""
    for name, op, matrix in systems():
        yield from dimension_cells(name, op, matrix)
        yield from schmidt_cells(name, op, matrix)
    for name, first, second in pairs():
        yield from alignment_cells(name, first, second)


@cache
def networks() -> tuple[tuple[str, Flow], ...]:
    """A trained GRU on two of its trials, a random RNN and a rate model in continuous time."""
    rng = np.random.default_rng(0)
    trained, _ = load_checkpoint(sorted(example_folder().glob("*.safetensors"))[-1])
    inputs: Any = Trials.load(example_folder() / "trials.npz").inputs
    return (
        ("trained GRU 2x3x128", Flow(trained, inputs[::50, :3])),
        ("RNN 6x10x11", Flow(RNN.init(2, 11, 2, gain=1.4), rng.normal(size=(6, 10, 2)))),
        ("rate ODE 5x14x9", Flow(Rate.init(2, 9, 1), rng.normal(size=(5, 14, 2)), dt=0.15)),
    )


def systems() -> Iterator[tuple[str, TensorOperator, Array]]:
    """Positive operators and their matrices in coordinates."""
    for name, flow in networks():
        for kind in ("NTK", "P"):
            op = getattr(flow, kind)
            positive = dense_copy(op if kind == "NTK" else op.gram())
            yield f"{kind if kind == 'NTK' else 'P P*'}, {name}", positive, symmetrised(positive)
    for index, (name, values) in enumerate(spectra(int(np.prod(SHAPE)))):
        matrix = rotated(values, index)
        yield name, as_operator(matrix), matrix


def rotated(values: Array, seed: int) -> Array:
    """A symmetric matrix with these eigenvalues, in a random basis."""
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))[0]
    return np.asarray((basis * values) @ basis.T)


def as_operator(matrix: Array) -> TensorOperator:
    """A symmetric positive matrix as an operator on tensors of `SHAPE`."""
    space = TrajectorySpace(SHAPE, measure="sum")

    def product(batch: Array) -> Array:
        return np.asarray((batch.reshape(len(batch), -1) @ matrix).reshape(batch.shape))

    return TensorOperator(product, product, space, space, name="A", structure=Structure(True, True))


# Effective dimensions


def dimension_cells(name: str, op: TensorOperator, matrix: Array) -> Iterator[Cell]:
    """Along all axes by default, and of the whole as a report does it."""
    for keep in KEEPS:
        truth = dimension(partial_trace(matrix, op.shape_in, keep))
        words = f"dimension keep {'+'.join(keep) or 'all'}, {name}"
        yield Cell(f"{words}, default", partial(_dimension, op, keep or None, 60), truth)
    truth = dimension(matrix)
    yield Cell(f"dimension keep all, {name}, 18 products", partial(_dimension, op, None, 18), truth)
    modes = eigh(op, MODES)
    for what, exact in (("dimension", truth), ("trace", float(np.trace(matrix)))):
        yield Cell(f"{what}, {name}, report", partial(_beside, op, modes.values, modes.vectors, what), exact)


def _dimension(op: TensorOperator, keep: Any, probes: int, seed: int) -> Estimate:
    return effective_dimension(op, keep, probes, seed)


def _beside(op: TensorOperator, values: Array, vectors: Array, what: str, seed: int) -> Estimate:
    seen = beside_modes(SymmetricForm(op), values, vectors, DEFAULT.probes, seed)
    found: Estimate = getattr(seen, what)()
    return found


def partial_trace(matrix: Array, shape: tuple[int, ...], keep: tuple[str, ...]) -> Array:
    """Of a matrix on tensors of this shape."""
    if not keep:
        return matrix
    kept = [axis for axis, axis_name in enumerate(AXES) if axis_name in keep]
    columns = "".join("xyz"[axis] if axis in kept else "ijk"[axis] for axis in range(3))
    out = "".join("ijk"[axis] for axis in kept) + "".join("xyz"[axis] for axis in kept)
    traced = np.einsum(f"ijk{columns}->{out}", matrix.reshape(*shape, *shape))
    return traced.reshape(int(np.prod([shape[axis] for axis in kept])), -1)


def dimension(matrix: Array) -> float:
    """``(tr M)^2 / |M|_F^2``."""
    return float(np.trace(matrix) ** 2 / np.square(matrix).sum())


# Effective Schmidt ranks


def schmidt_cells(name: str, op: TensorOperator, matrix: Array) -> Iterator[Cell]:
    """By default and with as few probes as a report takes of wide networks."""
    units = op.shape_in[-1]
    realigned = matrix.reshape(len(matrix) // units, units, -1, units).transpose(0, 2, 1, 3).reshape(-1, units**2)
    gram = realigned @ realigned.T if len(realigned) < units**2 else realigned.T @ realigned
    for words, probes in (("default", 16), ("report", schmidt_probes(1 << 20))):
        yield Cell(f"Schmidt rank, {name}, {words}", partial(_rank, op, probes), dimension(gram))


def _rank(op: TensorOperator, probes: int, seed: int) -> Estimate:
    return effective_schmidt_rank(op, probes, seed)


# Alignments


def pairs() -> Iterator[tuple[str, TensorOperator, TensorOperator]]:
    """K with the NTK, P K with the NTK, and matrices close to each other, far apart and of opposite sign."""
    for name, flow in networks():
        kernel, tangent, dynamics = (dense_copy(op, factored=False) for op in (flow.K, flow.NTK, flow.P))
        yield f"K and NTK, {name}", kernel, tangent
        yield f"P K and NTK, {name}", dynamics @ kernel, tangent
    for index, (name, values) in enumerate(spectra(int(np.prod(SHAPE)))):
        first, other = rotated(values, index), rotated(values, index + 10)
        yield f"{name}, close", as_operator(first), as_operator(first + 0.1 * other)
        yield f"{name}, apart", as_operator(first), as_operator(other)
        yield f"{name}, opposite", as_operator(first), as_operator(other - first)


def alignment_cells(name: str, first: TensorOperator, second: TensorOperator) -> Iterator[Cell]:
    """By default, centred, and as a report does it: of vectors that both have met beside leading eigenfunctions."""
    a, b = symmetrised(first), symmetrised(second)
    settings = [("default", 60, False), ("report", DEFAULT.probes, False)]
    if name.startswith("K and NTK"):
        settings.append(("centred", 60, True))
    for words, probes, centred in settings:
        left, right = (centre(each, first.space_in.mu) if centred else each for each in (a, b))
        truth = float(np.vdot(left, right) / np.linalg.norm(left) / np.linalg.norm(right))
        yield Cell(f"alignment of {name}, {words}", partial(_alignment, first, second, probes, centred), truth)
    if not name.startswith("P K"):
        truth = float(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))
        modes = np.concatenate([eigh(op, APART).vectors for op in (first, second)])
        yield Cell(f"alignment of {name}, shared vectors", partial(_shared, first, second, modes), truth)


def centre(matrix: Array, mu: Array) -> Array:
    """``H A H`` in coordinates: without the component along the root of mu, for each unit."""
    root = np.sqrt(mu.reshape(-1) / mu.sum())
    away = np.kron(np.eye(len(root)) - np.outer(root, root), np.eye(len(matrix) // len(root)))
    return np.asarray(away @ matrix @ away)


def _alignment(first: TensorOperator, second: TensorOperator, probes: int, centred: bool, seed: int) -> Estimate:
    return alignment(first, second, probes, seed, centred)


def _shared(first: TensorOperator, second: TensorOperator, modes: Array, seed: int) -> Estimate:
    seen = (white_images(SymmetricForm(op), DEFAULT.probes, seed) for op in (first, second))
    return alignment_of_images(*seen, modes)
