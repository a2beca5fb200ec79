"""Python code of the user: called in the caller's thread and contexts; what it returns is copied and checked.

Every flow here has more trials than one block holds, so that code of ours would go to the pool.
"""

import contextvars
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

import kpref
from kpref import EuclideanSpace, Flow, TensorOperator
from kpref.differences import finite_difference, taylor_test
from kpref.integrate import InputSignal, adaptive, fixed_steps
from kpref.models import RNN, Rate, UserField
from kpref.models.base import DenseModel, Map
from kpref.models.step import StepNumbers
from kpref.threads import run_blocks

TRIALS, TIMES = 120, np.linspace(0.0, 0.5, 6)
CONTEXT = contextvars.ContextVar("context", default="outside")


@pytest.fixture(autouse=True)
def two_threads():
    before = kpref.get_num_threads()
    kpref.set_num_threads(2)
    yield
    kpref.set_num_threads(before)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


class Witness:
    """Notes the threads and contexts that functions are called in."""

    def __init__(self):
        self.threads, self.contexts, self.calls = set(), set(), 0

    def note(self):
        self.threads.add(threading.get_ident())
        self.contexts.add((CONTEXT.get(), np.geterr()["divide"]))
        self.calls += 1


class Leaky(Map):
    """A map of the user's own, in dense form, and with a witness."""

    def __init__(self, a=0.5, n_states=3, trainable=None, witness=None):
        self.n_states, self.n_inputs, self.witness = n_states, 2, witness or Witness()
        super().__init__({"a": np.asarray(a, dtype=float)}, trainable)

    def _evaluate(self, parameters, z, x):
        self.witness.note()
        return np.tanh(parameters["a"] * z) + x[..., :1]


class LeakyDense(Leaky, DenseModel):
    def state_jacobian(self, z, x):
        self.witness.note()
        return (self.parameters["a"] / np.cosh(self.parameters["a"] * z) ** 2)[..., None] * np.eye(self.n_states)

    def parameter_jacobian(self, z, x):
        return {"a": z / np.cosh(self.parameters["a"] * z) ** 2}


def scaled(part, factor):
    """Numbers of a program with its channels multiplied."""
    return StepNumbers({name: factor * value for name, value in part.channels.items()}, part.variables)


class OwnRNN(RNN):
    """A network of the user's own: twice the gain, and coefficients to match."""

    witness = Witness()

    def _evaluate(self, parameters, z, x):
        self.witness.note()
        return 2 * super()._evaluate(parameters, z, x)

    def numbers(self, z, x):
        self.witness.note()
        return scaled(super().numbers(z, x), 2)


class OwnRate(Rate):
    """Inherits the leaky form of `Rate`, which is not that of this function."""

    def _evaluate(self, parameters, z, x):
        return super()._evaluate(parameters, z, x) - z**3

    def numbers(self, z, x):
        raise NotImplementedError


def all_products(flow):
    flow.NTK(np.ones(flow.states.shape))
    flow.D_z0(np.ones(flow.D_z0.shape_in))


@pytest.mark.parametrize("kind", ["field", "rhs", "map", "network", "inputs", "operator"])
def test_called_in_the_thread_and_context_of_the_caller(kind, rng):
    witness, x = Witness(), rng.normal(size=(TRIALS, 6, 2))

    def function(z, x, parameters):
        witness.note()
        return np.tanh(z @ parameters["w"])

    def inputs(t):
        witness.note()
        return np.sin(t + np.arange(2.0 * TRIALS)).reshape(TRIALS, 2)

    CONTEXT.set("inside")
    with np.errstate(divide="raise"):
        if kind == "field":
            field = UserField(function, 3, 2, parameters={"w": 0.3 * np.eye(3)})
            witness.contexts.clear()  # of the checks, which silence NumPy
            all_products(Flow(field, x, dt=0.1))
        elif kind == "rhs":
            fixed_steps(lambda t, z, interval: function(z, None, {"w": np.eye(3)}), TIMES, np.ones((TRIALS, 3)), "rk4")
        elif kind == "map":
            all_products(Flow(LeakyDense(witness=witness), x))
        elif kind == "network":
            OwnRNN.witness = witness
            all_products(Flow(OwnRNN.init(2, 3, 0), x))
        elif kind == "inputs":
            all_products(Flow(Rate.init(2, 3, 0, nonlinearity="softplus"), inputs, times=TIMES))
        else:

            def forward(batch):
                witness.note()
                return batch

            space = EuclideanSpace((TRIALS, 3))
            kpref.trace(TensorOperator(forward, forward, space, space) @ TensorOperator(forward, forward, space, space))
    assert witness.calls > 2
    assert witness.threads == {threading.get_ident()}
    assert {context for context, _ in witness.contexts} == {"inside"}


