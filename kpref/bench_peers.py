"""The contenders of ``kpref bench``: kpref itself, jitted JAX, and torch.func with stored state Jacobians.

Each applies, for the same network and trials and the measure ``mean``, the operators

    P = dZ/dq (forcing to states),  P^T,  K = J J^T mu  and  NTK = P K P* = (P J)(P J)^T mu,  mu = 1 / (B T).

JAX and PyTorch are imported here, and nowhere else in kpref.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kpref.memory import require_memory
from kpref.models import GRU, RNN, LeakyRNN
from kpref.threads import get_num_threads

OPERATORS = ("P", "P^T", "K", "NTK")
MODELS: dict[str, type[GRU] | type[RNN] | type[LeakyRNN]] = {"gru": GRU, "rnn": RNN, "leaky": LeakyRNN}

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Problem:
    """A random network and its trials, the same in every process.

    Attributes
    ----------
    model : {"gru", "rnn", "leaky"}
    trials, steps, states, inputs : int
        B, T, H, n_in.
    dtype : {"float64", "float32"}
        Of kpref and JAX.
    """

    model: str
    trials: int
    steps: int
    states: int
    inputs: int
    dtype: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, T, H)."""
        return self.trials, self.steps, self.states

    def make_model(self) -> GRU | RNN | LeakyRNN:
        """The network: recurrent weights of gain one."""
        return MODELS[self.model].init(self.inputs, self.states, seed=0)

    def make_trials(self) -> tuple[Array, Array, Array]:
        """Inputs (B, T, n_in), initial states (B, H), and the tensor (B, T, H) that the operators are applied to."""
        generator = np.random.default_rng(1)
        inputs = generator.normal(size=(self.trials, self.steps, self.inputs))
        return inputs, generator.normal(size=(self.trials, self.states)), generator.normal(size=self.shape)


class Contender(Protocol):
    """What is timed. It holds the problem; what `build` makes of it is kept by the caller."""

    compiles_for_a_shape: bool
    """Whether code is compiled for the sizes of the arrays, so that a small problem does not warm up a large one."""

    dtype: str
    """Of its arithmetic."""

    def __init__(self, problem: Problem) -> None: ...

    def build(self) -> Any:
        """Run the network and prepare its operators; returns when that is done."""

    def apply(self, built: Any, operator: str) -> Any:
        """Apply one of `OPERATORS` to the tensor of the problem, in the contender's own layout."""

    def to_numpy(self, result: Any) -> Array:
        """Convert what `apply` returned to an array (B, T, H)."""


class Kpref:
    """kpref: the coefficients of the site form along the states, and kernels over them."""

    compiles_for_a_shape = False

    def __init__(self, problem: Problem) -> None:
        self.model, self.dtype = problem.make_model(), problem.dtype
        self.inputs, self.z0, tensor = problem.make_trials()
        self.tensor = tensor.astype(self.dtype)

    def build(self) -> dict[str, Callable[[Array], Array]]:
        """Make the flow."""
        from kpref.flow import Flow

        flow = Flow(self.model, self.inputs, z0=self.z0, dtype=np.dtype(self.dtype))
        return {"P": flow.P, "P^T": flow.P.T, "K": flow.K, "NTK": flow.NTK}

    def apply(self, built: Mapping[str, Callable[[Array], Array]], operator: str) -> Array:
        """Apply an operator to the tensor."""
        return built[operator](self.tensor)

    def to_numpy(self, result: Array) -> Array:
        """Nothing to convert."""
        return result


def make_step(
    model: GRU | RNN | LeakyRNN, tanh: Callable[[Any], Any], sigmoid: Callable[[Any], Any]
) -> Callable[..., Any]:
    """Write the map of a model as ``step(parameters, z, x)`` for another array library, given its tanh and sigmoid."""

    def gru(parameters: Mapping[str, Any], z: Any, x: Any) -> Any:
        from_states = z @ parameters["weight_hh"].T + parameters["bias_hh"]
        from_inputs = x @ parameters["weight_ih"].T + parameters["bias_ih"]
        h = z.shape[-1]
        reset = sigmoid(from_states[..., :h] + from_inputs[..., :h])
        update = sigmoid(from_states[..., h : 2 * h] + from_inputs[..., h : 2 * h])
        candidate = tanh(from_inputs[..., 2 * h :] + reset * from_states[..., 2 * h :])
        return (1 - update) * candidate + update * z

    def rnn(parameters: Mapping[str, Any], z: Any, x: Any) -> Any:
        from_states = z @ parameters["weight_hh"].T + parameters["bias_hh"]
        return tanh(from_states + x @ parameters["weight_ih"].T + parameters["bias_ih"])

    def leaky(parameters: Mapping[str, Any], z: Any, x: Any) -> Any:
        current = tanh(z) @ parameters["weight_hh"].T + x @ parameters["weight_ih"].T + parameters["bias"]
        return (1 - alpha) * z + alpha * current

    if isinstance(model, LeakyRNN):
        alpha = model.alpha
        return leaky
    return gru if isinstance(model, GRU) else rnn


