"""Whatever a backend does ends in a verdict: faults of every kind, in this process and in one of its own."""

import contextvars
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from apparatus.offered import offering
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from kpref.oracle import flow_backend, verify
from kpref.oracle.backend import OPERATORS, Backend, BackendFault, LocalBackend
from kpref.oracle.grid import PROBLEMS
from kpref.oracle.isolation import IsolatedBackend, Worker

SHAPE = (2, 3, 4)
ONES = np.ones(SHAPE)


def wrap(**operators):
    return Backend.of(SimpleNamespace(**operators), SHAPE, 5, "float64")


@pytest.fixture(scope="module")
def flow():
    return PROBLEMS["gru-plain"].build()


def buffered():
    memory = {}

    def apply(q):
        kept = memory.setdefault(q.shape, np.empty(q.shape))
        kept[...] = q
        return kept

    return apply


def overwriting(q):
    q *= 2
    return q


class Unreadable:
    def __array__(self, *args, **options):
        raise RuntimeError("on another planet")


def with_nan(q):
    q = q.copy()
    q[1, 2, 3] = np.nan
    return q


BAD = {
    "raised": [lambda q: 1 / 0, lambda q: exec("raise SystemExit(3)")],
    "shape": [lambda q: q[0], lambda q: q.swapaxes(0, 1), lambda q: 1.0, lambda q: q[:, :, :, None]],
    "dtype": [lambda q: None, lambda q: "no", lambda q: q > 0, lambda q: Unreadable(), lambda q: [[1.0], [1.0, 2.0]]],
    "complex": [lambda q: q + 0j],
    "not finite": [with_nan, lambda q: q + np.inf, lambda q: 1e300 * q],
    "overwritten": [overwriting, buffered()],
}


@pytest.mark.parametrize("kind, bad", [(kind, bad) for kind, several in BAD.items() for bad in several])
def test_each_fault_is_recognised(kind, bad):
    backend = wrap(P=bad)

    def use():
        backend("P", ONES)
        backend.answers("P", ONES, 2 * ONES)

    with pytest.raises(BackendFault) as caught:
        use()
    assert (caught.value.kind, caught.value.operator) == (kind, "P")
    assert caught.value.could_not_run == (kind == "raised")


@pytest.mark.parametrize("kind, bad", [(kind, several[0]) for kind, several in BAD.items()])
def test_a_fault_is_a_verdict_and_the_others_are_judged(flow, kind, bad):
    backend = flow_backend(flow)
    backend.K = buffered() if kind == "overwritten" else bad
    report = verify(offering(backend, *OPERATORS), flow)
    [check] = [check for check in report.checks if check.identifier == "K.value"]
    expected = "could not run" if kind == "raised" else "defect"
    assert check.verdict == expected
    assert report.exit_status == (1 if expected == "defect" else 2)
    others = [check for check in report.checks if check.operator not in ("K", "K_T", "NTK", "gradient", "metrics")]
    assert {other.verdict for other in others} == {"pass"}


def test_a_call_that_took_too_long_is_a_fault_when_it_returns(monkeypatch):
    clock = iter([0.0, 0.0, 1.0, 3.0, 4.0, 7.0])  # the attribute, and two calls
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    backend = Backend.of(SimpleNamespace(P=lambda q: q), SHAPE, 5, "float64", timeout=2.5)
    np.testing.assert_array_equal(backend("P", ONES), ONES)
    with pytest.raises(BackendFault, match=r"P did not answer within 2\.5 seconds") as caught:
        backend("P", ONES)
    assert caught.value.kind == "timeout"
    assert caught.value.could_not_run