def test_progress_is_called_in_the_thread_of_the_caller(rng):
    flow = Flow(kpref.models.GRU.init(2, 12, 0), rng.normal(size=(40, 30, 2)))
    for function, of in (
        (kpref.kernel_spectrum, flow), (kpref.schmidt_spectrum, flow), (kpref.spectra.ntk_trace_exact, flow),
        (kpref.spectra.propagator_gram_trace, flow), (kpref.trace, flow.NTK),
    ):  # fmt: skip
        witness, total = Witness(), []

        def progress(number, witness=witness, total=total):
            witness.note()
            total.append(number)

        function(of, progress=progress)
        assert witness.threads == {threading.get_ident()}
        assert sum(total) > 0


def test_contexts_hold_in_the_pool():
    """Our own blocks too: an error state that the caller has set is the same for any number of threads."""
    CONTEXT.set("inside")
    seen = []
    with np.errstate(divide="raise"):
        run_blocks(lambda index: seen.append((CONTEXT.get(), np.geterr()["divide"])), 4)
    assert seen == [("inside", "raise")] * 4


def test_scratch_memory(rng):
    """A field that computes in place in arrays that it keeps, one for each shape."""
    weight, scratch = rng.normal(size=(40, 40)) / 8, {}

    def with_scratch(z, x, parameters):
        out = scratch.setdefault(
            (z.shape, z.dtype, parameters["w"].dtype), np.empty(z.shape, np.result_type(z, *parameters.values()))
        )
        np.matmul(z, parameters["w"], out=out)
        np.tanh(out, out=out)
        out -= z
        return out

    def plain(z, x, parameters):
        return np.tanh(z @ parameters["w"]) - z

    z0 = rng.normal(size=(TRIALS, 40))
    flows = [
        Flow(UserField(function, 40, parameters={"w": weight}, trainable=["w"]), z0=z0, times=TIMES)
        for function in (with_scratch, plain)
    ]
    np.testing.assert_array_equal(flows[0].states, flows[1].states)


@pytest.mark.parametrize("vectorized", [True, False])
@pytest.mark.parametrize("derivatives", ["supplied", "complex step", "central differences"])
def test_buffers_that_are_used_again(vectorized, derivatives):
    """All functions fill and return the same arrays at each call: derivatives by differences are right nevertheless."""
    kept = {}

    def keep(name, value):
        buffer = kept.setdefault((name, np.shape(value), np.asarray(value).dtype), np.array(value))
        buffer[...] = value
        return buffer

    def function(z, x, parameters):
        z = z.real if derivatives == "central differences" else z
        return keep("f", -parameters["k"] * z**3 + x)

    def by_states(z, x, parameters):
        return keep("A", (-3 * parameters["k"] * z**2)[..., None] * np.eye(2))

    def by_parameters(z, x, parameters):
        return {"k": keep("J", -(z**3))}

    given = {"state_jacobian": by_states, "parameter_jacobian": by_parameters} if derivatives == "supplied" else {}
    field = UserField(function, 2, 2, parameters={"k": 0.5}, vectorized=vectorized, **given)
    assert field.state_derivative == derivatives
    buffer = np.zeros((3, 2))

    def inputs(t):
        buffer[:] = np.cos(3 * t) * np.arange(1, 7).reshape(3, 2)
        return buffer

    z0 = np.linspace(-1, 1, 6).reshape(3, 2)
    flow = Flow(field, inputs, z0, times=TIMES, method="dopri5", rtol=1e-6)
    plain = Flow(
        UserField(lambda z, x, p: -p["k"] * z**3 + x, 2, 2, parameters={"k": 0.5}),
        lambda t: inputs(t).copy(), z0, times=TIMES, method="dopri5", rtol=1e-6,
    )  # fmt: skip
    np.testing.assert_allclose(flow.states, plain.states, rtol=1e-14)
    q = np.ones(flow.states.shape)
    np.testing.assert_allclose(flow.NTK(q), plain.NTK(q), rtol=1e-9)
    np.testing.assert_allclose(flow.adjoint("continuous")(q), plain.adjoint("continuous")(q), rtol=1e-9)
    middle = 0.123
    np.testing.assert_allclose(flow.solution(middle), plain.solution(middle), rtol=1e-13)


