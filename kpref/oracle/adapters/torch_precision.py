"""What a module of PyTorch computes in: its numbers, autocast, and the flags that allow shorter products."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kpref.oracle.adapters.operands import float32_of
from kpref.oracle.arithmetic import ARITHMETICS, Arithmetic

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


def arithmetic_of(weight: Any, states: Any, autocast: Autocast, sequence: bool) -> Arithmetic:
    """The coarsest arithmetic in which a module computes, from one of its weights and the states (B, T, H) it returned.

    Products of float32 are what one of them shows: the flags of PyTorch (`torch.set_float32_matmul_precision`, those of
    `torch.backends`) say what is allowed, and a device makes use of it for some shapes. Those of cuDNN's networks over
    sequences, which cannot be had apart, are what the flag says.

    `sequence`: whether the module is run over sequences.
    """
    import torch

    if weight.dtype != torch.float32:
        return ARITHMETICS[_name(weight.dtype)]
    if autocast.dtype is not None:
        short = ARITHMETICS[_name(autocast.dtype)]
        if states.dtype != torch.float32:
            return short
        # What is added to the old state is added in its own type.
        return replace(short, name=f"autocast to {short.name}", states=ARITHMETICS["float32"].unit)

    def product(a: Any, b: Any) -> Any:
        return (torch.as_tensor(a, device=weight.device) @ torch.as_tensor(b, device=weight.device)).cpu()

    rows = states.shape[0] * states.shape[1]
    with torch.no_grad(), autocast():
        found = float32_of(product, [(rows, 64), (64, rows)])
    if sequence and torch.backends.cudnn.is_acceptable(weight) and _cudnn_allows_tf32():
        return max(found, ARITHMETICS["tf32"], key=lambda arithmetic: arithmetic.operand)
    return found


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _cudnn_allows_tf32() -> bool:
    """Of networks over sequences; where the flag of their own is older PyTorch does not have it."""
    import torch

    flag = getattr(getattr(torch.backends.cudnn, "rnn", None), "fp32_precision", None)
    return bool(torch.backends.cudnn.allow_tf32) if flag is None else flag == "tf32"
