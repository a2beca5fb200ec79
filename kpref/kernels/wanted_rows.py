"""Which coefficients, and rows of tensors, the pointwise operations of a program want from memory."""

from __future__ import annotations

from kpref.compiled.compilation import kernel
from kpref.kernels.addresses import size_of, word
from kpref.kernels.lowering import ARENAS, TENSOR_OUT, WANTED_BYTES
from kpref.kernels.wants import LINE, want

__all__ = ["goes_past_caches", "want_rows"]


@kernel
def goes_past_caches(layout, address):  # type: ignore[no-untyped-def]
    """Whether a row that is written to a tensor is not kept near the processor, and need not be read before."""
    return layout.far == 1 and address % 64 == 0


@kernel
def want_rows(one, layout, code, room, rows, where, passes):  # type: ignore[no-untyped-def]
    """Put on the list of wants what rows so many steps further need; `where` is that of the interpreter's `apply`.

    What no operation needs before a product is wanted for these very rows, if so many `passes` of products, and the
    sums, have the time to ask for it: the sooner it is used, the less else has gone through the caches.
    """
    vector, step, trial, first, stop, by_vector, by_step, later_step, _ = where
    size, columns = size_of(one), 0
    for k in range(code.n_wanted):
        columns += word(code.wanted + k * WANTED_BYTES, 5)
    in_time = rows * columns * size <= 2 * LINE * passes
    for k in range(code.n_wanted):
        wanted = code.wanted + k * WANTED_BYTES
        arena, start, width = word(wanted, 0), word(wanted, 1), word(wanted, 5)
        of_vector, of_step, of_trial = word(wanted, 2), word(wanted, 3), word(wanted, 4)
        ahead = 0 if in_time and word(wanted, 6) == 0 else later_step
        start += vector * of_vector + (step + ahead) * of_step + trial * of_trial
        address, now = word(room.addresses, arena + room.arenas) + start * size, trial
        if arena == TENSOR_OUT - ARENAS and goes_past_caches(layout, address) and of_trial * size % 64 == 0:
            continue
        begin, length = address, 0  # rows that follow each other are one piece of memory
        for _ in range(rows):
            if address != begin + length:
                want(room.wants, begin, length)
                begin, length = address, 0
            length += width * size
            address, now = address + of_trial * size, now + 1
            if now == stop:
                now = first
                address += (by_vector * of_vector + by_step * of_step - (stop - first) * of_trial) * size
        want(room.wants, begin, length)
