"""Real backends pass in float64 and float32, and fail when one sign, gate, shift or transpose in them is changed."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from apparatus.offered import offering

from kpref import Flow
from kpref.oracle import flow_backend, jax_backend, kpflow_backend, torch_backend, verify
from kpref.oracle.backend import OPERATORS
from kpref.oracle.grid import PROBLEMS, check_names

PRECISIONS = ("float64", "float32")


def problem(name="gru-weights", **changes):
    return replace(PROBLEMS[name], **changes).build(seed=3)


def require_pass(backend, flow, precision, operators=8):
    report = verify(backend, flow)
    assert report.arithmetic == precision
    assert report.passed, str(report)
    assert (
        len({check.operator for check in report.checks if check.verdict == "pass"} - {"states", "metrics"}) == operators
    )


def defects(backend, flow):
    report = verify(backend, flow)
    assert report.exit_status in (0, 1), str(report)
    return {check.operator for check in report.defects}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["gru-weights", "gru-chaotic", "rnn-chaotic", "leaky-saturated", "linear-one-of-all"])
def test_own_kernels_pass(name, precision):
    flow = problem(name)
    require_pass(flow_backend(flow, precision), flow, precision, operators=len(OPERATORS))


@pytest.mark.parametrize("name", ["rnn-plain", "leaky-plain", "stacked-lstm-plain", "gru-one-step", "gru-one-trial"])
def test_names_of_checks_are_those_that_verify_makes(name):
    """They depend on the parameters of the network, and on whether there are several steps and trials."""
    flow = PROBLEMS[name].build()
    report = verify(flow_backend(flow), flow)
    assert report.passed
    assert {check.identifier for check in report.checks} == set(check_names(PROBLEMS[name]))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "operator, change",
    [
        ("P", lambda P, q: -P(-q) * (1 + 1e-5)),
        ("P", lambda P, q: np.concatenate([q[:, :1], P(q)[:, :-1]], axis=1)),
        ("P_T", lambda P_T, g: P_T(g[:, ::-1].copy())),
        ("J", lambda J, theta: J(theta[::-1].copy())),
        ("J_T", lambda J_T, g: -J_T(g)),
        ("K", lambda K, q: 21 * K(q)),
        ("NTK", lambda NTK, q: NTK(q) + 1e-4 * NTK(q)[::-1]),
        ("gradient", lambda gradient, err: gradient(np.roll(err, 1, axis=1))),
    ],
)
def test_own_kernels_with_a_defect_fail(operator, change, precision):
    flow = problem()
    backend = flow_backend(flow, precision)
    good = getattr(backend, operator)
    setattr(backend, operator, lambda q: change(good, q.astype(precision)))
    assert operator in defects(offering(backend, operator), flow)


def filled(kind, flow, precision, **options):
    """A module of PyTorch with the parameters of a flow."""
    torch = pytest.importorskip("torch")
    module = getattr(torch.nn, kind)(flow.model.n_inputs, flow.model.n_units, **options)
    module = module.to(getattr(torch, precision))
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), flow.model.parameters.values(), strict=True):
            parameter.copy_(torch.tensor(value))
    return module


def of_torch(kind, flow, precision, **options):
    return torch_backend(filled(kind, flow, precision, **options), flow.inputs, flow.z0, flow.space.mu)


@pytest.mark.backends
@pytest.mark.usefixtures("torch_on_one_thread")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "kind, name, options",
    [
        ("GRU", "gru-weights", {}),
        ("GRU", "gru-chaotic", {"batch_first": True}),
        ("GRUCell", "gru-one-of-all", {}),
        ("RNN", "rnn-chaotic", {}),
        ("RNNCell", "rnn-weights", {}),
        ("LSTM", "lstm-weights", {}),
        ("LSTMCell", "lstm-plain", {}),
        ("GRU", "stacked-gru-weights", {"num_layers": 2}),
        ("LSTM", "stacked-lstm-plain", {"num_layers": 2, "batch_first": True}),
        ("RNN", "stacked-rnn-plain", {"num_layers": 2}),
    ],
)
def test_torch_modules_pass(kind, name, options, precision):
    flow = problem(name)
    require_pass(of_torch(kind, flow, precision, **options), flow, precision)


@pytest.mark.backends
def test_torch_without_biases_and_with_frozen_parameters():
    flow = problem("rnn-plain")
    model = flow.model.with_trainable(["weight_hh", "bias_hh"])
    module = filled("RNN", flow, "float64")
    module.weight_ih_l0.requires_grad_(False)
    module.bias_ih_l0.requires_grad_(False)
    require_pass(torch_backend(module, flow.inputs, flow.z0), Flow(model, flow.inputs, flow.z0), "float64")
    bare = Flow(type(model)(**{k: v for k, v in model.parameters.items() if k.startswith("weight")}), flow.inputs)
    require_pass(torch_backend(filled("RNN", bare, "float64", bias=False), flow.inputs), bare, "float64")


@pytest.mark.backends
@pytest.mark.usefixtures("torch_on_one_thread")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "defect", ["sign", "gates", "transpose", "inputs shifted", "z0", "bias", "adjoint", "one part"]
)
def test_torch_modules_with_a_defect_fail(defect, precision):
    torch = pytest.importorskip("torch")
    flow = problem("gru-plain")
    module = filled("GRU", flow, precision)
    inputs, z0 = flow.inputs, flow.z0
    with torch.no_grad():
        weight = module.weight_hh_l0
        blocks = weight.clone().reshape(3, *weight.shape[1:2], -1)
        if defect == "sign":
            weight[0] *= -1
        if defect == "gates":
            weight.copy_(blocks[[1, 0, 2]].reshape(weight.shape))
        if defect == "transpose":
            weight.copy_(blocks.swapaxes(1, 2).reshape(weight.shape))
        if defect == "bias":
            module.bias_hh_l0[-1] = 0.0
        if defect == "one part":
            weight[1, 2] *= 1 + 1e-4
    if defect == "inputs shifted":
        inputs = np.roll(inputs, 1, axis=1)
    if defect == "z0":
        z0 = None
    backend = torch_backend(module, inputs, z0)
    if defect == "adjoint":
        backend.P_T = backend.P
    assert ("P_T" if defect == "adjoint" else "states") in defects(backend, flow)


@pytest.mark.backends
@pytest.mark.usefixtures("torch_on_one_thread")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "kind, name, options, weight, row",
    [
        ("LSTM", "lstm-plain", {}, "weight_hh_l0", 5),
        ("GRU", "stacked-gru-plain", {"num_layers": 2}, "weight_ih_l1", 10),
    ],
    ids=["forget gate", "what the layer above sees"],
)
def test_one_row_of_a_module_with_parts_or_layers(kind, name, options, weight, row, precision):
    """Of unit 0 in both: states 0 and 5 of (h, c), or state 5 of two layers, and none before."""
    torch = pytest.importorskip("torch")
    flow = problem(name)
    module = filled(kind, flow, precision, **options)
    with torch.no_grad():
        getattr(module, weight)[row] *= 1.01
    report = verify(torch_backend(module, flow.inputs, flow.z0), flow)
    assert {"states", "P", "P_T", "NTK"} <= {check.operator for check in report.defects}
    first = next(check.first for check in report.defects if check.operator == "states")
    assert (first.step, first.unit) == (0, 0 if kind == "LSTM" else 5)


@pytest.mark.backends
def test_torch_backend_refuses_what_it_cannot_take():
    torch = pytest.importorskip("torch")
    x = np.zeros((2, 3, 4))
    with pytest.raises(TypeError, match=r"LSTM.*Linear"):
        torch_backend(torch.nn.Linear(4, 5), x)
    with pytest.raises(ValueError, match="one direction"):
        torch_backend(torch.nn.GRU(4, 5, bidirectional=True), x)
    with pytest.raises(ValueError, match=r"call its eval\(\)"):
        torch_backend(torch.nn.LSTM(4, 5, num_layers=2, dropout=0.5), x)
    with pytest.raises(ValueError, match=r"\(B, T, 3\); got \(2, 3, 4\)"):
        torch_backend(torch.nn.GRU(3, 5), x)
    with pytest.raises(ValueError, match=r"z0 must have shape \(2, 5\)"):
        torch_backend(torch.nn.GRU(4, 5), x, np.zeros((2, 4)))


@pytest.fixture(scope="module")
def jax():
    module = pytest.importorskip("jax")
    before = module.config.jax_enable_x64
    module.config.update("jax_enable_x64", True)
    yield module
    module.config.update("jax_enable_x64", before)


def gru_step(jax, sign=1.0, order=(0, 1, 2), update_gradient=True):
    def step(parameters, z, x):
        a = jax.numpy.split(z @ parameters["weight_hh"].T + parameters["bias_hh"], 3, axis=-1)
        c = jax.numpy.split(x @ parameters["weight_ih"].T + parameters["bias_ih"], 3, axis=-1)
        reset, update = (jax.nn.sigmoid(a[order[i]] + c[order[i]]) for i in (0, 1))
        update = update if update_gradient else jax.lax.stop_gradient(update)
        return (1 - update) * jax.numpy.tanh(c[order[2]] + sign * reset * a[order[2]]) + update * z

    return step


def rnn_step(jax, **_):
    return lambda p, z, x: jax.numpy.tanh(z @ p["weight_hh"].T + p["bias_hh"] + x @ p["weight_ih"].T + p["bias_ih"])


def of_jax(step, flow, precision, **changes):
    parameters = {name: np.asarray(value, precision) for name, value in flow.model.parameters.items()}
    return jax_backend(step, {**parameters, **changes}, flow.inputs, flow.z0, flow.space.mu)


@pytest.mark.backends
@pytest.mark.parametrize(
    "step, name, precision",
    [(gru_step, "gru-weights", "float64"), (gru_step, "gru-weights", "float32"), (rnn_step, "rnn-chaotic", "float32")],
)
def test_jax_steps_pass(jax, step, name, precision):
    flow = problem(name)
    require_pass(of_jax(step(jax), flow, precision), flow, precision)


@pytest.mark.backends
@pytest.mark.parametrize("precision", PRECISIONS)
def test_jax_steps_with_a_defect_fail(jax, precision):
    flow = problem("gru-weights")
    weight = np.asarray(flow.model.parameters["weight_hh"], precision)
    transposed = weight.reshape(3, 5, 5).swapaxes(1, 2).reshape(15, 5)
    backends = {
        "sign": of_jax(gru_step(jax, sign=-1.0), flow, precision),
        "gate order": of_jax(gru_step(jax, order=(1, 0, 2)), flow, precision),
        "transpose": of_jax(gru_step(jax), flow, precision, weight_hh=transposed),
    }
    for label, backend in backends.items():
        only = SimpleNamespace(dtype=backend.dtype, states=backend.states)
        assert defects(only, flow) == {"states"}, label
    # A derivative that is wrong where the value is right: seen by what is differentiated, in the states it is not.
    cut = of_jax(gru_step(jax, update_gradient=False), flow, precision)
    some = SimpleNamespace(dtype=cut.dtype, states=cut.states, P=cut.P, J_T=cut.J_T)
    assert defects(some, flow) >= {"P", "J_T"}
    assert "states" not in defects(some, flow)


@pytest.mark.backends
def test_parameters_of_jax_keep_their_order(jax):
    """JAX sorts mappings by name; the parameter vector follows the mapping."""
    flow = problem("rnn-plain")
    parameters = dict(flow.model.parameters)
    swapped = {"bias_hh": parameters.pop("bias_hh"), **parameters}
    good = jax_backend(rnn_step(jax), dict(flow.model.parameters), flow.inputs, flow.z0)
    bad = jax_backend(rnn_step(jax), swapped, flow.inputs, flow.z0)
    assert not defects(SimpleNamespace(J_T=good.J_T), flow)
    assert defects(SimpleNamespace(J_T=bad.J_T), flow) == {"J_T"}


@pytest.fixture
def short_products(jax, monkeypatch):
    """Products as a device computes them that makes use of JAX's precision, which a CPU does not."""
    own = jax.numpy.matmul

    def matmul(*operands):
        bits = {"tensorfloat32": 10, "bfloat16": 7}.get(jax.config.jax_default_matmul_precision, 23)
        return own(*(jax.lax.reduce_precision(jax.numpy.asarray(operand), 8, bits) for operand in operands))

    monkeypatch.setattr(jax.numpy, "matmul", matmul)


