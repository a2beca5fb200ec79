"""Arithmetic on addresses: what the interpreter of programs does to a row, and single entries.

Where the rows of an operation stand is known only when it runs, and a slice for each would cost more than the
arithmetic on a short row; so the interpreter computes addresses. The loop over the columns of a row is written down
here for the compiler as vectors: it need not find out again for each row whether operands overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kpref.compiled.compilation import kernel

__all__ = [
    "address_of", "ask_for", "everywhere", "fill_row", "gather_row", "keep", "load", "set_word", "size_of",
    "spread_row", "store", "sum_of_multiples", "sum_of_products", "sum_of_row", "word",
]  # fmt: skip

#: Bytes of a row that are summed up in registers of the processor at once; then what is left, in ever smaller parts: a
#: part takes as long as a whole.
_VECTORS = (256, 64, 32)
#: Bytes of a line of the cache.
_LINE = 64


@intrinsic  # type: ignore[misc]
def sum_of_products(
    typingctx: Any, one: Any, operands: Any, terms: Any, add: Any, width: Any, past: Any
) -> Any:  # fmt: skip
    """A row ``out = [out] + sum_j a_j * b_j + [plain]``, also written to a copy.

    `one`: its type is that of all entries.
    `operands`: address of the addresses of out, copy, plain, a_0, b_0, a_1, b_1, ...; of copy and plain 0 stands for
    none.
    `terms`: number of products, added in their order and before `plain`.
    `add`: whether the sum begins with what `out` holds; else with zero.
    `width`: columns. `out` may be one of the operands.
    `past`: whether the copy, which begins where a line of the cache does then, goes past the caches: else each line is
    read into them before it is written to.
    """
    return _sum_of_terms(one, numbers=False)


@intrinsic  # type: ignore[misc]
def sum_of_multiples(typingctx: Any, one: Any, operands: Any, terms: Any, add: Any, width: Any) -> Any:
    """As `sum_of_products`, of numbers a_j, which stand in the place of their addresses, with rows b_j."""
    return _sum_of_terms(one, numbers=True)


def _sum_of_terms(one: Any, numbers: bool) -> Any:
    signature = types.void(
        one, types.uintp, types.int64, types.boolean, types.int64, *([types.boolean] * (not numbers))
    )
    real, size = (ir.DoubleType(), 8) if one == types.float64 else (ir.FloatType(), 4)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, operands, terms, add, width, *past = arguments
        integer = ir.IntType(64)
        table = builder.inttoptr(operands, integer.as_pointer())

        def address(index: Any) -> Any:
            return builder.load(builder.gep(table, [index]))

        def number(value: int) -> Any:
            return ir.Constant(integer, value)

        out, copy, plain = (address(number(index)) for index in range(3))
        column = cgutils.alloca_once_value(builder, number(0))
        for lanes in (*(length // size for length in _VECTORS if length > size), 1):
            vector = ir.VectorType(real, lanes)
            total = cgutils.alloca_once(builder, vector)

            def place(base: Any, kind: Any = vector) -> Any:
                entry = builder.add(base, builder.mul(builder.load(column), number(size)))
                return builder.inttoptr(entry, kind.as_pointer())

            def row(base: Any) -> Any:
                return builder.load(place(base), align=size)  # noqa: B023 (called in this pass of the loop)

            def factor(index: Any, kind: Any = vector) -> Any:
                if not numbers:
                    return row(address(index))  # noqa: B023
                entry = builder.load(builder.bitcast(builder.gep(table, [index]), real.as_pointer()))
                return everywhere(builder, entry, kind)

            with _while_columns(builder, column, lanes, width):
                builder.store(ir.Constant(vector, [ir.Constant(real, 0.0)] * lanes), total)
                with builder.if_then(add):
                    builder.store(row(out), total)
                with cgutils.for_range(builder, terms) as loop:
                    first = builder.add(builder.shl(loop.index, number(1)), number(3))
                    a, b = factor(first), row(address(builder.add(first, number(1))))
                    builder.store(builder.fadd(builder.load(total), builder.fmul(a, b)), total)
                with builder.if_then(builder.icmp_unsigned("!=", plain, number(0))):
                    builder.store(builder.fadd(builder.load(total), row(plain)), total)
                builder.store(builder.load(total), place(out), align=size)
                with builder.if_then(builder.icmp_unsigned("!=", copy, number(0))):
                    _store_copy(builder, builder.load(total), place(copy), size, past if lanes * size >= _LINE else [])
        return context.get_dummy_value()

    return signature, generate


def _store_copy(builder: Any, value: Any, place: Any, size: int, past: Sequence[Any]) -> None:
    """Write a vector, past the caches if that is asked for."""
    if not past:
        builder.store(value, place, align=size)
        return
    with builder.if_else(past[0]) as (directly, as_usual):
        with directly:
            store = builder.store(value, place, align=_LINE)
            store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        with as_usual:
            builder.store(value, place, align=size)


def everywhere(builder: Any, entry: Any, vector: Any) -> Any:
    """Code for a vector with this entry in all places."""
    integer, nothing = ir.IntType(32), ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(nothing, entry, ir.Constant(integer, 0))
    places = ir.Constant(ir.VectorType(integer, vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, nothing, places)


@intrinsic  # type: ignore[misc]
def sum_of_row(typingctx: Any, one: Any, address: Any, count: Any) -> Any:
    """The sum of so many entries from an address on: some side by side, then those sums, in a fixed order.

    One after the other each addition would wait for the one before it.
    """
    real, size = (ir.DoubleType(), 8) if one == types.float64 else (ir.FloatType(), 4)
    lanes = _LINE // size
    vector, integer = ir.VectorType(real, lanes), ir.IntType(64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, address, count = arguments
        zero = ir.Constant(vector, [ir.Constant(real, 0.0)] * lanes)
        sums, total = (cgutils.alloca_once_value(builder, value) for value in (zero, ir.Constant(real, 0.0)))
        builder.store(zero, sums)
        builder.store(ir.Constant(real, 0.0), total)
        column = cgutils.alloca_once_value(builder, _number(0))
        builder.store(_number(0), column)

        def entry(at: Any, kind: Any) -> Any:
            place = builder.add(address, builder.mul(at, _number(size)))
            return builder.load(_pointer(builder, place, kind), align=size)

        with _while_columns(builder, column, lanes, count):
            builder.store(builder.fadd(builder.load(sums), entry(builder.load(column), vector)), sums)
        left = builder.sub(count, builder.load(column))
        whole = builder.icmp_signed(">=", count, _number(lanes))
        with builder.if_then(builder.and_(whole, builder.icmp_signed(">", left, _number(0)))):
            # The last vector of the row; what of it has been added counts as zero.
            last = entry(builder.sub(count, _number(lanes)), vector)
            new = builder.icmp_signed(
                ">=", ir.Constant(ir.VectorType(integer, lanes), list(range(lanes))),
                everywhere(builder, builder.sub(_number(lanes), left), ir.VectorType(integer, lanes)),
            )  # fmt: skip
            builder.store(builder.fadd(builder.load(sums), builder.select(new, last, zero)), sums)
            builder.store(count, column)
        with _while_columns(builder, column, 1, count):
            builder.store(builder.fadd(builder.load(total), entry(builder.load(column), real)), total)
        halves, width = builder.load(sums), lanes
        while width > 1:
            width //= 2
            low, high = (
                builder.shuffle_vector(halves, ir.Constant(halves.type, ir.Undefined), _lanes(first, width))
                for first in (0, width)
            )
            halves = builder.fadd(low, high)
        return builder.fadd(builder.load(total), builder.extract_element(halves, ir.Constant(ir.IntType(32), 0)))

    return one(one, types.int64, types.int64), generate


def _lanes(first: int, width: int) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(first, first + width)))


@intrinsic  # type: ignore[misc]
def fill_row(typingctx: Any, value: Any, address: Any, count: Any) -> Any:
    """Write a value to so many entries from an address on."""
    real, size = (ir.DoubleType(), 8) if value == types.float64 else (ir.FloatType(), 4)
    lanes = _LINE // size
    signature = types.void(value, types.int64, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, address, count = arguments
        column = cgutils.alloca_once_value(builder, _number(0))
        builder.store(_number(0), column)
        many = everywhere(builder, value, ir.VectorType(real, lanes))

        def write(what: Any, at: Any) -> None:
            place = builder.add(address, builder.mul(at, _number(size)))
            builder.store(what, _pointer(builder, place, what.type), align=size)

        with _while_columns(builder, column, lanes, count):
            write(many, builder.load(column))
        with builder.if_then(builder.icmp_signed(">=", count, _number(lanes))):  # the last vector, some of it again
            write(many, builder.sub(count, _number(lanes)))
            builder.store(count, column)
        with _while_columns(builder, column, 1, count):
            write(value, builder.load(column))
        return context.get_dummy_value()

    return signature, generate


@intrinsic  # type: ignore[misc]
def ask_for(typingctx: Any, address: Any, length: Any) -> Any:
    """Ask for so many bytes from an address on, which need not be one of ours: nothing happens then.

    They come while other work is done, into the second cache: the first is too small to keep them until their turn.
    """
    integer, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
    signature = types.void(types.int64, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, length = arguments
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [pointer, integer, integer, integer]), "llvm.prefetch.p0i8"
        )
        to_read_second_cache_data = [ir.Constant(integer, value) for value in (0, 2, 1)]
        line = ir.Constant(length.type, _LINE)
        with cgutils.for_range_slice(builder, ir.Constant(length.type, 0), length, line) as (at, _):
            place = builder.inttoptr(builder.add(address, at), pointer)
            builder.call(function, [place, *to_read_second_cache_data])
        return context.get_dummy_value()

    return signature, generate


class _while_columns:
    """A loop over columns, so many at a time, as long as they are there."""

    def __init__(self, builder: Any, column: Any, step: int, width: Any) -> None:
        self.builder, self.column, self.width = builder, column, width
        self.step = ir.Constant(ir.IntType(64), step)
        self.test, self.body, self.end = (builder.append_basic_block(name) for name in ("test", "body", "end"))

    def __enter__(self) -> None:
        builder = self.builder
        builder.branch(self.test)
        builder.position_at_end(self.test)
        last = builder.add(builder.load(self.column), self.step)
        builder.cbranch(builder.icmp_signed("<=", last, self.width), self.body, self.end)
        builder.position_at_end(self.body)

    def __exit__(self, *exception: object) -> None:
        builder = self.builder
        builder.store(builder.add(builder.load(self.column), self.step), self.column)
        builder.branch(self.test)
        builder.position_at_end(self.end)


def _number(value: int) -> Any:
    return ir.Constant(ir.IntType(64), value)


def _pointer(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


@intrinsic  # type: ignore[misc]
def load(typingctx: Any, one: Any, address: Any) -> Any:
    """The entry at an address; its type is that of `one`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_pointer(builder, arguments[1], context.get_value_type(one)))

    return one(one, types.uintp), generate


