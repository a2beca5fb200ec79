"""torch_backend: modules as they are trained, by whatever derivatives their kernels have, in what they compute in."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from apparatus.offered import offering

from kpref import Flow
from kpref.oracle import torch_backend, verify
from kpref.oracle.grid import PROBLEMS

torch = pytest.importorskip("torch")
# Behind importorskip: these import PyTorch.
from apparatus import torch_kernels as kernels  # noqa: E402

from kpref.oracle.adapters.torch_precision import Autocast, arithmetic_of  # noqa: E402
from kpref.oracle.adapters.torch_products import find_push  # noqa: E402

pytestmark = [pytest.mark.backends, pytest.mark.usefixtures("torch_on_one_thread")]
REVERSE = {"P_T", "J_T", "gradient"}


def problem(name="gru-weights", **changes):
    return replace(PROBLEMS[name], **changes).build(seed=3)


def filled(module, flow, dtype=torch.float64):
    """A module with the parameters of a flow."""
    module = module.to(dtype)
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), flow.model.parameters.values(), strict=True):
            parameter.copy_(torch.tensor(value))
    return module


def of(module, flow, dtype=torch.float64):
    return torch_backend(filled(module, flow, dtype), flow.inputs, flow.z0, flow.space.mu)


def gru_cell(flow):
    return torch.nn.GRUCell(flow.model.n_inputs, flow.model.n_units)


def judged(backend, flow, **options):
    """Operators that passed, and those that were found to be wrong."""
    report = verify(backend, flow, **options)
    assert not [check for check in report.checks if check.verdict == "could not run"], str(report)
    wrong = {check.operator for check in report.defects}
    return {check.operator for check in report.checks if check.verdict == "pass"} - wrong, wrong


OPERATORS = ("P", "P_T", "P_inverse", "J", "J_T", "K", "NTK", "gradient")
EVERYTHING = {"states", *OPERATORS}


@pytest.fixture
def no_torchscript(monkeypatch):
    """Forward mode without the compiler of TorchScript, which it loads for operations that are not used here."""
    monkeypatch.setenv("PYTORCH_JIT", "0")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("cell", [kernels.FusedCell, kernels.ForwardCell])
def test_cells_with_one_way_forwards(cell, dtype, monkeypatch, no_torchscript):
    monkeypatch.setattr(torch.nn.modules.rnn, "_VF", kernels.cells(cell))
    flow = problem()
    backend = of(gru_cell(flow), flow, dtype)
    assert not backend.not_offered
    if dtype == torch.float64:
        q = np.random.default_rng(0).normal(size=flow.states.shape)
        assert np.abs(backend.P(q).numpy() - flow.P(q)).max() < 1e-12
    assert judged(backend, flow) == (EVERYTHING, set())


@pytest.mark.parametrize(
    "cell, reason",
    [
        (kernels.FinalCell, "a part of the derivative is lost"),
        (kernels.SilentCell, "a part of the derivative is lost"),
        (kernels.HalfSilentCell, "a part of the derivative is lost"),
    ],
)
def test_cells_with_no_way_forwards_are_judged_backwards(cell, reason, monkeypatch, no_torchscript):
    monkeypatch.setattr(torch.nn.modules.rnn, "_VF", kernels.cells(cell))
    flow = problem()
    backend = of(gru_cell(flow), flow)
    assert set(backend.not_offered) == set(OPERATORS) - REVERSE
    report = verify(backend, flow)
    assert report.passed
    assert {check.operator for check in report.checks if check.verdict == "pass"} == {"states", *REVERSE}
    for check in report.checks:
        if check.operator in backend.not_offered:
            assert check.verdict == "not offered"
            assert reason in check.message
            assert "forward mode" in check.message
            assert check.message in str(report)


def test_a_jacobian_that_vanishes_is_not_lost():
    """A saturated cell, whose squares underflow: its products are tiny or zero, and right."""
    flow = problem()
    biases = np.repeat([-64.0, -64.0, 0.0], flow.model.n_units)
    model = flow.model.with_parameters({"bias_ih": biases, "weight_hh": 0 * flow.model.parameters["weight_hh"]})
    assert not of(gru_cell(flow), Flow(model, flow.inputs, flow.z0), torch.float32).not_offered


def test_derivatives_beyond_float16_are_not_called_lost():
    """Steps of a relu network times twelve: it is the numbers that overflow, and not a kernel that loses them."""
    generator = torch.Generator().manual_seed(0)
    module = torch.nn.RNN(2, 6, batch_first=True, nonlinearity="relu")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(400 * torch.rand(parameter.shape, generator=generator))
    inputs = torch.ones(2, 5, 2)
    push, reason = find_push(lambda x: module.half()(x.half())[0], (inputs.half(),))
    assert push is None
    assert reason == "its derivatives grow beyond the range of float16 here"


def test_runs_are_the_kernels_of_training(monkeypatch):
    """States and gradient by the fused kernel of the whole run, the rest by steps that have derivatives."""
    monkeypatch.setattr(torch.nn.modules.rnn, "_VF", kernels.runs())
    flow = problem()
    module = torch.nn.GRU(flow.model.n_inputs, flow.model.n_units)
    backend = of(module, flow)
    calls = kernels.CudnnRun.calls
    backend.P_T(flow.states)
    assert kernels.CudnnRun.calls == calls
    backend.gradient(flow.states)
    assert kernels.CudnnRun.calls == calls + 1
    assert torch.backends.cudnn.enabled
    assert judged(backend, flow) == (EVERYTHING, set())
    monkeypatch.setattr(kernels.CudnnRun, "error", 1e-9)
    assert judged(backend, flow) == (EVERYTHING - {"gradient"}, {"gradient"})
    monkeypatch.setattr(kernels.CudnnRun, "error", 0.0)
    backend = of(module.eval(), flow)
    assert set(backend.not_offered) == {"gradient"}
    assert kernels.CUDNN_BACKWARD_ERROR in backend.not_offered["gradient"]
    assert judged(backend, flow) == (EVERYTHING - {"gradient"}, set())


class WrittenGRU(torch.nn.Module):
    """A module of one's own, of inputs and a state."""

    def __init__(self, n_inputs, n_units):
        super().__init__()
        sizes = {
            "weight_ih": (3 * n_units, n_inputs),
            "weight_hh": (3 * n_units, n_units),
            "bias_ih": (3 * n_units,),
            "bias_hh": (3 * n_units,),
        }
        for name, size in sizes.items():
            setattr(self, name, torch.nn.Parameter(torch.zeros(size)))

    def forward(self, x, z):
        return kernels.gru(x, z, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)