def test_calls_are_made_in_the_thread_and_the_contexts_of_the_caller(flow):
    setting, seen = contextvars.ContextVar("setting", default="unset"), set()

    def spying(tensor):
        seen.add((threading.get_ident(), setting.get(), np.geterr()["divide"]))
        return tensor

    backend = SimpleNamespace(P=lambda q: spying(flow.P(q)), states=lambda: spying(flow.states))
    setting.set("by the caller")
    with np.errstate(divide="raise"):
        assert verify(backend, flow).passed
    assert seen == {(threading.get_ident(), "by the caller", "raise")}


@pytest.mark.backends
def test_precision_that_jax_and_modes_that_torch_are_set_to_hold_in_calls(flow):
    jax, torch = pytest.importorskip("jax"), pytest.importorskip("torch")
    weight = np.ones((4, 4))
    seen = []

    def in_jax(q):
        seen.append((jax.numpy.asarray(q).dtype.name, jax.config.jax_default_matmul_precision))
        return q

    def in_torch(q):
        tensor = torch.tensor(weight, requires_grad=True, dtype=torch.float32)
        seen.append(((tensor @ tensor).dtype, (tensor @ tensor).requires_grad))
        return q

    with jax.enable_x64(True), jax.default_matmul_precision("float32"):
        wrap(P=in_jax)("P", ONES)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        wrap(P=in_torch)("P", ONES)
    assert seen == [("float64", "float32"), (torch.bfloat16, False)]


@pytest.mark.parametrize("operator", ["P", "P_T", "J", "K", "NTK", "gradient"])
@pytest.mark.parametrize("count", range(8))
def test_a_backend_that_fails_later_is_no_traceback(flow, operator, count):
    backend = flow_backend(flow)
    good, calls = getattr(backend, operator), []

    def fails(q):
        calls.append(None)
        if len(calls) > count:
            raise RuntimeError("out of memory")
        return good(q)

    setattr(backend, operator, fails)
    report = verify(offering(backend, *sorted({"P", "P_T", "J", "J_T", operator})), flow)
    used_up = len(calls) > count
    assert report.exit_status == (2 if used_up else 0), str(report)
    assert any("out of memory" in check.message for check in report.checks) == used_up


def test_states_may_be_bad_too(flow):
    for states, status in ((lambda: 1 / 0, 2), (np.full(flow.states.shape, np.nan), 1), (flow.states[:1], 1)):
        backend = offering(flow_backend(flow), "P")
        backend.states = states
        report = verify(backend, flow)
        assert report.exit_status == status
        assert report.checks[0].verdict == ("could not run" if status == 2 else "defect")


def test_a_property_that_raises_is_a_fault_and_not_a_missing_operator(flow):
    class Lazy:
        @property
        def P(self):
            raise OSError("no device")

    report = verify(Lazy(), flow)
    [check] = [check for check in report.checks if check.identifier == "P.residual"]
    assert check.verdict == "could not run"
    assert "no device" in check.message


def test_a_fault_names_the_place_in_the_backends_code():
    def fails(q):
        return q["no"]

    with pytest.raises(BackendFault, match=r"P raised IndexError: .*test_backend.py:\d+\)"):
        wrap(P=fails)("P", ONES)


@pytest.mark.parametrize("flat", [lambda q: q.ravel(), lambda q: q.reshape(-1, 1), lambda q: q.tolist()])
def test_flat_vectors_columns_and_lists_are_tensors(flat):
    np.testing.assert_array_equal(wrap(P=flat)("P", ONES), ONES)


def test_linear_operators_and_matrices():
    matrix = np.random.default_rng(0).normal(size=(24, 24))
    for operator in (matrix, aslinearoperator(matrix)):
        backend = wrap(P=operator, J=None)
        answer = backend("P", ONES)
        np.testing.assert_array_equal(answer, (matrix @ np.ones(24)).reshape(SHAPE))
        backend.answers("P", ONES, 2 * ONES)
        assert not backend.offers("J")
    assert not wrap(P=matrix).offers("P_T")  # an array may be anything, its transpose is not claimed
    assert wrap(P=aslinearoperator(matrix)).offers("P_T")
    answer = wrap(P=aslinearoperator(matrix))("P_T", ONES)
    np.testing.assert_allclose(answer, (matrix.T @ np.ones(24)).reshape(SHAPE), rtol=1e-13)


