"""A recurrent module of PyTorch as a backend: its operators by automatic differentiation with torch.func."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref.space import TrajectorySpace

__all__ = ["TorchBackend", "torch_backend"]


def torch_backend(module: Any, inputs: Any, z0: Any = None, measure: str | npt.ArrayLike = "mean") -> TorchBackend:
    """The operators of a recurrent module of PyTorch, in its own precision and on its own device.

    Parameters
    ----------
    module : torch.nn.RNN, GRU, LSTM, RNNCell, GRUCell or LSTMCell
        Any number of layers, one direction. The parameter vector is its parameters that require a gradient, in the
        order of ``named_parameters()``: weight_ih, weight_hh, bias_ih, bias_hh of each layer.
    inputs : array_like, shape (B, T, n_in)
    z0 : array_like, shape (B, states), optional
        Zero by default. The state is that of the layers one after the other, each h, or h and then c of an LSTM.
    measure : {"mean", "sum"} or array_like (B, T)
        See `kpref.TrajectorySpace`.

    Returns
    -------
    TorchBackend

    Raises
    ------
    TypeError
        For another module.
    ValueError
        If it has two directions, a projection, or dropout that is at work, or shapes do not match.
    """
    import torch

    kinds = ("RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell")
    if not isinstance(module, tuple(getattr(torch.nn, kind) for kind in kinds)):
        raise TypeError(
            f"module must be a torch.nn.{', '.join(kinds[:-1])} or {kinds[-1]}; got {type(module).__module__}."
            f"{type(module).__name__}"
        )
    if isinstance(module, torch.nn.RNNBase):
        if module.bidirectional or module.proj_size:
            raise ValueError(f"module must have one direction and no projection; got {module}")
        if module.dropout and module.training:
            raise ValueError(f"module drops entries at random: call its eval() first; got {module}")
    return TorchBackend(module, inputs, z0, measure)


class TorchBackend:
    """P by recursion over jvps of the step, P^T over vjps; J and J^T by jvp and vjp in the parameters.

    Built by `torch_backend`. All methods take arrays or tensors and return tensors.

    `states`: shape (B, T, states); of the module itself, run over whole sequences where it returns all of its state.
    """

    def __init__(self, module: Any, inputs: Any, z0: Any, measure: str | npt.ArrayLike) -> None:
        import torch

        self.module, self._torch = module, torch
        weight = next(module.parameters())
        self.dtype, self._device = weight.dtype, weight.device
        self._parameters = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
        self._fixed = {name: p.detach() for name, p in module.named_parameters() if not p.requires_grad}
        x = self._tensor(inputs)
        if x.ndim != 3 or x.shape[2] != module.input_size:
            raise ValueError(f"inputs must have shape (B, T, {module.input_size}); got {tuple(x.shape)}")
        self._layers = 1 if self._is_cell else module.num_layers
        self._parts = 2 if isinstance(module, torch.nn.LSTM | torch.nn.LSTMCell) else 1
        shape = (x.shape[0], x.shape[1], self._layers * self._parts * module.hidden_size)
        z = torch.zeros(shape[0], shape[2], dtype=self.dtype, device=self._device) if z0 is None else self._tensor(z0)
        if tuple(z.shape) != (shape[0], shape[2]):
            raise ValueError(f"z0 must have shape ({shape[0]}, {shape[2]}); got {tuple(z.shape)}")
        self._x, self._mu = x, self._tensor(TrajectorySpace(shape, measure).mu)[:, :, None]
        with torch.no_grad():
            self.states = self._run(z)
        self._before = torch.cat([z[:, None], self.states[:, :-1]], dim=1)

    def _tensor(self, array: Any) -> Any:
        if not isinstance(array, self._torch.Tensor):
            array = np.array(array)  # a copy: tensors of PyTorch are always writable
        return self._torch.as_tensor(array, dtype=self.dtype, device=self._device)

    def _run(self, z: Any) -> Any:
        if self._is_cell or self._layers * self._parts > 1:
            states = []
            for n in range(self._x.shape[1]):
                z = self._step(self._parameters, z, self._x[:, n])
                states.append(z)
            return self._torch.stack(states, dim=1)
        batch_first = self.module.batch_first
        states = self.module(self._x if batch_first else self._x.swapaxes(0, 1), z[None])[0]
        return states if batch_first else states.swapaxes(0, 1)

    @property
    def _is_cell(self) -> bool:
        return isinstance(self.module, self._torch.nn.RNNCellBase)

    def _step(self, parameters: Any, z: Any, x: Any) -> Any:
        """One step of the module from states (n, states) under inputs (n, n_in), as a function of its parameters."""
        if not self._is_cell:
            x = x.unsqueeze(1 if self.module.batch_first else 0)
        given = (x, self._apart(z))
        # The LSTM of oneDNN has no derivatives forwards.
        plain = self._torch.backends.mkldnn.flags(enabled=False) if self._parts > 1 else nullcontext()
        with plain:
            new = self._torch.func.functional_call(self.module, {**self._fixed, **parameters}, given)
        return self._together(new if self._is_cell else new[1])

    def _apart(self, z: Any) -> Any:
        """The state (n, states) as the module takes it: h, or (h, c), each (layers, n, H), or (n, H) of a cell."""
        parts = z.reshape(len(z), self._layers, self._parts, -1).permute(2, 1, 0, 3).contiguous()
        parts = parts[:, 0] if self._is_cell else parts
        return tuple(parts) if self._parts > 1 else parts[0]

    def _together(self, parts: Any) -> Any:
        """The state (n, states) that the module returned."""
        stacked = self._torch.stack(parts if self._parts > 1 else [parts])
        stacked = stacked[:, None] if self._is_cell else stacked
        return stacked.permute(2, 1, 0, 3).reshape(stacked.shape[2], -1)

    def _carry(self, n: int, dz: Any) -> Any:
        """``A[n] dz``."""
        step, x = self._step, self._x[:, n]
        return self._torch.func.jvp(lambda z: step(self._parameters, z, x), (self._before[:, n],), (dz,))[1]

    def _carry_back(self, n: int, costate: Any) -> Any:
        """``A[n]^T l``."""
        step, x = self._step, self._x[:, n]
        return self._torch.func.vjp(lambda z: step(self._parameters, z, x), self._before[:, n])[1](costate)[0]

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
            costates.append(self._carry_back(n, costates[-1]) + g[:, n - 1])
        return self._torch.stack(costates[::-1], dim=1)

    def P_inverse(self, y: Any) -> Any:
        """``q[n] = y[n] - A[n] y[n-1]``."""
        y = self._tensor(y)
        carried = [self._carry(n, y[:, n - 1]) for n in range(1, y.shape[1])]
        return self._torch.cat([y[:, :1], *((y[:, n + 1] - part)[:, None] for n, part in enumerate(carried))], dim=1)

    def _maps(self, parameters: Any) -> Any:
        """All steps at once, each from its own state: (B T, states) as a function of the parameters."""
        return self._step(parameters, self._before.flatten(0, 1), self._x.flatten(0, 1))

    def J(self, theta: Any) -> Any:
        """``J theta``."""
        theta, pieces, start = self._tensor(theta), {}, 0
        for name, value in self._parameters.items():
            size = math.prod(value.shape)
            pieces[name] = theta[start : start + size].reshape(value.shape)
            start += size
        return self._torch.func.jvp(self._maps, (self._parameters,), (pieces,))[1].reshape(self.states.shape)

    def J_T(self, g: Any) -> Any:
        """``J^T g``."""
        pulled = self._torch.func.vjp(self._maps, self._parameters)[1](self._tensor(g).flatten(0, 1))[0]
        return self._torch.cat([pulled[name].flatten() for name in self._parameters])

    def K(self, q: Any) -> Any:
        """``J J^T Mu q``."""
        return self.J(self.J_T(self._mu * self._tensor(q)))

    def NTK(self, q: Any) -> Any:
        """``P J J^T P^T Mu q``."""
        return self.P(self.J(self.gradient(q)))

    def gradient(self, err: Any) -> Any:
        """``J^T P^T Mu Err``."""
        return self.J_T(self.P_T(self._mu * self._tensor(err)))