@intrinsic  # type: ignore[misc]
def store(typingctx: Any, value: Any, address: Any) -> Any:
    """Write an entry to an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[0], _pointer(builder, arguments[1], context.get_value_type(value)))
        return context.get_dummy_value()

    return types.void(value, types.uintp), generate


@intrinsic  # type: ignore[misc]
def size_of(typingctx: Any, one: Any) -> Any:
    """Bytes of an entry of the type of `one`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.get_constant(types.int64, one.bitwidth // 8)

    return types.int64(one), generate


@kernel
def address_of(array):  # type: ignore[no-untyped-def]
    """Of its first entry, as a signed integer: sums of signed and unsigned ones would be floating-point numbers."""
    return np.int64(array.ctypes.data)


@kernel
def word(table, index):  # type: ignore[no-untyped-def]
    """An entry of a table of 64-bit integers at an address."""
    return load(np.int64(0), table + 8 * index)


@kernel
def set_word(table, index, value):  # type: ignore[no-untyped-def]
    """Write an entry of a table of 64-bit integers at an address."""
    store(np.int64(value), table + 8 * index)


@intrinsic  # type: ignore[misc]
def _fence(typingctx: Any) -> Any:
    """What was written past the caches is there for other threads before anything that is written later."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@kernel
def gather_row(one, out, source, width, count, add):  # type: ignore[no-untyped-def]
    """``out_i = [out_i] + sum_j source_ij`` of `width` columns i and `count` columns j each, rows at addresses."""
    size = size_of(one)
    for unit in range(width):
        total = sum_of_row(one, source + unit * count * size, count)
        store(load(one, out + unit * size) + total if add else total, out + unit * size)


@kernel
def spread_row(one, out, source, width, count, add):  # type: ignore[no-untyped-def]
    """``out_ij = [out_ij] + source_i``."""
    size = size_of(one)
    for unit in range(width):
        value, at = load(one, source + unit * size), out + unit * count * size
        if add:
            for other in range(count):
                store(load(one, at + other * size) + value, at + other * size)
        else:
            fill_row(value, at, count)


@kernel
def keep(memory):  # type: ignore[no-untyped-def]
    """Called last, with what addresses point to: an array goes when nothing names it any more."""
    _fence()
