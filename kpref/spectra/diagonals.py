r"""The diagonal of an operator: exact where few products give it, else estimated with an error for each entry.

Where an operator keeps blocks of indices apart, one product serves an index of each block at once. Of ``A = F F*``,
with the matrix B of F in coordinates in which inner products are sums and g normal in its domain,

    A_ii = sum_m B_im^2 = E (B g)_i^2,

and (B g)_i is normal: the mean over p vectors is A_ii times a chi-square over its p degrees, which makes the standard
error ``(2 / p)^(1/2)`` of every entry, and intervals exact. Of any other A, with random signs s (Bekas, Kokiopoulou and
Saad, Appl. Numer. Math. 57, 2007),

    A_ii = E s_i (A s)_i,    with the variance  sum_{j != i} A_ij^2,

which the p values of each entry tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kpref._reprs import short_repr
from kpref._types import Array
from kpref._validate import integer
from kpref.operators import TensorOperator
from kpref.spectra.estimate import Estimate
from kpref.spectra.symmetric import RectangularForm, require_operator
from kpref.threads import serial_blas

__all__ = ["Diagonal", "diagonal"]

#: Bytes of tensors that an operator is applied to at once.
_BATCH_BYTES = 1 << 27


@dataclass(frozen=True, eq=False)
class Diagonal:
    """The diagonal of an operator.

    Attributes
    ----------
    values : ndarray, of the shape of a tensor
    standard_errors : ndarray, of the shape of a tensor
        Zero where values are exact.
    n_products : int
        Products that were needed, those with a factor counted one each.
    method : str
        "exact", "factor" or "signs".
    """

    values: Array
    standard_errors: Array
    n_products: int
    method: str

    __repr__ = short_repr

    def at(self, *index: int) -> Estimate:
        """One entry, with its interval.

        Parameters
        ----------
        *index : int
            One for each axis of a tensor.

        Returns
        -------
        Estimate

        Raises
        ------
        IndexError
            If there is no such entry.
        """
        if len(index) != self.values.ndim:
            raise IndexError(
                f"an entry of a tensor of shape {self.values.shape} takes an index for each axis; got {index}"
            )
        value, error = float(self.values[index]), float(self.standard_errors[index])
        if self.method == "exact":
            return Estimate(value, 0.0, self.n_products, "exact")
        if self.method == "factor":
            skewness = math.sqrt(8 / self.n_products)
            return Estimate(value, error, self.n_products, "factor", skewness=skewness, least=0.0)
        return Estimate(value, error, self.n_products, "signs", degrees=self.n_products - 1.0)


@serial_blas
def diagonal(op: TensorOperator, products: int = 64, seed: int = 0) -> Diagonal:
    """The diagonal of an operator on one space.

    Parameters
    ----------
    op : TensorOperator
        On one space: K, NTK, P, ...
    products : int
        At most so many; at least two. The diagonal is exact where they are enough: of small operators, of those that
        keep trials or units apart, and of ``F F*`` where F has few columns.
    seed : int
        Of the random vectors.

    Returns
    -------
    Diagonal

    Raises
    ------
    TypeError
        If it is not an operator.
    ValueError
        If it maps to another space, or `products` is too small.

    Examples
    --------
    >>> import numpy as np, kpref
    >>> flow = kpref.Flow(kpref.models.GRU.init(3, 8, seed=0), np.ones((5, 20, 3)))
    >>> found = kpref.diagonal(flow.NTK, products=200)
    >>> found.values.shape, found.method
    ((5, 20, 8), 'factor')
    """
    op = require_operator(op)
    products, seed = integer("products", products, 2), integer("seed", seed, 0)
    if op.space_in != op.space_out:
        raise ValueError(
            f"a diagonal is that of an operator on one space; {op.name} maps {op.space_in} to {op.space_out}"
        )
    apart = [
        axis for axis, known in ((0, op.structure.by_trial), (len(op.shape_in) - 1, op.structure.by_unit)) if known
    ]
    number = math.prod(length for axis, length in enumerate(op.shape_in) if axis not in apart)
    if number <= products:
        return Diagonal(_exactly(op, apart), np.zeros(op.shape_in), number, "exact")
    generator = np.random.default_rng(seed)
    if op.factor is None:
        return _by_signs(op, products, generator)
    form = RectangularForm(op.factor)
    columns = form.domain.size
    exact = columns <= products
    total, used = np.zeros(form.codomain.size), columns if exact else products
    for start in range(0, used, _batch(op)):
        rows = min(_batch(op), used - start)
        vectors = (
            np.eye(rows, columns, start) if exact else generator.standard_normal((rows, columns)) / math.sqrt(used)
        )
        total += np.square(form(vectors.astype(op.dtype)), dtype=np.float64).sum(axis=0)
    values = form.codomain.embed(total[None])[0]
    errors = np.zeros(op.shape_in) if exact else math.sqrt(2 / used) * values
    return Diagonal(values, errors, used, "exact" if exact else "factor")


def _batch(op: TensorOperator) -> int:
    return max(1, _BATCH_BYTES // max(1, op.space_in.size * op.dtype.itemsize))


def _exactly(op: TensorOperator, apart: list[int]) -> Array:
    """One product for each index of the axes along which indices are coupled; all of the others at once."""
    others = [axis for axis in range(len(op.shape_in)) if axis not in apart]
    outer = tuple(op.shape_in[axis] for axis in others)
    found = np.zeros(op.shape_in)
    number, order = math.prod(outer), (0, *(1 + axis for axis in (*others, *apart)))
    inside = found.transpose([*others, *apart])
    for start in range(0, number, _batch(op)):
        flat = np.arange(start, min(start + _batch(op), number))
        index = np.unravel_index(flat, outer) if outer else ()
        tensors = np.zeros((len(flat), *op.shape_in), op.dtype)
        tensors.transpose(order)[(np.arange(len(flat)), *index)] = 1
        inside[index] = op.apply(tensors).transpose(order)[(np.arange(len(flat)), *index)]
    return found


def _by_signs(op: TensorOperator, products: int, generator: np.random.Generator) -> Diagonal:
    total, squares = np.zeros((2, *op.shape_in))
    for start in range(0, products, _batch(op)):
        shape = (min(_batch(op), products - start), *op.shape_in)
        signs = generator.choice(np.array([-1.0, 1.0]), size=shape).astype(op.dtype)
        terms = np.asarray(signs * op.apply(signs), np.float64)
        total += terms.sum(axis=0)
        squares += np.square(terms).sum(axis=0)
    mean = total / products
    variance = np.maximum(squares / products - mean**2, 0.0) / (products - 1)
    return Diagonal(mean, np.sqrt(variance), products, "signs")