class WrittenLSTM(WrittenGRU):
    """Its state is a pair."""

    def __init__(self, n_inputs, n_units):
        torch.nn.Module.__init__(self)
        self.cell = torch.nn.LSTMCell(n_inputs, n_units)

    def forward(self, x, state):
        return self.cell(x, state)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_modules_of_ones_own(dtype):
    flow = problem()
    assert judged(of(WrittenGRU(flow.model.n_inputs, flow.model.n_units), flow, dtype), flow) == (EVERYTHING, set())
    flow = problem("lstm-plain")
    n = flow.model.n_units
    module = filled(WrittenLSTM(flow.model.n_inputs, n), flow, dtype)
    backend = torch_backend(module, flow.inputs, (flow.z0[:, :n], flow.z0[:, n:]))
    assert judged(backend, flow) == (EVERYTHING, set())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", [torch.nn.RNN, torch.nn.RNNCell])
def test_networks_of_relus(kind, dtype):
    flow = problem("rnn-plain")
    flow = Flow(type(flow.model)(**flow.model.parameters, nonlinearity="relu"), flow.inputs, flow.z0)
    module = kind(flow.model.n_inputs, flow.model.n_units, nonlinearity="relu")
    assert judged(of(module, flow, dtype), flow) == (EVERYTHING, set())


def test_states_and_gradient_of_a_run_are_those_of_training():
    """The gradient of a loss, to the last bit."""
    flow = problem("rnn-plain", measure="sum")
    module = filled(torch.nn.RNN(flow.model.n_inputs, flow.model.n_units, batch_first=True), flow)
    backend = torch_backend(module, flow.inputs, flow.z0, "sum")
    states, _ = module(torch.tensor(flow.inputs), torch.tensor(flow.z0)[None])
    (0.5 * states.square().sum()).backward()
    assert torch.equal(backend.states, states)
    expected = torch.cat([parameter.grad.flatten() for parameter in module.parameters()])
    assert torch.equal(backend.gradient(states), expected)


def test_contexts_of_the_caller_change_nothing():
    """Neither where gradients are off or operations are cast, nor in another thread."""
    flow = problem()
    module = filled(gru_cell(flow), flow, torch.float32)
    backend = of(module, flow, torch.float32)
    q = np.random.default_rng(0).normal(size=flow.states.shape)
    expected = [np.asarray(getattr(backend, name)(q)) for name in ("P", "P_T", "K", "NTK", "gradient")]
    for context in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            found = [np.asarray(getattr(backend, name)(q)) for name in ("P", "P_T", "K", "NTK", "gradient")]
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one, other)
    with torch.no_grad():
        assert not of(module, flow, torch.float32).not_offered


@pytest.mark.parametrize(
    "dtype, cast, arithmetic",
    [
        (torch.float32, torch.bfloat16, "autocast to bfloat16"),
        (torch.float32, torch.float16, "autocast to float16"),
        (torch.float64, torch.bfloat16, "float64"),
        (torch.bfloat16, None, "bfloat16"),
        (torch.float16, None, "float16"),
    ],
    ids=str,
)
def test_autocast_holds_where_the_backend_was_made_in_it(dtype, cast, arithmetic):
    flow = problem()
    with torch.autocast("cpu", cast, enabled=cast is not None):
        backend = of(gru_cell(flow), flow, dtype)
    assert backend.arithmetic.name == arithmetic
    assert judged(backend, flow) == (EVERYTHING, set())
    if dtype == torch.float32:
        assert judged(offering(backend), flow, arithmetic="float32")[1] == {"states"}
    found = []
    thread = threading.Thread(target=lambda: found.append(backend.P_T(flow.states)))
    thread.start()
    thread.join()
    assert torch.equal(found[0], backend.P_T(flow.states))


