"""`TensorOperator`: a SciPy LinearOperator that also maps tensors, and knows the inner products of its two sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse.linalg import LinearOperator

from kpref._types import Array
from kpref._validate import instance, numeric_array, precision, real_number, short
from kpref.memory import require_memory
from kpref.operators.products import (
    ByTrial,
    Leaf,
    Map,
    Power,
    Product,
    Side,
    adjoint,
    after,
    gram,
    gram_factor,
    total,
)
from kpref.operators.structure import UNKNOWN, Structure
from kpref.space import EuclideanSpace, require_space
from kpref.threads import serial_blas

__all__ = ["TensorOperator", "identity"]

#: How tightly formulas bind.
_SUM, _MULTIPLE, _PRODUCT, _POSTFIX, _SYMBOL = range(5)
#: Columns of the identity that `to_dense` applies an operator to at once.
_DENSE_COLUMNS = 64


class TensorOperator(LinearOperator):  # type: ignore[misc]
    """A real linear map between two spaces of tensors, usable wherever SciPy takes a LinearOperator.

    ``op(q)`` maps a tensor of shape `shape_in` to one of shape `shape_out`; ``op @ x`` maps flat vectors (n,),
    columns (n, 1) and matrices (n, k) as SciPy does, tensors being flattened in C order; ``op.apply(batch)`` maps a
    batch (v, \\*shape_in) at once. ``op.T`` and ``op.H`` are the Euclidean transpose, ``op.star`` the adjoint in the
    inner products of the two spaces. Sums, products and multiples of TensorOperators are TensorOperators; with any
    other LinearOperator they are SciPy's. Where points of a space do not exist (trials that end early), nothing is
    taken from them and zeros are returned.

    An operator is immutable, knows what it is made of, and what of its `structure` follows from that; it pickles if its
    functions do.

    Parameters
    ----------
    forward, transpose : callable
        The map and its Euclidean transpose on batches: (v, \\*shape_in) to (v, \\*shape_out) and back. They cannot
        write to their argument, and what they return is copied; BLAS has one thread inside them.
    space_in, space_out : EuclideanSpace
        The two spaces; a `TrajectorySpace` carries a measure.
    dtype : dtype
        float64 or float32: the precision of the arithmetic.
    name : str
        For messages and figures.
    structure : Structure or callable, optional
        What is known of the operator, or a function that finds it when it is asked for.
    by_trial : callable, optional
        Of an operator from parameters to tensors whose first axis counts trials: the transpose before its sum over
        trials, a function from a batch (v, \\*shape_out) to `kpref.operators.TrialParts`.
    """

    # NumPy must leave `array @ operator` to us.
    __array_priority__ = 1000.0
    __array_ufunc__ = None

    def __init__(
        self,
        forward: Map,
        transpose: Map,
        space_in: EuclideanSpace,
        space_out: EuclideanSpace,
        dtype: npt.DTypeLike = np.float64,
        name: str = "operator",
        structure: Structure | Callable[[], Structure] = UNKNOWN,
        by_trial: ByTrial | None = None,
    ) -> None:
        for argument, function in (("forward", forward), ("transpose", transpose), ("by_trial", by_trial or _copy)):
            if not callable(function):
                raise TypeError(f"{argument} must be a function of a batch of tensors; got {short(function)}")
        if not callable(structure):
            instance("structure", structure, Structure, "a kpref.operators.Structure")
        spaces = require_space("space_in", space_in), require_space("space_out", space_out)
        leaf = Leaf(name, forward, transpose, *spaces, precision(dtype), structure, by_trial)
        self._become(Product(1.0, (Side(leaf),), *spaces, leaf.dtype), name, _SYMBOL)

    def _become(self, product: Product, name: str, binds: int) -> None:
        super().__init__(product.dtype, (product.space_out.size, product.space_in.size))
        self._product, self.name, self._binds = product, name, binds

    def __reduce__(self) -> tuple[Any, ...]:
        return _operator, (self._product, self.name, self._binds)

    @property
    def space_in(self) -> EuclideanSpace:
        """The space that it acts on."""
        return self._product.space_in

    @property
    def space_out(self) -> EuclideanSpace:
        """The space that it maps to."""
        return self._product.space_out

    @property
    def structure(self) -> Structure:
        """What is known of it: see `kpref.operators.products` for what follows from what."""
        known = self._product.structure
        if max(len(self.shape_in), len(self.shape_out)) > 1:
            return known
        return Structure(known.self_adjoint, known.positive)  # no axes tell trials and units

    @property
    def factor(self) -> TensorOperator | None:
        """A of an operator that is known to be ``A A*``, such as K; ``A* A`` has its spectrum in another space."""
        factor = gram_factor(self._product)
        return None if factor is None else _operator(factor, f"factor of {self.name}", _SYMBOL)

    @property
    def separated(self) -> ByTrial | None:
        """The transpose before its sum over trials, where that is known; of D it gives ``D_b^T q_b`` for each trial b.

        A function from a batch (v, \\*shape_out), which does what all trials have in common, to
        `kpref.operators.TrialParts`, which do the rest.
        """
        return self._product.separated

    @property
    def shape_in(self) -> tuple[int, ...]:
        """Shape of a tensor that the operator takes."""
        return self.space_in.shape

    @property
    def shape_out(self) -> tuple[int, ...]:
        """Shape of a tensor that the operator returns."""
        return self.space_out.shape

    @serial_blas
    def apply(self, batch: npt.ArrayLike) -> Array:
        """Apply to several tensors at once.

        Parameters
        ----------
        batch : array_like, shape (v, \\*shape_in)
            Real or complex.

        Returns
        -------
        ndarray, shape (v, \\*shape_out)

        Raises
        ------
        ValueError
            If the shape does not match.
        TypeError
            If the entries are not numbers.
        """
        array = self._numbers(batch)
        if array.shape[1:] != self.shape_in or array.ndim != len(self.shape_in) + 1:
            raise ValueError(f"{self.name} takes batches of shape (v, {_inside(self.shape_in)}); got {array.shape}")
        if array.dtype.kind == "c":
            return self.apply(array.real) + 1j * self.apply(array.imag)
        if len(array) == 0:
            return np.empty((0, *self.shape_out), self.dtype)
        batch = self.space_in.clear(array.astype(self.dtype, copy=False))
        return self._product(batch)

    def _numbers(self, value: Any) -> Array:
        """An array of numbers, or TypeError: what SciPy expects of an operator that is given something else."""
        try:
            return numeric_array(f"the argument of {self.name}", value, "biufc")
        except ValueError as error:
            raise TypeError(str(error)) from error

    def __call__(self, x: Any) -> Any:
        """Map a tensor of shape `shape_in`; anything else is treated as by ``op @ x``."""
        if isinstance(x, LinearOperator) or (np.isscalar(x) and not isinstance(x, str | bytes)):
            return self.dot(x)
        array = self._numbers(x)
        if array.shape == self.shape_in:
            return self.apply(array[None])[0]
        if array.ndim in (1, 2) and array.shape[0] == self.shape[1]:
            return self.dot(array)
        raise ValueError(f"{self.name} takes a tensor of shape {self.shape_in}; got {array.shape}")

    def to_dense(self, limit: float = 2.0**30) -> Array:
        """The matrix of the operator, shape (size out, size in), in flat C order on both sides.

        Parameters
        ----------
        limit : float
            Largest number of bytes that the matrix may take; 1 GiB by default.

        Raises
        ------
        MemoryError
            If it takes more, or more than there is; nothing is allocated then.
        """
        rows, columns = self.shape
        limit = real_number("limit", limit, least=0)
        needed = rows * columns * self.dtype.itemsize
        if needed > limit:
            raise MemoryError(
                f"{self.name} as a dense {rows} x {columns} matrix takes {needed / 2**30:.3g} GiB, more than the limit "
                f"of {limit / 2**30:.3g} GiB; use it as an operator, or raise `limit`"
            )
        require_memory(needed, f"{self.name} as a dense {rows} x {columns} matrix")
        dense = np.empty((rows, columns), self.dtype)
        for start in range(0, columns, _DENSE_COLUMNS):
            stop = min(start + _DENSE_COLUMNS, columns)
            basis = np.zeros((stop - start, columns), self.dtype)
            basis[np.arange(stop - start), np.arange(start, stop)] = 1
            dense[:, start:stop] = self.apply(basis.reshape(-1, *self.shape_in)).reshape(stop - start, rows).T
        return dense

    # SciPy's interface

    def _matmat(self, X: Array) -> Array:
        batch = np.asarray(X).T.reshape(X.shape[1], *self.shape_in)
        return self.apply(batch).reshape(X.shape[1], self.shape[0]).T

    def _matvec(self, x: Array) -> Array:
        return self.apply(np.asarray(x).reshape(1, *self.shape_in)).reshape(np.shape(x)[1:] and (-1, 1) or -1)

    def _transpose(self) -> TensorOperator:
        return _operator(self._product.T, f"{self._inside(_SYMBOL)}^T", _POSTFIX)

    #: The operators are real: the conjugate transpose is the transpose.
    _adjoint = _transpose

    @property
    def star(self) -> TensorOperator:
        """The adjoint ``A* = W_in^+ A^T W_out`` in the inner products of the two spaces.

        W are the diagonal matrices of the weights. Where a weight is zero the space is restricted: A* gives zero
        there. A self-adjoint operator is its own adjoint and returned as it is.
        """
        if self._product.symmetry[0]:
            return self
        return _operator(adjoint(self._product), f"{self._inside(_SYMBOL)}*", _POSTFIX)

    def gram(self, name: str | None = None) -> TensorOperator:
        """``A A* = A W_in^+ A^T W_out``, self-adjoint and positive on the output space."""
        formula = f"{self._inside(_POSTFIX)} {self._inside(_SYMBOL)}*"
        return _operator(gram(self._product), name or formula, _SYMBOL if name else _PRODUCT)

    # Algebra

    def renamed(self, name: str) -> TensorOperator:
        """The same operator under another name."""
        return _operator(self._product, name, _SYMBOL)

    def remade(self, change: Callable[[Product], Product]) -> TensorOperator:
        """The operator that a function makes of what this one is made of, under the same name."""
        return _operator(change(self._product), self.name, self._binds)

    def _inside(self, level: int) -> str:
        """Its name in a formula that binds with this strength."""
        return self.name if self._binds >= level else f"({self.name})"

    def dot(self, x: Any) -> Any:
        """Product with a vector, a matrix, a scalar or another operator."""
        if isinstance(x, TensorOperator):
            return self._after(x)
        if _is_number(x):
            return self._times(x)
        if isinstance(x, LinearOperator):
            both = np.result_type(self.dtype, x.dtype).type(0).real.dtype  # of complex numbers, that of their parts
            # SciPy's products do not see to it that images have the precision that they promise.
            whole = self if both == self.dtype else self @ identity(self.space_in, both)
            return LinearOperator.dot(whole, x)
        array = self._numbers(x)
        if array.ndim not in (1, 2) or array.shape[0] != self.shape[1]:
            raise ValueError(
                f"{self.name} @ x takes x of shape ({self.shape[1]},) or ({self.shape[1]}, k); got {array.shape}"
            )
        return super().dot(array)

    def _after(self, first: TensorOperator) -> TensorOperator:
        if first.space_out != self.space_in:
            raise ValueError(
                f"{self.name} after {first.name}: the output space {first.space_out} of the one must be the input "
                f"space {self.space_in} of the other, its measure included"
            )
        name = f"{self._inside(_MULTIPLE)} {first._inside(_PRODUCT)}"
        return _operator(after(self._product, first._product), name, _PRODUCT)

    def _times(self, factor: Any) -> Any:
        factor = factor[()] if isinstance(factor, np.ndarray) else factor
        if np.iscomplexobj(factor):
            return super().dot(factor)
        if isinstance(factor, str | bytes):  # scalars to NumPy
            raise TypeError(f"{self.name} can be multiplied by a number, an array or an operator; got {short(factor)}")
        factor = real_number(f"the factor of {self.name}", factor)
        product = replace(self._product, number=factor * self._product.number)
        number = "-" if factor == -1 else f"{factor:g} "
        return _operator(product, f"{number}{self._inside(_PRODUCT)}", _MULTIPLE)

    def __matmul__(self, x: Any) -> Any:
        if _is_number(x):
            raise ValueError(
                f"{self.name} @ x takes an array or an operator, and {self.name} * x a number; got {short(x)}"
            )
        return super().__matmul__(x)

    def __rmul__(self, x: Any) -> Any:
        return self._times(x) if _is_number(x) else super().__rmul__(x)

    def __truediv__(self, x: Any) -> Any:
        if not _is_number(x):
            raise ValueError(f"{self.name} can be divided by a scalar only; got {type(x).__name__}")
        if np.iscomplexobj(x):
            return super().__truediv__(complex(x))
        divisor = real_number(f"the divisor of {self.name}", x)
        if divisor == 0:
            raise ValueError(f"the divisor of {self.name} must not be zero")
        return self._times(1 / divisor)

    def __neg__(self) -> Any:
        return self._times(-1.0)

    def __pow__(self, p: Any) -> Any:
        if isinstance(p, bool) or not isinstance(p, int | np.integer) or p < 0 or self.space_in != self.space_out:
            raise ValueError(f"{self.name} ** p needs an operator on one space and an integer p >= 0; got {short(p)}")
        product = replace(self._product, number=1.0, factors=(Power(self._product, int(p)),))
        return _operator(product, f"{self._inside(_SYMBOL)}^{p}", _POSTFIX)

    def __add__(self, x: Any) -> Any:
        self._require_operator(x)
        return self._plus(x, x, "+") if isinstance(x, TensorOperator) else super().__add__(x)

    def __sub__(self, x: Any) -> Any:
        self._require_operator(x)
        return self._plus(-x, x, "-") if isinstance(x, TensorOperator) else super().__sub__(x)

    def _plus(self, term: TensorOperator, x: TensorOperator, sign: str) -> TensorOperator:
        if x.space_in != self.space_in or x.space_out != self.space_out:
            raise ValueError(
                f"{self.name} {sign} {x.name}: both must act between the same spaces, measures included; got "
                f"{self.space_in} to {self.space_out}, and {x.space_in} to {x.space_out}"
            )
        name = x._inside(_MULTIPLE if sign == "-" else _SUM)
        return _operator(total(self._product, term._product), f"{self.name} {sign} {name}", _SUM)

    def __radd__(self, x: Any) -> Any:
        """What is not an operator is refused in words: ``x + self`` of operators is theirs."""
        self._require_operator(x)
        return NotImplemented

    __rsub__ = __radd__

    def _require_operator(self, x: object) -> None:
        if not isinstance(x, LinearOperator):
            raise TypeError(
                f"{self.name} can be added to another operator; got {short(x)}: of a matrix, "
                "scipy.sparse.linalg.aslinearoperator makes one"
            )

    def __repr__(self) -> str:
        return f"<{self.name}: {self.shape_in} -> {self.shape_out}, {self.dtype}>"


def _operator(product: Product, name: str, binds: int) -> TensorOperator:
    operator = TensorOperator.__new__(TensorOperator)
    operator._become(product, name, binds)
    return operator


def identity(space: EuclideanSpace, dtype: npt.DTypeLike = np.float64) -> TensorOperator:
    """The identity on a space."""
    space = require_space("space", space)
    units = tuple(range(space.shape[-1])) if space.shape else None
    structure = Structure(self_adjoint=True, positive=True, by_trial=True, units=units)
    return TensorOperator(_copy, _copy, space, space, dtype, "I", structure)


def _copy(batch: Array) -> Array:
    return batch.copy()


def _is_number(x: Any) -> bool:
    """A scalar to NumPy, or an array without axes."""
    return bool(np.isscalar(x)) or (isinstance(x, np.ndarray) and x.ndim == 0)


def _inside(shape: tuple[int, ...]) -> str:
    return ", ".join(str(axis) for axis in shape)