def test_a_linear_operator_without_a_transpose_offers_none():
    one_way = LinearOperator((24, 24), matvec=lambda q: q)
    assert not wrap(P=one_way).offers("P_T")
    assert wrap(P=one_way).offers("P")


def test_a_linear_operator_that_reuses_its_memory_is_found():
    memory = np.zeros(24)

    def matvec(q):
        memory[...] = q
        return memory

    with pytest.raises(BackendFault, match="earlier one"):
        wrap(P=LinearOperator((24, 24), matvec=matvec)).answers("P", ONES, 2 * ONES)


def test_scipy_operators_of_kpref_pass_with_their_transposes(flow):
    report = verify(SimpleNamespace(P=flow.P, J=flow.J, K=flow.K), flow)
    assert report.passed, str(report)
    offered = {check.operator for check in report.checks if check.verdict == "pass"}
    assert offered == {"P", "P_T", "J", "J_T", "K", "K_T"}


@pytest.mark.parametrize(
    "declared, name",
    [
        ({}, "float64"),
        ({"dtype": "float32"}, "float32"),
        ({"dtype": np.float32}, "float32"),
        ({"dtype": np.dtype("float16")}, "float16"),
        ({"dtype": "torch.bfloat16"}, "bfloat16"),
        ({"dtype": "float32", "arithmetic": "tf32"}, "tf32"),
    ],
)
def test_arithmetic_is_what_the_backend_says(declared, name):
    assert Backend.of(SimpleNamespace(**declared), SHAPE, 5).arithmetic.name == name
    assert Backend.of(SimpleNamespace(**declared), SHAPE, 5, "bfloat16").arithmetic.name == "bfloat16"


def test_unknown_arithmetic_and_another_problem_are_errors():
    with pytest.raises(ValueError, match="int64"):
        Backend.of(SimpleNamespace(dtype="int64"), SHAPE, 5)
    with pytest.raises(ValueError, match="float8"):
        Backend.of(SimpleNamespace(arithmetic="float8"), SHAPE, 5)
    with pytest.raises(ValueError, match=r"states \(2, 3, 4\).*\(2, 3, 5\)"):
        Backend.of(wrap(), (2, 3, 5), 5)


def test_why_an_operator_is_not_offered_is_in_the_report(flow):
    backend = SimpleNamespace(P=flow.P, J=None, not_offered={"J": "no room for it"})
    report = verify(backend, flow)
    assert report.passed
    assert next(check.message for check in report.checks if check.operator == "J") == "no room for it"
    for other in (["J"], "no room", 3, None):  # in no form that is read
        assert wrap(not_offered=other).not_offered == {}


def test_a_backend_is_not_wrapped_twice():
    backend = wrap(P=lambda q: q)
    assert isinstance(backend, LocalBackend)
    assert Backend.of(backend, SHAPE, 5, "float32") is backend
    assert backend.arithmetic.name == "float32"


BACKENDS = """
import os, sys, time
from kpref.oracle import flow_backend

def good(flow):
    print("hello"); os.write(1, b"from C")
    backend = flow_backend(flow)
    backend.NTK, backend.not_offered = None, {"NTK": "too large"}
    return backend

def crashing(flow):
    backend = flow_backend(flow)
    backend.K = lambda q: os.abort()
    return backend

def hanging(flow):
    backend = flow_backend(flow)
    backend.K = lambda q: time.sleep(1000)
    return backend

def forking(flow):
    backend = flow_backend(flow)
    child = os.fork()
    if child == 0:
        time.sleep(1000)
    open("child", "w").write(str(child))
    def last_words(q):
        print("last words", flush=True)
        os._exit(7)
    backend.K = last_words
    return backend

def unknown(flow):
    raise NotImplementedError("only GRUs")
"""