def test_right_hand_sides_and_helpers_that_reuse_buffers():
    buffer = np.empty((2, 1))

    def rhs(t, z, interval):
        np.multiply(z, -1.0 - t, out=buffer)
        return buffer

    for solve in (fixed_steps, adaptive):
        got, wanted = (solve(f, TIMES, [[1.0], [2.0]], "dopri5") for f in (rhs, lambda t, z, n: rhs(t, z, n).copy()))
        np.testing.assert_array_equal(got.states, wanted.states)
        np.testing.assert_array_equal(got(0.03), wanted(0.03))
        np.testing.assert_array_equal(got.stage_derivatives(1), wanted.stage_derivatives(1))
    out = np.empty(3)

    def cube(x):
        np.power(x, 3, out=out)
        return out

    point, direction = np.array([1.0, -2.0, 0.5]), np.array([1.0, 1.0, -1.0])
    found = finite_difference(cube, point, direction)
    np.testing.assert_allclose(found.value, 3 * point**2 * direction, rtol=1e-10)
    assert abs(taylor_test(cube, lambda d: 3 * point**2 * d, point, direction).slope - 2) < 0.1


def test_operator_of_the_users_functions_returns_arrays_of_its_own():
    space, buffer = EuclideanSpace((3,)), np.empty((1, 3))

    def double(batch):
        np.multiply(batch, 2, out=buffer)
        return buffer

    op = TensorOperator(double, double, space, space)
    first, second = op(np.ones(3)), op(np.zeros(3))
    np.testing.assert_array_equal(first, 2 * np.ones(3))
    np.testing.assert_array_equal(second, np.zeros(3))
    same = TensorOperator(lambda batch: batch, lambda batch: batch, space, space)
    given = np.ones(3)
    same(given)[:] = 5
    np.testing.assert_array_equal(given, np.ones(3))
    clumsy = TensorOperator(lambda batch: np.multiply(batch, 2, out=batch), double, space, space)
    with pytest.raises(ValueError, match="read-only"):
        clumsy(given)
    np.testing.assert_array_equal(given, np.ones(3))


NESTED = """
import faulthandler; faulthandler.dump_traceback_later(100, exit=True)
import threading, numpy as np, kpref
from kpref.threads import run_blocks
kpref.set_num_threads(2)
inner = kpref.Flow(kpref.models.GRU.init(n_inputs=3, n_states=8, seed=0), np.ones((100, 5, 3)))
q = np.ones(inner.states.shape)
wanted = inner.NTK(q)

def elsewhere(function):  # as frameworks do that call back from a thread of their own
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start(); thread.join()
    return results[0]

def f(z, x, p):
    assert np.array_equal(inner.NTK(q), wanted)
    assert np.array_equal(elsewhere(lambda: inner.NTK(q)), wanted)
    kpref.Flow(inner.model, np.ones((100, 2, 3)))
    kpref.set_num_threads(2)
    return np.tanh(z @ p["a"])

field = kpref.models.UserField(f, 3, 2, parameters={"a": np.eye(3) * .3})
flow = kpref.Flow(field, np.ones((100, 3, 2)), dt=.05, method="euler")
assert flow.NTK(np.ones(flow.states.shape)).shape == (100, 3, 3)

# Operators made of such functions, under an eigensolver; and blocks that start blocks, from several threads at once.
space = kpref.EuclideanSpace((4,))
op = kpref.TensorOperator(lambda b: (f(b[:, :3], None, {"a": np.eye(3)}), b)[1] * 2.0, lambda b: b * 2.0, space, space)
assert kpref.svd(op, 1).values[0] == 2.0
done = []
def outer(index):
    run_blocks(lambda inner_index: done.append((index, inner_index)), 3)
threads = [threading.Thread(target=run_blocks, args=(outer, 4)) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(done) == 36
print("done")
"""


def test_functions_that_use_kpref():
    """In a process of its own, which is ended if it hangs."""
    done = subprocess.run([sys.executable, "-c", NESTED], text=True, capture_output=True, timeout=120)
    assert done.stdout == "done\n", done.stderr


# What is refused


