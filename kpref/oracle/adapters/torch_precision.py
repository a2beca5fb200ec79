"""What a module of PyTorch computes in: its numbers, autocast, and the flags that allow shorter products."""

from __future__ import annotations

from typing import Any

from kpref.oracle.adapters.operands import operands_of
from kpref.oracle.arithmetic import ARITHMETICS

__all__ = ["Autocast", "arithmetic_of"]


class Autocast:
    """The autocast that is on for a device when this is made, to be entered again in whatever thread and context."""

    def __init__(self, device_type: str) -> None:
        import torch

        self._device_type = device_type
        self.dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None

    def __call__(self) -> Any:
        """The context of forward passes; products of a backward pass follow from these."""
        import torch

        # Without its cache, which would keep weights as they were cast before they changed.
        return torch.autocast(self._device_type, self.dtype, enabled=self.dtype is not None, cache_enabled=False)


def arithmetic_of(weight: Any, rows: int, autocast: Autocast, sequence: bool) -> str:
    """Name of the coarsest arithmetic in which a module with this weight computes.

    Float32 products are what one of them shows: the flags of PyTorch (`torch.set_float32_matmul_precision`, those of
    `torch.backends`) say what is allowed, and a device makes use of it for some shapes. Those of cuDNN's networks over
    sequences, which cannot be had apart, are what the flag says.

    `rows`: that are multiplied at once where most are. `sequence`: whether the module is run over sequences.
    """
    import torch

    names = [_name(weight.dtype)]
    if autocast.dtype is not None and weight.dtype != torch.float64:
        names.append(_name(autocast.dtype))
    elif weight.dtype == torch.float32:
        shapes = ((rows, 64), (64, rows))

        def product(a: Any, b: Any) -> Any:
            return (torch.as_tensor(a, device=weight.device) @ torch.as_tensor(b, device=weight.device)).cpu()

        with torch.no_grad(), autocast():
            names += [operands_of(product, *shape) for shape in shapes]
        if sequence and torch.backends.cudnn.is_acceptable(weight) and _cudnn_allows_tf32():
            names.append("tf32")
    return max(names, key=lambda name: max(ARITHMETICS[name].unit, ARITHMETICS[name].operand))


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _cudnn_allows_tf32() -> bool:
    """Of networks over sequences; where the flag of their own is older PyTorch does not have it."""
    import torch

    flag = getattr(getattr(torch.backends.cudnn, "rnn", None), "fp32_precision", None)
    return bool(torch.backends.cudnn.allow_tf32) if flag is None else flag == "tf32"