class _Jax:
    """The network as a `jax.lax.scan` over time, jitted; tensors are time-major, as the scan wants them."""

    compiles_for_a_shape = True

    def __init__(self, problem: Problem) -> None:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", problem.dtype == "float64")
        self.jax, self.dtype = jax, problem.dtype
        model = problem.make_model()
        inputs, z0, tensor = (jnp.asarray(array, problem.dtype) for array in problem.make_trials())
        self.parameters = {name: jnp.asarray(value, problem.dtype) for name, value in model.parameters.items()}
        self.inputs, self.z0, self.tensor = jnp.swapaxes(inputs, 0, 1), z0, jnp.swapaxes(tensor, 0, 1)
        self.zero = jnp.zeros_like(self.tensor)
        self.mu = 1.0 / (problem.trials * problem.steps)
        self.step = make_step(model, jnp.tanh, jax.nn.sigmoid)

    def run(self, parameters: Any, forcing: Any, inputs: Any, z0: Any) -> Any:
        """States (T, B, H) of the network with `forcing` added at every step."""

        def advance(z: Any, row: Any) -> Any:
            x, q = row
            z = self.step(parameters, z, x) + q
            return z, z

        return self.jax.lax.scan(advance, z0, (inputs, forcing))[1]

    def before(self, states: Any, z0: Any) -> Any:
        """The state that each step starts from, (T, B, H)."""
        return self.jax.numpy.concatenate([z0[None], states[:-1]])

    def to_numpy(self, result: Any) -> Array:
        """To trials first."""
        return np.swapaxes(np.asarray(result), 0, 1)


class JaxTransforms(_Jax):
    """`jax.jvp` and `jax.vjp` through the scan at every call: little memory, the forward pass again each time."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        jax, run, step, mu = self.jax, self.run, self.step, self.mu

        def p(q: Any, theta: Any, inputs: Any, z0: Any, before: Any, zero: Any) -> Any:
            return jax.jvp(lambda forcing: run(theta, forcing, inputs, z0), (zero,), (q,))[1]

        def p_transposed(g: Any, theta: Any, inputs: Any, z0: Any, before: Any, zero: Any) -> Any:
            return jax.vjp(lambda forcing: run(theta, forcing, inputs, z0), zero)[1](g)[0]

        def gram(function: Callable[[Any], Any], theta: Any, q: Any) -> Any:
            gradient = jax.vjp(function, theta)[1](mu * q)
            return jax.jvp(function, (theta,), tuple(gradient))[1]

        def k(q: Any, theta: Any, inputs: Any, z0: Any, before: Any, zero: Any) -> Any:
            return gram(lambda parameters: step(parameters, before, inputs), theta, q)

        def ntk(q: Any, theta: Any, inputs: Any, z0: Any, before: Any, zero: Any) -> Any:
            return gram(lambda parameters: run(parameters, zero, inputs, z0), theta, q)

        self.forward = jax.jit(lambda theta, inputs, z0, zero: self.before(run(theta, zero, inputs, z0), z0))
        self.operators = {"P": jax.jit(p), "P^T": jax.jit(p_transposed), "K": jax.jit(k), "NTK": jax.jit(ntk)}

    def build(self) -> Any:
        """Run the network."""
        return self.forward(self.parameters, self.inputs, self.z0, self.zero).block_until_ready()

    def apply(self, built: Any, operator: str) -> Any:
        """Apply an operator to the tensor."""
        function, theta = self.operators[operator], self.parameters
        return function(self.tensor, theta, self.inputs, self.z0, built, self.zero).block_until_ready()


class JaxLinearized(_Jax):
    """`jax.linearize` once per flow, and `jax.linear_transpose` of it: what can be stored is stored."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        jax, run, step, mu = self.jax, self.run, self.step, self.mu
        like = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), self.parameters)

        def linearize(theta: Any, inputs: Any, z0: Any, zero: Any) -> Any:
            states, p = jax.linearize(lambda forcing: run(theta, forcing, inputs, z0), zero)
            starts = self.before(states, z0)
            j = jax.linearize(lambda parameters: step(parameters, starts, inputs), theta)[1]
            d = jax.linearize(lambda parameters: run(parameters, zero, inputs, z0), theta)[1]
            return p, j, d

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

    def build(self) -> dict[str, Any]:
        """Linearise by the forcing, and by the parameters with and without the flow."""
        p, j, d = self.jax.block_until_ready(self.linearize(self.parameters, self.inputs, self.z0, self.zero))
        return {"P": p, "P^T": p, "K": j, "NTK": d}

    def apply(self, built: Mapping[str, Any], operator: str) -> Any:
        """Apply an operator to the tensor."""
        return self.functions[operator](built[operator], self.tensor).block_until_ready()


class TorchStored:
    """torch.func in float32: state Jacobians (B, T, H, H) stored, parameters by `jvp` and `vjp` of the step."""

    compiles_for_a_shape = False
    dtype = "float32"

    def __init__(self, problem: Problem) -> None:
        import torch

        torch.set_num_threads(get_num_threads())
        self.torch, model = torch, problem.make_model()
        jacobians = 4 * problem.states * float(np.prod(problem.shape))
        require_memory(1.5 * jacobians, "storing the state Jacobians")
        self.inputs, self.z0, self.tensor = (torch.tensor(array).float() for array in problem.make_trials())
        self.parameters = {name: torch.tensor(value).float() for name, value in model.parameters.items()}
        self.mu = 1.0 / (problem.trials * problem.steps)
        self.step = make_step(model, torch.tanh, torch.sigmoid)

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

    def apply(self, built: tuple[Any, Any], operator: str) -> Any:
        """Apply an operator to the tensor."""
        before, jacobians = built
        with self.torch.no_grad():
            if operator == "P":
                return self.p(jacobians, self.tensor)
            if operator == "P^T":
                return self.p_transposed(jacobians, self.tensor)
            if operator == "K":
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
    "jax jvp/vjp": JaxTransforms,
    "jax linearize": JaxLinearized,
    "torch.func stored": TorchStored,
}
