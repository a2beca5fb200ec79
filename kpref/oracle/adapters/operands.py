"""What a device makes of the operands of a float32 product: one exact product shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kpref._types import Array
from kpref.oracle.arithmetic import ARITHMETICS, Arithmetic

__all__ = ["float32_of"]

#: Numbers with the last bit that an operand of this unit roundoff holds, finest first. Sums of several short numbers,
#: two bfloat16 for one float32, hold a few bits wherever these are; so there are bits in between.
_TELLING = {2.0**-24: 1 + 2.0**-10 + 2.0**-23, 2.0**-16: 1 + 2.0**-8 + 2.0**-15, 2.0**-11: 1 + 2.0**-10}


def float32_of(product: Callable[[Array, Array], Any], shapes: list[tuple[int, int]]) -> Arithmetic:
    """The arithmetic of float32 numbers whose products ``a @ b`` are these, for `a` of these shapes.

    Each number of `_TELLING` times one, plus zeros, comes back as it went into the sum. Settings of libraries say what
    is allowed, for some devices and shapes; this is what happens.
    """
    unit = max(_operand(product, rows, max(terms, len(_TELLING))) for rows, terms in shapes)
    known = {2.0**-24: "float32", 2.0**-11: "tf32"}
    if unit in known:
        return ARITHMETICS[known[unit]]
    return Arithmetic(f"float32 with products of {-int(np.log2(unit))} bits", 2.0**-24, operand=unit)


def _operand(product: Callable[[Array, Array], Any], rows: int, terms: int) -> float:
    """Unit roundoff of the operands of a product of a matrix (rows, terms)."""
    a, b = np.zeros((rows, terms), np.float32), np.eye(terms, 64, dtype=np.float32)
    a[:, : len(_TELLING)] = list(_TELLING.values())
    kept = (np.asarray(product(a, b))[:, : len(_TELLING)] == a[:, : len(_TELLING)]).all(axis=0)
    return next((unit for unit, whole in zip(_TELLING, kept, strict=True) if whole), 2.0**-8)
