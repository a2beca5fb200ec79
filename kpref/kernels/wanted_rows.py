"""Which coefficients, and rows of tensors, the pointwise operations of a program want from memory."""

from __future__ import annotations

from kpref.compiled.compilation import kernel
from kpref.kernels.addresses import size_of, word
from kpref.kernels.lowering import ARENAS, NUMBERS, OPERAND_BYTES, OPERATION_BYTES, SUM, TENSOR_IN, TENSOR_OUT
from kpref.kernels.wants import want

__all__ = ["want_rows"]


@kernel
def want_rows(one, code, room, rows, where):  # type: ignore[no-untyped-def]
    """Put on the list of wants what rows so many steps further need; `where` is that of the interpreter's `apply`."""
    vector, step, trial, first, stop, by_vector, by_step, later_step, _ = where
    size = size_of(one)
    for k in range(code.n_operations):
        operation = code.operations + k * OPERATION_BYTES
        if word(operation, 0) != SUM:
            continue
        for other in range(1, word(operation, 5)):
            operand = code.operands + (word(operation, 1) + other) * OPERAND_BYTES
            arena, of_vector, of_step, of_trial = (
                word(operand, 0), word(operand, 2), word(operand, 3), word(operand, 4)
            )  # fmt: skip
            if of_step == 0 or not _is_far(arena):
                continue
            start = word(operand, 1) + vector * of_vector + (step + later_step) * of_step + trial * of_trial
            address, now = word(room.addresses, arena + room.arenas) + start * size, trial
            for _ in range(rows):
                want(room.wants, address, word(operation, 2) * size)
                address, now = address + of_trial * size, now + 1
                if now == stop:
                    now = first
                    address += (by_vector * of_vector + by_step * of_step - (stop - first) * of_trial) * size


@kernel
def _is_far(arena):  # type: ignore[no-untyped-def]
    """Whether an arena, counted from the end, holds coefficients or tensors."""
    return arena == NUMBERS - ARENAS or arena == TENSOR_IN - ARENAS or arena == TENSOR_OUT - ARENAS