def test_the_scale_of_a_grad_scaler():
    """What `torch.amp.GradScaler` does to a loss of which float16 would keep nothing."""
    flow = problem()
    module, scaler = filled(gru_cell(flow), flow, torch.float32), torch.amp.GradScaler("cpu", init_scale=2.0**16)
    assert float(scaler.scale(torch.ones(()))) == scaler.get_scale()
    weights = np.full(flow.states.shape[:2], 2.0**-24)
    flow = Flow(flow.model, flow.inputs, flow.z0, weights)
    with torch.autocast("cpu", torch.float16):
        backend = torch_backend(module, flow.inputs, flow.z0, weights, scaler.get_scale())
    err = np.random.default_rng(0).normal(size=flow.states.shape)
    right = flow.D.star(err)
    found = np.asarray(backend.gradient(err))
    assert np.linalg.norm(found - right) < 1e-2 * np.linalg.norm(right)
    assert judged(offering(backend, "gradient"), flow)[1] == set()


def test_what_autocast_declares_is_what_is_measured():
    """Its functions err by 2^15 units of what states are kept in, and by half a unit of what they are computed in."""

    def factory(flow):
        with torch.autocast("cpu", torch.bfloat16):
            return of(gru_cell(flow), flow, torch.float32)

    report = verify(None, problem(), factory=factory)
    assert report.exit_status == 0, str(report)
    assert max(check.figure for check in report.checks if check.operator == "states") > 0.1  # held to no more than that


@pytest.mark.parametrize("arithmetic, operand", [("tf32", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_short_products_are_measured_and_declared(arithmetic, operand):
    """As on a device that makes use of `torch.set_float32_matmul_precision`."""
    flow = problem()
    short = kernels.ShortProducts(arithmetic)
    with short:
        backend = of(gru_cell(flow), flow, torch.float32)
    assert (backend.arithmetic.unit, backend.arithmetic.operand) == (2.0**-24, operand)
    found = {name: short.around(getattr(backend, name)) for name in OPERATORS}
    parts = SimpleNamespace(states=backend.states, arithmetic=backend.arithmetic, **found)
    assert judged(parts, flow) == (EVERYTHING, set())
    assert judged(offering(parts, "P"), flow, arithmetic="float32")[1] == {"states", "P"}


def test_the_flag_of_cudnn_is_read(monkeypatch):
    """Which allows TF32 unless it is told not to; where the module is no network over sequences, it does not matter."""

    def declared(weight, sequence):
        return arithmetic_of(weight, torch.zeros(2, 3, 4, dtype=weight.dtype), Autocast("cpu"), sequence).name

    weight = torch.zeros(3, 2)
    monkeypatch.setattr(torch.backends.cudnn.m, "is_acceptable", lambda tensor: True)
    assert declared(weight, sequence=True) == "tf32"
    assert declared(weight, sequence=False) == "float32"
    assert declared(weight.double(), sequence=True) == "float64"
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert declared(weight, sequence=True) == "float32"


class Narrow(WrittenGRU):
    def forward(self, x, z):
        return z[:, :1]


class Twice(WrittenGRU):
    def forward(self, x, z):
        return z, z


def test_what_cannot_be_taken():
    flow = problem()
    module = WrittenGRU(flow.model.n_inputs, flow.model.n_units).double()
    with pytest.raises(TypeError, match=r"with z0 given.*WrittenGRU"):
        torch_backend(module, flow.inputs)
    with pytest.raises(TypeError, match=r"got builtins\.function"):
        torch_backend(lambda x, z: z, flow.inputs, flow.z0)
    with pytest.raises(ValueError, match=r"z0 must have shape \(3, states\); got \(2, 5\)"):
        torch_backend(module, flow.inputs, flow.z0[:2])
    with pytest.raises(ValueError, match=r"states of shape \(3, 5\), as z0 has it; got \(3, 1\)"):
        torch_backend(Narrow(flow.model.n_inputs, flow.model.n_units).double(), flow.inputs, flow.z0)
    with pytest.raises(TypeError, match=r"\(inputs, state\).*Linear.*positional arguments"):
        torch_backend(torch.nn.Linear(flow.model.n_inputs, flow.model.n_units).double(), flow.inputs, flow.z0)
    with pytest.raises(ValueError, match=r"as z0 has it; got a tuple"):
        torch_backend(Twice(flow.model.n_inputs, flow.model.n_units).double(), flow.inputs, flow.z0)
    with pytest.raises(ValueError, match=r"inputs must have shape \(B, T, n_in\); got \(3, 7, 2, 1\)"):
        torch_backend(module, flow.inputs[..., None], flow.z0)
    with pytest.raises(ValueError, match="requires a gradient"):
        torch_backend(module.requires_grad_(False), flow.inputs, flow.z0)