@pytest.mark.parametrize(
    "wrong, message",
    [
        (
            lambda z: z * (1 + 1j),
            "the value of function must be an array of real numbers; got complex128: entry .* is .*j",
        ),
        (lambda z: np.ma.masked_greater(z, 0.5), r"the value of function must be .* entry index .* is masked"),
        (lambda z: z[..., :1], r"function must return shape \(\d, 2\)"),
        (lambda z: z.astype(object), "the value of function must be an array of .* got dtype object"),
        (lambda z: None, "the value of function must be an array of .* got dtype object"),
    ],
)
def test_fields_that_go_wrong_on_the_way(wrong, message):
    """Right where they are checked, wrong beyond: refused in words, with the entry."""

    def function(z, x, parameters):
        value = parameters["k"] * z
        return wrong(value) if np.abs(z.real).max() > 20 else value

    field = UserField(function, 2, parameters={"k": 3.0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in ({}, {"method": "dopri5", "rtol": 1e-6}):
            with pytest.raises(ValueError, match=message):
                Flow(field, z0=[[1.0, 2.0]], times=np.linspace(0, 3, 30), **options)
        with pytest.raises(ValueError, match=message):
            field.velocity(np.array([[30.0, 1.0]]), np.zeros((1, 0)))
        if "complex" not in message:  # which is right at the complex states of a complex step
            with pytest.raises(ValueError, match=message):
                field.state_jacobian(np.array([[30.0, 1.0]]), np.zeros((1, 0)))


@pytest.mark.parametrize("which", ["state_jacobian", "parameter_jacobian"])
@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda a: a * (1 + 1j), "must be an array of real numbers; got complex128"),
        (lambda a: np.ma.masked_array(a, np.ones(a.shape, bool)), "is masked"),
        (lambda a: a[..., :1, :1], "must return shape"),
    ],
)
def test_derivatives_that_go_wrong_on_the_way(which, wrong, message):
    def by_states(z, x, parameters):
        value = (0 * z + parameters["k"])[..., None] * np.eye(2)
        return wrong(value) if which == "state_jacobian" and np.abs(z).max() > 20 else value

    def by_parameters(z, x, parameters):
        return {"k": wrong(z) if which == "parameter_jacobian" and np.abs(z).max() > 20 else z}

    field = UserField(
        lambda z, x, p: p["k"] * z, 2, parameters={"k": 3.0}, state_jacobian=by_states, parameter_jacobian=by_parameters
    )
    flow = Flow(field, z0=[[1.0, 2.0]], times=np.linspace(0, 3, 30))
    with pytest.raises(ValueError, match=f"{which}.*{message}"):
        flow.D(np.ones(1))


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda x: x * 1j, "the input function must return real numbers at t = 0.2"),
        (
            lambda x: np.ma.masked_array(x, x == x[1, 0]),
            r"the input function at t = 0.2.* entry index \(1, 0\) is masked",
        ),
        (lambda x: np.where(np.arange(2) == 1, np.nan, x), "its value is nan at trial 0, channel 1"),
        (lambda x: x[:1], r"must return shape \(3, 2\); got \(1, 2\) at t = 0.2"),
        (lambda x: "x", r"must return shape \(3, 2\); got \(\)|must be an array"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"method": "dopri5", "rtol": 1e-6}])
def test_input_functions_that_go_wrong_on_the_way(wrong, message, options):
    def inputs(t):
        value = t + np.arange(6.0).reshape(3, 2)
        return wrong(value) if t > 0.2 else value

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=message):
            Flow(Rate.init(2, 3, 0), inputs, times=TIMES, **options)
    with pytest.raises(ValueError, match="the input function"):
        InputSignal(TIMES, lambda t: wrong(np.ones((3, 2))) if t else np.zeros((3, 2)))(0.25, 2)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda z: z * (1 + 1j), r"the right-hand side must return real numbers at t = 0.*trial 0, unit 0"),
        (lambda z: np.ma.masked_array(z, z > 0), "the right-hand side at t = 0.* is masked"),
        (lambda z: z[0], r"the right-hand side must return the shape of the states, \(2, 1\), got \(1,\)"),
    ],
)
@pytest.mark.parametrize("solve", [fixed_steps, adaptive])
def test_right_hand_sides_that_go_wrong(solve, wrong, message):
    with pytest.raises(ValueError, match=message):
        solve(lambda t, z, interval: wrong(z), TIMES, [[1.0], [2.0]], "dopri5")
    with pytest.raises(ValueError, match="read-only"):
        solve(lambda t, z, interval: np.multiply(z, 2, out=z), TIMES, [[1.0], [2.0]], "dopri5")


class WrongMap(Leaky):
    wrong = staticmethod(lambda z: z)

    def _evaluate(self, parameters, z, x):
        return self.wrong(super()._evaluate(parameters, z, x))


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda z: z * (1 + 1j), "WrongMap._evaluate must return real numbers"),
        (lambda z: np.ma.masked_array(z, z < 9), "the value of WrongMap._evaluate .* is masked"),
        (lambda z: z[0], r"WrongMap._evaluate must return shape \(4, 3\); got \(3,\)"),
    ],
)
def test_models_of_the_users_that_go_wrong(wrong, message, rng):
    class Mine(WrongMap):
        pass

    Mine.__name__, Mine.wrong = "WrongMap", staticmethod(wrong)
    with pytest.raises(ValueError, match=message):
        Flow(Mine(), rng.normal(size=(4, 5, 2)))


