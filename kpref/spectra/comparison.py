"""Operators, subspaces and sub-tasks compared.

**Alignment** of A and C, operators between the same two spaces: the cosine of the angle between them in the inner
product of Hilbert and Schmidt,

    tr(A* C) / (tr(A* A) tr(C* C))^(1/2),

kernel alignment where they are kernels (Cristianini et al., NeurIPS 2001). *Centred*: of ``H A H`` and ``H C H``, H
being the projection that takes the mean in the measure over trials and time from each unit, ``H = I - 1 1^T Mu / sum
mu`` for each unit, self-adjoint; as in centred kernel alignment (Cortes, Mohri and Rostamizadeh, JMLR 13, 2012), what
all points share does not count.

**Principal angles** between the spans of two sets of tensors, in the inner product of their space, small ones from
their sine and large ones from their cosine (Bjorck and Golub, Math. Comp. 27, 1973; Knyazev and Argentati, SISC 23,
2002).

**Alignment of sub-tasks**: the loss falls at the rate ``<Err, NTK Err>_X`` (Hazelden et al., arXiv:2507.06381). With
Err_i the error on the trials of group i, zero elsewhere, that is the sum over i, j of

    rates[i, j] = <Err_i, NTK Err_j>_X,

what learning group j does to the loss of group i. Normalised by ``(rates[i, i] rates[j, j])^(1/2)`` it is the cosine
between the gradients of the two: 1 where learning the one learns the other, negative where it unlearns it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy.linalg import svdvals

from kpref._reprs import short_repr
from kpref._types import Array
from kpref._validate import finite_array, flag, integer
from kpref.memory import require_memory
from kpref.operators import Structure, TensorOperator
from kpref.space import EuclideanSpace, TrajectorySpace, require_space
from kpref.spectra.bases import append_orthonormal
from kpref.spectra.estimate import Estimate
from kpref.spectra.paired_probes import DENSE_SIZE, directions, estimate_of, in_batches, product_of_means, rounding
from kpref.spectra.rows import combination, inner_products, inner_products_of_parts, orthonormal, triangle
from kpref.spectra.symmetric import RectangularForm, SymmetricForm, require_operator, require_self_adjoint
from kpref.spectra.white_images import WhiteImages
from kpref.threads import serial_blas

__all__ = ["TaskAlignment", "alignment", "alignment_of_images", "principal_angles", "task_alignment"]

#: Bytes of tensors that an operator is applied to at once.
_BATCH_BYTES = 1 << 27
#: Least eigenvalue of a Gram matrix, over its trace, that needs no QR factorisation to be told from zero.
_CLEARLY = 1e-6
#: Least eigenvalue of the Gram matrix of unit vectors that are far apart: the root of it magnifies rounding.
_APART = 0.1


@serial_blas
def alignment(a: TensorOperator, b: TensorOperator, probes: int = 60, seed: int = 0, centred: bool = False) -> Estimate:
    """Alignment ``tr(A* B) / (tr(A* A) tr(B* B))^(1/2)`` of two operators, in the measures of their spaces.

    Parameters
    ----------
    a, b : TensorOperator
        Between the same two spaces, measures included; points without weight do not count.
    probes : int
        Products with each of the two, at least 6: a quarter for Krylov spaces of ``A* A`` and ``B* B``, an eighth for
        the transposes that these take, the others for random vectors beside them. Both see the same vectors.
    seed : int
        Of the random vectors.
    centred : bool
        Take the mean over trials and time from each unit before and after each operator. For operators on one
        trajectory space.

    Returns
    -------
    Estimate
        From -1 to 1; exact up to 400 dimensions of the input space. Else with a standard error, see
        `kpref.spectra.paired_probes`; the bias is of order ``1 / probes^2``.

    Raises
    ------
    TypeError
        If one of them is no TensorOperator, or `probes` no integer.
    ValueError
        If the spaces differ, `centred` is asked for elsewhere, there are too few probes, or an operator is zero.
    MemoryError
        Before anything is allocated, if the vectors would not fit.
    """
    for op in (a, b):
        require_operator(op)
    probes, seed = integer("probes", probes, 6), integer("seed", seed, 0)
    if a.space_in != b.space_in or a.space_out != b.space_out:
        raise ValueError(
            f"alignment of {a.name} and {b.name}: both must act between the same spaces, measures included; got "
            f"{a.space_in} to {a.space_out}, and {b.space_in} to {b.space_out}"
        )
    if flag("centred", centred):
        a, b = _centred(a), _centred(b)
    first, second = RectangularForm(a), RectangularForm(b)
    size = first.domain.size
    if size <= max(DENSE_SIZE, probes):
        columns = np.eye(size)
        known, _ = _overlaps(first(columns.astype(a.dtype)), second(columns.astype(b.dtype)))
        products, squares, others = _nonzero(known, a, b)
        return Estimate(float(products / np.sqrt(squares * others)), 0.0, 2 * size, "exact")
    known, pairs, vectors, number = _sampled(first, second, probes, np.random.default_rng(seed))
    _nonzero(known + np.trace(pairs, axis1=1, axis2=2), a, b)
    found = product_of_means(known, pairs, (1.0, -0.5, -0.5), inner_products(vectors), size - number, positive=False)
    return estimate_of(
        found,
        rounding(np.result_type(a.dtype, b.dtype), size),
        number + 2 * (number + len(vectors)),
        "Krylov spaces and random vectors",
        least=-1.0,
        most=1.0,
    )


@serial_blas
def alignment_of_images(
    first: WhiteImages, second: WhiteImages, tensors: Array, values: tuple[Array, Array] | None = None
) -> Estimate:
    """As `alignment`, of symmetric operators that the same random vectors have met already.

    `tensors`: shape (k, \\*shape); what most of the two lies in, such as leading eigenfunctions: up to k products with
    each of the two. `values`: shapes (i,) and (k - i,); where the first i tensors are eigenfunctions of the first
    operator and the others of the second, their eigenvalues: they save half of the products if these are far apart.
    Raises ValueError if they have met other vectors, or an operator is zero.
    """
    a, b, dtype = first.form.op, second.form.op, first.images.dtype
    if (first.seed, first.vectors.shape, dtype) != (second.seed, second.vectors.shape, second.images.dtype):
        raise ValueError(f"{a.name} and {b.name} have not met the same random vectors")
    rows = first.form.coordinates.to_vectors(tensors)
    basis = orthonormal(rows).astype(dtype)
    made = None if values is None else _images_by_values(first.form, second.form, rows, basis, values)
    images, others = (in_batches(first.form, basis), in_batches(second.form, basis)) if made is None else made
    count, size = first.vectors.shape
    inner = _inner_beside(first, second, basis, images, others)
    drawn, one, other = (slice(part * count, (part + 1) * count) for part in range(3))
    apart, aside = (slice(3 * count + part * len(basis), 3 * count + (part + 1) * len(basis)) for part in (1, 2))
    known = np.array([np.trace(inner[pair]) for pair in ((apart, aside), (apart, apart), (aside, aside))])
    pairs = np.stack([inner[pair] for pair in ((one, other), (one, one), (other, other))])
    _nonzero(known + np.trace(pairs, axis1=1, axis2=2), a, b)
    overlaps = inner[drawn, drawn]
    found = product_of_means(known, pairs, (1.0, -0.5, -0.5), overlaps, size - len(basis), positive=False)
    products = 2 * count + (2 * len(basis) if made is None else len(rows))
    method = "leading eigenfunctions and random vectors"
    return estimate_of(found, rounding(dtype, size), products, method, least=-1.0, most=1.0)


def _images_by_values(
    first: SymmetricForm, second: SymmetricForm, rows: Array, basis: Array, values: tuple[Array, Array]
) -> tuple[Array, Array] | None:
    """Images of an orthonormal basis of rows, some of which are eigenvectors of the first and the others of the second.

    None where rows lie so close that rounding of their images would be magnified.
    """
    gram, here = inner_products(rows), len(values[0])
    if len(basis) < len(rows) or np.linalg.eigvalsh(gram)[0] < _APART:
        return None
    turn = np.linalg.solve(gram, inner_products(rows, basis)).T.astype(basis.dtype)  # basis = turn @ rows
    own = rows.astype(basis.dtype, copy=False)
    images = np.concatenate([values[0][:, None] * rows[:here], in_batches(first, own[here:])], dtype=basis.dtype)
    others = np.concatenate([in_batches(second, own[:here]), values[1][:, None] * rows[here:]], dtype=basis.dtype)
    return combination(turn, images), combination(turn, others)


def _inner_beside(first: WhiteImages, second: WhiteImages, basis: Array, images: Array, others: Array) -> Array:
    """Inner products of ``v, A v, B v, Q, A Q, B Q`` for orthonormal rows Q (k, n) and the directions v beside them.

    From those of the vectors g and their images, of which ``v = c (g - s Q)`` and its images are sums.
    """
    count, number, size = len(first.vectors), len(basis), basis.shape[1]
    parts = (first.vectors, first.images, second.images, basis, images, others)
    raw = inner_products_of_parts(parts, [[slice(0, size)]])[0]
    shares = raw[:count, 3 * count : 3 * count + number]
    squares = np.diagonal(raw)[:count] - np.square(shares).sum(axis=1)
    turn = np.eye(len(raw))
    for part in range(3):
        turn[part * count : (part + 1) * count, 3 * count + part * number : 3 * count + (part + 1) * number] = -shares
    turn[: 3 * count] *= np.tile(np.sqrt((size - number) / squares), 3)[:, None]
    return np.asarray(turn @ raw @ turn.T)


@serial_blas
def principal_angles(first: npt.ArrayLike, second: npt.ArrayLike, space: EuclideanSpace) -> Array:
    """Principal angles between the spans of two sets of tensors, in the inner product of their space.

    Parameters
    ----------
    first, second : array_like, shapes (k, \\*shape) and (l, \\*shape)
        Linearly independent tensors each; not necessarily orthonormal. Entries without weight do not count.
    space : EuclideanSpace

    Returns
    -------
    ndarray, shape (min(k, l),)
        In radians, increasing. Small angles are accurate to rounding, relative to a right angle.

    Raises
    ------
    ValueError
        For another shape, numbers that are not finite, or tensors that are linearly dependent in the measure.
    """
    space = require_space("space", space)
    matrices = []
    for name, tensors in (("first", first), ("second", second)):
        stack = finite_array(name, tensors, shape=("k", *space.shape))
        matrix = space.scale(stack, 0.5).reshape(len(stack), space.size)
        matrices.append(_orthonormal(name, matrix))
    smaller, larger = sorted(matrices, key=len)
    overlap = inner_products(smaller, larger)
    cosines = np.minimum(svdvals(overlap), 1.0)  # descending: angles increase
    beside = smaller - combination(overlap, larger)
    sines = np.minimum(svdvals(triangle(beside))[::-1], 1.0)
    return np.where(cosines**2 >= 0.5, np.arcsin(sines), np.arccos(cosines))


def _orthonormal(name: str, rows: Array) -> Array:
    """Orthonormal rows of the same span; ValueError where rows depend on each other."""
    count, gram = len(rows), inner_products(rows)
    if count and np.linalg.eigvalsh(gram)[0] > _CLEARLY * np.trace(gram):
        return orthonormal(rows)
    columns, triangle = np.linalg.qr(rows.T)
    rank = int(np.linalg.matrix_rank(triangle)) if count else 0
    if not count or rank < count:
        raise ValueError(
            f"{name} must hold at least one tensor, and linearly independent ones in the measure; got {count} of rank "
            f"{rank}"
        )
    return np.ascontiguousarray(columns.T)


@dataclass(frozen=True, eq=False)
class TaskAlignment:
    """What learning one group of trials does to the others.

    Attributes
    ----------
    rates : ndarray, shape (G, G)
        ``<Err_i, NTK Err_j>_X``: the rate, per unit of the learning rate, at which the gradient of group j lowers the
        loss of group i. The entries sum to the rate of the whole loss, ``<Err, NTK Err>_X``.
    alignment : ndarray, shape (G, G)
        ``rates[i, j] / (rates[i, i] rates[j, j])^(1/2)``; zero for a group without error.
    labels : ndarray, shape (G,)
        Of the groups, sorted.
    """

    rates: Array
    alignment: Array
    labels: Array

    __repr__ = short_repr


@serial_blas
def task_alignment(op: TensorOperator, err: npt.ArrayLike, groups: npt.ArrayLike) -> TaskAlignment:
    """Alignment of the sub-tasks that groups of trials stand for, under a kernel such as the NTK.

    Parameters
    ----------
    op : TensorOperator
        Self-adjoint and positive on a trajectory space: the NTK, or another learning rule's kernel.
    err : array_like, shape (B, T, H)
        Derivative of the loss density by the state (``flow.gradient_flow(...).err``).
    groups : array_like, shape (B,)
        An integer or string for each trial.

    Returns
    -------
    TaskAlignment

    Raises
    ------
    ValueError
        For an operator that is not self-adjoint, or arrays of another shape or kind.

    Notes
    -----
    One product with `op` for each group.
    """
    require_operator(op)
    require_self_adjoint(op)
    space = op.space_in
    if not isinstance(space, TrajectorySpace):
        raise ValueError(f"alignment of sub-tasks needs an operator on a trajectory space; {op.name} acts on {space}")
    error = finite_array("err", err, shape=space.shape, axes=("trial", "step", "unit"))
    given = np.asarray(groups)
    if given.shape != (space.shape[0],) or given.dtype.kind not in "biuU":
        raise ValueError(
            f"groups must be integers or strings of shape ({space.shape[0]},), one for each trial; got {given.dtype} "
            f"of shape {given.shape}"
        )
    labels, member = np.unique(given, return_inverse=True)
    indicator = (member == np.arange(len(labels))[:, None]).astype(float)  # (G, B)
    weighed = space.weigh(error)
    rates = np.empty((len(labels), len(labels)))
    width = max(1, _BATCH_BYTES // (space.size * 8))
    for start in range(0, len(labels), width):
        part = slice(start, start + width)
        images = op.apply(indicator[part, :, None, None] * error)
        rates[:, part] = indicator @ np.einsum("bth,gbth->bg", weighed, images)
    own = np.sqrt(np.maximum(np.diagonal(rates), 0.0))
    scale = np.outer(own, own)
    return TaskAlignment(rates, np.divide(rates, scale, out=np.zeros_like(rates), where=scale > 0), labels)


def _centred(op: TensorOperator) -> TensorOperator:
    """``H A H``, H the projection that takes out the mean over trials and time."""
    space = op.space_in
    if not isinstance(space, TrajectorySpace) or op.space_out != space:
        raise ValueError(
            f"centred alignment needs operators on one trajectory space; {op.name} maps {op.space_in} to {op.space_out}"
        )
    shares = (space.mu / space.mu.sum()).astype(op.dtype)

    known = Structure(self_adjoint=True, positive=True, units=tuple(range(space.shape[2])))
    maps = partial(_without_mean, shares), partial(_without_shares, shares)
    centring = TensorOperator(*maps, space, space, op.dtype, "H", known)
    return (centring @ op @ centring).renamed(f"centred {op.name}")  # type: ignore[no-any-return]


def _without_mean(shares: Array, batch: Array) -> Array:
    return np.asarray(batch - np.einsum("bt,vbth->vh", shares, batch)[:, None, None])


def _without_shares(shares: Array, batch: Array) -> Array:
    """The transpose of `_without_mean`."""
    return np.asarray(batch - shares[:, :, None] * batch.sum(axis=(1, 2), keepdims=True))


def _sampled(
    first: RectangularForm, second: RectangularForm, probes: int, generator: np.random.Generator
) -> tuple[Array, Array, Array, int]:
    """``<A, C>, <A, A>, <C, C>`` in a range (3,), for p vectors beside it (3, p, p), these, and its dimension."""
    within = max(2, probes // 4)
    beyond = probes - within - -(-within // 2)
    dtype, size = np.promote_types(first.op.dtype, second.op.dtype), first.domain.size
    needed = 4.0 * probes * (size + first.codomain.size) * dtype.itemsize
    require_memory(needed, f"{probes} probes of {first.op.name}")
    basis = np.empty((within, size), dtype)
    images, others = np.empty((2, within, first.codomain.size), dtype)
    start = generator.standard_normal(first.codomain.size).astype(dtype)
    for index in range(within):  # the two chains take turns, from A* g and C* g: all there is of matrices of rank one
        form, found = (second, others) if index % 2 else (first, images)
        vector = form.transpose((found[index - 2] if index > 1 else start)[None])[0]
        append_orthonormal(basis, index, vector, generator)
        images[index], others[index] = first(basis[index : index + 1])[0], second(basis[index : index + 1])[0]
    known, _ = _overlaps(images, others)
    rest = directions(generator, beyond, basis)
    return known, _overlaps(in_batches(first, rest), in_batches(second, rest))[1], rest, within


def _overlaps(images: Array, others: Array) -> tuple[Array, Array]:
    """Sums over rows of ``a.c, a.a, c.c`` (3,), and these for all pairs of rows (3, v, v), in float64."""
    pairs = np.stack([inner_products(images, others), inner_products(images), inner_products(others)])
    return np.trace(pairs, axis1=1, axis2=2), pairs


def _nonzero(sums: Array, a: TensorOperator, b: TensorOperator) -> Array:
    for square, op in ((sums[1], a), (sums[2], b)):
        if not square:
            raise ValueError(f"the alignment with an operator that is zero is not defined; {op.name} is zero")
    return sums
