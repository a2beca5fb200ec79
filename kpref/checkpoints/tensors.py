"""Arrays of any library as arrays of numbers in NumPy: PyTorch, JAX, ml_dtypes, NumPy itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpref._tensors import from_torch, require_room
from kpref._validate import numeric_array

__all__ = ["is_array", "to_array"]


def is_array(value: object) -> bool:
    """Whether a value is an array with axes, of any library; numbers, and arrays without axes, are not."""
    try:
        return hasattr(value, "dtype") and len(value.shape) > 0  # type: ignore[attr-defined]
    except Exception:  # a tensor of PyTorch that does not know its shape yet
        return True


def to_array(name: str, value: Any) -> NDArray[Any]:
    """Copy an array of real numbers to NumPy; bfloat16 and the narrower floating types become float32 or float64.

    `name`: what the error calls it. `value`: an array of NumPy, JAX or ml_dtypes, a tensor of PyTorch on any device, or
    nested sequences of numbers.
    Raises ValueError if it holds no numbers (a tensor on the meta device, text, objects), complex ones, or is masked,
    sparse or quantised, or of unsigned integers of 16 bits, which is how bfloat16 is often kept; MemoryError if it
    needs more memory in float64 than there is, as an expanded tensor can.
    """
    if hasattr(value, "detach"):
        return from_torch(name, value)
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        require_room(name, value.shape)
    array = numeric_array(name, value, "biuf")
    if array.dtype == np.uint16:
        raise ValueError(
            f"{name} holds integers of type uint16, as bfloat16 numbers are often kept: save them as float32, or as "
            "another type if they are integers"
        )
    return array
