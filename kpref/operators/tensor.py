"""`TensorOperator`: a SciPy LinearOperator that also maps tensors, and knows the inner products of its two sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse.linalg import LinearOperator

from kpref._foreign import is_ours, read_only, returned
from kpref._frozen import MadeOfFunctions
from kpref._validate import flag, instance, numeric_array, precision, real_number, short
from kpref.memory import require_memory
from kpref.space import EuclideanSpace, require_space
from kpref.threads import serial_blas

__all__ = ["Structure", "TensorOperator", "identity"]

Array = npt.NDArray[Any]
Map = Callable[[Array], Array]

#: Columns of the identity that `to_dense` applies an operator to at once.
_DENSE_COLUMNS = 64


@dataclass(frozen=True)
class Structure:
    """What is known of an operator on one space, in the inner product of that space.

    Attributes
    ----------
    self_adjoint : bool
        ``<p, A q> = <A p, q>``.
    positive : bool
        ``<q, A q> >= 0`` as well.
    """

    self_adjoint: bool = False
    positive: bool = False

    def __post_init__(self) -> None:
        flag("self_adjoint", self.self_adjoint)
        flag("positive", self.positive)


class TensorOperator(MadeOfFunctions, LinearOperator):  # type: ignore[misc]
    """A real linear map between two spaces of tensors, usable wherever SciPy takes a LinearOperator.

    ``op(q)`` maps a tensor of shape `shape_in` to one of shape `shape_out`; ``op @ x`` maps flat vectors (n,),
    columns (n, 1) and matrices (n, k) as SciPy does, tensors being flattened in C order; ``op.apply(batch)`` maps a
    batch (v, \\*shape_in) at once. ``op.T`` and ``op.H`` are the Euclidean transpose, ``op.star`` the adjoint in the
    inner products of the two spaces. Sums, products and multiples of TensorOperators are TensorOperators; with any
    other LinearOperator they are SciPy's. Where points of a space do not exist (trials that end early), nothing is
    taken from them and zeros are returned.

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
    structure : Structure, optional
        What is known of an operator on one space.
    """

    # NumPy must leave `array @ operator` to us.
    __array_priority__ = 1000.0
    __array_ufunc__ = None

    #: Of ``A A*`` made by `gram`: A. Its other Gram operator ``A* A`` has the same spectrum in another space.
    factor: TensorOperator | None = None

    def __init__(
        self,
        forward: Map,
        transpose: Map,
        space_in: EuclideanSpace,
        space_out: EuclideanSpace,
        dtype: npt.DTypeLike = np.float64,
        name: str = "operator",
        structure: Structure = Structure(),
    ) -> None:
        space_in, space_out = require_space("space_in", space_in), require_space("space_out", space_out)
        super().__init__(precision(dtype), (space_out.size, space_in.size))
        instance("structure", structure, Structure, "a kpref.operators.Structure")
        self.name, self.structure = name, structure
        self._forward = _into(space_out, self._promised("forward", forward, space_out))
        self._backward = _into(space_in, self._promised("transpose", transpose, space_in))
        self.space_in, self.space_out = space_in, space_out

    def _promised(self, name: str, function: Map, space: EuclideanSpace) -> Map:
        """A function whose values have the promised dtype; one of the user's is checked and copied as well."""
        if not callable(function):
            raise TypeError(f"{name} must be a function of a batch of tensors; got {short(function)}")
        dtype = self.dtype
        if is_ours(function):
            return lambda batch: function(batch.astype(dtype, copy=False)).astype(dtype, copy=False)

        def call(batch: Array) -> Array:
            image = function(read_only(batch.astype(dtype, copy=False)))
            return returned(f"{name} of {self.name}", image, (len(batch), *space.shape)).astype(dtype, copy=False)

        return call

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
        return self._forward(self.space_in.clear(array.astype(self.dtype, copy=False)))

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
        return self._derived(self._backward, self._forward, self.space_out, self.space_in, f"{self.name}^T")

    #: The operators are real: the conjugate transpose is the transpose.
    _adjoint = _transpose

    @property
    def star(self) -> TensorOperator:
        """The adjoint ``A* = W_in^+ A^T W_out`` in the inner products of the two spaces.

        W are the diagonal matrices of the weights. Where a weight is zero the space is restricted: A* gives zero
        there. A self-adjoint operator is its own adjoint and returned as it is.
        """
        if self.structure.self_adjoint:
            return self
        space_in, space_out = self.space_in, self.space_out
        return self._derived(
            lambda batch: space_in.unweigh(self._backward(space_out.weigh(batch))),
            lambda batch: space_out.weigh(self._forward(space_in.unweigh(batch))),
            space_out,
            space_in,
            f"{self.name}*",
        )

    def gram(self, name: str | None = None) -> TensorOperator:
        """``A A* = A W_in^+ A^T W_out``, self-adjoint and positive on the output space."""
        space_in, space_out = self.space_in, self.space_out
        weight_in, weight_out = space_in.uniform_weight, space_out.uniform_weight
        if weight_in and weight_out:  # numbers commute with everything: one pass over the inner tensor

            def forward(batch: Array) -> Array:
                return self._forward(self.dtype.type(weight_out / weight_in) * self._backward(batch))

            transpose = forward
        else:

            def forward(batch: Array) -> Array:
                return self._forward(space_in.unweigh(self._backward(space_out.weigh(batch))))

            def transpose(batch: Array) -> Array:
                return space_out.weigh(self._forward(space_in.unweigh(self._backward(batch))))

        structure = Structure(self_adjoint=True, positive=True)
        name = name or f"{self.name} {self.name}*"
        product = self._derived(forward, transpose, space_out, space_out, name, structure)
        product.factor = self
        return product

    def _derived(
        self,
        forward: Map,
        transpose: Map,
        space_in: EuclideanSpace,
        space_out: EuclideanSpace,
        name: str,
        structure: Structure = Structure(),
        dtype: npt.DTypeLike | None = None,
    ) -> TensorOperator:
        return TensorOperator(forward, transpose, space_in, space_out, dtype or self.dtype, name, structure)

    # Algebra

    def renamed(self, name: str, structure: Structure | None = None) -> TensorOperator:
        """The same operator under another name, optionally with declared structure."""
        return self._derived(
            self._forward, self._backward, self.space_in, self.space_out, name, structure or self.structure
        )

    def dot(self, x: Any) -> Any:
        """Product with a vector, a matrix, a scalar or another operator."""
        if isinstance(x, TensorOperator):
            return self._after(x)
        if _is_number(x):
            return self._times(x)
        if isinstance(x, LinearOperator):
            both = np.result_type(self.dtype, x.dtype).type(0).real.dtype  # of complex numbers, that of their parts
            return super().dot(x) if both == self.dtype else self._in(both).dot(x)
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
        return self._derived(
            lambda batch: self._forward(first._forward(batch)),
            lambda batch: first._backward(self._backward(batch)),
            first.space_in,
            self.space_out,
            f"{self.name} {first.name}",
            dtype=np.promote_types(self.dtype, first.dtype),
        )

    def _in(self, dtype: npt.DTypeLike) -> TensorOperator:
        """The same operator, its images in another precision: SciPy's products do not see to that."""
        return self._derived(
            self._forward, self._backward, self.space_in, self.space_out, self.name, self.structure, dtype
        )

    def _times(self, factor: Any) -> Any:
        factor = factor[()] if isinstance(factor, np.ndarray) else factor
        if np.iscomplexobj(factor):
            return super().dot(factor)
        if isinstance(factor, str | bytes):  # scalars to NumPy
            raise TypeError(f"{self.name} can be multiplied by a number, an array or an operator; got {short(factor)}")
        factor = real_number(f"the factor of {self.name}", factor)
        return self._derived(
            lambda batch: self.dtype.type(factor) * self._forward(batch),
            lambda batch: self.dtype.type(factor) * self._backward(batch),
            self.space_in,
            self.space_out,
            f"{factor} {self.name}",
            Structure(self.structure.self_adjoint, self.structure.positive and factor >= 0),
        )

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
        times = int(p)
        return self._derived(
            lambda batch: _iterated(self._forward, batch, times),
            lambda batch: _iterated(self._backward, batch, times),
            self.space_in,
            self.space_in,
            f"{self.name}^{p}",
            self.structure,
        )

    def __add__(self, x: Any) -> Any:
        if not isinstance(x, TensorOperator):
            self._require_operator(x)
            return super().__add__(x)
        if x.space_in != self.space_in or x.space_out != self.space_out:
            raise ValueError(
                f"{self.name} + {x.name}: both must act between the same spaces, measures included; got "
                f"{self.space_in} to {self.space_out}, and {x.space_in} to {x.space_out}"
            )
        mine, other = self.structure, x.structure
        return self._derived(
            lambda batch: self._forward(batch) + x._forward(batch),
            lambda batch: self._backward(batch) + x._backward(batch),
            self.space_in,
            self.space_out,
            f"({self.name} + {x.name})",
            Structure(mine.self_adjoint and other.self_adjoint, mine.positive and other.positive),
            np.promote_types(self.dtype, x.dtype),
        )

    def __sub__(self, x: Any) -> Any:
        self._require_operator(x)
        return super().__sub__(x)

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


def identity(space: EuclideanSpace, dtype: npt.DTypeLike = np.float64) -> TensorOperator:
    """The identity on a space."""
    return TensorOperator(_copy, _copy, space, space, dtype, "I", Structure(self_adjoint=True, positive=True))


def _copy(batch: Array) -> Array:
    return batch.copy()


def _iterated(function: Map, batch: Array, times: int) -> Array:
    """A map after itself, so many times; without any a copy."""
    image = batch if times else batch.copy()
    for _ in range(times):
        image = function(image)
    return image


def _into(space: EuclideanSpace, function: Map) -> Map:
    """A map whose images are tensors of the space: zero where nothing exists."""
    if space.lengths is None:
        return function

    def restricted(batch: Array) -> Array:
        image = function(batch)
        return space.clear(image, overwrite=image.flags.writeable and not np.may_share_memory(image, batch))

    return restricted


def _is_number(x: Any) -> bool:
    """A scalar to NumPy, or an array without axes."""
    return bool(np.isscalar(x)) or (isinstance(x, np.ndarray) and x.ndim == 0)


def _inside(shape: tuple[int, ...]) -> str:
    return ", ".join(str(axis) for axis in shape)