def product_step(jax):
    """An RNN whose products are `jax.numpy.matmul` by name."""

    def step(p, z, x):
        recurrent, driven = jax.numpy.matmul(z, p["weight_hh"].T), jax.numpy.matmul(x, p["weight_ih"].T)
        return jax.numpy.tanh(recurrent + p["bias_hh"] + driven + p["bias_ih"])

    return step


@pytest.mark.backends
@pytest.mark.parametrize(
    "around, precision, operand",
    [(None, "tensorfloat32", 2.0**-11), ("bfloat16", None, 2.0**-8), ("bfloat16", "highest", 0.0)],
)
def test_precision_of_jax_is_the_backends_own(jax, short_products, around, precision, operand):
    """What is given or, if nothing is, in force where the backend is made; it holds wherever that is called."""
    flow = problem("rnn-chaotic")
    parameters = {name: np.asarray(value, "float32") for name, value in flow.model.parameters.items()}
    with jax.default_matmul_precision(around):
        backend = jax_backend(product_step(jax), parameters, flow.inputs, flow.z0, flow.space.mu, precision)
    assert (backend.arithmetic.unit, backend.arithmetic.operand) == (2.0**-24, operand)
    some = SimpleNamespace(arithmetic=backend.arithmetic, states=backend.states, P=backend.P, J_T=backend.J_T)
    assert not defects(some, flow)
    if operand:
        some.arithmetic = "float32"
        assert defects(some, flow) == {"states", "P", "J_T"}


