"""A step function of JAX as a backend: its operators by jvp and vjp through `jax.lax.scan`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._validate import function, numeric_array, short
from kpref.oracle.adapters.operands import float32_of
from kpref.oracle.arithmetic import Arithmetic
from kpref.space import TrajectorySpace

__all__ = ["JaxBackend", "jax_backend"]


def jax_backend(
    step: Callable[[Mapping[str, Any], Any, Any], Any],
    parameters: Mapping[str, Any],
    inputs: Any,
    z0: Any,
    measure: str | npt.ArrayLike = "mean",
    precision: str | None = None,
) -> JaxBackend:
    """The operators of a network that is a step function of JAX.

    Parameters
    ----------
    step : callable
        ``step(parameters, z, x)`` for states (B, H) and inputs (B, n_in), as the body of a scan over time has it.
    parameters : mapping of str to array
        The parameter vector is these, raveled, in the order of the mapping. Their dtype is that of the computation.
    inputs : array_like, shape (B, T, n_in)
    z0 : array_like, shape (B, H)
    measure : {"mean", "sum"} or array_like (B, T)
        See `kpref.TrajectorySpace`.
    precision : str, optional
        Of products of matrices, as `jax.default_matmul_precision` names it: "highest", "tensorfloat32", "bfloat16",
        "default" and others. By default what is in force where the backend is made. It holds in all that the backend
        computes, in whatever thread and context. What the device makes of it is measured, and declared.

    Returns
    -------
    JaxBackend

    Raises
    ------
    TypeError
        If `step` is no function, or `parameters` no mapping.
    ValueError
        If something is no array of real numbers, the parameters are float64 and JAX is set to compute in float32,
        shapes do not match, or JAX does not know the precision.
    """
    import jax

    function("step", step, "(parameters, z, x)")
    if not isinstance(parameters, Mapping) or not parameters:
        raise TypeError(f"parameters must be a mapping from names to arrays, at least one; got {short(parameters)}")
    for name, value in (
        {"inputs": inputs, "z0": z0} | {f"parameter {key}": v for key, v in parameters.items()}
    ).items():
        numeric_array(name, value, "biuf")
    dtype = np.result_type(*parameters.values())
    if dtype == np.float64 and not jax.config.jax_enable_x64:
        raise ValueError(
            "the parameters are float64, but JAX is set to float32: set JAX_ENABLE_X64=1, or give float32 parameters"
        )
    if precision is None:
        precision = jax.config.jax_default_matmul_precision
    try:
        with jax.default_matmul_precision(precision):
            pass
    except ValueError as error:
        raise ValueError(
            f"precision must be one that jax.default_matmul_precision takes; got {short(precision)}"
        ) from error
    return JaxBackend(step, parameters, inputs, z0, measure, dtype, precision)


class JaxBackend:
    """P by jvp through the scan in a forcing, P^T by vjp; NTK through the scan in the parameters; all jitted.

    Built by `jax_backend`.

    `states`: shape (B, T, H). `arithmetic`: what it computes in.
    """

    def __init__(
        self,
        step: Any,
        parameters: Mapping[str, Any],
        inputs: Any,
        z0: Any,
        measure: str | npt.ArrayLike,
        dtype: Any,
        precision: str | None,
    ) -> None:
        import jax
        import jax.numpy as jnp

        self._jax, self._step, self.dtype, self._precision = jax, step, dtype, precision
        # A list and not a mapping, whose entries JAX would sort by name.
        self._names = list(parameters)
        self._parameters = [jnp.asarray(value, dtype) for value in parameters.values()]
        x, self._z0 = jnp.asarray(inputs, dtype), jnp.asarray(z0, dtype)
        if x.ndim != 3 or self._z0.ndim != 2 or len(self._z0) != len(x):
            raise ValueError(f"inputs and z0 must have shapes (B, T, n_in) and (B, H); got {x.shape}, {self._z0.shape}")
        shape = (*x.shape[:2], self._z0.shape[1])
        self._x = jnp.swapaxes(x, 0, 1)
        self._mu = jnp.asarray(TrajectorySpace(shape, measure).mu[:, :, None], dtype)
        self._nothing = jnp.zeros((shape[1], shape[0], shape[2]), dtype)
        self._compiled: dict[str, Callable[..., Any]] = {}
        rows = shape[0] * shape[1]
        self.arithmetic: Arithmetic | str = str(dtype)
        if dtype == np.float32:
            with jax.default_matmul_precision(precision):
                self.arithmetic = float32_of(jnp.matmul, [(rows, 64), (64, rows)])
        self.states = self._jit("states", lambda _: jnp.swapaxes(self._run(self._parameters, self._nothing), 0, 1))(0.0)
        first_last = jnp.swapaxes(jnp.asarray(self.states), 0, 1)
        self._before = jnp.concatenate([self._z0[None], first_last[:-1]])

    def _jit(self, name: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The function compiled once, from and to NumPy arrays."""
        if name not in self._compiled:
            self._compiled[name] = self._jax.jit(function)
        compiled = self._compiled[name]

        def call(tensor: Any) -> Any:
            with self._jax.default_matmul_precision(self._precision):
                return np.asarray(compiled(np.asarray(tensor, self.dtype)))

        return call

    def _at(self, parameters: Any, z: Any, x: Any) -> Any:
        return self._step(dict(zip(self._names, parameters, strict=True)), z, x)

    def _run(self, parameters: Any, forcing: Any) -> Any:
        """States (T, B, H) with a forcing added after each step."""

        def advance(z: Any, row: Any) -> Any:
            x, q = row
            z = self._at(parameters, z, x) + q
            return z, z

        return self._jax.lax.scan(advance, self._z0, (self._x, forcing))[1]

    def _maps(self, parameters: Any) -> Any:
        """Each step from its own state, (T, B, H): a function of the parameters alone."""
        return self._jax.vmap(lambda z, x: self._at(parameters, z, x))(self._before, self._x)

    def _pieces(self, theta: Any) -> list[Any]:
        pieces, start = [], 0
        for value in self._parameters:
            size = math.prod(value.shape)
            pieces.append(theta[start : start + size].reshape(value.shape))
            start += size
        return pieces

    def _joined(self, pieces: Any) -> Any:
        return self._jax.numpy.concatenate([piece.ravel() for piece in pieces])

    def _swap(self, tensor: Any) -> Any:
        return self._jax.numpy.swapaxes(tensor, 0, 1)

    def P(self, q: Any) -> Any:
        """Derivative of the states by the forcing."""
        run = self._run_by_forcing
        return self._jit("P", lambda q: self._swap(self._jax.jvp(run, (self._nothing,), (self._swap(q),))[1]))(q)

    def P_T(self, g: Any) -> Any:
        """Its transpose."""
        run = self._run_by_forcing
        return self._jit("P_T", lambda g: self._swap(self._jax.vjp(run, self._nothing)[1](self._swap(g))[0]))(g)

    def P_inverse(self, y: Any) -> Any:
        """``q[n] = y[n] - A[n] y[n-1]``."""

        def inverse(y: Any) -> Any:
            y = self._swap(y)
            earlier = self._jax.numpy.concatenate([self._nothing[:1], y[:-1]])

            def carry(z: Any, x: Any, dz: Any) -> Any:
                return self._jax.jvp(lambda z: self._at(self._parameters, z, x), (z,), (dz,))[1]

            return self._swap(y - self._jax.vmap(carry)(self._before, self._x, earlier))

        return self._jit("P_inverse", inverse)(y)

    def J(self, theta: Any) -> Any:
        """Derivative of each step by the parameters."""
        return self._jit("J", lambda theta: self._swap(self._push(self._maps, self._pieces(theta))))(theta)

    def J_T(self, g: Any) -> Any:
        """Its transpose."""
        return self._jit("J_T", lambda g: self._joined(self._pull(self._maps, self._swap(g))))(g)

    def K(self, q: Any) -> Any:
        """``J J^T Mu q``."""
        maps, mu = self._maps, self._mu
        return self._jit("K", lambda q: self._swap(self._push(maps, self._pull(maps, self._swap(mu * q)))))(q)

    def NTK(self, q: Any) -> Any:
        """``D D^T Mu q``, D the derivative of the states by the parameters: P J without either."""
        run, mu = self._run_by_parameters, self._mu
        return self._jit("NTK", lambda q: self._swap(self._push(run, self._pull(run, self._swap(mu * q)))))(q)

    def gradient(self, err: Any) -> Any:
        """``D^T Mu Err``."""
        run, mu = self._run_by_parameters, self._mu
        return self._jit("gradient", lambda err: self._joined(self._pull(run, self._swap(mu * err))))(err)

    def _run_by_forcing(self, forcing: Any) -> Any:
        return self._run(self._parameters, forcing)

    def _run_by_parameters(self, parameters: Any) -> Any:
        return self._run(parameters, self._nothing)

    def _push(self, function: Callable[[Any], Any], pieces: Any) -> Any:
        return self._jax.jvp(function, (self._parameters,), (list(pieces),))[1]

    def _pull(self, function: Callable[[Any], Any], g: Any) -> Any:
        return self._jax.vjp(function, self._parameters)[1](g)[0]
