"""The contenders of ``kpref bench``: kpref itself, jitted JAX, and torch.func with stored state Jacobians.

Each builds, for the same network and trials and the measure ``mean``, the operators

    P = dZ/dq (forcing to states),  P^T,  K = J J^T mu  and  NTK = P K P* = (P J)(P J)^T mu,  mu = 1 / (B T).

``python -m kpref.bench_peers CONTENDER PROBLEM`` serves one of them to `kpref.bench` from a process of its own, so
that its memory and its threads are nobody else's: a request is a line of JSON on standard input, its answer a line of
JSON on standard output. JAX and PyTorch are imported here and nowhere else in kpref.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kpref.memory import require_memory
from kpref.models import GRU, RNN, LeakyRNN, Model

OPERATORS = ("P", "P^T", "K", "NTK")
MODELS: dict[str, type[Model]] = {"gru": GRU, "rnn": RNN, "leaky": LeakyRNN}

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

    def make_model(self) -> Model:
        """The network: recurrent weights of gain one."""
        return MODELS[self.model].init(self.inputs, self.states, seed=0)

    def make_trials(self) -> tuple[Array, Array, Array]:
        """Inputs (B, T, n_in), initial states (B, H), and the tensor (B, T, H) that the operators are applied to."""
        generator = np.random.default_rng(1)
        inputs = generator.normal(size=(self.trials, self.steps, self.inputs))
        return inputs, generator.normal(size=(self.trials, self.states)), generator.normal(size=self.shape)


class Contender(Protocol):
    """What is timed. Construction takes the problem; `build` and `apply` return when their work is done."""

    compiles_for_a_shape: bool
    """Whether code is compiled for the sizes of the arrays, so that a small problem does not warm up a large one."""

    def __init__(self, problem: Problem) -> None: ...

    def build(self) -> None:
        """Run the network and prepare its operators, anew at every call."""

    def apply(self, operator: str) -> Any:
        """Apply one of `OPERATORS`; the result is in the layout of the contender."""

    def to_numpy(self, result: Any) -> Array:
        """Convert what `apply` returned to an array (B, T, H)."""


class Kpref:
    """kpref: the coefficients of the site form along the states, and kernels over them."""

    compiles_for_a_shape = False

    def __init__(self, problem: Problem) -> None:
        self.model, self.dtype = problem.make_model(), np.dtype(problem.dtype)
        self.inputs, self.z0, tensor = problem.make_trials()
        self.tensor = tensor.astype(self.dtype)

    def build(self) -> None:
        """Make the flow."""
        from kpref.flow import Flow

        self.flow = Flow(self.model, self.inputs, z0=self.z0, dtype=self.dtype)
        self.operators = {"P": self.flow.P, "P^T": self.flow.P.T, "K": self.flow.K, "NTK": self.flow.NTK}

    def apply(self, operator: str) -> Array:
        """Apply an operator to the tensor."""
        result: Array = self.operators[operator](self.tensor)
        return result

    def to_numpy(self, result: Array) -> Array:
        """Nothing to convert."""
        return result


def make_step(model: Model, tanh: Callable[[Any], Any], sigmoid: Callable[[Any], Any]) -> Callable[..., Any]:
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
        self.jax = jax
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

    def build(self) -> None:
        """Run the network."""
        starts = self.forward(self.parameters, self.inputs, self.z0, self.zero).block_until_ready()
        self.arguments = (self.parameters, self.inputs, self.z0, starts, self.zero)

    def apply(self, operator: str) -> Any:
        """Apply an operator to the tensor."""
        return self.operators[operator](self.tensor, *self.arguments).block_until_ready()


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

    def build(self) -> None:
        """Linearise by the forcing, and by the parameters with and without the flow."""
        p, j, d = self.jax.block_until_ready(self.linearize(self.parameters, self.inputs, self.z0, self.zero))
        self.linear = {"P": p, "P^T": p, "K": j, "NTK": d}

    def apply(self, operator: str) -> Any:
        """Apply an operator to the tensor."""
        return self.functions[operator](self.linear[operator], self.tensor).block_until_ready()


class TorchStored:
    """torch.func in float32: state Jacobians (B, T, H, H) stored, parameters by `jvp` and `vjp` of the step."""

    compiles_for_a_shape = False

    def __init__(self, problem: Problem) -> None:
        import torch

        self.torch = torch
        model = problem.make_model()
        to_tensor = lambda array: torch.from_numpy(np.array(array, np.float32))  # noqa: E731
        self.inputs, self.z0, self.tensor = (to_tensor(array) for array in problem.make_trials())
        self.parameters = {name: to_tensor(value) for name, value in model.parameters.items()}
        self.mu = 1.0 / (problem.trials * problem.steps)
        self.step = make_step(model, torch.tanh, torch.sigmoid)
        jacobians = 4 * problem.states * float(np.prod(problem.shape))
        require_memory(2 * jacobians, "storing the state Jacobians of the PyTorch contender")

    def build(self) -> None:
        """Run the network, then differentiate every step by its state."""
        torch = self.torch
        with torch.no_grad():
            starts = [self.z0]
            for x in self.inputs.unbind(1)[:-1]:
                starts.append(self.step(self.parameters, starts[-1], x))
            self.before = torch.stack(starts, 1)
            b, t, h = self.before.shape
            jacobian = torch.func.vmap(torch.func.jacrev(self.step, argnums=1), in_dims=(None, 0, 0))
            self.jacobians = torch.empty(b, t, h, h)
            for n in range(t):
                self.jacobians[:, n] = jacobian(self.parameters, self.before[:, n], self.inputs[:, n])

    def apply(self, operator: str) -> Any:
        """Apply an operator to the tensor."""
        with self.torch.no_grad():
            return {"P": self.p, "P^T": self.p_transposed, "K": self.k, "NTK": self.ntk}[operator](self.tensor)

    def p(self, q: Any) -> Any:
        """Forward in time, one batched product a step."""
        rows = [q[:, 0, :, None]]
        for n in range(1, q.shape[1]):
            rows.append(self.torch.baddbmm(q[:, n, :, None], self.jacobians[:, n], rows[-1]))
        return self.torch.stack(rows, 1)[..., 0]

    def p_transposed(self, g: Any) -> Any:
        """Backward in time."""
        rows = [g[:, -1, :, None]]
        for n in range(g.shape[1] - 2, -1, -1):
            rows.append(self.torch.baddbmm(g[:, n, :, None], self.jacobians[:, n + 1].mT, rows[-1]))
        return self.torch.stack(rows[::-1], 1)[..., 0]

    def k(self, q: Any) -> Any:
        """All steps of all trials at once, they have their starting states."""
        func = self.torch.func

        def step(parameters: Any) -> Any:
            return self.step(parameters, self.before, self.inputs)

        (gradient,) = func.vjp(step, self.parameters)[1](self.mu * q)
        return func.jvp(step, (self.parameters,), (gradient,))[1]

    def ntk(self, q: Any) -> Any:
        """P K P*, where P* = P^T as mu is constant."""
        return self.p(self.k(self.p_transposed(q)))

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


def resident_memory(name: str) -> int | None:
    """Read ``VmRSS`` or ``VmHWM`` (its peak) of this process, in bytes; None where the system does not tell."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None


def reset_peak_memory() -> bool:
    """Give freed memory back to the system and start ``VmHWM`` anew (proc(5)); False where that is not possible."""
    gc.collect()
    try:
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def measure_memory(name: str, problem: Problem) -> tuple[Contender, int | None]:
    """Peak memory of building the operators and one product with the NTK, beyond imports, code and the problem itself.

    Returns
    -------
    contender : Contender
        Built.
    peak : int or None
        Bytes, or None where the system does not tell.
    """
    small = replace(problem, trials=2, steps=3)
    warm = CONTENDERS[name](problem if CONTENDERS[name].compiles_for_a_shape else small)
    warm.build()
    warm.apply("NTK")
    if CONTENDERS[name].compiles_for_a_shape:
        contender = warm  # with its compiled functions; what they return is dropped
        vars(contender).pop("linear", None)
        vars(contender).pop("arguments", None)
    else:
        contender = CONTENDERS[name](problem)
    can_measure = reset_peak_memory()
    before = resident_memory("VmRSS")
    contender.build()
    contender.apply("NTK")
    after = resident_memory("VmHWM")
    known = can_measure and before is not None and after is not None
    return contender, after - before if known else None  # type: ignore[operator]
