"""A recurrent module of PyTorch as a backend: its operators by automatic differentiation of its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref.oracle.adapters.torch_precision import Autocast, arithmetic_of
from kpref.oracle.adapters.torch_products import brief, find_push, pull, recorded
from kpref.oracle.adapters.torch_steps import CellStep, SequenceStep, step_of
from kpref.space import TrajectorySpace

__all__ = ["TorchBackend", "torch_backend"]

#: Operators made of products with the Jacobians of steps by the state and by the parameters, and with their transposes.
_BY_JACOBIAN: dict[str, tuple[str, ...]] = {"A": ("P", "P_inverse", "NTK"), "J": ("J", "K", "NTK")}
_BY_TRANSPOSE: dict[str, tuple[str, ...]] = {"A": ("P_T",), "J": ("J_T",)}


def torch_backend(
    module: Any, inputs: Any, z0: Any = None, measure: str | npt.ArrayLike = "mean", loss_scale: float = 1.0
) -> TorchBackend:
    """The operators of a recurrent module of PyTorch, in its own precision and on its own device.

    Parameters
    ----------
    module : torch.nn.Module
        An RNN, GRU or LSTM of any number of layers in one direction, a cell of these, or any module that takes inputs
        (n, n_in) and a state and returns the new state, for n trials each on its own. The parameter vector is its
        parameters that require a gradient, in the order of ``named_parameters()``: weight_ih, weight_hh, bias_ih,
        bias_hh of each layer.
    inputs : array_like, shape (B, T, n_in)
    z0 : array_like, shape (B, states), optional
        Zero by default. The state is that of the layers one after the other, each h, or h and then c of an LSTM. Of a
        module of one's own it must be given; where such a state is a tuple of tensors, so is z0.
    measure : {"mean", "sum"} or array_like (B, T)
        See `kpref.TrajectorySpace`.
    loss_scale : float
        What the loss is multiplied by for the gradient, a power of two: ``scaler.get_scale()`` of a
        `torch.amp.GradScaler`. What comes is divided by it in float32 at least.

    Returns
    -------
    TorchBackend

    Raises
    ------
    TypeError
        For another module.
    ValueError
        If it has two directions, a projection, no trainable parameters, or dropout that is at work, or shapes do not
        match.

    Notes
    -----
    `states` are the module's own and `gradient` is autograd through the forward pass that gave them, which is what
    training runs: that over the whole sequence of an nn.RNN or nn.GRU of one layer, with its fused kernels. A run of
    several layers, or of an LSTM, does not return all of the state; there the module is called for one step after the
    other. The other operators are products with the Jacobians of one step. Those with P and J themselves need a
    derivative of the backward pass, or forward mode (`kpref.oracle.adapters.torch_products`); where the module's
    kernels have neither they are not offered, and `not_offered` says why.

    Autocast that is on when the backend is made is on in all of its forward passes.
    """
    step, size = step_of(module, z0)
    return TorchBackend(step, inputs, z0, size, measure, loss_scale)


class TorchBackend:
    """P by recursion over products with the Jacobians of each step, P^T over transposed ones.

    Built by `torch_backend`. All methods take arrays or tensors and return tensors.

    `states`: shape (B, T, states); of the module itself. `arithmetic`: what it computes in. `not_offered`: operators
    that it cannot have, which are None, and why.
    """

    def __init__(
        self,
        step: CellStep | SequenceStep,
        inputs: Any,
        z0: Any,
        size: int | None,
        measure: str | npt.ArrayLike,
        loss_scale: float,
    ) -> None:
        import torch

        self.module, self._stepped, self._torch = step.module, step, torch
        self._parameters = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        if not self._parameters:
            raise ValueError(f"module must have a parameter that requires a gradient; got {self.module}")
        weight = next(iter(self._parameters.values()))
        self.dtype, self._device = weight.dtype, weight.device
        self._x = self._tensor(inputs)
        self._z0 = self._initial(z0, size)
        self._autocast = Autocast(self._device.type)
        mu = TrajectorySpace((*self._x.shape[:2], self._z0.shape[1]), measure).mu[:, :, None]
        self.loss_scale = loss_scale
        self._mu, self._scaled_mu = self._tensor(mu), self._tensor(loss_scale * mu)
        try:
            states = self._run()
        except TypeError as error:
            raise TypeError(f"module must take (inputs, state) and return the new state; {brief(error)}") from error
        self.states = states.detach()
        self.arithmetic = arithmetic_of(weight, self.states, self._autocast, isinstance(step, SequenceStep))
        self._before = torch.cat([self._z0[:, None], self.states[:, :-1]], dim=1)
        self.not_offered = self._missing(states)
        for name in self.not_offered:
            setattr(self, name, None)

    def _tensor(self, array: Any) -> Any:
        if not isinstance(array, self._torch.Tensor):
            array = np.array(array)  # a copy: tensors of PyTorch are always writable
        return self._torch.as_tensor(array, dtype=self.dtype, device=self._device).detach()

    def _initial(self, z0: Any, size: int | None) -> Any:
        x = self._x
        n_inputs = getattr(self.module, "input_size", None)
        if x.ndim != 3 or n_inputs not in (None, x.shape[2]):
            raise ValueError(f"inputs must have shape (B, T, {n_inputs or 'n_in'}); got {tuple(x.shape)}")
        if z0 is None:
            return x.new_zeros(x.shape[0], size)
        z = self._torch.cat([self._tensor(z) for z in z0], dim=1) if isinstance(z0, tuple) else self._tensor(z0)
        if z.ndim != 2 or len(z) != len(x) or size not in (None, z.shape[1]):
            raise ValueError(f"z0 must have shape ({x.shape[0]}, {size or 'states'}); got {tuple(z.shape)}")
        return z

    def _missing(self, states: Any) -> dict[str, str]:
        """Operators that the module's kernels cannot have, and why. What they can is kept: `_push`, `_push_maps`."""
        missing = {}
        try:
            self._pull_run(states, self._torch.ones_like(states))
        except Exception as error:  # whatever a kernel raises
            missing["gradient"] = f"the module cannot be trained as it is ({brief(error)})"
        last = self._before.shape[1] - 1
        self._push: dict[str, Any] = {}
        for name, function, point in (
            ("A", self._at(last), [self._before[:, last]]),
            ("J", self._maps, list(self._parameters.values())),
        ):
            operators = _BY_JACOBIAN[name]
            try:
                self._push[name], reason = find_push(function, point)
            except Exception as error:  # whatever a kernel raises
                self._push[name], reason = None, f"its steps cannot be differentiated ({brief(error)})"
                operators += _BY_TRANSPOSE[name]
            if self._push[name] is None:
                missing |= dict.fromkeys(operators, reason)
        return missing

    # The module

    def _step(self, parameters: Any, z: Any, x: Any) -> Any:
        """One step from states (n, states) under inputs (n, n_in), as a function of the parameters if there are any."""

        def call(x: Any, state: Any) -> Any:
            if parameters is None:
                return self.module(x, state)
            return self._torch.func.functional_call(self.module, parameters, (x, state))

        with self._autocast():
            new = self._stepped(call, z, x)
        shape = tuple(new.shape) if isinstance(new, self._torch.Tensor) else f"a {type(new).__name__}"
        if shape != tuple(z.shape):
            raise ValueError(f"module must return new states of shape {tuple(z.shape)}, as z0 has it; got {shape}")
        return new

    def _run(self) -> Any:
        """States (B, T, states) of the module, with the graph of their derivatives by its parameters."""
        with recorded(self._x):
            if isinstance(self._stepped, SequenceStep) and self._stepped.runs_at_once:
                with self._autocast():
                    return self._stepped.run(self._z0, self._x)
            z, states = self._z0, []
            for x in self._x.unbind(1):
                z = self._step(None, z, x)
                states.append(z)
            return self._torch.stack(states, dim=1)

    def _at(self, n: int) -> Any:
        """Step n as a function of the state."""

        def step(z: Any) -> Any:
            with self._stepped.differentiable():
                return self._step(None, z, self._x[:, n])

        return step

    def _maps(self, *parameters: Any) -> Any:
        """All steps at once, each from its own state: (B T, states) as a function of the parameters."""
        named = dict(zip(self._parameters, parameters, strict=True))
        with self._stepped.differentiable():
            return self._step(named, self._before.flatten(0, 1), self._x.flatten(0, 1))

    # Products

    def _carry(self, n: int, dz: Any) -> Any:
        """``A[n] dz``."""
        return self._push["A"](self._at(n), [self._before[:, n]], [dz])

    def _joined(self, pieces: Sequence[Any]) -> Any:
        return self._torch.cat([piece.flatten() for piece in pieces])

    def P(self, q: Any) -> Any:
        """``y[n] = A[n] y[n-1] + q[n]``."""
        q = self._tensor(q)
        y = [q[:, 0]]
        for n in range(1, q.shape[1]):
            y.append(self._carry(n, y[-1]) + q[:, n])
        return self._torch.stack(y, dim=1)

    def P_T(self, g: Any) -> Any:
        """``l[n] = A[n+1]^T l[n+1] + g[n]``."""
        g = self._tensor(g)
        costates = [g[:, -1]]
        for n in range(g.shape[1] - 1, 0, -1):
            costates.append(pull(self._at(n), [self._before[:, n]], costates[-1])[0] + g[:, n - 1])
        return self._torch.stack(costates[::-1], dim=1)

    def P_inverse(self, y: Any) -> Any:
        """``q[n] = y[n] - A[n] y[n-1]``."""
        y = self._tensor(y)
        rows = [y[:, 0], *(y[:, n] - self._carry(n, y[:, n - 1]) for n in range(1, y.shape[1]))]
        return self._torch.stack(rows, dim=1)

    def J(self, theta: Any) -> Any:
        """``J theta``."""
        point = list(self._parameters.values())
        pieces = self._tensor(theta).split([math.prod(value.shape) for value in point])
        tangents = [piece.reshape(value.shape) for piece, value in zip(pieces, point, strict=True)]
        return self._push["J"](self._maps, point, tangents).reshape(self.states.shape)

    def J_T(self, g: Any) -> Any:
        """``J^T g``."""
        return self._joined(pull(self._maps, list(self._parameters.values()), self._tensor(g).flatten(0, 1)))

    def K(self, q: Any) -> Any:
        """``J J^T Mu q``."""
        return self.J(self.J_T(self._mu * self._tensor(q)))

    def NTK(self, q: Any) -> Any:
        """``P J J^T P^T Mu q``."""
        return self.P(self.J(self.J_T(self.P_T(self._mu * self._tensor(q)))))

    def gradient(self, err: Any) -> Any:
        """``J^T P^T Mu Err``: that of training, through the module's own run; the loss is scaled on the way."""
        found = self._joined(self._pull_run(self._run(), self._scaled_mu * self._tensor(err)))
        if self.loss_scale == 1.0:
            return found
        return found.to(self._torch.promote_types(found.dtype, self._torch.float32)) / self.loss_scale

    def _pull_run(self, states: Any, cotangent: Any) -> Any:
        parameters = list(self._parameters.values())
        with recorded(states):
            return self._torch.autograd.grad(states, parameters, cotangent.to(states.dtype), materialize_grads=True)
