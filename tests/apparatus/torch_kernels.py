"""Kernels of PyTorch as a CUDA device has them, on a CPU: fused, with few derivatives, and with short products.

`cells` and `runs` replace what `torch.nn.GRUCell` and `torch.nn.GRU` call; `ShortProducts` rounds the operands of all
products of float32 matrices, of backward passes too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import TorchDispatchMode

from kpref.oracle.arithmetic import ARITHMETICS

CUDNN_BACKWARD_ERROR = "cudnn RNN backward can only be called in training mode"


class Library:
    """The functions that modules of PyTorch call, some of them replaced."""

    def __init__(self, own: Any, **replaced: Any) -> None:
        self._own = own
        for name, function in replaced.items():
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


def _gates(x: Any, h: Any, wi: Any, wh: Any, bi: Any, bh: Any) -> tuple[Any, ...]:
    (ar, au, an), (cr, cu, cn) = (h @ wh.T + bh).chunk(3, -1), (x @ wi.T + bi).chunk(3, -1)
    r, u = torch.sigmoid(ar + cr), torch.sigmoid(au + cu)
    return r, u, torch.tanh(cn + r * an), an


def gru(*tensors: Any) -> Any:
    """One step of a GRU: inputs, state, weights of the inputs and of the state, biases."""
    _, u, n, _ = _gates(*tensors)
    return (1 - u) * n + u * tensors[1]


def gru_backward(tensors: Any, g: Any) -> tuple[Any, ...]:
    """Its backward pass, of operations that have derivatives themselves."""
    x, h, wi, wh, _, _ = tensors
    r, u, n, an = _gates(*tensors)
    gu, gn = g * (h - n) * u * (1 - u), g * (1 - u) * (1 - n * n)
    gr = gn * an * r * (1 - r)
    ga, gc = torch.cat([gr, gu, gn * r], -1), torch.cat([gr, gu, gn], -1)
    return gc @ wi, g * u + ga @ wh, gc.T @ x, ga.T @ h, gc.sum(0), ga.sum(0)


class FusedCell(torch.autograd.Function):
    """No forward mode, a backward pass that has a derivative: PyTorch's own fused cells on CUDA."""

    @staticmethod
    def forward(ctx: Any, *tensors: Any) -> Any:
        ctx.save_for_backward(*tensors)
        return gru(*tensors)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return gru_backward(ctx.saved_tensors, g)


class FinalCell(FusedCell):
    """Neither forward mode nor a derivative of the backward pass."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Any) -> Any:
        return gru_backward(ctx.saved_tensors, g)


class ForwardCell(FinalCell):
    """Forward mode alone."""

    @staticmethod
    def forward(ctx: Any, *tensors: Any) -> Any:
        ctx.save_for_forward(*tensors)
        return FusedCell.forward(ctx, *tensors)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        tensors = ctx.saved_tensors
        given = [torch.zeros_like(t) if v is None else v for t, v in zip(tensors, tangents, strict=True)]
        x, h, wi, wh, _, _ = tensors
        dx, dh, dwi, dwh, dbi, dbh = given
        r, u, n, an = _gates(*tensors)
        dar, dau, dan = (dh @ wh.T + h @ dwh.T + dbh).chunk(3, -1)
        dcr, dcu, dcn = (dx @ wi.T + x @ dwi.T + dbi).chunk(3, -1)
        dr, du = (dar + dcr) * r * (1 - r), (dau + dcu) * u * (1 - u)
        dn = (dcn + dr * an + r * dan) * (1 - n * n)
        return du * (h - n) + (1 - u) * dn + u * dh


class SilentCell(FusedCell):
    """A backward pass that leaves PyTorch and comes back: its derivative by the cotangent is lost without a word."""

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        tensors, g = [tensor.detach() for tensor in ctx.saved_tensors], torch.from_numpy(g.detach().numpy())
        with torch.no_grad():
            return gru_backward(tensors, g)


class HalfSilentCell(SilentCell):
    """So, but for the part that goes straight to the old state."""

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        gx, gh, *rest = SilentCell.backward(ctx, g)
        u = _gates(*ctx.saved_tensors)[1].detach()
        return gx, gh - (g * u).detach() + g * u, *rest


class CudnnRun(torch.autograd.Function):
    """A whole run by one kernel: it has a backward pass in training mode, and no other derivative."""

    calls = 0
    error = 0.0  # planted in the backward pass, relative

    @staticmethod
    def forward(ctx: Any, function: Any, options: Any, *tensors: Any) -> Any:
        with torch.enable_grad():
            ctx.leaves = [tensor.detach().requires_grad_() for tensor in tensors]
            ctx.results = function(*ctx.leaves[:2], ctx.leaves[2:], *options)
        ctx.training = options[3]
        return tuple(result.detach() for result in ctx.results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Any) -> Any:
        CudnnRun.calls += 1
        if not ctx.training:
            raise RuntimeError(CUDNN_BACKWARD_ERROR)
        pulled = torch.autograd.grad(ctx.results, ctx.leaves, cotangents)
        return None, None, *(part * (1 + CudnnRun.error) for part in pulled)


def cells(function: Any) -> Library:
    """A library whose GRU cell is a fused one."""
    return Library(torch._VF, gru_cell=function.apply)


def runs() -> Library:
    """A library whose runs of GRUs are cuDNN's where that is enabled."""
    own = torch._VF.gru

    def gru(x: Any, h: Any, weights: Any, *options: Any) -> Any:
        if not torch.backends.cudnn.enabled:
            return own(x, h, weights, *options)
        return CudnnRun.apply(own, options, x, h, *weights)

    return Library(torch._VF, gru=gru)


class ShortProducts(TorchDispatchMode):
    """All products of float32 matrices with operands rounded as in an arithmetic."""

    _PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::mv", "aten::addmv")

    def __init__(self, arithmetic: str) -> None:
        super().__init__()
        self._arithmetic = ARITHMETICS[arithmetic]

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function._schema.name in self._PRODUCTS and args[0].dtype == torch.float32:
            args = (*args[:-2], *(self._rounded(operand) for operand in args[-2:]))
        return function(*args, **(kwargs or {}))

    def _rounded(self, tensor: Any) -> Any:
        return torch.from_numpy(self._arithmetic.round_operand(tensor.detach().numpy())).to(tensor.dtype)

    def around(self, function: Any) -> Any:
        """The function, computed so."""

        def call(*args: Any) -> Any:
            with self:
                return function(*args)

        return call
