"""The contenders of ``kpref bench`` in JAX: a scan over time, and the solvers of diffrax; all jitted.

JAX and diffrax are imported here, and nowhere else in kpref. Tensors are time-major, as a scan wants them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kpref._types import Array
from kpref.bench.steps import Library, make_step
from kpref.bench.workload import Problem
from kpref.integrate import Tableau


class _Jax:
    """The problem in JAX."""

    package: str | None = "jax"
    compiles_for_a_shape = True

    def __init__(self, problem: Problem) -> None:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", problem.dtype == "float64")
        self.jax, self.problem, self.dtype = jax, problem, problem.dtype
        model = problem.make_model()
        inputs, z0, tensor = (jnp.asarray(array, problem.dtype) for array in problem.make_trials())
        self.parameters = {name: jnp.asarray(value, problem.dtype) for name, value in model.parameters.items()}
        self.names = tuple(model.parameters)
        self.inputs, self.z0, self.tensor = jnp.swapaxes(inputs, 0, 1), z0, jnp.swapaxes(tensor, 0, 1)
        self.mu = jnp.asarray(problem.weights, problem.dtype)[:, None, None]
        self.step = make_step(model, Library(jnp.tanh, jax.nn.sigmoid, lambda parts: jnp.concatenate(parts, -1)))
        self.forward = jax.jit(self.run)
        self.gradient = jax.jit(jax.grad(self.loss))

    def run(self, parameters: Any, inputs: Any, z0: Any) -> Any:
        """States (T, B, H)."""
        raise NotImplementedError

    def loss(self, parameters: Any, inputs: Any, z0: Any, target: Any) -> Any:
        """Half the mean squared distance of the states from a target."""
        return 0.5 * self.jax.numpy.sum(self.mu * (self.run(parameters, inputs, z0) - target) ** 2)

    def to_numpy(self, result: Any) -> Array:
        """To trials first; parameters to a vector."""
        if isinstance(result, dict):
            return np.concatenate([np.ravel(result[name]) for name in self.names])
        return np.swapaxes(np.asarray(result), 0, 1)


class Diffrax(_Jax):
    """diffrax, its solver made from the tableau; it knows nothing of operators.

    Given its best choice of those that solve the same discrete problem: to save all steps, which here are the times of
    the grid, is faster than to interpolate at given times; the default adjoint is faster than those that store all
    steps. (The adjoint that solves backwards in time has another gradient.)
    """

    package: str | None = "diffrax"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        import diffrax

        assert problem.tableau is not None
        self.diffrax, self.times = diffrax, self.jax.numpy.asarray(problem.times)
        self.solver = self.make_solver(problem.tableau)

    @staticmethod
    def columns(problem: Problem) -> tuple[str, ...]:
        """Those of a solver."""
        return ("forward", "gradient") if problem.method is not None else ()

    def make_solver(self, table: Tableau) -> Any:
        """The method of the problem as a solver of diffrax."""
        diffrax = self.diffrax
        if table.stages == 1:  # a tableau of diffrax has two stages at least
            return diffrax.Euler()

        class Solver(diffrax.AbstractERK):  # type: ignore[misc, name-defined]
            tableau = diffrax.ButcherTableau(
                a_lower=tuple(table.a[stage, :stage] for stage in range(1, table.stages)),
                b_sol=table.b,
                b_error=np.zeros(table.stages),
                c=table.c[1:],
            )
            interpolation_cls = diffrax.ThirdOrderHermitePolynomialInterpolation.from_k

            def order(self, terms: Any) -> int:
                return table.order

        return Solver()

    def run(self, parameters: Any, inputs: Any, z0: Any) -> Any:
        """One step for each interval of the grid."""
        diffrax, step, times = self.diffrax, self.step, self.times

        def field(t: Any, z: Any, arguments: Any) -> Any:
            parameters, inputs = arguments
            return step(parameters, z, diffrax.LinearInterpolation(times, inputs).evaluate(t))

        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field), self.solver, times[0], times[-1], None, z0, args=(parameters, inputs),
            saveat=diffrax.SaveAt(t0=True, steps=True), stepsize_controller=diffrax.StepTo(ts=times),
            max_steps=self.problem.steps,
        )  # fmt: skip
        return solution.ys

    def build(self) -> None:
        """Nothing to prepare."""

    def apply(self, built: None, column: str) -> Any:
        """Solve, or differentiate the loss."""
        if column == "forward":
            return self.forward(self.parameters, self.inputs, self.z0).block_until_ready()
        return self.jax.block_until_ready(self.gradient(self.parameters, self.inputs, self.z0, self.tensor))


class _Scan(_Jax):
    """The network as a `jax.lax.scan` over time."""

    def run(self, parameters: Any, inputs: Any, z0: Any, forcing: Any = None) -> Any:
        """States (T, B, H), with a forcing (T, B, H) of the map or of the vector field."""

        def forced(z: Any, x: Any, q: Any) -> Any:
            return self.step(parameters, z, x) if q is None else self.step(parameters, z, x) + q

        if self.problem.tableau is None:
            return self.iterate(forced, (inputs, forcing), z0)
        return self.solve(self.problem.tableau, forced, (inputs, forcing), z0)

    def iterate(self, step: Callable[..., Any], signals: Any, z0: Any) -> Any:
        """The states of a map."""

        def advance(z: Any, row: Any) -> Any:
            z = step(z, *row)
            return z, z

        return self.jax.lax.scan(advance, z0, signals)[1]

    def solve(self, tableau: Tableau, field: Callable[..., Any], signals: Any, z0: Any) -> Any:
        """The states of a Runge-Kutta flow, with signals that are linear between the times of the grid."""
        jax, h = self.jax, self.problem.times[1]

        def between(c: float, left: Any, right: Any) -> Any:
            return jax.tree.map(lambda a, b: (1 - c) * a + c * b, left, right)

        def advance(z: Any, rows: Any) -> Any:
            slopes: list[Any] = []
            for weights, c in zip(h * tableau.a, tableau.c.tolist(), strict=True):
                slopes.append(field(add_up(z, weights, slopes), *between(c, *rows)))
            z = add_up(z, h * tableau.b, slopes)
            return z, z

        rows = (jax.tree.map(lambda a: a[:-1], signals), jax.tree.map(lambda a: a[1:], signals))
        return jax.numpy.concatenate([z0[None], jax.lax.scan(advance, z0, rows)[1]])

    def before(self, states: Any, z0: Any) -> Any:
        """The state that each step of a map starts from, (T, B, H)."""
        return self.jax.numpy.concatenate([z0[None], states[:-1]])


def add_up(z: Any, weights: Sequence[float], slopes: Sequence[Any]) -> Any:
    """``z + sum_j w_j k_j``, weights of zero left out."""
    for weight, slope in zip(weights, slopes, strict=False):
        if weight != 0:
            z = z + float(weight) * slope
    return z


class JaxTransforms(_Scan):
    """`jax.jvp` and `jax.vjp` through the scan at every call: little memory, the forward pass again each time."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        jax, run, step, mu = self.jax, self.run, self.step, self.mu

        def p(q: Any, theta: Any, inputs: Any, z0: Any, before: Any) -> Any:
            zero = jax.numpy.zeros_like(q)
            return jax.jvp(lambda forcing: run(theta, inputs, z0, forcing), (zero,), (q,))[1]

        def p_transposed(g: Any, theta: Any, inputs: Any, z0: Any, before: Any) -> Any:
            zero = jax.numpy.zeros_like(g)
            return jax.vjp(lambda forcing: run(theta, inputs, z0, forcing), zero)[1](g)[0]

        def gram(function: Callable[[Any], Any], theta: Any, q: Any) -> Any:
            gradient = jax.vjp(function, theta)[1](mu * q)
            return jax.jvp(function, (theta,), tuple(gradient))[1]

        def k(q: Any, theta: Any, inputs: Any, z0: Any, before: Any) -> Any:
            return gram(lambda parameters: step(parameters, before, inputs), theta, q)

        def ntk(q: Any, theta: Any, inputs: Any, z0: Any, before: Any) -> Any:
            return gram(lambda parameters: run(parameters, inputs, z0), theta, q)

        self.operators = {"P": jax.jit(p), "P^T": jax.jit(p_transposed), "K": jax.jit(k), "NTK": jax.jit(ntk)}
        self.starts = jax.jit(lambda *problem: self.before(run(*problem), z0=problem[2]))

    @staticmethod
    def columns(problem: Problem) -> tuple[str, ...]:
        """All."""
        return problem.columns

    def build(self) -> Any:
        """Run the network: there is nothing else to prepare."""
        return self.starts(self.parameters, self.inputs, self.z0).block_until_ready()

    def apply(self, built: Any, column: str) -> Any:
        """Apply an operator to the tensor, run the network, or differentiate the loss."""
        theta, inputs, z0 = self.parameters, self.inputs, self.z0
        if column == "forward":
            result = self.forward(theta, inputs, z0)
        elif column == "gradient":
            result = self.gradient(theta, inputs, z0, self.tensor)
        else:
            result = self.operators[column](self.tensor, theta, inputs, z0, built)
        return self.jax.block_until_ready(result)