@pytest.fixture
def backends(tmp_path, monkeypatch):
    import kpref

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(next(iter(kpref.__path__))) + "/..")
    (tmp_path / "some_backends.py").write_text(BACKENDS)


def test_a_process_of_its_own_changes_no_answer(flow, backends, capfd):
    own = Backend.of(flow_backend(flow), flow.states.shape, flow.model.n_parameters)
    told = []
    with IsolatedBackend("some_backends:good", flow, tell=told.append) as backend:
        assert backend.offers("states")
        assert not backend.offers("NTK")
        assert backend.not_offered == {"NTK": "too large"}
        np.testing.assert_array_equal(backend.states(), flow.states)
        for operator, space in (("P", "trajectory"), ("J", "parameters")):
            tensor = np.random.default_rng(0).normal(size=backend.shape_of(space))
            np.testing.assert_array_equal(backend(operator, tensor), own(operator, tensor))
            backend.answers(operator, tensor, 2 * tensor)
    assert told == ["states", "P", "P", "J", "J"]
    output = capfd.readouterr()
    assert output.out == ""
    assert "hello" in output.err
    assert "from C" in output.err


@pytest.mark.parametrize(
    "factory, kind, message",
    [("crashing", "crashed", "K ended the process by signal SIGABRT"), ("hanging", "timeout", "within 0.2 seconds")],
)
def test_a_crash_or_a_hang_is_a_fault_and_a_new_process_takes_over(flow, backends, factory, kind, message):
    tensor = np.ones(flow.states.shape)
    with IsolatedBackend(f"some_backends:{factory}", flow) as backend:
        backend._timeout = 0.2 if factory == "hanging" else 60.0  # of this call alone: processes start more slowly
        with pytest.raises(BackendFault, match=message) as caught:
            backend("K", tensor)
        backend._timeout = 60.0
        assert caught.value.kind == kind
        assert caught.value.could_not_run
        np.testing.assert_array_equal(backend("P", tensor), flow.P(tensor))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes fork on POSIX")
def test_a_process_that_the_backend_left_behind_is_not_waited_for(flow, backends, capfd):
    """It has all files of its parent, the pipe of the answers too, and sleeps a quarter of an hour."""
    tensor = np.ones(flow.states.shape)
    with IsolatedBackend("some_backends:forking", flow) as backend:
        np.testing.assert_array_equal(backend("P", tensor), flow.P(tensor))
        with pytest.raises(BackendFault, match="K ended the process with exit status 7"):
            backend("K", tensor)
        np.testing.assert_array_equal(backend("P", tensor), flow.P(tensor))
    assert "last words" in capfd.readouterr().err
    left = int(Path("child").read_text())
    for _ in range(1000):  # a kill takes effect when the process would run again
        if not _runs(left):
            return
        time.sleep(0.01)
    pytest.fail("what the backend left behind still runs")


def _runs(process):
    """Whether there is such a process; one that waits for its end to be noted does not run."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")")[-1].split()[0] not in "ZX"
    except OSError:
        return False


def test_one_process_serves_several_backends(flow, backends):
    tensor = np.ones(flow.states.shape)
    with Worker() as worker:
        for factory in ("good", "crashing", "good"):
            if factory == "crashing":
                with pytest.raises(BackendFault, match="does not know this problem: only GRUs") as caught:
                    IsolatedBackend("some_backends:unknown", flow, worker=worker)
                assert caught.value.kind == "unknown problem"
            backend = IsolatedBackend(f"some_backends:{factory}", flow, worker=worker)
            np.testing.assert_array_equal(backend("P", tensor), flow.P(tensor))
        assert worker.starts == 1
        worker.stop()
        np.testing.assert_array_equal(backend("P", tensor), flow.P(tensor))
        assert worker.starts == 2
