"""Rounding to formats that have the exponents of float32: float32 itself, TF32, bfloat16."""

from __future__ import annotations

import numpy as np

from kpref.compiled.compilation import kernel

__all__ = ["to_single"]


@kernel
def to_single(values, dropped, single, out):  # type: ignore[no-untyped-def]
    """Round float64 numbers to float32, and to nearest even with the last bits of the fraction dropped, into `out`.

    As hardware does: a carry into the exponent is right, also to infinity. All are flat and of one length; `single` is
    room, of float32. NumPy takes ten passes for it, and each costs more than the numbers of a small array.
    """
    for i in range(len(values)):
        single[i] = values[i]
    if dropped > 0:
        bits = single.view(np.uint32)
        last, half = np.uint32(dropped), np.uint32((1 << (dropped - 1)) - 1)
        for i in range(len(bits)):
            own = bits[i]
            finite = (own & np.uint32(0x7F800000)) != np.uint32(0x7F800000)
            rounded = own + half + ((own >> last) & np.uint32(1))
            bits[i] = (rounded >> last) << last if finite else own
    for i in range(len(values)):
        out[i] = single[i]