@pytest.mark.backends
def test_jax_backend_refuses_what_it_cannot_take(jax):
    flow = problem("rnn-plain")
    with pytest.raises(ValueError, match="inputs and z0"):
        jax_backend(rnn_step(jax), flow.model.parameters, flow.inputs, flow.z0[0])
    with pytest.raises(ValueError, match=r"jax\.default_matmul_precision takes; got 'fine'"):
        jax_backend(rnn_step(jax), flow.model.parameters, flow.inputs, flow.z0, precision="fine")
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(ValueError, match="JAX_ENABLE_X64"):
            of_jax(rnn_step(jax), flow, "float64")
    finally:
        jax.config.update("jax_enable_x64", True)


class Operator:
    """An operator with its adjoint on NumPy arrays, in the style of kpflow."""

    def __init__(self, operator, params=None):
        self.operator, self.shape_in, self.shape_out = operator, operator.shape_in, operator.shape_out
        self.params = params

    def __call__(self, q):
        if self.params is not None:
            q = np.concatenate([np.ravel(value) for value in q.values()])
        return self.operator(q)

    def adjoint_call(self, g):
        assert g.shape == self.shape_out
        return self.operator.T(g)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_operators_with_adjoint_calls(precision):
    flow = problem("gru-sum")
    own = flow_backend(flow, precision)
    operators = {name: Operator(getattr(own, name)) for name in ("P", "J", "K", "NTK")}
    backend = kpflow_backend(**operators, states=own.states, dtype=precision)
    require_pass(backend, flow, precision, operators=6)
    operators["J"].params = flow.model.parameters
    require_pass(kpflow_backend(**operators, dtype=precision), flow, precision, operators=6)
    assert not hasattr(kpflow_backend(P=operators["P"], dtype=precision), "K")


