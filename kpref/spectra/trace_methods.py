"""The methods of `kpref.spectra.traces`: each starts with a product and a seed, and grows with the number of vectors.

**krylov.** With ``F = W_out^(1/2) A W_in^(-1/2)`` and an orthonormal V in its domain,

    tr A A* = |F|_F^2 = |F V|_F^2 + |F (1 - V V^T)|_F^2 = |F V|_F^2 + E |(1 - V V^T) F^T t|^2,

and F^T t does not depend on V. Of d steps from F^T g the Krylov space of F^T F takes d products, and as many are spent
on 2 d vectors t.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref.memory import require_memory
from kpref.operators import TensorOperator
from kpref.spectra.bases import append_orthonormal
from kpref.spectra.bootstrap import NYSTROM, RANGE_FROBENIUS, RANGE_TRACE, standard_error
from kpref.spectra.sketches import (
    RangeSketch,
    extend_range,
    frobenius_samples,
    nystrom_samples,
    nystrom_values,
    range_samples,
    range_total,
    range_values,
)
from kpref.spectra.symmetric import RectangularForm
from kpref.threads import serial_blas

__all__ = ["MEAN_SQUARE", "METHODS", "RANGE_NORM", "Method", "Product", "Progress", "in_blocks", "sum_of_squares"]

Array = npt.NDArray[Any]
Product = Callable[[Array], Array]
Progress = Callable[[int], object]
Grow = Callable[[int], tuple[float, float]]
Start = Callable[[Product, int, int, TensorOperator, Progress | None], Grow]

_PANEL = 1 << 23  # numbers in the vectors that an operator is applied to at once


@dataclass(frozen=True)
class Method:
    """A name, the number of products for each random vector, and what makes the estimator.

    ``start(product, size, seed, op, progress)`` returns a function from a number of vectors, which must grow from call
    to call, to the estimate and its standard error; `progress` is for products other than with `product`.
    """

    name: str
    cost: int
    start: Start
    stores: bool = True


def sum_of_squares(rows: Array) -> float:
    """Squared Frobenius norm."""
    return float(np.vdot(rows, rows))


def in_blocks(apply: Product, size: int) -> Product:
    """The product on rows, a few at a time, in float64."""
    block = max(1, _PANEL // size)

    def product(vectors: Array) -> Array:
        parts = [apply(vectors[start : start + block]) for start in range(0, len(vectors), block)]
        return np.concatenate(parts, dtype=np.float64)

    return product


def _normal(size: int, seed: int, stream: int = 0) -> Callable[[int], Array]:
    """A source of normal vectors (count, size); how many are drawn at once does not matter."""
    generator = np.random.default_rng([seed, stream])
    return lambda count: generator.standard_normal((count, size))


def _rowwise(left: Array, right: Array) -> Array:
    return np.asarray(np.einsum("ij,ij->i", left, right))


def _mean(samples: Array) -> tuple[float, float]:
    """Mean of independent terms and its standard error."""
    return float(samples.mean()), float(np.std(samples, ddof=1)) / len(samples) ** 0.5


def _averaging(square: bool) -> Start:
    """The mean of g.S g, or of |S g|^2, for directions g, times the dimension."""

    def start(product: Product, size: int, seed: int, op: TensorOperator, progress: Progress | None) -> Grow:
        draw, terms, block = _normal(size, seed), np.empty(0), max(1, _PANEL // size)

        def grow(count: int) -> tuple[float, float]:
            nonlocal terms
            while len(terms) < count:
                vectors = draw(min(block, count - len(terms)))
                images = product(vectors)
                quadratic = _rowwise(images if square else vectors, images)
                terms = np.append(terms, size * quadratic / _rowwise(vectors, vectors))
            return _mean(terms)

        return grow

    return start


def _hutch_pp(product: Product, size: int, seed: int, op: TensorOperator, progress: Progress | None) -> Grow:
    draw_sketch, draw_test = _normal(size, seed), _normal(size, seed, 1)
    sketch: RangeSketch | None = None
    tests, images = np.empty((2, 0, size))

    def grow(count: int) -> tuple[float, float]:
        nonlocal sketch, tests, images
        sketch = extend_range(product, draw_sketch(count - len(tests)), sketch)
        vectors = draw_test(count - len(tests))
        tests, images = np.concatenate([tests, vectors]), np.concatenate([images, product(vectors)])
        inside = tests @ sketch.basis.T
        rest, image = tests - inside @ sketch.basis, images - inside @ sketch.images
        terms = (size - count) * _rowwise(rest, image) / _rowwise(rest, rest)
        return _mean(np.vdot(sketch.basis, sketch.images) + terms)

    return serial_blas(grow)


def _range_sketch(norm: bool) -> Start:
    """XTrace, or the squared norm from the same sketch."""

    def start(product: Product, size: int, seed: int, op: TensorOperator, progress: Progress | None) -> Grow:
        draw = _normal(size, seed)
        sketch: RangeSketch | None = None

        def grow(count: int) -> tuple[float, float]:
            nonlocal sketch
            known = 0 if sketch is None else len(sketch.probes)
            sketch = extend_range(product, draw(count - known), sketch)
            samples = (frobenius_samples if norm else range_samples)(sketch, size)
            model = RANGE_FROBENIUS if norm else RANGE_TRACE
            error = standard_error(
                model, samples, range_values(sketch), range_total(sketch, size, op.structure.positive), size, seed
            )
            return float(samples.mean()), error

        return serial_blas(grow)

    return start


def _krylov(product: Product, size: int, seed: int, op: TensorOperator, progress: Progress | None) -> Grow:
    assert op.factor is not None
    factor = RectangularForm(op.factor, progress)
    half, small, block = in_blocks(factor.transpose, size), factor.domain.size, max(1, _PANEL // size)
    draw_test, generator = _normal(size, seed, 1), np.random.default_rng([seed, 2])
    image, basis, inside = _normal(size, seed)(1), np.empty((0, small)), 0.0
    halves, squares = np.empty((0, small)), np.empty(0)

    def grow(count: int) -> tuple[float, float]:
        nonlocal image, basis, inside, halves, squares
        require_memory(48.0 * count * small, f"{3 * count} vectors of {small} numbers for the trace of {op.name}")
        used, wanted = len(basis), min(count, small)
        basis = np.concatenate([basis, np.empty((wanted - used, small))])
        for index in range(used, wanted):
            append_orthonormal(basis, index, half(image)[0], generator)
            image = factor(basis[index : index + 1])
            inside += sum_of_squares(image)
        while len(halves) < 2 * count:
            tests, before = draw_test(min(block, 2 * count - len(halves))), len(halves)
            halves, squares = np.concatenate([halves, half(tests)]), np.append(squares, _rowwise(tests, tests))
            if progress is not None:
                progress(len(halves) // 2 - before // 2)
        rest = halves - (halves @ basis.T) @ basis
        return _mean(inside + size * _rowwise(rest, rest) / squares)

    return serial_blas(grow)


def _xnystrace(product: Product, size: int, seed: int, op: TensorOperator, progress: Progress | None) -> Grow:
    draw, eps = _normal(size, seed), float(np.finfo(op.dtype).eps)
    probes, images = np.empty((2, 0, size))

    def grow(count: int) -> tuple[float, float]:
        nonlocal probes, images
        vectors = draw(count - len(probes))
        probes, images = np.concatenate([probes, vectors]), np.concatenate([images, product(vectors)])
        samples = nystrom_samples(probes, images, size, eps)
        value = float(samples.mean())
        return value, standard_error(NYSTROM, samples, nystrom_values(probes, images, size, eps), value, size, seed)

    return serial_blas(grow)


METHODS = {
    "xnystrace": Method("XNysTrace", 1, _xnystrace),
    "krylov": Method("Krylov", 2, _krylov, stores=False),
    "xtrace": Method("XTrace", 2, _range_sketch(norm=False)),
    "hutch++": Method("Hutch++", 3, _hutch_pp),
    "hutchinson": Method("Hutchinson", 1, _averaging(square=False), stores=False),
}
RANGE_NORM = Method("leave-one-out range sketch", 2, _range_sketch(norm=True))
MEAN_SQUARE = Method("mean square", 1, _averaging(square=True), stores=False)
