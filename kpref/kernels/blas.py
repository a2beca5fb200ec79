"""Matrix products from inside compiled kernels: SciPy's own BLAS, called without packing what need not be packed.

`scipy.linalg.cython_blas` publishes the addresses of its routines for compiled code; registering them as symbols
lets a Numba function call them and still be cached on disk.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import get_cython_function_address, intrinsic

from kpref.kernels.compilation import kernel

__all__ = ["add_product", "add_transposed_product", "product", "product_at", "row_length"]

for _letter in "ds":
    llvmlite.binding.add_symbol(
        f"kpref_{_letter}gemm", get_cython_function_address("scipy.linalg.cython_blas", f"{_letter}gemm")
    )

# The most multiplications of a product that goes without packing, see `kpref.kernels.panels`: larger ones are cut up.
_UNPACKED_SIZE = 1_000_000


@intrinsic  # type: ignore[misc]
def _gemm(
    typingctx: Any, trans_a: Any, trans_b: Any, m: Any, n: Any, k: Any,
    a: Any, lda: Any, b: Any, ldb: Any, beta: Any, c: Any, ldc: Any,
) -> Any:  # fmt: skip
    """``C = op(A) op(B) + beta C`` in Fortran order on addresses; the type of beta chooses the precision."""
    signature = types.void(*([types.int64] * 5), *([types.uintp, types.int64] * 2), beta, types.uintp, types.int64)
    letter, real = ("d", ir.DoubleType()) if beta == types.float64 else ("s", ir.FloatType())
    pointer, integer, char = ir.IntType(8).as_pointer(), ir.IntType(32), ir.IntType(8)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc = arguments

        def by_reference(value: Any, kind: Any) -> Any:
            if isinstance(kind, ir.IntType):
                value = builder.trunc(value, kind)
            slot = cgutils.alloca_once(builder, kind)
            builder.store(value, slot)
            return builder.bitcast(slot, pointer)

        def address(value: Any) -> Any:
            return builder.inttoptr(value, pointer)

        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [pointer] * 13), f"kpref_{letter}gemm"
        )
        builder.call(function, [
            by_reference(trans_a, char), by_reference(trans_b, char),
            by_reference(m, integer), by_reference(n, integer), by_reference(k, integer),
            by_reference(ir.Constant(real, 1.0), real), address(a), by_reference(lda, integer),
            address(b), by_reference(ldb, integer),
            by_reference(beta, real), address(c), by_reference(ldc, integer),
        ])  # fmt: skip
        return context.get_dummy_value()

    return signature, generate


_N, _T = ord("N"), ord("T")


@kernel
def _has_contiguous_rows(matrix):  # type: ignore[no-untyped-def]
    return matrix.shape[1] <= 1 or matrix.strides[1] == matrix.itemsize


@kernel
def _depth(rows, panels, inner):  # type: ignore[no-untyped-def]
    """How much of a sum over `inner` goes into one product with a panel: even parts. One panel is multiplied whole."""
    if panels.width >= panels.columns:
        return max(1, inner)
    most = max(1, _UNPACKED_SIZE // max(1, rows * panels.width))
    pieces = max(1, -(-inner // most))
    return max(1, -(-inner // pieces))


@kernel
def _leading(matrix):  # type: ignore[no-untyped-def]
    """Its leading dimension. The stride of a matrix with one row may be anything, and BLAS refuses a short one."""
    if not _has_contiguous_rows(matrix):
        raise ValueError("a matrix product needs rows that are contiguous")
    return max(matrix.strides[0] // matrix.itemsize, matrix.shape[1])


@kernel
def product_at(add, rows, a, lda, b, c, ldc):  # type: ignore[no-untyped-def]
    """``c = a @ b``, or ``c += a @ b``, for addresses a and c of matrices of leading dimensions lda and ldc.

    b is a matrix in panels, and its type is that of all entries. Row-major c is column-major c^T = b^T a^T.
    """
    size, depth = b.entries.itemsize, _depth(rows, b, b.rows)
    zero, one = b.entries.dtype.type(0.0), b.entries.dtype.type(1.0)
    for column in range(0, b.columns, b.width):
        width = min(b.width, b.columns - column)
        for first in range(0, b.rows, depth):
            _gemm(
                _N, _N, width, rows, min(depth, b.rows - first),
                b.entries.ctypes.data + (column * b.rows + first * width) * size, width,
                a + first * size, lda,
                one if add or first > 0 else zero, c + column * size, ldc,
            )  # fmt: skip


@kernel
def product(a, b, c):  # type: ignore[no-untyped-def]
    """``c = a @ b`` for a matrix b in panels; a and c may have more columns than b has rows, and columns."""
    product_at(False, a.shape[0], a.ctypes.data, _leading(a), b, c.ctypes.data, _leading(c))


@kernel
def add_product(a, b, c):  # type: ignore[no-untyped-def]
    """``c += a @ b``, as `product`."""
    product_at(True, a.shape[0], a.ctypes.data, _leading(a), b, c.ctypes.data, _leading(c))


@kernel
def add_transposed_product(a, b, c):  # type: ignore[no-untyped-def]
    """``c += a.T @ b`` for a matrix c in panels; b may have more columns than c."""
    inner, size, lda, ldb = a.shape[0], a.itemsize, _leading(a), _leading(b)
    depth = _depth(c.rows, c, inner)
    for column in range(0, c.columns, c.width):
        width = min(c.width, c.columns - column)
        for first in range(0, inner, depth):
            _gemm(
                _N, _T, width, c.rows, min(depth, inner - first),
                b.ctypes.data + (first * ldb + column) * size, ldb,
                a.ctypes.data + first * lda * size, lda,
                a.dtype.type(1.0), c.entries.ctypes.data + column * c.rows * size, width,
            )  # fmt: skip


@kernel
def row_length(columns, units, itemsize):  # type: ignore[no-untyped-def]
    """Room for a row of so many columns, some multiple of `units`; what is beyond them is less than another `units`.

    If rows followed each other at a multiple of 2 KiB, those of a product would fight for a few places of the cache:
    up to a quarter of the speed.
    """
    spare = 64 // itemsize
    return columns + spare if columns * itemsize % 2048 == 0 and spare < units else columns