@pytest.mark.backends
def test_operators_with_adjoint_calls_get_tensors_of_torch():
    """As kpflow has them: Jacobians along the states, float32, an adjoint of parameters that is a mapping."""
    torch = pytest.importorskip("torch")
    flow = problem("rnn-sum")
    module = torch_backend(filled("RNNCell", flow, "float32"), flow.inputs, flow.z0, "sum")

    class Propagator:
        shape_in = shape_out = flow.states.shape

        def __call__(self, q):
            assert q.dtype == torch.float32
            return module.P(q)

        def adjoint_call(self, g):
            return module.P_T(g)

    class ParameterJacobian:
        params = module._parameters
        shape_in, shape_out = flow.model.n_parameters, flow.states.shape

        def __call__(self, q):
            return module.J(torch.cat([value.flatten() for value in q.values()]))

        def adjoint_call(self, g):
            vector = module.J_T(g)
            pieces = vector.split([value.numel() for value in self.params.values()])
            return dict(zip(self.params, pieces, strict=True))

    backend = kpflow_backend(P=Propagator(), J=ParameterJacobian(), states=module.states)
    require_pass(backend, flow, "float32", operators=4)

    class LinearisedTooLate(Propagator):
        def __call__(self, q):
            return torch_backend(module.module, np.roll(flow.inputs, -1, axis=1), flow.z0).P(q)

    assert "P" in defects(kpflow_backend(P=LinearisedTooLate(), states=module.states), flow)