class JaxLinearized(_Scan):
    """`jax.linearize` once per flow, and `jax.linear_transpose` of it: what can be stored is stored."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        jax, run, step, mu = self.jax, self.run, self.step, self.mu
        like = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), self.parameters)

        def linearize(theta: Any, inputs: Any, z0: Any) -> dict[str, Any]:
            zero = jax.numpy.zeros(self.tensor.shape, self.tensor.dtype)
            states, p = jax.linearize(lambda forcing: run(theta, inputs, z0, forcing), zero)
            built = {"P": p, "NTK": jax.linearize(lambda parameters: run(parameters, inputs, z0), theta)[1]}
            if "K" in problem.columns:
                starts = self.before(states, z0)
                built["K"] = jax.linearize(lambda parameters: step(parameters, starts, inputs), theta)[1]
            return built

        def gram(linear: Any, q: Any) -> Any:
            return linear(*jax.linear_transpose(linear, like)(mu * q))

        # The linear maps cross from one jitted function to the next as trees of arrays.
        self.linearize = jax.jit(linearize)
        self.functions = {
            "P": jax.jit(lambda linear, q: linear(q)),
            "P^T": jax.jit(lambda linear, g: jax.linear_transpose(linear, g)(g)[0]),
            "K": jax.jit(gram),
            "NTK": jax.jit(gram),
        }

    @staticmethod
    def columns(problem: Problem) -> tuple[str, ...]:
        """All that is linear."""
        return tuple(column for column in problem.columns if column not in ("forward", "gradient"))

    def build(self) -> dict[str, Any]:
        """Linearise by the forcing, and by the parameters with and without the flow."""
        built: dict[str, Any] = self.jax.block_until_ready(self.linearize(self.parameters, self.inputs, self.z0))
        return built

    def apply(self, built: Mapping[str, Any], column: str) -> Any:
        """Apply an operator to the tensor."""
        linear = built["P" if column == "P^T" else column]
        return self.functions[column](linear, self.tensor).block_until_ready()
