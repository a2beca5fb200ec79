"""A vector field of JAX, solved by diffrax, as a backend: its gradients by differentiation of the solver, or backwards.

`kpref.oracle.verify` certifies what takes the same steps as a flow, `kpref.oracle.verify_convergence` judges the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kpref._validate import numeric_array
from kpref.oracle.adapters.solved_field import SolvedField, check_request, check_shapes
from kpref.space import TrajectorySpace

__all__ = ["DiffraxBackend", "diffrax_backend"]


def diffrax_backend(
    field: Callable[[Mapping[str, Any], Any, Any], Any],
    parameters: Mapping[str, Any],
    inputs: Any,
    z0: Any,
    times: Any,
    solver: Any = None,
    adjoint: Literal["direct", "backsolve"] = "direct",
    step: float | None = None,
    tolerance: float | None = None,
    measure: str | npt.ArrayLike = "mean",
) -> DiffraxBackend:
    """States and gradients of a neural ODE that diffrax solves, interval by interval of a grid, under held inputs.

    Parameters
    ----------
    field : callable
        ``field(parameters, z, x)`` for states (B, H) and inputs (B, n_in): the velocity (B, H).
    parameters : mapping of str to array
        The parameter vector is these, raveled, in the order of the mapping. Their dtype is that of the computation.
    inputs : array_like, shape (B, N + 1, n_in)
        Held on each interval of the grid; the last row is not used.
    z0 : array_like, shape (B, H)
    times : array_like, shape (N + 1,)
    solver : object, optional
        Of diffrax, such as ``diffrax.Heun()``; ``diffrax.Tsit5()`` by default.
    adjoint : {"direct", "backsolve"}
        "direct" differentiates the steps (`RecursiveCheckpointAdjoint`), "backsolve" solves the adjoint equation, and
        the trajectory with it, backwards (`BacksolveAdjoint`).
    step : float, optional
        Steps of this size in each interval; by default one step each, unless `tolerance` is given.
    tolerance : float, optional
        Relative and absolute, of adaptive steps, forwards and backwards.
    measure : {"mean", "sum"} or array_like (B, N + 1)
        See `kpref.TrajectorySpace`.

    Returns
    -------
    DiffraxBackend
        With `states`, `gradient`, `gradient_z0` and `D_T`.

    Raises
    ------
    TypeError
        If `field` is no function, or `parameters` no mapping.
    ValueError
        If something is no array of real numbers, shapes do not match, both step and tolerance are given, or the
        parameters are float64 and JAX is set to compute in float32.
    """
    import jax

    check_request(field, parameters, adjoint, ("direct", "backsolve"), step, tolerance)
    arrays = {"inputs": inputs, "z0": z0, "times": times} | {f"parameter {key}": v for key, v in parameters.items()}
    checked = {name: numeric_array(name, value, "biuf") for name, value in arrays.items()}
    x, start, grid = checked["inputs"], checked["z0"], checked["times"]
    check_shapes(x, start, grid)
    dtype = np.result_type(*parameters.values())
    if dtype == np.float64 and not jax.config.jax_enable_x64:
        raise ValueError(
            "the parameters are float64, but JAX is set to float32: set JAX_ENABLE_X64=1, or give float32 parameters"
        )
    return DiffraxBackend(field, parameters, x, start, grid, solver, adjoint, step, tolerance, measure, dtype)


class DiffraxBackend(SolvedField):
    """A trajectory by a scan over intervals, and its vector-Jacobian products. Built by `diffrax_backend`.

    `states`: shape (B, N + 1, H).
    """

    def __init__(
        self,
        field: Any,
        parameters: Mapping[str, Any],
        inputs: Any,
        z0: Any,
        times: Any,
        solver: Any,
        adjoint: str,
        step: float | None,
        tolerance: float | None,
        measure: str | npt.ArrayLike,
        dtype: Any,
    ) -> None:
        import diffrax
        import jax
        import jax.numpy as jnp

        self.dtype, self._jax, names = dtype, jax, list(parameters)
        # A list and not a mapping, whose entries JAX would sort by name.
        self._parameters = [jnp.asarray(value, dtype) for value in parameters.values()]
        self._z0, x = jnp.asarray(z0, dtype), jnp.swapaxes(jnp.asarray(inputs, dtype), 0, 1)
        grid = jnp.asarray(times, dtype)
        shape = (len(z0), len(times), self._z0.shape[1])
        self._mu = TrajectorySpace(shape, measure, times).mu[:, :, None]
        chosen = diffrax.PIDController(rtol=tolerance, atol=tolerance) if tolerance else diffrax.ConstantStepSize()
        how = diffrax.RecursiveCheckpointAdjoint() if adjoint == "direct" else diffrax.BacksolveAdjoint()
        term = diffrax.ODETerm(lambda t, z, args: field(dict(zip(names, args[0], strict=True)), z, args[1]))
        method = diffrax.Tsit5() if solver is None else solver

        def run(parameters: Any, z0: Any) -> Any:
            def interval(z: Any, row: Any) -> Any:
                start, end, x = row
                h = None if tolerance else end - start if step is None else step
                solution = diffrax.diffeqsolve(
                    term, method, start, end, h, z, args=(parameters, x), stepsize_controller=chosen, adjoint=how,
                    max_steps=1 << 14,
                )  # fmt: skip
                return solution.ys[-1], solution.ys[-1]

            rows = jax.lax.scan(interval, z0, (grid[:-1], grid[1:], x[:-1]))[1]
            return jnp.swapaxes(jnp.concatenate([z0[None], rows]), 0, 1)

        self._run = run
        self.states = np.asarray(jax.jit(run)(self._parameters, self._z0))
        self._pull = jax.jit(lambda g: jax.vjp(run, self._parameters, self._z0)[1](g))

    def _gradients(self, g: npt.ArrayLike) -> tuple[Any, Any]:
        parameters, start = self._pull(np.asarray(g, self.dtype))
        return np.concatenate([np.asarray(piece).ravel() for piece in parameters]), np.asarray(start)
