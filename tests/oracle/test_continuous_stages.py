"""`verify` of backends that take the same Runge-Kutta steps: who is accused, of what, and where."""

from types import SimpleNamespace

import numpy as np
import pytest
from apparatus.stage_emulation import StageBackend, correct_stage_backend, field_flow, own_operators
from apparatus.stage_mutants import STAGE_MUTANTS

from kpref import Flow
from kpref.integrate import TABLEAUS
from kpref.models import Lorenz63, Rate
from kpref.oracle import verify
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.backend import Backend
from kpref.oracle.stages import STAGE_OPERATORS
from tests.conftest import PROFILE


def make_flow(method="rk4", input_kind="hold", seed=0):
    """A driven rate network on uneven steps."""
    rng = np.random.default_rng(seed)
    model = Rate(
        rng.normal(size=(4, 2)), rng.normal(size=(4, 4)) / 2, rng.normal(size=4), tau=rng.uniform(0.5, 1.0, size=4)
    )
    times = np.append(0.0, np.cumsum(rng.uniform(0.1, 0.4, size=6)))
    return Flow(
        model, rng.normal(size=(3, 7, 2)), rng.normal(size=(3, 4)), times=times, method=method, input_kind=input_kind
    )


def offered(backend, operator):
    """A backend with its trajectory and one operator."""
    names = [] if operator == "states" else [operator]
    return SimpleNamespace(
        arithmetic=backend.arithmetic, states=backend.states, **{name: getattr(backend, name) for name in names}
    )


@pytest.mark.parametrize("method", ["ralston", "dopri5"])
def test_the_compiled_kernels_are_certified(method):
    report = verify(own_operators(make_flow(method, "cubic")), make_flow(method, "cubic"))
    assert report.passed
    assert {check.operator for check in report.checks} == {"states", *STAGE_OPERATORS}


@pytest.mark.parametrize("seed", range(11) if PROFILE == "thorough" else (1, 6, 7))
def test_correct_backends_pass_in_any_arithmetic(seed):
    method = list(TABLEAUS)[seed]
    flow = field_flow(seed, method)
    name = list(ARITHMETICS)[seed % len(ARITHMETICS)]
    words, backend = correct_stage_backend(flow, ARITHMETICS[name], seed)
    report = verify(backend, flow)
    assert report.passed, f"{words}\n{report}"


def test_parameters_in_blocks_of_several_sizes_are_explained_like_others():
    """Recurrent weights of a GRU in continuous time: two gates side by side, and the candidate's."""
    start = field_flow(1, "rk4", name="gru-continuous")  # of five units
    model = start.model.with_parameters({"bias": np.linspace(-1.0, 1.0, start.model.parameters["bias"].size)})
    flow = Flow(model, start.inputs, start.z0, times=0.1 * np.arange(start.inputs.shape[1]), method="rk4")
    mutant = STAGE_MUTANTS["states: no bias"]
    report = verify(mutant.plant(StageBackend(flow, ARITHMETICS["float64"])), flow)
    check = next(check for check in report.checks if check.identifier == "states.residual")
    assert check.verdict == "defect"
    assert check.guess.split(":")[0] in mutant.classes


@pytest.mark.parametrize(
    "case, name, method, field",
    [
        (1158, "bfloat16", "euler", "hodgkin-huxley"),  # K of spikes
        (264, "float16", "dopri5", "short-term-plasticity"),  # inside a stage
        (1039, "float16", "tsit5", "hodgkin-huxley"),  # slopes, which steps of 0.01 ms make small
    ],
)
def test_what_overflows_on_the_way_is_no_defect(case, name, method, field):
    flow = field_flow(case, method, name=field)
    words, backend = correct_stage_backend(flow, ARITHMETICS[name], case)
    report = verify(backend, flow, seed=case)
    assert not report.defects, f"{words}\n{report}"


def test_where_operands_of_a_gradient_err_by_more_than_they_are_so_does_their_product():
    """A stage far from where the field is linear: its gate is 0.006, or 0.41; the state beside it is off as well."""
    flow = field_flow(2309, "dop853", name="wilson-cowan")
    words, backend = correct_stage_backend(flow, ARITHMETICS["float16"], 2309)
    report = verify(offered(backend, "J_s_T"), flow, seed=2309)
    assert report.passed, f"{words}\n{report}"


@pytest.mark.parametrize("name", list(STAGE_MUTANTS)[:: 1 if PROFILE == "thorough" else 4])
def test_planted_defects_are_caught_and_named(name):
    mutant = STAGE_MUTANTS[name]
    arithmetic = list(ARITHMETICS)[len(name) % 2]  # float64 or float32
    flow = make_flow("rk4", "hold" if "jump" in mutant.classes else "linear")
    wrong = mutant.plant(StageBackend(flow, ARITHMETICS[arithmetic]))
    report = verify(offered(wrong, mutant.operator), flow)
    assert {check.operator for check in report.defects} == {mutant.operator}
    guess = next(check.guess for check in report.defects if check.guess)
    assert guess.partition(":")[0] in mutant.classes


