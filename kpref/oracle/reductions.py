"""The numbers that operators are summed up in, and what rounding can do to a backend's.

Traces, norms and reduced views of K = J J^T Mu and NTK = D D^T Mu, D = P J, follow from the rows of ``Mu^(1/2) J`` and
``Mu^(1/2) D``; so do their errors. If a backend's D errs by dD, the root mean square of ``dD theta`` over white theta
is the Frobenius norm of dD, unit by unit, and the certificates know how large rounding makes it. To first order, and if
all errors conspired,

    |d tr(D D^T)| <= 2 |D| |dD|,      |d |D D^T|_F| <= 2 ||D||_2 |dD| <= 2 |D D^T|_F^(1/2) |dD|,
    |d <D_k, D_l>| <= |D_k| |dD_l| + |dD_k| |D_l|      with D_k the rows of unit k,

the norms being those of Frobenius. Of a ratio the logarithm is taken: with G = D D^T, g = |G|_F and c = <K, G>,

    d ln(tr(G)^2 / g^2) = 4 <D / tr G - G D / g^2, dD>,
    d ln(c / (|K| g)) = 2 <K D / c - G D / g^2, dD> + the same of J,

where what trace and norm err by together cancels: of an operator of one dimension all of it. Where the matrices are
small, errors are drawn at random (`kpref.oracle.random_factors`), and what these do along such a derivative stands for
what rounding does to first order, if that is less; beyond it as well (`kpref.oracle.second_order`). An average over all
pairs of points is the mean of a product over points, ``<A> s = mean of A (1 (x) s) / (B T)``, whose certificate is at
hand: as if the errors of all points were one. Where the matrices are small random ones are drawn of it too, entry by
entry (`kpref.oracle.random_averages`). A K that keeps units apart is exact at any size (`kpref.unit_form`); where the
NTK, or a K that couples units, is too large for its exact numbers they are estimated from random probes, and the
sampling error is added to what rounding explains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kpref import kernels
from kpref._types import Array
from kpref.oracle.certificates import Judge
from kpref.oracle.claimed_errors import Comparison
from kpref.oracle.evaluation import at_all_points, evaluate, evaluate_all, intermediates
from kpref.oracle.random_averages import deviation_of_average
from kpref.oracle.random_factors import RandomFactors, random_factors
from kpref.oracle.second_order import beyond_first_order
from kpref.oracle.spreads import Spread
from kpref.spectra.closed_form import kernel_unit_matrix
from kpref.spectra.exact_spectrum import form_spectrum
from kpref.unit_factors import UnitForm
from kpref.unit_form import unit_form

__all__ = ["Moments", "Reductions", "Target"]

#: Entries of D, or J, up to which numbers are computed from its columns; up to which products with them are formed that
#: say along which errors a number moves.
_EXACT_ENTRIES, _SHARP_ENTRIES = 1 << 22, 1 << 19
#: Up to which random errors of them are drawn.
_RANDOM_ENTRIES = 1 << 18
#: Random probes where they are not, and parameter vectors that errors of J and D are measured on.
_PROBES, _VECTORS = 32, 4
#: How many times a standard error of sampling counts: deviations of rounding are those of errors that conspire, which
#: are met and hardly exceeded, but an estimate may well lie several standard errors off.
_SAMPLING = 4.0
#: Errors of second order in the logarithm of a ratio, in ``|dD|^2 / |D D^T|``: of ``ln |G|^2``, |dG|^2 is 4 of them at
#: most, and twice the product of G with dD dD^T is 2. Two deviations are allowed.
_SECOND = 3.0
#: How much more errors that conspire may do to an entry of a partial trace: a row has fewer of them, and 2 of 200 right
#: backends under autocast were 2.4 and 2.5 off.
_ROWS = 2.5
#: Tensors that a kernel handles at once.
_BATCH = 8


@dataclass(frozen=True, eq=False)
class Target:
    """The right value of a metric and how far a backend's may be from it."""

    # value, deviation: a number (shape ()), a matrix over units (H, H), or its product with `probes`
    value: Array
    deviation: Array
    probes: Array | None = None  # (H, count): the matrix is compared by its products with these
    size: float = 0.0  # largest number on the way to an average

    def compare(self, claimed: Array, standard_error: Array) -> Comparison:
        """A claimed value, which may have a sampling error of its own, against this one."""
        if self.probes is not None:
            claimed = claimed @ self.probes
            standard_error = np.sqrt(np.square(standard_error) @ np.square(self.probes))
        size = np.hypot(self.deviation, _SAMPLING * standard_error)
        return Comparison(claimed - self.value, Spread(size, size))


