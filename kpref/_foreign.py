"""Python code of the user: how it is told from ours, and what becomes of what it returns.

Functions of the user, and methods of classes of the user, are called in the thread that calls us and never from the
pool (`kpref.threads.run_blocks` with ``here=True``): they may keep scratch memory, contexts or locks, and they may use
kpref themselves. What they return is checked and copied, as they may fill the same array again at the next call.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from kpref._types import Array
from kpref._validate import first_index, numeric_array, place

__all__ = ["is_ours", "read_only", "returned"]


def is_ours(code: object) -> bool:
    """Whether a function, one with arguments filled in, or a class is defined in this package."""
    while isinstance(code, partial):
        code = code.func
    return str(getattr(code, "__module__", "")).partition(".")[0] == __name__.partition(".")[0]


def read_only(array: Array) -> Array:
    """A view that a function of the user can read but not write."""
    view = array.view()
    view.flags.writeable = False
    return view


def returned(
    name: str,
    value: Any,
    shape: tuple[int, ...],
    kinds: str = "biuf",
    axes: Sequence[str] | None = None,
    where: str = "",
    finite: bool = False,
) -> Array:
    """A copy of what a function of the user returned.

    `name`: what the error calls the function. `shape`: shape that it must have. `kinds`: kinds of dtype that it may
    have; ``"biufc"`` where the arguments were complex. `axes`: names of the axes, to locate an entry that is refused.
    `where`: where the function was called, as in ``" at t = 0.5"``. `finite`: refuse NaN and infinity.
    Raises ValueError if `value` is not an array of such numbers, has another shape, or a mask.
    """
    array = numeric_array(f"the value of {name}{where}", value, kinds + "c")
    if array.shape != shape:
        raise ValueError(f"{name} must return shape {shape}; got {array.shape}{where}")
    if array.dtype.kind not in kinds:
        imaginary = array.imag != 0
        index = first_index(imaginary if imaginary.any() else np.ones(shape, bool)) if array.size else None
        at = "" if index is None else f"; its value is {array[index]} at {place(index, axes)}"
        raise ValueError(f"{name} must return real numbers{where}, but returned {array.dtype}{at}")
    copy = np.array(array, order="C")
    if finite and not np.isfinite(copy).all():
        index = first_index(~np.isfinite(copy))
        raise ValueError(
            f"{name} must return finite numbers{where}; its value is {copy[index]} at {place(index, axes)}"
        )
    return copy