def test_what_is_too_small_everywhere_is_no_missing_step():
    mutant = STAGE_MUTANTS["K_s: weighed"]
    flow = make_flow("rk4", "linear")
    wrong = mutant.plant(StageBackend(flow, ARITHMETICS["float32"]))
    guess = next(check.guess for check in verify(offered(wrong, "K_s"), flow).defects if check.guess)
    assert guess.startswith(("factor", "measure"))


def test_the_place_is_a_step_and_a_stage():
    flow = make_flow()
    backend = own_operators(flow)

    def wrong(g):
        answer = flow.stage.P.T(g).copy()
        answer[1, 3, 2] *= 1.001
        return answer

    backend.P_s_T = wrong
    check = next(c for c in verify(backend, flow).defects if c.identifier == "P_s_T.residual")
    # The costates of a step are read off its last stage, which is right: the first that is wrong itself is stage 2.
    assert (check.first.trial, check.first.step, check.first.stage) == (1, 3, 2)


def test_row_zero_is_looked_at():
    flow = make_flow()
    backend = own_operators(flow)
    backend.states = flow.states + np.eye(7)[0][:, None]
    backend.D = lambda theta: flow.D(theta) + np.eye(7)[0][:, None]
    assert {check.identifier for check in verify(backend, flow).defects} >= {"states.start", "D.start"}


def test_what_has_no_certificate_does_not_pass_in_silence():
    flow = make_flow()
    report = verify(SimpleNamespace(states=flow.states, K=lambda q: q), flow)
    assert not report.passed
    assert [check.identifier for check in report.checks if check.verdict == "could not run"] == ["offered.K"]


def test_what_cannot_be_certified_says_where_to_go():
    dense = Flow(Lorenz63(), None, np.ones((1, 3)), times=np.linspace(0, 0.1, 3))
    with pytest.raises(TypeError, match="verify_convergence"):
        verify(SimpleNamespace(states=dense.states), dense)
    flow = make_flow()
    adaptive = Flow(flow.model, flow.inputs, flow.z0, times=flow.solution.times, method="dopri5", rtol=1e-8)
    with pytest.raises(ValueError, match="t_steps"):
        verify(SimpleNamespace(states=adaptive.states), adaptive)


def test_a_backend_of_another_process_is_refused():
    flow = make_flow()
    own = Backend.of(object(), flow.states.shape, flow.model.n_parameters)
    with pytest.raises(TypeError, match="give the object itself, not a LocalBackend around it"):
        verify(own, flow)


def test_why_an_operator_is_not_offered_is_said():
    flow = make_flow()
    backend = SimpleNamespace(states=flow.states, not_offered={"D": "its kernels have no forward mode"})
    (check,) = (check for check in verify(backend, flow).checks if check.operator == "D")
    assert (check.verdict, check.message) == ("not offered", "its kernels have no forward mode")


@pytest.mark.parametrize("operator", ["P_s", "J_s_T", "D_z0_T"])
def test_every_answer_to_the_same_argument_is_certified(operator):
    flow = make_flow()
    backend = own_operators(flow)
    right, count = getattr(backend, operator) if operator != "D_z0_T" else flow.D_z0.T, iter(range(1, 1000))

    def at_times(tensor):
        return right(tensor) * (1 + 1e-3 * (next(count) == 5))

    setattr(backend, operator, at_times)
    (check,) = verify(backend, flow).defects
    assert check.identifier == f"{operator}.repeated"
    assert check.guess.startswith("not deterministic")
    # Sums in another order are as right.
    setattr(backend, operator, lambda tensor: right(tensor) * (1 + 2.0**-52 * (next(count) % 2)))
    assert verify(backend, flow).passed


def test_the_transpose_of_the_response_to_initial_states_is_one():
    """``<D_z0 a, g> = <a, D_z0^T g>``, row 0 included, of the emulated backend that the oracle is tried on."""
    backend, rng = StageBackend(make_flow("bosh3"), ARITHMETICS["float64"]), np.random.default_rng(3)
    start, g = rng.normal(size=(3, 4)), rng.normal(size=(3, 7, 4))
    left, right = np.vdot(backend.D_z0(start), g), np.vdot(start, backend.D_z0_T(g))
    assert abs(left - right) <= 1e-13 * np.linalg.norm(backend.D_z0(start)) * np.linalg.norm(g)