@dataclass(frozen=True, eq=False)
class Moments:
    """Trace and Frobenius norm of a Gram operator with their deviations."""

    trace: float
    frobenius: float
    trace_error: float
    frobenius_error: float
    rows: Array  # (H,): size of the errors of its factor, unit by unit
    dimension_error: float  # relative, of ``tr^2 / |.|^2``


class Reductions:
    """Reference values of metrics at the judge's linearisation.

    `generator`: of probes.
    """

    def __init__(self, judge: Judge, generator: np.random.Generator) -> None:
        self.judge, self._generator = judge, generator
        self._form, self._mu = judge.form, judge.space.mu
        self._root, self._points = np.sqrt(self._mu)[:, :, None], judge.space.n_points
        self.shape: tuple[int, int, int] = (*self._mu.shape, judge.form.n_states)

    @property
    def exact(self) -> bool:
        """Whether all numbers are exact, and not estimated."""
        return int(self._form.n_parameters * np.prod(self.shape)) <= _EXACT_ENTRIES

    # Reduced views

    def average(self, operator: str) -> Target:
        """``<A>``, entry by entry where errors are drawn at random, otherwise by its products with random signs."""
        drawn = deviation_of_average(self.judge, operator, self._random)
        if drawn is None or not np.isfinite(drawn).all():
            return self._average_by_signs(operator)
        value, (_, _, largest) = self.average_matrix(operator), self._by_signs(operator)
        part = float(np.linalg.norm(drawn)) / (float(np.linalg.norm(value)) or 1.0)
        return Target(value, (1.0 + part) * drawn, size=largest)  # beyond first order, of ``D (1 + e)`` twice

    def _average_by_signs(self, operator: str) -> Target:
        """``<A>`` by its products with two vectors of random signs.

        A product may err less than the columns that it sums up do, where they cancel by these signs: on average over
        signs it errs as much, so that the mean square over both vectors says how much where that is more.
        """
        probes, images, largest = self._by_signs(operator)
        columns, sizes, summing = [], [], self._summing_pairs(operator)
        for q, y in images:
            calls = {"P": self.judge.propagator, "K": self.judge.kernel, "NTK": self.judge.tangent_kernel}
            own = calls[operator](q, y).spread.deviation
            if operator == "P":  # the certificate has the errors of each step
                own = self._response(own)
            columns.append(self._mean(y) / self._points)
            sizes.append((self._mean(own) + summing) / self._points)  # as if the errors of all points were one
        deviations = np.stack(sizes, axis=1)
        deviations = np.maximum(deviations, np.sqrt(np.mean(np.square(deviations), axis=1, keepdims=True)))
        return Target(np.stack(columns, axis=1), deviations, probes, largest)

    def _by_signs(self, operator: str) -> tuple[Array, list[tuple[Array, Array]], float]:
        """Two vectors of random signs (H, 2); these at all points, with their images; the largest number on the way."""
        probes, images, largest = self._generator.choice([-1.0, 1.0], size=(self.shape[2], 2)), [], 0.0
        for q in at_all_points(self.judge.space, probes.T):
            *others, y = intermediates(operator, self._form, self.judge.space, q)
            largest = max(largest, *(float(np.abs(value).max()) for value in (*others, y)))
            images.append((q, y))
        return probes, images, largest

    def average_matrix(self, operator: str) -> Array:
        """``<A>``, (H, H)."""
        units = np.eye(self.shape[2])
        return np.concatenate([self._means(operator, part) for part in _batches(units)]).T / self._points

    def _means(self, operator: str, vectors: Array) -> Array:
        """Means over points of an operator's products with vectors over units, the same at all points: (v, H)."""
        tensors = at_all_points(self.judge.space, vectors)
        return self._mean(evaluate_all(operator, self._form, self.judge.space, tensors))

    def _mean(self, values: Array) -> Array:
        """Mean over the points that exist, of (..., B, T, H)."""
        return np.asarray(self.judge.space.clear(values).mean(axis=(-3, -2)) * (self._mu.size / self._points))

    def _response(self, local: Array) -> Array:
        """What P makes of random errors of each step."""
        noise = self._generator.standard_normal((_BATCH, *self.shape)) * local
        return np.asarray(np.sqrt(np.square(kernels.tangent(self.judge.carrying, noise, overwrite=True)).mean(axis=0)))

    def _summing_pairs(self, operator: str) -> Array:
        """Rounding of ``<A> s`` where each entry of <A> is a sum over pairs of points, one after another: (H,).

        Nothing cancels between units before the sums are rounded: of H random signs, the root mean square of a
        product, times H^(1/2), stands for the sum of the magnitudes.
        """
        signs = self._generator.choice([-1.0, 1.0], size=(_BATCH, self.shape[2]))
        tensors = np.broadcast_to(signs[:, None, None], (_BATCH, *self.shape)).copy()
        squares = np.square(evaluate_all(operator, self._form, self.judge.space, tensors)).mean(axis=(0, 1, 2))
        # Entries of A that are too small to be held, all alike, and those of <A>.
        lost = 2 * self._points * self.judge.arithmetic.underflow * np.sqrt(self.shape[2])
        return self._summing(np.sqrt(self.shape[2] * squares), self._mu.size**2) + lost

    def _summing(self, sizes: Array | float, terms: float) -> Array:
        """Rounding of a sum of many terms that add up to this size, one after another, and of its result.

        Partial sums are rounded as often as there are terms. Terms that are all alike are rounded alike, and their
        errors do not average out quite as random ones do; hence the factor of four.
        """
        arithmetic = self.judge.arithmetic
        return np.asarray(4 * (arithmetic.unit + arithmetic.accumulate * np.sqrt(terms)) * np.asarray(sizes))

    # Moments

    @cached_property
    def K(self) -> Moments:
        """Of the parameter operator, exact or estimated."""
        rows = self._row_errors(lambda theta: self.judge.parameter_jacobian(theta, self._image(theta, "J")).spread)
        if self._blocks is None:
            return self._moments("K", *self._numbers("K"), rows)
        spectrum = form_spectrum(self._form, self._mu)
        return self._moments("K", spectrum.trace, spectrum.frobenius, np.zeros(2), rows)

    @cached_property
    def NTK(self) -> Moments:
        """Of the neural tangent kernel, exact or estimated."""
        return self._moments("NTK", *self._numbers("NTK"), self._row_errors(self.judge.sensitivity))

    def _numbers(self, operator: str) -> tuple[float, float, Array]:
        """Trace, Frobenius norm, and their standard errors."""
        columns = self._columns[operator]
        if columns is not None:
            wide = columns.reshape(len(columns), -1)
            gram = wide @ wide.T if len(wide) < wide.shape[1] else wide.T @ wide
            return float(np.trace(gram)), float(np.linalg.norm(gram)), np.zeros(2)
        traces, squares = self._samples[:2] if operator == "NTK" else self._samples[3:]
        frobenius = float(np.sqrt(squares.mean()))
        # Of an operator that is zero all samples are.
        sampling = np.array([_standard_error(traces), _standard_error(squares) / (2 * frobenius or 1.0)])
        return float(traces.mean()), frobenius, sampling

    def units(self, operator: str) -> Target:
        """Partial trace over trials and time, (H, H)."""
        sampling: Array | float = 0.0
        if operator == "K":
            value = kernel_unit_matrix(self._form, self._mu)
        elif (columns := self._columns[operator]) is not None:
            flat = np.moveaxis(columns, 3, 0).reshape(self.shape[2], -1)
            value = flat @ flat.T
        else:
            value, sampling = self._sampled_units()
        rows = (self.K if operator == "K" else self.NTK).rows
        lengths = np.sqrt(np.maximum(np.diag(value), 0.0))
        crossed = np.outer(lengths, rows)
        rounding = (
            np.minimum(_ROWS * (crossed + crossed.T), self._of_units(operator))
            + _ROWS * np.outer(rows, rows)
            + self.judge.arithmetic.operand * np.outer(lengths, lengths)  # numbers that are all alike are rounded alike
            + 8.75 * self._summing(np.abs(value), self._mu.size * self._form.n_parameters)
            + self.judge.floor
        )
        return Target(value, np.hypot(rounding, _SAMPLING * sampling))

    def alignment(self) -> tuple[float, float]:
        """``tr(K* NTK) / (|K| |NTK|)``, and its deviation."""
        columns = self._columns["NTK"]
        if columns is not None:
            images = [
                kernels.parameter_transpose(self._form, np.ascontiguousarray(self._root * part))
                for part in _batches(columns)
            ]
            cross, sampling = float(sum(np.square(image).sum() for image in images)), 0.0
        else:
            cross, sampling = float(self._samples[2].mean()), _standard_error(self._samples[2])
        value = cross / (self.K.frobenius * self.NTK.frobenius)
        return value, float(np.hypot(self._alignment_error(value), value * _SAMPLING * sampling / cross))

    def _alignment_error(self, value: float) -> float:
        """What rounding does to the alignment: of parts of K and the NTK by which it moves, where these are at hand."""
        both = self.K, self.NTK
        if not self._sharp:
            return sum(2 * moments.frobenius_error / moments.frobenius for moments in both)
        factors = [self._wide("K"), self._wide("NTK")]
        error = 0.0
        pairs = list(zip(factors, both, strict=True))
        for (factor, own), (other, beside) in (pairs, pairs[::-1]):
            along: Array = _image(other, factor) / (own.frobenius * beside.frobenius)
            along = along - value / own.frobenius**2 * _image(factor, factor)
            total = float(np.linalg.norm(own.rows))
            operator = "K" if own is both[0] else "NTK"
            error += min(2 * float(np.linalg.norm(along)) * total, self._along(operator, 2 * along))
            error += value * (_SECOND * total**2 / own.frobenius + 2 * float(self._summing_squares(1.0)))
        return error

    def _moments(self, operator: str, trace: float, frobenius: float, sampling: Array, rows: Array) -> Moments:
        total, sizes = float(np.linalg.norm(rows)), np.array([trace, frobenius])
        moved = 2 * np.sqrt(sizes) * total
        summing = self._summing_squares(sizes)
        if self._sharp and frobenius:
            factor = self._wide(operator)
            image = _image(factor, factor)
            cubes = float(np.square(image).sum())  # tr(G^3)
            moved[1] = 2 * np.sqrt(cubes) / frobenius * total
            gradients = 2 * factor, 2 / frobenius * image
            moved = np.minimum(moved, [self._along(operator, gradient) for gradient in gradients])
            apart = 4 * (factor / trace - image / frobenius**2)
        errors = np.hypot(moved, summing) + total**2
        if self._sharp and frobenius:
            norm = 4 * np.sqrt(max(cubes / frobenius**4 - 1 / trace, 0.0))
            dimension = np.hypot(min(norm * total, self._along(operator, apart)), self._summing_dimension())
            dimension += min(_SECOND * total**2 / frobenius, beyond_first_order(factor, self._drawn(operator), total))
        else:
            dimension = 2 * (np.hypot(errors, _SAMPLING * sampling) / np.maximum(sizes, self.judge.floor)).sum()
        trace_error, frobenius_error = np.hypot(errors, _SAMPLING * sampling)
        return Moments(trace, frobenius, float(trace_error), float(frobenius_error), rows, float(dimension))

    # Errors drawn at random

    @cached_property
    def _random(self) -> RandomFactors | None:
        """Random errors of J and D, if they are small enough."""
        small = self._form.n_parameters * np.prod(self.shape) <= _RANDOM_ENTRIES
        return random_factors(self.judge) if small else None

    def _drawn(self, operator: str) -> Array | None:
        """Those of the factor of K or the NTK in symmetric form: (count, M, B, T, H)."""
        if self._random is None:
            return None
        jacobian, sensitivity = self._random
        return self._root * (jacobian if operator == "K" else sensitivity)

    def _along(self, operator: str, gradient: Array) -> float:
        """Root mean square of what random errors of a factor do to a number with this derivative (M, B T H)."""
        errors = self._drawn(operator)
        if errors is None:
            return np.inf
        moved = errors.reshape(len(errors), -1) @ gradient.ravel()
        return float(np.nan_to_num(np.sqrt(np.mean(np.square(moved))), nan=np.inf))

    def _of_units(self, operator: str) -> Array:
        """The same for each entry of a partial trace, (H, H)."""
        errors, units = self._drawn(operator), self.shape[2]
        columns = self._columns[operator]
        if errors is None or columns is None:
            return np.full((units, units), np.inf)
        products = errors.reshape(len(errors), -1, units).swapaxes(1, 2) @ columns.reshape(-1, units)
        moved = np.square(products + products.swapaxes(1, 2)).mean(axis=0)
        return np.nan_to_num(np.sqrt(moved), nan=np.inf)

    @property
    def _sharp(self) -> bool:
        """Whether products with the factors are few enough to be formed."""
        return self.exact and int(self._form.n_parameters * np.prod(self.shape)) <= _SHARP_ENTRIES

    def _wide(self, operator: str) -> Array:
        """The factor as a matrix, parameters first: (M, B T H)."""
        columns = self._columns[operator]
        assert columns is not None
        return columns.reshape(len(columns), -1)

    def _summing_squares(self, sizes: Array | float) -> Array:
        """Rounding of sums over all pairs of entries, of operands of their products, and of a few results.

        In such sums, one after another, most terms are far smaller than the sum, and what is lost of one is lost of
        others alike: emulated float32 loses up to 20 times the root of their number.
        """
        arithmetic = self.judge.arithmetic
        results = 2 * arithmetic.unit + arithmetic.operand
        return np.asarray((results + 60 * arithmetic.accumulate * np.prod(self.shape, dtype=float)) * sizes)

    def _summing_dimension(self) -> float:
        """The same of ``tr^2 / |.|^2``, relative: of sums of fewer terms than those of all pairs, one of them.

        A backend may store the squares, the trace, its square, the entries of the operator, the norm, its square and
        the quotient: 11 units if all err alike and to one side, of which there are two deviations.
        """
        arithmetic, entries = self.judge.arithmetic, np.prod(self.shape, dtype=float)
        terms = 2 * min(np.sqrt(self._form.n_parameters * entries), entries) + entries
        return float(5.5 * arithmetic.unit + 4 * arithmetic.operand + 60 * arithmetic.accumulate * terms)

    def _row_errors(self, spread: Callable[[Array], Spread]) -> Array:
        """Frobenius norm of the errors of ``Mu^(1/2) J`` or ``Mu^(1/2) D`` for each unit, (H,)."""
        squares = np.zeros(self.shape[2])
        for _ in range(_VECTORS):
            theta = self._generator.standard_normal(self._form.n_parameters)
            squares += np.square(self._root * spread(theta).deviation).sum(axis=(0, 1)) / _VECTORS
        return np.sqrt(squares)

    def _image(self, theta: Array, operator: str) -> Array:
        return evaluate(operator, self._form, self.judge.space, theta)

    # Exactly, or by probes

    @cached_property
    def _blocks(self) -> UnitForm | None:
        """K by units, if it keeps them apart."""
        return unit_form(self._form)

    @cached_property
    def _columns(self) -> dict[str, Array | None]:
        """``Mu^(1/2) J`` (of K) and ``Mu^(1/2) D`` (of the NTK), parameters first (M, B, T, H), if small enough."""
        return {operator: self._stored(operator) if self.exact else None for operator in ("K", "NTK")}

    def _stored(self, operator: str) -> Array:
        factor = kernels.parameter_product if operator == "K" else kernels.sensitivity
        parameters = self._form.n_parameters
        out = np.empty((parameters, *self.shape))
        for part in range(0, parameters, _BATCH):
            rows = out[part : part + _BATCH]
            rows[...] = factor(self._form, np.eye(len(rows), parameters, part))
        return out * self._root

    @cached_property
    def _samples(self) -> Array:
        """For white g, with S the NTK and K in symmetric form: (5, probes).

        ``|D^T Mu^(1/2) g|^2``, ``|S g|^2``, ``g . K S g``, ``|J^T Mu^(1/2) g|^2`` and ``|K g|^2``.
        """
        found = np.empty((5, _PROBES))
        for start in range(0, _PROBES, _BATCH):
            g = self._generator.standard_normal((_BATCH, *self.shape))
            theta = kernels.sensitivity_transpose(self._form, self._root * g)
            image = kernels.sensitivity(self._form, theta) * self._root
            own, other = (kernels.parameter_transpose(self._form, self._root * value) for value in (g, image))
            local = kernels.parameter_product(self._form, own) * self._root
            pairs = ((theta, theta), (image, image), (own, other), (own, own), (local, local))
            for row, (one, another) in zip(found, pairs, strict=True):
                row[start : start + _BATCH] = (one * another).reshape(_BATCH, -1).sum(axis=1)
        return found

    def _sampled_units(self) -> tuple[Array, Array]:
        """Partial trace of the NTK over trials and time, and its standard error.

        ``sum_a E[(S theta)[a k] (S theta)[a l]]`` for white theta, S the symmetric form of D: each product gives all
        entries.
        """
        units, samples = self.shape[2], np.empty((2 * _PROBES, self.shape[2], self.shape[2]))
        for start in range(0, len(samples), _BATCH):
            theta = self._generator.standard_normal((_BATCH, self._form.n_parameters))
            image = (kernels.sensitivity(self._form, theta) * self._root).reshape(_BATCH, -1, units)
            samples[start : start + _BATCH] = image.swapaxes(1, 2) @ image
        # Some may agree by chance: no entry is taken to be surer than they are on average.
        errors = np.std(samples, axis=0, ddof=1) / np.sqrt(len(samples))
        return np.mean(samples, axis=0), np.maximum(errors, np.sqrt(np.mean(np.square(errors))))


def _image(other: Array, factor: Array) -> Array:
    """``A A^T D`` of factors A and D given as their transposes, (M, n): transposed too."""
    if len(factor) < factor.shape[1]:
        return np.asarray((factor @ other.T) @ other)
    return np.asarray(factor @ (other.T @ other))


def _standard_error(samples: Array) -> float:
    return float(np.std(samples, ddof=1) / np.sqrt(len(samples)))


def _batches(tensors: Array) -> Iterator[Array]:
    return (tensors[start : start + _BATCH] for start in range(0, len(tensors), _BATCH))
