"""The methods of `kpref.spectra.traces`: each starts with a product and a seed, and grows with the number of vectors.

All of them split a trace into a part that is computed and a rest tr R that is estimated by quadratic forms of random
directions which are independent of the split; `kpref.spectra.quadratic_forms` has their mean and its interval.

**hutchinson.** Nothing is computed, R = S.

**mean square.** For ``|S|_F^2``, the forms are those of ``R = S^T S``, inner products of images.

**hutch++.** With an orthonormal basis Q of S W, W random, and ``C = 1 - Q Q^T``,

    tr S = tr Q^T S Q + tr C S C,          |S|_F^2 = |S Q|_F^2 + |S C|_F^2.

k products make the basis, k serve the first part, and a third of all, but no fewer than eight, the rest: the interval
of fewer vectors is far wider than their error.

**krylov.** With ``F = W_out^(1/2) A W_in^(-1/2)`` and an orthonormal V in its domain,

    tr A A* = |F|_F^2 = |F V|_F^2 + |F (1 - V V^T)|_F^2 = |F V|_F^2 + E |(1 - V V^T) F^T t|^2,

and F^T t does not depend on V. Of d steps from F^T g the Krylov space of F^T F takes d products, and as many are spent
on 2 d vectors t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref.memory import require_memory
from kpref.operators import TensorOperator
from kpref.spectra.bases import append_orthonormal
from kpref.spectra.estimate import Estimate
from kpref.spectra.quadratic_forms import Mean, mean_of_forms, power_of_two
from kpref.spectra.symmetric import RectangularForm

__all__ = [
    "DEFLATED_SQUARE", "MEAN_SQUARE", "METHODS", "NORMAL", "Method", "Product", "Progress", "in_blocks", "not_finite",
    "reaches", "rounding_floor", "sum_of_squares", "unreached",
]  # fmt: skip

Product = Callable[[Array], Array]
Progress = Callable[[int], object]
Grow = Callable[[int], "Found"]
Start = Callable[[Product, int, int, TensorOperator, Progress | None], Grow]

_TESTS = 8  # random vectors for the rest, of hutch++, where there are so many products
_PANEL = 1 << 23  # numbers in the vectors that an operator is applied to at once
_SMALLEST = float(np.finfo(np.float64).tiny)
NORMAL = 1.96  # half a 95 % interval over the standard error


class Found(NamedTuple):
    """An estimate, the size of the terms that its rounding is relative to, and the products that were needed."""

    mean: Mean
    scale: float
    products: int


class Method(NamedTuple):
    """A name, the fewest products, and what makes the estimator.

    ``start(product, size, seed, op, progress)`` returns a function from a number of products, which must grow from call
    to call, to what is found with so many at most; `progress` is for products other than with `product`.
    """

    name: str
    least: int
    start: Start


def sum_of_squares(rows: Array) -> float:
    """Squared Frobenius norm."""
    return float(np.vdot(rows, rows))


def rounding_floor(dtype: npt.DTypeLike, scale: float) -> float:
    """Ten units of rounding are there even where sampling has no error left, and what vanishes below all floats."""
    return max(10 * float(np.finfo(dtype).eps) * scale, _SMALLEST) if scale else 0.0


def reaches(found: Estimate, tol: float) -> bool:
    """Whether half the 95 % interval over 1.96 is within a relative tolerance."""
    low, high = found.interval(0.95)
    return high - low <= 2 * NORMAL * tol * abs(found.value)


def unreached(found: Estimate, probes: int, tol: float, name: str, whole: int) -> RuntimeError:
    """What says that so many products do not reach a tolerance; `whole` of them make the trace exact."""
    needed = found.products_for(NORMAL * tol) if found.value else whole
    hint = f"; about {needed} would reach it" if needed < whole else f"; {whole}, the size of the space, make it exact"
    return RuntimeError(
        f"{name} with probes = {probes} gave {found}, less sure than the relative standard error tol = {tol:g}{hint}"
    )


def not_finite(name: str) -> ValueError:
    """What says that there is no trace."""
    return ValueError(f"{name} maps finite tensors to such that are not finite or too large; there is no trace of it")


def in_blocks(apply: Product, size: int) -> Product:
    """The product on rows, a few at a time, in float64."""
    block = _PANEL // max(size, 1) or 1

    def product(vectors: Array) -> Array:
        parts = [apply(vectors[start : start + block]) for start in range(0, max(len(vectors), 1), block)]
        return np.concatenate(parts, dtype=np.float64)

    return product


def _normal(size: int, seed: int, stream: int = 0) -> Callable[[int], Array]:
    """A source of normal vectors (count, size); how many are drawn at once does not matter."""
    generator = np.random.default_rng([seed, stream])
    return lambda count: generator.standard_normal((count, size))


def _directions(size: int, seed: int, stream: int = 0) -> Callable[[int], Array]:
    """A source of random vectors (count, size) of length size^(1/2)."""
    draw = _normal(size, seed, stream)
    return lambda count: _of_length(draw(count), size)


def _of_length(vectors: Array, square: int) -> Array:
    """Rows scaled to the length ``square^(1/2)``, in place."""
    vectors *= np.sqrt(square / np.square(vectors).sum(axis=1, keepdims=True))
    return vectors


def _lengths(left: Array, right: Array) -> Array:
    """Products of the lengths of rows: what the rounding of their inner products is relative to."""
    units = power_of_two(left), power_of_two(right)
    squares = [np.square(each / unit).sum(axis=1) for each, unit in zip((left, right), units, strict=True)]
    return np.asarray(np.sqrt(squares[0] * squares[1]) * units[0] * units[1])


def _joined(blocks: list[Array]) -> Array:
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _forms(vectors: Array, images: Array, size: int, square: bool, positive: bool) -> Found:
    """Mean of v.S v, or of |S v|^2."""
    left = images if square else vectors
    mean = mean_of_forms(left @ images.T, vectors @ vectors.T, size, square or positive)
    return Found(mean, float(_lengths(left, images).mean()), len(vectors))


def _averaging(square: bool) -> Start:
    """The mean of v.S v, or of |S v|^2, for random directions v."""

    def start(product: Product, size: int, seed: int, op: TensorOperator, progress: Progress | None) -> Grow:
        draw, known = _directions(size, seed), 0
        tests: list[Array] = []
        images: list[Array] = []

        def grow(count: int) -> Found:
            nonlocal known
            require_memory(16.0 * count * (size + op.shape[0]), f"{count} vectors and their images under {op.name}")
            fresh = draw(count - known)
            images.append(product(fresh))
            # Of overlaps, which only correct the variance, a few digits are enough.
            tests.append(fresh.astype(np.float32) if square else fresh)
            known = count
            return _forms(_joined(tests), _joined(images), size, square, op.structure.positive)

        return grow

    return start


def _deflated(square: bool) -> Start:
    """Hutch++ for the trace, or for the squared norm."""

    def start(product: Product, size: int, seed: int, op: TensorOperator, progress: Progress | None) -> Grow:
        draw_range, draw_test = _normal(size, seed), _normal(size, seed, 1)
        basis, within, tests, images = np.empty((4, 0, size))

        def grow(products: int) -> Found:
            nonlocal basis, within, tests, images
            test_count = min(max(_TESTS, -(-products // 3)), products - 2)
            count = (products - test_count) // 2
            require_memory(16.0 * products * size, f"{2 * products} vectors of {size} numbers for {op.name}")
            # Together with the old basis, which comes back with signs: orthogonal to it even where S has no more range.
            directions = np.concatenate([basis, product(draw_range(count - len(basis)))])
            fresh = np.ascontiguousarray(np.linalg.qr(directions.T)[0].T[len(basis) :])
            basis, within = np.concatenate([basis, fresh]), np.concatenate([within, product(fresh)])
            vectors = draw_test(test_count - len(tests))
            tests, images = np.concatenate([tests, vectors]), np.concatenate([images, product(vectors)])
            inside = tests @ basis.T
            rest, image = tests - inside @ basis, images - inside @ within
            lengths = np.sqrt((size - count) / np.square(rest).sum(axis=1, keepdims=True))
            found = _forms(lengths * rest, lengths * image, size - count, square, op.structure.positive)
            left = within if square else basis
            return Found(
                found.mean._replace(value=float(np.vdot(left, within)) + found.mean.value),
                found.scale + float(_lengths(left, within).sum()),
                2 * count + test_count,
            )

        return grow

    return start


def _krylov(product: Product, size: int, seed: int, op: TensorOperator, progress: Progress | None) -> Grow:
    assert op.factor is not None
    factor = RectangularForm(op.factor, progress)
    half, small = in_blocks(factor.transpose, size), factor.domain.size
    draw, generator = _directions(size, seed, 1), np.random.default_rng([seed, 2])
    image, basis, inside = _normal(size, seed)(1), np.empty((0, small)), 0.0
    tests: list[Array] = []
    halves: list[Array] = []

    def grow(products: int) -> Found:
        nonlocal image, basis, inside
        count = products // 2
        require_memory(8.0 * count * (8 * small + 4 * size), f"the vectors for the trace of {op.name}")
        used, wanted = len(basis), min(count, small)
        basis = np.concatenate([basis, np.empty((wanted - used, small))])
        for index in range(used, wanted):
            append_orthonormal(basis, index, half(image)[0], generator)
            image = factor(basis[index : index + 1])
            inside += sum_of_squares(image)
        fresh = draw(2 * count - sum(len(known) for known in halves))
        halves.append(half(fresh))
        tests.append(fresh.astype(np.float32))
        if progress is not None:
            progress(len(fresh) // 2)
        rest = _joined(halves)
        rest = rest - (rest @ basis.T) @ basis
        directions = _joined(tests)
        mean = mean_of_forms(rest @ rest.T, directions @ directions.T, size, positive=True)
        value = inside + mean.value
        return Found(mean._replace(value=value), value, 2 * count)

    return grow


METHODS = {
    "krylov": Method("Krylov", 4, _krylov),
    "hutch++": Method("Hutch++", 6, _deflated(square=False)),
    "hutchinson": Method("Hutchinson", 2, _averaging(square=False)),
}
MEAN_SQUARE = Method("mean square", 2, _averaging(square=True))
DEFLATED_SQUARE = Method("mean square beside a range", 6, _deflated(square=True))
