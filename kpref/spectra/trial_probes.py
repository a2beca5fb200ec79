r"""Traces of ``A A*`` where A* adds up over trials what comes of each, as D* and J* do.

With ``F = W_out^(1/2) A W_in^(-1/2)`` and F_b its rows that belong to trial b,

    tr A A* = sum_b |F_b|_F^2 = sum_b E |F_b^T q_b|^2,

where one backward pass gives ``w_b = F_b^T q_b`` for all trials b (`kpref.operators.TensorOperator.separated`). The
black-box estimate ``|sum_b w_b|^2`` has the terms ``w_b . w_c`` between trials as well, which are nothing but noise:
about B times the variance where the B trials are alike.

**Deflation.** With orthonormal V in the domain

    |F_b|_F^2 = |F_b V|_F^2 + |F_b (1 - V V^T)|_F^2,        |(1 - V V^T) w_b|^2 = |w_b|^2 - |q_b . F_b V|^2:

a forward pass ``F v`` gives the first part exactly, and corrects the second for nothing. V comes of a sketch: one
backward pass has B samples w_b of the rows of F, with ``E sum_b w_b w_b^T = F^T F``. Their leading singular vectors are
better than the Krylov space of as many Lanczos steps, at half the price. (Trained network of the bundled example, 100
trials: three of them take the standard deviation of a test from 8.9 % of the trace to 1.0 %, three steps to 1.6 %.)

**Allocation.** In passes: one for the sketch, s for the columns of V, p for tests q. Two tests are held against all
leading singular vectors; their inner products tell

    v(s) = sum_b tr R_b^2,    R_b = F_b (1 - V_s V_s^T) F_b^T,

and so the variance ``2 v(s) / p`` that every s would leave, by which s and p are chosen: for a number of passes the
least ``v(s) / p``, for a tolerance the least ``s + p``. These two then tell the mean, if there are many trials, but
nothing of its error: s was chosen where they say that it is small.

**Errors.** The tests of each trial are independent directions, those of trials as well: `kpref.spectra.quadratic_forms`
has variance, degrees of freedom and skewness of their mean from the inner products within each trial.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from kpref._foreign import is_ours, returned
from kpref._types import Array
from kpref.memory import require_memory
from kpref.operators import TensorOperator, TrialParts
from kpref.spectra.estimate import Estimate
from kpref.spectra.quadratic_forms import Mean, mean_over_blocks
from kpref.spectra.trace_methods import NORMAL, not_finite, reaches, rounding_floor, unreached
from kpref.threads import even_blocks, run_blocks

__all__ = ["FEWEST", "NAME", "keeps_trials_apart", "trial_estimate"]

Progress = Callable[[int], object]

#: Columns that V may have, and bytes of a sketch.
_MOST, _SKETCH_BYTES = 32, 1 << 28
#: Trials for which it is worth while: fewer leave too few samples for V, and too little to tell an error from.
FEWEST = 8
#: Tests before the error is first compared with a tolerance, and degrees of freedom for which it then may be the last.
_FIRST, _SURE = 4, 30
#: Trials that tell an error from two tests.
_MANY = 16
NAME = "trial by trial"
#: Of the standard error that is wanted, the part that is planned for.
_MARGIN = 0.85
#: Entries of the tensors that go through an operator at once, and of the parameter vectors of one task.
_ENTRIES, _TASK_ENTRIES = 1 << 24, 1 << 19


def keeps_trials_apart(op: TensorOperator) -> bool:
    """Whether the trace of ``A A*`` may be taken trial by trial: of enough of them, with an A that tells them apart."""
    factor = op.factor
    if factor is None or len(factor.shape_out) < 2 or factor.shape_out[0] < FEWEST:
        return False
    return factor.separated is not None


class _Passes:
    """Products with F, and with its transpose for each trial by itself, in coordinates: inner products are plain sums.

    Vectors of the domain are (k, m), those of the other side (k, B, n), zero where the weight is.
    """

    def __init__(self, factor: TensorOperator, progress: Progress | None) -> None:
        self.factor, self._progress, self._reported = factor, progress, 0
        assert factor.separated is not None
        self._separated, self.trials, self.domain = factor.separated, factor.shape_out[0], factor.shape[1]
        space = factor.space_out
        weights = np.ones(1) if space.weights is None else space.weights
        self._weighed = np.broadcast_to(weights > 0, space.shape).reshape(self.trials, -1)
        self.sizes = np.count_nonzero(self._weighed, axis=1)
        self.forward = self.backward = 0
        self.here = False  # whether the last transposes are made of functions of the user's: not for other threads

    @property
    def passes(self) -> int:
        """Of either kind, so far."""
        return self.forward + self.backward

    def _count(self, forward: int, backward: int) -> None:
        self.forward, self.backward = self.forward + forward, self.backward + backward
        products = -(-self.passes // 2)
        if self._progress is not None and products > self._reported:
            self._progress(products - self._reported)
        self._reported = products

    def directions(self, count: int, seed: Any) -> Array:
        """Random directions (count, B, n) in each trial, uniform on the sphere of length n_b^(1/2); in float32."""
        vectors = np.empty((count, *self._weighed.shape), np.float32)
        blocks = even_blocks(self.trials, 8)

        def draw(index: int) -> None:
            part, generator = vectors[:, blocks[index]], np.random.default_rng([*seed, index])
            part[...] = generator.standard_normal(part.shape, np.float32) * self._weighed[blocks[index]]
            squares = np.einsum("vbn,vbn->vb", part, part, dtype=np.float64)
            lengths = np.sqrt(self.sizes[blocks[index]] / np.where(squares > 0, squares, 1.0))
            part *= lengths.astype(np.float32)[:, :, None]

        run_blocks(draw, len(blocks))
        return vectors

    def units(self, part: slice) -> Array:
        """Unit vectors (v, B, n) of each trial, by the places of its entries that have weight."""
        vectors = np.zeros((part.stop - part.start, *self._weighed.shape), np.float32)
        places = np.cumsum(self._weighed, axis=1) - 1
        for index, place in enumerate(range(part.start, part.stop)):
            vectors[index][self._weighed & (places == place)] = 1.0
        return vectors

    def images(self, columns: Array) -> Array:
        """``F v`` of vectors of the domain."""
        factor, parts = self.factor, [np.zeros((0, *self._weighed.shape))]
        for part in _few(len(columns), factor.shape[0]):
            vectors = columns[part].reshape(-1, *factor.shape_in).astype(factor.dtype, copy=False)
            image = factor.apply(factor.space_in.scale(vectors, -0.5))
            image = factor.space_out.scale(image, 0.5).astype(np.float64, copy=False)
            parts.append(image.reshape(len(image), self.trials, -1))
            self._count(len(image), 0)
        return np.concatenate(parts)

    def pulled(self, vectors: Array) -> TrialParts:
        """``F_b^T q_b`` (v, m) for vectors (v, B, n), trial by trial."""
        factor, count = self.factor, len(vectors)
        tensors = vectors.reshape(-1, *factor.shape_out).astype(factor.dtype, copy=False)
        tensors = factor.space_out.scale(tensors, 0.5)
        self._count(0, count)
        parts, space = self._separated(factor.space_out.clear(tensors)), factor.space_in
        self.here = not is_ours(parts.rows)

        def rows(trial: int) -> Array:
            found = parts.rows(trial)
            if self.here:
                found = returned(f"by_trial of {factor.name}", found, (count, *space.shape))
            scaled = space.scale(found.reshape(count, *space.shape), -0.5)
            return scaled.reshape(count, -1).astype(np.float64, copy=False)

        return TrialParts(rows, parts.products if space.weights is None else lambda trial: _squares(rows(trial)))

    def each(self, task: Callable[[slice], object], rows: int) -> None:
        """Call a task for groups of trials, each of which may hold so many vectors of the domain for each trial."""
        groups = even_blocks(self.trials, max(1, _TASK_ENTRIES // max(1, rows * self.domain)))
        run_blocks(lambda index: task(groups[index]), len(groups), here=self.here)


def _few(count: int, size: int, domain: int = 0) -> list[slice]:
    """So many vectors in as few even parts as keep small, with those of a trial's domain: of two at least."""
    width = max(2, min(_ENTRIES // max(1, size), max(4, _TASK_ENTRIES // max(1, domain))))
    return even_blocks(count, width) if count > width else [slice(0, count)] if count else []


def _products(passes: _Passes, vectors: Array) -> Array:
    """``w_b . w_b`` (B, p, p) of ``w_b = F_b^T q_b`` for vectors q (p, B, n)."""
    parts, count = passes.pulled(vectors), len(vectors)
    squares = np.empty((passes.trials, count, count))

    def task(group: slice) -> None:
        for trial in range(group.start, group.stop):
            squares[trial] = parts.products(trial)

    passes.each(task, count)
    return squares


def _products_seen(passes: _Passes, vectors: Array, columns: Array) -> tuple[Array, Array]:
    """The same, and ``V w_b`` (B, k, p)."""
    parts, count = passes.pulled(vectors), len(vectors)
    squares, seen = np.empty((passes.trials, count, count)), np.empty((passes.trials, len(columns), count))

    def task(group: slice) -> None:
        rows = np.stack([parts.rows(trial) for trial in range(group.start, group.stop)])
        squares[group] = rows @ rows.swapaxes(1, 2)
        flat = rows.reshape(-1, rows.shape[2]) @ columns.T
        seen[group] = flat.reshape(len(rows), count, -1).swapaxes(1, 2)

    passes.each(task, count)
    return squares, seen


def _squares(rows: Array) -> Array:
    return np.asarray(rows @ rows.T)


class _Tests:
    """Directions q as far as they are needed: products of their ``w_b = F_b^T q_b`` within each trial and batch."""

    def __init__(self, passes: _Passes, seed: int) -> None:
        self._passes, self.seed, self.count = passes, seed, 0
        self._vectors: list[Array] = []  # (p, B, n): q, as long as they may still have to be held against something
        self._overlaps: list[Array] = []  # (B, p, p): q.q
        self._squares: list[Array] = []  # (B, p, p): w.w
        self._images: Array | None = None  # F V
        self._inside = 0.0  # of the trace, exactly
        self._total = 0.0  # of w.w
        self._drawn = 0  # batches
        self._first = -1  # batch that V was chosen by

    def add(self, count: int) -> None:
        """Some more."""
        for part in _few(count, self._passes.factor.shape[0], self._passes.domain):
            vectors = self._draw(part.stop - part.start)
            self._append(vectors, _products(self._passes, vectors))

    def add_two(self, columns: Array) -> Array:
        """Two more; returns ``v(s)`` beside the first s of some orthonormal vectors of the domain, s = 0 ... k."""
        vectors = self._draw(2)
        squares, seen = _products_seen(self._passes, vectors, columns)
        pairs = np.concatenate([-squares[:, None], seen[:, :, :, None] * seen[:, :, None]], axis=1)
        left = np.cumsum(pairs, axis=1)
        apart = left[..., 0, 0] - left[..., 1, 1]
        if self._passes.trials < _MANY:  # then the choice would have a part in their mean
            self.count -= 2
            self._overlaps.pop()
        else:
            self._first = len(self._squares)
            self._append(vectors, squares)
        return np.asarray((np.square(left[..., 0, 1]) + np.square(apart) / 4).sum(axis=0) / 2)

    def deflate(self, columns: Array) -> None:
        """Take orthonormal vectors of the domain as V."""
        self._images = self._passes.images(columns)
        self._inside = float(np.vdot(self._images, self._images))
        for squares, vectors in zip(self._squares, self._vectors, strict=True):
            squares -= self._seen(vectors)
        self._vectors = []

    def _draw(self, count: int) -> Array:
        vectors = self._passes.directions(count, [self.seed, 1, self._drawn])
        wide = vectors.swapaxes(0, 1).astype(np.float64)
        self._overlaps.append(wide @ wide.swapaxes(1, 2))
        self.count, self._drawn = self.count + count, self._drawn + 1
        return vectors

    def _append(self, vectors: Array, squares: Array) -> None:
        self._total += float(np.trace(squares, axis1=1, axis2=2).sum())
        if self._images is None:
            self._vectors.append(vectors)
        else:
            squares -= self._seen(vectors)
        self._squares.append(squares)

    def _seen(self, vectors: Array) -> Array:
        """What V sees of the products, (B, p, p)."""
        assert self._images is not None
        seen = np.matmul(self._images.swapaxes(0, 1), vectors.transpose(1, 2, 0))
        return np.asarray(seen.swapaxes(1, 2) @ seen)

    def mean(self) -> Mean:
        """What the tests say of the trace; of its error the ones that V was chosen by are no witnesses."""
        batches = list(zip(self._squares, self._overlaps, strict=True))
        chosen = [batches.pop(self._first)[0]] if 0 <= self._first and len(batches) > 1 else []
        found = mean_over_blocks(batches, self._passes.sizes, chosen)
        return found._replace(value=self._inside + found.value)

    @property
    def scale(self) -> float:
        """What rounding is relative to."""
        return self._inside + self._total / self.count


def _sketch(passes: _Passes, seed: int, most: int) -> Array:
    """Leading singular vectors, orthonormal rows (s, m) of which there are so many at most, of samples from one pass.

    There is a sample of each trial, or of each group of trials where memory is short.
    """
    parts = passes.pulled(passes.directions(1, [seed, 0]))
    number = max(1, min(passes.trials, _SKETCH_BYTES // (8 * passes.domain)))
    require_memory(16.0 * number * passes.domain, f"a sketch of {passes.factor.name}")
    bounds = [passes.trials * index // number for index in range(number + 1)]
    samples, some = np.empty((number, passes.domain)), even_blocks(number, 4)

    def task(part: int) -> None:
        for index in range(some[part].start, some[part].stop):
            samples[index] = sum(parts.rows(trial)[0] for trial in range(bounds[index], bounds[index + 1]))

    run_blocks(task, len(some), here=passes.here)
    if not np.isfinite(samples).all():
        raise not_finite(passes.factor.name)
    _, vectors = np.linalg.eigh(samples @ samples.T)
    rows = vectors[:, ::-1][:, : min(most, passes.domain)].T @ samples
    return np.ascontiguousarray(np.linalg.qr(rows.T)[0].T)  # to rounding, even where the samples have no such rank


def trial_estimate(
    op: TensorOperator, probes: int, tol: float | None, seed: int, progress: Progress | None
) -> Estimate:
    """Trace of ``A A*`` by at most so many products, or as many as a tolerance takes: see the head of this file.

    Raises RuntimeError where that tolerance is not reached.
    """
    assert op.factor is not None
    passes, budget = _Passes(op.factor, progress), 2 * probes
    whole = int(passes.sizes.max())
    if whole <= budget and tol is None:
        return _exact(op, passes)
    tests = _Tests(passes, seed)
    if tol is None:
        fresh = 2 if passes.trials >= _MANY else 4
        if budget < 4 + fresh:
            tests.add(budget)
        else:
            columns = _sketch(passes, seed, min(_MOST, budget - 3 - fresh))
            variances = tests.add_two(columns)
            left = budget - passes.passes + tests.count - np.arange(len(variances))
            kept = int(np.argmin(variances / left))
            tests.deflate(columns[:kept])
            tests.add(budget - passes.passes)
        return _estimate(op, passes, tests)
    return _until(op, passes, tests, budget, tol)


def _until(op: TensorOperator, passes: _Passes, tests: _Tests, budget: int, tol: float) -> Estimate:
    """With as many passes as a tolerance takes."""
    whole = int(passes.sizes.max())
    tests.add(min(_FIRST, budget))
    found = _estimate(op, passes, tests)
    room = budget - passes.passes - 3
    if room > 0 and not _settled(found, tol):
        columns = _sketch(passes, tests.seed, min(_MOST, room))
        variances = tests.add_two(columns)
        kept = np.arange(len(variances))
        more = np.ceil(2 * variances / (_MARGIN * tol * found.value) ** 2 - tests.count).clip(0)
        best = int(np.argmin(kept + more))
        if kept[best] + more[best] >= whole and whole <= budget - passes.passes:
            return _exact(op, passes)
        if kept[best] + more[best] > budget - passes.passes:
            best = int(np.argmin(variances / (tests.count + budget - passes.passes - kept)))
        tests.deflate(columns[:best])
        tests.add(int(min(more[best], budget - passes.passes)))
        found = _estimate(op, passes, tests)
    fresh = False
    while not (_settled(found, tol) or (fresh and reaches(found, tol))) and passes.passes < budget:
        fresh, (low, high) = reaches(found, tol), found.interval()
        excess = 1.5 if fresh else min(2.0, ((high - low) / (2 * NORMAL * tol * found.value)) ** 2)
        tests.add(min(max(1, math.ceil(tests.count * (excess - 1))), budget - passes.passes))
        found = _estimate(op, passes, tests)
    if not reaches(found, tol):
        raise unreached(found, budget // 2, tol, op.name, -(-whole // 2))
    return found


def _settled(found: Estimate, tol: float) -> bool:
    """Whether a tolerance is reached beyond doubt: an error that rests on little is not to end the search."""
    return reaches(found, tol) and found.degrees >= _SURE


def _estimate(op: TensorOperator, passes: _Passes, tests: _Tests) -> Estimate:
    value, error, degrees, skewness = tests.mean()
    if not math.isfinite(value):
        raise not_finite(op.name)
    floor = rounding_floor(op.dtype, tests.scale)
    if error < floor:
        error, degrees, skewness = floor, math.inf, 0.0
    return Estimate(
        value, error, -(-passes.passes // 2), NAME, degrees=degrees, skewness=skewness, least=0.0,
        forward=passes.forward, backward=passes.backward,
    )  # fmt: skip


def _exact(op: TensorOperator, passes: _Passes) -> Estimate:
    """``sum |w_b|^2`` over the unit vectors of each trial, one of every trial at a time."""
    total, whole = 0.0, int(passes.sizes.max())
    for part in _few(whole, op.shape[0]):
        vectors = passes.units(part)
        squares = _products(passes, vectors)
        total += float(np.trace(squares, axis1=1, axis2=2).sum())
    if not math.isfinite(total):
        raise not_finite(op.name)
    return Estimate(total, 0.0, -(-passes.passes // 2), "exact", forward=passes.forward, backward=passes.backward)
