"""Tensors of PyTorch as arrays of NumPy, without importing PyTorch."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpref._archives import reason
from kpref.memory import require_memory

__all__ = ["from_torch", "is_tensor", "require_room"]


def is_tensor(value: object) -> bool:
    """Whether a value is a tensor of PyTorch; somebody else has imported it then."""
    kind = getattr(sys.modules.get("torch"), "Tensor", None)
    return kind is not None and isinstance(value, kind)


def from_torch(name: str, tensor: Any) -> NDArray[Any]:
    """Copy a tensor of real numbers, on any device, to NumPy: floating types, bfloat16 among them, to float64.

    Raises ValueError if it is on the meta device, sparse, quantised or complex, or has no shape yet; MemoryError if the
    copy needs more memory than there is, as that of an expanded tensor can.
    """
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
    require_room(name, shape)
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


def require_room(name: str, shape: Any) -> None:
    """An expanded array takes hardly any memory, and all of it once it is copied."""
    require_memory(8.0 * math.prod(int(length) for length in shape), f"{name} of shape {tuple(shape)}")
