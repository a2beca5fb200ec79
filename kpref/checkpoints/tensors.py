"""Arrays of any library as arrays of numbers in NumPy: PyTorch, JAX, ml_dtypes, NumPy itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpref._archives import reason
from kpref._validate import numeric_array
from kpref.memory import require_memory

__all__ = ["is_array", "to_array"]


def is_array(value: object) -> bool:
    """Whether a value is an array with axes, of any library; numbers, and arrays without axes, are not."""
    try:
        return hasattr(value, "dtype") and len(value.shape) > 0  # type: ignore[attr-defined]
    except Exception:  # a tensor of PyTorch that does not know its shape yet
        return True


def to_array(name: str, value: Any) -> NDArray[Any]:
    """Copy an array of real numbers to NumPy; bfloat16 and the narrower floating types become float32 or float64.

    Parameters
    ----------
    name : str
        What the error calls it.
    value : array_like
        An array of NumPy, JAX or ml_dtypes, a tensor of PyTorch on any device, or nested sequences of numbers.

    Raises
    ------
    ValueError
        If it holds no numbers (a tensor on the meta device, text, objects), complex ones, or is masked, sparse or
        quantised, or of unsigned integers of 16 bits, which is how bfloat16 is often kept.
    MemoryError
        If it needs more memory in float64 than there is, as an expanded tensor can.
    """
    if hasattr(value, "detach"):
        return _from_torch(name, value)
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        _require_memory(name, value.shape)
    array = numeric_array(name, value, "biuf")
    if array.dtype == np.uint16:
        raise ValueError(
            f"{name} holds integers of type uint16, as bfloat16 numbers are often kept: save them as float32, or as "
            "another type if they are integers"
        )
    return array


def _from_torch(name: str, tensor: Any) -> NDArray[Any]:
    try:
        shape, dtype, layout = tuple(tensor.shape), str(tensor.dtype), str(tensor.layout)
        on_meta, quantised = tensor.device.type == "meta", bool(tensor.is_quantized)
    except Exception as error:
        raise ValueError(f"{name} is a {type(tensor).__name__} without numbers yet: {reason(error)}") from error
    if on_meta:
        raise ValueError(
            f"{name} is a tensor on the meta device, which has a shape {shape} and no numbers: save the network "
            "after its tensors are loaded"
        )
    if quantised or layout != "torch.strided" or tensor.is_complex():
        kind = "quantised" if quantised else f"of layout {layout}" if layout != "torch.strided" else "complex"
        raise ValueError(
            f"{name} is a tensor of {dtype} that is {kind}; expected a dense one of real numbers: save it as float32"
        )
    _require_memory(name, shape)
    try:
        tensor = tensor.detach().cpu()
        array: NDArray[Any] = np.array((tensor.double() if tensor.is_floating_point() else tensor).numpy())
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(
            f"{name} is a tensor of {dtype} that NumPy cannot hold ({reason(error)}): save it as float32"
        ) from error
    return array


def _require_memory(name: str, shape: Any) -> None:
    """An expanded array takes hardly any memory, and all of it once it is copied."""
    require_memory(8.0 * math.prod(int(length) for length in shape), f"{name} of shape {tuple(shape)}")
