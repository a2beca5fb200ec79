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

__all__ = ["add_panel_product", "add_product", "add_transposed_product", "panel_product", "product"]

for _letter in "ds":
    llvmlite.binding.add_symbol(
        f"kpref_{_letter}gemm", get_cython_function_address("scipy.linalg.cython_blas", f"{_letter}gemm")
    )

# Products of so many multiplications go without packing (see `kpref.kernels.panels`), so larger ones are cut up.
_UNPACKED_SIZE = 1_000_000
_NARROWEST_PANEL = 32
_COLUMN_MULTIPLE = 16


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
def _multiply(a, b, c, beta, transposed):  # type: ignore[no-untyped-def]
    """``c = a b + beta c``, or with a^T in place of a; row-major matrices, a and c with contiguous rows of a block."""
    rows, columns = c.shape
    inner = b.shape[0]
    panel = _UNPACKED_SIZE // max(1, rows * inner)
    panel = panel // _COLUMN_MULTIPLE * _COLUMN_MULTIPLE
    if panel < _NARROWEST_PANEL or panel > columns:
        panel = columns
    size = c.itemsize
    # The stride of a matrix with one row may be anything, and BLAS refuses a leading dimension below the row length.
    lda = max(a.strides[0] // size, a.shape[1])
    ldb, ldc = max(b.strides[0] // size, columns), max(c.strides[0] // size, columns)
    if not (_has_contiguous_rows(a) and _has_contiguous_rows(b) and _has_contiguous_rows(c)):
        raise ValueError("a matrix product needs rows that are contiguous")
    for start in range(0, columns, panel):
        width = min(panel, columns - start)
        offset = start * size
        # Row-major c is column-major c^T = b^T a^T.
        _gemm(
            _N, _T if transposed else _N, width, rows, inner,
            b.ctypes.data + offset, ldb, a.ctypes.data, lda, beta, c.ctypes.data + offset, ldc,
        )  # fmt: skip


@kernel
def product(a, b, c):  # type: ignore[no-untyped-def]
    """``c = a @ b``."""
    _multiply(a, b, c, c.dtype.type(0.0), False)


@kernel
def add_product(a, b, c):  # type: ignore[no-untyped-def]
    """``c += a @ b``."""
    _multiply(a, b, c, c.dtype.type(1.0), False)


@kernel
def add_transposed_product(a, b, c):  # type: ignore[no-untyped-def]
    """``c += a.T @ b``."""
    _multiply(a, b, c, c.dtype.type(1.0), True)


@kernel
def _multiply_panels(a, b, c, beta):  # type: ignore[no-untyped-def]
    """``c = a b + beta c`` for `kpref.kernels.panels.Panels` b; row-major a and c with contiguous rows of a block."""
    rows, inner = a.shape
    size = c.itemsize
    # Narrow panels are for products without packing: long ones are cut into sums. A single panel is multiplied whole.
    length = max(1, inner if b.width >= b.columns else _UNPACKED_SIZE // max(1, rows * b.width))
    lda, ldc = max(a.strides[0] // size, inner), max(c.strides[0] // size, b.columns)
    if not (_has_contiguous_rows(a) and _has_contiguous_rows(c)):
        raise ValueError("a matrix product needs rows that are contiguous")
    for column in range(0, b.columns, b.width):
        width = min(b.width, b.columns - column)
        for first in range(0, inner, length):
            _gemm(
                _N, _N, width, rows, min(length, inner - first),
                b.entries.ctypes.data + (column * inner + first * width) * size, width,
                a.ctypes.data + first * size, lda,
                beta if first == 0 else c.dtype.type(1.0), c.ctypes.data + column * size, ldc,
            )  # fmt: skip


@kernel
def panel_product(a, b, c):  # type: ignore[no-untyped-def]
    """``c = a @ b`` for a matrix b in panels."""
    _multiply_panels(a, b, c, c.dtype.type(0.0))


@kernel
def add_panel_product(a, b, c):  # type: ignore[no-untyped-def]
    """``c += a @ b`` for a matrix b in panels."""
    _multiply_panels(a, b, c, c.dtype.type(1.0))
