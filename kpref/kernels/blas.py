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

from kpref.compiled.compilation import kernel
from kpref.kernels.addresses import size_of
from kpref.kernels.panel_products import ROW_BYTES, has_wide_vectors, panel_product

__all__ = ["add_transposed_product_at", "product_at", "row_length"]

for _letter in "ds":
    llvmlite.binding.add_symbol(
        f"kpref_{_letter}gemm", get_cython_function_address("scipy.linalg.cython_blas", f"{_letter}gemm")
    )

# The most multiplications of a product with a panel: larger ones are cut up. What is multiplied then stays near, and
# OpenBLAS, which narrower panels are left to, packs nothing.
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
_WIDE = has_wide_vectors()


@kernel
def _depth(rows, weight, inner):  # type: ignore[no-untyped-def]
    """How much of a sum over `inner` goes into one product with a panel: even parts. One panel is multiplied whole."""
    _, _, columns, width = weight
    if width >= columns:
        return max(1, inner)
    most = max(1, _UNPACKED_SIZE // max(1, rows * width))
    pieces = max(1, -(-inner // most))
    return max(1, -(-inner // pieces))


@kernel
def product_at(one, add, rows, a, lda, weight, c, ldc, wants):  # type: ignore[no-untyped-def]
    """``c = a @ b``, or ``c += a @ b``, for addresses a and c of matrices of leading dimensions lda and ldc.

    `weight` says where b is, a matrix in panels: address, rows, columns and width of a panel. All entries have the type
    of `one`. Row-major c is column-major c^T = b^T a^T. Meanwhile what is on a list of `wants` is asked for, if there
    is one, its address not 0, and if the processor has code for that: see `kpref.kernels.panel_products`.
    """
    b, inner, columns, panel = weight
    size, depth, zero = size_of(one), _depth(rows, weight, inner), one - one
    for column in range(0, columns, panel):
        width = min(panel, columns - column)
        for first in range(0, inner, depth):
            count, more = min(depth, inner - first), add or first > 0
            of, panel_at, to = a + first * size, b + (column * inner + first * width) * size, c + column * size
            if _WIDE and width * size == ROW_BYTES:
                panel_product(one, more, rows, count, of, lda, 1, panel_at, width, to, ldc, wants)
            else:
                _gemm(_N, _N, width, rows, count, panel_at, width, of, lda, one if more else zero, to, ldc)


@kernel
def add_transposed_product_at(one, inner, a, lda, b, ldb, weight, wants):  # type: ignore[no-untyped-def]
    """``c += a.T @ b`` for a matrix c in panels, as `product_at` takes them, and a and b of `inner` rows."""
    c, rows, columns, panel = weight
    size, depth = size_of(one), _depth(rows, weight, inner)
    for column in range(0, columns, panel):
        width = min(panel, columns - column)
        for first in range(0, inner, depth):
            count, to = min(depth, inner - first), c + column * rows * size
            of, panel_at = a + first * lda * size, b + (first * ldb + column) * size
            if _WIDE and width * size == ROW_BYTES:
                panel_product(one, True, rows, count, of, 1, lda, panel_at, ldb, to, width, wants)
            else:
                _gemm(_N, _T, width, rows, count, panel_at, ldb, of, lda, one, to, width)


@kernel
def row_length(columns, units, itemsize):  # type: ignore[no-untyped-def]
    """Room for a row of so many columns, some multiple of `units`; what is beyond them is less than another `units`.

    If rows followed each other at a multiple of 2 KiB, those of a product would fight for a few places of the cache:
    up to a quarter of the speed.
    """
    spare = 64 // itemsize
    return columns + spare if columns * itemsize % 2048 == 0 and spare < units else columns
