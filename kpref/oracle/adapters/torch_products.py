"""Products with the Jacobian of a function of tensors of PyTorch, by whatever its kernels have derivatives for.

Reverse mode gives ``J^T u``, and is what a module that can be trained has. For ``J v`` there are two ways. ``J^T u`` is
linear in u, and its derivative by u is J^T itself; so one more reverse product, through the graph of the first, gives
``(J^T)^T v = J v`` wherever the backward pass is itself made of operations that have a derivative (the fused cells of
PyTorch on CUDA have that, and no forward mode; cuDNN has neither). Forward mode gives ``J v`` at once. It comes second,
since a backward pass is what people train with, and since its first use loads the compiler of TorchScript.

A kernel may also lose a derivative without a word: a backward pass that leaves PyTorch and comes back has none. So a
way is used only where ``<J v, u> = |J^T u|`` for ``v = J^T u / |J^T u|``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["Function", "Push", "find_push", "pull"]

Function = Callable[..., Any]  # of tensors, to a tensor
Push = Callable[[Function, Sequence[Any], Sequence[Any]], Any]

#: What is lost shows as a part of one; the shortest arithmetic, bfloat16, has 2^-8. Numbers of the narrowest range,
#: that of float16, are lost below 2^-14.
_TOLERANCE, _LEAST = 1 / 8, 2.0**-14


@contextmanager
def recorded(tensor: Any) -> Iterator[None]:
    """Context of a backward pass, whatever the caller's own is: graphs are made, and operations not cast.

    Autocast is for forward passes, where operations of the backward pass get their types from.
    """
    import torch

    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(tensor.device.type, enabled=False):
        yield


def pull(function: Function, point: Sequence[Any], cotangent: Any) -> tuple[Any, ...]:
    """``J^T u``, a tensor for each argument: reverse mode."""
    import torch

    with recorded(cotangent):
        at = [tensor.detach().requires_grad_() for tensor in point]
        value = function(*at)
        pulled: tuple[Any, ...] = torch.autograd.grad(value, at, cotangent.to(value.dtype), materialize_grads=True)
    return pulled


def _push_by_reverse(function: Function, point: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """``J v``: the derivative of ``J^T u`` by u, transposed."""
    import torch

    with recorded(point[0]):
        at = [tensor.detach().requires_grad_() for tensor in point]
        value = function(*at)
        u = torch.zeros_like(value, requires_grad=True)
        pulled = torch.autograd.grad(value, at, u, create_graph=True, materialize_grads=True)
        # A part that is zero for every u has no graph.
        pairs = [(part, v.to(part.dtype)) for part, v in zip(pulled, tangents, strict=True) if part.requires_grad]
        if not pairs:
            return torch.zeros_like(value)
        parts, vectors = zip(*pairs, strict=True)
        return torch.autograd.grad(parts, u, vectors, materialize_grads=True)[0]


def _push_forward(function: Function, point: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """``J v``: forward mode."""
    import torch
    from torch.autograd import forward_ad

    with torch.no_grad(), forward_ad.dual_level():
        duals = [forward_ad.make_dual(tensor.detach(), v) for tensor, v in zip(point, tangents, strict=True)]
        value, tangent = forward_ad.unpack_dual(function(*duals))
        return torch.zeros_like(value) if tangent is None else tangent


def find_push(function: Function, point: Sequence[Any]) -> tuple[Push | None, str]:
    """How to compute ``J v`` of functions like this one, and why not.

    Raises whatever the function and its backward pass raise: without these there is no product at all.
    """
    import torch

    with torch.no_grad():
        value = function(*point)
    u = torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).to(value)
    pulled = pull(function, point, u)
    norm = math.sqrt(sum(float(part.double().square().sum()) for part in pulled))
    if not math.isfinite(norm):
        return None, f"its derivatives grow beyond the range of {str(value.dtype).removeprefix('torch.')} here"
    tangents = [part / max(norm, _LEAST) for part in pulled]
    reasons = []
    ways = (("a backward pass that is differentiable", _push_by_reverse), ("a forward mode", _push_forward))
    for way, push in ways:
        try:
            tangent = push(function, point, tangents)
        except Exception as error:  # whatever a kernel raises that was never meant to be used so
            reasons.append(f"{way} ({brief(error)})")
            continue
        found = float((tangent.double() * u.double()).sum())
        if abs(found - norm) <= _TOLERANCE * norm + _LEAST * math.sqrt(u.numel()):
            return push, ""
        reasons.append(f"{way} (a part of the derivative is lost, or wrong)")
    return None, f"its steps have neither {' nor '.join(reasons)}"


def brief(error: Exception) -> str:
    """Class and first sentence of an error."""
    return f"{type(error).__name__}: {' '.join(str(error).split()).partition('. ')[0][:160]}"
