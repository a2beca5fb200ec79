"""What a device makes of the operands of a float32 product: one exact product shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kpref._types import Array

__all__ = ["operands_of"]


def operands_of(product: Callable[[Array, Array], Any], rows: int, terms: int) -> str:
    """Name of the arithmetic whose operands a product ``a @ b`` of float32 numbers has, for sums of so many terms.

    ``1 + 2^-23`` needs all bits of float32, ``1 + 2^-10`` those of TensorFloat-32; times one, plus zeros, they come
    back as they went into the sum. Settings of libraries say what is allowed; this is what happens.
    """
    terms = max(terms, 2)
    a, b = np.zeros((rows, terms), np.float32), np.eye(terms, 64, dtype=np.float32)
    a[:, :2] = 1 + 2.0**-23, 1 + 2.0**-10
    whole, short = (np.asarray(product(a, b))[:, :2] == a[:, :2]).all(axis=0)
    return "float32" if whole else "tf32" if short else "bfloat16"