def test_numbers_of_the_users_are_checked(rng):
    class Mine(OwnRNN):
        def numbers(self, z, x):
            return scaled(RNN.numbers(self, z, x), 1j)

    with pytest.raises(ValueError, match="Mine.numbers, layer0_slope must return real numbers"):
        Flow(Mine.init(2, 3, 0), rng.normal(size=(4, 5, 2)))


def test_subclass_is_run_by_its_own_function():
    """Not by the compiled code for the leaky form that it inherits."""
    model = OwnRate.init(2, 3, 0)
    states = Flow(model, np.ones((2, 5, 2)), z0=np.ones(3), dt=0.1, method="euler").dynamics.states
    wanted = np.ones((2, 3))
    for _ in range(4):
        wanted = wanted + 0.1 * (model._evaluate(model.parameters, wanted, np.ones((2, 2))))
    np.testing.assert_allclose(states[:, -1], wanted, rtol=1e-13)


# The error of derivatives by differences


@pytest.mark.parametrize("z", [0.5, 30.0, 1e3, 5e3, 1e4, 1e5, 1e7])
def test_error_of_differences_is_stated_where_they_are_used(z):
    """d/dz k sin(z) far from where it was first tried: within the stated error, which grows, or refused."""

    def function(z, x, parameters):
        return parameters["w"] + parameters["k"] * np.sin(np.asarray(z.real)) + 0 * parameters["w"]

    field = UserField(function, 1, parameters={"w": 1.0, "k": 0.5})
    assert field.state_derivative == "central differences"
    before = field.derivative_error
    found = field.state_jacobian(np.array([[z]]), np.zeros((1, 0)))[0, 0, 0]
    # Estimates are short by a factor of a few at worst, and relative to the derivative found; z itself is rounded.
    assert abs(found - 0.5 * np.cos(z)) <= (10 * field.derivative_error + np.spacing(z)) * abs(found)
    assert before <= field.derivative_error < 1e-9 + 200 * np.spacing(z)  # short steps tell no more far out


def test_worst_error_along_a_trajectory_is_kept():
    """A field that is smooth where it is checked and rough beyond: refused there, or the stated error grows."""

    def function(z, x, parameters, roughness):
        z = z.real
        return parameters["k"] * z + np.where(z > 4, roughness * np.sin(3e4 * z), 0)

    mild, rough = (
        UserField(lambda z, x, p, size=size: function(z, x, p, size), 1, parameters={"k": 1.0}) for size in (1e-10, 0.1)
    )
    flow = Flow(mild, z0=[[1.0]], times=np.linspace(0, 1, 11))
    flow.NTK(np.ones(flow.states.shape))
    assert mild.derivative_error < 1e-12
    flow = Flow(mild, z0=[[1.0]], times=np.linspace(0, 2, 21))
    flow.NTK(np.ones(flow.states.shape))
    assert 1e-11 < mild.derivative_error < 1e-3
    flow = Flow(rough, z0=[[1.0]], times=np.linspace(0, 2, 21))
    with pytest.raises(ValueError, match="central differences of function by the states have a relative error of"):
        flow.NTK(np.ones(flow.states.shape))


@pytest.mark.parametrize(
    ("later", "message"),
    [
        (lambda c: {"slope": c["slope"]}, "must give the channel 'decay'; it is missing"),
        (lambda c: c | {"decay": 2 * c["decay"]}, "must return decay in one form at all states"),
        (lambda c: c | {"decay": c["decay"] + 0 * c["slope"]}, "must return decay in one form at all states"),
    ],
)
def test_numbers_of_the_users_keep_their_form(rng, later, message):
    """Else what is constant at the first states would be taken to be so at all."""

    class Mine(Rate):
        def numbers(self, z, x):
            part = Rate.numbers(self, z, x)
            return part if (z == 0).all() else StepNumbers(later(part.channels), part.variables)

    with pytest.raises(ValueError, match=f"Mine.numbers {message}"):
        Flow(Mine.init(2, 4, 0), rng.normal(size=(3, 6, 2)), dt=0.1).NTK(np.ones((3, 6, 4)))


def test_constant_coefficients_are_finite(rng):
    class Mine(Rate):
        def numbers(self, z, x):
            part = Rate.numbers(self, z, x)
            return StepNumbers(part.channels | {"decay": np.full(self.n_states, np.nan)}, part.variables)

    with pytest.raises(ValueError, match="is not finite"):
        Flow(Mine.init(2, 4, 0), rng.normal(size=(3, 6, 2)), dt=0.1).K(np.ones((3, 6, 4)))
