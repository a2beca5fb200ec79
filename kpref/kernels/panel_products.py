"""Products with one panel of a weight, in registers of the processor, that ask for memory as they go.

BLAS has code as fast as this for small products, but nothing else happens while it runs. Here a product asks for what
later operations want (`kpref.kernels.wants`) while it multiplies.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from kpref.compiled.compilation import kernel
from kpref.kernels.addresses import everywhere, size_of
from kpref.kernels.wants import Asking, ask_for_line

__all__ = ["ROW_BYTES", "has_wide_vectors", "panel_product", "passes_of"]

#: Bytes of a vector.
_VECTOR = 64
#: Bytes of a row of a panel: so many vectors stand in registers for each row of a result.
ROW_BYTES = 4 * _VECTOR
#: Rows of a result that are in registers at once; where they leave some over, as many times one more.
_ROWS = 4


@cache
def has_wide_vectors() -> bool:
    """Whether the compiler writes for a processor with vectors of a line of the cache and 32 registers of them."""
    if config.CPU_NAME is not None or config.CPU_FEATURES is not None:  # type: ignore[attr-defined]
        return False
    return bool(_host_features().get("avx512f", False))


@cache
def _host_features() -> Any:
    """Of this processor: LLVM needs a third of a millisecond for them, which each weight of a network would."""
    return llvmlite.binding.get_host_cpu_features()


def _product_of_rows(rows: int) -> Callable[..., Any]:
    """Code for so many rows of a result."""

    @intrinsic  # type: ignore[misc]
    def multiply(
        typingctx: Any, one: Any, add: Any, inner: Any, a: Any, by_row: Any, by_inner: Any, b: Any, by_panel: Any,
        c: Any, ldc: Any, wants: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(one, types.boolean, *([types.int64] * 9))
        real, size = (ir.DoubleType(), 8) if one == types.float64 else (ir.FloatType(), 4)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _write_product(builder, real, size, rows, *arguments[1:])
            return context.get_dummy_value()

        return signature, generate

    return multiply  # type: ignore[no-any-return]


def _write_product(
    builder: Any, real: Any, size: int, rows: int, add: Any, inner: Any, a: Any, by_row: Any, by_inner: Any, b: Any,
    by_panel: Any, c: Any, ldc: Any, wants: Any,
) -> None:  # fmt: skip
    """``c[i] = [c[i] +] sum_k a[i, k] b[k]`` for vectors b[k] and c[i] of a panel's width, the sum in the order of k.

    All strides are in bytes.
    """
    vector, integer = ir.VectorType(real, _VECTOR // size), ir.IntType(64)
    parts = range(ROW_BYTES // _VECTOR)

    def number(value: int) -> Any:
        return ir.Constant(integer, value)

    def place(address: Any, kind: Any) -> Any:
        return builder.inttoptr(address, kind.as_pointer())

    def at(base: Any, part: int) -> Any:
        return place(builder.add(base, number(part * _VECTOR)), vector)

    zero = ir.Constant(vector, [ir.Constant(real, 0.0)] * vector.count)
    sums = [[cgutils.alloca_once(builder, vector) for _ in parts] for _ in range(rows)]
    of = [builder.add(a, builder.mul(number(row), by_row)) for row in range(rows)]
    to = [builder.add(c, builder.mul(number(row), ldc)) for row in range(rows)]
    for row in range(rows):
        for part in parts:
            builder.store(zero, sums[row][part])
    with builder.if_then(add):  # what is added to may not stay in a near cache, as gradients do not
        for row in range(rows):
            for part in parts:
                ask_for_line(builder, builder.add(to[row], number(part * _VECTOR)))
    k = cgutils.alloca_once_value(builder, number(0))
    asking = Asking(builder, wants, b)
    with _while_below(builder, k, inner):
        end = builder.add(builder.load(k), asking.passes())
        end = builder.select(builder.icmp_signed("<", end, inner), end, inner)
        with _while_below(builder, k, end):
            asking.ask()
            index = builder.load(k)
            panel = builder.add(b, builder.mul(index, by_panel))
            factors = [builder.load(at(panel, part), align=size) for part in parts]
            for row in range(rows):
                entry = builder.load(place(builder.add(of[row], builder.mul(index, by_inner)), real))
                factor = everywhere(builder, entry, vector)
                for part in parts:
                    total = builder.load(sums[row][part])
                    builder.store(_fma(builder, factors[part], factor, total), sums[row][part])
            builder.store(builder.add(index, number(1)), k)
        asking.move_on()
    with builder.if_then(add):  # last: on top of a large number each term would be rounded to its digits
        for row in range(rows):
            for part in parts:
                before = builder.load(at(to[row], part), align=size)
                builder.store(builder.fadd(before, builder.load(sums[row][part])), sums[row][part])
    for row in range(rows):
        for part in parts:
            builder.store(builder.load(sums[row][part]), at(to[row], part), align=size)


class _while_below:
    """A loop as long as a counter, which its body moves on, is below a bound."""

    def __init__(self, builder: Any, counter: Any, bound: Any) -> None:
        self.builder, self.counter, self.bound = builder, counter, bound
        self.test, self.body, self.end = (builder.append_basic_block(name) for name in ("test", "body", "end"))

    def __enter__(self) -> None:
        builder = self.builder
        builder.branch(self.test)
        builder.position_at_end(self.test)
        below = builder.icmp_signed("<", builder.load(self.counter), self.bound)
        builder.cbranch(below, self.body, self.end)
        builder.position_at_end(self.body)

    def __exit__(self, *exception: object) -> None:
        self.builder.branch(self.test)
        self.builder.position_at_end(self.end)


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    kind, bits = a.type, 64 if isinstance(a.type.element, ir.DoubleType) else 32
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * 3), f"llvm.fma.v{kind.count}f{bits}"
    )
    return builder.call(function, [a, b, c])


_some_rows, _one_more, _one_row = _product_of_rows(_ROWS), _product_of_rows(_ROWS + 1), _product_of_rows(1)


@kernel
def _larger(rows):  # type: ignore[no-untyped-def]
    """How many groups have one row more, so that none is left over; none where the rows are too few for that."""
    left = rows % _ROWS
    return left if rows >= left * (_ROWS + 1) else 0


@kernel
def panel_product(one, add, rows, inner, a, by_row, by_inner, b, by_panel, c, ldc, wants):  # type: ignore[no-untyped-def]
    """``c = a @ b``, or ``c += a @ b``, for a panel b of `ROW_BYTES`, asking for what is on the list `wants` (0: none).

    a, b, c are addresses; `by_row` and `by_inner` entries from a row and an inner index of a to the next, `by_panel`
    and `ldc` from a row of b and of c to the next. Only where `has_wide_vectors`.
    """
    size = size_of(one)
    apart, ahead, below, next_row = by_row * size, by_inner * size, by_panel * size, ldc * size
    row = 0
    for _ in range(_larger(rows)):
        _one_more(one, add, inner, a + row * apart, apart, ahead, b, below, c + row * next_row, next_row, wants)
        row += _ROWS + 1
    while row + _ROWS <= rows:
        _some_rows(one, add, inner, a + row * apart, apart, ahead, b, below, c + row * next_row, next_row, wants)
        row += _ROWS
    while row < rows:
        _one_row(one, add, inner, a + row * apart, apart, ahead, b, below, c + row * next_row, next_row, wants)
        row += 1


@kernel
def passes_of(one, rows, inner, weight):  # type: ignore[no-untyped-def]
    """Passes of the inner loop in a product of so many rows, with so long sums, with a matrix in panels."""
    columns, width = weight[2], weight[3]
    if width * size_of(one) != ROW_BYTES:
        return 0
    left = 0 if _larger(rows) > 0 else rows % _ROWS
    return columns // width * (rows // _ROWS + left) * inner
