"""A vector field of PyTorch, solved by torchdiffeq, as a backend: gradients through the solver, or backwards.

`kpref.oracle.verify` certifies what takes the same steps as a flow, `kpref.oracle.verify_convergence` judges the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kpref.oracle.adapters.solved_field import SolvedField, check_request, check_shapes
from kpref.space import TrajectorySpace

__all__ = ["TorchdiffeqBackend", "torchdiffeq_backend"]


def torchdiffeq_backend(
    field: Callable[[Mapping[str, Any], Any, Any], Any],
    parameters: Mapping[str, Any],
    inputs: Any,
    z0: Any,
    times: Any,
    method: str = "dopri5",
    adjoint: Literal["direct", "adjoint"] = "direct",
    step: float | None = None,
    tolerance: float | None = None,
    measure: str | npt.ArrayLike = "mean",
) -> TorchdiffeqBackend:
    """States and gradients of a neural ODE that torchdiffeq solves, interval by interval of a grid, under held inputs.

    Parameters
    ----------
    field : callable
        ``field(parameters, z, x)`` for states (B, H) and inputs (B, n_in): the velocity (B, H).
    parameters : mapping of str to tensor
        The parameter vector is these, raveled, in the order of the mapping. Their dtype and device are those of the
        computation.
    inputs : array_like, shape (B, N + 1, n_in)
        Held on each interval of the grid; the last row is not used.
    z0 : array_like, shape (B, H)
    times : array_like, shape (N + 1,)
    method : str
        Of torchdiffeq.
    adjoint : {"direct", "adjoint"}
        "direct" differentiates the steps (`odeint`), "adjoint" solves the adjoint equation, and the trajectory with it,
        backwards (`odeint_adjoint`).
    step : float, optional
        Of a method of fixed steps; by default one in each interval.
    tolerance : float, optional
        Relative and absolute, of an adaptive method, forwards and backwards.
    measure : {"mean", "sum"} or array_like (B, N + 1)
        See `kpref.TrajectorySpace`.

    Returns
    -------
    TorchdiffeqBackend
        With `states`, `gradient`, `gradient_z0` and `D_T`.

    Raises
    ------
    TypeError
        If `field` is no function, or `parameters` no mapping.
    ValueError
        If shapes do not match, the kind of adjoint is unknown, or both step and tolerance are given.
    """
    check_request(field, parameters, adjoint, ("direct", "adjoint"), step, tolerance)
    return TorchdiffeqBackend(field, parameters, inputs, z0, times, method, adjoint, step, tolerance, measure)


class TorchdiffeqBackend(SolvedField):
    """A trajectory interval by interval, and its vector-Jacobian products. Built by `torchdiffeq_backend`.

    `states`: shape (B, N + 1, H).
    """

    def __init__(
        self,
        field: Any,
        parameters: Mapping[str, Any],
        inputs: Any,
        z0: Any,
        times: Any,
        method: str,
        adjoint: str,
        step: float | None,
        tolerance: float | None,
        measure: str | npt.ArrayLike,
    ) -> None:
        import torch
        import torchdiffeq

        first = next(iter(parameters.values()))
        self.dtype, like = first.dtype, {"dtype": first.dtype, "device": first.device}
        self._torch, self._like = torch, like
        self._parameters = {
            name: torch.nn.Parameter(value.detach().clone().to(**like)) for name, value in parameters.items()
        }
        x, grid = torch.tensor(inputs, **like), torch.tensor(times, **like)
        self._z0 = torch.tensor(z0, **like).requires_grad_()
        check_shapes(x, self._z0, grid)
        shape = (len(x), len(grid), self._z0.shape[1])
        self._mu = TrajectorySpace(shape, measure, np.asarray(times, dtype=float)).mu[:, :, None]
        own = list(self._parameters.values())
        options: dict[str, Any] = {"method": method}
        if tolerance is not None:
            options |= {"rtol": tolerance, "atol": tolerance}
        if adjoint == "adjoint":
            options["adjoint_params"] = own
        solve = torchdiffeq.odeint if adjoint == "direct" else torchdiffeq.odeint_adjoint
        z, rows = self._z0, [self._z0]
        for interval in range(len(grid) - 1):
            held = x[:, interval]
            steps = options if step is None else options | {"options": {"step_size": step}}

            def velocity(t: Any, z: Any, held: Any = held) -> Any:
                return field(self._parameters, z, held)

            z = solve(velocity, z, grid[interval : interval + 2], **steps)[-1]
            rows.append(z)
        self._trajectory = torch.stack(rows, dim=1)
        self.states = self._trajectory.detach()

    def _gradients(self, g: npt.ArrayLike) -> tuple[Any, Any]:
        torch, wanted = self._torch, [*self._parameters.values(), self._z0]
        found = torch.autograd.grad(self._trajectory, wanted, torch.as_tensor(g, **self._like), retain_graph=True)
        return torch.cat([piece.reshape(-1) for piece in found[:-1]]), found[-1]
