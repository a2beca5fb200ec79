"""The contenders of ``kpref bench`` by name: kpref itself, torch.func with stored state Jacobians, and those in JAX.

PyTorch is imported here, and nowhere else in kpref.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from kpref._types import Array
from kpref.bench.jax import Diffrax, JaxLinearized, JaxTransforms
from kpref.bench.steps import Library, make_step
from kpref.bench.workload import Contender, Problem
from kpref.flow import Flow
from kpref.memory import require_memory
from kpref.threads import get_num_threads


class Kpref:
    """kpref: the coefficients of the linearised step along the states, and kernels over them."""

    package: str | None = None
    compiles_for_a_shape = False

    def __init__(self, problem: Problem) -> None:
        self.model, self.dtype = problem.make_model(), problem.dtype
        self.inputs, self.z0, tensor = problem.make_trials()
        self.tensor = tensor.astype(self.dtype)
        self.grid: dict[str, Any] = {}  # what only flows of fields have
        if problem.method is not None:
            self.grid = {"times": problem.times, "method": problem.method, "input_kind": "linear"}

    @staticmethod
    def columns(problem: Problem) -> tuple[str, ...]:
        """All."""
        return problem.columns

    def build(self) -> Flow:
        """Make the flow, and linearise it: at all stages of a Runge-Kutta method, which are then kept."""
        flow = self.make_flow(sys.float_info.max)
        if self.grid:
            system = flow._field_dynamics().system
            for segment in system.segments:
                system.form(segment)
        return flow

    def make_flow(self, stage_memory: float) -> Flow:
        """The flow of the problem."""
        stages = {"stage_memory": stage_memory, **self.grid} if self.grid else {}
        return Flow(self.model, self.inputs, z0=self.z0, dtype=np.dtype(self.dtype), **stages)

    def apply(self, built: Flow, column: str) -> Array:
        """Apply an operator to the tensor, run the model, or take the gradient."""
        if column == "forward":
            return built.rerun(self.model)
        if column == "gradient":
            flow = self.make_flow(sys.float_info.max)
            return flow.D.T(flow.space.mu[:, :, None] * (flow.states - self.tensor))
        operator = built.P.T if column == "P^T" else getattr(built, column)
        result: Array = operator(self.tensor)
        return result

    def to_numpy(self, result: Array) -> Array:
        """Nothing to convert."""
        return result


class TorchStored:
    """torch.func in float32: state Jacobians (B, T, H, H) stored, parameters by `jvp` and `vjp` of the step."""

    package: str | None = "torch"
    compiles_for_a_shape = False
    dtype = "float32"

    @staticmethod
    def columns(problem: Problem) -> tuple[str, ...]:
        """All of a map; the Jacobians at all stages of a Runge-Kutta method would be too many to store."""
        return problem.columns if problem.method is None else ()

    def __init__(self, problem: Problem) -> None:
        import torch

        torch.set_num_threads(get_num_threads())
        self.torch, model = torch, problem.make_model()
        jacobians = 4 * problem.shape[2] * float(np.prod(problem.shape))
        require_memory(1.5 * jacobians, "storing the state Jacobians")
        self.inputs, self.z0, self.tensor = (torch.tensor(array).float() for array in problem.make_trials())
        self.parameters = {name: torch.tensor(value).float() for name, value in model.parameters.items()}
        self.mu = float(problem.weights[0])
        self.step = make_step(model, Library(torch.tanh, torch.sigmoid, lambda parts: torch.cat(tuple(parts), -1)))

    def build(self) -> tuple[Any, Any]:
        """Run the network, then differentiate every step by its state: starting states and Jacobians."""
        torch = self.torch
        with torch.no_grad():
            starts = [self.z0]
            for x in self.inputs.unbind(1)[:-1]:
                starts.append(self.step(self.parameters, starts[-1], x))
            before = torch.stack(starts, 1)
            b, t, h = before.shape
            jacobian = torch.func.vmap(torch.func.jacrev(self.step, argnums=1), in_dims=(None, 0, 0))
            jacobians = torch.empty(b, t, h, h)
            # One step of all trials at a time: all steps at once take three times as long and eight times the memory.
            for n in range(t):
                jacobians[:, n] = jacobian(self.parameters, before[:, n], self.inputs[:, n])
        return before, jacobians

    def apply(self, built: tuple[Any, Any], column: str) -> Any:
        """Apply an operator to the tensor."""
        before, jacobians = built
        with self.torch.no_grad():
            if column == "P":
                return self.p(jacobians, self.tensor)
            if column == "P^T":
                return self.p_transposed(jacobians, self.tensor)
            if column == "K":
                return self.k(before, self.tensor)
            # P* = P^T, as mu is constant.
            return self.p(jacobians, self.k(before, self.p_transposed(jacobians, self.tensor)))

    def p(self, jacobians: Any, q: Any) -> Any:
        """Forward in time, one batched product a step."""
        rows = [q[:, 0, :, None]]
        for n in range(1, q.shape[1]):
            rows.append(self.torch.baddbmm(q[:, n, :, None], jacobians[:, n], rows[-1]))
        return self.torch.stack(rows, 1)[..., 0]

    def p_transposed(self, jacobians: Any, g: Any) -> Any:
        """Backward in time."""
        rows = [g[:, -1, :, None]]
        for n in range(g.shape[1] - 1, 0, -1):
            rows.append(self.torch.baddbmm(g[:, n - 1, :, None], jacobians[:, n].mT, rows[-1]))
        return self.torch.stack(rows[::-1], 1)[..., 0]

    def k(self, before: Any, q: Any) -> Any:
        """All steps of all trials at once: their starting states are known."""

        def step(parameters: Any) -> Any:
            return self.step(parameters, before, self.inputs)

        (gradient,) = self.torch.func.vjp(step, self.parameters)[1](self.mu * q)
        return self.torch.func.jvp(step, (self.parameters,), (gradient,))[1]

    def to_numpy(self, result: Any) -> Array:
        """From a tensor."""
        array: Array = result.numpy()
        return array


CONTENDERS: dict[str, type[Contender]] = {
    "kpref": Kpref,
    "diffrax": Diffrax,
    "jax jvp/vjp": JaxTransforms,
    "jax linearize": JaxLinearized,
    "torch.func stored": TorchStored,
}
