"""diffrax and torchdiffeq, judged: same steps by certificates, adjoints by what they converge to."""

import numpy as np
import pytest
from apparatus.adjoint_backends import held_flow

from kpref import Flow
from kpref.oracle import diffrax_backend, torchdiffeq_backend, verify, verify_convergence

STEPS = (0.25, 0.125, 0.0625)


def given(flow):
    return flow.inputs, flow.z0, flow.solution.times


@pytest.fixture
def jax():
    """JAX in float64."""
    module = pytest.importorskip("jax")
    pytest.importorskip("diffrax")
    before = module.config.jax_enable_x64
    module.config.update("jax_enable_x64", True)
    yield module
    module.config.update("jax_enable_x64", before)


def jax_field(flow):
    import jax.numpy as jnp

    def field(p, z, x):
        current = jnp.tanh(z) @ p["weight_hh"].T + x @ p["weight_ih"].T + p["bias"]
        return (current - z) / jnp.asarray(flow.model.tau, z.dtype)

    return field


@pytest.mark.backends
def test_diffrax_in_the_same_steps_is_certified(jax):
    import diffrax

    flow = held_flow()
    same = Flow(flow.model, *given(flow)[:2], times=flow.solution.times, method="heun")
    backend = diffrax_backend(jax_field(flow), dict(flow.model.parameters), *given(flow), diffrax.Heun())
    assert verify(backend, same).passed
    other = Flow(flow.model, *given(flow)[:2], times=flow.solution.times, method="ralston")
    assert not verify(backend, other).passed


@pytest.mark.backends
def test_the_adjoint_of_diffrax_converges(jax):
    import diffrax

    flow = held_flow(intervals=2)
    field, parameters = jax_field(flow), dict(flow.model.parameters)

    def backend_of(step):
        return diffrax_backend(field, parameters, *given(flow), diffrax.Euler(), "backsolve", step=step)

    report = verify_convergence(backend_of, flow, (0.1, 0.05, 0.025), 1.0)
    assert report.passed
    assert all(check.verdict == "pass" for check in report.checks)


@pytest.mark.backends
@pytest.mark.parametrize("adjoint", ["direct", "adjoint"])
def test_torchdiffeq_converges(adjoint):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchdiffeq")
    flow = held_flow()
    tau = torch.tensor(np.array(flow.model.tau))
    parameters = {name: torch.tensor(np.array(value)) for name, value in flow.model.parameters.items()}

    def field(p, z, x):
        return (torch.tanh(z) @ p["weight_hh"].T + x @ p["weight_ih"].T + p["bias"] - z) / tau

    def backend_of(step):
        return torchdiffeq_backend(field, parameters, *given(flow), "rk4", adjoint, step=step)

    assert verify_convergence(backend_of, flow, STEPS, 4.0).passed


@pytest.mark.backends
def test_arguments():
    pytest.importorskip("jax")
    flow = held_flow()
    with pytest.raises(ValueError, match="both step and tolerance"):
        diffrax_backend(lambda p, z, x: z, {"w": np.ones(1)}, *given(flow), step=0.1, tolerance=0.1)
    with pytest.raises(ValueError, match="both step and tolerance"):
        torchdiffeq_backend(lambda p, z, x: z, {"w": np.ones(1)}, *given(flow), step=0.1, tolerance=0.1)
    with pytest.raises(ValueError, match="adjoint must be"):
        torchdiffeq_backend(lambda p, z, x: z, {"w": np.ones(1)}, *given(flow), adjoint="backsolve")
